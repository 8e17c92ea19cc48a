"""From what a pass has gathered to the table: every pair of layers, solved in batches.

Values that a measure refuses are NaN, with the reason beside them: a long run does not end in an
exception. Intervals repeat the solution without each group of sentences.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from bertft.blocks import Layer
from bertft.checkpoints import Checkpoint
from bertft.evaluation import (
    Key,
    Outcome,
    PValue,
    RowsOf,
    describe_sample,
    describe_sides,
    evaluate,
    evaluate_geometry,
    evaluate_sample,
    permutation_p_values,
)
from bertft.gathering import Gathered, RowSample
from bertft.moments import Moments
from bertft.planning import FINETUNED, PRETRAINED, Task
from bertft.progress import Bar, Display
from bertft.similarity import GEOMETRY, MEASURES, SAMPLED
from bertft.similarity.geometry import geometry_range
from bertft.similarity.intervals import LEAST_GROUPS, interval
from bertft.similarity.scale import Scale

INFLATED = "inflated"
ROUND_OFF = "no more than rounding may make"
BIASED = "the interval is about the biased value of this n, not centered on the truth"
# Of the geometry of a layer, what depends on how many rows its directions are from.
SPREADS = ("participation_ratio", "effective_rank", "isoscore", "top_share")


class Solved(NamedTuple):
    """The tables of a comparison.

    Attributes:
        table: a row for each corpus, pair of layers and measure.
        geometry: a row for each corpus, layer of a model and quantity.
        replicates: the values without each group, a row for each row of the other two.
        diagnostics: a record for each corpus and number of a layer.
    """

    table: pd.DataFrame
    geometry: pd.DataFrame
    replicates: pd.DataFrame
    diagnostics: list[dict[str, Any]]


class _Found(NamedTuple):
    """Everything about one corpus, by what it is of."""

    values: dict[Key, Outcome]
    without: dict[Key, list[Outcome]]
    sizes: dict[Key, list[int]]
    p_values: dict[Key, PValue]
    sides: dict[tuple[str, Layer], dict[str, Any]]
    sampled_sides: dict[tuple[str, Layer], dict[str, Any]]


def solve(
    gathered: Sequence[Gathered],
    tasks: Sequence[Task],
    sides: Mapping[str, Checkpoint],
    display: Display,
) -> Solved:
    """Return the tables of the tasks of a pass, and the diagnostics of their layers."""
    table: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    replicates: list[dict[str, Any]] = []
    diagnostics: list[dict[str, Any]] = []
    of_base: set[tuple[str, Key]] = set()
    for task, kept in zip(tasks, gathered, strict=True):
        of_task = {role: sides[place] for role, place in task.sides.items()}
        found = _find(kept, task, display)
        for key in found.values:
            if key[1] is None and (task.name, key) in of_base:
                continue  # the base has one geometry, whatever it is compared with
            of_base.add((task.name, key))
            row = _row(key, found, task, kept, of_task)
            (layers if key[2] in GEOMETRY else table).append(row)
            if key in found.without:
                replicates.append(_replicates_row(row, found.without[key], found.sizes[key]))
        several = {FINETUNED: of_task[FINETUNED].name} if len(sides) > 2 else {}
        diagnostics += ({**several, **record} for record in _records(task.name, found.sides))
    counts = dict.fromkeys(("rank_pretrained", "rank_finetuned", "p_value_n"), "Int64")
    return Solved(
        pd.DataFrame(table).astype(counts),
        pd.DataFrame(layers),
        pd.DataFrame(replicates),
        diagnostics,
    )


def joined(parts: Sequence[Solved]) -> Solved:
    """Return the tables of all passes."""
    table, geometry, replicates = (
        pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in ("table", "geometry", "replicates")
    )
    return Solved(table, geometry, replicates, [of for part in parts for of in part.diagnostics])


def _find(kept: Gathered, task: Task, display: Display) -> _Found:
    """Everything about a corpus, each part with a bar of its own."""
    pairs, sample = len(task.pairs), kept.sample
    rounds = 1 + max(0, len(task.bounds) - 1)
    with display.bar(f"{task.key}: solving", rounds * pairs, "pairs") as bar:
        found = _of_sums(kept, task, bar)
    if sample is None:
        return found
    rounds *= len(task.sampled)
    with display.bar(f"{task.key}: comparing the sample", rounds * pairs, "pairs") as bar:
        found = _with_sample(found, sample, kept.moments, task, bar)
    tested = pairs if task.options.permutations else 0
    with display.bar(f"{task.key}: permutations", tested, "pairs") as bar:
        return found._replace(p_values=permutation_p_values(sample.rows, task, bar))


def _of_sums(kept: Gathered, task: Task, bar: Bar) -> _Found:
    moments = kept.moments
    values = {**evaluate(moments, task, bar), **evaluate_geometry(moments, task)}
    sides = describe_sides(moments, task)
    for row_map in moments.row_maps:  # what was solved takes half as much room as the sums
        moments.under(row_map).forget()
    without = _by_key(_without_groups(kept, task, bar))
    sizes = dict.fromkeys(without, kept.groups.sizes if kept.groups is not None else [])
    return _Found(values, without, sizes, {}, sides, sides)


def _with_sample(
    found: _Found, sample: RowSample, moments: Moments, task: Task, bar: Bar
) -> _Found:
    """What was found of the sums, and the measures of a sample."""
    values = evaluate_sample(sample.rows.__getitem__, task, bar)
    of_groups = _rows_without_groups(sample, task)
    without = _by_key(evaluate_sample(rows, task, bar) for rows in of_groups)
    drawn = [size for size in sample.sizes(task.bounds) if size] if without else []
    sampled_sides = found.sides
    if task.sampled and len(sample.numbers) < moments.n:
        sampled_sides = describe_sample(sample.rows, moments.row_maps[0], task)
    return found._replace(
        values=found.values | values,
        without=found.without | without,
        sizes=found.sizes | dict.fromkeys(without, drawn),
        sampled_sides=sampled_sides,
    )


def _by_key(rounds: Iterable[dict[Key, Outcome]]) -> dict[Key, list[Outcome]]:
    """The values of all rounds for each key."""
    found: dict[Key, list[Outcome]] = defaultdict(list)
    for values in rounds:
        for key, outcome in values.items():
            found[key].append(outcome)
    return dict(found)


def _without_groups(kept: Gathered, task: Task, bar: Bar) -> Iterator[dict[Key, Outcome]]:
    """All values without each group, from the sums of what is left."""
    for part in kept.groups or ():
        rest = kept.moments - part
        del part  # at all pairs of BERT-base, sums are gigabytes
        values = evaluate(rest, task, bar, with_scale=False)
        found = {**values, **evaluate_geometry(rest, task)}
        del rest
        yield found


def _rows_without_groups(sample: RowSample, task: Task) -> Iterator[RowsOf]:
    """The sample without each group that it has rows of, if there are groups; a side at a time."""
    sizes = sample.sizes(task.bounds) if task.bounds and task.sampled else []
    for stop, size in zip(accumulate(sizes), sizes, strict=True):
        if size:
            yield partial(_rows_without, sample, stop - size, stop)


def _rows_without(sample: RowSample, start: int, stop: int, side: str) -> Tensor:
    rows = sample.rows[side]
    return torch.cat([rows[:start], rows[stop:]])


def _row(
    key: Key, found: _Found, task: Task, kept: Gathered, sides: Mapping[str, Checkpoint]
) -> dict[str, Any]:
    """A row of the table of pairs, or of that of layers."""
    before, after, name = key
    outcome = found.values[key]
    low, high = _interval(key, found)
    of_sample = name in SAMPLED and kept.sample is not None
    n = len(kept.sample.numbers) if of_sample and kept.sample is not None else kept.moments.n
    if name in GEOMETRY:
        role, layer = (PRETRAINED, before) if before is not None else (FINETUNED, after)
        assert layer is not None
        return {
            "model": sides[role].name,
            "role": role,
            "corpus": task.name,
            "site": layer.site,
            "layer": layer.number,
            "measure": name,
            "value": outcome.value,
            "low": low,
            "high": high,
            "n": n,
            "note": "; ".join(_notes(name, outcome, found.without.get(key), low)),
        }
    assert before is not None
    assert after is not None
    described = found.sampled_sides if of_sample else found.sides
    own, other = described[PRETRAINED, before], described[FINETUNED, after]
    row = {
        "pretrained": sides[PRETRAINED].name,
        "finetuned": sides[FINETUNED].name,
        "corpus": task.name,
        "site": before.site,
        "pretrained_layer": before.number,
        "finetuned_layer": after.number,
        "measure": name,
        "value": outcome.value,
        "low": low,
        "high": high,
        "n": n,
        "n_per_d": n / max(own["columns"], other["columns"]),
    }
    for quantity in ("rank", "condition", "left_out"):
        prefix = "leading_" if name == "svcca" else ""
        for role, side in ((PRETRAINED, own), (FINETUNED, other)):
            row[f"{quantity}_{role}"] = side.get(prefix + quantity, math.nan)
    row["chance"] = outcome.chance
    row["unchanged"] = outcome.unchanged
    notes = list(_notes(name, outcome, found.without.get(key), low))
    for role, layer, side in ((PRETRAINED, before, own), (FINETUNED, after, other)):
        if side.get("is_round_off") and not math.isnan(outcome.value):
            notes.append(f"rows of {role} layer {layer} vary by {ROUND_OFF}")
    tested = found.p_values.get(key, PValue())
    row["p_value"], row["p_value_n"] = tested.value, tested.n
    if tested.note and not math.isnan(outcome.value):
        notes.append(f"no p-value: {tested.note}")
    row["note"] = "; ".join(notes)
    return row


def _interval(key: Key, found: _Found) -> tuple[float, float]:
    """The ends of an interval, which no value outside of the measure's range belongs to."""
    if key not in found.without or _trouble(found.values[key], found.without[key]):
        return math.nan, math.nan
    without = [outcome.value for outcome in found.without[key]]
    estimate = interval(found.values[key].value, without, found.sizes[key])
    least, largest = _range(key, found)
    return max(estimate.low, least), min(estimate.high, largest)


