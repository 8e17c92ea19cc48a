"""Centered kernel alignment (CKA), biased and debiased, from moments."""

import math

from bertft.moments import Moments
from bertft.similarity.arguments import Rows, TwoSided, two_sided


def cka(x: Rows | Moments, y: Rows | None = None, *, debiased: bool = False) -> float:
    """Linear centered kernel alignment, `|C_xy|_F^2 / (|C_xx|_F |C_yy|_F)`.

    In [0, 1]: 1 for representations equal up to rotation, isotropic scale and shift. With few rows
    for the width it is biased upwards; `debiased=True` takes the ratio of unbiased estimates of
    HSIC instead, in [-1, 1] and near 0 for unrelated rows whatever n is.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        debiased: use the estimator of Song et al. 2012; needs n >= 4.

    Raises:
        ValueError: unequal n, too few rows, or a side that does not vary.
        TypeError: input that is no floating-point matrix.

    Reference: Kornblith et al. 2019; Song et al. 2012.

    >>> import torch
    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> round(cka(x, 3 * x + 1), 9)
    1.0
    """
    two = two_sided("cka", x, y, "raw")
    return _debiased(two) if debiased else _biased(two)


def _biased(two: TwoSided) -> float:
    cross = two.scatter(two.x, two.y).square().sum()
    own = two.scatter(two.x, two.x).norm() * two.scatter(two.y, two.y).norm()
    return two.in_range(float(cross / own), 0.0, 1.0)


def _debiased(two: TwoSided) -> float:
    if two.n < 4:
        raise ValueError(f"[cka] rows must be at least 4 for debiased, got {two.n}; pass more.")
    own_x, own_y = _hsic(two, two.x, two.x), _hsic(two, two.y, two.y)
    if min(own_x, own_y) <= 0.0:
        raise ValueError(
            f"[cka] rows must be enough for a positive debiased HSIC of each side, got {own_x:.3g} "
            f"and {own_y:.3g} at n={two.n}; pass more rows."
        )
    return two.in_range(_hsic(two, two.x, two.y) / math.sqrt(own_x * own_y), -1.0, 1.0)


def _hsic(two: TwoSided, a: str, b: str) -> float:
    """Unbiased HSIC of two sides (Song et al. 2012), about the means, where row sums vanish."""
    n, q = two.n, two.sums.weight(a, b, "means")
    kx, ky = two.sums.squares(a, "means"), two.sums.squares(b, "means")
    trace = float(two.scatter(a, b).square().sum()) - q
    return (trace + kx * ky / ((n - 1) * (n - 2)) - 2 * q / (n - 2)) / (n * (n - 3))
