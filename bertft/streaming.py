"""One pass over a corpus: both encoders on every batch, rows into sums as layers appear."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from bertft.blocks import Layer
from bertft.capture import RowBlock, capture
from bertft.checkpoints import Checkpoint
from bertft.gathering import Gathered, RowSample, SpooledGroups, SummedGroups, no_fault
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

    def settle(self) -> None:
        """Wait for what was added, and refuse what could not be."""


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
        RowSample(
            moments.widths, task.rows.n, task.options.sample, task.options.seed, dtype, task.device
        )
        if task.needs_sample
        else None
    )
    sinks: list[Sink] = [sink for sink in (groups, sample) if sink is not None]
    if not summed:
        sinks.append(_Sums(moments, backend))

    def told(error: ValueError) -> ValueError:
        names = " and ".join(f"{role} {side.name!r}" for role, side in sides.items())
        error.add_note(f"(rows of {task.name!r}, longest texts first; {names})")
        return error

    def hand_on(rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        try:
            for sink in sinks:
                sink.add(rows, numbers)
        except ValueError as error:
            raise told(error) from None

    parts = batches(task.rows, batch_size, BLOCK_ROWS)
    largest = max(sum(len(text.starts) for text in part) for part in parts)
    capacity = min(task.rows.n, max(task.block_rows, largest))
    block = RowBlock(moments.widths, capacity, dtype, hand_on, backend, task.device)
    display.note(task.plan(moments.nbytes))
    _run_all(parts, task, sides, block, display)
    try:
        for sink in sinks:
            sink.settle()
    except ValueError as error:
        raise told(error) from None
    if isinstance(groups, SummedGroups):
        own = list(groups)
        moments = sum(own[1:], own[0])
    return Gathered(moments.to("cpu"), groups, sample)


class _Sums:
    """The sums of all rows as a sink."""

    def __init__(self, moments: Moments, backend: str | None) -> None:
        self._moments, self._backend = moments, backend
        self._fault = no_fault(moments.device)

    def add(self, rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        self._moments.update(rows, backend=self._backend, fault=self._fault)

    def settle(self) -> None:
        self._moments.require_usable(self._fault)


class _FiniteRows:
    """Raises for the first layer that is not finite: at once on the CPU, a batch later on a GPU.

    What a GPU found is fetched when a batch ends and read when the next one does, so that neither
    waits for the other.
    """

    def __init__(self, refuse: Callable[[str, Layer, int], ValueError]) -> None:
        self._refuse = refuse
        self._layers: list[tuple[str, Layer, int]] = []
        self._found: list[Tensor] = []
        self._fetched: tuple[list[tuple[str, Layer, int]], Tensor, torch.cuda.Event] | None = None

    def expect(self, finite: Tensor, role: str, layer: Layer, batch: int) -> None:
        """Note whether the rows of a layer are finite."""
        if finite.is_cuda:
            self._layers.append((role, layer, batch))
            self._found.append(finite)
        elif not finite:
            raise self._refuse(role, layer, batch)

    def end_batch(self) -> None:
        """Read what was fetched before, and fetch what was noted since."""
        self._read()
        if self._found:
            found = torch.stack(self._found)
            fetched = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            fetched.copy_(found, non_blocking=True)
            event = torch.cuda.current_stream(found.device).record_event()
            self._fetched = self._layers, fetched, event
            self._layers, self._found = [], []

    def end(self) -> None:
        """Read everything."""
        self.end_batch()
        self._read()

    def _read(self) -> None:
        if self._fetched is not None:
            layers, found, event = self._fetched
            event.synchronize()
            self._fetched = None
            if not found.all():
                raise self._refuse(*layers[int((~found).nonzero()[0])])


def _empty_moments(task: Task, sides: Mapping[str, Checkpoint]) -> Moments:
    widths = {
        side_name(role, layer): side.blocks.width(layer)
        for role, side in sides.items()
        for layer in task.layers(role)
    }
    first, second = sides
    pairs = [(side_name(first, a), side_name(second, b)) for a, b in task.pairs]
    return Moments(widths, pairs, task.row_maps, task.device)


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

    def refuse(role: str, layer: Layer, number: int) -> ValueError:
        return ValueError(
            f"[compare] activations must be finite, got NaN or infinity in layer {layer} of the "
            f"{role} model {sides[role].name!r}, batch {number} of {task.name!r}; check its "
            "weights, or use float32."
        )

    finite = _FiniteRows(refuse)
    with display.bar(task.name, task.rows.tokens, "tokens") as bar:
        for number, part in enumerate(parts):
            started = time.perf_counter()
            batch = pad(part, pad_id)
            _run(batch, number, task, sides, block, finite)
            done = int(batch.mask.sum())
            if number == 0:
                finite.end()  # a GPU has only been told what to do
                seconds = (time.perf_counter() - started) * task.rows.tokens / done
                display.note(f"{task.name}: about {seconds:,.0f} s, by the first batch")
            bar.advance(done)
    finite.end()
    block.finish()


def _run(
    batch: Batch,
    number: int,
    task: Task,
    sides: Mapping[str, Checkpoint],
    block: RowBlock,
    finite: _FiniteRows,
) -> None:
    block.open(batch)
    for role, side in sides.items():

        def receive(layer: Layer, hidden: Tensor, role: str = role) -> None:
            finite.expect(block.receive(side_name(role, layer), hidden), role, layer, number)

        wanted = task.layers(role)
        capture(side.encoder, side.blocks, batch.ids, batch.mask, receive, wanted)
    block.close()
    finite.end_batch()
