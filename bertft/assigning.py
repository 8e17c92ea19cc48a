"""Tasks set to the probes of encoders: rows in each tokenizer, and what is asked of them.

Owns which sentences and options fit. The encoders are opened, and probed, by `subjects`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from bertft.checkpoints import Checkpoint
from bertft.probing.assignments import Assignment
from bertft.probing.families import Training
from bertft.probing.options import Task, Wanted
from bertft.probing.parts import Part
from bertft.probing.structural_assignments import (
    StructuralAssignment,
    StructuralTraining,
    nearest_sentence,
)
from bertft.probing.structural_parts import StructuralPart
from bertft.probing.structural_tasks import StructuralTask
from bertft.probing.tasks import EdgeTask

if TYPE_CHECKING:
    import torch

Work = Assignment | StructuralAssignment


@dataclass(frozen=True)
class Asked:
    """What is asked of the probes of all tasks.

    Attributes:
        wanted: the layers.
        training: of probes of labels.
        structural: of probes of trees.
        symmetric: names of the tasks whose two spans share a projection.
        seeds: of the probes.
        max_length: tokens of a sentence; None for what the models take.
        control: whether there is a control task.
        code_length: whether the online code length is measured.
        device: where probes are trained.
    """

    wanted: Wanted
    training: Training
    structural: StructuralTraining
    symmetric: Sequence[str]
    seeds: Sequence[int]
    max_length: int | None
    control: bool
    code_length: bool
    device: "torch.device"


def assign(task: Task, asked: Asked, groups: Sequence[Mapping[str, Checkpoint]]) -> list[Work]:
    """Set a task to the probes of each group of encoders with one tokenizer.

    Raises:
        ValueError: a length beyond what a model takes, a rank above the width of a layer, too few
            labels among the targets that are left, or no sentence that is left.
    """
    if isinstance(task, EdgeTask):
        return [_assign_labels(task, asked, sides) for sides in groups]
    return [*_assign_trees(task, asked, groups)]


def bounded(sides: Mapping[str, Checkpoint], max_length: int | None) -> int | None:
    """Return the most tokens of a sentence, special ones included; None for no bound.

    Raises:
        ValueError: a length beyond what a model takes, or of special tokens only.
    """
    first = next(iter(sides.values()))
    limits = [side.max_length for side in sides.values() if side.max_length is not None]
    special = first.tokenizer.num_special_tokens_to_add()
    if max_length is not None and max_length <= special:
        raise ValueError(
            f"[probe] max_length must be more than the {special} special tokens of a sentence, got "
            f"{max_length}; pass more."
        )
    if max_length is not None and limits and max_length > min(limits):
        raise ValueError(
            f"[probe] max_length must be at most what the models take, {min(limits)}, got "
            f"{max_length}; pass less."
        )
    return max_length or min(limits, default=None)


def _assign_labels(task: EdgeTask, asked: Asked, sides: Mapping[str, Checkpoint]) -> Assignment:
    first, bound = next(iter(sides.values())), bounded(sides, asked.max_length)
    training = replace(asked.training, symmetric=task.name in asked.symmetric)
    train, dev = (
        Part.of(task, records, first.tokenizer, bound, training.pooled)
        for records in (task.train, task.dev)
    )
    learned, held_out = (part.labels.bool().any(0) for part in (train, dev))
    if int(learned.sum()) < 2 or not (learned & held_out).any():
        raise ValueError(
            f"[probe] {task.name} must have two labels or more among the training targets that are "
            f"left, and one of them on dev, got {int(learned.sum())} and "
            f"{int((learned & held_out).sum())}; pass other sentences, or a larger "
            "max_length or limit."
        )
    return Assignment(
        task,
        training,
        train,
        dev,
        asked.seeds,
        asked.control,
        asked.code_length,
        list(sides),
        single=asked.wanted.has_single,
        mixed=asked.wanted.has_mixtures,
        device=asked.device,
    )


def _assign_trees(
    task: StructuralTask, asked: Asked, groups: Sequence[Mapping[str, Checkpoint]]
) -> list[StructuralAssignment]:
    """All groups picture one sentence, which every tokenizer keeps."""
    wanted = asked.wanted.alone()
    skipped = {
        "mixtures": wanted != asked.wanted,
        "control task": asked.control,
        "code length": asked.code_length,
    }
    parts = []
    for sides in groups:
        _check_rank(asked.structural.rank, wanted, sides)
        first, bound = next(iter(sides.values())), bounded(sides, asked.max_length)
        parts.append(
            [
                StructuralPart.of(task, trees, first.tokenizer, bound)
                for trees in (task.train, task.dev)
            ]
        )
    common = reduce(np.intersect1d, [dev.kept for _, dev in parts])
    pictured = nearest_sentence(task.dev, common.tolist())
    return [
        StructuralAssignment(
            task,
            asked.structural,
            train,
            dev,
            asked.seeds,
            list(sides),
            pictured,
            [what for what, is_asked in skipped.items() if is_asked],
            asked.device,
        )
        for sides, (train, dev) in zip(groups, parts, strict=True)
    ]


def _check_rank(rank: int, wanted: Wanted, sides: Mapping[str, Checkpoint]) -> None:
    for name, side in sides.items():
        narrowest = min(side.blocks.widths[n] for n in wanted.captured(name, side.blocks.depth))
        if rank > narrowest:
            raise ValueError(
                f"[probe] rank must be at most the {narrowest} features of a word in {name!r}, got "
                f"{rank}; pass less."
            )
