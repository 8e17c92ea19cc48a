"""Representational similarity analysis (RSA) without a matrix over pairs of rows, from moments."""

import math
from collections.abc import Callable
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

    Reference: Kriegeskorte et al. 2008; closed forms in methods.md, section 2.

    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> rsa(x, 3 * x)
    1.0
    """
    if kernel not in _ROW_MAPS:
        raise ValueError(f"[rsa] kernel must be one of {get_args(Kernel)}, got {kernel!r}.")
    two = two_sided("rsa", x, y, _ROW_MAPS[kernel])
    if two.n < 3:
        raise ValueError(f"[rsa] rows must be at least 3, got {two.n}; pass more rows.")
    if kernel in ("cosine", "correlation"):
        return _correlation(two, lambda a, b: _unit_covariance(two, a, b))
    if kernel == "dot":
        return _correlation(two, lambda a, b: _dot_covariance(two, a, b))
    return _correlation(two, lambda a, b: _distance_covariance(two, a, b))


def _correlation(two: TwoSided, covariance: Callable[[str, str], float]) -> float:
    """Pearson correlation from sums over pairs i != j."""
    own_x, own_y = covariance(two.x, two.x), covariance(two.y, two.y)
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[rsa] pairs of rows must differ in similarity on each side, got variances {own_x:.3g} "
            f"and {own_y:.3g} times the pairs; check that the layer is not collapsed."
        )
    return two.in_range(covariance(two.x, two.y) / math.sqrt(own_x * own_y), -1.0, 1.0)


def _unit_covariance(two: TwoSided, a: str, b: str) -> float:
    """`2n m_x^T C_xy m_y + |C_xy|_F^2 - n^2 u_x u_y / (n - 1)`, `u = tr C / n = 1 - |m|^2`."""
    n, sums = two.n, two.sums
    c = sums.scatter(a, b)
    u_a, u_b = (float(sums.scatter(side, side).trace()) / n for side in (a, b))
    between = 2 * n * float(sums.mean(a) @ c @ sums.mean(b))
    return between + float(c.square().sum()) - n * n * u_a * u_b / (n - 1)


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


def _distance_covariance(two: TwoSided, a: str, b: str) -> float:
    """About the means: `2n q + 2 (sum k)(sum l) + 4 |C_xy|_F^2`, less `(2n)^2 (sum k)(sum l) / P`."""
    n, sums = two.n, two.sums.about_means()
    cross = sums.cross(a, b)
    k, l = (float(sums.cross(side, side).product.trace()) for side in (a, b))  # noqa: E741
    second = 2 * n * float(cross.weight) + 2 * k * l + 4 * float(cross.product.square().sum())
    return second - 4 * n * k * l / (n - 1)
