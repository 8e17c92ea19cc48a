"""The compiled core by itself, on NumPy memory: needs neither torch nor transformers."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native

ISAS = _native.available_isas()
SHAPES = [(1, 1, 1), (2, 3, 2), (63, 60, 61), (257, 100, 49), (1000, 96, 130), (1025, 48, 97)]


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set that this machine runs, in turn."""
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


def view(array):
    strides = [stride // array.itemsize for stride in array.strides]
    return _native.View(array.ctypes.data, str(array.dtype), array.shape, strides)


class Sums:
    """What the rows of some sides and pairs are summed into, under one row map."""

    def __init__(self, widths, pairs, row_map="raw", origins=None, fill=0.0):
        self.pairs, self.row_map = pairs, row_map
        self.origins = [np.zeros(d) for d in widths] if origins is None else origins
        self.totals = [np.full(d, fill) for d in widths]
        self.squares = [np.full(1, fill) for _ in widths]
        self.crosses = [
            [np.full(shape, fill) for shape in ((widths[a], widths[b]), widths[a], widths[b], 1)]
            for a, b in pairs
        ]
        self.norms, self.distances = np.full(len(widths), fill), np.full(len(pairs), fill)

    def views(self):
        crosses = [tuple(map(view, cross)) for cross in self.crosses]
        of_sides = (self.origins, self.totals, self.squares)
        return self.row_map, *([view(x) for x in of] for of in of_sides), crosses

    def add(self, rows, threads=1):
        return _native.accumulate(
            [view(x) for x in rows],
            self.pairs,
            [self.views()],
            view(self.norms),
            view(self.distances),
            threads,
        )

    def arrays(self):
        crosses = [sum_ for cross in self.crosses for sum_ in cross]
        return [*self.totals, *self.squares, *crosses, self.norms, self.distances]


def summed(rows, pairs, row_map="raw", origins=None, threads=1):
    sums = Sums([x.shape[1] for x in rows], pairs, row_map, origins)
    assert sums.add(rows, threads) is None
    return sums


def assert_same_bits(a, b):
    for own, other in zip(a.arrays(), b.arrays(), strict=True):
        np.testing.assert_array_equal(own, other)


def mapped(x, row_map):
    x = x.astype(float)
    if row_map == "centered_unit":
        x = x - x.mean(axis=1, keepdims=True)
    return x if row_map == "raw" else x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("n", "dx", "dy"), SHAPES)
def test_cross_moments_agree_with_numpy(isa, n, dx, dy, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(3.0, 1.0, (n, d)).astype(dtype) for d in (dx, dy))
    origins = [z.astype(float).mean(axis=0) for z in (x, y)]
    sums = summed([x, y], [(0, 1), (0, 0)], origins=origins, threads=2)
    zx, zy = x - origins[0], y - origins[1]
    k, q = (zx**2).sum(axis=1), (zy**2).sum(axis=1)
    np.testing.assert_allclose([k.sum(), q.sum()], np.hstack(sums.squares), rtol=1e-6)
    tolerance = {"rtol": 0, "atol": (1e-13 if dtype == np.float64 else 2e-6) * n * max(dx, dy)}
    product, left, right, weight = sums.crosses[0]
    np.testing.assert_allclose(product, zx.T @ zy, **tolerance)
    np.testing.assert_allclose(left, q @ zx, **tolerance)
    np.testing.assert_allclose(right, k @ zy, **tolerance)
    np.testing.assert_allclose(weight, k @ q, rtol=1e-5)
    product, left, right, weight = sums.crosses[1]
    np.testing.assert_allclose(product, np.triu(zx.T @ zx), **tolerance)
    np.testing.assert_allclose(left, k @ zx, **tolerance)
    assert not right.any()
    np.testing.assert_allclose(weight, k @ k, rtol=1e-5)
    norms = [np.linalg.norm(z.astype(float), axis=1).sum() for z in (x, y)]
    np.testing.assert_allclose(sums.norms, norms, rtol=1e-12)


