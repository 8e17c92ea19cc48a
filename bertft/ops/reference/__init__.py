"""The definition of every operation, in torch and float64; written to be read."""

from bertft.ops.reference.edges import edge_gradient
from bertft.ops.reference.probes import (
    adam,
    attend_spans,
    attend_spans_gradient,
    depth_gradient,
    distance_gradient,
    linear_gradient,
    multiply,
    sigmoid_gradient,
    softmax_gradient,
    tanh_norm,
    tanh_norm_gradient,
)
from bertft.ops.reference.sums import (
    accumulate,
    correlate_pairs,
    eigh,
    nuclear_norms,
    pool_rows,
    svd,
)

__all__ = [
    "accumulate",
    "adam",
    "attend_spans",
    "attend_spans_gradient",
    "correlate_pairs",
    "depth_gradient",
    "distance_gradient",
    "edge_gradient",
    "eigh",
    "linear_gradient",
    "multiply",
    "nuclear_norms",
    "pool_rows",
    "sigmoid_gradient",
    "softmax_gradient",
    "svd",
    "tanh_norm",
    "tanh_norm_gradient",
]
