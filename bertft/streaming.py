"""One pass over a corpus: every encoder on every batch, rows into sums as layers appear."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bertft.blocks import Layer
from bertft.capture import FiniteRows, RowBlock, capture
from bertft.checkpoints import Checkpoint
from bertft.gathering import Gathered, RowSample, SpooledGroups, SummedGroups, no_fault
from bertft.moments import BLOCK_ROWS, Moments
from bertft.planning import Task
from bertft.progress import Display
from bertft.rows import Batch, Encoded, groups_by_length, lengths_of, pad


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
    tasks: Sequence[Task],
    sides: Mapping[str, Checkpoint],
    batch_size: int,
    backend: str | None,
    display: Display,
) -> list[Gathered]:
    """Return the sums of all layers and of the pairs of each task, and what else it asks for.

    Tasks are on the same texts, and share the forward passes. Holds one block of rows for each
    task, layer and model, whatever the size of the corpus, and the rows of a sample.

    Raises:
        ValueError: an activation that is not finite, or a zero row under a cosine kernel.
    """
    inputs = _Inputs(tasks)
    groups = groups_by_length(inputs.lengths, inputs.counts, batch_size, BLOCK_ROWS)
    takers = [
        _Taker(task, views, sides, groups, backend)
        for task, views in zip(tasks, inputs.views, strict=True)
    ]
    for plan in dict.fromkeys(taker.plan for taker in takers):
        display.note(plan)
    # A batch of middling length first: its time per token stands for the others'.
    groups.insert(0, groups.pop(len(groups) // 2))
    tokens = [sum(of_text) for of_text in inputs.lengths]
    total, name = sum(tokens), tasks[0].name
    with ExitStack() as ends, display.bar(name, total, "tokens") as bar:
        # An error frees sums that a GPU may still add to, beside what has their memory next.
        for taker in takers:
            ends.callback(taker.rejoin)
        for number, group in enumerate(groups):
            started = time.perf_counter()
            _run(takers, group, number, sides)
            done = sum(tokens[text] for text in group)
            if number == 0:
                for taker in takers:
                    taker.finite.end()  # a GPU has only been told what to do
                seconds = (time.perf_counter() - started) * total / done
                display.note(f"{name}: about {seconds:,.0f} s, by the first batch")
            bar.advance(done)
    return [taker.finish() for taker in takers]


def _run(
    takers: Sequence["_Taker"], group: Sequence[int], number: int, sides: Mapping[str, Checkpoint]
) -> None:
    """Run every model on a batch, and give its layers to every task that has it."""
    for taker in takers:
        taker.open(group)
    for place, side in sides.items():
        own = [(taker, role) for taker in takers for role in taker.roles_of(place)]
        wanted = {layer for taker, role in own for layer in taker.task.layers(role)}

        def receive(layer: Layer, hidden: Tensor, own: list[tuple[_Taker, str]] = own) -> None:
            for taker, role in own:
                taker.receive(role, layer, hidden, number)

        taker, role = own[0]
        batch = taker.batch(role)
        types = batch.types if side.has_token_types else None
        capture(side.encoder, side.blocks, batch.ids, batch.mask, receive, wanted, types=types)
    for taker in takers:
        taker.close()


class _Inputs:
    """The texts that have rows in any of the tasks, for each task and each way to tokenize them.

    Attributes:
        views: of each task, by role; models with the same tokens share the same list.
        lengths: tokens of each text, in each way to tokenize it.
        counts: most rows that a task has of each text.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        places = sorted({text.place for task in tasks for text in task.rows.texts})
        known = {
            (side, text.place): text
            for task in tasks
            for side, rows in task.views.items()
            for text in rows.texts
        }
        made: dict[int, list[Encoded]] = {}
        for task in tasks:
            for side, rows in task.views.items():
                if id(rows) not in made:
                    own = {text.place: text for text in rows.texts}
                    made[id(rows)] = [
                        own.get(place) or _without_rows(known[side, place]) for place in places
                    ]
        self.views = [
            {role: made[id(task.views[side])] for role, side in task.sides.items()}
            for task in tasks
        ]
        of_sides = {side: made[id(rows)] for task in tasks for side, rows in task.views.items()}
        self.lengths = lengths_of(_distinct(of_sides))
        firsts = [next(iter(views.values())) for views in self.views]
        self.counts = [max(len(text.starts) for text in of) for of in zip(*firsts, strict=True)]


def _without_rows(text: Encoded) -> Encoded:
    return text.only(np.zeros(len(text.starts), bool))


def _distinct(views: Mapping[str, list[Encoded]]) -> list[list[Encoded]]:
    """Each way to tokenize the texts once."""
    return list({id(texts): texts for texts in views.values()}.values())


