"""The compiled core (csrc/) behind the signatures of the reference; CPU tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft import _native
from bertft.ops.types import Cross, RowMap


def isa() -> str:
    """Return the instruction set that the kernels run on: avx512, avx2 or portable."""
    return _native.isa()


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    threads = torch.get_num_threads()
    return _native.pool_rows(_view(x), _view(starts), _view(stops), _view(out), threads)


def accumulate(
    rows: Sequence[Tensor],
    origins: Sequence[Tensor],
    totals: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    crosses: Sequence[Cross],
    row_map: RowMap,
) -> None:
    """See `bertft.ops.accumulate`."""
    threads = torch.get_num_threads()
    try:
        blocks = [
            _native.Block(_view(x), _view(origin), row_map, threads)
            for x, origin in zip(rows, origins, strict=True)
        ]
    except ValueError as error:
        raise ValueError(f"[accumulate] {error}.") from None
    for block, total in zip(blocks, totals, strict=True):
        _native.add_total(block, _view(total), threads)
    for (a, b), cross in zip(pairs, crosses, strict=True):
        product, left, right, weight = map(_view, cross)
        _native.add_cross(blocks[a], blocks[b], product, left, right, weight, threads)


def _view(x: Tensor) -> _native.View:
    dtype = str(x.dtype).removeprefix("torch.")
    return _native.View(x.data_ptr(), dtype, tuple(x.shape), x.stride())
