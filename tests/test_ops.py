"""Every operation over every backend, shape and dtype, against plain float64 torch."""

import pytest
import torch

from bertft import ops
from bertft.ops import Cross
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
    scale = max(float(expected.abs().max()), 1e-300)
    assert float((actual - expected).abs().max()) <= PRODUCTS[dtype] * scale


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
    totals = [torch.zeros(dx).double(), torch.ones(dy).double()]
    crosses = [zeros(dx, dy), zeros(dx, dx)]
    pairs = [(0, 1), (0, 0)]
    ops.accumulate([x, y], origins, totals, pairs, crosses, row_map=row_map, backend=backend)
    zx, zy = zx - origins[0], zy - origins[1]
    k, q = zx.square().sum(dim=1), zy.square().sum(dim=1)
    expected = Cross(zx.T @ zy, q @ zx, k @ zy, (k @ q)[None])
    own = Cross((zx.T @ zx).triu(), k @ zx, torch.zeros(dx).double(), (k @ k)[None])
    close(totals[0], zx.sum(dim=0), dtype)
    close(totals[1] - 1.0, zy.sum(dim=0), dtype)
    for cross, wanted in zip(crosses, (expected, own), strict=True):
        for sum_, of in zip(cross, wanted, strict=True):
            close(sum_, of, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulate_reads_any_layout(backend):
    whole = torch.randn(40, 30)
    for x in (whole.T, whole[::3, 1::2], whole[:1].expand(9, 30)):
        crosses = [zeros(x.shape[1], x.shape[1]) for _ in range(2)]
        for rows, cross in zip(
            (x, x.clone(memory_format=torch.contiguous_format)), crosses, strict=True
        ):
            origin, total = (torch.zeros(x.shape[1]).double() for _ in range(2))
            ops.accumulate([rows], [origin], [total], [(0, 0)], [cross], backend=backend)
        for own, other in zip(*crosses, strict=True):
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
    cross = zeros(5, 5)
    origin, total = torch.zeros(5).double(), torch.zeros(5).double()
    if backend == "native":
        ops.accumulate([torch.empty(0, 5)], [origin], [total], [(0, 0)], [cross], backend=backend)
    assert not total.any()
    assert not cross.product.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_near_its_largest_value(backend):
    x = torch.full((40, 20), 60000.0, dtype=torch.float16)
    x[::2] *= -1
    cross, total = zeros(20, 20), torch.zeros(20).double()
    origin = torch.zeros(20).double()
    ops.accumulate([x], [origin], [total], [(0, 0)], [cross], backend=backend)
    expected = (x.double().T @ x.double()).triu()
    close(cross.product, expected, torch.float16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row_map", ["unit", "centered_unit"])
def test_a_row_without_direction_leaves_the_sums_alone(backend, row_map):
    good, bad = torch.randn(4, 5), torch.randn(4, 5)
    bad[2] = 0.0
    totals = [torch.zeros(5).double(), torch.zeros(5).double()]
    cross = zeros(5, 5)
    origins = [torch.zeros(5).double()] * 2
    with pytest.raises(ValueError, match="row 2 that cannot be scaled"):
        ops.accumulate(
            [good, bad], origins, totals, [(0, 1)], [cross], row_map=row_map, backend=backend
        )
    assert not any(sum_.any() for sum_ in (*totals, *cross))


def accumulate(x=None, origin=None, total=None, cross=None, y=None, **options):
    x = torch.randn(4, 3) if x is None else x
    origin = torch.zeros(3).double() if origin is None else origin
    total = torch.zeros(3).double() if total is None else total
    cross = zeros(3, 3) if cross is None else cross
    rows = [x] if y is None else [x, y]
    many = len(rows)
    ops.accumulate(rows, [origin] * many, [total] * many, [(0, many - 1)], [cross], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": torch.ones(4, 3).int()}, TypeError, r"rows\[0\] must be a floating-point"),
        ({"x": torch.ones(4)}, TypeError, r"rows\[0\] must be a floating-point \(n, d\)"),
        ({"y": torch.ones(5, 3)}, ValueError, "same number on every side, got "),
        ({"y": torch.ones(4, 3).double()}, TypeError, "float64 on every side or on none"),
        (
            {"origin": torch.zeros(3)},
            ValueError,
            r"origins\[0\] must be a contiguous torch.float64",
        ),
        ({"total": torch.zeros(2).double()}, ValueError, r"totals\[0\] must be .* shape \(3,\)"),
        ({"cross": zeros(3, 2)}, ValueError, r"crosses\[0\].product must be .*\(3, 3\)"),
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
