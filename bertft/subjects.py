"""The encoders that are probed, and one of them at a time: what `probe` is made of.

Owns the names of controls, which models share a pass, and where features are kept.
"""

import copy
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bertft.assigning import Work
from bertft.blocks import find_blocks
from bertft.checkpoints import Checkpoint, same_rules
from bertft.features import DTYPES, Features
from bertft.models import randomize
from bertft.probing.assignments import Assignment, Row
from bertft.probing.options import Wanted, split_names
from bertft.probing.scores import Scored
from bertft.probing.structural_assignments import StructuralAssignment, Structure
from bertft.progress import Display, counted
from bertft.recording import GIB, feature_bytes, record, require_store
from bertft.traces import inference

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RANDOMIZED, CONTROL_TASK = "randomized", "control-task"
CONTROLS = (RANDOMIZED, CONTROL_TASK)
# Metrics that divide by what there is to count.
RATIOS = ("micro_f1", "accuracy")


class Found(NamedTuple):
    """What an encoder's probes found in a task.

    Attributes:
        rows: of the table.
        counts: what scores are made of, by kind of probe and layer.
        notes: what the user should know.
        picture: one sentence as structural probes see it.
    """

    rows: list[Row]
    counts: Mapping[tuple[str, str], Scored]
    notes: list[str]
    picture: dict[str, Any] | None = None


def controls_of(controls: str | Sequence[str]) -> list[str]:
    """Return the names of the controls, each once.

    Raises:
        ValueError: an unknown name.
    """
    names = [name for name in split_names(controls) if name]
    if unknown := [name for name in names if name not in CONTROLS]:
        raise ValueError(
            f"[probe] controls must be among {', '.join(CONTROLS)}, got {', '.join(unknown)}; "
            "check the spelling."
        )
    return list(dict.fromkeys(names))


def check_amounts(batch_size: int, memory_gib: float, features_dtype: str) -> None:
    """Refuse settings of the pass that are out of range.

    Raises:
        ValueError: one of them.
    """
    if batch_size < 1 or not memory_gib >= 0:
        raise ValueError(
            f"[probe] batch_size must be at least 1 and memory_gib at least 0, got {batch_size} "
            f"and {memory_gib}; leave them out for the defaults."
        )
    if features_dtype not in DTYPES:
        raise ValueError(
            f"[probe] features_dtype must be one of {', '.join(DTYPES)}, got {features_dtype!r}; "
            "pass its name."
        )


def open_subjects(
    models: "str | Path | PreTrainedModel | Sequence[str | Path | PreTrainedModel]",
    *,
    randomized: bool,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Checkpoint]:
    """Open the encoders under their names, the randomized control of the first one last.

    Raises:
        FileNotFoundError: no such model.
        ValueError: none, two of one name, or a checkpoint that cannot be read.
    """
    single = isinstance(models, str) or not isinstance(models, Sequence)
    several = cast("list[str | Path | PreTrainedModel]", [models] if single else models)
    opened = [Checkpoint.open(model, tokenizer=tokenizer) for model in several]
    names = [checkpoint.name for checkpoint in opened]
    if not opened or len({*names, RANDOMIZED}) <= len(names):
        raise ValueError(
            f"[probe] models must be at least one, with different names and none called "
            f"{RANDOMIZED!r}, got {names}; pass each once, or give a model in memory another "
            "name_or_path."
        )
    if randomized:
        first = opened[0]
        encoder = copy.deepcopy(first.encoder)
        randomize(encoder, seed=0)
        opened.append(replace(first, name=RANDOMIZED, encoder=encoder, blocks=find_blocks(encoder)))
    return {checkpoint.name: checkpoint for checkpoint in opened}


def by_tokens(subjects: Mapping[str, Checkpoint]) -> list[dict[str, Checkpoint]]:
    """Return groups of encoders whose tokenizers are alike: they share a pass."""
    groups: list[dict[str, Checkpoint]] = []
    for name, subject in subjects.items():
        for group in groups:
            if same_rules(next(iter(group.values())), subject):
                group[name] = subject
                break
        else:
            groups.append({name: subject})
    return groups


def layers_for(work: Work, wanted: Wanted) -> Wanted:
    """Return the layers that a task's probes read: trees have no mixtures."""
    return wanted.alone() if isinstance(work, StructuralAssignment) else wanted


def store_of(features: str | os.PathLike[str] | None, work: Work, number: int) -> Path | None:
    """Return where the features of a task are kept for the models of one of several tokenizers."""
    if features is None:
        return None
    folder = Path(features) if number == 1 else Path(features) / f"tokenizer-{number}"
    return folder / f"{work.task.name}-{work.row_kind}"


def require_stores(
    works: Sequence[Sequence[Work]],
    groups: Sequence[Mapping[str, Checkpoint]],
    wanted: Wanted,
    features: str | os.PathLike[str] | None,
    dtype: str,
) -> None:
    """Refuse kept features of other things, or damaged ones, before any probe is trained.

    Raises:
        ValueError: the first of them.
    """
    for of_task in works:
        for number, (work, sides) in enumerate(zip(of_task, groups, strict=True), start=1):
            store = store_of(features, work, number)
            for name, part in (("train", work.train), ("dev", work.dev)):
                if store is not None:
                    layers = _captured_layers(sides, layers_for(work, wanted))
                    require_store(store / name, sides, part.rows, layers=layers, dtype=dtype)


