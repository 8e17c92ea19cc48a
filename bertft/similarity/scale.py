"""How the values of a measure are read: its range and its ends, and when chance rules them."""

from collections.abc import Callable
from dataclasses import dataclass

INFLATED = 0.25
"""Similarity by chance from which on a value is inflated: that of CCA at 11 rows a column."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scale of a measure.

    Attributes:
        low: its least value.
        high: its largest one.
        unchanged: its value for equal sides.
        least_rows: fewest rows that it is defined for.
        is_biased: whether few rows bring its expectation nearer to that of equal sides.
        similarity: from a value to what is 1 for equal sides and 0 without any similarity.
    """

    low: float = -1.0
    high: float = 1.0
    unchanged: float = 1.0
    least_rows: int = 2
    is_biased: bool = False
    similarity: Callable[[float], float] = float

    def is_inflated(self, chance: float) -> bool:
        """Return whether values stand little above this one, which unrelated rows give."""
        return self.similarity(chance) >= INFLATED
