"""Triton kernels behind the signatures of the reference; CUDA tensors.

One module for each kernel or two that belong together: the kernel, its launcher and the builds that
the tests compile ahead of time. What they share is in `launching`. Where Triton interprets
(TRITON_INTERPRET=1, set before Triton is imported), tensors on the CPU are taken.
"""

from bertft.ops.triton import (
    attention,
    jacobi,
    losses,
    mapped_rows,
    optimizing,
    pairs,
    pooling,
    products,
    structure,
    weighing,
)
from bertft.ops.triton.attention import attend_spans, attend_spans_gradient
from bertft.ops.triton.cross_moments import accumulate
from bertft.ops.triton.losses import linear_gradient, sigmoid_gradient, softmax_gradient
from bertft.ops.triton.optimizing import adam
from bertft.ops.triton.pairs import correlate_pairs
from bertft.ops.triton.pooling import pool_rows
from bertft.ops.triton.spectra import eigh, nuclear_norms, svd
from bertft.ops.triton.structure import depth_gradient, distance_gradient

__all__ = [
    "BUILDS",
    "accumulate",
    "adam",
    "attend_spans",
    "attend_spans_gradient",
    "correlate_pairs",
    "depth_gradient",
    "distance_gradient",
    "eigh",
    "linear_gradient",
    "nuclear_norms",
    "pool_rows",
    "sigmoid_gradient",
    "softmax_gradient",
    "svd",
]

BUILDS = [
    *products.BUILDS,
    *mapped_rows.BUILDS,
    *weighing.BUILDS,
    *pooling.BUILDS,
    *pairs.BUILDS,
    *losses.BUILDS,
    *optimizing.BUILDS,
    *structure.BUILDS,
    *attention.BUILDS,
    *jacobi.BUILDS,
]
"""Every build of every kernel, to compile ahead of time; the first of a kernel is the usual one."""
