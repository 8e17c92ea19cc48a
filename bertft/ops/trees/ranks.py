"""Rank correlations of many rows (Spearman's), whose ties share the mean of their ranks."""

from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import ArrayLike, NDArray

from bertft.ops.trees.paths import require_kind

Array = NDArray[Any]


def spearman(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return the rank correlation of each row of `x` with that of `y`, in [-1, 1].

    Pearson's correlation of ranks, where equal values share the mean of theirs. NaN for a row that
    is constant on either side, or holds NaN. Cost: O(n log n) a row.

    Args:
        x: `(m, n)`.
        y: `(m, n)`.

    Raises:
        ValueError: arrays of other shapes.
        TypeError: values that are no real numbers.

    >>> spearman([[1, 2, 3], [1, 1, 1]], [[10, 30, 20], [1, 2, 3]])
    array([0.5, nan])
    """
    a, b = (
        require_kind("spearman", name, rows, "numbers").astype(np.float64)
        for name, rows in (("x", x), ("y", y))
    )
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"[spearman] x and y must be matrices of one shape, got {a.shape} and {b.shape}; "
            "reshape them."
        )
    return _spearman(a, b)


@numba.njit(nogil=True, cache=True)
def _spearman(x: Array, y: Array) -> Array:
    out = np.empty(len(x))
    a, b = np.empty(x.shape[1], np.int64), np.empty(x.shape[1], np.int64)
    for i in range(len(x)):
        rank(x[i], a)
        rank(y[i], b)
        out[i] = correlation(a, b)
    return out


@register_jitable
def rank(values: Array, ranks: Array) -> None:
    """Twice the rank of each value less those of all, which is 0 on average; 0 for all with NaN."""
    n = len(values)
    order = np.argsort(values)
    if n and np.isnan(values[order[n - 1]]):
        ranks[:] = 0
        return
    first = 0
    while first < n:
        last = first
        while last + 1 < n and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in range(first, last + 1):
            ranks[order[place]] = first + last + 1 - n
        first = last + 1


@register_jitable
def correlation(a: Array, b: Array) -> float:
    """The correlation of centered ranks, whose sums are exact; NaN where either does not vary."""
    aa, bb, ab = 0, 0, 0
    for i in range(len(a)):
        aa += a[i] * a[i]
        bb += b[i] * b[i]
        ab += a[i] * b[i]
    if aa == 0 or bb == 0:
        return np.nan
    return float(ab / np.sqrt(float(aa) * float(bb)))
