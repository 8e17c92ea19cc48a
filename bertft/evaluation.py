"""The values of every measure, pair of layers and layer, from sums or from a sample of rows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from bertft.blocks import Layer
from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.planning import FINETUNED, PERMUTED_ROWS, PRETRAINED, Task
from bertft.progress import Bar
from bertft.similarity import (
    GEOMETRY,
    MEASURES,
    SAMPLED,
    Sampled,
    factorize,
    geometry,
    permutation_test,
)
from bertft.similarity.arguments import (
    TwoSided,
    constant_columns,
    is_round_off,
    require_finite,
    require_spread,
)
from bertft.similarity.geometry import mean_cosine
from bertft.similarity.measures import THRESHOLD
from bertft.similarity.permutation import Tested
from bertft.similarity.sides import condition, kept_rank, leading_rank, left_out, require_spectra
from bertft.streaming import side_name

Key = tuple[Layer | None, Layer | None, str]
"""Layers of the pretrained and of the fine-tuned model, or one of them alone, and a measure."""

UNDEFINED = (ValueError, torch.linalg.LinAlgError)


class Outcome(NamedTuple):
    """A value, or NaN with the reason; and what unrelated and what equal layers would give."""

    value: float
    chance: float = math.nan
    unchanged: float = math.nan
    note: str = ""


class PValue(NamedTuple):
    """A p-value and the rows that it is of, or NaN with the reason."""

    value: float = math.nan
    n: int | None = None
    note: str = ""


def evaluate(
    moments: Moments, task: Task, bar: Bar, *, with_scale: bool = True
) -> dict[Key, Outcome]:
    """Return the measures of all pairs of layers, each layer factorized once.

    With its scale a value comes beside what unrelated and what equal layers would give.
    """
    found: dict[Key, Outcome] = {}
    some = task.pairs_at_once
    for start in range(0, len(task.pairs), some):
        chunk = task.pairs[start : start + some]
        found |= _evaluate_together(moments, chunk, task, with_scale)
        bar.advance(len(chunk))
    return found


def _evaluate_together(
    moments: Moments, chunk: Sequence[tuple[Layer, Layer]], task: Task, with_scale: bool
) -> dict[Key, Outcome]:
    """The measures of some pairs, whose matrices are held until this returns."""
    pairs = {
        (a, b): moments.pair(side_name(PRETRAINED, a), side_name(FINETUNED, b), copy=False)
        for a, b in chunk
    }
    factorize(list(pairs.values()), task.measures, task.options.ridge)
    return {
        (*key, name): _measured(name, pair, task, with_scale)
        for key, pair in pairs.items()
        for name in task.measures
    }


def _measured(name: str, pair: Moments, task: Task, with_scale: bool) -> Outcome:
    measure, ridge = MEASURES[name], task.options.ridge
    options = {"ridge": ridge} if measure.n_above_d and ridge is not None else {}
    outcome = _outcome(lambda: float(measure.compute(pair, **options)))
    if outcome.note or not with_scale:
        return outcome
    chance = _outcome(lambda: measure.chance(pair, **options))
    unchanged = _outcome(lambda: measure.beside_itself(pair, **options))
    note = chance.note or unchanged.note
    return Outcome(outcome.value, chance.value, unchanged.value, note and f"no scale: {note}")


def _outcome(compute: Callable[[], float]) -> Outcome:
    try:
        return Outcome(compute())
    except UNDEFINED as error:
        return Outcome(math.nan, note=_reason(error))


def _reason(error: Exception) -> str:
    """Why a measure has no value; an error that is not a refusal of ours goes on."""
    if not str(error).startswith("["):
        raise error
    return str(error)


def evaluate_geometry(moments: Moments, task: Task) -> dict[Key, Outcome]:
    """Return the geometry of every layer: the spectrum is of rows as they are, if these are summed.

    Norms are summed with any rows, cosines with unit rows.
    """
    found: dict[Key, Outcome] = {}
    if "raw" in moments.row_maps:
        with suppress(torch.linalg.LinAlgError):  # each layer tells its own trouble below
            require_spectra([_side(moments, *layer) for layer in _layers(task)])
    for role, layer in _layers(task):
        for name, outcome in _geometry_of(moments, side_name(role, layer)).items():
            key = (layer, None, name) if role == PRETRAINED else (None, layer, name)
            found[key] = outcome
    return found


def _geometry_of(moments: Moments, side: str) -> dict[str, Outcome]:
    if "raw" not in moments.row_maps:
        outcomes = {"mean_norm": Outcome(moments.mean_norm(side))}
        if "unit" in moments.row_maps:
            outcomes["mean_cosine"] = Outcome(mean_cosine(moments, side))
        return outcomes
    try:
        outcomes = {name: Outcome(of) for name, of in asdict(geometry(moments, side)).items()}
    except UNDEFINED as error:
        outcomes = {name: Outcome(math.nan, note=_reason(error)) for name in GEOMETRY}
    if "unit" not in moments.row_maps:
        del outcomes["mean_cosine"]
    return outcomes


RowsOf = Callable[[str], Tensor]
"""From the name of a side to its rows."""


def evaluate_sample(rows: RowsOf, task: Task, bar: Bar) -> dict[Key, Outcome]:
    """Return the measures that need rows; what they prepare of a layer is made once."""
    found: dict[Key, Outcome] = {}
    # Among all pairs a layer comes again and again, among those of one number it does not.
    held = None if task.options.pairs == "all" else 1
    for name in task.sampled:
        measure = SAMPLED[name]
        prepare_after = lru_cache(held)(partial(_prepare, measure.prepare, rows, FINETUNED))
        # Pairs come by layers of the first model, one of which is enough to hold.
        before_of: tuple[Layer | None, Any] = None, None
        for a, b in task.pairs:
            if before_of[0] != a:
                before_of = a, _prepare(measure.prepare, rows, PRETRAINED, a)
            outcome = _compared(measure, before_of[1], prepare_after(b))
            found[a, b, name] = outcome
            bar.advance(1)
    return found


def _prepare(prepare: Callable[[Tensor], Any], rows: RowsOf, role: str, layer: Layer) -> Any:
    """What a measure needs of a layer, or the reason why it has none."""
    try:
        return prepare(rows(side_name(role, layer)))
    except UNDEFINED as error:
        return Outcome(math.nan, note=f"{_reason(error)} ({role} layer {layer})")


def _compared(measure: Sampled, before: Any, after: Any) -> Outcome:
    for prepared in (before, after):
        if isinstance(prepared, Outcome):
            return prepared
    outcome = _outcome(lambda: measure.compare(before, after))
    if math.isnan(outcome.value):
        reason = outcome.note or "all pairs of rows of a layer are equally similar"
        return outcome._replace(note=reason)
    chance = measure.chance(before, after) if measure.chance is not None else math.nan
    return outcome._replace(chance=chance, unchanged=measure.unchanged)


def permutation_p_values(rows: Mapping[str, Tensor], task: Task, bar: Bar) -> dict[Key, PValue]:
    """Return the p-values of RSA and CKA on at most 1,000 rows of the sample."""
    found: dict[Key, PValue] = {}
    if not task.options.permutations:
        return found
    total = len(next(iter(rows.values())))
    some = torch.linspace(0, total - 1, min(total, PERMUTED_ROWS)).long()
    tested: tuple[Tested, ...] = get_args(Tested)
    for a, b in task.pairs:
        sides = rows[side_name(PRETRAINED, a)][some], rows[side_name(FINETUNED, b)][some]
        for name in tested:
            if name in task.measures:
                found[a, b, name] = _p_value(*sides, name, task)
        bar.advance(1)
    return found


def _p_value(x: Tensor, y: Tensor, name: Tested, task: Task) -> PValue:
    count, seed = task.options.permutations, task.options.seed
    try:
        tested = permutation_test(x, y, measure=name, permutations=count, seed=seed)
    except UNDEFINED as error:
        return PValue(note=_reason(error))
    return PValue(tested.p_value, len(x))


def describe_sides(moments: Moments, task: Task) -> dict[tuple[str, Layer], dict[str, Any]]:
    """Return columns, kept ranks, condition numbers and the variance left out, of every layer.

    Of rows as they are, or, where these are not summed, of those that are (unit rows for RSA). A
    layer whose sums are of no use has columns only: what its values miss says why.
    """
    return {(role, layer): _described(moments, role, layer) for role, layer in _layers(task)}


def describe_sample(
    rows: Mapping[str, Tensor], row_map: RowMap, task: Task
) -> dict[tuple[str, Layer], dict[str, Any]]:
    """Return the same of the rows of a sample."""
    moments = Moments({side: x.shape[1] for side, x in rows.items()}, [], [row_map])
    moments.update(rows)
    return describe_sides(moments, task)


def _described(moments: Moments, role: str, layer: Layer) -> dict[str, Any]:
    side, row_map = side_name(role, layer), moments.row_maps[0]
    known: dict[str, Any] = {"columns": moments.widths[side]}
    with suppress(*UNDEFINED):
        two = _side(moments, role, layer)
        require_finite(two, side)
        if row_map == "raw":
            constant = constant_columns(two.sums, side, moments.dtype)
            known["constant_columns"] = int(constant.sum())
        require_spread(two, side)
        known["is_round_off"] = is_round_off(two, side)
        require_spectra([two])
        for prefix, rank in (
            ("", kept_rank(two, side)),
            ("leading_", leading_rank(two, side, THRESHOLD)),
        ):
            known[f"{prefix}rank"] = rank
            known[f"{prefix}condition"] = condition(two, side, rank)
            known[f"{prefix}left_out"] = left_out(two, side, rank)
    return known


def _side(moments: Moments, role: str, layer: Layer) -> TwoSided:
    """A layer beside itself."""
    side = side_name(role, layer)
    return TwoSided("describe", moments.under(moments.row_maps[0]), side, side, moments.dtype)


def _layers(task: Task) -> Iterator[tuple[str, Layer]]:
    for role in (PRETRAINED, FINETUNED):
        for layer in task.layers(role):
            yield role, layer
