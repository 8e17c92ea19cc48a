"""The compiled core by itself, on NumPy memory: needs neither torch nor transformers."""

import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import _native

SHAPES = [(1, 1, 1), (2, 3, 2), (63, 60, 61), (257, 100, 49), (1000, 96, 130), (1025, 48, 97)]


def view(array):
    strides = [stride // array.itemsize for stride in array.strides]
    return _native.View(array.ctypes.data, str(array.dtype), array.shape, strides)


def block(x, origin=None, row_map="raw", threads=1):
    origin = np.zeros(x.shape[1]) if origin is None else origin
    return _native.Block(view(x), view(origin), row_map, threads)


def outputs(dx, dy, fill=0.0):
    return [np.full(shape, fill) for shape in ((dx, dy), (dx,), (dy,), (1,))]


def cross(x, y, threads=1):
    sums = outputs(x.columns, y.columns)
    _native.add_cross(x, y, *map(view, sums), threads)
    return sums


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("n", "dx", "dy"), SHAPES)
def test_cross_moments_agree_with_numpy(n, dx, dy, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(3.0, 1.0, (n, d)).astype(dtype) for d in (dx, dy))
    cx, cy = x.astype(float).mean(axis=0), y.astype(float).mean(axis=0)
    product, left, right, weight = cross(block(x, cx, threads=2), block(y, cy, threads=2), 2)
    x, y = x - cx, y - cy
    k, q = (x**2).sum(axis=1), (y**2).sum(axis=1)
    tolerance = {"rtol": 0, "atol": (1e-13 if dtype == np.float64 else 2e-6) * n * max(dx, dy)}
    np.testing.assert_allclose(product, x.T @ y, **tolerance)
    np.testing.assert_allclose(left, q @ x, **tolerance)
    np.testing.assert_allclose(right, k @ y, **tolerance)
    np.testing.assert_allclose(weight, k @ q, rtol=1e-5)


@pytest.mark.parametrize(("n", "dx", "dy"), SHAPES)
def test_a_block_with_itself_is_the_upper_triangle_of_the_same_bits(n, dx, dy):
    x = np.random.default_rng(0).normal(size=(n, dx)).astype(np.float32)
    product, left, right, weight = cross(block(x), block(x))
    own = block(x)
    upper, own_left, own_right, own_weight = cross(own, own)
    np.testing.assert_array_equal(upper, np.triu(product))
    np.testing.assert_array_equal(own_left, left)
    np.testing.assert_array_equal(own_left, right)
    assert not own_right.any()
    np.testing.assert_array_equal(own_weight, weight)


@pytest.mark.parametrize("row_map", ["raw", "unit", "centered_unit"])
def test_threads_do_not_change_a_bit(row_map):
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 1.0, (1500, 200)).astype(np.float32)
    y = rng.normal(5.0, 1.0, (1500, 150)).astype(np.float32)
    results = [
        cross(block(x, row_map=row_map, threads=t), block(y, row_map=row_map, threads=t), t)
        for t in (1, 2, 3, 8)
    ]
    for result in results[1:]:
        for own, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(own, first)


