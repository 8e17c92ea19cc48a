"""The Triton kernels against the reference: interpreted on the CPU, for real on a GPU."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bertft import ops
from bertft.ops import Cross, MappedSums, PairedRows, UnusableRowError, backends, row_maps
from bertft.ops.checks import Call
from tests.tolerances import DTYPES, PRODUCTS, name

pytest.importorskip("triton")
from bertft.ops.triton import launching, tilings
from bertft.ops.triton.mapped_rows import measure
from bertft.ops.triton.tilings import Tiling, using
from bertft.ops.triton.weighing import weigh

# Several tiles, steps and parts of few rows.
SMALL = Tiling(16, 16, 16, 4, 2)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def poisoned(*shape, dtype=torch.float64):
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def runs(*pairs):
    starts, stops = zip(*pairs, strict=True)
    return torch.tensor(starts, device=DEVICE), torch.tensor(stops, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("d", [1, 5, 1030])
def test_pool_rows(d, dtype):
    x = torch.randn(2 * d, 9, device=DEVICE).to(dtype).T[:, ::2]
    starts, stops = runs((0, 1), (2, 9), (8, 9))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    found, expected = poisoned(3, d, dtype=wide), poisoned(3, d, dtype=wide).cpu()
    assert ops.pool_rows(x, starts, stops, found, backend="triton")
    # On the CPU, where torch adds rows in their order and divides by their number.
    ops.pool_rows(x.cpu(), starts.cpu(), stops.cpu(), expected, backend="reference")
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("run", [(2, 2), (3, 2), (-1, 1), (3, 5)])
def test_a_run_outside_the_rows_becomes_nan(run):
    out = poisoned(2, 3, dtype=torch.float32).zero_()
    x = torch.ones(4, 3, device=DEVICE)
    assert not ops.pool_rows(x, *runs((0, 2), run), out, backend="triton")
    assert (out[0] == 1.0).all()
    assert out[1].isnan().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pooled_rows_tell_what_is_not_finite(value):
    x = torch.ones(4, 3, device=DEVICE)
    x[2, 1] = value
    out = poisoned(1, 3, dtype=torch.float32)
    assert ops.pool_rows(x, *runs((0, 2)), out, backend="triton")
    assert not ops.pool_rows(x, *runs((0, 3)), out, backend="triton")


def arguments(device="cpu"):
    x, out = torch.ones(4, 3, device=device), torch.empty(1, 3, device=device)
    start = torch.zeros(1, dtype=torch.int64, device=device)
    return x, start, start + 1, out


def test_a_backend_that_is_not_there_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(launching, "INTERPRETS", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"\[pool_rows\] backend .* must have a GPU, got none"):
        ops.pool_rows(*arguments(), backend="triton")
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeError, match=r"must have the package triton.*install 'bertft\[gpu\]'"
    ):
        ops.pool_rows(*arguments(), backend="triton")


def test_a_gpu_that_is_too_old_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(RuntimeError, match=r"\[svd\] .* capability 8.0 or more, got \(7, 5\)"):
        backends.require_triton(Call("svd"), torch.device("cuda"))


def test_tensors_on_the_cpu_are_never_moved_in_silence(monkeypatch):
    monkeypatch.setattr(launching, "INTERPRETS", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    message = r"must be on a GPU for the triton backend, got cpu; .* backend=\"native\""
    with pytest.raises(RuntimeError, match=message):
        ops.pool_rows(*arguments(), backend="triton")
    with pytest.raises(ValueError, match=r"must be on one device, got .*cpu.*meta"):
        ops.pool_rows(*arguments()[:3], torch.empty(1, 3, device="meta"), backend="triton")
    with pytest.raises(RuntimeError, match="must be on a GPU for the triton backend, got meta"):
        ops.pool_rows(*arguments("meta"), backend="triton")


class Sums:
    """What some sides and pairs are summed into, under several row maps."""

    def __init__(self, rows, pairs, kinds, origins):
        def zeros(*shape):
            return torch.ones(shape, dtype=torch.float64, device=DEVICE)

        widths = [x.shape[1] for x in rows]
        self.rows, self.pairs = rows, pairs
        self.maps = [
            MappedSums(
                kind,
                origins[kind],
                [zeros(d) for d in widths],
                [zeros(1) for _ in widths],
                [
                    Cross(zeros(widths[a], widths[b]), zeros(widths[a]), zeros(widths[b]), zeros(1))
                    for a, b in pairs
                ],
            )
            for kind in kinds
        ]
        self.norms, self.distances = zeros(len(rows)), zeros(len(pairs))

    def add(self, backend, **options):
        sums = self.rows, self.pairs, self.maps, self.norms, self.distances
        ops.accumulate(*sums, backend=backend, **options)
        return self

    def tensors(self):
        for m, mapped in enumerate(self.maps):
            for side, total in enumerate(mapped.totals):
                yield f"total of {side} under map {m}", total
                yield f"squares of {side} under map {m}", mapped.squares[side]
            for pair, cross in zip(self.pairs, mapped.crosses, strict=True):
                for part, sum_ in cross._asdict().items():
                    yield f"{part} of {pair} under map {m}", sum_
        yield "norms", self.norms
        yield "distances", self.distances


MAPS = ("raw", "unit", "centered_unit")


def rows_of(n, widths, dtype):
    """Rows about a mean that is not zero, one side of them neither contiguous nor aligned."""
    first = torch.randn(n, widths[0], device=DEVICE).add(1.0).to(dtype)
    others = [torch.randn(2 * d, 2 * n, device=DEVICE).add(0.5).to(dtype).T for d in widths[1:]]
    return [first, *(x[::2, ::2] for x in others)]


def halfway(rows, kinds):
    """Origins halfway to the means of the mapped rows, so that no sum vanishes; in float32."""
    means = {kind: [row_maps.map_rows(x, kind).mean(dim=0) for x in rows] for kind in kinds}
    return {kind: [(mean / 2).float().double() for mean in of] for kind, of in means.items()}


def assert_alike(found, expected, dtype):
    for (what, own), (_, other) in zip(found.tensors(), expected.tensors(), strict=True):
        error = float((own - other).abs().max())
        assert error <= PRODUCTS[dtype] * max(1.0, float(other.abs().max())), what


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, (3, 5)), (18, (17, 5, 17))], ids=str)
def test_accumulate(shape, dtype):
    n, widths = shape
    rows = rows_of(n, widths, dtype)
    pairs = [(0, 0), (0, 1), (2, 0)][: len(widths)]
    origins = halfway(rows, MAPS)
    with using(tiling=SMALL):
        found = Sums(rows, pairs, MAPS, origins).add("triton")
    expected = Sums(rows, pairs, MAPS, origins).add("reference")
    assert_alike(found, expected, dtype)


def test_every_gpu_has_a_tiling_that_fits_its_shared_memory():
    rows = {80: 16, 86: 16, 90: 32, 100: 32, 120: 16}
    for capability, expected in rows.items():
        suited = [t for t in tilings.TILINGS[torch.float32] if t.suits(capability)]
        assert suited[0].rows == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_part_has_several_steps(dtype, monkeypatch):
    monkeypatch.setattr(tilings, "MOST_PARTS", 1)
    rows, pairs = rows_of(40, (5, 17), dtype), [(0, 0), (0, 1)]
    origins = halfway(rows, ["unit"])
    with using(tiling=SMALL):
        found = Sums(rows, pairs, ["unit"], origins).add("triton")
    assert_alike(found, Sums(rows, pairs, ["unit"], origins).add("reference"), dtype)


@pytest.mark.parametrize(
    ("row_map", "value", "what"),
    [
        ("raw", float("nan"), "not finite"),
        ("unit", -float("inf"), "not finite"),
        ("unit", 0.0, "zero"),
        ("centered_unit", 2.5, "constant"),
    ],
)
def test_a_row_that_cannot_be_summed_leaves_the_sums_alone(row_map, value, what):
    good, bad = torch.randn(3, 4, device=DEVICE), torch.randn(3, 4, device=DEVICE)
    bad[1] = value
    origins = {row_map: [torch.zeros(4, dtype=torch.float64, device=DEVICE)] * 2}
    sums = Sums([good, bad], [(0, 1)], [row_map], origins)
    with pytest.raises(UnusableRowError, match=f"got row 1 of side 1, which is {what}") as caught:
        sums.add("triton")
    assert caught.value.fault == (what, 1, 1)
    assert all((sum_ == 1.0).all() for _, sum_ in sums.tensors())


def test_faults_are_noted_without_waiting_and_the_first_is_told():
    origins = {"unit": [torch.zeros(4, dtype=torch.float64, device=DEVICE)]}
    fault = torch.full((), -1, dtype=torch.int64, device=DEVICE)
    rows = torch.randn(3, 4, device=DEVICE)
    for place, value in ((0, 1.0), (2, float("nan")), (0, 0.0)):
        rows[place] = value
        sums = Sums([rows.clone()], [], ["unit"], origins).add("triton", fault=fault)
        assert ((sums.maps[0].totals[0] == 1.0).all()) == (value != 1.0)
        if value == 1.0:
            ops.require_usable(fault, 1)
    with pytest.raises(UnusableRowError, match="got row 2 of side 0, which is not finite"):
        ops.require_usable(fault, 1)


def test_squares_and_norms_add_up_in_float64():
    rows = rows_of(40, (7, 7), torch.float32)
    origins = halfway(rows, MAPS)
    found = Sums(rows, [(0, 1)], MAPS, origins).add("triton")
    expected = Sums(rows, [(0, 1)], MAPS, origins).add("reference")
    for (what, own), (_, other) in zip(found.tensors(), expected.tensors(), strict=True):
        if what.startswith(("squares", "weight", "norms", "distances")):
            torch.testing.assert_close(own, other, rtol=1e-12, atol=0, msg=what)


def test_many_weights_are_summed_some_at_a_time():
    x = torch.randn(5, 3, device=DEVICE)
    measured = measure([x], [MappedSums("raw", [torch.zeros(3).double().to(DEVICE)], [], [], [])])
    weights = torch.randn(37, 5, 1, device=DEVICE)
    found = weigh(measured.sides[0], weights, measured.note)
    expected = weights[:, :, 0].double() @ x.double()
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("size", [1e-42, 1e36])
def test_rows_of_any_size_have_a_direction(size):
    rows = [torch.randn(2, 3, device=DEVICE).mul(size)]
    origins = halfway(rows, ["unit"])
    found = Sums(rows, [(0, 0)], ["unit"], origins).add("triton")
    expected = Sums(rows, [(0, 0)], ["unit"], origins).add("reference")
    assert_alike(found, expected, torch.float32)


def paired(n, d, dtype, scale):
    """Small integers, so that similarities are exact and many are equal."""
    rows = torch.randint(-3, 4, (n, d), device=DEVICE).to(dtype)
    return PairedRows(rows, torch.randint(-3, 4, (n,), device=DEVICE).double(), scale)


@pytest.mark.parametrize("correlation", ["pearson", "spearman", "kendall"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name)
@pytest.mark.parametrize("shape", [(3, 2, 4), (67, 33, 5)], ids=str)
def test_correlated_pairs_agree_with_scipy(shape, dtype, correlation):
    n, dx, dy = shape
    x, y = paired(n, dx, dtype, -2.0), paired(n, dy, dtype, 1.0)
    i, j = torch.triu_indices(n, n, 1)
    s, t = (
        (z.scale * z.rows.double() @ z.rows.double().T + z.offsets[:, None] + z.offsets)[i, j]
        .cpu()
        .numpy()
        for z in (x, y)
    )
    count = len(s) * (len(s) - 1) / 2
    if correlation == "kendall":
        signs = np.sign(s[:, None] - s) * np.sign(t[:, None] - t)
        expected = np.triu(signs, 1).sum() / count
    else:
        oracle = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
        expected = oracle[correlation](s, t).statistic
    found = ops.correlate_pairs(x, y, correlation, backend="triton")
    assert found == pytest.approx(expected, abs=1e-12 if dtype == torch.float64 else 1e-6)


def test_correlated_pairs_that_are_all_alike_have_no_correlation():
    flat = PairedRows(torch.zeros(5, 2, device=DEVICE), torch.zeros(5, device=DEVICE).double(), 1.0)
    other = paired(5, 3, torch.float32, 1.0)
    for correlation in ("pearson", "spearman", "kendall"):
        assert math.isnan(ops.correlate_pairs(flat, other, correlation, backend="triton"))
