"""The shapes of data that every backend shares."""

from typing import Literal, NamedTuple

from torch import Tensor

RowMap = Literal["raw", "unit", "centered_unit"]


class Cross(NamedTuple):
    """Sums over rows for a pair of sides, about their origins; all float64.

    Attributes:
        product: `(d_x, d_y)`, the sum of `x y^T`.
        left: `(d_x,)`, the sum of `|y|^2 x`.
        right: `(d_y,)`, the sum of `|x|^2 y`.
        weight: `(1,)`, the sum of `|x|^2 |y|^2`.
    """

    product: Tensor
    left: Tensor
    right: Tensor
    weight: Tensor
