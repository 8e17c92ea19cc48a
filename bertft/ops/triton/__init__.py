"""Triton kernels behind the signatures of the reference; CUDA tensors.

One module for each kernel or two that belong together: the kernel, its launcher and the builds that
the tests compile ahead of time. What they share is in `launching`. Where Triton interprets
(TRITON_INTERPRET=1, set before Triton is imported), tensors on the CPU are taken.
"""

from bertft.ops.triton import mapped_rows, pairs, pooling, products, weighing
from bertft.ops.triton.cross_moments import accumulate
from bertft.ops.triton.pairs import correlate_pairs
from bertft.ops.triton.pooling import pool_rows

__all__ = ["BUILDS", "accumulate", "correlate_pairs", "pool_rows"]

BUILDS = [
    *products.BUILDS,
    *mapped_rows.BUILDS,
    *weighing.BUILDS,
    *pooling.BUILDS,
    *pairs.BUILDS,
]
"""Every build of every kernel, to compile ahead of time; the first of a kernel is the usual one."""
