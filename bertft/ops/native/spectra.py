"""Eigenvalues and singular values by the LAPACK that SciPy brings, a thread for each matrix."""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from bertft import _native
from bertft.ops.native.running import threads_now, views

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController


def eigh(
    matrices: Sequence[Tensor], values: Sequence[Tensor], vectors: Sequence[Tensor] | None
) -> int:
    """See `bertft.ops.eigh`; returns the first matrix that failed, or -1."""
    with _one_blas_thread():
        failed = _native.eigh(
            views(matrices),
            views(values),
            views(vectors or []),
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
            views(matrices),
            views(values),
            views(left or []),
            views(right or []),
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