@pytest.mark.parametrize(("n", "dx"), [(1, 1), (63, 61), (1025, 97)])
def test_a_side_with_itself_has_the_bits_of_two_equal_sides(isa, n, dx):
    x = np.random.default_rng(0).normal(size=(n, dx)).astype(np.float32)
    both = summed([x, x.copy()], [(0, 1), (0, 0)])
    product, left, right, weight = both.crosses[0]
    own_product, own_left, _, own_weight = both.crosses[1]
    np.testing.assert_array_equal(own_product, np.triu(product))
    np.testing.assert_array_equal(own_left, left)
    np.testing.assert_array_equal(own_left, right)
    np.testing.assert_array_equal(own_weight, weight)
    assert both.distances[0] == 0.0


@pytest.mark.parametrize("row_map", ["raw", "unit", "centered_unit"])
def test_threads_do_not_change_a_bit(isa, row_map):
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 1.0, (4500, 70)).astype(np.float32)
    y = rng.normal(5.0, 1.0, (4500, 110)).astype(np.float32)
    pairs = [(0, 0), (0, 1), (1, 1)]
    results = [summed([x, y], pairs, row_map, threads=t) for t in (1, 2, 4, 8)]
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_row_maps(isa):
    x = np.random.default_rng(0).normal(2.0, 1.0, (300, 40))
    for row_map in ("raw", "unit", "centered_unit"):
        sums = summed([x], [], row_map)
        np.testing.assert_allclose(sums.totals[0], mapped(x, row_map).sum(axis=0), atol=1e-12)


def test_several_row_maps_at_once_have_the_bits_of_each_alone(isa):
    rng = np.random.default_rng(0)
    rows = [rng.normal(1.0, 1.0, (100, d)).astype(np.float32) for d in (30, 30)]
    maps = [Sums([30, 30], [(0, 1)], row_map) for row_map in ("raw", "unit")]
    views = [sums.views() for sums in maps]
    norms, distances = np.zeros(2), np.zeros(1)
    refused = _native.accumulate(
        [view(x) for x in rows], [(0, 1)], views, view(norms), view(distances), 2
    )
    assert refused is None
    for together in maps:
        alone = summed(rows, [(0, 1)], together.row_map)
        together.norms, together.distances = norms, distances
        assert_same_bits(together, alone)
    expected = np.linalg.norm(rows[0].astype(float) - rows[1], axis=1).sum()
    np.testing.assert_allclose(distances, [expected], rtol=1e-12)


def test_sides_that_no_pair_joins_are_summed_alike():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(90, d)).astype(np.float32) for d in (20, 30, 40, 30)]
    pairs = [(0, 0), (3, 1), (2, 2)]
    together = summed(rows, pairs, threads=2)
    for p, (a, b) in enumerate(pairs):
        sides = [a] if a == b else [a, b]
        alone = summed([rows[side] for side in sides], [(0, len(sides) - 1)])
        for own, other in zip(together.crosses[p], alone.crosses[0], strict=True):
            np.testing.assert_array_equal(own, other)
        assert together.distances[p] == alone.distances[0]
    assert together.distances[1] > 0.0


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-30, 1e30, 1e200, 1e307])
@pytest.mark.parametrize("row_map", ["unit", "centered_unit"])
def test_unit_rows_of_any_size(row_map, scale):
    x = np.random.default_rng(0).normal(size=(5, 7))
    sums = summed([x * scale], [], row_map)
    tolerance = 1e-12 if scale > 1e-300 else 1e-4  # subnormal numbers have few digits
    np.testing.assert_allclose(sums.totals[0], mapped(x, row_map).sum(axis=0), rtol=tolerance)
    expected = np.linalg.norm(x, axis=1).sum() * scale
    np.testing.assert_allclose(sums.norms, [expected], rtol=tolerance)


