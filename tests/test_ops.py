"""Every operation over every backend, shape and dtype, against plain float64 torch."""

import math

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertft import ops
from bertft.ops import Cross, MappedSums, PairedRows, UnusableRowError, native
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
        squares = [torch.zeros(1).double() for _ in widths]
        crosses = [zeros(widths[a], widths[b]) for a, b in pairs]
        self.rows, self.pairs = rows, pairs
        self.mapped = MappedSums(row_map, origins, totals, squares, crosses)
        self.norms = torch.zeros(len(rows)).double()
        self.distances = torch.zeros(len(pairs)).double()

    def add(self, backend):
        ops.accumulate(
            self.rows, self.pairs, [self.mapped], self.norms, self.distances, backend=backend
        )
        return self

    def tensors(self):
        crosses = [sum_ for cross in self.mapped.crosses for sum_ in cross]
        return [*self.mapped.totals, *self.mapped.squares, *crosses, self.norms, self.distances]


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
    for found, z in zip(sums.mapped.squares, (zx, zy), strict=True):
        close(found, z.square().sum(), dtype)
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
    widths=st.lists(st.integers(8, 120), min_size=1, max_size=3),
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
    origins = [mapped(x, row_map).mean(dim=0) / 2 for x in rows]
    expected = Sums(rows, pairs, row_map, origins).add("reference")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with native.using_isa(isa):
            found = Sums(rows, pairs, row_map, origins).add("native")
    finally:
        torch.set_num_threads(before)
    for own, other, scale in zip(found.tensors(), expected.tensors(), sizes(expected), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=PRODUCTS[dtype] * float(scale))


def sizes(sums):
    """The largest sum of absolute terms in each of the tensors."""
    z = [
        (mapped(x, sums.mapped.row_map) - origin).abs()
        for x, origin in zip(sums.rows, sums.mapped.origins, strict=True)
    ]
    squares = [rows.square().sum(dim=1) for rows in z]
    found = [rows.sum(dim=0).max() for rows in z] + [of.sum() for of in squares]
    for a, b in sums.pairs:
        found += [(z[a].T @ z[b]).max(), (squares[b] @ z[a]).max(), (squares[a] @ z[b]).max()]
        found.append(squares[a] @ squares[b])
    return [*found, sums.norms.max(), sums.norms.max()]


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
        ({"origins": []}, ValueError, "origins must have 1 entries, got 0"),
        ({"crosses": []}, ValueError, "crosses must have 1 entries, got 0"),
        ({"x": torch.randn(4, 3).to_sparse()}, TypeError, "layout torch.sparse_coo"),
        (
            {"x": torch.randn(4, 3, dtype=torch.complex64).conj().imag},
            ValueError,
            r"view that negates them; pass .resolve_neg\(\)",
        ),
        ({"row_map": "cosine"}, ValueError, "row_map must be one of .* got 'cosine'"),
        ({"backend": "eager"}, ValueError, "backend must be one of .* got 'eager'"),
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
        for backend in BACKENDS:
            with pytest.raises(ValueError, match=r"\[pool_rows\] .*" + message):
                ops.pool_rows(*arguments, backend=backend)
    assert out.isnan().all()


@pytest.mark.parametrize("backend", [None, "native"])
def test_tensors_elsewhere_are_never_moved_in_silence(backend):
    x, out = torch.randn(4, 3, device="meta"), torch.empty(1, 3, device="meta")
    runs = torch.zeros(1, dtype=torch.int64)
    with pytest.raises((RuntimeError, ValueError), match=r"must be on (one device|the CPU)"):
        ops.pool_rows(x, runs, runs + 1, out, backend=backend)


def paired(n, d, dtype, scale):
    rows = torch.randn(n, d).to(dtype)
    return PairedRows(rows, torch.randn(n).double(), scale)


