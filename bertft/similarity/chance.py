"""What rows that have nothing in common give on average, at their number and their variances.

Few rows for their columns are alike by chance: the larger this is, the less a value says. Rows have
nothing in common once one side's are shuffled, which leaves n and both scatter matrices as they
are. Means over all orders are exact where a square is averaged; the mean root behind correlations
and nuclear norms is that of random rotations, to which it tends as n and the ranks grow.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertft.similarity.arguments import TwoSided
from bertft.similarity.sides import Ridge, kept_rank, leading_rank, retained, spectrum

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_ANGLES, _STEPS = math.pi / 4 * (_NODES + 1), math.pi / 4 * _WEIGHTS

DRAWN = 200
"""Directions of the draws behind the mean of PWCCA with a ridge."""


def chance_correlation(n: int, rank_x: int, rank_y: int) -> float:
    """Return the mean canonical correlation that unrelated rows of these ranks give on average.

    The mean root under Wachter's law, to which the squared correlations of independent Gaussian
    rows tend as n and the ranks grow; 1 for n - 1 <= max(rank_x, rank_y). For one column on each
    side it is 6 % too high, for ten on each 1 %.

    Reference: Wachter 1980; Johnstone 2008.

    >>> round(chance_correlation(2000, 768, 768), 3)
    0.549
    """
    if max(rank_x, rank_y) >= n - 1:
        return 1.0
    return nuclear_norm(n, np.ones(rank_x), np.ones(rank_y)) / min(rank_x, rank_y)


def nuclear_norm(n: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the mean nuclear norm of cross-products of unrelated rows, from their variances.

    `N (2 / pi) int_0^m sqrt(u w_x w_y / (1 - u)) du`, N = n - 1, m the smaller rank over N, and
    `w(u)` where `sum v / (v + w) = N u` over a side's variances v: the mean root of the free
    product of both spectra, whose S-transforms multiply. With variances of 1 it is Wachter's.

    Args:
        n: rows.
        x: positive eigenvalues of the scatter matrix of x, n - 1 of them at most.
        y: of y.

    Reference: Voiculescu 1987; Nica & Speicher 2006.
    """
    most = min(len(x), len(y)) / (n - 1)
    # With u = m sin^2 t nothing is infinite at either end.
    u = most * np.sin(_ANGLES) ** 2
    roots = np.sqrt(u * _level(x, (n - 1) * u) * _level(y, (n - 1) * u) / (1 - u))
    return float(2 / math.pi * (n - 1) * most * (_STEPS * np.sin(2 * _ANGLES)) @ roots)


def _level(values: NDArray[np.float64], freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return w with `sum v / (v + w)` at these degrees of freedom, by bisection of log w."""
    v, counts = np.unique(values, return_counts=True)
    # Were all variances the least or the largest of them, w would be at this ratio to them.
    ratio = np.maximum(len(values) / freedom - 1, 1e-15)
    low, high = np.log(v[0] * ratio), np.log(v[-1] * ratio)
    for _ in range(48):
        middle = (low + high) / 2
        above = (counts * v / (v + np.exp(middle)[:, None])).sum(axis=1) > freedom
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    level: NDArray[np.float64] = np.exp((low + high) / 2)
    return level


def correlation(two: TwoSided, ridge: Ridge | None = None) -> float:
    """Return the mean canonical correlation by chance."""
    if ridge is None:
        return chance_correlation(two.n, kept_rank(two, two.x), kept_rank(two, two.y))

    def compute() -> float:
        x, y = (retained(two, side, ridge).numpy() for side in (two.x, two.y))
        return min(1.0, nuclear_norm(two.n, x, y) / min(len(x), len(y)))

    return two.sums.memo(("chance", ridge), compute)


def leading_correlation(two: TwoSided, threshold: float) -> float:
    """Return the mean canonical correlation of leading directions by chance."""
    return chance_correlation(
        two.n, *(leading_rank(two, side, threshold) for side in (two.x, two.y))
    )


def squared_correlation(two: TwoSided, ridge: Ridge | None = None) -> float:
    """Return the mean squared canonical correlation by chance, exact for these rows.

    `tr H_x tr H_y / ((n - 1) min(r_x, r_y))`, `tr H` the degrees of freedom: a side's rank, or with
    a ridge r the sum of `v / (v + r)` over its variances v.
    """
    x, y = (retained(two, side, ridge) for side in (two.x, two.y))
    return float(x.sum() * y.sum()) / ((two.n - 1) * min(len(x), len(y)))


def explained_variance(two: TwoSided, source: str, ridge: Ridge | None = None) -> float:
    """Return the share of the other side's variance that this side explains by chance.

    `sum h (2 - h) / (n - 1)` with `h = v / (v + r)`, exact for these rows; without ridge the rank
    over n - 1.
    """
    kept = retained(two, source, ridge)
    return float((kept * (2 - kept)).sum()) / (two.n - 1)


def alignment(two: TwoSided) -> float:
    """Return the mean CKA by chance, `tr C_xx tr C_yy / ((n - 1) |C_xx|_F |C_yy|_F)`, exactly."""
    product = 1.0
    for side in (two.x, two.y):
        scatter = two.scatter(side, side)
        product *= float(scatter.trace() / scatter.norm())
    return product / (two.n - 1)


def kernel_alignment(a: Tensor, b: Tensor) -> float:
    """Return the mean alignment by chance of two centered kernels of unit norm, exactly."""
    return float(a.trace() * b.trace()) / (len(a) - 1)


def procrustes_cosine(two: TwoSided) -> float:
    """Return the mean normalized nuclear norm by chance, the cosine of the Procrustes angle."""

    def compute() -> float:
        x, y = (spectrum(two, side)[0][: kept_rank(two, side)].numpy() for side in (two.x, two.y))
        return min(1.0, nuclear_norm(two.n, x, y) / math.sqrt(x.sum() * y.sum()))

    return two.sums.memo("chance of a nuclear norm", compute)


def unrelated_directions(n: int, rank_x: int, rank_y: int, seed: int) -> Tensor:
    """Draw the cross-products of whitened unrelated rows, `(rank_x, rank_y)`.

    A corner of a random orthogonal matrix: cosines between two bases of n - 1 dimensions.
    """
    random = np.random.default_rng(seed)
    others = n - 1 - rank_x
    few = min(rank_y, others)
    # Of the rows beyond the corner only their products count: their triangular factor (Bartlett).
    rest = np.triu(random.normal(size=(few, rank_y)), 1)
    rest[range(few), range(few)] = np.sqrt(random.chisquare(others - np.arange(few)))
    basis = np.linalg.qr(np.vstack([random.normal(size=(rank_x, rank_y)), rest]))[0]
    return torch.from_numpy(basis[:rank_x].copy())
