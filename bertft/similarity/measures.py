"""The measures of a comparison by the names they have in its table."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from bertft.moments import Moments
from bertft.ops import RowMap
from bertft.similarity.alignment import cka
from bertft.similarity.arguments import TwoSided, two_sided
from bertft.similarity.canonical import cca, pwcca, regression, svcca
from bertft.similarity.representational import rsa
from bertft.similarity.shape import cosine, l2, procrustes
from bertft.similarity.spectra import canonical_correlations, leading_correlations, nuclear_norms


@dataclass(frozen=True)
class Measure:
    """A number for a pair of layers, and what it needs.

    Attributes:
        compute: from the moments of two sides to the value.
        row_map: the sums that it reads.
        n_above_d: whether it is trivial unless rows outnumber columns.
        same_width: whether both sides must have the same width.
        least_rows: fewest rows that it is defined for.
        default: whether it is computed when no measures are named.
        factorize: solves what it factorizes, for many pairs at once.
    """

    compute: Callable[[Moments], float]
    row_map: RowMap = "raw"
    n_above_d: bool = False
    same_width: bool = False
    least_rows: int = 2
    default: bool = True
    factorize: Callable[[Sequence[TwoSided]], object] | None = None


MEASURES: dict[str, Measure] = {
    "rsa": Measure(rsa, "unit", least_rows=3),
    "rsa_dot": Measure(lambda m: rsa(m, kernel="dot"), least_rows=3),
    "rsa_sqeuclidean": Measure(lambda m: rsa(m, kernel="sqeuclidean"), least_rows=3),
    "rsa_correlation": Measure(
        lambda m: rsa(m, kernel="correlation"), "centered_unit", least_rows=3, default=False
    ),
    "cka": Measure(cka),
    "cka_debiased": Measure(lambda m: cka(m, debiased=True), least_rows=4),
    "cca": Measure(lambda m: cca(m).value, n_above_d=True, factorize=canonical_correlations),
    "cca_r2": Measure(lambda m: cca(m).r_squared, n_above_d=True, factorize=canonical_correlations),
    "svcca": Measure(
        lambda m: svcca(m).value, factorize=lambda pairs: leading_correlations(pairs, 0.99)
    ),
    "pwcca": Measure(lambda m: pwcca(m).value, n_above_d=True, factorize=canonical_correlations),
    "pwcca_y": Measure(
        lambda m: pwcca(m, side="y").value, n_above_d=True, factorize=canonical_correlations
    ),
    "procrustes": Measure(lambda m: procrustes(m).value, factorize=nuclear_norms),
    "procrustes_angle": Measure(lambda m: procrustes(m).angle, factorize=nuclear_norms),
    "regression": Measure(lambda m: regression(m).value, n_above_d=True),
    "regression_y": Measure(lambda m: regression(m, side="y").value, n_above_d=True),
    "cosine": Measure(cosine, "unit", same_width=True),
    "l2": Measure(l2, same_width=True),
}


def factorize(pairs: Sequence[Moments], measures: Collection[str]) -> None:
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
    for name in measures:
        solve = MEASURES[name].factorize
        if solve is not None and usable:
            solve(usable)
