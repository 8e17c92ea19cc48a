"""The compiled core (csrc/) behind the signatures of the reference; CPU tensors."""

from bertft.ops.native.probes import (
    adam,
    attend_spans,
    attend_spans_gradient,
    depth_gradient,
    distance_gradient,
    edge_gradient,
    linear_gradient,
    multiply,
    sigmoid_gradient,
    softmax_gradient,
    tanh_norm,
    tanh_norm_gradient,
)
from bertft.ops.native.running import (
    available_isas,
    isa,
    kernels_only,
    threads_now,
    using_isa,
)
from bertft.ops.native.spectra import eigh, nuclear_norms, svd
from bertft.ops.native.sums import accumulate, correlate_pairs, described, pool_rows

__all__ = [
    "accumulate",
    "adam",
    "attend_spans",
    "attend_spans_gradient",
    "available_isas",
    "correlate_pairs",
    "depth_gradient",
    "described",
    "distance_gradient",
    "edge_gradient",
    "eigh",
    "isa",
    "kernels_only",
    "linear_gradient",
    "multiply",
    "nuclear_norms",
    "pool_rows",
    "sigmoid_gradient",
    "softmax_gradient",
    "svd",
    "tanh_norm",
    "tanh_norm_gradient",
    "threads_now",
    "using_isa",
]
