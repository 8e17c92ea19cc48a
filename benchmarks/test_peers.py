"""Measures beside the published packages that compute them, on the same float64 rows.

Values are compared before anything is timed. A group has two rows, ours and one package's; where
the package is not installed, its row alone is skipped. All rows are one batch to the CKA packages.
"""

import math
from functools import partial
from importlib.metadata import version

import numpy as np
import pytest
import torch

from bertft.similarity import cca, cka, procrustes, pwcca, regression, rsa

D = 128
PEERS = []
debiased = partial(cka, debiased=True)


def peer(name, package, ours, expected=lambda ours, x, y: ours, n=5000):
    """Register what imports a package's measure; `expected` turns our value into the package's."""

    def register(theirs):
        group = pytest.mark.benchmark(group=f"peers: {name}")
        for who in ("bertft", package):
            case = (ours, theirs, expected, who, n)
            PEERS.append(pytest.param(*case, id=f"{name}-{who}", marks=group))
        return theirs

    return register


@peer("rsa", "rsatoolbox", rsa)
def rsatoolbox_rsa():
    data, rdm = (pytest.importorskip(f"rsatoolbox.{part}") for part in ("data", "rdm"))

    def call(x, y):
        # It has no cosine RDM, but between unit rows the squared distance is 2 - 2 cos.
        unit = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
        rdms = [rdm.calc_rdm(data.Dataset(side), method="euclidean") for side in unit]
        return rdm.compare(*rdms, method="corr").item()

    return call


@peer("cka", "ckatorch", cka)
def ckatorch_cka():
    package = pytest.importorskip("ckatorch")
    return lambda x, y: package.cka_base(torch.from_numpy(x), torch.from_numpy(y)).item()


@peer("cka debiased", "pytorch-cka", debiased)
def pytorch_cka():
    package = pytest.importorskip("cka")
    return lambda x, y: package.cka_from_features(torch.from_numpy(x), torch.from_numpy(y)).item()


@peer("cca", "cca-zoo", lambda x, y: cca(x, y).value)
def cca_zoo_cca():
    linear = pytest.importorskip("cca_zoo.linear")
    return lambda x, y: float(linear.CCA(n_components=D).fit([x, y]).score([x, y]))


@peer("regression", "scikit-learn", lambda x, y: regression(x, y).value)
def sklearn_regression():
    linear, metrics = (pytest.importorskip(f"sklearn.{m}") for m in ("linear_model", "metrics"))

    def call(x, y):
        predicted = linear.LinearRegression().fit(y, x).predict(y)
        return metrics.r2_score(x, predicted, multioutput="variance_weighted")

    return call


# It fits the size of y as well: 1 - c^2, where ours is 2 - 2 c.
@peer("procrustes", "scipy", lambda x, y: procrustes(x, y).squared,
      lambda ours, x, y: 1 - (1 - ours / 2) ** 2)  # fmt: skip
def scipy_procrustes():
    spatial = pytest.importorskip("scipy.spatial")
    return lambda x, y: spatial.procrustes(x, y)[2]


# It returns the mean of the two sides' values.
@peer("pwcca", "repsim", lambda x, y: (pwcca(x, y).value + pwcca(x, y, side="y").value) / 2)
def repsim_pwcca():
    package = pytest.importorskip("repsim")
    return lambda x, y: package.pwcca([x, y])[0, 1]


def over_biased(ours, x, y):
    """The unbiased estimator ("song") over the biased denominator, which repsim always takes."""
    hsic = pytest.importorskip("repsim").hsic
    unbiased, biased = (hsic([x, y], "linear", name).diagonal() for name in ("song", "gretton"))
    return ours * math.sqrt(np.prod(unbiased / biased))


def repsim_cka(*estimator):
    package = pytest.importorskip("repsim")
    return lambda x, y: package.cka([x, y], "linear", *estimator)[0, 1]


# Products of (n, n) matrices without BLAS: a second at 1,000 rows, minutes at 5,000.
peer("cka, 1,000 rows", "repsim", cka, n=1000)(repsim_cka)
peer("cka debiased, 1,000 rows", "repsim", debiased, over_biased, 1000)(partial(repsim_cka, "song"))


@pytest.mark.parametrize(("ours", "theirs", "expected", "who", "n"), PEERS)
def test_peers(benchmark, ours, theirs, expected, who, n):
    random = np.random.default_rng(0)
    x = 1 + random.standard_normal((n, D)) * np.geomspace(1, 0.1, D)
    y = x + 0.3 * random.standard_normal((n, D))
    call = ours if who == "bertft" else theirs()
    value = call(x, y)
    if call is not ours:
        assert value == pytest.approx(expected(ours(x, y), x, y), rel=1e-9)
    benchmark.extra_info.update(rows=n, width=D, value=value, version=version(who))
    benchmark.pedantic(call, (x, y), rounds=1 if who == "repsim" else 5)
