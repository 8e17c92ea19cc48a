"""What values stand on: chance, conditioning, shrinkage; and what a ridge does about it."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage

from bertft import Moments
from bertft import similarity as s
from bertft.similarity import MEASURES
from bertft.similarity.arguments import two_sided
from bertft.similarity.sides import shrinkage
from tests.test_similarity import centered, related


def unrelated(n, p, q, seed):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, p)), random.normal(size=(n, q))


@pytest.mark.parametrize(
    "shape", [(100, 8, 12), (300, 40, 40), (50, 20, 35), (2000, 20, 3)], ids=str
)
def test_chance_correlation_is_the_mean_over_unrelated_rows(shape):
    n, p, q = shape
    found = []
    for seed in range(200):
        x, y = (np.linalg.qr(centered(z))[0] for z in unrelated(n, p, q, seed))
        found.append(np.linalg.svd(x.T @ y, compute_uv=False)[: min(p, q)].mean())
    # It is a limit: for few columns a little too high.
    error = np.std(found) / np.sqrt(200)
    expected = s.chance_correlation(*shape)
    assert np.mean(found) - 4 * error <= expected <= np.mean(found) * 1.03 + 4 * error


def test_chance_correlation_where_rows_do_not_suffice():
    assert s.chance_correlation(10, 9, 2) == 1.0
    assert s.chance_correlation(10, 3, 20) == 1.0
    assert s.chance_correlation(101, 60, 60) > 2 / 3  # that many correlations are 1
    assert s.chance_correlation(200, 5, 9) == s.chance_correlation(200, 9, 5)


@pytest.mark.parametrize(
    "name", [n for n, m in MEASURES.items() if m.chance is not None and n not in ("svcca",)]
)
def test_chance_of_a_measure_is_its_mean_on_unrelated_rows(name):
    measure = MEASURES[name]
    found, expected = [], []
    for seed in range(150):
        x, y = unrelated(120, 10, 14, seed)
        moments = Moments.of(x * np.linspace(0.5, 2.0, 10), y)
        found.append(measure.compute(moments))
        expected.append(measure.chance(moments))
    error = np.std(found) / np.sqrt(150)
    assert np.mean(expected) == pytest.approx(np.mean(found), abs=4 * error + 0.005)


def test_chance_of_cka_is_its_mean_over_orders():
    x, y = related(n=40)
    random = np.random.default_rng(0)
    found = [s.cka(x, y[random.permutation(40)]) for _ in range(2000)]
    expected = MEASURES["cka"].chance(Moments.of(x, y))
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / np.sqrt(2000))


def test_diagnostics_are_those_of_the_covariance():
    x, y = related(n=200, dx=12, dy=9)
    x[:, 11] = x[:, 0] + x[:, 1]
    found = s.cca(x, y).diagnostics
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert (found.n, found.n_per_d, found.ranks) == (200, 200 / 12, (11, 9))
    assert found.conditions[0] == pytest.approx(values[0] / values[10], rel=1e-6)
    assert found.left_out[0] == pytest.approx(0.0, abs=1e-12)
    assert found.chance == s.chance_correlation(200, 11, 9)
    kept = s.svcca(x, y, threshold=0.8)
    share = values[: kept.rank_x].sum() / values.sum()
    assert kept.diagnostics.left_out[0] == pytest.approx(1 - share, abs=1e-9)
    assert s.regression(x, y).diagnostics.chance == pytest.approx(9 / 199)
    assert s.regression(x, y, side="y").diagnostics.chance == pytest.approx(11 / 199)
    assert math.isnan(s.cca(x, y, ridge=0.1).diagnostics.chance)
    assert s.diagnose(Moments.of(x, y)).ranks == (11, 9)


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_shrinkage_is_ledoit_and_wolfs(n):
    x, y = related(n=n)
    two = two_sided("cca", x, y, "raw")
    for side, rows in (("x", x), ("y", y)):
        assert shrinkage(two, side) == pytest.approx(ledoit_wolf_shrinkage(rows), abs=1e-10)


@pytest.mark.parametrize("name", ["cca", "pwcca"])
def test_shrunken_correlations_are_those_of_shrunken_covariances(name):
    x, y = related(n=25, dx=12, dy=9)
    found = getattr(s, name)(x, y, ridge="ledoit-wolf")
    x, y = centered(x), centered(y)
    shares = [ledoit_wolf_shrinkage(z) for z in (x, y)]
    covariances = [
        (1 - a) * z.T @ z + a * np.trace(z.T @ z) / z.shape[1] * np.eye(z.shape[1])
        for z, a in zip((x, y), shares, strict=True)
    ]
    roots = [np.linalg.inv(np.linalg.cholesky(c)) for c in covariances]
    # The cross-products of the joint covariance shrink too, by the geometric mean of both.
    cross = x.T @ y * math.sqrt(np.prod([1 - a for a in shares]))
    rho = np.linalg.svd(roots[0] @ cross @ roots[1].T, compute_uv=False)
    np.testing.assert_allclose(found.correlations.numpy(), rho, atol=1e-9)


def test_shrinkage_brings_cca_of_few_rows_down_to_the_truth():
    x, y = unrelated(120, 100, 100, 0)
    assert s.cca(x, y).value > 0.7
    assert s.cca(x, y, ridge=1.0).value < s.cca(x, y, ridge=0.1).value < s.cca(x, y).value


def test_rows_without_a_covariance_of_their_own_are_refused():
    for seed in range(30):
        x, y = unrelated(12, 8, 8, seed)
        if ledoit_wolf_shrinkage(x) == 1.0:
            break
    with pytest.raises(torch.linalg.LinAlgError, match=r"\[cca\] x must have a covariance .* n=12"):
        s.cca(x, y, ridge="ledoit-wolf")


@pytest.mark.parametrize("ridge", [0, -1.0, math.inf, math.nan, "best"])
def test_a_ridge_that_is_none_is_refused(ridge):
    x, y = related()
    for measure in (s.cca, s.pwcca, s.regression):
        with pytest.raises(ValueError, match=r"ridge must be positive or 'ledoit-wolf', got"):
            measure(x, y, ridge=ridge)


def test_sides_are_solved_once_for_all_pairs(monkeypatch):
    solved = []
    eigh = s.sides.ops.eigh
    monkeypatch.setattr(
        s.sides.ops,
        "eigh",
        lambda matrices, *rest: (solved.append(len(matrices)), eigh(matrices, *rest)),
    )
    rows = {side: torch.randn(80, 6) for side in "abcd"}
    pairs = [(a, b) for a in "ab" for b in "cd"]
    moments = Moments(dict.fromkeys(rows, 6), pairs)
    moments.update(rows)
    s.factorize([moments.pair(*pair) for pair in pairs], ["cca"])
    for pair in pairs:
        assert s.cca(moments.pair(*pair)).value == pytest.approx(
            s.cca(*(rows[side] for side in pair)).value, abs=1e-9
        )
    assert solved[0] == 4
    # All others are of the arrays; adding rows forgets what was solved.
    assert solved[1:] == [2] * 4
    before = s.cca(moments.pair("a", "c")).value
    moments.update(rows | {"a": torch.randn(80, 6)})
    assert s.cca(moments.pair("a", "c")).value < before
