"""Representational similarity analysis (RSA) without a matrix over pairs of rows.

Pearson from moments; rank correlations from the rows.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bertft import ops
from bertft.arrays import as_rows
from bertft.moments import Moments
from bertft.ops import Correlation, PairedRows, RowMap
from bertft.ops.row_maps import map_rows
from bertft.similarity.arguments import Rows, TwoSided, geometric_mean, two_sided

Covariance = Callable[[TwoSided, str, str], list[float]]
"""From two sides to the terms of the covariance of their pairs of rows, times the pairs."""

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
    themselves, O(n^2 d) time and up to 18 n^2 bytes (36 n^2 for float64 rows). Pairs are not
    independent, so the p-value of such a correlation does not apply.

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
    >>> round(rsa(x, 3 * x), 9)
    1.0
    """
    if kernel not in _ROW_MAPS:
        raise ValueError(
            f"[rsa] kernel must be one of {get_args(Kernel)}, got {kernel!r}; pass one."
        )
    if correlation not in get_args(Correlation):
        raise ValueError(
            f"[rsa] correlation must be one of {get_args(Correlation)}, got {correlation!r}; pass "
            "one."
        )
    if correlation != "pearson" and isinstance(x, Moments):
        raise TypeError(
            f"[rsa] x and y must be rows for {correlation}, got Moments; pass the rows of a "
            "sample, or correlation='pearson'."
        )
    two = two_sided("rsa", x, y, _ROW_MAPS[kernel])
    if two.n < 3:
        raise ValueError(f"[rsa] rows must be at least 3, got {two.n}; pass more rows.")
    covariance = _dot_covariance if kernel == "dot" else _distance_covariance
    own_x, own_y = (
        two.sums.memo_of(side, covariance, partial(_variance, covariance, two, side))
        for side in (two.x, two.y)
    )
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[rsa] pairs of rows must differ in similarity on each side, got variances "
            f"{own_x:.3g} and {own_y:.3g} times the pairs; check that the layer is not collapsed."
        )
    if not isinstance(x, Moments) and y is not None and correlation != "pearson":
        return _by_rank(as_rows(x, "x"), as_rows(y, "y"), kernel, correlation)
    size = geometric_mean(own_x, own_y)
    value = math.fsum(covariance(two, two.x, two.y)) / size
    return two.in_range(value, -1.0, 1.0)


def _by_rank(x: Tensor, y: Tensor, kernel: Kernel, correlation: Correlation) -> float:
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    a, b = (paired_rows(rows, kernel, dtype) for rows in (x, y))
    value = ops.correlate_pairs(a, b, correlation)
    if math.isnan(value):
        raise ValueError(
            "[rsa] pairs of rows must differ in similarity on each side, got a side where all are "
            "alike; check that the layer is not collapsed."
        )
    return value


def paired_rows(x: Tensor, kernel: Kernel, dtype: torch.dtype) -> PairedRows:
    """Return the rows whose products make the similarities of a kernel, less their mean.

    About the mean, `z = map(x) - m`, squared distances are `|z_i|^2 + |z_j|^2 - 2 z_i . z_j`, and
    between unit rows the cosine is 1 less half of that: nothing is lost to a common direction.
    Dot products are `z_i . z_j + m . z_i + m . z_j + |m|^2`.
    """
    rows = map_rows(x, _ROW_MAPS[kernel])
    mean = rows.mean(dim=0)
    z = (rows - mean).to(dtype)
    wide = z.double()
    squares = wide.square().sum(dim=1)
    scale, offsets = {
        "sqeuclidean": (-2.0, squares),
        "dot": (1.0, wide @ mean),
    }.get(kernel, (1.0, -squares / 2))
    n = len(z)
    products = wide.sum(dim=0).square().sum() - squares.sum()
    average = scale * products / (n * (n - 1)) + 2 * offsets.mean()
    return PairedRows(z.contiguous(), offsets - average / 2, scale)


def _variance(covariance: Covariance, two: TwoSided, side: str) -> float:
    return two.resolved(covariance(two, side, side))


def _distance_covariance(two: TwoSided, a: str, b: str) -> list[float]:
    """About the means the terms of `2n q + 2 kx ky + 4 |C_xy|_F^2 - (2n)^2 kx ky / P`, P pairs.

    Serves cosine and correlation too: between unit rows the squared distance is 2 - 2 cos, so the
    correlation over pairs is the same. Unlike the form in `m_x^T C_xy m_y` it does not cancel when
    all rows point the same way.
    """
    n, q = two.n, two.sums.weight(a, b)
    kx, ky = two.sums.squares(a), two.sums.squares(b)
    size = float(two.scatter(a, b).square().sum())
    return [2 * n * q, 2 * kx * ky, 4 * size, -4 * n * kx * ky / (n - 1)]


def _dot_covariance(two: TwoSided, a: str, b: str) -> list[float]:
    """About the means the terms of `S - kx ky / (n (n - 1))`.

    `S = |C_xy|_F^2 + (2n - 4) c - q - 2 m_x . sum |y|^2 x - 2 m_y . sum |x|^2 y` with m the means
    and `c = m_x^T C_xy m_y`. Dot products are `x_i . x_j + m_x . (x_i + x_j)` there, and a
    constant. About origin 0, where the form is shorter, rows with a common direction cancel.
    """
    n, sums = two.n, two.sums
    cross, of_x, of_y = two.scatter(a, b), sums.mean(a), sums.mean(b)
    size, shared = float(cross.square().sum()), float(of_x @ cross @ of_y)
    means = float(of_x @ sums.weighted(a, b) + of_y @ sums.weighted(b, a))
    average = sums.squares(a) * sums.squares(b) / (n * (n - 1))
    return [size, (2 * n - 4) * shared, -sums.weight(a, b), -2 * means, -average]