def _captured_layers(sides: Mapping[str, Checkpoint], wanted: Wanted) -> dict[str, list[int]]:
    return {name: wanted.captured(name, side.blocks.depth) for name, side in sides.items()}


@contextmanager
def captured(
    work: Work,
    sides: Mapping[str, Checkpoint],
    wanted: Wanted,
    folder: Path | None,
    dtype: str,
    memory_gib: float,
    batch_size: int,
    device: "torch.device | None",
    display: Display,
) -> Iterator[tuple[Features, Features]]:
    """Yield the features of an assignment's training and dev rows.

    They are in a folder that stays, or else in memory, or in a folder that goes with the block
    where they need more than `memory_gib`.
    """
    layers = _captured_layers(sides, wanted)
    parts = {"train": work.train.rows, "dev": work.dev.rows}
    need = sum(feature_bytes(sides, rows, layers, dtype) for rows in parts.values()) / GIB
    with ExitStack() as stack:
        if folder is None and need > memory_gib:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bertft-")))
        where = f"in {folder}" if folder is not None else "in memory"
        display.note(f"{work.plan}; features {need:,.2f} GiB {where}")
        with inference(*(side.encoder for side in sides.values()), device=device):
            train, dev = (
                record(
                    sides,
                    rows,
                    layers=layers,
                    folder=folder / name if folder is not None else None,
                    dtype=dtype,
                    batch_size=batch_size,
                    memory_gib=memory_gib,
                    display=display,
                )
                for name, rows in parts.items()
            )
        yield train, dev


def probe_subject(
    work: Work,
    name: str,
    subject: Checkpoint,
    wanted: Wanted,
    features: tuple[Features, Features],
    display: Display,
) -> Found:
    """Train and score an encoder's probes."""
    title = f"{work.task.name}, {name}"
    started = time.perf_counter()
    if isinstance(work, StructuralAssignment):
        found = _probe_trees(work, name, subject, wanted, features, display)
    else:
        found = _probe_labels(work, name, subject, wanted, features, display)
    display.note(f"{title}: {time.perf_counter() - started:,.0f} s")
    return found._replace(rows=[{"model": name, **row} for row in found.rows])


def _probe_labels(
    work: Assignment,
    name: str,
    subject: Checkpoint,
    wanted: Wanted,
    features: tuple[Features, Features],
    display: Display,
) -> Found:
    """Layer by layer, and then the mixtures."""
    depth = subject.blocks.depth
    single, mixtures = wanted.single(name, depth), wanted.mixtures(depth)
    rows: list[Row] = []
    tallies: dict[str, Scored] = {}
    # Layer 0 has two names where "lexical" is asked for beside it.
    names: dict[int, list[str]] = {}
    for layer, number in single.items():
        names.setdefault(number, []).append(layer)
    keys = [(name, number) for number in names]
    steps = len(names) + len(mixtures)
    with display.bar(f"{work.task.name}, {name}", steps, "layers") as bar:
        read_ahead = (part.prefetched(keys) for part in features)
        for layers, train, dev in zip(names.values(), *read_ahead, strict=True):
            found, tally = work.probe_layer(layers[0], train, dev)
            rows += [{**row, "layer": layer} for layer in layers for row in found]
            tallies |= dict.fromkeys(layers, tally)
            bar.advance(1)
        if mixtures:
            both = [[part.rows(name, number) for number in range(depth + 1)] for part in features]
            found, counts = work.probe_mixtures(mixtures, *both)
            rows += found
            tallies |= counts
            bar.advance(len(mixtures))
    kind = work.training.family
    notes = [
        f"{work.task.name}: {metric} of {counted(count, 'probe')} has no value: dev has no label "
        "that counts and none was predicted."
        for metric, count in Counter(
            row["metric"] for row in rows if row["metric"] in RATIOS and math.isnan(row["value"])
        ).items()
    ]
    return Found(rows, {(kind, layer): tally for layer, tally in tallies.items()}, notes)


def _probe_trees(
    work: StructuralAssignment,
    name: str,
    subject: Checkpoint,
    wanted: Wanted,
    features: tuple[Features, Features],
    display: Display,
) -> Found:
    """All layers of one width together."""
    single = wanted.single(name, subject.blocks.depth)
    by_width: dict[int, dict[str, int]] = {}
    for layer, number in single.items():
        by_width.setdefault(subject.blocks.widths[number], {})[layer] = number
    parts: list[Structure] = []
    with display.bar(f"{work.task.name}, {name}", len(single), "layers") as bar:
        for layers in by_width.values():
            numbers = sorted(set(layers.values()))
            places = {layer: numbers.index(number) for layer, number in layers.items()}
            both = [[part.rows(name, number) for number in numbers] for part in features]
            parts.append(work.probe_layers(places, *both))
            bar.advance(len(layers))
    picture = max(parts, key=lambda part: part.uuas).picture
    return Found(
        [row for part in parts for row in part.rows],
        {key: tally for part in parts for key, tally in part.tallies.items()},
        [note for part in parts for note in part.notes],
        None if picture is None else {"model": name} | picture,
    )
