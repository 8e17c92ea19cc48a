"""Correlations over all pairs of 5,000 rows, beside torch and SciPy on the same pairs.

Counted for Pearson: n^2 / 2 products of d columns on each side. Ranks are bound by sorting 12.5
million values on each side; their rows have no ceiling.
"""

import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from bertft import ops
from bertft.similarity.representational import paired_rows

N, D, LAYERS = 5000, 768, 13


def layer(seed):
    torch.manual_seed(seed)
    x = torch.randn(N, D) + 0.3
    return x, x + torch.randn(N, D)


def by_torch(x, y):
    i, j = torch.triu_indices(N, N, 1)
    sides = [torch.nn.functional.normalize(z) for z in (x, y)]
    return float(torch.corrcoef(torch.stack([(z @ z.T)[i, j].double() for z in sides]))[0, 1])


def by_scipy(x, y, correlation):
    sides = [pdist(z.double().numpy(), "cosine") for z in (x, y)]
    oracle = stats.spearmanr if correlation == "spearman" else stats.kendalltau
    return oracle(*sides).statistic


def by_bertft(x, y, correlation):
    a, b = (paired_rows(z, "cosine", torch.float32) for z in (x, y))
    return ops.correlate_pairs(a, b, correlation)


def contenders(correlation):
    x, y = layer(0)

    def other():
        return by_torch(x, y) if correlation == "pearson" else by_scipy(x, y, correlation)

    assert by_bertft(x, y, correlation) == pytest.approx(other(), abs=2e-6)
    return {"bertft": lambda: by_bertft(x, y, correlation), "other": other}


@pytest.mark.parametrize("who", ["bertft", "other"], ids=["bertft", "torch-or-scipy"])
@pytest.mark.parametrize("correlation", ["pearson", "spearman", "kendall"])
def test_pairs(benchmark, race, correlation, who):
    other = "torch" if correlation == "pearson" else "scipy"
    benchmark.group = f"{correlation} over the pairs of 5,000 rows, d = 768, beside {other}"
    flops = 2 * N * N * D if correlation == "pearson" else 0
    rounds = 5 if correlation == "pearson" else 1
    race(correlation, lambda: contenders(correlation), who, rounds=rounds, flops=flops)


@pytest.mark.parametrize("correlation", ["pearson", "spearman", "kendall"])
def test_thirteen_layers(benchmark, race, correlation):
    benchmark.group = "all pairs of 5,000 rows, 13 layers, d = 768"
    sides = [layer(seed) for seed in range(LAYERS)]
    calls = {"bertft": lambda: [by_bertft(x, y, correlation) for x, y in sides]}
    flops = LAYERS * 2 * N * N * D if correlation == "pearson" else 0
    race((correlation, LAYERS), lambda: calls, "bertft", rounds=1, flops=flops)
