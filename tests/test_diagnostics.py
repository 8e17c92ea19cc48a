"""What values stand on: chance, conditioning, shrinkage; and what a ridge does about it."""

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import Ridge

from bertft import Moments
from bertft import similarity as s
from bertft.similarity import MEASURES
from bertft.similarity.arguments import two_sided
from bertft.similarity.chance import unrelated_directions
from bertft.similarity.sides import shrinkage
from tests.test_similarity import ALL_MAPS, centered, related


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


WITH_CHANCE = [name for name, measure in MEASURES.items() if measure.by_chance is not None]
UNBIASED = [name for name in WITH_CHANCE if not MEASURES[name].is_biased]
WITH_RIDGE = [name for name in WITH_CHANCE if MEASURES[name].n_above_d]


SHAPED = {
    # More rows than columns; few rows of a well-conditioned side; fewer rows than columns.
    "many": (120, 30, 20, np.geomspace(1, 0.02, 30)),
    "few": (40, 12, 9, 1.0),
    "fewest": (25, 40, 30, 1.0),
}


@cache
def over_orders(shape, ridge, orders=150):
    """By measure: its mean over orders of the rows of one side, its error, and what is expected."""
    n, dx, dy, scales = SHAPED[shape]
    x, y = related(n, dx, dy)
    random = np.random.default_rng(0)
    names, options = (WITH_CHANCE, {}) if ridge is None else (WITH_RIDGE, {"ridge": ridge})
    found = {name: [] for name in names}
    for _ in range(orders):
        moments = Moments.of(x * scales, y[random.permutation(n)], row_maps=ALL_MAPS)
        for name in names:
            found[name].append(MEASURES[name].compute(moments, **options))
    return {
        name: (np.mean(of), np.std(of) / np.sqrt(orders), MEASURES[name].chance(moments, ridge))
        for name, of in found.items()
    }


@pytest.mark.parametrize("ridge", [None, 0.1, 3.0])
def test_chance_of_a_measure_is_its_mean_over_orders(ridge):
    for name, (mean, error, chance) in over_orders("many", ridge).items():
        # The mean root is a limit, and the one of PWCCA with a ridge that of a few draws.
        assert chance == pytest.approx(mean, abs=4 * error + 0.008), name


@pytest.mark.parametrize("ridge", [None, 0.5])
def test_chance_of_what_is_squared_is_exact(ridge):
    found = over_orders("few", ridge)
    exact = {"cka", "cca_r2", "regression", "regression_y", *UNBIASED}
    for name in exact & set(found):
        mean, error, chance = found[name]
        assert chance == pytest.approx(mean, abs=4 * error), name


@pytest.mark.parametrize("ridge", [1e-9, 0.1, "ledoit-wolf"])
def test_fewer_rows_than_columns_are_inflated_with_any_ridge(ridge):
    for name, (mean, error, chance) in over_orders("fewest", ridge, orders=60).items():
        assert chance == pytest.approx(mean, abs=4 * error + 0.012), name
        assert MEASURES[name].is_inflated(chance) or (name, ridge) == ("cca_r2", "ledoit-wolf")
        if ridge == 1e-9:
            assert chance == pytest.approx(1.0, abs=1e-6), name


def test_distances_are_inflated_where_chance_is_near_0():
    small, large = Moments.of(*unrelated(60, 40, 40, 0)), Moments.of(*unrelated(2000, 5, 5, 0))
    for name in ("procrustes", "procrustes_angle"):
        measure = MEASURES[name]
        assert measure.is_inflated(measure.chance(small))
        assert not measure.is_inflated(measure.chance(large))
        assert measure.is_inflated(measure.unchanged)


@pytest.mark.parametrize("name", WITH_RIDGE)
@pytest.mark.parametrize("shape", [(25, 40), (200, 12)], ids=str)
def test_what_a_layer_gives_beside_itself_with_a_ridge(name, shape):
    x = related(*shape)[0]
    moments = Moments.of(x, x)
    for ridge in (0.2, "ledoit-wolf"):
        found = MEASURES[name].compute(moments, ridge=ridge)
        assert MEASURES[name].beside_itself(moments, ridge) == pytest.approx(found, abs=1e-9)
        assert found < 0.999
    assert MEASURES[name].beside_itself(moments) == 1.0


@pytest.mark.parametrize("shape", [(30, 10, 8), (12, 9, 5), (12, 4, 9), (12, 11, 11)], ids=str)
def test_unrelated_directions_are_corners_of_rotations(shape):
    n, p, q = shape
    drawn = [unrelated_directions(*shape, seed).numpy() for seed in range(400)]
    sizes = [np.square(z).sum() for z in drawn]
    assert np.mean(sizes) == pytest.approx(p * q / (n - 1), abs=4 * np.std(sizes) / 20 + 1e-9)
    random = np.random.default_rng(0)
    expected = []
    for _ in range(400):
        bases = [np.linalg.qr(random.normal(size=(n - 1, r)))[0] for r in (p, q)]
        expected.append(np.linalg.norm(bases[0].T @ bases[1], "nuc"))
    found = [np.linalg.norm(z, "nuc") for z in drawn]
    error = math.hypot(np.std(found), np.std(expected)) / 20
    assert np.mean(found) == pytest.approx(np.mean(expected), abs=4 * error + 1e-9)


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
    # Of the directions that were kept, which are fewer than those of CCA.
    conditions = values[0] / values[kept.rank_x - 1], found.conditions[0]
    assert kept.diagnostics.conditions[0] == pytest.approx(conditions[0], rel=1e-6)
    assert conditions[0] < conditions[1] / 1.5
    assert s.regression(x, y).diagnostics.chance == pytest.approx(9 / 199)
    assert s.regression(x, y, side="y").diagnostics.chance == pytest.approx(11 / 199)
    assert s.cca(x, y, ridge=0.1).diagnostics.chance < found.chance
    assert s.regression(x, y, ridge=0.1).diagnostics.chance < 9 / 199
    assert s.diagnose(Moments.of(x, y)).ranks == (11, 9)
    shown = r"Diagnostics\(n=200, n_per_d=16.67, ranks=\(11, 9\), .*, chance=0\.\d{4}\)"
    assert re.fullmatch(shown, repr(found))


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 5.0])
def test_regression_with_a_ridge_is_that_of_ridge_regression(n, ridge):
    x, y = related(n=n, dx=25, dy=30)
    for side, target, source in (("x", x, y), ("y", y, x)):
        target, source = centered(target), centered(source)
        penalty = ridge * np.square(source).sum() / source.shape[1]
        map_ = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(source, target)
        expected = 1 - np.square(target - map_.predict(source)).sum() / np.square(target).sum()
        found = s.regression(x, y, side=side, ridge=ridge)
        assert found.value == pytest.approx(expected, abs=1e-10)


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
