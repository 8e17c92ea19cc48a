"""Intervals of measures: the delete-a-group jackknife over groups of sentences."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bertft.amounts import require_integers
from bertft.moments import Moments

LEAST_GROUPS = 5
Values = Sequence[float] | NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with a 95 % interval and the standard error behind it."""

    value: float
    low: float
    high: float
    error: float


def jackknife(measure: Callable[[Moments], float], parts: Sequence[Moments]) -> Interval:
    """Estimate a measure from groups of rows, with a 95 % interval (delete-a-group jackknife).

    Leaves one group out at a time. What varies is which groups were drawn, so rows of one group may
    depend on each other as they like: put whole sentences or documents into one. A bootstrap over
    rows would count pairs of equal rows and is biased. For a measure with a bias at finite n, such
    as `cka` or `cca`, the interval covers the biased value. Cost: a measure for each group.

    Args:
        measure: from two-sided moments to a number.
        parts: the moments of each group; groups of like size.

    Raises:
        ValueError: fewer than 5 groups.

    Reference: Busing, Meijer & van der Leeden 1999 (groups of unequal size).

    >>> import torch
    >>> from bertft.similarity import cka
    >>> x = torch.randn(500, 4, dtype=torch.float64)
    >>> y = x + torch.randn(500, 4, dtype=torch.float64)
    >>> parts = [Moments.of(x[i : i + 50], y[i : i + 50]) for i in range(0, 500, 50)]
    >>> found = jackknife(lambda moments: cka(moments, debiased=True), parts)
    >>> found.low < found.value < found.high
    True
    """
    require_groups("jackknife", len(parts))
    if not all(part.n for part in parts):
        raise ValueError(
            f"[jackknife] groups must have rows, got {[part.n for part in parts]}; leave out those "
            "without."
        )
    whole = sum(parts[1:], parts[0])
    left_out = [float(measure(whole - part)) for part in parts]
    return interval(float(measure(whole)), left_out, [part.n for part in parts])


def interval(value: float, left_out: Values, sizes: Sequence[int]) -> Interval:
    """Return the interval of a value from the values without each group of these sizes."""
    error = standard_error(value, left_out, sizes)
    half = float(stdtrit(len(sizes) - 1, 0.975)) * error
    return Interval(value, value - half, value + half, error)


def standard_error(value: float, left_out: Values, sizes: Sequence[int]) -> float:
    """`sqrt(mean_j (t_j - t)^2 / (h_j - 1))`, `h_j = n / n_j`, `t_j = h_j v - (h_j - 1) v_(j)`.

    `t` is the jackknife's own estimate, `g v - sum_j (1 - 1 / h_j) v_(j)` of g groups.
    """
    h = sum(sizes) / np.asarray(sizes, float)
    without = np.asarray(left_out, float)
    own = h * value - (h - 1) * without
    center = len(h) * value - ((1 - 1 / h) * without).sum()
    return math.sqrt(float(((own - center) ** 2 / (h - 1)).mean()))


def difference(first: Interval, second: Interval, groups: tuple[int, int]) -> Interval:
    """Return the interval of a difference of two estimates from independent groups (Welch)."""
    variances = first.error**2, second.error**2
    error = math.sqrt(sum(variances))
    value = first.value - second.value
    if error == 0.0:
        return Interval(value, value, value, 0.0)
    spread = sum(v**2 / (g - 1) for v, g in zip(variances, groups, strict=True))
    half = float(stdtrit(sum(variances) ** 2 / spread, 0.975)) * error
    return Interval(value, value - half, value + half, error)


def require_groups(function: str, groups: int) -> None:
    """Refuse too few groups.

    Raises:
        ValueError: fewer than 5.
        TypeError: no whole number.
    """
    require_integers(function, groups=groups)
    if groups < LEAST_GROUPS:
        raise ValueError(
            f"[{function}] groups must be at least {LEAST_GROUPS}, got {groups}; pass more, 20 say."
        )
