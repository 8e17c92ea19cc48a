"""One pass over a corpus: both encoders on every batch, rows into sums as layers appear."""

import time
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from bertft.blocks import Layer
from bertft.capture import RowBlock, capture
from bertft.checkpoints import Checkpoint
from bertft.gathering import Gathered, RowSample, SpooledGroups, SummedGroups
from bertft.moments import BLOCK_ROWS, Moments
from bertft.planning import Task
from bertft.progress import Display
from bertft.rows import Batch, Encoded, batches, pad


def side_name(role: str, layer: Layer) -> str:
    """Return the name that a layer of a model has among the sides of the moments.

    >>> side_name("pretrained", Layer(3)), side_name("finetuned", Layer(3, "mlp"))
    ('pretrained.3', 'finetuned.3.mlp')
    """
    name = f"{role}.{layer.number}"
    return name if layer.site == "output" else f"{name}.{layer.site}"


class Sink(Protocol):
    """Takes rows of every side, and their numbers in the corpus."""

    def add(self, rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        """Take rows; the tensors are overwritten afterwards."""


def stream(
    task: Task,
    sides: Mapping[str, Checkpoint],
    batch_size: int,
    backend: str | None,
    display: Display,
) -> Gathered:
    """Return the sums of all layers and of the pairs of a task, and what else it asks for.

    Holds one block of rows for each layer and model, whatever the size of the corpus, and the rows
    of a sample.

    Raises:
        ValueError: an activation that is not finite, or a zero row under a cosine kernel.
    """
    first = next(iter(sides.values()))
    dtype = torch.float64 if first.encoder.dtype == torch.float64 else torch.float32
    moments = _empty_moments(task, sides)
    groups = _empty_groups(task, moments, dtype, backend)
    summed = isinstance(groups, SummedGroups)
    sample = (
        RowSample(moments.widths, task.rows.n, task.options.sample, task.options.seed, dtype)
        if task.needs_sample
        else None
    )
    sinks: list[Sink] = [sink for sink in (groups, sample) if sink is not None]
    if not summed:
        sinks.append(_Sums(moments, backend))

    def hand_on(rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        try:
            for sink in sinks:
                sink.add(rows, numbers)
        except ValueError as error:
            names = " and ".join(f"{role} {side.name!r}" for role, side in sides.items())
            error.add_note(f"(rows of {task.name!r}, longest texts first; {names})")
            raise

    parts = batches(task.rows, batch_size, BLOCK_ROWS)
    largest = max(sum(len(text.starts) for text in part) for part in parts)
    capacity = min(task.rows.n, max(task.block_rows, largest))
    block = RowBlock(moments.widths, capacity, dtype, hand_on, backend)
    display.note(task.plan(moments.nbytes))
    _run_all(parts, task, sides, block, display)
    if isinstance(groups, SummedGroups):
        own = list(groups)
        moments = sum(own[1:], own[0])
    return Gathered(moments, groups, sample)


class _Sums:
    """The sums of all rows as a sink."""

    def __init__(self, moments: Moments, backend: str | None) -> None:
        self._moments, self._backend = moments, backend

    def add(self, rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        self._moments.update(rows, backend=self._backend)


def _empty_moments(task: Task, sides: Mapping[str, Checkpoint]) -> Moments:
    widths = {
        side_name(role, layer): side.blocks.width(layer)
        for role, side in sides.items()
        for layer in task.layers(role)
    }
    first, second = sides
    pairs = [(side_name(first, a), side_name(second, b)) for a, b in task.pairs]
    return Moments(widths, pairs, task.row_maps)


def _empty_groups(
    task: Task, template: Moments, dtype: torch.dtype, backend: str | None
) -> SummedGroups | SpooledGroups | None:
    if task.storage == "sums":
        return SummedGroups(template, task.bounds, backend)
    if task.storage == "rows":
        return SpooledGroups(template, task.bounds, dtype, backend)
    return None


def _run_all(
    parts: list[list[Encoded]],
    task: Task,
    sides: Mapping[str, Checkpoint],
    block: RowBlock,
    display: Display,
) -> None:
    # A batch of middling length first: its time per token stands for the others'.
    parts.insert(0, parts.pop(len(parts) // 2))
    pad_id = next(iter(sides.values())).pad_id
    with display.bar(task.name, task.rows.tokens, "tokens") as bar:
        for number, part in enumerate(parts):
            started = time.perf_counter()
            batch = pad(part, pad_id)
            _run(batch, number, task, sides, block)
            done = int(batch.mask.sum())
            if number == 0:
                seconds = (time.perf_counter() - started) * task.rows.tokens / done
                display.note(f"{task.name}: about {seconds:,.0f} s, by the first batch")
            bar.advance(done)
    block.flush()


def _run(
    batch: Batch, number: int, task: Task, sides: Mapping[str, Checkpoint], block: RowBlock
) -> None:
    block.open(batch)
    for role, side in sides.items():

        def receive(
            layer: Layer, hidden: Tensor, role: str = role, side: Checkpoint = side
        ) -> None:
            if not block.receive(side_name(role, layer), hidden):
                raise ValueError(
                    f"[compare] activations must be finite, got NaN or infinity in layer {layer} "
                    f"of the {role} model {side.name!r}, batch {number} of {task.name!r}; check "
                    "its weights, or use float32."
                )

        wanted = task.layers(role)
        capture(side.encoder, side.blocks, batch.ids, batch.mask, receive, wanted)
    block.close()
