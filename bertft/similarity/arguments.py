"""What every measure asks of its arguments and of its result.

Owns the way from two arrays or a `Moments` to two-sided sums, and the ranges that results must
keep; the formulas are in the modules beside it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.ops.checks import is_finite
from bertft.sums import Sums

Rows = Tensor | np.ndarray


class TwoSided(NamedTuple):
    """The sums of two sides `x` and `y` under one row map, for the measure called `name`."""

    name: str
    sums: Sums
    x: str
    y: str
    dtype: torch.dtype

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.sums.n

    def scatter(self, a: str, b: str) -> Tensor:
        """Centered cross-products of two sides."""
        return self.sums.scatter(a, b)

    def resolved(self, terms: Sequence[float]) -> float:
        """Return the sum of terms, or 0 where round-off of the largest of them could make it."""
        total = math.fsum(terms)
        return total if abs(total) > round_off(self.dtype) * max(map(abs, terms)) else 0.0

    def in_range(self, value: float, low: float, high: float) -> float:
        """See the function of this name."""
        return in_range(self.name, value, low, high, self.dtype)


def in_range(name: str, value: float, low: float, high: float, dtype: torch.dtype) -> float:
    """Return `value`, or the bound that it misses by round-off.

    Raises:
        torch.linalg.LinAlgError: the value leaves the range by more than round-off does.
    """
    slack = round_off(dtype)
    if not low - slack <= value <= high + slack:
        raise torch.linalg.LinAlgError(
            f"[{name}] value must lie in [{low}, {high}], got {value!r}; likely causes, in order: "
            "directions at the edge of float32 (pass float64 rows, or ridge= where the measure has "
            "it), rows far from the mean of the first block (shuffle them)."
        )
    return min(max(value, low), high)


def round_off(dtype: torch.dtype) -> float:
    """Return by how much a measure of rows of this type may leave its range."""
    return 1e-12 if dtype == torch.float64 else 1e-6


def two_sided(name: str, x: Rows | Moments, y: Rows | None, row_map: RowMap) -> TwoSided:
    """Return the sums of two arrays, or of a two-sided `Moments`, with rows that vary.

    Raises:
        TypeError: a `Moments` beside something else, or one array alone.
        ValueError: more or fewer than two sides, fewer than 2 rows, or a side that is constant.
    """
    moments = two_sided_moments(name, x, y, row_map)
    first, second = moments.sides
    _require_resolved(name, moments, row_map)
    two = TwoSided(name, moments.under(row_map), first, second, moments.dtype)
    for side in (first, second):
        require_spread(two, side)
    return two


def two_sided_moments(name: str, x: Rows | Moments, y: Rows | None, row_map: RowMap) -> Moments:
    """Return the moments of two arrays, or a `Moments` once it is checked to have two sides."""
    if isinstance(x, Moments) != (y is None) or isinstance(y, Moments):
        raise TypeError(
            f"[{name}] arguments must be two arrays or one Moments, got {type(x).__name__} and "
            f"{type(y).__name__}; pass rows of both sides."
        )
    if isinstance(x, Moments):
        moments = x
    else:
        assert y is not None
        moments = Moments.of(x, y, row_maps=[row_map])
    if len(moments.sides) != 2 or not moments.pairs:
        raise ValueError(
            f"[{name}] moments must have two sides and their pair, got {moments.sides}; pass "
            "moments.pair(a, b)."
        )
    if moments.n < 2:
        raise ValueError(f"[{name}] rows must be at least 2, got {moments.n}; pass more rows.")
    return moments


def constant_columns(sums: Sums, side: str, dtype: torch.dtype) -> Tensor:
    """Return which columns do not vary beyond the rounding of their own values, `(d,)` bool."""
    variance = sums.scatter(side, side).diagonal() / sums.n
    return variance <= (_noise(dtype) * sums.mean(side)).square()


def _require_resolved(name: str, moments: Moments, row_map: RowMap) -> None:
    """Refuse sums that have left the range of the products' type."""
    if not moments.under(row_map).is_finite():
        raise _infinite(name, moments.dtype)
    if row_map != "raw" or moments.dtype == torch.float64:
        return
    for side, d in moments.widths.items():
        size = moments.mean_norm(side)
        # Squares below this are subnormal in float32, or vanish.
        if 0.0 < size * size < 1e-30 * d:
            raise torch.linalg.LinAlgError(
                f"[{name}] {side} must have rows that float32 products resolve, got a mean norm of "
                f"{size:.3g}; scale them, or pass float64 rows."
            )


def require_finite(two: TwoSided, side: str) -> None:
    """Refuse a side whose sums are beyond the range of the products' type."""
    if not is_finite(two.scatter(side, side)):
        raise _infinite(two.name, two.dtype)


def _infinite(name: str, dtype: torch.dtype) -> torch.linalg.LinAlgError:
    return torch.linalg.LinAlgError(
        f"[{name}] sums must be finite, got infinity; likely causes, in order: rows too large "
        f"for products in {_short(dtype)} (scale them, or pass float64 rows)."
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def require_spread(two: TwoSided, side: str) -> None:
    """Refuse a side whose rows are all alike."""
    variance = two.scatter(side, side).trace() / two.n
    _require_variance(two.name, side, two.n, variance, two.sums.mean(side), two.dtype)


def require_varied(function: str, name: str, rows: Tensor, dtype: torch.dtype) -> None:
    """Refuse float64 rows, mapped from rows of this type, that are all alike."""
    mean = rows.mean(dim=0)
    variance = (rows - mean).square().sum() / len(rows)
    _require_variance(function, name, len(rows), variance, mean, dtype)


def _require_variance(
    function: str, name: str, n: int, variance: Tensor, mean: Tensor, dtype: torch.dtype
) -> None:
    if variance <= _noise(dtype) ** 2 * (mean @ mean):
        raise ValueError(
            f"[{function}] {name} must vary over its {n} rows, got columns that are all "
            "constant; check that the layer is not collapsed and the rows differ."
        )


def is_round_off(two: TwoSided, side: str) -> bool:
    """Return whether a side varies by no more than the rounding of a model may make.

    Each block above one whose rows are all equal adds some 2.5 units of rounding to their spread.
    """
    size = two.sums.mean(side).norm() * 16 * _noise(two.dtype)
    return bool(two.scatter(side, side).trace() <= two.n * size.square())


def _noise(dtype: torch.dtype) -> float:
    """Relative spread that rounding alone gives to equal values."""
    return 4 * torch.finfo(dtype).eps


def geometric_mean(a: float, b: float) -> float:
    """Return `sqrt(a b)` of positive numbers, whose product may underflow; exactly a where a is b.

    >>> geometric_mean(2e-200, 2e-200)
    2e-200
    """
    return a * math.sqrt(b / a)
