"""The compiled core (csrc/) behind the signatures of the reference; CPU tensors."""

import ctypes
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bertft import _native
from bertft.ops.types import Correlation, MappedSums, PairedRows, RowFault

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


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


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    threads = threads_now()
    return _native.pool_rows(_view(x), _view(starts), _view(stops), _view(out), threads)


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> RowFault | None:
    """See `bertft.ops.accumulate`."""
    fault = _native.accumulate(*described(rows, pairs, maps, norms, distances))
    return None if fault is None else RowFault(*fault)


def described(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> tuple[Any, ...]:
    """Return the arguments of the compiled `accumulate`; the tensors must outlive them."""
    described_maps = [
        (row_map, *map(_views, of_sides), [_views(cross) for cross in crosses])
        for row_map, *of_sides, crosses in maps
    ]
    threads = threads_now()
    return _views(rows), list(pairs), described_maps, _view(norms), _view(distances), threads


def correlate_pairs(x: PairedRows, y: PairedRows, correlation: Correlation) -> float:
    """See `bertft.ops.correlate_pairs`."""
    threads = threads_now()
    sides = [(_view(side.rows), _view(side.offsets), side.scale) for side in (x, y)]
    count = len(x.rows) * (len(x.rows) - 1) // 2
    if correlation == "pearson":
        sx, sy, xx, yy, xy = _native.sum_pairs(*sides[0], *sides[1], threads)
        variances = (xx - sx * sx / count) * (yy - sy * sy / count)
        return (xy - sx * sy / count) / math.sqrt(variances) if variances > 0 else math.nan
    a, b = (torch.empty(count, dtype=x.rows.dtype) for _ in sides)
    _native.condense(*sides[0], _view(a), threads)
    _native.condense(*sides[1], _view(b), threads)
    return _native.rank_correlation(_view(a), _view(b), correlation, threads)


def eigh(
    matrices: Sequence[Tensor], values: Sequence[Tensor], vectors: Sequence[Tensor] | None
) -> int:
    """See `bertft.ops.eigh`; returns the first matrix that failed, or -1."""
    with _one_blas_thread():
        failed = _native.eigh(
            _views(matrices),
            _views(values),
            _views(vectors or []),
            threads_now(),
            _lapack("dsyevd"),
        )
    # The core writes eigenvectors as rows.
    for rows in vectors or []:
        rows.copy_(rows.T.clone())
    return failed


def svd(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    left: Sequence[Tensor] | None,
    right: Sequence[Tensor] | None,
) -> int:
    """See `bertft.ops.svd`; returns the first matrix that failed, or -1."""
    with _one_blas_thread():
        return _native.svd(
            _views(matrices),
            _views(values),
            _views(left or []),
            _views(right or []),
            threads_now(),
            _lapack("dgesdd"),
        )


def nuclear_norms(matrices: Sequence[Tensor], out: Tensor) -> int:
    """See `bertft.ops.nuclear_norms`; returns the first matrix that failed, or -1."""
    values = [matrix.new_empty(min(matrix.shape)) for matrix in matrices]
    failed = svd(matrices, values, None, None)
    for i, own in enumerate(values):
        out[i] = own.sum()
    return failed


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """See `bertft.ops.multiply`."""
    _native.multiply(_view(a), _view(b), _view(out), threads_now())


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.softmax_gradient`."""
    threads = threads_now()
    return _native.softmax_gradient(
        _view(logits), _view(offsets), _view(targets), _view(losses), threads
    )


def sigmoid_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.sigmoid_gradient`."""
    threads = threads_now()
    return _native.sigmoid_gradient(
        _view(logits), _view(offsets), _view(targets), _view(losses), threads
    )


def linear_gradient(
    x: Tensor,
    weights: Tensor,
    biases: Tensor | None,
    targets: Tensor,
    scales: Tensor,
    losses: Tensor,
    of_weights: Tensor,
    of_biases: Tensor | None,
) -> bool:
    """See `bertft.ops.linear_gradient`."""
    return _native.linear_gradient(
        _view(x),
        _view(weights),
        None if biases is None else _view(biases),
        _view(targets),
        _view(scales),
        _view(losses),
        _view(of_weights),
        None if of_biases is None else _view(of_biases),
        threads_now(),
    )


def distance_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.distance_gradient`."""
    threads = threads_now()
    return _native.distance_gradient(
        _view(projected), _view(offsets), _view(gold), _view(losses), threads
    )


def depth_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.depth_gradient`."""
    threads = threads_now()
    return _native.depth_gradient(
        _view(projected), _view(offsets), _view(gold), _view(losses), threads
    )


def attend_spans(
    x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor, out: Tensor, logsums: Tensor
) -> None:
    """See `bertft.ops.attend_spans`."""
    _native.attend_spans(
        _view(x),
        _view(weight),
        _view(starts),
        _view(stops),
        _view(out),
        _view(logsums),
        threads_now(),
    )


def attend_spans_gradient(
    x: Tensor,
    weight: Tensor,
    starts: Tensor,
    stops: Tensor,
    out: Tensor,
    logsums: Tensor,
    gradient: Tensor,
    of_x: Tensor,
    of_weight: Tensor,
) -> None:
    """See `bertft.ops.attend_spans_gradient`."""
    _native.attend_spans_gradient(
        _view(x),
        _view(weight),
        _view(starts),
        _view(stops),
        _view(out),
        _view(logsums),
        _view(gradient),
        _view(of_x),
        _view(of_weight),
        threads_now(),
    )


def adam(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    largest: Sequence[Tensor] | None,
    rates: Tensor,
    decays: Tensor,
    step: int,
    betas: tuple[float, float],
    epsilon: float,
    clip: float | None,
) -> None:
    """See `bertft.ops.adam`."""
    _native.adam(
        _views(weights),
        _views(gradients),
        _views(first),
        _views(second),
        None if largest is None else _views(largest),
        _view(rates),
        _view(decays),
        step,
        *betas,
        epsilon,
        clip,
        threads_now(),
    )


@cache
def _lapack(routine: str) -> int:
    """The address of a LAPACK routine with 32-bit integers, as SciPy offers it to Cython."""
    from scipy.linalg import cython_lapack

    capsule = cython_lapack.__pyx_capi__[routine]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    return int(pointer(capsule, name(capsule)))


_BLAS_LIMIT = threading.Lock()


@cache
def _blas() -> "ThreadpoolController":
    import scipy.linalg  # noqa: F401 (its BLAS must be loaded to be found)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keep SciPy's BLAS on the threads that call it: the batch is what runs in parallel.

    One batch at a time, for the limit is one of the process.
    """
    with _BLAS_LIMIT, _blas().limit(limits=1, user_api="blas"):
        yield


_DTYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int64: "int64",
    torch.uint8: "uint8",
}


def _view(x: Tensor) -> _native.View:
    return _native.View(x.data_ptr(), _DTYPES[x.dtype], x.shape, x.stride())


def _views(tensors: Sequence[Tensor]) -> list[_native.View]:
    return [_view(tensor) for tensor in tensors]
