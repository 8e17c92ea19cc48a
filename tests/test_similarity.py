"""Every measure: check values, independent oracles, invariances, hostile rows, refusals."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.distance import pdist
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression

from bertft import Moments, ops
from bertft import similarity as s
from bertft.similarity import MEASURES, factorize
from bertft.similarity.representational import paired_rows
from tests.tolerances import DTYPES
from tests.tolerances import MEASURES as CLOSE
from tests.tolerances import name as dtype_name

ALL_MAPS = ("raw", "unit", "centered_unit")


def table_rows():
    """The rows of the check values."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    return x, random.randn(100, 10) + x


def related(n=400, dx=12, dy=9, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, dx)) * np.linspace(0.5, 2.0, dx) + 1.0
    y = x @ random.normal(size=(dx, dy)) + 2.0 * random.normal(size=(n, dy)) - 0.5
    return x, y


def value(name, x, y):
    return MEASURES[name].compute(Moments.of(x, y, row_maps=ALL_MAPS))


CHECK_VALUES = [
    (lambda x, y: s.cka(x, y), 0.5576132566),
    (lambda x, y: s.cka(x, y, debiased=True), 0.5134564895),
    (lambda x, y: s.cca(x, y).value, 0.7310139588),
    (lambda x, y: s.cca(x, y).r_squared, 0.5453963322),
    (lambda x, y: s.rsa(x, y), 0.4936161881),
    (lambda x, y: s.rsa(x, y, correlation="spearman"), 0.4817347875),
    (lambda x, y: s.rsa(x, y, kernel="dot"), 0.5138583152),
    (lambda x, y: s.rsa(x, y, kernel="sqeuclidean"), 0.5062321116),
    (lambda x, y: s.rsa(x, y, kernel="correlation"), 0.4851461428),
    (lambda x, y: s.procrustes(x, y).squared, 0.5274893788),
    (lambda x, y: s.procrustes(x, y).value, 0.7262846403),
    (lambda x, y: s.procrustes(x, y).angle, 0.7432764761),
    (lambda x, y: s.pwcca(x, y).value, 0.7346677196),
    (lambda x, y: s.pwcca(x, y, side="y").value, 0.7368405675),
]


