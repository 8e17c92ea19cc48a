"""Representational similarity: pure functions of two `(n, d)` arrays, or of their `Moments`."""

from bertft.similarity.alignment import cka
from bertft.similarity.canonical import Canonical, Regression, cca, pwcca, regression, svcca
from bertft.similarity.chance import chance_correlation
from bertft.similarity.diagnostics import Diagnostics, diagnose
from bertft.similarity.geometry import GEOMETRY, Geometry, geometry
from bertft.similarity.intervals import Interval, jackknife
from bertft.similarity.measures import MEASURES, Measure, factorize
from bertft.similarity.neighbors import SAMPLED, Sampled, neighbor_overlap
from bertft.similarity.permutation import PermutationTest, permutation_test
from bertft.similarity.representational import rsa
from bertft.similarity.shape import Procrustes, cosine, l2, procrustes

__all__ = [
    "GEOMETRY",
    "MEASURES",
    "SAMPLED",
    "Canonical",
    "Diagnostics",
    "Geometry",
    "Interval",
    "Measure",
    "PermutationTest",
    "Procrustes",
    "Regression",
    "Sampled",
    "cca",
    "chance_correlation",
    "cka",
    "cosine",
    "diagnose",
    "factorize",
    "geometry",
    "jackknife",
    "l2",
    "neighbor_overlap",
    "permutation_test",
    "procrustes",
    "pwcca",
    "regression",
    "rsa",
    "svcca",
]
