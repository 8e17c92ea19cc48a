"""Shape and first-order measures: Procrustes, mean cosine and mean distance, from moments."""

import math
from dataclasses import dataclass

import torch

from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.similarity.arguments import Rows, in_range, two_sided, two_sided_moments
from bertft.similarity.spectra import nuclear_norms


@dataclass(frozen=True)
class Procrustes:
    """Distance after the best rotation of centered sides of unit size.

    Attributes:
        value: the distance, in [0, sqrt(2)]; `float(result)` too.
        squared: its square, in [0, 2].
        angle: `arccos` of the normalized nuclear norm, in radians, in [0, pi / 2].
    """

    value: float
    squared: float
    angle: float

    def __float__(self) -> float:
        return self.value


def procrustes(x: Rows | Moments, y: Rows | None = None) -> Procrustes:
    """Orthogonal Procrustes distance, `d^2 = 2 - 2 |C_xy|_* / sqrt(tr C_xx tr C_yy)`.

    0 for representations equal up to rotation, isotropic scale and shift. A metric, as is the
    angle. Cost: O(d^3).

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.

    Raises:
        ValueError: unequal n, fewer than 2 rows, or a side that does not vary.
        TypeError: input that is no floating-point matrix.

    Reference: Williams et al. 2021 (alpha = 1); Schoenemann 1966.
    """
    two = two_sided("procrustes", x, y, "raw")
    [nuclear] = nuclear_norms([two])
    size = math.sqrt(float(two.scatter(two.x, two.x).trace() * two.scatter(two.y, two.y).trace()))
    cosine = two.in_range(nuclear / size, 0.0, 1.0)
    squared = 2.0 - 2.0 * cosine
    return Procrustes(math.sqrt(squared), squared, math.acos(cosine))


def cosine(x: Rows | Moments, y: Rows | None = None) -> float:
    """First-order drift: the mean cosine between a row of x and the same row of y, in [-1, 1].

    Compares coordinates, so a rotation of the whole space counts as drift; it is not RSA.

    Args:
        x: `(n, d)` rows, or the `Moments` of both sides (row map "unit").
        y: `(n, d)` rows of the same positions and width.

    Raises:
        ValueError: unequal n or widths, or a zero row.
        TypeError: input that is no floating-point matrix.
    """
    moments = _same_width("cosine", x, y, "unit")
    a, b = moments.sides
    sums = moments.under("unit")
    value = float(sums.scatter(a, b).trace()) / sums.n + float(sums.mean(a) @ sums.mean(b))
    return in_range("cosine", value, -1.0, 1.0, moments.dtype)


def l2(x: Rows | Moments, y: Rows | None = None) -> float:
    """First-order drift: the mean Euclidean distance between a row of x and that of y, >= 0.

    In the units of the representations, so compare it with their norms.

    Args:
        x: `(n, d)` rows, or the `Moments` of both sides.
        y: `(n, d)` rows of the same positions and width.

    Raises:
        ValueError: unequal n or widths.
        TypeError: input that is no floating-point matrix.
    """
    moments = _same_width("l2", x, y, "raw")
    value = moments.mean_distance(*moments.sides)
    if not math.isfinite(value):
        raise torch.linalg.LinAlgError(
            "[l2] distances must be finite, got infinity; the rows are too large: scale them."
        )
    return value


def _same_width(name: str, x: Rows | Moments, y: Rows | None, row_map: RowMap) -> Moments:
    moments = two_sided_moments(name, x, y, row_map)
    if len(set(moments.widths.values())) > 1:
        raise ValueError(
            f"[{name}] sides must have the same width, got {moments.widths}; use a measure that "
            "compares spaces, such as rsa or cka."
        )
    return moments
