"""The CCA family and regression: measures that invert a scatter matrix, from moments."""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from bertft.moments import Moments
from bertft.similarity import chance
from bertft.similarity.arguments import Rows, TwoSided, two_sided
from bertft.similarity.diagnostics import Diagnostics, diagnosed
from bertft.similarity.sides import (
    Ridge,
    coloring,
    kept_rank,
    require_ridge,
    retained,
)
from bertft.similarity.spectra import (
    Solution,
    canonical_correlations,
    decompose,
    explained,
    leading_correlations,
    shared_variance,
)

Side = Literal["x", "y"]


@dataclass(frozen=True)
class Canonical:
    """A measure of the CCA family with what it stands on.

    Attributes:
        value: the measure; `float(result)` too.
        correlations: canonical correlations, `(min(rank_x, rank_y),)`, descending.
        r_squared: `R^2_CCA`, the sum of squared correlations over `min(rank_x, rank_y)`.
        diagnostics: rows, kept ranks, conditioning, and the mean of `correlations` by chance.
    """

    value: float
    correlations: Tensor
    r_squared: float
    diagnostics: Diagnostics

    @property
    def rank_x(self) -> int:
        """Directions of x that were kept."""
        return self.diagnostics.ranks[0]

    @property
    def rank_y(self) -> int:
        """Directions of y that were kept."""
        return self.diagnostics.ranks[1]

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Regression:
    """Variance explained by a linear map, with what it stands on; `float(result)` too.

    `rank` counts the directions that explain.
    """

    value: float
    rank: int
    diagnostics: Diagnostics

    def __float__(self) -> float:
        return self.value


def cca(x: Rows | Moments, y: Rows | None = None, *, ridge: Ridge | None = None) -> Canonical:
    """Canonical correlation analysis; the value is the mean canonical correlation.

    In [0, 1]: 1 where each side is an invertible linear map of the other. Rises with d / n even
    for unrelated rows, so it needs many more rows than columns. Directions of a scatter matrix
    below 1e-8 of its largest eigenvalue (1e-12 for float64 rows; more where few float32 rows round
    more) are dropped on each side, and the kept ranks are in the result. Cost: O(d^3).

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        ridge: added to each side's eigenvalues, as a share of their mean, or "ledoit-wolf" for
            the share that shrinks a covariance best (Ledoit & Wolf 2004); lifts n > d.

    Raises:
        ValueError: n <= d without `ridge`, unequal n, or a side that does not vary.
        torch.linalg.LinAlgError: correlations above 1 beyond round-off.

    Reference: Hotelling 1936; Raghu et al. 2017.

    >>> import torch
    >>> x = torch.randn(50, 4, dtype=torch.float64)
    >>> round(cca(x, x @ torch.randn(4, 4, dtype=torch.float64)).value, 9)
    1.0
    """
    two = _determined("cca", x, y, ridge)
    [solution] = canonical_correlations([two], ridge)
    expected = chance.correlation(two, ridge)
    return _canonical(two, solution.rho, _ranks(two), float(solution.rho.mean()), expected)


