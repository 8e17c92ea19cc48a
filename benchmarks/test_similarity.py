"""All measures of 13 x 13 pairs of layers, d = 768, beside per-pair implementations.

From statistics: a loop over pairs and measures in float64 `torch.linalg`, each measure with its own
factorizations of both sides and its own SVD. From 20,000 rows: per pair and measure, by QR or SVD
of the rows, products over features where a measure has them, and cosines of all pairs of rows in
blocks, which take most of it: a row tells the time without. The loops take a few of the 169 pairs;
times are of one pair.
"""

import time
from functools import cache

import pytest
import torch
from conftest import aim, tell

from bertft.moments import Moments
from bertft.similarity import MEASURES, factorize

LAYERS, D = 13, 768
PAIRS = [(a, b) for a in range(LAYERS) for b in range(LAYERS)]
NAMES = [name for name, measure in MEASURES.items() if measure.default]
TOLERANCE = 1e-8


@cache
def layers(n):
    """Rows of two models whose layers drift from each other, float32; some directions are large."""
    torch.manual_seed(0)
    scales = torch.logspace(0, -1.5, D)
    mix = [torch.randn(D, D) / D**0.5 for _ in range(4)]
    rows = {}
    for role in ("pretrained", "finetuned"):
        torch.manual_seed(1)
        x = torch.randn(n, D)
        torch.manual_seed(len(role))
        for layer in range(LAYERS):
            rows[f"{role}.{layer}"] = x * scales + 0.3
            x = torch.nn.functional.layer_norm(x + 0.3 * torch.tanh(x @ mix[layer % 4]), [D])
            x = x + 0.1 * torch.randn(n, D)
    return rows


def summed(n):
    rows = layers(n)
    pairs = [(f"pretrained.{a}", f"finetuned.{b}") for a, b in PAIRS]
    moments = Moments(dict.fromkeys(rows, D), pairs)
    moments.update(rows)
    return moments


def solved(moments):
    """The measures of all pairs, and what unrelated rows would give, as `compare` solves them."""
    found, some = {}, 4 * torch.get_num_threads()
    for start in range(0, len(PAIRS), some):
        chunk = {
            (a, b): moments.pair(f"pretrained.{a}", f"finetuned.{b}", copy=False)
            for a, b in PAIRS[start : start + some]
        }
        factorize(list(chunk.values()), NAMES)
        for key, pair in chunk.items():
            for name in NAMES:
                found[*key, name] = float(MEASURES[name].compute(pair))
                MEASURES[name].chance(pair)
    return found


def whitening(c):
    values, vectors = torch.linalg.eigh(c)
    kept = values > TOLERANCE * values[-1]
    return vectors[:, kept] / values[kept].sqrt()


def leading(c):
    values, vectors = torch.linalg.eigh(c)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values.cumsum(0) / values.sum() < 0.99).sum()) + 1
    return vectors[:, :rank] / values[:rank].sqrt()


def canonical(cx, cy, c):
    wx, wy = whitening(cx), whitening(cy)
    return wx, torch.linalg.svd(wx.T @ c @ wy, full_matrices=False)


def weighted(cx, cy, c):
    wx, (u, rho, _) = canonical(cx, cy, c)
    weights = ((wx @ u).T @ cx).abs().sum(dim=1)
    return float(weights @ rho / weights.sum())


def explained(cx, cy, c):
    return float((c @ whitening(cy)).square().sum() / cx.trace())


def cosine_of_norms(cx, cy, c):
    return torch.linalg.svdvals(c).sum() / (cx.trace() * cy.trace()).sqrt()


LINEAR = {
    "cka": lambda cx, cy, c: float(c.square().sum() / cx.norm() / cy.norm()),
    "cca": lambda cx, cy, c: float(canonical(cx, cy, c)[1].S.mean()),
    "cca_r2": lambda cx, cy, c: float(canonical(cx, cy, c)[1].S.square().mean()),
    "svcca": lambda cx, cy, c: float(torch.linalg.svdvals(leading(cx).T @ c @ leading(cy)).mean()),
    "pwcca": weighted,
    "pwcca_y": lambda cx, cy, c: weighted(cy, cx, c.T),
    "procrustes": lambda cx, cy, c: float((2 - 2 * cosine_of_norms(cx, cy, c)).sqrt()),
    "procrustes_angle": lambda cx, cy, c: float(cosine_of_norms(cx, cy, c).acos()),
    "regression": explained,
    "regression_y": lambda cx, cy, c: explained(cy, cx, c.T),
}


def by_linalg(moments, pairs):
    sums = moments.under("raw")
    found = {}
    for a, b in pairs:
        x, y = f"pretrained.{a}", f"finetuned.{b}"
        products = [sums.scatter(*two) for two in ((x, x), (y, y), (x, y))]
        found |= {(a, b, name): measure(*products) for name, measure in LINEAR.items()}
    return found


def orthonormal(x):
    return torch.linalg.qr(x - x.mean(dim=0))[0]


def principal(x):
    u, s, _ = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    share = s.square().cumsum(0) / s.square().sum()
    return u[:, : int((share < 0.99).sum()) + 1]


def pwcca_of_rows(x, y):
    q = orthonormal(x)
    u, rho, _ = torch.linalg.svd(q.T @ orthonormal(y), full_matrices=False)
    weights = ((q @ u).T @ (x - x.mean(dim=0))).abs().sum(dim=1)
    return weights @ rho / weights.sum()


