"""What probes learn from: the targets of a split, with the rows of features that each one reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bertft import ops
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

    def to(self, device: torch.device) -> "Examples":
        """Return the targets on a device."""
        return Examples(self.starts.to(device), self.stops.to(device), self.sentence.to(device))

    def steps(self, size: int, unit: Unit) -> int:
        """Return how many batches of `size` targets or sentences all of them make."""
        n = len(self) if unit == "targets" else len(torch.unique_consecutive(self.sentence))
        return -(-n // size)

    def batches(self, size: int, unit: Unit, order: torch.Generator | None) -> Iterator[Tensor]:
        """Yield the indices of targets, `size` targets or sentences at a time.

        Args:
            size: targets or sentences of a batch; the last one may have fewer.
            unit: what `size` counts.
            order: draws the order; None for the one at hand.
        """
        device = self.starts.device
        if unit == "targets":
            n = len(self)
            everything = torch.randperm(n, generator=order) if order else torch.arange(n)
            yield from torch.split(everything.to(device), size)
            return
        counts = torch.unique_consecutive(self.sentence, return_counts=True)[1]
        groups = torch.split(torch.arange(len(self), device=device), counts.tolist())
        n = len(groups)
        sentences = torch.randperm(n, generator=order) if order else torch.arange(n)
        for part in torch.split(sentences, size):
            yield torch.cat([groups[i] for i in part.tolist()])


class Pieces(NamedTuple):
    """The rows inside one span of every target of a batch, each row once.

    Attributes:
        x: `(L, P, d)` the rows, of one or more layers.
        starts: `(B,)` int64, for every target the first row of its span.
        stops: `(B,)` int64, one past its last row.
    """

    x: Tensor
    starts: Tensor
    stops: Tensor


class Inputs:
    """Features of one or more layers, as probes read them.

    Args:
        layers: for each layer its rows `(n, d)`, of one width and in any floating dtype.
        dtype: what rows are read as. Only structural probes are trained in float64.
        device: where to copy all of them; by default they stay where they are.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self._layers = [layer if device is None else _placed(layer, device) for layer in layers]
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
        rows = [_rows_of(layer, index, self.dtype) for layer in self._layers]
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
        first = lengths.cumsum(0) - lengths
        ranks = torch.arange(int(lengths.sum()), device=starts.device)
        place = ranks + (starts - first).repeat_interleave(lengths)
        unique = torch.unique(place)
        # All rows of a span are there, so that they stay one after another.
        begins = torch.searchsorted(unique, starts.contiguous())
        return Pieces(self.rows(unique), begins, begins + lengths)


def _placed(layer: Layer, device: torch.device) -> Layer:
    """A layer's rows on a device: these, or a copy."""
    if isinstance(layer, Tensor):
        return layer.to(device)
    everything = torch.arange(len(layer))
    return layer if layer.device == device else layer.index_select(0, everything).to(device)


def _rows_of(layer: Layer, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Some rows of a layer, gathered in memory by the kernels, which write no float64."""
    is_wide = torch.float64 in (layer.dtype, dtype)
    if not isinstance(layer, Tensor) or layer.device.type != "cpu" or is_wide:
        return layer.index_select(0, index).to(dtype)
    out = layer.new_empty(len(index), layer.shape[1], dtype=dtype)
    ops.pool_rows(layer, index, index + 1, out)
    return out
