"""Laws of the measures on rows of any kind: invariances, merging, outliers, few rows."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import Moments
from bertft import similarity as s
from bertft.similarity import MEASURES
from tests.test_similarity import ALL_MAPS, INVARIANT, ORACLES, orthonormal, related, value
from tests.tolerances import DTYPES, name
from tests.tolerances import MEASURES as CLOSE

ROWS = st.integers(0, 2**32 - 1)


def any_map(kind, d, random):
    """A random map of rows of one kind."""
    rotation = np.linalg.qr(random.normal(size=(d, d)))[0]
    shift = random.normal(size=d) * 10.0 ** random.integers(-2, 2)
    stretched = (
        rotation * np.exp(random.uniform(-1, 1, d)) @ np.linalg.qr(random.normal(size=(d, d)))[0]
    )
    return {
        "rotation": lambda z: z @ rotation,
        "scale": lambda z: z * 10.0 ** random.integers(-3, 4),
        "shift": lambda z: z + shift,
        "ones": lambda z: z + random.normal(),
        "invertible": lambda z: z @ stretched,
    }[kind]


@pytest.mark.parametrize(
    ("measure", "kind"), [(m, k) for m, kinds in INVARIANT.items() for k in sorted(kinds)]
)
@settings(max_examples=8, deadline=None)
@given(seed=ROWS, n=st.integers(40, 90), dx=st.integers(1, 7), dy=st.integers(2, 7))
def test_invariances_hold_for_any_map(measure, kind, seed, n, dx, dy):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, max(dx, 2))) + random.normal()
    y = random.normal(size=(n, dy)) + random.normal()
    if measure == "svcca":
        # Where the cut is close, rounding may move it.
        shares = [np.cumsum(np.linalg.svd(z - z.mean(axis=0))[1] ** 2) for z in (x, y)]
        if any(np.abs(share / share[-1] - 0.99).min() < 1e-6 for share in shares):
            return
    before = value(measure, x, y)
    after = value(measure, x, any_map(kind, dy, random)(y))
    assert after == pytest.approx(before, abs=1e-7 if "procrustes" in measure else 1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("measure", MEASURES)
def test_any_split_into_parts_and_batches_gives_the_value(measure, dtype):
    x, y = (torch.from_numpy(z).to(dtype) for z in related(n=300, dx=9, dy=9))
    whole = value(measure, x, y)
    random = np.random.default_rng(0)
    for _ in range(4):
        bounds = [0, *sorted(random.choice(np.arange(1, 300), 6, replace=False)), 300]
        parts = [Moments.of(x[i:j], y[i:j], row_maps=ALL_MAPS) for i, j in pairwise(bounds)]
        assert MEASURES[measure].compute(sum(parts)) == pytest.approx(whole, abs=CLOSE[dtype])
        batched = Moments({"x": 9, "y": 9}, [("x", "y")], ALL_MAPS)
        for i, j in pairwise(bounds):
            batched.update({"x": x[i:j], "y": y[i:j]})
        assert MEASURES[measure].compute(batched) == pytest.approx(whole, abs=CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("measure", MEASURES)
def test_outlier_features_a_hundred_times_the_rest(measure, dtype):
    """As BERT has them: a few dimensions far larger, with a mean of their own."""
    x, y = related(n=2000, dx=16, dy=16)
    for rows in (x, y):
        rows[:, 3] = 100 * rows[:, 3] + 300
        rows[:, 11] *= 100
    x, y = (torch.from_numpy(rows).to(dtype) for rows in (x, y))
    expected = value(measure, x.double(), y.double())
    close = 1e-9 if dtype == torch.float64 else 2e-6
    assert value(measure, x, y) == pytest.approx(expected, abs=max(close, close * abs(expected)))
    if MEASURES[measure].row_map == "raw" and dtype == torch.float64 and "cca" not in measure:
        oracle = ORACLES[measure](x.numpy(), y.numpy())
        assert expected == pytest.approx(oracle, abs=1e-8)


def correlations(x, y):
    return np.linalg.svd(orthonormal(x).T @ orthonormal(y), compute_uv=False)


BY_ROWS = ORACLES | {
    "cca": lambda x, y: correlations(x, y).mean(),
    "cca_r2": lambda x, y: np.square(correlations(x, y)).mean(),
}


@pytest.mark.parametrize("measure", [n for n, m in MEASURES.items() if m.n_above_d])
@pytest.mark.parametrize("n", [13, 14, 20])
def test_rows_just_above_columns(measure, n):
    x, y = related(n=n, dx=12, dy=12)
    found = value(measure, x, y)
    # Of ranks that exceed n - 1 together some correlations are 1, and their directions not unique.
    if "pwcca" not in measure:
        assert found == pytest.approx(BY_ROWS[measure](x, y), abs=1e-9)
    if n == 13:  # as many directions as centered rows: everything correlates
        assert found == pytest.approx(1.0, abs=1e-9)
        assert s.cca(x, y).diagnostics.chance == 1.0
    else:
        assert 0.5 < found < 1.0
        assert s.cca(x, y).diagnostics.chance > 0.7
