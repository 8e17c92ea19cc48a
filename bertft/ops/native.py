"""The compiled core (csrc/) behind the signatures of the reference; CPU tensors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from bertft import _native
from bertft.ops.types import MappedSums, RowFault


def isa() -> str:
    """Return the instruction set that the kernels run on: avx512, avx2 or portable."""
    return _native.isa()


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that this machine runs, the widest first."""
    return _native.available_isas()


@contextmanager
def using_isa(name: str) -> Iterator[None]:
    """Run the kernels on another instruction set, for tests and benchmarks.

    Raises:
        ValueError: this machine does not run it.
    """
    before = isa()
    _native.set_isa(name)
    try:
        yield
    finally:
        _native.set_isa(before)


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    threads = torch.get_num_threads()
    return _native.pool_rows(_view(x), _view(starts), _view(stops), _view(out), threads)


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> RowFault | None:
    """See `bertft.ops.accumulate`."""
    fault = _native.accumulate(
        _views(rows),
        list(pairs),
        [
            (row_map, _views(origins), _views(totals), [_views(cross) for cross in crosses])
            for row_map, origins, totals, crosses in maps
        ],
        _view(norms),
        _view(distances),
        torch.get_num_threads(),
    )
    return None if fault is None else RowFault(*fault)


_DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
}


def _view(x: Tensor) -> _native.View:
    return _native.View(x.data_ptr(), _DTYPES[x.dtype], x.shape, x.stride())


def _views(tensors: Sequence[Tensor]) -> list[_native.View]:
    return [_view(tensor) for tensor in tensors]
