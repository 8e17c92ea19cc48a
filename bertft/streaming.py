"""One pass over a corpus: both encoders on every batch, rows into moments as layers appear."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bertft.capture import RowBlock, capture
from bertft.checkpoints import Checkpoint
from bertft.moments import BLOCK_ROWS, Moments
from bertft.planning import Task
from bertft.progress import Display
from bertft.rows import Batch, batches, pad

Pairs = Literal["same", "all"]
PRETRAINED, FINETUNED = "pretrained", "finetuned"


def side_name(role: str, layer: int) -> str:
    """Return the name that a layer of a model has among the sides of the moments."""
    return f"{role}.{layer}"


def stream(
    task: Task,
    sides: Mapping[str, Checkpoint],
    batch_size: int,
    backend: str | None,
    display: Display,
    pairs: Pairs = "same",
) -> Moments:
    """Return the sums of all layers, and of pairs of layers, over a corpus.

    Holds one block of rows for each layer and model, whatever the size of the corpus. `pairs` are
    the layers of the same number, or "all" pairs of a layer of each model.

    Raises:
        ValueError: an activation that is not finite, or a zero row under a cosine kernel.
    """
    moments = _empty_moments(task, sides, pairs)
    first = next(iter(sides.values()))
    parts = batches(task.rows, batch_size, BLOCK_ROWS)
    # A batch of middling length first: its time per token stands for the others'.
    parts.insert(0, parts.pop(len(parts) // 2))
    largest = max(sum(len(text.starts) for text in part) for part in parts)
    block = RowBlock(
        moments.widths,
        min(task.rows.n, max(BLOCK_ROWS, largest)),
        torch.float64 if first.encoder.dtype == torch.float64 else torch.float32,
        partial(_add, moments, task, sides, backend),
        backend,
    )
    display.note(task.plan(first.blocks.depth, moments.nbytes))
    with display.bar(task.name, task.rows.tokens, "tokens") as bar:
        for number, part in enumerate(parts):
            started = time.perf_counter()
            batch = pad(part, first.pad_id)
            _run(batch, number, sides, block, task.name)
            done = int(batch.mask.sum())
            if number == 0:
                seconds = (time.perf_counter() - started) * task.rows.tokens / done
                display.note(f"{task.name}: about {seconds:,.0f} s, by the first batch")
            bar.advance(done)
    block.flush()
    return moments


def _add(
    moments: Moments,
    task: Task,
    sides: Mapping[str, Checkpoint],
    backend: str | None,
    rows: Mapping[str, Tensor],
) -> None:
    try:
        moments.update(rows, backend=backend)
    except ValueError as error:
        names = " and ".join(f"{role} {side.name!r}" for role, side in sides.items())
        error.add_note(f"(rows after {moments.n} of {task.name!r}, longest texts first; {names})")
        raise


def _empty_moments(task: Task, sides: Mapping[str, Checkpoint], which: Pairs) -> Moments:
    widths = {
        side_name(role, layer): width
        for role, side in sides.items()
        for layer, width in enumerate(side.blocks.widths)
    }
    first, second = sides
    layers = range(sides[first].blocks.depth + 1)
    pairs = [
        (side_name(first, a), side_name(second, b))
        for a in layers
        for b in (layers if which == "all" else [a])
    ]
    return Moments(widths, pairs, task.row_maps)


def _run(
    batch: Batch, number: int, sides: Mapping[str, Checkpoint], block: RowBlock, corpus: str
) -> None:
    block.open(batch)
    for role, side in sides.items():

        def receive(layer: int, hidden: Tensor, role: str = role, side: Checkpoint = side) -> None:
            if not block.receive(side_name(role, layer), hidden):
                raise ValueError(
                    f"[compare] activations must be finite, got NaN or infinity in layer {layer} "
                    f"of the {role} model {side.name!r}, batch {number} of {corpus!r}; check its "
                    "weights, or use float32."
                )

        capture(side.encoder, side.blocks, batch.ids, batch.mask, receive)
    block.close()
