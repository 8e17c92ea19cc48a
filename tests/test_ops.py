"""Every operation over every backend, shape and dtype, against plain float64 torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertft import ops
from bertft.ops import Cross, MappedSums, UnusableRowError, native
from tests.tolerances import DTYPES, PRODUCTS, name

BACKENDS = ["reference", "native"]
SHAPES = [(1, 1, 1), (2, 3, 2), (63, 60, 61), (257, 100, 100), (1000, 768, 33)]


def poisoned(*shape, dtype=torch.float64):
    return torch.full(shape, float("nan"), dtype=dtype)


def zeros(dx, dy):
    return Cross(*(torch.zeros(shape).double() for shape in ((dx, dy), (dx,), (dy,), (1,))))


def mapped(x, row_map):
    x = x.double()
    if row_map == "centered_unit":
        x = x - x.mean(dim=1, keepdim=True)
    return x if row_map == "raw" else x / x.norm(dim=1, keepdim=True)


def close(actual, expected, dtype):
    # The least is the rounding of a unit row itself, of which an origin may take everything off.
    error = float((actual - expected).abs().max())
    assert error <= PRODUCTS[dtype] * float(expected.abs().max()) + 1e-15


class Sums:
    """What some sides and pairs are summed into, under one row map."""

    def __init__(self, rows, pairs, row_map="raw", origins=None):
        widths = [x.shape[1] for x in rows]
        origins = origins or [torch.zeros(d).double() for d in widths]
        totals = [torch.zeros(d).double() for d in widths]
        crosses = [zeros(widths[a], widths[b]) for a, b in pairs]
        self.rows, self.pairs = rows, pairs
        self.mapped = MappedSums(row_map, origins, totals, crosses)
        self.norms = torch.zeros(len(rows)).double()
        self.distances = torch.zeros(len(pairs)).double()

    def add(self, backend):
        ops.accumulate(
            self.rows, self.pairs, [self.mapped], self.norms, self.distances, backend=backend
        )
        return self

    def tensors(self):
        crosses = [sum_ for cross in self.mapped.crosses for sum_ in cross]
        return [*self.mapped.totals, *crosses, self.norms, self.distances]


@pytest.mark.parametrize("row_map", ["raw", "unit", "centered_unit"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulate(backend, shape, dtype, row_map):
    n, dx, dy = shape
    if row_map == "centered_unit" and min(dx, dy) < 3:
        pytest.skip("one column has no variance, and two give rows that are all alike")
    x, y = (torch.randn(n, d).add(1.0).to(dtype) for d in (dx, dy))
    zx, zy = mapped(x, row_map), mapped(y, row_map)
    origins = [zx[0].clone(), zy[0].clone()]
    sums = Sums([x, y], [(0, 1), (0, 0)], row_map, origins)
    sums.mapped.totals[1].fill_(1.0)
    sums.add(backend)
    zx, zy = zx - origins[0], zy - origins[1]
    k, q = zx.square().sum(dim=1), zy.square().sum(dim=1)
    expected = Cross(zx.T @ zy, q @ zx, k @ zy, (k @ q)[None])
    own = Cross((zx.T @ zx).triu(), k @ zx, torch.zeros(dx).double(), (k @ k)[None])
    close(sums.mapped.totals[0], zx.sum(dim=0), dtype)
    close(sums.mapped.totals[1] - 1.0, zy.sum(dim=0), dtype)
    for cross, wanted in zip(sums.mapped.crosses, (expected, own), strict=True):
        for sum_, of in zip(cross, wanted, strict=True):
            close(sum_, of, dtype)
    norms = torch.stack([z.double().norm(dim=1).sum() for z in (x, y)])
    torch.testing.assert_close(sums.norms, norms, rtol=1e-12, atol=0)
    if dx == dy:
        distance = (x.double() - y.double()).norm(dim=1).sum()
        torch.testing.assert_close(sums.distances[0], distance, rtol=1e-12, atol=0)
    assert sums.distances[1] == 0.0


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 150) | st.just(2100),
    widths=st.lists(st.integers(3, 120), min_size=1, max_size=3),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    is_turned=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    row_map=st.sampled_from(["raw", "unit", "centered_unit"]),
    threads=st.integers(1, 4),
    isa=st.sampled_from(native.available_isas()),
)
def test_any_rows_agree_with_the_reference(
    n, widths, steps, is_turned, dtype, row_map, threads, isa
):
    torch.manual_seed(n)
    rows = []
    for d in widths:
        shape = (d * steps[1], n * steps[0]) if is_turned else (n * steps[0], d * steps[1])
        whole = torch.randn(shape).add(0.5).to(dtype)
        rows.append((whole.T if is_turned else whole)[:: steps[0], :: steps[1]])
    pairs = [(a, b) for a in range(len(rows)) for b in range(a, len(rows), 2)]
    origins = [mapped(x, row_map).mean(dim=0) for x in rows]
    expected = Sums(rows, pairs, row_map, origins).add("reference")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with native.using_isa(isa):
            found = Sums(rows, pairs, row_map, origins).add("native")
    finally:
        torch.set_num_threads(before)
    # Sums of n terms about their mean vanish, so tolerances are of the terms' size.
    scale = torch.stack([x.abs().max() for x in expected.tensors()]).max()
    for own, other in zip(found.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=PRODUCTS[dtype] * float(scale))


@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulate_reads_any_layout(backend):
    whole = torch.randn(40, 30)
    for x in (whole.T, whole[::3, 1::2], whole[:1].expand(9, 30)):
        strided = Sums([x], [(0, 0)]).add(backend)
        copied = Sums([x.clone(memory_format=torch.contiguous_format)], [(0, 0)]).add(backend)
        for own, other in zip(strided.tensors(), copied.tensors(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_pool_rows(backend, dtype):
    x = torch.randn(50, 70).to(dtype)
    starts, stops = torch.tensor([0, 3, 49, 10]), torch.tensor([1, 9, 50, 12])
    out = poisoned(4, 70, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert ops.pool_rows(x, starts, stops, out, backend=backend)
    expected = torch.stack(
        [x[i:j].double().mean(dim=0) for i, j in zip(starts, stops, strict=True)]
    )
    torch.testing.assert_close(out, expected.to(out.dtype), rtol=3e-7, atol=1e-7)
    torch.testing.assert_close(out[0], x[0].to(out.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_input(backend):
    out = poisoned(0, 5, dtype=torch.float32)
    none = torch.zeros(0, dtype=torch.int64)
    assert ops.pool_rows(torch.randn(3, 5), none, none, out, backend=backend)
    for row_map in ("raw", "unit", "centered_unit"):
        sums = Sums([torch.empty(0, 5)], [(0, 0)], row_map).add(backend)
        assert not any(sum_.any() for sum_ in sums.tensors())


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_near_its_largest_value(backend):
    x = torch.full((40, 20), 60000.0, dtype=torch.float16)
    x[::2] *= -1
    sums = Sums([x], [(0, 0)]).add(backend)
    expected = (x.double().T @ x.double()).triu()
    close(sums.mapped.crosses[0].product, expected, torch.float16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("row_map", "value", "what"),
    [
        ("raw", float("nan"), "not finite"),
        ("unit", float("inf"), "not finite"),
        ("unit", 0.0, "zero"),
        ("centered_unit", 2.5, "constant"),
    ],
)
def test_a_row_that_cannot_be_summed_leaves_the_sums_alone(backend, row_map, value, what):
    good, bad = torch.randn(4, 5), torch.randn(4, 5)
    bad[2] = value
    sums = Sums([good, bad], [(0, 1)], row_map)
    with pytest.raises(UnusableRowError, match=f"got row 2 of side 1, which is {what}") as caught:
        sums.add(backend)
    assert caught.value.fault == (what, 1, 2)
    assert not any(sum_.any() for sum_ in sums.tensors())


def accumulate(x=None, y=None, backend=None, **changed):
    rows = [torch.randn(4, 3) if x is None else x, *([] if y is None else [y])]
    sums = Sums([torch.empty(0, 3)] * len(rows), [(0, len(rows) - 1)])
    own = {key: changed.pop(key) for key in ("norms", "distances") if key in changed}
    norms, distances = own.get("norms", sums.norms), own.get("distances", sums.distances)
    maps = [sums.mapped._replace(**changed)]
    ops.accumulate(rows, sums.pairs, maps, norms, distances, backend=backend)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": torch.ones(4, 3).int()}, TypeError, r"rows\[0\] must be a floating-point"),
        ({"x": torch.ones(4)}, TypeError, r"rows\[0\] must be a floating-point \(n, d\)"),
        ({"y": torch.ones(5, 3)}, ValueError, "same number on every side, got "),
        ({"y": torch.ones(4, 3).double()}, TypeError, "float64 on every side or on none"),
        (
            {"origins": [torch.zeros(3)]},
            ValueError,
            r"origins\[0\] must be a contiguous torch.float64",
        ),
        ({"totals": [torch.zeros(2).double()]}, ValueError, r"totals\[0\] must be .* shape \(3,\)"),
        ({"crosses": [zeros(3, 2)]}, ValueError, r"crosses\[0\].product must be .*\(3, 3\)"),
        ({"norms": torch.zeros(2).double()}, ValueError, r"norms must be .* shape \(1,\)"),
        ({"distances": torch.zeros(1)}, ValueError, "distances must be a contiguous torch.float64"),
        ({"row_map": "cosine"}, ValueError, "row_map must be one of .* got 'cosine'"),
        ({"backend": "triton"}, ValueError, "backend must be one of .* got 'triton'"),
    ],
)
def test_accumulate_refuses(options, error, message):
    with pytest.raises(error, match=r"\[accumulate\] .*" + message):
        accumulate(**options)


def test_pool_rows_refuses():
    x, out = torch.randn(4, 3), poisoned(1, 3, dtype=torch.float32)
    start, stop = torch.tensor([1]), torch.tensor([2])
    for arguments, message in (
        (
            (x, stop, start, out),
            r"runs must be non-empty and inside x of 4 rows, got \[2, 1\) at 0",
        ),
        ((x, start, stop + 3, out), r"got \[1, 5\) at 0"),
        ((x, start.int(), stop, out), "starts must be a contiguous torch.int64"),
        ((x, start, stop, out.double()), "out must be a contiguous torch.float32"),
        ((x, start, stop, out[:, :2]), "out must be"),
    ):
        with pytest.raises(ValueError, match=r"\[pool_rows\] .*" + message):
            ops.pool_rows(*arguments)
    assert out.isnan().all()


@pytest.mark.parametrize("backend", [None, "native"])
def test_tensors_elsewhere_are_never_moved_in_silence(backend):
    x, out = torch.randn(4, 3, device="meta"), torch.empty(1, 3, device="meta")
    runs = torch.zeros(1, dtype=torch.int64)
    with pytest.raises((RuntimeError, ValueError), match=r"must be on (one device|the CPU)"):
        ops.pool_rows(x, runs, runs + 1, out, backend=backend)
