"""Centered kernel alignment (CKA): linear ones from moments, a Gaussian one from the rows."""

import math
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bertft.arrays import as_rows
from bertft.moments import Moments
from bertft.similarity.arguments import (
    Rows,
    TwoSided,
    geometric_mean,
    in_range,
    require_varied,
    two_sided,
)

Kernel = Literal["linear", "rbf"]


def cka(
    x: Rows | Moments,
    y: Rows | None = None,
    *,
    debiased: bool = False,
    kernel: Kernel = "linear",
    bandwidth: float = 0.5,
) -> float:
    """Centered kernel alignment; the linear one is `|C_xy|_F^2 / (|C_xx|_F |C_yy|_F)`.

    In [0, 1]: 1 for representations equal up to rotation, isotropic scale and shift. With few rows
    for the width it is biased upwards; `debiased=True` takes the ratio of unbiased estimates of
    HSIC instead, in [-1, 1] and near 0 for unrelated rows whatever n is.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        debiased: use the estimator of Song et al. 2012; needs n >= 4.
        kernel: "linear", or "rbf" for `exp(-D^2 / (2 t^2 median(D^2)))` of two rows at distance D,
            which takes rows, O(n^2 d) time and some 32 n^2 bytes.
        bandwidth: t, as a share of the root of the median over all n^2 pairs.

    Raises:
        ValueError: unequal n, too few rows, a side that does not vary, or an unknown kernel.
        TypeError: input that is no floating-point matrix.

    Reference: Kornblith et al. 2019; Song et al. 2012.

    >>> import torch
    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> round(cka(x, 3 * x + 1), 9)
    1.0
    """
    if kernel not in get_args(Kernel) or not bandwidth > 0:
        raise ValueError(
            f"[cka] kernel must be one of {get_args(Kernel)} and bandwidth positive, got "
            f"{kernel!r} and {bandwidth}; pass others."
        )
    if kernel == "rbf" and (debiased or y is None or isinstance(x, Moments)):
        raise TypeError(
            f"[cka] x and y must be rows for kernel='rbf', which has no debiased form here, got "
            f"{type(x).__name__} and debiased={debiased}; pass the rows of a sample."
        )
    two = two_sided("cka", x, y, "raw")
    if kernel == "rbf":
        assert not isinstance(x, Moments)
        assert y is not None
        rows = as_rows(x, "x"), as_rows(y, "y")
        return aligned(*(gaussian_kernel(side, bandwidth) for side in rows))
    return _debiased(two) if debiased else _biased(two)


def _biased(two: TwoSided) -> float:
    cross = two.scatter(two.x, two.y).square().sum()
    own = _size(two, two.x) * _size(two, two.y)
    return two.in_range(float(cross / own), 0.0, 1.0)


def _size(two: TwoSided, side: str) -> float:
    return two.sums.memo_of(side, "size", lambda: float(two.scatter(side, side).norm()))


def _debiased(two: TwoSided) -> float:
    if two.n < 4:
        raise ValueError(f"[cka] rows must be at least 4 for debiased, got {two.n}; pass more.")
    own_x, own_y = (
        two.sums.memo_of(side, "hsic", partial(_own_hsic, two, side)) for side in (two.x, two.y)
    )
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[cka] rows must be enough for a positive debiased HSIC of each side, got {own_x:.3g} "
            f"and {own_y:.3g} at n={two.n}; pass more rows, or check that no layer is collapsed."
        )
    cross = math.fsum(_hsic(two, two.x, two.y))
    size = geometric_mean(own_x, own_y)
    return two.in_range(cross / size, -1.0, 1.0)


def _own_hsic(two: TwoSided, side: str) -> float:
    return two.resolved(_hsic(two, side, side))


def _hsic(two: TwoSided, a: str, b: str) -> list[float]:
    """The terms of unbiased HSIC (Song et al. 2012), about the means, where row sums vanish."""
    n, q = two.n, two.sums.weight(a, b)
    kx, ky = two.sums.squares(a), two.sums.squares(b)
    size = float(two.scatter(a, b).square().sum())
    terms = [size, -q, kx * ky / ((n - 1) * (n - 2)), -2 * q / (n - 2)]
    return [term / (n * (n - 3)) for term in terms]


def gaussian_kernel(x: Tensor, bandwidth: float = 0.5) -> Tensor:
    """Return the centered kernel `exp(-D^2 / (2 t^2 median(D^2)))`, of unit norm, `(n, n)`.

    Raises:
        ValueError: rows that do not vary, or at least half of all pairs of which are equal, where
            the median is 0.
    """
    rows = x.double()
    require_varied("cka", "x", rows, x.dtype)
    rows = rows - rows.mean(dim=0)
    squares = rows.square().sum(dim=1)
    distances = torch.addmm(squares[:, None] + squares, rows, rows.T, alpha=-2).clamp_(min=0.0)
    distances.fill_diagonal_(0.0)
    median = float(np.median(distances.numpy()))
    # Equal rows are as far apart as products round.
    if not median > 1e-12 * float(squares.mean()):
        raise ValueError(
            f"[cka] rows must differ for a median distance above 0, got {median}; drop repeated "
            "rows, or use the linear kernel."
        )
    kernel = distances.div_(-2 * bandwidth**2 * median).exp_()
    means = kernel.mean(dim=0)
    kernel.sub_(means).sub_((means - means.mean())[:, None])
    return kernel.div_(kernel.norm())


def aligned(a: Tensor, b: Tensor) -> float:
    """Return the alignment of two kernels, centered and of unit norm."""
    return in_range("cka", float((a * b).sum(dim=1).double().sum()), 0.0, 1.0, a.dtype)
