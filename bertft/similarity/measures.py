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
from bertft.similarity import chance
from bertft.similarity.alignment import cka
from bertft.similarity.arguments import TwoSided, two_sided
from bertft.similarity.canonical import (
    cca,
    cca_r_squared,
    chance_weighted_correlation,
    pwcca,
    regression,
    svcca,
)
from bertft.similarity.representational import rsa
from bertft.similarity.scale import Scale
from bertft.similarity.shape import cosine, l2, procrustes
from bertft.similarity.sides import Ridge, coloring, require_spectra, retained, spectrum
from bertft.similarity.spectra import (
    canonical_correlations,
    leading_correlations,
    nuclear_norms,
)

THRESHOLD = 0.99
"""Share of the variance that SVCCA keeps in a comparison."""

Factorize = Callable[[Sequence[TwoSided], Ridge | None], object]
Scaled = Callable[[TwoSided, Ridge | None], float]
"""From two sides and a ridge to a value that a measure has by chance, or for equal sides."""


@dataclass(frozen=True)
class Measure(Scale):
    """A number for a pair of layers, its scale, and what it needs.

    Attributes:
        compute: from the moments of two sides, and a ridge where `n_above_d`, to the value.
        row_map: the sums that it reads.
        n_above_d: whether it is trivial unless rows outnumber columns, or there is a ridge.
        same_width: whether both sides must have the same width.
        default: whether it is computed when no measures are named.
        by_chance: what unrelated rows would give on average.
        shrunken: what the first side gives beside itself with a ridge, where that is less.
        factorize: solves what it factorizes, for many pairs at once.
    """

    compute: Callable[..., float]
    row_map: RowMap = "raw"
    n_above_d: bool = False
    same_width: bool = False
    default: bool = True
    by_chance: Scaled | None = None
    shrunken: Scaled | None = None
    factorize: Factorize | None = None

    def chance(self, moments: Moments, ridge: Ridge | None = None) -> float:
        """Return what unrelated rows would give on average; NaN where that is not known."""
        if self.by_chance is None:
            return math.nan
        return self.by_chance(_sides_of(moments, self.row_map), ridge)

    def beside_itself(self, moments: Moments, ridge: Ridge | None = None) -> float:
        """Return what the first side gives beside itself."""
        if ridge is None or self.shrunken is None:
            return self.unchanged
        return self.shrunken(_sides_of(moments, self.row_map), ridge)


def _sides_of(moments: Moments, row_map: RowMap) -> TwoSided:
    return two_sided("chance", moments, None, row_map)


def _unbiased(
    compute: Callable[..., float],
    row_map: RowMap = "raw",
    least_rows: int = 3,
    default: bool = True,
) -> Measure:
    """A measure of pairs of rows that is 0 on average over all orders of the rows of a side."""
    return Measure(
        compute, row_map, default=default, by_chance=lambda two, ridge: 0.0, least_rows=least_rows
    )


def _factorize_sides(pairs: Sequence[TwoSided], ridge: Ridge | None) -> None:
    require_spectra(pairs)


def _inverting(
    measure: Callable[..., Any],
    by_chance: Scaled,
    shrunken: Scaled,
    factorize: Factorize = _factorize_sides,
    **options: str,
) -> Measure:
    """A measure that inverts scatter matrices."""

    def compute(moments: Moments, ridge: Ridge | None = None) -> float:
        return float(measure(moments, ridge=ridge, **options))

    return Measure(
        compute,
        low=0.0,
        n_above_d=True,
        is_biased=True,
        by_chance=by_chance,
        shrunken=shrunken,
        factorize=factorize,
    )


def _shrunken_correlation(two: TwoSided, ridge: Ridge | None) -> float:
    return float(retained(two, two.x, ridge).mean())


def _shrunken_square(two: TwoSided, ridge: Ridge | None) -> float:
    return float(retained(two, two.x, ridge).square().mean())


def _shrunken_weighted(two: TwoSided, ridge: Ridge | None) -> float:
    weights = coloring(two, two.x, ridge).abs().sum(dim=1)
    return float(weights @ retained(two, two.x, ridge) / weights.sum())


def _shrunken_share(two: TwoSided, ridge: Ridge | None) -> float:
    kept, (values, _) = retained(two, two.x, ridge), spectrum(two, two.x)
    return float((values[: len(kept)] * kept * (2 - kept)).sum() / values.sum())


def _factorize_leading(pairs: Sequence[TwoSided], ridge: Ridge | None) -> object:
    return leading_correlations(pairs, THRESHOLD)


def _factorize_products(pairs: Sequence[TwoSided], ridge: Ridge | None) -> object:
    return nuclear_norms(pairs)


MEASURES: dict[str, Measure] = {
    "rsa": _unbiased(rsa, "unit"),
    "rsa_dot": _unbiased(partial(rsa, kernel="dot")),
    "rsa_sqeuclidean": _unbiased(partial(rsa, kernel="sqeuclidean")),
    "rsa_correlation": _unbiased(
        partial(rsa, kernel="correlation"), "centered_unit", default=False
    ),
    "cka": Measure(
        cka, low=0.0, is_biased=True, by_chance=lambda two, ridge: chance.alignment(two)
    ),
    "cka_debiased": _unbiased(partial(cka, debiased=True), least_rows=4),
    "cca": _inverting(cca, chance.correlation, _shrunken_correlation, canonical_correlations),
    "cca_r2": _inverting(cca_r_squared, chance.squared_correlation, _shrunken_square),
    "svcca": Measure(
        lambda m: svcca(m, threshold=THRESHOLD).value,
        low=0.0,
        is_biased=True,
        by_chance=lambda two, ridge: chance.leading_correlation(two, THRESHOLD),
        factorize=_factorize_leading,
    ),
    "pwcca": _inverting(
        pwcca,
        partial(chance_weighted_correlation, side="x"),
        _shrunken_weighted,
        canonical_correlations,
    ),
    "pwcca_y": _inverting(
        pwcca,
        partial(chance_weighted_correlation, side="y"),
        _shrunken_weighted,
        canonical_correlations,
        side="y",
    ),
    "procrustes": Measure(
        lambda m: procrustes(m).value,
        low=0.0,
        high=math.sqrt(2.0),
        unchanged=0.0,
        is_biased=True,
        by_chance=lambda two, ridge: math.sqrt(2 - 2 * chance.procrustes_cosine(two)),
        similarity=lambda distance: 1 - distance**2 / 2,
        factorize=_factorize_products,
    ),
    "procrustes_angle": Measure(
        lambda m: procrustes(m).angle,
        low=0.0,
        high=math.pi / 2,
        unchanged=0.0,
        is_biased=True,
        by_chance=lambda two, ridge: math.acos(chance.procrustes_cosine(two)),
        similarity=math.cos,
        factorize=_factorize_products,
    ),
    "regression": _inverting(
        regression,
        lambda two, ridge: chance.explained_variance(two, two.y, ridge),
        _shrunken_share,
    ),
    "regression_y": _inverting(
        regression,
        lambda two, ridge: chance.explained_variance(two, two.x, ridge),
        _shrunken_share,
        side="y",
    ),
    "cosine": Measure(cosine, "unit", same_width=True),
    "l2": Measure(l2, low=0.0, high=math.inf, unchanged=0.0, same_width=True),
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