def debiased_cka(x, y):
    """Feature-space form, after Kornblith et al. 2019."""
    n = len(x)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    k, q = x.square().sum(dim=1), y.square().sum(dim=1)

    def unbiased(cross, a, b):
        rest = a.sum() * b.sum() / ((n - 1) * (n - 2))
        return cross - n / (n - 2) * (a @ b) + rest

    own = [unbiased((z.T @ z).square().sum(), a, a) for z, a in ((x, k), (y, q))]
    return unbiased((x.T @ y).square().sum(), k, q) / (own[0] * own[1]).sqrt()


def rsa_in_blocks(x, y, kernel):
    """Correlation over pairs of rows from blocks of similarities, never all of them at once."""
    if kernel == "cosine":
        x, y = (torch.nn.functional.normalize(z) for z in (x, y))
    squares = [z.square().sum(dim=1) for z in (x, y)]
    sums = torch.zeros(5, dtype=torch.float64)
    for start in range(0, len(x), 2000):
        own = slice(start, start + 2000)
        a, b = (z[own] @ z.T for z in (x, y))
        if kernel == "sqeuclidean":
            a, b = (s[own, None] + s - 2 * g for s, g in zip(squares, (a, b), strict=True))
        at = torch.arange(len(a))
        a[at, start + at], b[at, start + at] = 0.0, 0.0
        products = [a, b, a * a, b * b, a * b]
        sums += torch.stack([z.double().sum() for z in products])
    count = len(x) * (len(x) - 1)
    sa, sb, aa, bb, ab = sums
    return (ab - sa * sb / count) / ((aa - sa**2 / count) * (bb - sb**2 / count)).sqrt()


def nuclear(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return torch.linalg.svdvals((x / x.norm()).T @ (y / y.norm())).sum()


def fitted(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return 1 - (x - y @ torch.linalg.lstsq(y, x).solution).square().sum() / x.square().sum()


def correlations(x, y):
    return torch.linalg.svdvals(orthonormal(x).T @ orthonormal(y))


def linear_cka(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return (x.T @ y).square().sum() / (x.T @ x).norm() / (y.T @ y).norm()


OF_ROWS = {
    "rsa": lambda x, y: rsa_in_blocks(x, y, "cosine"),
    "rsa_dot": lambda x, y: rsa_in_blocks(x, y, "dot"),
    "rsa_sqeuclidean": lambda x, y: rsa_in_blocks(x, y, "sqeuclidean"),
    "cka": linear_cka,
    "cka_debiased": debiased_cka,
    "cca": lambda x, y: correlations(x, y).mean(),
    "cca_r2": lambda x, y: correlations(x, y).square().mean(),
    "svcca": lambda x, y: torch.linalg.svdvals(principal(x).T @ principal(y)).mean(),
    "pwcca": pwcca_of_rows,
    "pwcca_y": lambda x, y: pwcca_of_rows(y, x),
    "procrustes": lambda x, y: (2 - 2 * nuclear(x, y)).sqrt(),
    "procrustes_angle": lambda x, y: nuclear(x, y).acos(),
    "regression": fitted,
    "regression_y": lambda x, y: fitted(y, x),
    "cosine": lambda x, y: torch.nn.functional.cosine_similarity(x, y).mean(),
    "l2": lambda x, y: (x - y).norm(dim=1).mean(),
}


def by_rows(n, a, b):
    """The measures of a pair, and how long each of them takes."""
    rows = layers(n)
    x, y = rows[f"pretrained.{a}"].double(), rows[f"finetuned.{b}"].double()
    found, seconds = {}, {}
    for name, measure in OF_ROWS.items():
        found[a, b, name], seconds[name] = timed(lambda m=measure: float(m(x, y)))
    return found, seconds


def timed(call):
    started = time.perf_counter()
    found = call()
    return found, time.perf_counter() - started


def assert_same(ours, theirs):
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=2e-6), key


@cache
def from_statistics():
    moments = summed(4000)
    some = [(a, (5 * a) % LAYERS) for a in range(0, LAYERS, 2)]
    ours, seconds = timed(lambda: solved(moments))
    theirs, others = timed(lambda: by_linalg(moments, some))
    assert_same(ours, theirs)
    return {"bertft": seconds / len(PAIRS), "torch.linalg": others / len(some)}


@cache
def from_rows():
    layers(20_000)
    ours, seconds = timed(lambda: solved(summed(20_000)))
    theirs, others = by_rows(20_000, 3, 7)
    assert_same(ours, theirs)
    rest = sum(spent for name, spent in others.items() if not name.startswith("rsa"))
    return {
        "bertft": seconds / len(PAIRS),
        "from rows": sum(others.values()),
        "from rows, all but RSA": rest,
    }


@pytest.mark.parametrize("who", ["bertft", "torch.linalg"])
def test_from_statistics(benchmark, who):
    benchmark.group = "a pair of 13 x 13, d = 768, all measures of raw rows, from statistics"
    if who != "bertft":
        aim(benchmark, least=4)
    tell(benchmark, [from_statistics()[who]])


@pytest.mark.parametrize("who", ["bertft", "from rows", "from rows, all but RSA"])
def test_from_rows(benchmark, who):
    benchmark.group = "a pair of 13 x 13, d = 768, all measures, from 20,000 rows"
    if who != "bertft":
        aim(benchmark, least=10)
    tell(benchmark, [from_rows()[who]])
