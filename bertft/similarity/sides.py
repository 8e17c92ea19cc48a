"""What is solved once for a side, whatever it is compared with: spectrum, ranks, whitening, ridge.

The solutions stay with the sums of the side and are shared by all pairs that it is in.
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from bertft import ops
from bertft.similarity.arguments import TwoSided

Ridge = float | Literal["ledoit-wolf"]
"""Added to the eigenvalues of a scatter matrix, as a share of their mean; or how to choose it."""


def require_ridge(function: str, ridge: object) -> None:
    """Refuse what is no ridge.

    Raises:
        ValueError: neither a positive number nor "ledoit-wolf".
    """
    is_positive = isinstance(ridge, float | int) and 0 < ridge < math.inf
    if ridge != "ledoit-wolf" and (not is_positive or isinstance(ridge, bool)):
        raise ValueError(
            f"[{function}] ridge must be positive or 'ledoit-wolf', got {ridge!r}; leave it out "
            "for none."
        )


def require_spectra(pairs: Sequence[TwoSided]) -> None:
    """Solve the scatter matrices of these sides that are not solved yet, as one batch."""
    missing = {}
    for two in pairs:
        for side in (two.x, two.y):
            known = two.sums.known_of(side)
            if "spectrum" not in known:
                missing[id(known)] = known, two.scatter(side, side)
    if not missing:
        return
    matrices = [matrix for _, matrix in missing.values()]
    values = [torch.empty_like(matrix[0]) for matrix in matrices]
    vectors = [torch.empty_like(matrix) for matrix in matrices]
    ops.eigh(matrices, values, vectors)
    for (known, _), own, directions in zip(missing.values(), values, vectors, strict=True):
        known["spectrum"] = own.flip(0), directions.flip(1)


def spectrum(two: TwoSided, side: str) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a side's scatter matrix, `(d,)` descending, and its vectors."""
    require_spectra([two])
    return cast(tuple[Tensor, Tensor], two.sums.known_of(side)["spectrum"])


def kept_rank(two: TwoSided, side: str) -> int:
    """Return how many directions of a side the rank rule keeps, at most the n - 1 that n rows have.

    Round-off of float32 products can pass the rule where rows are fewer than columns.
    """
    values, _ = spectrum(two, side)
    return min(int((values > _tolerance(two, len(values)) * values[0]).sum()), two.n - 1)


def leading_rank(two: TwoSided, side: str, threshold: float) -> int:
    """Return the fewest kept directions that hold the share `threshold` of a side's variance."""
    values = spectrum(two, side)[0][: kept_rank(two, side)]
    # At a threshold of 1 the share may never get there in the last bit.
    share = values.cumsum(0) / values.sum()
    return min(int((share < threshold).sum()) + 1, len(values))


def whitening(two: TwoSided, side: str, ridge: Ridge | None = None) -> Tensor:
    """Return `W (d, r)` with `W^T (C + ridge) W = I` on the kept eigen-directions of a side."""

    def compute() -> Tensor:
        _, vectors = spectrum(two, side)
        rank = kept_rank(two, side)
        white: Tensor = vectors[:, :rank] / lifted(two, side, ridge)[:rank].sqrt()
        return white

    return two.sums.memo_of(side, ("whitening", ridge), compute)


def coloring(two: TwoSided, side: str, ridge: Ridge | None = None) -> Tensor:
    """Return `W^T C (r, d)`, from whitened coordinates back to the columns of a side."""
    values, _ = spectrum(two, side)
    white = whitening(two, side, ridge)
    # The columns of W are eigenvectors, so C multiplies them by their eigenvalues.
    colored: Tensor = (white * values[: white.shape[1]]).T
    return colored


def lifted(two: TwoSided, side: str, ridge: Ridge | None) -> Tensor:
    """Return the eigenvalues of a side with its ridge added, `(d,)`."""
    values, _ = spectrum(two, side)
    if ridge is None:
        return values
    if isinstance(ridge, str):
        share = shrinkage(two, side)
        ridge = share / (1.0 - share)
    return values + ridge * values.mean()


def shrinkage(two: TwoSided, side: str) -> float:
    """Return the share of the identity in the covariance that Ledoit & Wolf (2004) estimate.

    `min(b / |S - m I|_F^2, 1)` with `S = C / n`, `m = tr S / d` and
    `b = (sum_i |z_i|^4 / n - |S|_F^2) / n`. A covariance `(1 - s) S + s m I` correlates as one with
    the ridge `s / (1 - s)`: shrinking both sides shrinks their cross-products by the roots of both
    `1 - s`.

    Raises:
        torch.linalg.LinAlgError: nothing but the identity is left.
    """
    n, values = two.n, spectrum(two, side)[0] / two.n
    size = float(values.square().sum())
    spread = size - float(values.sum()) ** 2 / len(values)
    noise = (two.sums.weight(side, side) / n - size) / n
    if noise >= spread:
        raise torch.linalg.LinAlgError(
            f"[{two.name}] {side} must have a covariance that its rows tell from a multiple of the "
            f"identity for ridge='ledoit-wolf', got n={n}; pass more rows, or a number."
        )
    return noise / spread


def retained(two: TwoSided, side: str, ridge: Ridge | None) -> Tensor:
    """Return `v / (v + r)` of the kept eigenvalues v of a side with its ridge r, 1 without one.

    What whitening leaves of the variance of each direction.
    """
    rank = kept_rank(two, side)
    shares: Tensor = spectrum(two, side)[0][:rank] / lifted(two, side, ridge)[:rank]
    return shares


def condition(two: TwoSided, side: str, rank: int) -> float:
    """Return the largest by the smallest of the first `rank` eigenvalues."""
    values, _ = spectrum(two, side)
    return float(values[0] / values[rank - 1])


def left_out(two: TwoSided, side: str, rank: int) -> float:
    """Return the share of a side's variance outside of its first `rank` directions."""
    values, _ = spectrum(two, side)
    return max(0.0, float(values[rank:].sum() / values.sum()))


def _tolerance(two: TwoSided, d: int) -> float:
    """Share of the largest eigenvalue below which a direction is dropped.

    With few rows and columns the rounding of float32 products is above 1e-8: over runs of 128 rows
    it gives a null direction, such as LayerNorm leaves, an eigenvalue of the order of
    `2^-24 128 / sqrt(3 n d)` of the largest one, and it would pass for a real direction.
    """
    if two.dtype == torch.float64:
        return 1e-12
    return max(1e-8, 1.75 * 2.0**-24 * 128 / math.sqrt(3 * two.n * d))
