"""The compiled core beside what one would write in torch, on the same rows.

Counted: cross moments 2 n d_x d_y flops for (x, y) and n d (d + 1) for (x, x) with its symmetric
half; pooling reads every piece once and writes every row once.
"""

import pytest
import torch

from bertft import ops
from bertft.ops import Cross

N = 2048


def sums(d):
    return Cross(*(torch.zeros(shape).double() for shape in ((d, d), (d,), (d,), (1,))))


def native(x, y, origin, pair, row_map="raw"):
    d = x.shape[1]
    totals, cross = [torch.zeros(d).double(), torch.zeros(d).double()], sums(d)
    ops.accumulate([x, y], [origin, origin], totals, [pair], [cross], row_map=row_map)
    return cross.product


def eager(x, y, origin, pair, row_map="raw"):
    x, y = (torch.nn.functional.normalize(z) if row_map == "unit" else z for z in (x, y))
    sides = [z - origin.float() for z in (x, y)]
    return torch.mm(sides[pair[0]].T, sides[pair[1]]).double()


@pytest.mark.benchmark(group="cross moments of a block, float32")
@pytest.mark.parametrize("call", [native, eager], ids=["native", "torch"])
@pytest.mark.parametrize("pair", [(0, 1), (0, 0)], ids=["xy", "xx"])
@pytest.mark.parametrize("row_map", ["raw", "unit"])
@pytest.mark.parametrize("d", [384, 768])
def test_cross_moments(benchmark, call, pair, row_map, d):
    torch.manual_seed(0)
    x, y = torch.randn(N, d) + 1, torch.randn(N, d)
    origin = torch.full((d,), 0.01).double()
    mapped = [
        (z / z.norm(dim=1, keepdim=True) if row_map == "unit" else z)
        for z in (x.double(), y.double())
    ]
    expected = (mapped[pair[0]] - origin).T @ (mapped[pair[1]] - origin)
    found = call(x, y, origin, pair, row_map)
    torch.testing.assert_close(
        found.triu(), expected.triu(), rtol=0, atol=2e-6 * float(expected.abs().max())
    )
    benchmark(call, x, y, origin, pair, row_map)
    benchmark.extra_info["gflop"] = 2 * N * d * d * 1e-9 / (1 if pair == (0, 1) else 2)


def pool_native(x, starts, stops, out):
    ops.pool_rows(x, starts, stops, out)
    return out


def pool_torch(x, starts, stops, out):
    total = torch.cat([torch.zeros_like(x[:1]), x.cumsum(dim=0)])
    return (total[stops] - total[starts]) / (stops - starts)[:, None]


@pytest.mark.benchmark(group="row pooling, float32, 768 columns")
@pytest.mark.parametrize("call", [pool_native, pool_torch], ids=["native", "torch"])
def test_pool_rows(benchmark, call):
    torch.manual_seed(0)
    lengths = 1 + (torch.rand(1600) < 0.2).long()
    stops = lengths.cumsum(dim=0)
    starts = stops - lengths
    x, out = torch.randn(int(stops[-1]), 768), torch.empty(1600, 768)
    expected = torch.stack([x[i:j].mean(dim=0) for i, j in zip(starts, stops, strict=True)])
    torch.testing.assert_close(call(x, starts, stops, out), expected, rtol=1e-4, atol=1e-4)
    benchmark(call, x, starts, stops, out)
    benchmark.extra_info["mib"] = (x.numel() + out.numel()) * 4 / 2**20