def test_outputs_are_added_to():
    sums = Sums([2, 2], [(0, 1)], fill=10.0)
    assert sums.add([np.ones((3, 2)), np.ones((3, 2))]) is None
    np.testing.assert_array_equal(sums.totals[0], [13.0, 13.0])
    np.testing.assert_array_equal(sums.crosses[0][0], np.full((2, 2), 13.0))
    np.testing.assert_allclose(sums.norms, 10.0 + 3 * np.sqrt(2.0))
    np.testing.assert_array_equal(sums.distances, [10.0])


@pytest.mark.parametrize(("n", "d"), [(0, 5), (0, 0), (3, 0), (1, 1)])
def test_sizes_of_zero_and_one(n, d):
    x = np.ones((n, d), np.float32)
    sums = summed([x, x.copy()], [(0, 1), (1, 1)], threads=2)
    np.testing.assert_array_equal(sums.totals[0], np.full(d, float(n)))
    assert summed([], []).norms.shape == (0,)


def test_rows_that_cannot_be_summed_are_told_and_change_nothing(isa):
    rows = [np.ones((5000, 9), np.float32) for _ in range(3)]
    for x in rows:
        x[:, 0] = 2.0
    cases = [
        ("raw", np.nan, "not finite"),
        ("raw", np.inf, "not finite"),
        ("unit", 0.0, "zero"),
        ("centered_unit", 3.0, "constant"),
    ]
    for row_map, value, what in cases:
        for pairs, row in (([(0, 1), (1, 2)], 4321), ([(0, 1), (2, 2)], 7)):
            bad = [x.copy() for x in rows]
            bad[2][row:] = value
            bad[0][row + 1 :] = value
            sums = Sums([9, 9, 9], pairs, row_map, fill=7.0)
            assert sums.add(bad, 2) == (what, 2, row)
            assert all((array == 7.0).all() for array in sums.arrays())


def test_every_half_is_widened_exactly(isa):
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.resize(bits[np.isfinite(bits)], (1024, 64))
    out = np.full(finite.shape, np.nan, np.float32)
    runs = np.arange(len(finite))
    assert _native.pool_rows(view(finite), view(runs), view(runs + 1), view(out), 1)
    np.testing.assert_array_equal(out, finite.astype(np.float32))


def test_every_bfloat16_is_widened_exactly(isa):
    bits = np.arange(1 << 16, dtype=np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    bits, expected = bits[np.isfinite(expected)], expected[np.isfinite(expected)]
    bits, expected = np.resize(bits, (1024, 64)), np.resize(expected, (1024, 64))
    x = _native.View(bits.ctypes.data, "bfloat16", bits.shape, (64, 1))
    out = np.full(bits.shape, np.nan, np.float32)
    runs = np.arange(len(bits))
    assert _native.pool_rows(x, view(runs), view(runs + 1), view(out), 2)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_pooling_is_the_mean_rounded_once(isa, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 97)).astype(dtype)
    starts = rng.integers(0, 490, 200)
    stops = starts + rng.integers(1, 9, 200)
    out = np.full((200, 97), np.nan, np.float64 if dtype == np.float64 else np.float32)
    assert _native.pool_rows(view(x), view(starts), view(stops), view(out), 2)
    expected = [
        x[i:j].astype(float).sum(axis=0) / (j - i) for i, j in zip(starts, stops, strict=True)
    ]
    np.testing.assert_allclose(out, np.array(expected).astype(out.dtype), rtol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_pooling_tells_of_values_that_are_not_finite(isa, dtype, bad):
    out = np.empty((4, 150), np.float64 if dtype == np.float64 else np.float32)
    starts = np.array([0, 1, 3, 5])
    stops = np.array([1, 3, 4, 6])
    for row, column in ((0, 0), (2, 5), (1, 63), (3, 64), (2, 100), (0, 149)):
        x = np.zeros((6, 150), dtype)
        assert _native.pool_rows(view(x), view(starts), view(stops), view(out), 1)
        x[row, column] = bad
        assert not _native.pool_rows(view(x), view(starts), view(stops), view(out), 1)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 70),
    d=st.integers(1, 120),
    row_step=st.integers(1, 3),
    column_step=st.integers(1, 3),
    dtype=st.sampled_from(["float64", "float32", "float16"]),
    threads=st.integers(1, 4),
    name=st.sampled_from(ISAS),
)
def test_any_stride_gives_the_bits_of_a_copy(n, d, row_step, column_step, dtype, threads, name):
    whole = np.random.default_rng(n).normal(size=(n * row_step + 1, d * column_step)).astype(dtype)
    x = whole[: n * row_step : row_step, ::column_step]
    before = _native.isa()
    _native.set_isa(name)
    try:
        strided = summed([x, x], [(0, 1), (0, 0)], threads=threads)
        copied = summed([np.ascontiguousarray(x)] * 2, [(0, 1), (0, 0)])
    finally:
        _native.set_isa(before)
    assert_same_bits(strided, copied)


