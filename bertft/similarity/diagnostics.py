"""What a value stands on: rows, kept ranks, conditioning, and what chance alone would give."""

import math
from dataclasses import dataclass

import numpy as np

from bertft.moments import Moments
from bertft.similarity.arguments import TwoSided, two_sided
from bertft.similarity.sides import condition, kept_rank, left_out

INFLATED = 0.25
"""From this value by chance on, a measure is called inflated: CCA below some 11 rows a column."""


@dataclass(frozen=True)
class Diagnostics:
    """What a measure that inverts scatter matrices stands on.

    Attributes:
        n: rows.
        n_per_d: rows for each column of the wider side.
        ranks: directions that were kept of x and of y.
        conditions: the largest by the smallest eigenvalue that was kept, of both.
        left_out: shares of the variance of both in directions that were not kept.
        chance: what unrelated rows would give on average; NaN where that is not known.
    """

    n: int
    n_per_d: float
    ranks: tuple[int, int]
    conditions: tuple[float, float]
    left_out: tuple[float, float]
    chance: float


def diagnose(moments: Moments) -> Diagnostics:
    """Return what CCA of a two-sided `Moments` stands on.

    Raises:
        ValueError: a side that does not vary.
    """
    two = two_sided("diagnose", moments, None, "raw")
    ranks = kept_rank(two, two.x), kept_rank(two, two.y)
    return diagnosed(two, ranks, chance_correlation(two.n, *ranks))


def diagnosed(two: TwoSided, ranks: tuple[int, int], chance: float) -> Diagnostics:
    """Return what a measure on the first `ranks` directions of both sides stands on."""
    width = max(len(two.sums.totals[side]) for side in (two.x, two.y))
    x, y = two.x, two.y
    conditions = condition(two, x), condition(two, y)
    out = left_out(two, x, ranks[0]), left_out(two, y, ranks[1])
    return Diagnostics(two.n, two.n / width, ranks, conditions, out, chance)


def chance_correlation(n: int, rank_x: int, rank_y: int) -> float:
    """Return the mean canonical correlation that unrelated rows of these ranks give on average.

    The mean root under Wachter's law, to which the squared correlations of independent Gaussian
    rows tend as n and the ranks grow; 1 for n - 1 <= max(rank_x, rank_y). For one column on each
    side it is 6 % too high, for ten on each 1 %.

    Reference: Wachter 1980; Johnstone 2008.

    >>> round(chance_correlation(2000, 768, 768), 3)
    0.549
    """
    small, large = sorted((rank_x / (n - 1), rank_y / (n - 1)))
    if large >= 1.0:
        return 1.0
    center = small + large - 2 * small * large
    half = 2 * math.sqrt(small * large * (1 - small) * (1 - large))
    # Gauss and Chebyshev of the second kind: the density has a root at both ends.
    steps = 2000
    angles = np.arange(1, steps) * math.pi / steps
    squares = center + half * np.cos(angles)
    weights = half**2 * np.sin(angles) ** 2 / steps / (2 * small)
    within = float((weights / (np.sqrt(squares) * (1 - squares))).sum())
    # Where the ranks exceed n - 1 together, some correlations are 1.
    return within + max(0.0, small + large - 1) / small


def chance_alignment(two: TwoSided) -> float:
    """Return the mean CKA over all orders of one side's rows.

    `tr C_xx tr C_yy / ((n - 1) |C_xx|_F |C_yy|_F)`, exact for these rows.
    """
    concentration = 1.0
    for side in (two.x, two.y):
        scatter = two.scatter(side, side)
        concentration *= float(scatter.trace() / scatter.norm())
    return concentration / (two.n - 1)


def chance_shared_variance(two: TwoSided, side: str) -> float:
    """Return the share of the other side's variance that this side's rank explains by chance.

    `rank / (n - 1)`, exact for Gaussian rows; of the side of the higher rank it is the mean squared
    canonical correlation too.
    """
    return min(1.0, kept_rank(two, side) / (two.n - 1))
