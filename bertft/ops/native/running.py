"""What runs the kernels: instruction sets, threads, and tensors as the core sees them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from bertft import _native

_THREADS: ContextVar[int | None] = ContextVar("threads", default=None)


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


@contextmanager
def kernels_only() -> Iterator[None]:
    """Leave the threads to the kernels: torch's own operations run on one inside the block.

    Torch's workers spin for a while after their work and would take turns with those of the
    kernels: where both follow each other closely, that halves the speed.
    """
    threads = threads_now()
    token = _THREADS.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _THREADS.reset(token)


def threads_now() -> int:
    """Return how many threads the kernels use: torch's number, outside of `kernels_only`."""
    return _THREADS.get() or torch.get_num_threads()


_DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.uint8: "uint8",
}


def view(x: Tensor) -> _native.View:
    """Return a tensor as the core sees it; the tensor must outlive it."""
    return _native.View(x.data_ptr(), _DTYPES[x.dtype], x.shape, x.stride())


def views(tensors: Sequence[Tensor]) -> list[_native.View]:
    """Return tensors as the core sees them."""
    return [view(tensor) for tensor in tensors]