def test_threads_share_the_rows_to_pool():
    x = np.random.default_rng(0).normal(size=(4000, 60)).astype(np.float32)
    starts = np.random.default_rng(1).permutation(3998)
    stops = starts + 2
    out = np.full((2, len(starts), 60), np.nan, np.float32)
    for own, threads in zip(out, (1, 4), strict=True):
        assert _native.pool_rows(view(x), view(starts), view(stops), view(own), threads)
    assert np.array_equal(out[0], out[1])
    np.testing.assert_allclose(out[0], (x[starts] + x[starts + 1]) / 2, rtol=0, atol=1e-6)


def test_several_callers_at_once():
    x = np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32)
    expected = summed([x], [(0, 0)])
    found = []

    def work():
        for _ in range(20):
            found.append(summed([x], [(0, 0)], threads=2))  # noqa: PERF401

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 80
    for sums in found:
        assert_same_bits(sums, expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    x = np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32)
    expected = summed([x], [(0, 0)], threads=2).crosses[0][0]
    child = os.fork()
    if child == 0:
        product = summed([x], [(0, 0)], threads=2).crosses[0][0]
        os._exit(0 if np.array_equal(product, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_instruction_sets():
    assert ISAS[-1] == "portable"
    assert _native.isa() == ISAS[0]
    with pytest.raises(ValueError, match=r"\[set_isa\] name must be one of .* got sse9"):
        _native.set_isa("sse9")
    assert _native.isa() == ISAS[0]


X = np.ones((4, 3), np.float32)
F8 = np.float64


def add(rows, threads=1, **changed):
    """Sums of some rows where some of what they are summed into is replaced."""
    sums = Sums([3] * len(rows), [(0, 0)])
    for key, value in changed.items():
        setattr(sums, key, value)
    return sums.add(rows, threads)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _native.View(8, "int8", (1,), (1,)), r"\[View\] dtype must be .* got int8"),
        (lambda: _native.View(8, "float32", (1,) * 4, (1,) * 4), r"\[View\] shape and strides"),
        (lambda: _native.View(8, "float32", (2, 2), (2, -1)), "must not be negative"),
        (lambda: _native.View(2, "float32", (2,), (1,)), r"\[View\] address must be aligned"),
        (lambda: _native.View(0, "float32", (2,), (1,)), r"\[View\] address must be aligned"),
        (lambda: add([X], origins=[np.zeros(4)]), r"origin must be float64 of shape \(3\)"),
        (lambda: add([X], origins=[np.zeros(3, np.float32)]), "origin must be float64"),
        (lambda: add([X], origins=[]), r"origins must have 1 entries, got 0"),
        (lambda: add([X], totals=[]), r"totals must have 1 entries, got 0"),
        (lambda: add([X], crosses=[]), r"crosses must have 1 entries, got 0"),
        (lambda: add([X], norms=np.zeros(2)), r"norms must be float64 of shape \(1\)"),
        (lambda: add([X], distances=np.zeros(2)), r"distances must be float64 of shape \(1\)"),
        (lambda: add([X], row_map="cosine"), "row_map must be raw"),
        (lambda: add([X], threads=0), "threads must be at least 1, got 0"),
        (lambda: add([np.arange(12).reshape(4, 3)]), "rows must be a floating-point"),
        (lambda: add([X[0]]), r"rows must be a floating-point \(n, d\) array"),
        (lambda: add([X, X[:2]]), "rows must have one number on every side .* got 4 and 2"),
        (lambda: add([X, X.astype(F8)]), "all be float64 or none"),
        (lambda: add([X], pairs=[(0, 1)]), r"pairs must be of sides below 1, got \(0,"),
        (
            lambda: add([X], pairs=[(-1, 0)]),
            r"pairs must be of sides below 1, got \(-1",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_outputs_are_refused_and_left_alone():
    product, left, right, weight = (np.full(shape, 7.0) for shape in ((3, 3), 3, 3, 1))
    for cross in (
        [product[:2], left, right, weight],
        [product.T[::2], left, right, weight],
        [product, left[:2], right, weight],
        [product, left, product[0], weight],
        [product, left, left, weight],
        [product, left, right, right[1:2]],
        [product.astype(np.float32), left, right, weight],
    ):
        with pytest.raises(ValueError, match=r"\[accumulate\] .* must"):
            add([X], crosses=[cross])
    both = np.full((4, 3), 7.0)
    for changed in ({"totals": [both[1]]}, {"crosses": [[both[:3], left, right, weight]]}):
        with pytest.raises(ValueError, match="must not overlap rows"):
            add([both], **changed)
    for untouched in (product, left, right, weight, both):
        assert (untouched == 7.0).all()


def test_an_allocation_that_fails_is_a_memory_error():
    # Rows that no machine has room to pack; nothing behind these addresses is ever read.
    wide = _native.View(1 << 40, "float32", (2, 1 << 46), (0, 0))
    origin, total = (
        _native.View(address, "float64", (1 << 46,), (1,)) for address in (1 << 52, 1 << 53)
    )
    squares, norms, none = np.zeros(1), np.zeros(1), np.zeros(0)
    maps = [("unit", [origin], [total], [view(squares)], [])]
    with pytest.raises(MemoryError):
        _native.accumulate([wide], [], maps, view(norms), view(none), 1)
    assert norms[0] == squares[0] == 0.0


def test_bad_runs_are_refused():
    out = np.full((1, 3), 7.0, np.float32)
    for start, stop in ((-1, 1), (2, 2), (3, 5), (4, 5)):
        with pytest.raises(ValueError, match=r"\[pool_rows\] runs must be non-empty and inside x"):
            _native.pool_rows(
                view(X), view(np.array([start])), view(np.array([stop])), view(out), 1
            )
    shared = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="out must not overlap x"):
        _native.pool_rows(
            view(shared), view(np.array([0])), view(np.array([1])), view(shared[1:2]), 1
        )
    assert (out == 7.0).all()


def ranks(values):
    """Ranks from 0, equal values at the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts - 1) / 2)[place]


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(2, 300),
    spread=st.sampled_from([1, 5, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
    threads=st.integers(1, 4),
)
def test_rank_correlations_are_their_definitions(count, spread, dtype, threads):
    rng = np.random.default_rng(count)
    x = rng.integers(-spread, spread + 1, count).astype(dtype) * dtype(0.7)
    y = x * rng.integers(-1, 2, count).astype(dtype) + rng.integers(0, spread, count).astype(dtype)
    kendall = _native.rank_correlation(view(x), view(y), "kendall", threads)
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    assert kendall == pytest.approx(signs.sum() / (count * (count - 1)), abs=1e-12)
    spearman = _native.rank_correlation(view(x), view(y), "spearman", threads)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman)
    else:
        expected = np.corrcoef(ranks(x), ranks(y))[0, 1]
        assert spearman == pytest.approx(expected, abs=1e-12)


def test_negative_zero_has_the_rank_of_zero():
    x, y = np.array([0.0, -0.0, 1.0, 2.0]), np.array([3.0, 3.0, 1.0, 2.0])
    expected = np.corrcoef(ranks(x + 0.0), ranks(y))[0, 1]
    assert _native.rank_correlation(view(x), view(y), "spearman", 1) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 2), (48, 130), (49, 5), (200, 300)])
def test_pairs_of_rows(isa, n, d, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, d)).astype(dtype) for _ in range(2))
    offsets = rng.normal(size=n)
    i, j = np.triu_indices(n, 1)
    similarities = []
    for z, scale in ((x, -2.0), (y, 1.0)):
        wide = z.astype(float)
        similarities.append((scale * wide @ wide.T + offsets[:, None] + offsets)[i, j])
    s, t = similarities
    expected = [s.sum(), t.sum(), s @ s, t @ t, s @ t]
    found = [
        _native.sum_pairs(view(x), view(offsets), -2.0, view(y), view(offsets), 1.0, threads)
        for threads in (1, 2, 4)
    ]
    assert found[0] == found[1] == found[2]
    size = 1e-13 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=size * np.abs(s * s).sum())
    condensed = np.full(len(s), np.nan, dtype)
    _native.condense(view(x), view(offsets), -2.0, view(condensed), 2)
    np.testing.assert_allclose(condensed, s, rtol=0, atol=size * np.abs(s).max())


V = np.ones(6, np.float32)
A = np.ones((3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _native.rank_correlation(view(V), view(V[:5]), "spearman", 1),
            r"y must be .*\(6\)",
        ),
        (lambda: _native.rank_correlation(view(V), view(V), "pearson", 1), "kind must be spearman"),
        (lambda: _native.rank_correlation(view(V[:1]), view(V[:1]), "kendall", 1), "2 to 2"),
        (lambda: _native.rank_correlation(view(V[::2]), view(V[::2]), "kendall", 1), "contiguous"),
        (lambda: _native.condense(view(X), view(V), 1.0, view(V), 1), "offsets must be float64"),
        (
            lambda: _native.condense(view(X), view(np.ones(4)), 1.0, view(V[:5]), 1),
            r"of shape \(6\)",
        ),
        (lambda: _native.condense(view(X.T), view(np.ones(3)), 1.0, view(V[:3]), 1), "contiguous"),
        (
            lambda: _native.sum_pairs(
                view(X), view(np.ones(4)), 1.0, view(X[:3]), view(np.ones(3)), 1.0, 1
            ),
            "one number and type on both sides, got 4 and 3",
        ),
        (lambda: _native.eigh([view(A[:2])], [view(A[0])], [], 1, 0), "must be square, got 2 by 3"),
        (lambda: _native.eigh([view(A)], [], [], 1, 0), "one for each of 1 matrices, got 0"),
        (lambda: _native.eigh([view(A)], [view(A[0])], [], 1, 0), "values must not overlap matrix"),
        (lambda: _native.eigh([view(A.T)], [view(np.ones(2))], [], 1, 0), "contiguous|shape"),
        (lambda: _native.svd([view(A)], [view(np.ones(2))], [], [], 1, 0), r"values .*\(3\)"),
        (
            lambda: _native.svd([view(A)], [view(np.ones(3))], [view(A.copy())], [], 1, 0),
            "given both or neither, got 1 and 0",
        ),
        (lambda: _native.svd([view(X)], [view(np.ones(3))], [], [], 1, 0), "must be float64"),
    ],
)
def test_bad_input_of_the_other_kernels_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
