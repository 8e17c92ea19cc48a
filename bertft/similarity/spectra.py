"""The factorizations behind the measures: of one pair, or of many pairs as one batch.

Owns eigen- and singular-value problems of scatter matrices and where their solutions are kept, so
that each is solved once. What is made of them is in `canonical` and `shape`.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from bertft import ops
from bertft.similarity.arguments import TwoSided

T = TypeVar("T")


class Solution(NamedTuple):
    """Singular vectors of `W_x^T C_xy W_y`, `(r_x, k)` and `(r_y, k)`, values, and kept ranks.

    The canonical directions are `W_x x` and `W_y y`, with `k = min(r_x, r_y)`.
    """

    x: Tensor
    y: Tensor
    rho: Tensor
    ranks: tuple[int, int]


def canonical_correlations(pairs: Sequence[TwoSided], ridge: float | None = None) -> list[Solution]:
    """Return the canonical correlations of every pair, with the singular vectors behind them."""

    def solve(missing: Sequence[TwoSided]) -> list[Solution]:
        white = _whitened(missing, ridge)
        left, rho, right = _svd(white)
        return [
            Solution(u, vh.T, s, (len(u), vh.shape[1]))
            for u, s, vh in zip(left, rho, right, strict=True)
        ]

    return _solved(pairs, ("canonical", ridge), solve)


def leading_correlations(
    pairs: Sequence[TwoSided], threshold: float
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Return the canonical correlations of the leading directions of every pair, and their ranks.

    Keeps the fewest directions that hold the share `threshold` of each side's variance.
    """

    def solve(missing: Sequence[TwoSided]) -> list[tuple[Tensor, tuple[int, int]]]:
        ranks = [
            (leading_rank(two, two.x, threshold), leading_rank(two, two.y, threshold))
            for two in missing
        ]
        matrices = [
            matrix[:rank_x, :rank_y]
            for matrix, (rank_x, rank_y) in zip(_whitened(missing), ranks, strict=True)
        ]
        return list(zip(_singular_values(matrices), ranks, strict=True))

    return _solved(pairs, ("leading", threshold), solve)


def nuclear_norms(pairs: Sequence[TwoSided]) -> list[float]:
    """Return the nuclear norm of the centered cross-products of every pair."""

    def solve(missing: Sequence[TwoSided]) -> list[float]:
        values = _singular_values([two.scatter(two.x, two.y) for two in missing])
        return [float(s.sum()) for s in values]

    return _solved(pairs, "nuclear norm", solve)


def whitening(two: TwoSided, side: str, ridge: float | None = None) -> Tensor:
    """Return `W (d, r)` with `W^T C W = I` on the kept eigen-directions of a side."""
    values, vectors = _spectrum(two, side)
    rank = kept_rank(two, side)
    white: Tensor = vectors[:, :rank] / _lifted(values, ridge)[:rank].sqrt()
    return white


def coloring(two: TwoSided, side: str, ridge: float | None = None) -> Tensor:
    """Return `W^T C (r, d)`, from whitened coordinates back to the columns of a side."""
    values, vectors = _spectrum(two, side)
    rank = kept_rank(two, side)
    lifted = _lifted(values, ridge)[:rank]
    colored: Tensor = (vectors[:, :rank] * (values[:rank] / lifted.sqrt())).T
    return colored


def _lifted(values: Tensor, ridge: float | None) -> Tensor:
    return values if ridge is None else values + ridge * values.mean()


def explained(two: TwoSided, target: str, source: str, ridge: float | None = None) -> float:
    """Return the variance of a side that a linear map of the other explains."""
    if target == two.y:
        _whitened([two], ridge)  # it passes through these products
    return two.sums.memo(
        ("explained", target, ridge),
        lambda: float((two.scatter(target, source) @ whitening(two, source, ridge)).square().sum()),
    )


def kept_rank(two: TwoSided, side: str) -> int:
    """Return how many directions of a side the rank rule keeps."""
    values, _ = _spectrum(two, side)
    return int((values > _tolerance(two, len(values)) * values[0]).sum())


def leading_rank(two: TwoSided, side: str, threshold: float) -> int:
    """Return the fewest kept directions that hold the share `threshold` of a side's variance."""
    values = _spectrum(two, side)[0][: kept_rank(two, side)]
    # At a threshold of 1 the share may never get there in the last bit.
    share = values.cumsum(0) / values.sum()
    return min(int((share < threshold).sum()) + 1, len(values))


def _spectrum(two: TwoSided, side: str) -> tuple[Tensor, Tensor]:
    """Descending eigenvalues of a side's scatter matrix, and vectors."""
    _require_spectra([two])
    return cast(tuple[Tensor, Tensor], two.sums.known["spectrum", side])


def _tolerance(two: TwoSided, d: int) -> float:
    """Share of the largest eigenvalue below which a direction is dropped.

    With few rows and columns the rounding of float32 products is above 1e-8: over runs of 128 rows
    it gives a null direction, such as LayerNorm leaves, an eigenvalue of the order of
    `2^-24 128 / sqrt(3 n d)` of the largest one, and it would pass for a real direction.
    """
    if two.dtype == torch.float64:
        return 1e-12
    return max(1e-8, 1.75 * 2.0**-24 * 128 / math.sqrt(3 * two.n * d))


def _whitened(pairs: Sequence[TwoSided], ridge: float | None = None) -> list[Tensor]:
    """`W_x^T C_xy W_y` of every pair."""

    def whiten(two: TwoSided) -> Tensor:
        wx, wy = (whitening(two, side, ridge) for side in (two.x, two.y))
        half = wx.T @ two.scatter(two.x, two.y)
        two.sums.known["explained", two.y, ridge] = float(half.square().sum())
        return half @ wy

    _require_spectra(pairs)
    return [two.sums.memo(("whitened", ridge), partial(whiten, two)) for two in pairs]


def _require_spectra(pairs: Sequence[TwoSided]) -> None:
    """Solve the scatter matrices that are not solved yet: descending eigenvalues, and vectors."""
    missing = [
        (two, side)
        for two in pairs
        for side in (two.x, two.y)
        if ("spectrum", side) not in two.sums.known
    ]
    if not missing:
        return
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
    if missing:
        for two, solution in zip(missing, solve(missing), strict=True):
            two.sums.known[key] = solution
    return [cast(T, two.sums.known[key]) for two in pairs]
