"""Words from their pieces, and selections by index, beside the torch way to do the same.

Counted: every piece read once, every row written once.
"""

import pytest
import torch
from conftest import aim

from bertft import ops

WHY = "Rows lie apart, means are formed in float64, and the call takes 20 us of Python."


def rows_of(kind, dtype):
    """Hidden states of a batch of 2,048 tokens, and the runs that make its rows."""
    torch.manual_seed(0)
    x = torch.randn(2048, 768).to(dtype)
    if kind == "words":
        lengths = 1 + (torch.rand(1600) < 0.2).long()
        stops = lengths.cumsum(dim=0)
        return x[: int(stops[-1])], stops - lengths, stops
    chosen = torch.randperm(2048)[:1600].sort().values
    return x, chosen, chosen + 1


def contenders(kind, dtype):
    x, starts, stops = rows_of(kind, dtype)
    out = torch.empty(1600, 768)
    ids, total = torch.repeat_interleave(torch.arange(1600), stops - starts), torch.empty(1600, 768)
    lengths = (stops - starts)[:, None]

    def pool():
        assert ops.pool_rows(x, starts, stops, out)

    def index_add():
        total.zero_().index_add_(0, ids, x.float()).div_(lengths)

    def index_select():
        torch.index_select(x, 0, starts).float()

    pool()
    expected = torch.stack([x[i:j].double().mean(0) for i, j in zip(starts, stops, strict=True)])
    torch.testing.assert_close(out, expected.float(), rtol=1e-6, atol=1e-7)
    return {"bertft": pool, "torch": index_add if kind == "words" else index_select}


@pytest.mark.parametrize("who", ["bertft", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["words", "selection"])
def test_row_pooling(benchmark, race, kind, dtype, who):
    dtype = getattr(torch, dtype)
    benchmark.group = f"row pooling ({kind}, {str(dtype)[6:]}), 1,600 rows of 768 columns"
    if who == "bertft":
        aim(benchmark, least=0.8, of="share", why=WHY)
    pieces = 1600 if kind == "selection" else len(rows_of(kind, dtype)[0])
    traffic = 768 * (pieces * dtype.itemsize + 1600 * 4)
    race((kind, dtype), lambda: contenders(kind, dtype), who, traffic=traffic)