def test_row_maps():
    x = np.random.default_rng(0).normal(2.0, 1.0, (300, 40))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    centered = x - x.mean(axis=1, keepdims=True)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    for row_map, mapped in (("raw", x), ("unit", unit), ("centered_unit", centered)):
        total = np.zeros(40)
        _native.add_total(block(x, row_map=row_map), view(total), 1)
        np.testing.assert_allclose(total, mapped.sum(axis=0), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_unit_rows_of_any_size(scale):
    x = np.random.default_rng(0).normal(size=(5, 7))
    total = np.zeros(7)
    _native.add_total(block(x * scale, row_map="unit"), view(total), 1)
    expected = (x / np.linalg.norm(x, axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_outputs_are_added_to():
    x = np.ones((3, 2))
    total = np.array([10.0, 20.0])
    _native.add_total(block(x), view(total), 1)
    np.testing.assert_array_equal(total, [13.0, 23.0])


def test_every_half_is_widened_exactly():
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.ascontiguousarray(bits[np.isfinite(bits)][:, None])
    out = np.full(finite.shape, np.nan, np.float32)
    runs = np.arange(len(finite))
    assert _native.pool_rows(view(finite), view(runs), view(runs + 1), view(out), 1)
    np.testing.assert_array_equal(out, finite.astype(np.float32))


def test_every_bfloat16_is_widened_exactly():
    bits = np.arange(1 << 16, dtype=np.uint16)
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    bits, expected = bits[np.isfinite(expected)], expected[np.isfinite(expected)]
    x = _native.View(bits.ctypes.data, "bfloat16", (len(bits), 1), (1, 1))
    out = np.full((len(bits), 1), np.nan, np.float32)
    runs = np.arange(len(bits))
    assert _native.pool_rows(x, view(runs), view(runs + 1), view(out), 2)
    np.testing.assert_array_equal(out[:, 0], expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_pooling_is_the_mean_rounded_once(dtype):
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
def test_pooling_tells_of_values_that_are_not_finite(bad):
    x = np.zeros((4, 70), np.float32)
    x[2, 69] = bad
    runs = np.arange(4)
    out = np.empty((4, 70), np.float32)
    assert not _native.pool_rows(view(x), view(runs), view(runs + 1), view(out), 1)
    first = out[:2].copy()
    assert _native.pool_rows(view(x), view(runs[:2]), view(runs[:2] + 1), view(first), 1)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 70),
    d=st.integers(1, 120),
    row_step=st.integers(1, 3),
    column_step=st.integers(1, 3),
    dtype=st.sampled_from(["float64", "float32", "float16"]),
    threads=st.integers(1, 4),
)
def test_any_stride_gives_the_bits_of_a_copy(n, d, row_step, column_step, dtype, threads):
    whole = np.random.default_rng(n).normal(size=(n * row_step + 1, d * column_step)).astype(dtype)
    x = whole[: n * row_step : row_step, ::column_step]
    copy = np.ascontiguousarray(x)
    for own, other in zip(
        cross(block(x, threads=threads), block(x, threads=threads), threads),
        cross(block(copy), block(copy)),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)


def test_several_callers_at_once():
    x = np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32)
    expected = cross(block(x), block(x))[0]
    found = []

    def work():
        for _ in range(20):
            found.append(cross(block(x, threads=2), block(x, threads=2), 2)[0])  # noqa: PERF401

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 80
    for product in found:
        np.testing.assert_array_equal(product, expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    x = np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32)
    expected = cross(block(x, threads=2), block(x, threads=2), 2)[0]
    child = os.fork()
    if child == 0:
        product = cross(block(x, threads=2), block(x, threads=2), 2)[0]
        os._exit(0 if np.array_equal(product, expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_isa_is_known():
    assert _native.isa() in ("avx512", "avx2", "portable")


X = np.ones((4, 3), np.float32)
F8 = np.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _native.View(8, "int8", (1,), (1,)), r"\[View\] dtype must be .* got int8"),
        (lambda: _native.View(8, "float32", (1, 1, 1), (1, 1, 1)), r"\[View\] shape and strides"),
        (lambda: _native.View(8, "float32", (2, 2), (2, -1)), "must not be negative"),
        (lambda: _native.View(2, "float32", (2,), (1,)), r"\[View\] address must be aligned"),
        (lambda: _native.View(0, "float32", (2,), (1,)), r"\[View\] address must be aligned"),
        (lambda: block(X, np.zeros(4)), r"\[Block\] origin must be float64 of shape \(3\)"),
        (lambda: block(X, np.zeros(3, np.float32)), r"\[Block\] origin must be float64"),
        (lambda: block(X, row_map="cosine"), r"\[Block\] row_map must be raw"),
        (lambda: block(X, threads=0), r"\[Block\] threads must be at least 1, got 0"),
        (lambda: block(X * 0, row_map="unit"), "rows must not be zero, got row 0"),
        (lambda: block(X, row_map="centered_unit"), "must vary over their features, got row 0"),
        (lambda: block(np.arange(4)[:, None]), r"\[Block\] x must be a floating-point"),
        (lambda: cross(block(X), block(X[:2])), "x and y must have the same rows"),
        (lambda: cross(block(X), block(X.astype(F8))), "both be float64 or neither"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_outputs_are_refused_and_left_alone():
    x, y = block(X), block(X)
    product, left, right, weight = outputs(3, 3, fill=7.0)
    for sums in (
        [product[:2], left, right, weight],
        [product.T[::2], left, right, weight],
        [product, left[:2], right, weight],
        [product, left, product[0], weight],
        [product, left, left, weight],
        [product.astype(np.float32), left, right, weight],
    ):
        with pytest.raises(ValueError, match=r"\[add_cross\] .* must"):
            _native.add_cross(x, y, *map(view, sums), 1)
    for untouched in (product, left, right, weight):
        assert (untouched == 7.0).all()


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
