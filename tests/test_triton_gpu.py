"""What only a GPU can show: bfloat16, real sizes, precision of products, and that nothing waits."""

import pytest
import torch

import bertft
from bertft import Moments, ops
from bertft.capture import RowBlock
from bertft.rows import Batch
from tests.test_triton import MAPS, Sums, assert_alike, halfway, rows_of
from tests.tolerances import DTYPES, name

pytest.importorskip("triton")
from bertft.ops.triton.tilings import TILINGS, using

pytestmark = pytest.mark.cuda
# Relative to the sums of absolute terms; docs/gpu.md derives them.
BOUNDS = {"ieee": 2e-6, "tf32x3": 2e-6, "tf32": 1e-3}


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(257, (100, 60)), (5000, (768, 771))], ids=str)
def test_accumulate(shape, dtype):
    n, widths = shape
    rows, pairs = rows_of(n, widths, dtype), [(0, 0), (0, 1)]
    origins = halfway(rows, MAPS)
    found = Sums(rows, pairs, MAPS, origins).add("triton")
    expected = Sums(rows, pairs, MAPS, origins).add("reference")
    assert_alike(found, expected, dtype)
    again = Sums(rows, pairs, MAPS, origins).add("triton")
    for (what, one), (_, other) in zip(found.tensors(), again.tensors(), strict=True):
        assert torch.equal(one, other), what


@pytest.mark.parametrize("precision", list(BOUNDS))
def test_products_are_as_precise_as_they_say(precision):
    rows, pairs = rows_of(3000, (256, 256), torch.float32), [(0, 0), (0, 1)]
    origins = halfway(rows, ["raw"])
    expected = Sums(rows, pairs, ["raw"], origins).add("reference")
    with using(precision):
        found = Sums(rows, pairs, ["raw"], origins).add("triton")
    a, b = ((x.double() - c).abs() for x, c in zip(rows, origins["raw"], strict=True))
    for cross, other, terms in zip(
        found.maps[0].crosses, expected.maps[0].crosses, (a.T @ a, a.T @ b), strict=True
    ):
        error = (cross.product - other.product).abs()
        assert (error <= BOUNDS[precision] * terms).all()


@pytest.mark.parametrize(
    ("dtype", "tiling"),
    [(dtype, tiling) for dtype, tilings in TILINGS.items() for tiling in tilings],
    ids=str,
)
def test_every_tiling_gives_the_same_sums(dtype, tiling):
    major, minor = torch.cuda.get_device_capability()
    if not tiling.suits(10 * major + minor):
        bounds = tiling.capability, tiling.below
        least, below = (f"{bound // 10}.{bound % 10}" for bound in bounds)
        wanted = f"at least {least} and below {below}"
        pytest.skip(f"is for compute capability {wanted}, this GPU has {major}.{minor}")
    rows, pairs = rows_of(500, (200, 130), dtype), [(0, 0), (0, 1)]
    origins = halfway(rows, MAPS)
    with using(tiling=tiling):
        found = Sums(rows, pairs, MAPS, origins).add("triton")
    assert_alike(found, Sums(rows, pairs, MAPS, origins).add("reference"), dtype)


def test_more_than_two_thousand_million_elements():
    n, d = 2**22 + 3, 513
    x = torch.ones(n, d, dtype=torch.bfloat16, device="cuda")
    x[-1] = 3.0
    starts = torch.tensor([n - 2], device="cuda")
    out = torch.full((1, d), float("nan"), device="cuda")
    assert ops.pool_rows(x, starts, starts + 2, out)
    assert (out == 2.0).all()
    origins = {"raw": [torch.zeros(d, dtype=torch.float64, device="cuda")]}
    [sums] = Sums([x], [(0, 0)], ["raw"], origins).add("triton").maps
    # Whole numbers, which are exact, after the 1 that sums begin with.
    assert (sums.totals[0] == 1 + (n - 1) + 3).all()
    upper = torch.ones(d, d, dtype=torch.bool, device="cuda").triu()
    assert (sums.crosses[0].product[upper] == 1 + (n - 1) + 9).all()
    assert (sums.crosses[0].weight == 1 + (n - 1) * d**2 + (9 * d) ** 2).all()


def test_gathering_and_adding_rows_never_wait_for_the_gpu():
    widths, device = {"x": 64, "y": 64}, torch.device("cuda")
    moments = Moments(widths, [("x", "y")], device=device)
    fault = torch.full((), -1, dtype=torch.int64, device=device)

    def add(rows, numbers):
        moments.update(rows, fault=fault)

    block = RowBlock(widths, 100, torch.float32, add, None, device)
    starts = torch.arange(40)
    hidden = [torch.randn(8, 16, 64, device=device, dtype=torch.bfloat16) for _ in range(6)]
    torch.cuda.synchronize()

    def gather(parts):
        for part in parts:
            block.open(Batch(starts, starts, starts, starts + 2, starts))
            block.receive("x", part)
            block.receive("y", part * 2)
            block.close()

    gather(hidden[:3])  # kernels are compiled and loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        gather(hidden[3:])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    block.finish()
    moments.require_usable(fault)
    assert moments.n == 240


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("intervals", [None, "jackknife"])
def test_compare_on_a_gpu_sums_the_same_rows(checkpoint, texts, dtype, intervals):
    base, tuned = checkpoint("base"), checkpoint("tuned", seed=1)
    options = {"measures": ["rsa", "cka", "rsa_spearman"], "dtype": dtype, "device": "cuda"}
    options |= {"intervals": intervals, "groups": 5}
    found = bertft.compare(base, tuned, texts, **options)
    copied = bertft.compare(base, tuned, texts, backend="native", **options)
    values = (table.table["value"].to_numpy() for table in (found, copied))
    assert next(values) == pytest.approx(next(values), abs=1e-5)
    assert found.provenance["options"]["rows_computed_on"].startswith("cuda")
    assert copied.provenance["options"]["rows_computed_on"].startswith("cpu, copied from cuda")


def test_values_that_are_not_finite_are_told_with_their_layer(checkpoint, texts):
    def broken(model):
        model.encoder.layer[1].output.dense.bias.data.fill_(float("nan"))

    base, tuned = checkpoint("base"), checkpoint("tuned", change=broken)
    with pytest.raises(ValueError, match="NaN or infinity in layer 2 of the finetuned model"):
        bertft.compare(base, tuned, texts, device="cuda", measures=["cka"])
