"""What a run is made of, opened and checked: before anything trains, and before a file is written.

Owns the checks of a run's arguments against each other, the model and the data; a grid makes them
for all of its cells before the first.
"""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bertft.checkpoints import Checkpoint, fingerprint
from bertft.devices import find_device
from bertft.finetuning.examples import Examples, Source, named
from bertft.finetuning.prefix import Prefix, place_for, states_nbytes
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.tasks import Task, Tokens, task_of
from bertft.models import freeze as freeze_blocks
from bertft.models import truncate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Everything that a run needs.

    Attributes:
        task: what is learned.
        tokens: tokenizer and recipe, whose `max_length` the model takes.
        checkpoint: the pretrained encoder.
        train: training examples, drawn.
        dev: dev sets by name, every n-th example.
        labels: the head's.
        device: where the model runs.
        freeze: number of blocks frozen.
        keep: number of blocks kept.
        cache: GiB of memory and of disk for a frozen prefix; None runs it in every step.
        options: `limit`, `dev_every`, `skip_bad`.
    """

    task: Task
    tokens: Tokens
    checkpoint: Checkpoint
    train: Examples
    dev: Mapping[str, Examples]
    labels: tuple[str, ...]
    device: torch.device
    freeze: int
    keep: int
    cache: tuple[float, float] | None
    options: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        """Settings of the run."""
        return self.tokens.recipe

    @property
    def first(self) -> Examples:
        """The dev set that decides early stopping."""
        return next(iter(self.dev.values()))

    def described(self) -> dict[str, Any]:
        """Return what decides the training, as JSON types: a checkpoint is resumed by the same."""
        return {
            "task": self.task.name,
            **dataclasses.asdict(self.recipe),
            "limit": self.options["limit"],
            "freeze": self.freeze,
            "keep": self.keep,
            # Where nothing is frozen it makes no difference.
            "prefix_cache": self.cache is not None if self.freeze else None,
            "pretrained": fingerprint(self.checkpoint.encoder),
            "labels": list(self.labels),
            "train": self.train.fingerprint,
            # Early stopping looks at it.
            "stopping": self.first.fingerprint if self.recipe.patience is not None else None,
        }

    def rehearse(self, out: Path, *, freeze: Sequence[int], keep: Sequence[int]) -> None:
        """Make the examples' inputs and every cut, as runs would, and find room for each prefix.

        Args:
            out: where the runs will write.
            freeze: numbers of blocks that runs will freeze.
            keep: numbers of blocks that runs will keep.

        Raises:
            ValueError: a model that cannot be cut or frozen there, a `max_length` without room for
                text, or a frozen prefix beyond its budgets.
            OSError: a disk without room for it.
        """
        encoder, blocks = self.checkpoint.encoder, self.checkpoint.blocks
        model = copy.deepcopy(encoder)
        for k in freeze:
            freeze_blocks(model, k)
        for k in sorted(keep, reverse=True):
            truncate(model, k)
        rows = self.task.features(self.tokens, self.train.items, self.labels)
        for k in freeze:
            if self.cache is not None and Prefix(encoder, k, self.recipe.dtype).is_exact():
                place_for(states_nbytes(rows, blocks, k, self.recipe.dtype), out, *self.cache)


def prepare(
    task: str,
    model: "str | Path | PreTrainedModel",
    train: Source,
    dev: Source | Sequence[Source],
    *,
    freeze: int = 0,
    keep: int | None = None,
    limit: int | None = None,
    dev_every: int = 1,
    device: str = "cpu",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    prefix_cache: bool = True,
    cache_memory_gib: float = 2.0,
    cache_disk_gib: float = 20.0,
    skip_bad: bool = False,
    **settings: Any,
) -> Prepared:
    """Open what a run needs, and check it; the arguments are those of `finetune`.

    Raises:
        FileNotFoundError: no such model or file.
        TypeError: no such setting.
        ValueError: data or settings out of range.
        RuntimeError: no such device.
    """
    job = task_of(task)
    if skip_bad and task != "squad":
        raise ValueError(
            f"[finetune] skip_bad must be off for {task}, got True; it is for answers of squad "
            "whose offsets are wrong."
        )
    recipe = job.recipe.with_settings(**settings)
    where = find_device(device, "finetune")
    checkpoint = Checkpoint.open(model, tokenizer=tokenizer)
    recipe = _within(checkpoint, recipe, settings.get("max_length"))
    kept = _require_layers(checkpoint.blocks.depth, freeze, keep)
    train_set = job.read(os.fspath(train), skip_bad=skip_bad).drawn(limit)
    return Prepared(
        task=job,
        tokens=Tokens(checkpoint.tokenizer, recipe),
        checkpoint=checkpoint,
        train=train_set,
        dev={
            name: job.read(path, skip_bad=skip_bad).every(dev_every)
            for name, path in named(dev).items()
        },
        labels=job.labels(train_set),
        device=where,
        freeze=freeze,
        keep=kept,
        cache=(cache_memory_gib, cache_disk_gib) if prefix_cache else None,
        options={"limit": limit, "dev_every": dev_every, "skip_bad": skip_bad},
    )


def _within(checkpoint: Checkpoint, recipe: Recipe, asked: int | None) -> Recipe:
    """The recipe with inputs that the model takes; its default length gives way, an asked one not.

    Raises:
        ValueError: more tokens were asked for.
    """
    most = checkpoint.max_length
    if most is None or recipe.max_length <= most:
        return recipe
    if asked is not None:
        raise ValueError(
            f"[finetune] max_length must be at most the {most} tokens that "
            f"{checkpoint.name!r} takes, got {asked}; pass fewer."
        )
    stride = recipe.doc_stride and min(recipe.doc_stride, most // 4)
    return recipe.with_settings(max_length=most, doc_stride=stride)


def _require_layers(depth: int, frozen: int, keep: int | None) -> int:
    kept = depth if keep is None else keep
    if not 1 <= kept <= depth:
        raise ValueError(
            f"[finetune] keep must be in 1..{depth} for a model of {depth} blocks, got {kept}; "
            "pass fewer."
        )
    if not 0 <= frozen <= kept:
        raise ValueError(
            f"[finetune] freeze must be in 0..{kept} for a model of {kept} blocks, got {frozen}; "
            "pass fewer."
        )
    return kept
