"""The factorizations of pairs of sides: of one pair, or of many pairs as one batch.

Owns singular-value problems of cross-products and where their solutions are kept, so that each is
solved once. What belongs to a single side is in `sides`, what is made of both in `canonical` and
`shape`.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, cast

from torch import Tensor

from bertft import ops
from bertft.similarity.arguments import TwoSided
from bertft.similarity.sides import Ridge, leading_rank, require_spectra, retained, whitening

T = TypeVar("T")


class Solution(NamedTuple):
    """Singular vectors of `W_x^T C_xy W_y`, `(r_x, k)` and `(r_y, k)`, and values.

    The canonical directions are `W_x x` and `W_y y`, with `k = min(r_x, r_y)`.
    """

    x: Tensor
    y: Tensor
    rho: Tensor


def canonical_correlations(pairs: Sequence[TwoSided], ridge: Ridge | None = None) -> list[Solution]:
    """Return the canonical correlations of every pair, with the singular vectors behind them."""

    def solve(missing: Sequence[TwoSided]) -> list[Solution]:
        return decompose(_whitened(missing, ridge))

    return _solved(pairs, ("canonical", ridge), solve)


def leading_correlations(
    pairs: Sequence[TwoSided], threshold: float
) -> list[tuple[Tensor, tuple[int, int]]]:
    """Return the canonical correlations of the leading directions of every pair, and their ranks.

    Keeps the fewest directions that hold the share `threshold` of each side's variance.
    """

    def solve(missing: Sequence[TwoSided]) -> list[tuple[Tensor, tuple[int, int]]]:
        require_spectra(missing)
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
        matrices = [two.scatter(two.x, two.y).contiguous() for two in missing]
        norms = matrices[0].new_empty(len(matrices))
        ops.nuclear_norms(matrices, norms)
        return cast(list[float], norms.tolist())

    return _solved(pairs, "nuclear norm", solve)


def shared_variance(two: TwoSided, ridge: Ridge | None = None) -> float:
    """Return the sum of the squared canonical correlations, `|W_x^T C_xy W_y|_F^2`."""
    [white] = _whitened([two], ridge)
    return float(white.square().sum())


def explained(two: TwoSided, target: str, source: str, ridge: Ridge | None = None) -> float:
    """Return the variance of a side that the (ridge) regression on the other explains.

    `sum_k (2 - h_k) |w_k^T C|^2` over the whitened directions of the source, with what their
    whitening leaves, `h_k = v_k / (v_k + r)`: a ridge map misses its targets by more than what is
    orthogonal to the source.
    """
    projected = (
        _projected(two, ridge)
        if source == two.y
        else whitening(two, source, ridge).T @ two.scatter(source, target)
    )
    return float((2 - retained(two, source, ridge)) @ projected.square().sum(dim=1))


def _projected(two: TwoSided, ridge: Ridge | None) -> Tensor:
    """`W_y^T C_yx`, which the regression on y and the whitened products have in common."""
    return two.sums.memo(
        ("projected", ridge),
        lambda: whitening(two, two.y, ridge).T @ two.scatter(two.x, two.y).T,
    )


def _whitened(pairs: Sequence[TwoSided], ridge: Ridge | None = None) -> list[Tensor]:
    """`W_x^T C_xy W_y` of every pair."""

    def whiten(two: TwoSided) -> Tensor:
        return whitening(two, two.x, ridge).T @ _projected(two, ridge).T

    require_spectra(pairs)
    return [two.sums.memo(("whitened", ridge), partial(whiten, two)) for two in pairs]


def decompose(matrices: Sequence[Tensor]) -> list[Solution]:
    """Return the singular vectors and values of matrices, solved as one batch."""
    least = [min(matrix.shape) for matrix in matrices]
    values = [matrix.new_empty(k) for matrix, k in zip(matrices, least, strict=True)]
    left = [matrix.new_empty(len(matrix), k) for matrix, k in zip(matrices, least, strict=True)]
    right = [
        matrix.new_empty(k, matrix.shape[1]) for matrix, k in zip(matrices, least, strict=True)
    ]
    ops.svd(matrices, values, left, right)
    return [Solution(u, vh.T, s) for u, s, vh in zip(left, values, right, strict=True)]


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