def _range(key: Key, found: _Found) -> tuple[float, float]:
    before, after, name = key
    measure: Scale | None = MEASURES.get(name) or SAMPLED.get(name)
    if measure is not None:
        return measure.low, measure.high
    [columns] = (
        found.sides[role, layer]["columns"]
        for role, layer in ((PRETRAINED, before), (FINETUNED, after))
        if layer is not None
    )
    return geometry_range(name, columns)


def _trouble(whole: Outcome, without: Sequence[Outcome]) -> str:
    """Why there is no interval, or nothing."""
    if math.isnan(whole.value):
        return "there is no value"
    if len(without) < LEAST_GROUPS:
        return f"the sample has rows of {len(without)} groups only"
    missing = [outcome for outcome in without if math.isnan(outcome.value)]
    if missing:
        of = f"{len(missing)} of {len(without)}"
        return f"no value without a group, {of} times, the first since {missing[0].note}"
    return ""


def _notes(
    name: str, outcome: Outcome, without: Sequence[Outcome] | None, low: float
) -> Iterator[str]:
    measure: Scale | None = MEASURES.get(name) or SAMPLED.get(name)
    if outcome.note:
        yield outcome.note
    if measure is not None and measure.is_inflated(outcome.chance):
        yield f"{INFLATED}: unrelated rows give {outcome.chance:.3f} on average"
    if measure is not None and outcome.unchanged < measure.unchanged:
        yield f"with this ridge an unchanged layer gives {outcome.unchanged:.3f}"
    if without is not None and not math.isnan(outcome.value) and _trouble(outcome, without):
        yield f"no interval: {_trouble(outcome, without)}"
    if (name in SPREADS or (measure is not None and measure.is_biased)) and not math.isnan(low):
        yield BIASED


def _replicates_row(
    row: dict[str, Any], without: Sequence[Outcome], sizes: Sequence[int]
) -> dict[str, Any]:
    named = ["model", "role", "finetuned", "corpus", "site", "layer"]
    named += ["pretrained_layer", "finetuned_layer", "measure"]
    key = {name: row[name] for name in named if name in row}
    return {**key, "without": [outcome.value for outcome in without], "sizes": list(sizes)}


def _records(
    corpus: str, sides: Mapping[tuple[str, Layer], Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A record for each number of a layer, with what is known of it in both models."""
    for layer in dict.fromkeys(layer for _, layer in sides):
        found = {"corpus": corpus, "site": layer.site, "layer": layer.number}
        for role in (PRETRAINED, FINETUNED):
            for name, value in sides.get((role, layer), {}).items():
                if name in ("constant_columns", "rank", "condition", "left_out"):
                    found[f"{name}_{role}"] = value
        yield found