@pytest.mark.parametrize(("measure", "expected"), CHECK_VALUES)
def test_check_values(measure, expected):
    x, y = table_rows()
    assert measure(x, y) == pytest.approx(expected, abs=6e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("name", MEASURES)
def test_narrow_rows_give_the_value_of_their_float64_copies(name, dtype):
    x, y = (torch.from_numpy(rows).to(dtype) for rows in table_rows())
    assert value(name, x, y) == pytest.approx(value(name, x.double(), y.double()), abs=CLOSE[dtype])


def correlation_of_pairs(a, b):
    return np.corrcoef(a, b)[0, 1]


def centered(x):
    return x - x.mean(axis=0)


def orthonormal(x):
    return scipy.linalg.qr(centered(x), mode="economic")[0]


def gram_hsic(k, l):  # noqa: E741
    """Song et al. 2012, estimator (5), by its matrices."""
    n = len(k)
    k, l = (m - np.diag(np.diag(m)) for m in (k, l))  # noqa: E741
    one = np.ones(n)
    return (
        np.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2.0 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def pwcca_by_variates(x, y):
    x, y = centered(x), centered(y)
    left, rho, _ = np.linalg.svd(orthonormal(x).T @ orthonormal(y))
    variates = orthonormal(x) @ left[:, : len(rho)]
    weights = np.abs(variates.T @ x).sum(axis=1)
    return weights @ rho / weights.sum()


def svcca_by_rows(x, y):
    kept = []
    for rows in (x, y):
        left, sizes, _ = np.linalg.svd(centered(rows), full_matrices=False)
        share = np.cumsum(sizes**2) / np.sum(sizes**2)
        kept.append(left[:, : np.searchsorted(share, 0.99) + 1])
    return np.linalg.svd(kept[0].T @ kept[1], compute_uv=False).mean()


def canonical_correlations(x, y):
    model = CCA(n_components=min(x.shape[1], y.shape[1]), scale=False, tol=1e-14, max_iter=100000)
    a, b = model.fit_transform(x, y)
    return np.array([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(a.shape[1])])


def procrustes_by_scipy(x, y):
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(centered(rows), ((0, 0), (0, width - rows.shape[1]))) for rows in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    rotation, _ = scipy.linalg.orthogonal_procrustes(x, y)
    return np.linalg.norm(x @ rotation - y)


ORACLES = {
    "rsa": lambda x, y: correlation_of_pairs(1 - pdist(x, "cosine"), 1 - pdist(y, "cosine")),
    "rsa_dot": lambda x, y: correlation_of_pairs(
        *((m @ m.T)[np.triu_indices(len(m), 1)] for m in (x, y))
    ),
    "rsa_sqeuclidean": lambda x, y: correlation_of_pairs(
        pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean")
    ),
    "rsa_correlation": lambda x, y: correlation_of_pairs(
        pdist(x, "correlation"), pdist(y, "correlation")
    ),
    "cka": lambda x, y: correlation_of_grams(x, y),
    "cka_debiased": lambda x, y: (
        gram_hsic(x @ x.T, y @ y.T)
        / math.sqrt(gram_hsic(x @ x.T, x @ x.T) * gram_hsic(y @ y.T, y @ y.T))
    ),
    "cca": lambda x, y: canonical_correlations(x, y).mean(),
    "cca_r2": lambda x, y: (canonical_correlations(x, y) ** 2).mean(),
    "svcca": svcca_by_rows,
    "pwcca": pwcca_by_variates,
    "pwcca_y": lambda x, y: pwcca_by_variates(y, x),
    "procrustes": procrustes_by_scipy,
    "procrustes_angle": lambda x, y: math.acos(1 - procrustes_by_scipy(x, y) ** 2 / 2),
    "regression": lambda x, y: LinearRegression().fit(y, x).score(y, x, None),
    "regression_y": lambda x, y: explained(x, y),
    "cosine": lambda x, y: np.mean(
        np.sum(x * y, axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    ),
    "l2": lambda x, y: np.linalg.norm(x - y, axis=1).mean(),
}


def correlation_of_grams(x, y):
    kx, ky = (centered(m) @ centered(m).T for m in (x, y))
    return np.sum(kx * ky) / np.linalg.norm(kx) / np.linalg.norm(ky)


def explained(source, target):
    residual = target - LinearRegression().fit(source, target).predict(source)
    return 1 - np.sum(residual**2) / np.sum(centered(target) ** 2)


ORACLES["regression"] = lambda x, y: explained(y, x)


def test_every_measure_has_an_oracle():
    assert set(ORACLES) == set(MEASURES)


@pytest.mark.parametrize("shapes", [(400, 12, 9), (400, 9, 12), (60, 7, 7)], ids=str)
@pytest.mark.parametrize("name", MEASURES)
def test_oracles(name, shapes):
    n, dx, dy = shapes
    if MEASURES[name].same_width:
        dy = dx
    x, y = related(n, dx, dy)
    assert value(name, x, y) == pytest.approx(
        ORACLES[name](x, y), abs=1e-6 if "cca" in name else 1e-9
    )


def rotation(d):
    return np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]


MAPS = {
    "rotation": lambda y: y @ rotation(y.shape[1]),
    "scale": lambda y: 7.5 * y,
    "shift": lambda y: y + np.linspace(-3.0, 5.0, y.shape[1]),
    "ones": lambda y: y + 4.0,
    "invertible": lambda y: y @ (rotation(y.shape[1]) * np.linspace(0.3, 3.0, y.shape[1])),
}
INVARIANT = {
    "rsa": {"rotation", "scale"},
    "rsa_dot": {"rotation", "scale"},
    "rsa_correlation": {"scale", "ones"},
    "rsa_sqeuclidean": {"rotation", "scale", "shift", "ones"},
    "cka": {"rotation", "scale", "shift", "ones"},
    "cka_debiased": {"rotation", "scale", "shift", "ones"},
    "procrustes": {"rotation", "scale", "shift", "ones"},
    "procrustes_angle": {"rotation", "scale", "shift", "ones"},
    "svcca": {"rotation", "scale", "shift", "ones"},
    "cca": {"rotation", "scale", "shift", "ones", "invertible"},
    "cca_r2": {"rotation", "scale", "shift", "ones", "invertible"},
}


@pytest.mark.parametrize("change", MAPS)
@pytest.mark.parametrize("name", INVARIANT)
def test_invariances_are_those_of_the_table(name, change):
    x, y = related()
    before, after = value(name, x, y), value(name, x, MAPS[change](y))
    if change in INVARIANT[name]:
        assert after == pytest.approx(before, abs=1e-9)
    else:
        assert abs(after - before) > 1e-4


@pytest.mark.parametrize("name", ["pwcca", "pwcca_y"])
@pytest.mark.parametrize("change", ["rotation", "scale", "shift"])
def test_pwcca_is_invariant_to_maps_of_the_side_without_weights(name, change):
    x, y = related()
    other = (x, MAPS[change](y)) if name == "pwcca" else (MAPS[change](x), y)
    assert value(name, *other) == pytest.approx(value(name, x, y), abs=1e-9)


@pytest.mark.parametrize("change", ["scale", "shift"])
def test_pwcca_is_invariant_to_scale_and_shift_of_the_side_with_weights(change):
    x, y = related()
    assert value("pwcca", MAPS[change](x), y) == pytest.approx(value("pwcca", x, y), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=dtype_name)
@pytest.mark.parametrize("name", MEASURES)
def test_a_side_is_like_itself(name, dtype):
    x = torch.from_numpy(related(700)[0]).to(dtype)
    unchanged = 0.0 if name.startswith(("procrustes", "l2")) else 1.0
    # A distance is the square root of a difference that rounds at 1.
    slack = math.sqrt(CLOSE[dtype]) if name.startswith("procrustes") else CLOSE[dtype]
    assert value(name, x, x) == pytest.approx(unchanged, abs=slack)


@pytest.mark.parametrize(
    "name", ["rsa", "cka", "cka_debiased", "cca", "cca_r2", "svcca", "procrustes"]
)
def test_symmetric_measures(name):
    x, y = related()
    assert value(name, x, y) == pytest.approx(value(name, y, x), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_batches_do_not_matter(name):
    x, y = (torch.from_numpy(rows) for rows in table_rows())
    moments = Moments({"x": 10, "y": 10}, [("x", "y")], ALL_MAPS)
    for start in range(0, 100, 9):
        moments.update({"x": x[start : start + 9], "y": y[start : start + 9]})
    assert MEASURES[name].compute(moments) == pytest.approx(value(name, x, y), abs=1e-10)
    order = torch.randperm(100)
    assert value(name, x[order], y[order]) == pytest.approx(value(name, x, y), abs=1e-10)


@pytest.mark.parametrize("name", MEASURES)
def test_a_large_common_mean(name):
    x, y = related(n=3000, dx=8, dy=8)
    x, y = (torch.from_numpy(rows).float() for rows in (x + 1e4, y + 1e4))
    # What remains is the rounding of the rows themselves, so their float64 copies are the truth.
    expected = value(name, x.double(), y.double())
    tolerance = 1e-6
    assert value(name, x, y) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("kernel", ["cosine", "dot", "correlation", "sqeuclidean"])
@pytest.mark.parametrize(("n", "d"), [(600, 384), (2500, 768)])
def test_rsa_of_wide_rows_about_a_large_common_mean(kernel, n, d):
    # Pairs differ by a few parts in d there, so what float32 rounds counts d times over.
    x = torch.randn(n, d) + 1e4
    y = 0.7 * (x - 1e4) + torch.randn(n, d) + 1e4
    expected = ops.correlate_pairs(
        *(paired_rows(z.double(), kernel, torch.float64) for z in (x, y))
    )
    batched = Moments({"x": d, "y": d}, [("x", "y")], ALL_MAPS)
    for start, stop in pairwise([0, n // 3, n]):
        batched.update({"x": x[start:stop], "y": y[start:stop]})
    for rows in ((x, y), (batched,)):
        assert s.rsa(*rows, kernel=kernel) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_rank_deficient_rows(name):
    x, y = related(n=500, dx=8, dy=8)
    x = np.hstack([x, x[:, :2] + x[:, 2:4], np.full((500, 1), 3.0)])
    y = np.hstack([y, np.zeros((500, 3))])
    narrow = [torch.from_numpy(rows).float() for rows in (x, y)]
    result = value(name, *narrow)
    assert result == pytest.approx(value(name, x, y), abs=2e-6)
    if "cca" not in name:
        assert result == pytest.approx(ORACLES[name](x, y), abs=2e-6)
    elif not name.startswith("pwcca"):
        assert result == pytest.approx(ORACLES[name](x[:, :8], y[:, :8]), abs=2e-6)
    if name == "cca":
        full = s.cca(*narrow)
        assert (full.rank_x, full.rank_y, len(full.correlations)) == (8, 8, 8)
        assert full.value == pytest.approx(s.cca(x[:, :8], y[:, :8]).value, abs=1e-6)


@pytest.mark.parametrize("n", [70, 341, 1000, 5000])
@pytest.mark.parametrize("d", [8, 16, 64])
def test_the_null_direction_of_a_layer_norm_is_never_kept(n, d):
    for seed in range(12):
        torch.manual_seed(seed)
        x = torch.nn.functional.layer_norm(torch.randn(n, d), [d]) + torch.randn(d)
        y = torch.nn.functional.layer_norm(x + 0.01 * torch.randn(n, d), [d]) + torch.randn(d)
        result = s.cca(x, y)
        assert (result.rank_x, result.rank_y) == (d - 1, d - 1)
        assert float(result.correlations.max()) <= 1.0 + 1e-4
        assert result.value == pytest.approx(s.cca(x.double(), y.double()).value, abs=1e-6)


@pytest.mark.parametrize("name", [n for n in MEASURES if n not in ("cosine", "l2")])
def test_duplicated_rows(name):
    x, y = related(n=200)
    twice = [np.repeat(rows, 2, axis=0) for rows in (x, y)]
    found = value(name, *twice)
    assert found == pytest.approx(ORACLES[name](*twice), abs=1e-6 if "cca" in name else 1e-9)
    if name in ("cka", "cca", "svcca", "pwcca", "procrustes", "regression"):
        assert found == pytest.approx(value(name, x, y), abs=1e-9)


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if not m.n_above_d])
def test_fewer_rows_than_columns(name):
    x, y = related(n=10, dx=12, dy=12)
    assert value(name, x, y) == pytest.approx(ORACLES[name](x, y), abs=1e-8)


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if m.n_above_d])
def test_cca_family_refuses_fewer_rows_than_columns(name):
    x, y = related(n=12, dx=12, dy=9)
    with pytest.raises(ValueError, match=r"rows must outnumber columns, got n=12 and d=12.*ridge"):
        value(name, x, y)


def test_ridge_is_the_penalized_problem():
    x, y = related(n=20, dx=30, dy=25)
    result = s.cca(x, y, ridge=0.1)
    assert 0.0 < result.value < 1.0
    x, y = centered(x), centered(y)
    cx, cy = x.T @ x, y.T @ y
    # 20 rows have 19 centered directions; the others carry no correlation.
    cx_r = cx + 0.1 * np.trace(cx) / 30 * np.eye(30)
    cy_r = cy + 0.1 * np.trace(cy) / 25 * np.eye(25)
    white_x, white_y = (scipy.linalg.fractional_matrix_power(c, -0.5) for c in (cx_r, cy_r))
    rho = np.linalg.svd(white_x @ x.T @ y @ white_y, compute_uv=False)
    np.testing.assert_allclose(result.correlations.numpy(), rho[:19], atol=1e-8)


def test_svcca_keeps_the_directions_of_the_threshold():
    x, y = related()
    x[:, 0] *= 100.0
    assert s.svcca(x, y).rank_x == 1
    assert s.svcca(x, y, threshold=1.0).value == pytest.approx(s.cca(x, y).value, abs=1e-12)


def test_results_are_numbers():
    x, y = related()
    for result in (
        s.cca(x, y),
        s.svcca(x, y),
        s.pwcca(x, y),
        s.procrustes(x, y),
        s.regression(x, y),
    ):
        assert float(result) == result.value
        with pytest.raises(AttributeError):
            result.value = 0.0
    for result in (s.rsa(x, y), s.cka(x, y), s.cka(x, y, debiased=True)):
        assert type(result) is float
    assert (s.cca(x, y).rank_x, s.cca(x, y).rank_y, s.regression(x, y).rank) == (12, 9, 9)


def test_arrays_tensors_and_moments_agree():
    x, y = related()
    tensors = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    assert s.cka(x, y) == s.cka(*tensors) == s.cka(Moments.of(x, y))
    assert s.rsa(x.astype(np.float32), y) == pytest.approx(s.rsa(x, y), abs=1e-6)


def test_any_layout_of_an_array():
    x, y = related()
    frozen = x.copy()
    frozen.flags.writeable = False
    expected = s.cka(x, y)
    for rows in (
        frozen,
        np.asfortranarray(x),
        x[::-1][::-1],
        np.hstack([x, x])[:, :12],
        x.tolist(),
    ):
        assert s.cka(rows, y) == pytest.approx(expected, abs=1e-14)
    assert s.cka(x[::-1], y[::-1]) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", MEASURES)
def test_rows_beyond_the_range_of_products_are_refused(name):
    x, y = related(n=100, dx=9, dy=9)
    expected = value(name, x, y)
    for scale in (1e25, 1e-25):
        big = (scale * x).astype(np.float32)
        if MEASURES[name].row_map != "raw" or (name == "l2" and scale < 1):
            # Unit rows have no scale, and distances are not products.
            other = value(name, x, y) if name != "l2" else np.linalg.norm(y, axis=1).mean()
            assert value(name, big, y.astype(np.float32)) == pytest.approx(other, rel=1e-5)
        elif name != "l2":
            with pytest.raises(torch.linalg.LinAlgError, match=r"must be finite|products resolve"):
                value(name, big, y.astype(np.float32))
        assert value(name, scale * x, y) == pytest.approx(expected, abs=1e-6) or name == "l2"
    with pytest.raises((torch.linalg.LinAlgError, ValueError), match="finite"):
        value(name if MEASURES[name].row_map == "raw" else "l2", 1e200 * x, y)


def constant(n=50, d=4):
    return np.full((n, d), 1.0 / 3.0)


X = np.random.default_rng(0).normal(size=(50, 4))
NEEDS_SPREAD = [s.rsa, s.cka, s.cca, s.svcca, s.pwcca, s.procrustes, s.regression]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("measure", NEEDS_SPREAD, ids=lambda m: m.__name__)
def test_a_side_that_does_not_vary_is_refused(measure, dtype):
    name = measure.__name__
    with pytest.raises(ValueError, match=rf"\[{name}\] y must vary over its 50 rows"):
        measure(X.astype(dtype), constant().astype(dtype))
    with pytest.raises(ValueError, match=rf"\[{name}\] x must vary over its 50 rows"):
        measure(constant().astype(dtype), X.astype(dtype))


@pytest.mark.parametrize("kernel", ["dot", "sqeuclidean"])
def test_rsa_refuses_pairs_that_are_all_alike(kernel):
    corners = np.eye(5)
    with pytest.raises(ValueError, match=r"\[rsa\] (pairs of rows must differ|value must)"):
        s.rsa(corners, corners + 0.0, kernel=kernel)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: s.rsa(X, X, kernel="rbf"), ValueError, r"\[rsa\] kernel must be one of"),
        (lambda: s.rsa(X[:2], X[:2]), ValueError, r"\[rsa\] rows must be at least 3, got 2"),
        (lambda: s.cka(X[:1], X[:1]), ValueError, r"\[cka\] rows must be at least 2, got 1"),
        (lambda: s.cka(X[:3], X[:3], debiased=True), ValueError, "at least 4 for debiased, got 3"),
        (lambda: s.cka(X, X[:9]), ValueError, "same positions"),
        (lambda: s.cka(X), TypeError, r"\[cka\] arguments must be two arrays or one Moments"),
        (lambda: s.cka(Moments.of(X, X), X), TypeError, "two arrays or one Moments"),
        (lambda: s.cka(X, Moments.of(X, X)), TypeError, "two arrays or one Moments"),
        (lambda: s.cka([[1.0]], [[1.0]]), ValueError, "at least 2"),
        (lambda: s.cka(X.astype(int), X), TypeError, "x must be a floating-point"),
        (lambda: s.cka(X, X.astype(object)), TypeError, "y must be a floating-point"),
        (lambda: s.cka(X[:, :0], X), ValueError, "x must vary"),
        (lambda: s.rsa(Moments.of(X, X, row_maps=["raw"])), ValueError, "got 'unit' and"),
        (lambda: s.cka(Moments({"a": 1, "b": 1, "c": 1}, [])), ValueError, "must have two sides"),
        (lambda: s.svcca(X, X, threshold=0.0), ValueError, r"threshold must be in \(0, 1\], got 0"),
        (
            lambda: s.cca(X, X, ridge=0.0),
            ValueError,
            r"ridge must be positive or 'ledoit-wolf', got 0",
        ),
        (lambda: s.pwcca(X, X, side="left"), ValueError, r"\[pwcca\] side must be .* got 'left'"),
        (lambda: s.regression(X, X, side=1), ValueError, r"\[regression\] side must be"),
        (lambda: s.cosine(X, X[:, :2]), ValueError, r"\[cosine\] sides must have the same width"),
        (lambda: s.l2(X, X[:, :2]), ValueError, r"\[l2\] sides must have the same width"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_value_beyond_round_off_is_an_error():
    moments = Moments.of(X, X)
    moments.under("raw").crosses["x", "y"].product.mul_(1.1)
    with pytest.raises(torch.linalg.LinAlgError, match=r"\[cka\] value must lie in \[0.0, 1.0\]"):
        s.cka(moments)


@pytest.mark.parametrize("kernel", ["cosine", "dot", "correlation", "sqeuclidean"])
def test_rank_rsa_agrees_with_scipy(kernel):
    x = torch.randn(70, 12).double() + 1.0
    y = x[:, :9] + 0.5 * torch.randn(70, 9).double()
    similarities = []
    for z in (x.numpy(), y.numpy()):
        metric = kernel if kernel != "dot" else lambda a, b: a @ b
        similarities.append(pdist(z, metric))
    for name, oracle in (("spearman", scipy.stats.spearmanr), ("kendall", scipy.stats.kendalltau)):
        found = s.rsa(x, y, kernel=kernel, correlation=name)
        assert found == pytest.approx(oracle(*similarities).statistic, abs=1e-10)
        assert s.rsa(x.float(), y.float(), kernel=kernel, correlation=name) == pytest.approx(
            found, abs=2e-5
        )


@pytest.mark.parametrize("kernel", ["cosine", "dot", "correlation", "sqeuclidean"])
@pytest.mark.parametrize("common", [0.0, 3.0, 100.0, 1e4])
def test_the_closed_form_of_rsa_is_the_sum_over_pairs(kernel, common):
    x = torch.randn(300, 40).double() + common * torch.randn(40).double()
    y = x + 0.5 * torch.randn(300, 40).double()
    sides = [paired_rows(z, kernel, torch.float64) for z in (x, y)]
    expected = ops.correlate_pairs(*sides)
    assert s.rsa(x, y, kernel=kernel) == pytest.approx(expected, abs=1e-9)
    narrow = [paired_rows(z.float(), kernel, torch.float32) for z in (x, y)]
    assert ops.correlate_pairs(*narrow) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_that_differ_by_round_off_are_refused(dtype):
    # Corners of a simplex, rotated and moved: all pairs are equally far apart.
    n = 48
    rotation = torch.linalg.qr(torch.randn(n, n).double())[0]
    x = (3 * rotation + torch.randn(n)).to(dtype)
    y = torch.randn(n, n, dtype=dtype)
    for a, b in ((x, y), (y, x)):
        with pytest.raises(ValueError, match=r"\[cka\] rows must be enough for a positive deb"):
            s.cka(a, b, debiased=True)
        with pytest.raises(ValueError, match=r"\[rsa\] pairs of rows must differ in similarity"):
            s.rsa(a, b, kernel="sqeuclidean")


def test_rank_rsa_refuses():
    x = torch.randn(9, 4)
    zero = x.clone()
    zero[3] = 0.0
    cases = [
        ((Moments.of(x, x), None), {}, TypeError, "x and y must be rows for spearman"),
        ((x, None), {}, TypeError, "arguments must be two arrays or one Moments"),
        ((x, x[:5]), {}, ValueError, "must be the same positions on sides of widths"),
        ((x[:2], x[:2]), {}, ValueError, "rows must be at least 3, got 2"),
        ((x, zero), {}, ValueError, "rows of 'y' must have a direction .* a zero row at 3"),
        ((x, x), {"correlation": "tau"}, ValueError, "correlation must be one of .* got 'tau'"),
        ((x, x), {"kernel": "rbf"}, ValueError, "kernel must be one of"),
        (
            (x, torch.ones(9, 4)),
            {"kernel": "sqeuclidean"},
            ValueError,
            "y must vary over its 9 rows",
        ),
        ((x, 1e20 * x), {"kernel": "dot"}, torch.linalg.LinAlgError, "sums must be finite"),
        ((x, 1e-25 * x), {"kernel": "dot"}, torch.linalg.LinAlgError, "products resolve"),
    ]
    for rows, options, error, message in cases:
        with pytest.raises(error, match=message):
            s.rsa(*rows, **{"correlation": "spearman", **options})


def test_factorized_together_is_factorized_alone():
    rows = [related(seed=seed) for seed in range(5)]
    names = [name for name, measure in MEASURES.items() if measure.row_map == "raw"]
    names = [name for name in names if not MEASURES[name].same_width]
    together = [Moments.of(x, y) for x, y in rows]
    factorize(together, names)
    for moments, (x, y) in zip(together, rows, strict=True):
        for name in names:
            assert MEASURES[name].compute(moments) == value(name, x, y)


def test_factorize_leaves_a_refusal_to_the_measure():
    x, y = related()
    good, bad = Moments.of(x, y), Moments.of(x, np.ones_like(y))
    factorize([bad, good], ["cca", "procrustes"])
    assert MEASURES["cca"].compute(good) == s.cca(x, y).value
    with pytest.raises(ValueError, match=r"\[cca\] y must vary"):
        MEASURES["cca"].compute(bad)


@pytest.mark.parametrize("correlation", ["spearman", "kendall"])
def test_rank_rsa_keeps_its_digits_where_rows_point_the_same_way(correlation):
    spread = torch.randn(60, 8).double()
    x = 1.0 + 1e-6 * spread
    y = 1.0 + 1e-6 * (spread + torch.randn(60, 8).double())
    distances = []
    for z in (x, y):
        unit = z / z.norm(dim=1, keepdim=True)
        # Between unit rows the cosine falls with the distance.
        distances.append(pdist((unit - unit.mean(dim=0)).numpy() * 1e6, "sqeuclidean"))
    oracle = scipy.stats.spearmanr if correlation == "spearman" else scipy.stats.kendalltau
    found = s.rsa(x, y, correlation=correlation)
    assert found == pytest.approx(oracle(*distances).statistic, abs=1e-6)


def test_tiny_rows_do_not_underflow():
    x, y = (1e-45 * np.random.default_rng(seed).normal(size=(40, 5)) for seed in (0, 1))
    for measure in (partial(s.cka, debiased=True), partial(s.rsa, kernel="sqeuclidean")):
        assert measure(x, y) == pytest.approx(measure(1e45 * x, 1e45 * y), abs=1e-9)
