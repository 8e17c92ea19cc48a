"""What a value stands on: rows, kept ranks, conditioning, and what chance alone would give."""

from dataclasses import dataclass, fields

from bertft.moments import Moments
from bertft.similarity.arguments import TwoSided, two_sided
from bertft.similarity.chance import correlation
from bertft.similarity.sides import condition, kept_rank, left_out


@dataclass(frozen=True)
class Diagnostics:
    """What a measure that inverts scatter matrices stands on.

    Attributes:
        n: rows.
        n_per_d: rows for each column of the wider side.
        ranks: directions that were kept of x and of y.
        conditions: the largest by the smallest eigenvalue that was kept, of both.
        left_out: shares of the variance of both in directions that were not kept.
        chance: what unrelated rows would give on average: of the mean canonical correlation, or of
            the share of variance that is explained.
    """

    n: int
    n_per_d: float
    ranks: tuple[int, int]
    conditions: tuple[float, float]
    left_out: tuple[float, float]
    chance: float

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{field.name}={_short(getattr(self, field.name))}" for field in fields(self)
        )
        return f"Diagnostics({shown})"


def _short(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def diagnose(moments: Moments) -> Diagnostics:
    """Return what CCA of a two-sided `Moments` stands on.

    Raises:
        ValueError: a side that does not vary.
    """
    two = two_sided("diagnose", moments, None, "raw")
    ranks = kept_rank(two, two.x), kept_rank(two, two.y)
    return diagnosed(two, ranks, correlation(two))


def diagnosed(two: TwoSided, ranks: tuple[int, int], chance: float) -> Diagnostics:
    """Return what a measure on the first `ranks` directions of both sides stands on."""
    width = max(len(two.sums.totals[side]) for side in (two.x, two.y))
    x, y = two.x, two.y
    conditions = condition(two, x, ranks[0]), condition(two, y, ranks[1])
    out = left_out(two, x, ranks[0]), left_out(two, y, ranks[1])
    return Diagnostics(two.n, two.n / width, ranks, conditions, out, chance)