def svcca(x: Rows | Moments, y: Rows | None = None, *, threshold: float = 0.99) -> Canonical:
    """Mean canonical correlation of the leading principal directions of each side.

    Keeps the fewest directions that hold the share `threshold` of a side's variance. In [0, 1];
    not invariant to scaling one direction, unlike CCA, and usable with fewer rows.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        threshold: share of the variance to keep, in (0, 1].

    Raises:
        ValueError: a threshold out of range, unequal n, or a side that does not vary.

    Reference: Raghu et al. 2017.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"[svcca] threshold must be in (0, 1], got {threshold}; pass 0.99.")
    two = two_sided("svcca", x, y, "raw")
    [(rho, ranks)] = leading_correlations([two], threshold)
    expected = chance.chance_correlation(two.n, *ranks)
    return _canonical(two, rho, ranks, float(rho.mean()), expected)


def pwcca(
    x: Rows | Moments, y: Rows | None = None, *, side: Side = "x", ridge: Ridge | None = None
) -> Canonical:
    """Canonical correlations weighted by how much of one side's neurons they account for.

    `sum_i a_i rho_i / sum_i a_i`, where `a_i` sums over neurons `j` the absolute product of the
    i-th canonical variate with `x_j`. In [0, 1]; not symmetric.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        side: whose neurons give the weights.
        ridge: as in `cca`.

    Raises:
        ValueError: as `cca`, or an unknown side.

    Reference: Morcos et al. 2018, with the whitening that its published code leaves out.
    """
    if side not in get_args(Side):
        raise ValueError(f'[pwcca] side must be "x" or "y", got {side!r}; pass one.')
    two = _determined("pwcca", x, y, ridge)
    [solution] = canonical_correlations([two], ridge)
    value = _weighted(two, solution, side, ridge)
    return _canonical(two, solution.rho, _ranks(two), value, chance.correlation(two, ridge))


def _weighted(two: TwoSided, solution: Solution, side: Side, ridge: Ridge | None) -> float:
    own, vectors = (two.x, solution.x) if side == "x" else (two.y, solution.y)
    weights = (vectors.T @ coloring(two, own, ridge)).abs().sum(dim=1)
    return float(weights @ solution.rho / weights.sum())


def chance_weighted_correlation(two: TwoSided, ridge: Ridge | None, side: Side) -> float:
    """Return the mean PWCCA by chance, with a ridge as the mean over seeded draws.

    Without ridge the weights have nothing to do with the correlations, whose mean it is. A ridge
    leaves most of the directions of most variance, which then have the larger ones of both.
    """
    if ridge is None:
        return chance.correlation(two)

    def draw() -> list[Solution]:
        ranks = _ranks(two)
        x, y = (retained(two, own, ridge).sqrt() for own in (two.x, two.y))
        seeds = range(-(-chance.DRAWN // min(ranks)))
        drawn = [chance.unrelated_directions(two.n, *ranks, seed) for seed in seeds]
        return decompose([x[:, None] * directions * y for directions in drawn])

    drawn = two.sums.memo(("unrelated", ridge), draw)
    return sum(_weighted(two, solution, side, ridge) for solution in drawn) / len(drawn)


def cca_r_squared(moments: Moments, ridge: Ridge | None = None) -> float:
    """Return `R^2_CCA` without the correlations themselves: no singular values are needed."""
    two = _determined("cca", moments, None, ridge)
    return two.in_range(shared_variance(two, ridge) / min(_ranks(two)), 0.0, 1.0)


def regression(
    x: Rows | Moments, y: Rows | None = None, *, side: Side = "x", ridge: Ridge | None = None
) -> Regression:
    """Share of one side's variance that a linear map of the other explains (R^2).

    `tr(C_xy C_yy^+ C_yx) / tr C_xx`, weighted by variance over the columns; in [0, 1]. With a ridge
    R^2 of the ridge regression on these rows, `tr(C_xy A^-1 (2 A - C_yy) A^-1 C_yx) / tr C_xx` with
    `A = C_yy + r`.

    Args:
        x: `(n, d_x)` rows, or the `Moments` of both sides (row map "raw").
        y: `(n, d_y)` rows of the same positions.
        side: the side that is explained: "x" regresses x on y.
        ridge: as in `cca`.

    Raises:
        ValueError: as `cca`, or an unknown side.
    """
    if side not in get_args(Side):
        raise ValueError(f'[regression] side must be "x" or "y", got {side!r}; pass one.')
    two = _determined("regression", x, y, ridge)
    target, source = (two.x, two.y) if side == "x" else (two.y, two.x)
    variance = float(two.scatter(target, target).trace())
    value = explained(two, target, source, ridge) / variance
    expected = chance.explained_variance(two, source, ridge)
    diagnostics = diagnosed(two, _ranks(two), expected)
    return Regression(two.in_range(value, 0.0, 1.0), kept_rank(two, source), diagnostics)


def _determined(name: str, x: Rows | Moments, y: Rows | None, ridge: Ridge | None) -> TwoSided:
    """Two sides with more rows than columns, unless a ridge makes up for it."""
    two = two_sided(name, x, y, "raw")
    if ridge is not None:
        require_ridge(name, ridge)
    d = max(len(two.sums.totals[side]) for side in (two.x, two.y))
    if two.n <= d and ridge is None:
        raise ValueError(
            f"[{name}] rows must outnumber columns, got n={two.n} and d={d}, where every value is "
            "1; pass more rows, or ridge=, or use svcca or cka(debiased=True)."
        )
    return two


def _ranks(two: TwoSided) -> tuple[int, int]:
    return kept_rank(two, two.x), kept_rank(two, two.y)


def _canonical(
    two: TwoSided, rho: Tensor, ranks: tuple[int, int], value: float, expected: float
) -> Canonical:
    r_squared = two.in_range(float(rho.square().mean()), 0.0, 1.0)
    diagnostics = diagnosed(two, ranks, expected)
    return Canonical(two.in_range(value, 0.0, 1.0), rho, r_squared, diagnostics)
