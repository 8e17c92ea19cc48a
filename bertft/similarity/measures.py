"""The measures of a comparison by the names they have in its table."""

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.similarity.alignment import cka
from bertft.similarity.arguments import TwoSided, two_sided
from bertft.similarity.canonical import cca, cca_r_squared, pwcca, regression, svcca
from bertft.similarity.diagnostics import (
    chance_alignment,
    chance_correlation,
    chance_shared_variance,
)
from bertft.similarity.representational import rsa
from bertft.similarity.shape import cosine, l2, procrustes
from bertft.similarity.sides import Ridge, kept_rank, leading_rank
from bertft.similarity.spectra import (
    canonical_correlations,
    leading_correlations,
    nuclear_norms,
)

THRESHOLD = 0.99
"""Share of the variance that SVCCA keeps in a comparison."""

Factorize = Callable[[Sequence[TwoSided], Ridge | None], object]


@dataclass(frozen=True)
class Measure:
    """A number for a pair of layers, and what it needs.

    Attributes:
        compute: from the moments of two sides, and a ridge where `n_above_d`, to the value.
        row_map: the sums that it reads.
        low: its least value.
        high: its largest one.
        n_above_d: whether it is trivial unless rows outnumber columns, or there is a ridge.
        same_width: whether both sides must have the same width.
        least_rows: fewest rows that it is defined for.
        default: whether it is computed when no measures are named.
        is_biased: whether few rows bring its expectation nearer to that of equal sides.
        chance: from the moments to what unrelated rows would give on average, without ridge.
        factorize: solves what it factorizes, for many pairs at once.
    """

    compute: Callable[..., float]
    row_map: RowMap = "raw"
    low: float = -1.0
    high: float = 1.0
    n_above_d: bool = False
    same_width: bool = False
    least_rows: int = 2
    default: bool = True
    is_biased: bool = False
    chance: Callable[[Moments], float] | None = None
    factorize: Factorize | None = None


def _inverting(
    measure: Callable[..., Any],
    chance: Callable[[TwoSided], float],
    factorize: Factorize | None = None,
    **options: str,
) -> Measure:
    """A measure that inverts scatter matrices."""

    def compute(moments: Moments, ridge: Ridge | None = None) -> float:
        return float(measure(moments, ridge=ridge, **options))

    return Measure(
        compute, low=0.0, n_above_d=True, is_biased=True, chance=_of(chance), factorize=factorize
    )


def _of(chance: Callable[[TwoSided], float]) -> Callable[[Moments], float]:
    return lambda moments: chance(two_sided("chance", moments, None, "raw"))


def _correlation(two: TwoSided) -> float:
    return chance_correlation(two.n, kept_rank(two, two.x), kept_rank(two, two.y))


def _leading_correlation(two: TwoSided) -> float:
    ranks = (leading_rank(two, side, THRESHOLD) for side in (two.x, two.y))
    return chance_correlation(two.n, *ranks)


def _shared(two: TwoSided) -> float:
    return max(chance_shared_variance(two, two.x), chance_shared_variance(two, two.y))


def _factorize_leading(pairs: Sequence[TwoSided], ridge: Ridge | None) -> object:
    return leading_correlations(pairs, THRESHOLD)


def _factorize_products(pairs: Sequence[TwoSided], ridge: Ridge | None) -> object:
    return nuclear_norms(pairs)


MEASURES: dict[str, Measure] = {
    "rsa": Measure(rsa, "unit", least_rows=3),
    "rsa_dot": Measure(partial(rsa, kernel="dot"), least_rows=3),
    "rsa_sqeuclidean": Measure(partial(rsa, kernel="sqeuclidean"), least_rows=3),
    "rsa_correlation": Measure(
        partial(rsa, kernel="correlation"), "centered_unit", least_rows=3, default=False
    ),
    "cka": Measure(cka, low=0.0, is_biased=True, chance=_of(chance_alignment)),
    "cka_debiased": Measure(partial(cka, debiased=True), least_rows=4),
    "cca": _inverting(cca, _correlation, canonical_correlations),
    "cca_r2": _inverting(cca_r_squared, _shared),
    "svcca": Measure(
        lambda m: svcca(m, threshold=THRESHOLD).value,
        low=0.0,
        is_biased=True,
        chance=_of(_leading_correlation),
        factorize=_factorize_leading,
    ),
    "pwcca": _inverting(pwcca, _correlation, canonical_correlations),
    "pwcca_y": _inverting(pwcca, _correlation, canonical_correlations, side="y"),
    "procrustes": Measure(
        lambda m: procrustes(m).value,
        low=0.0,
        high=math.sqrt(2.0),
        is_biased=True,
        factorize=_factorize_products,
    ),
    "procrustes_angle": Measure(
        lambda m: procrustes(m).angle,
        low=0.0,
        high=math.pi / 2,
        is_biased=True,
        factorize=_factorize_products,
    ),
    "regression": _inverting(regression, lambda two: chance_shared_variance(two, two.y)),
    "regression_y": _inverting(
        regression, lambda two: chance_shared_variance(two, two.x), side="y"
    ),
    "cosine": Measure(cosine, "unit", same_width=True),
    "l2": Measure(l2, low=0.0, high=math.inf, same_width=True),
}


def factorize(
    pairs: Sequence[Moments], measures: Collection[str], ridge: Ridge | None = None
) -> None:
    """Solve what the measures of these pairs factorize, as batches with a matrix on each thread.

    The solutions stay with the pairs, where the measures find them. A pair that a measure refuses
    is left for it to refuse.
    """
    usable = []
    for moments in pairs:
        try:
            usable.append(two_sided("factorize", moments, None, "raw"))
        except (ValueError, torch.linalg.LinAlgError):
            continue
    solvers = dict.fromkeys(MEASURES[name].factorize for name in measures)
    for solve in filter(None, solvers):
        if usable:
            with suppress(torch.linalg.LinAlgError):
                solve(usable, ridge)
