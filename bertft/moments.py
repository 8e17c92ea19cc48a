"""Moments: the statistics over rows from which every similarity measure is computed.

Owns rows coming in: their checks, their row maps and blocks, merging parts, and the file format.
The algebra of one row map is in `sums`, the products are in `ops`, the measures in `similarity`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from copy import copy as shallow_copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertft import ops
from bertft.arrays import check_sides, refusal, same_rows, two_sides
from bertft.files import load_tensors, save_tensors
from bertft.ops import RowMap, UnusableRowError
from bertft.sums import Pair, Sums, place_origins

__all__ = ["BLOCK_ROWS", "Moments", "load_moments", "save_moments"]

BLOCK_ROWS = 2048
"""Rows per product: enough that its cost per row no longer falls, few enough to hold."""

FORMAT = "bertft.moments.2"


class Moments:
    """Statistics of n rows of k sides and of pairs of sides, which merge by addition.

    Holds, under each row map, the sums of the rows, of their products for every pair (every side
    paired with itself included) and the small sums that debiased estimators need; and of the rows
    as they are the sums of `|x|` and `|x - y|`. About `8 (d_x^2 + d_y^2 + d_x d_y)` bytes for a
    pair and row map, whatever n is.

    Args:
        widths: name and number of columns of every side.
        pairs: the pairs of different sides to keep.
        row_maps: "raw" for CKA, CCA, Procrustes and regression; "unit" for RSA (cosine) and the
            first-order cosine; "centered_unit" for RSA (correlation).
        device: where the sums are, to which rows are copied. Measures are solved on the CPU: `to`.

    Raises:
        ValueError: a pair of unknown or equal sides, or an unknown row map.

    Reference: Chan, Golub & LeVeque 1979 (merging); Song et al. 2012 (the small sums).

    >>> x, y = torch.randn(100, 8), torch.randn(100, 6)
    >>> Moments.of(x[:30], y[:30]) + Moments.of(x[30:], y[30:])
    Moments(n=100, widths={'x': 8, 'y': 6}, row_maps=('raw', 'unit'))
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        pairs: Iterable[Pair],
        row_maps: Sequence[RowMap] = ("raw", "unit"),
        device: torch.device | str = "cpu",
    ) -> None:
        self.widths = dict(widths)
        self.pairs = tuple((a, b) for a, b in pairs)
        self.row_maps = tuple(row_maps)
        check_sides(self.widths, self.pairs, self.row_maps)
        self.n = 0
        self.dtype: torch.dtype = torch.float64
        self._has_origins = False
        self._all_pairs = [*((side, side) for side in self.widths), *self.pairs]
        self._norms = torch.zeros(len(self.widths), dtype=torch.float64, device=device)
        self._distances = torch.zeros(len(self._all_pairs), dtype=torch.float64, device=device)
        self._sums = {m: Sums(self.widths, self.pairs, m, device) for m in self.row_maps}

    @classmethod
    def of(
        cls,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        *,
        row_maps: Sequence[RowMap] = ("raw", "unit"),
        backend: str | None = None,
    ) -> "Moments":
        """Return the moments of two sides, named "x" and "y".

        Args:
            x: `(n, d_x)` floating-point rows, array or tensor.
            y: `(n, d_y)` rows of the same positions.
            row_maps: see the class.
            backend: of `bertft.ops`; by default the one of the rows' device.

        Raises:
            ValueError: unequal n, a value that is not finite, or a zero row under "unit".
            TypeError: input that is not a floating-point matrix.
        """
        rows = two_sides(x, y, backend)
        widths = {side: tensor.shape[1] for side, tensor in rows.items()}
        moments = cls(widths, [("x", "y")], row_maps, rows["x"].device)
        moments.update(rows, backend=backend)
        return moments.to("cpu")

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the sides."""
        return tuple(self.widths)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._norms.device

    @property
    def nbytes(self) -> int:
        """Bytes of all sums, the same for any n."""
        return sum(tensor.numel() * 8 for tensor in self._tensors().values())

    def mean_norm(self, side: str) -> float:
        """Return the mean of `|x|` over the rows of a side."""
        return float(self._norms[self.sides.index(side)]) / self.n

    def mean_distance(self, a: str, b: str) -> float:
        """Return the mean of `|x - y|` over the rows of a pair that is kept.

        Raises:
            ValueError: sides of different widths.
        """
        if self.widths[a] != self.widths[b]:
            raise ValueError(
                f"[Moments.mean_distance] sides must have the same width, got {self.widths[a]} and "
                f"{self.widths[b]}; compare spaces instead, with rsa or cka."
            )
        stored = (a, b) if (a, b) in self._all_pairs else (b, a)
        return float(self._distances[self._all_pairs.index(stored)]) / self.n

    def update(
        self, rows: Mapping[str, Tensor], *, backend: str | None = None, fault: Tensor | None = None
    ) -> None:
        """Add rows, the same positions on every side.

        Args:
            rows: for every side an `(n, d)` tensor, all float64 or none.
            backend: of `bertft.ops`; by default the one of the sums' device.
            fault: where a GPU notes an unusable row (`bertft.ops.accumulate`), so that nothing
                waits for it; `require_usable` reads it. These moments are void then.

        Raises:
            ValueError: sides or shapes that don't fit, a value that is not finite, or a row that
                has no direction under "unit" or "centered_unit". The sums stay as they were.
        """
        checked = same_rows(rows, self.widths, self.device)
        how = {"backend": backend, "fault": fault}
        try:
            if not self._has_origins and len(checked[0]):
                place_origins(list(self._sums.values()), [x[:BLOCK_ROWS] for x in checked], **how)
                self._has_origins = True
            self._accumulate(checked, **how)
        except UnusableRowError as error:
            raise refusal(error.fault, self.sides[error.fault.side]) from None
        for sums in self._sums.values():
            sums.counted(len(checked[0]))
        for x in checked:
            self.dtype = _narrower(self.dtype, x.dtype)
        self.n += len(checked[0])

    def require_usable(self, fault: Tensor) -> None:
        """Refuse the unusable row that was noted while rows were added, if there is one."""
        try:
            ops.require_usable(fault, len(self.widths))
        except UnusableRowError as error:
            raise refusal(error.fault, self.sides[error.fault.side]) from None

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows, about this one's origins."""
        if not isinstance(other, Moments):
            return NotImplemented
        return self._combined(other, 1)

    def __sub__(self, other: "Moments") -> "Moments":
        """Return the moments of these rows without those of `other`, which are among them."""
        if other.n > self.n:
            raise ValueError(
                f"[Moments] a part must have at most the {self.n} rows of the whole, got {other.n}."
            )
        return self._combined(other, -1)

    def _combined(self, other: "Moments", sign: int) -> "Moments":
        if (self.widths, self.pairs, self.row_maps) != (other.widths, other.pairs, other.row_maps):
            raise ValueError(
                "[Moments] parts must have the same sides, pairs and row maps, got "
                f"{self!r} and {other!r}; accumulate them alike."
            )
        combined = shallow_copy(self)  # what differs is replaced
        combined.n = self.n + sign * other.n
        combined.dtype = _narrower(self.dtype, other.dtype)
        combined._has_origins = self._has_origins or other._has_origins
        combined._norms = self._norms + sign * other._norms
        combined._distances = self._distances + sign * other._distances
        combined._sums = {m: self._sums[m].combined(other._sums[m], sign) for m in self.row_maps}
        return combined

    def empty(self) -> "Moments":
        """Return moments of no rows about the same origins: what is summed there merges fast."""
        fresh = Moments(self.widths, self.pairs, self.row_maps, self.device)
        fresh._has_origins = self._has_origins
        for row_map, sums in self._sums.items():
            fresh._sums[row_map].origins.update(sums.origins)
        return fresh

    def __radd__(self, other: object) -> "Moments":
        """Let `sum(parts)` start from 0."""
        return self.empty() + self if other == 0 else NotImplemented

    def to(self, device: torch.device | str) -> "Moments":
        """Return these moments if they are on the device, or a copy there."""
        if torch.device(device) == self.device:
            return self
        return self._restore(self._describe(), self._tensors(), device)

    def __repr__(self) -> str:
        return f"Moments(n={self.n}, widths={self.widths}, row_maps={self.row_maps})"

    def pair(self, a: str, b: str, *, copy: bool = True) -> "Moments":
        """Return the two-sided moments of sides `a` and `b`.

        A copy, unless they are to be read only: without `copy` they share these sums, to which no
        rows may be added meanwhile.

        Raises:
            KeyError: the pair is not kept.
        """
        stored = (a, b) if (a, b) in self.pairs else (b, a)
        if stored not in self.pairs:
            raise KeyError(
                f"[Moments.pair] a and b must be a pair that is kept, got {(a, b)}; "
                f"the pairs are {self.pairs}."
            )
        part = shallow_copy(self)  # what differs is replaced
        part.widths = {side: self.widths[side] for side in (a, b)}
        part.pairs = ((a, b),)
        part._all_pairs = [(a, a), (b, b), (a, b)]
        part._norms = self._norms[[self.sides.index(side) for side in (a, b)]]
        kept = [self._all_pairs.index(pair) for pair in ((a, a), (b, b), stored)]
        part._distances = self._distances[kept]
        sums = {m: sums.pair(a, b) for m, sums in self._sums.items()}
        part._sums = {m: own.copy() for m, own in sums.items()} if copy else sums
        return part

    def under(self, row_map: RowMap) -> Sums:
        """Return the sums under a row map.

        Raises:
            ValueError: the row map is not kept.
        """
        if row_map not in self._sums:
            raise ValueError(
                f"[Moments.under] row_map must be one that is kept, got {row_map!r} and "
                f"{self.row_maps}; pass row_maps={(*self.row_maps, row_map)}."
            )
        return self._sums[row_map]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically."""
        save_moments(path, {"": self})

    @classmethod
    def load(cls, path: str | os.PathLike[str], name: str | None = None) -> "Moments":
        """Read what `save` wrote, or the moments called `name` from a comparison's file.

        Raises:
            ValueError: not such a file, or `name` is unknown, or needed and not given.
        """
        parts = load_moments(path)
        if name is None and len(parts) == 1:
            return next(iter(parts.values()))
        if name not in parts:
            raise ValueError(
                f"[Moments.load] name must be one of {list(parts)}, got {name!r}; pass name=."
            )
        return parts[name]

    def _accumulate(self, rows: Sequence[Tensor], **how: Any) -> None:
        index = {side: i for i, side in enumerate(self.sides)}
        pairs = [(index[a], index[b]) for a, b in self._all_pairs]
        maps = [sums.inputs() for sums in self._sums.values()]
        ops.accumulate(rows, pairs, maps, self._norms, self._distances, **how)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"norms": self._norms, "distances": self._distances}
        for row_map, sums in self._sums.items():
            tensors |= {f"{row_map}/{key}": tensor for key, tensor in sums.tensors()}
        return tensors

    def _describe(self) -> dict[str, Any]:
        kept = {"widths": self.widths, "pairs": self.pairs, "row_maps": self.row_maps}
        return {**kept, "n": self.n, "rows": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def _restore(
        cls, described: dict[str, Any], tensors: Mapping[str, Tensor], device: torch.device | str
    ) -> "Moments":
        moments = cls(described["widths"], described["pairs"], described["row_maps"], device)
        for key, tensor in moments._tensors().items():
            tensor.copy_(tensors[key])
        moments.n, moments.dtype = described["n"], getattr(torch, described["rows"])
        moments._has_origins = moments.n > 0
        for sums in moments._sums.values():
            sums.n = moments.n
        return moments


def save_moments(path: str | os.PathLike[str], parts: Mapping[str, Moments]) -> None:
    """Write several moments to one safetensors file, by name and atomically."""
    tensors = {
        f"{i}/{key}": tensor
        for i, moments in enumerate(parts.values())
        for key, tensor in moments._tensors().items()
    }
    described = [{"name": name, **moments._describe()} for name, moments in parts.items()]
    save_tensors(Path(path), tensors, {"format": FORMAT, "parts": described})


def load_moments(path: str | os.PathLike[str]) -> dict[str, Moments]:
    """Read every set of moments in a file, by name.

    Raises:
        ValueError: not a file of moments, or one with other sums.
    """
    tensors, described = load_tensors(Path(path), FORMAT)
    parts = {}
    for i, part in enumerate(described["parts"]):
        own = {k.removeprefix(f"{i}/"): t for k, t in tensors.items() if k.startswith(f"{i}/")}
        parts[part["name"]] = Moments._restore(part, own, "cpu")
    return parts


def _narrower(a: torch.dtype, b: torch.dtype) -> torch.dtype:
    """The type that products ran in: float32 if either of them did."""
    return torch.float64 if a == b == torch.float64 else torch.float32