@pytest.mark.parametrize("correlation", ["pearson", "spearman", "kendall"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name)
@pytest.mark.parametrize("shape", [(3, 1, 2), (40, 7, 60), (60, 100, 100)], ids=str)
def test_correlated_pairs_agree_with_scipy(shape, dtype, correlation):
    n, dx, dy = shape
    x, y = paired(n, dx, dtype, -2.0), paired(n, dy, dtype, 1.0)
    i, j = torch.triu_indices(n, n, 1)
    s, t = (
        (z.scale * z.rows.double() @ z.rows.double().T + z.offsets[:, None] + z.offsets)[i, j]
        for z in (x, y)
    )
    oracle = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
    expected = oracle[correlation](s.numpy(), t.numpy()).statistic
    for backend in BACKENDS:
        found = ops.correlate_pairs(x, y, correlation, backend=backend)
        assert found == pytest.approx(expected, abs=1e-12 if dtype == torch.float64 else 1e-6)


def test_correlated_pairs_that_are_all_alike_have_no_correlation():
    x = PairedRows(torch.zeros(5, 2), torch.zeros(5).double(), 1.0)
    y = paired(5, 3, torch.float32, 1.0)
    for correlation in ("spearman", "kendall"):
        for backend in BACKENDS:
            assert math.isnan(ops.correlate_pairs(x, y, correlation, backend=backend))
    assert math.isnan(ops.correlate_pairs(x, y))


def test_correlate_pairs_refuses():
    x, y = paired(5, 3, torch.float32, 1.0), paired(6, 3, torch.float32, 1.0)
    few = PairedRows(x.rows[:2], x.offsets[:2], 1.0)
    many = PairedRows(torch.zeros(65_537, 1), torch.zeros(65_537).double(), 1.0)
    for arguments, message in (
        ((x, y), r"y.rows must be a contiguous torch.float32 tensor of shape \(5, 3\)"),
        ((x, x._replace(rows=x.rows.double())), "y.rows must be a contiguous torch.float32"),
        ((x, x._replace(offsets=x.offsets.float())), "y.offsets must be"),
        ((few, few), "rows must be 3 to 65,536, got 2"),
        ((many, many), "rows must be 3 to 65,536, got 65537"),
        ((x, x, "pearsn"), "correlation must be one of .* got 'pearsn'"),
    ):
        with pytest.raises(ValueError, match=r"\[correlate_pairs\] " + message):
            ops.correlate_pairs(*arguments)


def problems(symmetric):
    sizes = [(0, 0), (1, 1), (2, 2), (33, 33), (100, 100), (64, 64)]
    sizes += [] if symmetric else [(5, 30), (30, 5), (1, 7), (0, 4)]
    matrices = [torch.randn(shape).double() for shape in sizes]
    return [z + z.T for z in matrices] if symmetric else matrices


@pytest.mark.parametrize("backend", BACKENDS)
def test_eigh(backend):
    matrices = problems(symmetric=True)
    values = [poisoned(len(z)) for z in matrices]
    vectors = [poisoned(len(z), len(z)) for z in matrices]
    ops.eigh([z.triu() for z in matrices], values, vectors, backend=backend)
    alone = [poisoned(len(z)) for z in matrices]
    ops.eigh(matrices, alone, backend=backend)
    for z, w, v, a in zip(matrices, values, vectors, alone, strict=True):
        expected = scipy.linalg.eigvalsh(z.numpy()) if len(z) else z.numpy()[:, :0].ravel()
        scale = 1e-12 * max(1.0, float(abs(expected).max(initial=0.0)))
        torch.testing.assert_close(w, torch.from_numpy(expected), rtol=0, atol=scale)
        torch.testing.assert_close(a, w, rtol=0, atol=scale)
        torch.testing.assert_close(v @ torch.diag(w) @ v.T, z, rtol=0, atol=scale)
        torch.testing.assert_close(v.T @ v, torch.eye(len(z)).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_svd(backend):
    matrices = problems(symmetric=False)
    least = [min(z.shape) for z in matrices]
    values = [poisoned(k) for k in least]
    left = [poisoned(len(z), k) for z, k in zip(matrices, least, strict=True)]
    right = [poisoned(k, z.shape[1]) for z, k in zip(matrices, least, strict=True)]
    ops.svd(matrices, values, left, right, backend=backend)
    alone = [poisoned(k) for k in least]
    ops.svd(matrices, alone, backend=backend)
    for z, u, s, vh, a in zip(matrices, left, values, right, alone, strict=True):
        if s.numel():
            expected = torch.from_numpy(scipy.linalg.svdvals(z.numpy()))
            torch.testing.assert_close(s, expected, rtol=0, atol=1e-12 * float(s[0]))
        torch.testing.assert_close(a, s, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(u @ torch.diag(s) @ vh, z, rtol=0, atol=1e-11)


def test_threads_do_not_change_a_bit_of_a_spectrum():
    matrices = problems(symmetric=True)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        vectors = [torch.empty_like(z) for z in matrices]
        ops.eigh(matrices, [torch.empty(len(z)).double() for z in matrices], vectors)
        found.append(vectors)
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_spectra_refuse():
    z = torch.eye(3).double()
    bad = z.clone()
    bad[1, 2] = float("nan")
    value = [torch.empty(3).double()]
    for call, error, message in (
        (lambda: ops.eigh([z[:2]], value), ValueError, r"\[eigh\] matrices\[0\] must be"),
        (lambda: ops.eigh([z.float()], value), ValueError, r"matrices\[0\] must be a contiguous"),
        (lambda: ops.eigh([z], [value[0][:2]]), ValueError, r"values\[0\] must be"),
        (lambda: ops.eigh([bad], value), torch.linalg.LinAlgError, r"matrices\[0\] must be finite"),
        (lambda: ops.svd([bad], value), torch.linalg.LinAlgError, r"matrices\[0\] must be finite"),
        (lambda: ops.svd([z], value, [z]), ValueError, "given both or neither"),
        (lambda: ops.svd([z[0]], value), ValueError, r"matrices\[0\] must be a matrix"),
        (lambda: ops.eigh([z], []), ValueError, "values must have 1 entries, got 0"),
        (lambda: ops.svd([z], value, [z], [z.clone()]), ValueError, "left must not overlap"),
    ):
        with pytest.raises(error, match=message):
            call()
