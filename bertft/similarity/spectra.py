"""The factorizations behind the measures: of one pair, or of many pairs as one batch.

Owns eigen- and singular-value problems of scatter matrices and where their solutions are kept, so
that each is solved once. What is made of them is in `canonical` and `shape`.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from bertft import ops
from bertft.similarity.arguments import TwoSided

T = TypeVar("T")


class Solution(NamedTuple):
    """Canonical directions `(d, min(r_x, r_y))` of each side, correlations, and kept ranks."""

    x: Tensor
    y: Tensor
    rho: Tensor
    ranks: tuple[int, int]


def canonical_directions(pairs: Sequence[TwoSided], ridge: float | None = None) -> list[Solution]:
    """Return the canonical correlations of every pair, with their directions."""

    def solve(missing: Sequence[TwoSided]) -> list[Solution]:
        white = _whitened(missing, ridge=ridge)
        left, rho, right = _svd([matrix for _, _, matrix in white])
        return [
            Solution(wx @ u, wy @ vh.T, s, (wx.shape[1], wy.shape[1]))
            for (wx, wy, _), u, s, vh in zip(white, left, rho, right, strict=True)
        ]

    return _solved(pairs, ("canonical", ridge), solve)


def leading_correlations(
    pairs: Sequence[TwoSided], threshold: float
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Return the canonical correlations of the leading directions of every pair, and their ranks.

    Keeps the fewest directions that hold the share `threshold` of each side's variance.
    """

    def solve(missing: Sequence[TwoSided]) -> list[tuple[Tensor, tuple[int, int]]]:
        white = _whitened(missing, threshold=threshold)
        rho = _singular_values([matrix for _, _, matrix in white])
        return [(s, (wx.shape[1], wy.shape[1])) for (wx, wy, _), s in zip(white, rho, strict=True)]

    return _solved(pairs, ("leading", threshold), solve)


def nuclear_norms(pairs: Sequence[TwoSided]) -> list[float]:
    """Return the nuclear norm of the centered cross-products of every pair."""

    def solve(missing: Sequence[TwoSided]) -> list[float]:
        values = _singular_values([two.scatter(two.x, two.y) for two in missing])
        return [float(s.sum()) for s in values]

    return _solved(pairs, "nuclear norm", solve)


def whitening(
    two: TwoSided, side: str, *, threshold: float = 1.0, ridge: float | None = None
) -> Tensor:
    """Return `W (d, r)` with `W^T C W = I` on the kept eigen-directions of a side."""
    _require_spectra([two])
    values, vectors = two.sums.known["spectrum", side]
    rank = int((values > _tolerance(two, len(values)) * values[0]).sum())
    if threshold < 1.0:
        share = values[:rank].cumsum(0) / values[:rank].sum()
        rank = int((share < threshold).sum()) + 1
    kept = values[:rank] + (ridge * values.mean() if ridge is not None else 0.0)
    white: Tensor = vectors[:, :rank] / kept.sqrt()
    return white


def _tolerance(two: TwoSided, d: int) -> float:
    """Share of the largest eigenvalue below which a direction is dropped.

    With few rows and columns the rounding of float32 products is above 1e-8: over runs of 128 rows
    it gives a null direction, such as LayerNorm leaves, an eigenvalue of the order of
    `2^-24 128 / sqrt(3 n d)` of the largest one, and it would pass for a real direction.
    """
    if two.dtype == torch.float64:
        return 1e-12
    return max(1e-8, 1.75 * 2.0**-24 * 128 / math.sqrt(3 * two.n * d))


def _whitened(
    pairs: Sequence[TwoSided], *, threshold: float = 1.0, ridge: float | None = None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """`W_x`, `W_y` and `W_x^T C_xy W_y` of every pair."""
    _require_spectra(pairs)
    white = []
    for two in pairs:
        wx, wy = (whitening(two, side, threshold=threshold, ridge=ridge) for side in (two.x, two.y))
        white.append((wx, wy, wx.T @ two.scatter(two.x, two.y) @ wy))
    return white


def _require_spectra(pairs: Sequence[TwoSided]) -> None:
    """Solve the scatter matrices that are not solved yet: descending eigenvalues, and vectors."""
    missing = [
        (two, side)
        for two in pairs
        for side in (two.x, two.y)
        if ("spectrum", side) not in two.sums.known
    ]
    matrices = [two.scatter(side, side) for two, side in missing]
    values = [torch.empty_like(matrix[0]) for matrix in matrices]
    vectors = [torch.empty_like(matrix) for matrix in matrices]
    ops.eigh(matrices, values, vectors)
    for (two, side), own, directions in zip(missing, values, vectors, strict=True):
        two.sums.known["spectrum", side] = own.flip(0), directions.flip(1)


def _svd(matrices: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    least = [min(matrix.shape) for matrix in matrices]
    values = [matrix.new_empty(k) for matrix, k in zip(matrices, least, strict=True)]
    left = [matrix.new_empty(len(matrix), k) for matrix, k in zip(matrices, least, strict=True)]
    right = [
        matrix.new_empty(k, matrix.shape[1]) for matrix, k in zip(matrices, least, strict=True)
    ]
    ops.svd(matrices, values, left, right)
    return left, values, right


def _singular_values(matrices: Sequence[Tensor]) -> list[Tensor]:
    matrices = [matrix.contiguous() for matrix in matrices]
    values = [matrix.new_empty(min(matrix.shape)) for matrix in matrices]
    ops.svd(matrices, values)
    return values


def _solved(
    pairs: Sequence[TwoSided], key: Hashable, solve: Callable[[Sequence[TwoSided]], Sequence[T]]
) -> list[T]:
    """What `solve` makes of the pairs, once for each."""
    missing = [two for two in pairs if key not in two.sums.known]
    for two, solution in zip(missing, solve(missing), strict=True):
        two.sums.known[key] = solution
    return [cast(T, two.sums.known[key]) for two in pairs]
