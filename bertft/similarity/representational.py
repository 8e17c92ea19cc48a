"""Representational similarity analysis (RSA) without a matrix over pairs of rows, from moments."""

import math
from typing import Literal, get_args

from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.similarity.arguments import Rows, TwoSided, two_sided

Kernel = Literal["cosine", "dot", "correlation", "sqeuclidean"]

_ROW_MAPS: dict[Kernel, RowMap] = {
    "cosine": "unit",
    "correlation": "centered_unit",
    "dot": "raw",
    "sqeuclidean": "raw",
}


def rsa(x: Rows | Moments, y: Rows | None = None, *, kernel: Kernel = "cosine") -> float:
    """Pearson correlation between the similarities of all pairs of rows i < j in each side.

    In [-1, 1]: 1 where both sides see the same pairs as similar. Exact and linear in n: the sums
    over pairs follow from sums over rows. Pairs are not independent, so the p-value of a Pearson
    correlation does not apply.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides.
        y: `(n, d_y)` rows of the same positions.
        kernel: similarity of two rows: "cosine" (needs row map "unit"), "correlation"
            ("centered_unit"), "dot" or "sqeuclidean" ("raw").

    Raises:
        ValueError: unequal n, fewer than 3 rows, an unknown kernel, a zero row under "cosine", or
            a side on which all pairs are equally similar.
        TypeError: input that is no floating-point matrix.

    Reference: Kriegeskorte et al. 2008; closed forms in docs/methods.md.

    >>> import torch
    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> rsa(x, 3 * x)
    1.0
    """
    if kernel not in _ROW_MAPS:
        raise ValueError(
            f"[rsa] kernel must be one of {get_args(Kernel)}, got {kernel!r}; pass one."
        )
    two = two_sided("rsa", x, y, _ROW_MAPS[kernel])
    if two.n < 3:
        raise ValueError(f"[rsa] rows must be at least 3, got {two.n}; pass more rows.")
    covariance = _dot_covariance if kernel == "dot" else _distance_covariance
    own_x, own_y = covariance(two, two.x, two.x), covariance(two, two.y, two.y)
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[rsa] pairs of rows must differ in similarity on each side, got variances "
            f"{own_x:.3g} and {own_y:.3g} times the pairs; check that the layer is not collapsed."
        )
    value = covariance(two, two.x, two.y) / math.sqrt(own_x * own_y)
    return two.in_range(value, -1.0, 1.0)


def _distance_covariance(two: TwoSided, a: str, b: str) -> float:
    """About the means: `2n q + 2 kx ky + 4 |C_xy|_F^2 - (2n)^2 kx ky / P`, P pairs.

    Serves cosine and correlation too: between unit rows the squared distance is 2 - 2 cos, so the
    correlation over pairs is the same. Unlike the form in `m_x^T C_xy m_y` it does not cancel when
    all rows point the same way.
    """
    n, sums = two.n, two.sums.about_means()
    cross = sums.cross(a, b)
    kx, ky = (float(sums.cross(side, side).product.trace()) for side in (a, b))
    second = 2 * n * float(cross.weight) + 2 * kx * ky + 4 * float(cross.product.square().sum())
    return second - 4 * n * kx * ky / (n - 1)


def _dot_covariance(two: TwoSided, a: str, b: str) -> float:
    """About origin 0: `|G_xy|_F^2 - q`, less the product of the sums of off-diagonal entries."""
    n, sums = two.n, two.sums.about_zero()
    cross = sums.cross(a, b)
    first_a, first_b = (
        float(sums.totals[side] @ sums.totals[side] - sums.cross(side, side).product.trace())
        for side in (a, b)
    )
    second = float(cross.product.square().sum() - cross.weight)
    return second - first_a * first_b / (n * (n - 1))
