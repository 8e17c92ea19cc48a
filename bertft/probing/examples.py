"""What probes learn from: the targets of a split, with the rows of features that each one reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bertft.features import Layer

Unit = Literal["targets", "sentences"]


@dataclass(frozen=True)
class Examples:
    """The targets of a split, in the order of their sentences.

    Attributes:
        starts: `(T, S)` int64, the first row of each of a target's one or two spans.
        stops: `(T, S)` int64, one past its last row.
        sentence: `(T,)` int64, never falling.
    """

    starts: Tensor
    stops: Tensor
    sentence: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: Tensor) -> "Examples":
        """Return some of the targets."""
        return Examples(self.starts[index], self.stops[index], self.sentence[index])

    def batches(self, size: int, unit: Unit, order: torch.Generator | None) -> Iterator[Tensor]:
        """Yield the indices of targets, `size` targets or sentences at a time.

        Args:
            size: targets or sentences of a batch; the last one may have fewer.
            unit: what `size` counts.
            order: draws the order; None for the one at hand.
        """
        if unit == "targets":
            n = len(self)
            everything = torch.randperm(n, generator=order) if order else torch.arange(n)
            yield from torch.split(everything, size)
            return
        counts = torch.unique_consecutive(self.sentence, return_counts=True)[1]
        groups = torch.split(torch.arange(len(self)), counts.tolist())
        n = len(groups)
        sentences = torch.randperm(n, generator=order) if order else torch.arange(n)
        for part in torch.split(sentences, size):
            yield torch.cat([groups[i] for i in part.tolist()])


class Pieces(NamedTuple):
    """The rows inside one span of every target of a batch, each row once.

    Attributes:
        x: `(L, P, d)` the rows, of one or more layers.
        row: `(E,)` for every place in a span, the row of `x` that stands there.
        target: `(E,)` the target of the batch that this span belongs to, never falling.
        longest: places of the longest span.
    """

    x: Tensor
    row: Tensor
    target: Tensor
    longest: int


class Inputs:
    """Features of one or more layers, as probes read them.

    Args:
        layers: for each layer its rows `(n, d)`, of one width and in any floating dtype.
        dtype: what rows are read as. Only structural probes are trained in float64.
    """

    def __init__(self, layers: Sequence[Layer], dtype: torch.dtype = torch.float32) -> None:
        self._layers = list(layers)
        self.dtype = dtype

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self._layers)

    @property
    def width(self) -> int:
        """Number of features d of a row."""
        return int(self._layers[0].shape[1])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self._layers[0].device

    def rows(self, index: Tensor) -> Tensor:
        """Return rows `(L, len(index), d)` in `dtype`."""
        rows = [layer.index_select(0, index).to(self.dtype) for layer in self._layers]
        return torch.stack(rows) if len(rows) > 1 else rows[0][None]

    def pooled(self, examples: Examples, index: Tensor) -> Tensor:
        """Return `(L, B, S * d)` for targets whose spans are one row each."""
        rows = examples.starts[index]
        return self.rows(rows.flatten()).view(self.depth, len(index), -1)

    def pieces(self, examples: Examples, index: Tensor) -> list[Pieces]:
        """Return the rows inside the spans of a batch of targets, for each of the S spans."""
        starts, stops = examples.starts[index], examples.stops[index]
        return [self._inside(starts[:, s], stops[:, s]) for s in range(starts.shape[1])]

    def _inside(self, starts: Tensor, stops: Tensor) -> Pieces:
        lengths = stops - starts
        target = torch.arange(len(starts)).repeat_interleave(lengths)
        first = lengths.cumsum(0) - lengths
        place = torch.arange(len(target)) + (starts - first)[target]
        unique, row = torch.unique(place, return_inverse=True)
        return Pieces(self.rows(unique), row, target, int(lengths.max()))
