"""Cross moments beside bare float32 products of torch and NumPy, which do less.

Ours shifts the rows, adds the products up in float64 and makes all the small sums of a block; the
others multiply float32 rows as they are. Counted: 2 n d^2 flops for (x, y) and n d (d + 1) for the
symmetric half of (x, x); every row read once, every product read and written in float64.
"""

import warnings
from statistics import median

import numpy as np
import pytest
import torch
from conftest import RACES, aim

from bertft import _native, ops
from bertft.ops import Cross, MappedSums, native

SIZES = [(n, d) for n in (64, 2048, 20_000) for d in (128, 384, 768, 771, 1024, 4096)]


def known_of(n, d):
    """Why a size misses its targets, where it does."""
    if n < 256 and d > 2048:
        return "Bound by reading and writing d^2 sums in float64, twice the bytes of float32."
    if n < 256:
        return "Packing, the small sums and waking a second thread weigh beside so few products."
    if d < 512:
        return "Packing is linear in d and products are quadratic, so it weighs more."
    if d % 16:
        return "The last panel is padded to 16 columns; the rest as for its neighbors."
    return "Packing takes some 7 %; tiles are added up in float64 every 128 rows."


def bertft(rows, row_map="raw"):
    """Return the call, and the product that it adds to."""
    d, last = rows[0].shape[1], len(rows) - 1
    mapped = [x if row_map == "raw" else torch.nn.functional.normalize(x) for x in rows]
    origins = [x[:64].mean(dim=0).double() for x in mapped]
    cross = Cross(*(torch.zeros(shape).double() for shape in ((d, d), d, d, 1)))
    totals, squares = ([torch.zeros(size).double() for _ in rows] for size in (d, 1))
    maps = [MappedSums(row_map, origins, totals, squares, [cross])]
    norms, distances = torch.zeros(len(rows)).double(), torch.zeros(1).double()
    ops.accumulate(rows, [(0, last)], maps, norms, distances)
    cross.product.zero_()
    # What ops.accumulate checks and describes takes some 60 us, whatever the size; timed is the
    # kernel, as the others are.
    arguments = native.described(rows, [(0, last)], maps, norms, distances)
    return lambda: (_native.accumulate(*arguments), rows, maps, norms, distances), cross.product


def contenders(n, d, is_own):
    torch.manual_seed(0)
    x = torch.randn(n, d) + 1
    y = x if is_own else torch.randn(n, d)
    call, product = bertft([x] if is_own else [x, y])
    call()
    for columns in (slice(0, 40), slice(d - 40, d)):
        zx, zy = (z[:, columns].double() for z in (x, y))
        zx, zy = zx - x[:64, columns].mean(dim=0), zy - y[:64, columns].mean(dim=0)
        error = (product[columns, columns] - zx.T @ zy).triu().abs().max()
        assert error <= 2e-6 * (zx.T @ zy).abs().max()
    total, out = torch.zeros(d, d), np.empty((d, d), np.float32)
    a, b = x.numpy(), y.numpy()
    return {
        "bertft": call,
        "torch.addmm": lambda: torch.addmm(total, x.T, y, out=total),
        "numpy": lambda: np.matmul(a.T, b, out=out),
    }


@pytest.mark.parametrize("who", ["bertft", "torch.addmm", "numpy"])
@pytest.mark.parametrize("pair", ["xy", "xx"])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_products(benchmark, race, n, d, pair, who):
    is_own = pair == "xx"
    benchmark.group = f"cross moments ({pair}), n = {n:,}, d = {d:,}"
    flops = n * d * (d + 1) if is_own else 2 * n * d * d
    traffic = (1 if is_own else 2) * 4 * n * d + (8 if is_own else 16) * d * d
    race((n, d, pair), lambda: contenders(n, d, is_own), who, flops=flops, traffic=traffic)
    if who != "bertft":
        aim(benchmark, least=1, why=known_of(n, d))
    elif not is_own:
        aim(benchmark, least=0.75, of="share", why=known_of(n, d))
    elif (n, d, "xy") in RACES:
        both, own = (median(RACES[n, d, which]["bertft"]) for which in ("xy", "xx"))
        benchmark.extra_info["gain"] = both / own
        aim(benchmark, least=1.7, of="gain", why=known_of(n, d))


# The same job in torch: what the kernel's row buys where nothing is left out.
def all_sums(x, y, total, norms):
    zx, zy = x - x[:64].mean(dim=0), y - y[:64].mean(dim=0)
    k, q = zx.square().sum(dim=1), zy.square().sum(dim=1)
    total += zx.T @ zy
    norms += torch.stack([x.norm(dim=1).sum(), y.norm(dim=1).sum(), (x - y).norm(dim=1).sum()])
    return zx.sum(dim=0), zy.sum(dim=0), q @ zx, k @ zy, k @ q, x.isfinite().all()


def same_job(row_map):
    torch.manual_seed(0)
    x, y = torch.randn(2048, 768) + 1, torch.randn(2048, 768)
    total, norms = torch.zeros(768, 768).double(), torch.zeros(3).double()

    def mapped(job):
        if row_map == "raw":
            return lambda: job(x, y, total, norms)
        unit = torch.nn.functional.normalize
        return lambda: job(unit(x), unit(y), total, norms)

    call, product = bertft([x, y], row_map)
    call()
    mapped(all_sums)()
    assert (product - total).abs().max() <= (1e-3 if row_map == "raw" else 1e-5)
    product.zero_(), total.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(all_sums)
        mapped(compiled)()
    return {"bertft": call, "torch": mapped(all_sums), "torch.compile": mapped(compiled)}


@pytest.mark.parametrize("who", ["bertft", "torch", "torch.compile"])
@pytest.mark.parametrize("row_map", ["raw", "unit"])
def test_all_sums(benchmark, race, row_map, who):
    benchmark.group = f"all sums of a block ({row_map} rows), n = 2,048, d = 768"
    traffic = 8 * 2048 * 768 + 16 * 768**2
    race(
        ("sums", row_map), lambda: same_job(row_map), who, flops=2 * 2048 * 768**2, traffic=traffic
    )
