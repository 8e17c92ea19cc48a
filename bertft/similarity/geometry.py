"""The geometry of one side: how large its rows are, and how its variance is spread."""

import math
from dataclasses import dataclass, fields

import torch

from bertft.moments import Moments
from bertft.similarity.arguments import Rows, TwoSided, require_finite, require_spread
from bertft.similarity.sides import spectrum


@dataclass(frozen=True)
class Geometry:
    """What one representation looks like by itself.

    Attributes:
        mean_norm: mean length of a row, >= 0.
        mean_cosine: mean cosine of two different rows, in [-1, 1]; NaN without row map "unit".
        participation_ratio: `(tr C)^2 / tr C^2`, in [1, d]: how many directions share the variance.
        effective_rank: exponential of the entropy of the eigenvalues' shares, in [1, d].
        isoscore: `(participation_ratio - 1) / (d - 1)`, in [0, 1]: 1 where all directions vary
            alike.
        top_share: share of the variance in the top direction, in [1 / d, 1].
    """

    mean_norm: float
    mean_cosine: float
    participation_ratio: float
    effective_rank: float
    isoscore: float
    top_share: float


GEOMETRY = tuple(field.name for field in fields(Geometry))


def geometry_range(name: str, d: int) -> tuple[float, float]:
    """Return the least and the largest value of a quantity of `d` columns."""
    ranges = {
        "mean_norm": (0.0, math.inf),
        "mean_cosine": (-1.0, 1.0),
        "participation_ratio": (1.0, d),
        "effective_rank": (1.0, d),
        "isoscore": (0.0, 1.0),
        "top_share": (1.0 / d, 1.0),
    }
    return ranges[name]


def geometry(x: Rows | Moments, side: str | None = None) -> Geometry:
    """Describe the geometry of one representation.

    Cost: O(n d^2) for the sums and O(d^3) for the spectrum.

    Args:
        x: `(n, d)` rows, or `Moments` with row map "raw", and "unit" for the mean cosine.
        side: of the moments; may be left out for rows.

    Raises:
        ValueError: fewer than 2 rows, rows that do not vary, or a side that is not there.
        TypeError: input that is no floating-point matrix.
        torch.linalg.LinAlgError: rows too large for products in their type.

    Reference: Roy & Vetterli 2007 (effective rank); Rudman et al. 2022 (IsoScore).

    >>> x = torch.randn(1000, 8, dtype=torch.float64)
    >>> 7.8 < geometry(x).participation_ratio <= 8.0
    True
    """
    if isinstance(x, Moments):
        moments = x
    else:
        rows = torch.as_tensor(x)
        moments = Moments({"x": rows.shape[-1]}, [])
        moments.update({"x": rows})
    side = side or moments.sides[0]
    if side not in moments.sides or moments.n < 2:
        raise ValueError(
            f"[geometry] side must be among {moments.sides} with at least 2 rows, got {side!r} and "
            f"{moments.n}; pass another."
        )
    two = TwoSided("geometry", moments.under("raw"), side, side, moments.dtype)
    require_finite(two, side)
    require_spread(two, side)
    values = spectrum(two, side)[0].clamp(min=0.0)
    shares = values / values.sum()
    ratio = 1.0 / float(shares.square().sum())
    d = len(values)
    return Geometry(
        moments.mean_norm(side),
        mean_cosine(moments, side),
        ratio,
        math.exp(float(torch.special.entr(shares).sum())),
        (ratio - 1.0) / (d - 1.0) if d > 1 else math.nan,
        float(shares[0]),
    )


def mean_cosine(moments: Moments, side: str) -> float:
    """Return `(|sum of unit rows|^2 - n) / (n (n - 1))`, or NaN where unit rows are not summed."""
    if "unit" not in moments.row_maps:
        return math.nan
    total = moments.n * moments.under("unit").mean(side)
    return (float(total.square().sum()) - moments.n) / (moments.n * (moments.n - 1))
