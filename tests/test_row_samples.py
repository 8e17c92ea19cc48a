"""Measures that need rows: Gaussian CKA, neighborhoods, ranks; and permutation tests."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors

from bertft import Moments
from bertft import similarity as s
from bertft.similarity import SAMPLED
from bertft.similarity.permutation import similarities
from tests.test_similarity import related, rotation, table_rows


def sampled(name, x, y):
    measure = SAMPLED[name]
    return measure.compare(*(measure.prepare(torch.as_tensor(z)) for z in (x, y)))


def gaussian_cka(x, y, bandwidth=0.5):
    kernels = []
    for z in (x, y):
        median = np.median(squareform(pdist(z, "sqeuclidean")))
        kernels.append(rbf_kernel(z, gamma=1 / (2 * bandwidth**2 * median)))
    n = len(x)
    center = np.eye(n) - 1 / n
    a, b = (center @ k @ center for k in kernels)
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def overlap(x, y, k):
    found = [
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(z).kneighbors(return_distance=False)
        for z in (x, y)
    ]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(*found, strict=True)])


def test_check_values():
    x, y = table_rows()
    assert s.cka(x, y, kernel="rbf", bandwidth=0.5) == pytest.approx(0.65483118226, abs=6e-11)
    assert sampled("cka_rbf", x, y) == pytest.approx(0.6548311822, abs=1e-7)
    assert sampled("rsa_spearman", x, y) == pytest.approx(0.4817347875, abs=6e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_oracles(dtype):
    x, y = (torch.from_numpy(z).to(dtype) for z in related(n=150))
    a, b = x.double().numpy(), y.double().numpy()
    cosines = [pdist(z, "cosine") for z in (a, b)]
    expected = {
        "rsa_spearman": scipy.stats.spearmanr(*cosines).statistic,
        "rsa_kendall": scipy.stats.kendalltau(*cosines).statistic,
        "cka_rbf": gaussian_cka(a, b),
        "knn_overlap": overlap(a, b, 10),
    }
    assert set(expected) == set(SAMPLED)
    for name, value in expected.items():
        assert sampled(name, x, y) == pytest.approx(value, abs=2e-5), name
    assert s.neighbor_overlap(a, b, neighbors=3) == pytest.approx(overlap(a, b, 3))
    assert s.cka(a, b, kernel="rbf", bandwidth=1.3) == pytest.approx(gaussian_cka(a, b, 1.3))


@pytest.mark.parametrize("name", SAMPLED)
def test_invariances(name):
    x, y = related(n=80, dx=9, dy=9)
    assert sampled(name, x, x) == pytest.approx(1.0, abs=1e-6)
    before = sampled(name, x, y)
    assert sampled(name, x, 7 * y @ rotation(9)) == pytest.approx(before, abs=1e-6)
    assert sampled(name, y, x) == pytest.approx(before, abs=1e-6)
    order = np.random.default_rng(0).permutation(80)
    assert sampled(name, x[order], y[order]) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("name", ["knn_overlap", "cka_rbf"])
def test_chance_is_the_mean_over_orders(name):
    x, y = related(n=60)
    random = np.random.default_rng(0)
    found = [sampled(name, x, y[random.permutation(60)]) for _ in range(60)]
    measure = SAMPLED[name]
    expected = measure.chance(*(measure.prepare(torch.as_tensor(z)) for z in (x, y)))
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / np.sqrt(60))


def test_duplicated_rows_are_neighbors_of_each_other():
    x = np.repeat(related(n=20)[0], 2, axis=0)
    assert s.neighbor_overlap(x, x + 0.0, neighbors=1) == 1.0


@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_similarities_multiply_to_the_measure(measure):
    x, y = (torch.from_numpy(z) for z in related(n=60))
    found = float((similarities(x, measure) * similarities(y, measure)).sum())
    assert found == pytest.approx(getattr(s, measure)(x, y), abs=1e-10)


@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_p_values_are_those_of_all_orders(measure):
    x, y = related(n=6, dx=3, dy=3)
    value = getattr(s, measure)
    given = value(x, y)
    random = np.random.default_rng(1)
    orders = [random.permutation(6) for _ in range(600)]
    share = np.mean([value(x, y[order]) >= given - 1e-12 for order in orders])
    found = s.permutation_test(x, y, measure=measure, permutations=600)
    assert found.p_value == pytest.approx(share, abs=0.08)
    means = [value(x, y[order]) for order in orders]
    assert found.mean == pytest.approx(np.mean(means), abs=0.05)
    assert found.deviation == pytest.approx(np.std(means), rel=0.2)


@pytest.mark.parametrize("measure", ["rsa", "cka"])
def test_p_values_of_unrelated_rows_are_uniform(measure):
    random = np.random.default_rng(0)
    found = [
        s.permutation_test(
            random.normal(size=(20, 4)),
            random.normal(size=(20, 4)),
            measure=measure,
            permutations=39,
            seed=seed,
        ).p_value
        for seed in range(200)
    ]
    assert scipy.stats.kstest(found, scipy.stats.uniform(0, 1).cdf).statistic < 0.13
    again = s.permutation_test(*related(n=30), measure=measure, permutations=39, seed=5)
    assert again == s.permutation_test(*related(n=30), measure=measure, permutations=39, seed=5)
    assert again.p_value == 1 / 40


X = np.random.default_rng(0).normal(size=(30, 4))
ZERO = X * (np.arange(30) != 7)[:, None]
HOLED = np.where(np.arange(30)[:, None] == 11, np.nan, X)
CORNERS = np.eye(5)
TWINS = np.repeat(X[:2], (20, 10), axis=0)


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_collapsed_layer_has_no_value(name, dtype):
    collapsed = torch.full((30, 4), 1 / 3, dtype=dtype)
    collapsed *= 1 + torch.finfo(dtype).eps * torch.from_numpy(np.sign(X)).to(dtype)
    assert len(collapsed.unique()) > 1
    with pytest.raises(ValueError, match="x must vary over its 30 rows"):
        SAMPLED[name].prepare(collapsed)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: s.cka(X, X, kernel="poly"), ValueError, r"\[cka\] kernel must be one of"),
        (lambda: s.cka(X, X, bandwidth=0.0), ValueError, "bandwidth positive, got 'linear' and 0"),
        (lambda: s.cka(X, X, kernel="rbf", debiased=True), TypeError, "x and y must be rows for"),
        (lambda: s.cka(Moments.of(X, X), kernel="rbf"), TypeError, "x and y must be rows for"),
        (lambda: s.cka(TWINS, X, kernel="rbf"), ValueError, "rows must differ for a median"),
        (lambda: s.cka(X, X[:9], kernel="rbf"), ValueError, "same positions"),
        (lambda: s.neighbor_overlap(X, X[:9]), ValueError, "same positions, .* 30 and 9 rows"),
        (lambda: s.neighbor_overlap(X, X, neighbors=30), ValueError, "more than neighbors"),
        (lambda: s.neighbor_overlap(X, X, neighbors=0), ValueError, "and 0 neighbors"),
        (lambda: s.neighbor_overlap(X, ZERO), ValueError, "'y' must have a .* a zero row at 7;"),
        (lambda: s.neighbor_overlap(HOLED, X), ValueError, "'x' must be finite, .* in row 11;"),
        (lambda: s.neighbor_overlap(X, 0 * X + 3), ValueError, "y must vary over its 30 rows"),
        (lambda: s.permutation_test(X, X, measure="cca"), ValueError, "measure must be one of"),
        (lambda: s.permutation_test(X, X, permutations=0), ValueError, "at least 1, got 'rsa' and"),
        (lambda: s.permutation_test(X, X[:8]), ValueError, "same positions, at least 4, got 30"),
        (lambda: s.permutation_test(X, ZERO), ValueError, "'y' must have a .* a zero row at 7;"),
        (lambda: s.permutation_test(X, HOLED), ValueError, "'y' must be finite, .* in row 11;"),
        (lambda: s.permutation_test(X, 0 * X, measure="cka"), ValueError, "y must vary over its"),
        (lambda: s.permutation_test(CORNERS, X[:5]), ValueError, "pairs of rows of x must differ"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
