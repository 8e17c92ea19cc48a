"""Representational similarity analysis (RSA) without a matrix over pairs of rows.

Pearson from moments; rank correlations from the rows.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from bertft import ops
from bertft.arrays import as_rows, refusal
from bertft.moments import Moments
from bertft.ops import Correlation, PairedRows, RowMap
from bertft.ops.reference import first_fault, map_rows
from bertft.similarity.arguments import Rows, TwoSided, two_sided

Kernel = Literal["cosine", "dot", "correlation", "sqeuclidean"]

_ROW_MAPS: dict[Kernel, RowMap] = {
    "cosine": "unit",
    "correlation": "centered_unit",
    "dot": "raw",
    "sqeuclidean": "raw",
}


def rsa(
    x: Rows | Moments,
    y: Rows | None = None,
    *,
    kernel: Kernel = "cosine",
    correlation: Correlation = "pearson",
) -> float:
    """Correlation between the similarities of all pairs of rows i < j in each side.

    In [-1, 1]: 1 where both sides see the same pairs as similar. Pearson is exact and linear in n:
    the sums over pairs follow from sums over rows. Ranks have no such form: they take the rows
    themselves, O(n^2 d) time and some 30 n^2 bytes. Pairs are not independent, so the p-value of
    such a correlation does not apply.

    Args:
        x: `(n, d_x)` rows, or, for Pearson, the `Moments` of both sides.
        y: `(n, d_y)` rows of the same positions.
        kernel: similarity of two rows: "cosine" (needs row map "unit"), "correlation"
            ("centered_unit"), "dot" or "sqeuclidean" ("raw").
        correlation: "pearson", "spearman" or "kendall" (tau-a) over the pairs.

    Raises:
        ValueError: unequal n, fewer than 3 rows, an unknown kernel or correlation, a zero row
            under "cosine", or a side on which all pairs are equally similar.
        TypeError: input that is no floating-point matrix, or moments for ranks.

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
    if correlation != "pearson":
        return _by_rank(x, y, kernel, correlation)
    two = two_sided("rsa", x, y, _ROW_MAPS[kernel])
    _require_pairs(two.n)
    covariance = _dot_covariance if kernel == "dot" else _distance_covariance
    own_x, own_y = covariance(two, two.x, two.x), covariance(two, two.y, two.y)
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[rsa] pairs of rows must differ in similarity on each side, got variances "
            f"{own_x:.3g} and {own_y:.3g} times the pairs; check that the layer is not collapsed."
        )
    value = covariance(two, two.x, two.y) / math.sqrt(own_x * own_y)
    return two.in_range(value, -1.0, 1.0)


def _by_rank(x: Rows | Moments, y: Rows | None, kernel: Kernel, correlation: Correlation) -> float:
    if correlation not in get_args(Correlation):
        raise ValueError(
            f"[rsa] correlation must be one of {get_args(Correlation)}, got {correlation!r}; pass "
            "one."
        )
    if isinstance(x, Moments) or y is None:
        raise TypeError(
            f"[rsa] x and y must be rows for {correlation}, got {type(x).__name__} and "
            f"{type(y).__name__}; pass the rows of a sample, or correlation='pearson'."
        )
    sides = as_rows(x, "x"), as_rows(y, "y")
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"[rsa] rows must be the same positions on both sides, got {len(sides[0])} and "
            f"{len(sides[1])}; pass them row for row."
        )
    _require_pairs(len(sides[0]))
    dtype = torch.promote_types(torch.promote_types(sides[0].dtype, sides[1].dtype), torch.float32)
    a, b = (paired_rows(side, kernel, name, dtype) for side, name in zip(sides, "xy", strict=True))
    value = ops.correlate_pairs(a, b, correlation)
    if math.isnan(value):
        raise ValueError(
            "[rsa] pairs of rows must differ in similarity on each side, got a side where all are "
            "alike; check that the layer is not collapsed."
        )
    return value


def paired_rows(x: Tensor, kernel: Kernel, side: str, dtype: torch.dtype) -> PairedRows:
    """Return the rows whose products make the similarities of a kernel, less their mean.

    With `z = map(x) - m` about the mean: `u_i . u_j = z_i . z_j + m . z_i + m . z_j + |m|^2`, and
    `|x_i - x_j|^2 = |z_i|^2 + |z_j|^2 - 2 z_i . z_j`, so that float32 products lose nothing to a
    common direction.
    """
    row_map = _ROW_MAPS[kernel]
    fault = first_fault(x, row_map, 0)
    if fault is not None:
        raise refusal(fault, side)
    rows = map_rows(x, row_map)
    mean = rows.mean(dim=0)
    z = (rows - mean).to(dtype)
    wide = z.double()
    scale, offsets = (-2.0, wide.square().sum(1)) if kernel == "sqeuclidean" else (1.0, wide @ mean)
    n = len(z)
    products = wide.sum(0).square().sum() - wide.square().sum()
    average = scale * products / (n * (n - 1)) + 2 * offsets.mean()
    return PairedRows(z.contiguous(), offsets - average / 2, scale)


def _require_pairs(n: int) -> None:
    if n < 3:
        raise ValueError(f"[rsa] rows must be at least 3, got {n}; pass more rows.")


def _distance_covariance(two: TwoSided, a: str, b: str) -> float:
    """About the means: `2n q + 2 kx ky + 4 |C_xy|_F^2 - (2n)^2 kx ky / P`, P pairs.

    Serves cosine and correlation too: between unit rows the squared distance is 2 - 2 cos, so the
    correlation over pairs is the same. Unlike the form in `m_x^T C_xy m_y` it does not cancel when
    all rows point the same way.
    """
    n, q = two.n, two.sums.weight(a, b, "means")
    kx, ky = two.sums.squares(a, "means"), two.sums.squares(b, "means")
    second = 2 * n * q + 2 * kx * ky + 4 * float(two.scatter(a, b).square().sum())
    return second - 4 * n * kx * ky / (n - 1)


def _dot_covariance(two: TwoSided, a: str, b: str) -> float:
    """About origin 0: `|G_xy|_F^2 - q`, less the product of the sums of off-diagonal entries."""
    n, sums = two.n, two.sums
    first_a, first_b = (
        float(sums.total(side, "zero").square().sum()) - sums.squares(side, "zero")
        for side in (a, b)
    )
    second = float(sums.product(a, b, "zero").square().sum()) - sums.weight(a, b, "zero")
    return second - first_a * first_b / (n * (n - 1))
