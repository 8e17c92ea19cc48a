"""Representational similarity: pure functions of two `(n, d)` arrays, or of their `Moments`."""

from bertft.similarity.alignment import cka
from bertft.similarity.canonical import Canonical, Regression, cca, pwcca, regression, svcca
from bertft.similarity.measures import MEASURES, Measure, factorize
from bertft.similarity.representational import rsa
from bertft.similarity.shape import Procrustes, cosine, l2, procrustes

__all__ = [
    "MEASURES",
    "Canonical",
    "Measure",
    "Procrustes",
    "Regression",
    "cca",
    "cka",
    "cosine",
    "factorize",
    "l2",
    "procrustes",
    "pwcca",
    "regression",
    "rsa",
    "svcca",
]
