"""The geometry of one side: check values, oracles, invariances, refusals."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import pdist

from bertft import Moments
from bertft.similarity import geometry
from tests.test_similarity import related, rotation, table_rows


def test_check_values():
    found = geometry(table_rows()[0])
    assert found.participation_ratio == pytest.approx(9.1507913563, abs=6e-11)
    assert found.effective_rank == pytest.approx(9.5361298911, abs=6e-11)
    assert found.isoscore == pytest.approx(0.9056434840, abs=6e-11)


@pytest.mark.parametrize("n", [8, 300])
def test_oracles(n):
    x, _ = related(n=n)
    found = geometry(x)
    values = np.linalg.eigvalsh(np.cov(x.T)).clip(0)
    shares = values / values.sum()
    assert found.mean_norm == pytest.approx(np.linalg.norm(x, axis=1).mean())
    assert found.mean_cosine == pytest.approx(1 - pdist(x, "cosine").mean())
    assert found.participation_ratio == pytest.approx(values.sum() ** 2 / np.square(values).sum())
    assert found.effective_rank == pytest.approx(math.exp(scipy.stats.entropy(shares)))
    assert found.top_share == pytest.approx(shares.max())


def isoscore_by_its_steps(x):
    """Rudman et al. 2022, section 4: principal axes, normalized variances, their defect."""
    _, axes = np.linalg.eigh(np.cov(x.T))
    variances = np.var(x @ axes, axis=0, ddof=1)
    d = len(variances)
    normalized = math.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(normalized - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    share = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    return (d * share - 1) / (d - 1)


def test_isoscore_is_that_of_its_paper():
    x, _ = related()
    assert geometry(x).isoscore == pytest.approx(isoscore_by_its_steps(x), abs=1e-10)


def test_shapes_of_known_geometry():
    random = np.random.default_rng(0)
    even = geometry(random.normal(size=(200_000, 6)))
    assert even.participation_ratio == pytest.approx(6, abs=1e-2)
    assert even.isoscore == pytest.approx(1, abs=1e-3)
    line = geometry(np.outer(random.normal(size=50), np.ones(6)))
    for found, expected in zip(
        (line.participation_ratio, line.effective_rank, line.isoscore, line.top_share),
        (1, 1, 0, 1),
        strict=True,
    ):
        assert found == pytest.approx(expected, abs=1e-9)
    assert geometry(np.ones((9, 4)) + 1e-3 * random.normal(size=(9, 4))).mean_cosine > 0.999
    assert math.isnan(geometry(random.normal(size=(9, 1))).isoscore)


def test_invariances():
    x, _ = related(n=200, dx=9)
    before = geometry(x)
    turned, scaled = geometry(x @ rotation(9)), geometry(3 * x)
    for name in ("participation_ratio", "effective_rank", "isoscore", "top_share", "mean_cosine"):
        for other in (turned, scaled):
            assert getattr(other, name) == pytest.approx(getattr(before, name), abs=1e-9)
    assert scaled.mean_norm == pytest.approx(3 * before.mean_norm)
    assert geometry(x + 5).isoscore == pytest.approx(before.isoscore, abs=1e-9)


def test_of_moments():
    x, y = related()
    moments = Moments.of(x, y)
    assert geometry(moments, "y") == geometry(y)
    assert math.isnan(geometry(Moments.of(x, y, row_maps=["raw"]), "x").mean_cosine)


def test_refusals():
    x, _ = related()
    with pytest.raises(ValueError, match=r"\[geometry\] side must be among .* got 'z'"):
        geometry(Moments.of(x, x), "z")
    with pytest.raises(ValueError, match=r"side must be among .* at least 2 rows, got 'x' and 1"):
        geometry(x[:1])
    with pytest.raises(ValueError, match=r"\[geometry\] x must vary over its 7 rows"):
        geometry(torch.ones(7, 3))
    with pytest.raises(TypeError, match="must be a floating-point"):
        geometry(torch.ones(7, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="must be finite, got NaN"):
        geometry(np.full((5, 2), np.nan))