class _Taker:
    """What becomes of the rows of a task while batches go by.

    Args:
        task: to be done.
        views: its texts, by role.
        sides: the models of the comparison.
        groups: numbers of the texts of each batch.
        backend: of `bertft.ops`.
    """

    def __init__(
        self,
        task: Task,
        views: Mapping[str, list[Encoded]],
        sides: Mapping[str, Checkpoint],
        groups: Sequence[Sequence[int]],
        backend: str | None,
    ) -> None:
        self.task = task
        self._sides = {role: sides[place] for role, place in task.sides.items()}
        first = next(iter(sides.values()))
        dtype = torch.float64 if first.encoder.dtype == torch.float64 else torch.float32
        self._moments = _empty_moments(task, self._sides)
        self._layers = {role: set(task.layers(role)) for role in task.sides}
        self._groups = _empty_groups(task, self._moments, dtype, backend)
        widths, options = self._moments.widths, task.options
        self._sample = (
            RowSample(widths, task.rows.n, options.sample, options.seed, dtype, task.device)
            if task.needs_sample
            else None
        )
        sinks: list[Sink] = [sink for sink in (self._groups, self._sample) if sink is not None]
        if not isinstance(self._groups, SummedGroups):
            sinks.append(_Sums(self._moments, backend))
        self._sinks = _Sinks(sinks, task.name, self._sides)
        self._ways = _distinct(views)
        numbers = {id(texts): number for number, texts in enumerate(self._ways)}
        self._way_of = {role: numbers[id(texts)] for role, texts in views.items()}
        self._pad_ids = [
            next(self._sides[role].pad_id for role, own in self._way_of.items() if own == number)
            for number in range(len(self._ways))
        ]
        largest = max(sum(len(self._ways[0][text].starts) for text in group) for group in groups)
        capacity = min(task.rows.n, max(task.block_rows, largest))
        self._block = RowBlock(widths, capacity, dtype, self._sinks.add, backend, task.device)
        self._batches: list[Batch] = []
        self.finite = FiniteRows(partial(_infinite, task.name, self._sides))

    @property
    def plan(self) -> str:
        """The line that is printed before the pass."""
        return self.task.plan(self._moments.nbytes)

    def roles_of(self, place: str) -> list[str]:
        """Return what a model of the comparison is in the task, if it is in it."""
        return [role for role, own in self.task.sides.items() if own == place]

    def open(self, group: Sequence[int]) -> None:
        """Begin a batch."""
        self._batches = [
            pad([texts[number] for number in group], pad_id)
            for texts, pad_id in zip(self._ways, self._pad_ids, strict=True)
        ]
        self._block.open(*self._batches)

    def batch(self, role: str) -> Batch:
        """What a model gets of the batch."""
        return self._batches[self._way_of[role]]

    def receive(self, role: str, layer: Layer, hidden: Tensor, number: int) -> None:
        """Take the rows of a layer of a batch, if it is one of the task's."""
        if layer not in self._layers[role]:
            return
        finite = self._block.receive(side_name(role, layer), hidden, self._way_of[role])
        self.finite.expect(finite, role, layer, number)

    def close(self) -> None:
        """End a batch."""
        self._block.close()
        self.finite.end_batch()

    def finish(self) -> Gathered:
        """Return what the rows came to."""
        self.finite.end()
        self._block.finish()
        self._sinks.settle()
        if isinstance(self._groups, SummedGroups):
            own = list(self._groups)
            self._moments = sum(own[1:], own[0])
        return Gathered(self._moments.to("cpu"), self._groups, self._sample)

    def rejoin(self) -> None:
        """Let a GPU's main stream wait for what is done beside it."""
        self._block.rejoin()


class _Sinks:
    """Several sinks as one, which says whose rows it refuses.

    Does not know the taker, as what hands rows on must not: in a cycle with it, gigabytes of sums
    would outlive the pass.
    """

    def __init__(self, sinks: Sequence[Sink], corpus: str, sides: Mapping[str, Checkpoint]) -> None:
        names = " and ".join(f"{role} {side.name!r}" for role, side in sides.items())
        self._sinks = sinks
        self._whose = f"(rows of {corpus!r}, longest texts first; {names})"

    def add(self, rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        with self._telling():
            for sink in self._sinks:
                sink.add(rows, numbers)

    def settle(self) -> None:
        with self._telling():
            for sink in self._sinks:
                sink.settle()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            error.add_note(self._whose)
            raise


class _Sums:
    """The sums of all rows as a sink."""

    def __init__(self, moments: Moments, backend: str | None) -> None:
        self._moments, self._backend = moments, backend
        self._fault = no_fault(moments.device)

    def add(self, rows: Mapping[str, Tensor], numbers: Tensor) -> None:
        self._moments.update(rows, backend=self._backend, fault=self._fault)

    def settle(self) -> None:
        self._moments.require_usable(self._fault)


def _infinite(
    corpus: str, sides: Mapping[str, Checkpoint], role: str, layer: Layer, number: int
) -> ValueError:
    return ValueError(
        f"[compare] activations must be finite, got NaN or infinity in layer {layer} of the "
        f"{role} model {sides[role].name!r}, batch {number} of {corpus!r}; check its weights, or "
        "use float32."
    )


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
