"""The operations that have more than one backend, and the choice among them.

| op                | inputs                                | beside it             | tolerance    |
|-------------------|---------------------------------------|-----------------------|--------------|
| pool_rows         | x (N, d), runs (m,) -> out (m, d)     | native, triton        | last bit     |
| accumulate        | k sides (n, d_a) -> sums of pairs     | native, triton        | 2e-6 / 1e-13 |
| correlate_pairs   | two sides (n, d) -> correlation       | native, triton        | 1e-6 / 1e-12 |
| eigh, svd         | matrices (d, d), (m, n) -> spectra    | native, triton        | 1e-12        |
| nuclear_norms     | matrices (m, n) -> sums of s. values  | native, triton        | 1e-12        |
| multiply          | a (m, k), b (k, n) -> out, one or K   | native, eager         | 2e-6 / 1e-13 |
| softmax_gradient  | logits (c, n), K probes -> gradients  | native, triton, eager | 1e-6         |
| sigmoid_gradient  | logits (c, n), K probes -> gradients  | native, triton, eager | 1e-6         |
| linear_gradient   | x (n, d), K probes -> gradients       | native, triton, eager | 2e-6         |
| distance_gradient | words (N, K r), K probes -> gradients | native, triton, eager | 2e-6         |
| depth_gradient    | words (N, K r), K probes -> gradients | native, triton, eager | 2e-6         |
| attend_spans      | x (N, K, h), spans -> means (B, K, h) | native, triton, eager | 1e-5 / 1e-12 |
| tanh_norm         | x (B, K, h) -> units (B, K, h)        | native, eager         | 2e-6         |
| edge_gradient     | spans of K probes -> gradients        | native, composed      | 1e-5         |
| adam              | P x (R, c), moments -> next ones      | native, triton, eager | 2e-6         |

Every op has the backend `reference`, the definition (torch, float64), which is never chosen by
itself. `native` takes CPU tensors and `triton` those on a GPU; `eager` is torch as it is, on any
device, and `composed` is made of other operations. Rows are float64, float32, float16 or bfloat16,
factors and attended rows float64 or float32, and what else probes are trained with float32;
structural losses and Adam take float64 too, by `eager`. Tolerances are relative to the largest
entry, for types up to float32 and for float64. Each has a file in `benchmarks/`. Callers allocate
all outputs. The choice is made in `backends`, the checks are in `checks`, the operations of probes
in `probes`, `attention`, `hidden`, `edges` and `structure`, the arithmetic in the backends.
`trees`, decoding and scores of dependency trees by numba, has no second backend and is imported on
its own.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from bertft.ops.attention import attend_spans, attend_spans_gradient
from bertft.ops.backends import choose_backend, device_of_sums, dot_precision
from bertft.ops.checks import (
    Call,
    check_pairs,
    check_rows,
    check_sums,
    is_finite,
)
from bertft.ops.edges import edge_gradient, edge_logits
from bertft.ops.hidden import tanh_norm, tanh_norm_gradient
from bertft.ops.probes import (
    adam,
    linear_gradient,
    multiply,
    sigmoid_gradient,
    softmax_gradient,
)
from bertft.ops.spectra import eigh, nuclear_norms, svd
from bertft.ops.structure import depth_gradient, distance_gradient
from bertft.ops.types import (
    Correlation,
    Cross,
    EdgeProbes,
    MappedSums,
    PairedRows,
    RowFault,
    RowMap,
    SpanRows,
    UnusableRowError,
)

__all__ = [
    "MOST_RANKED",
    "Correlation",
    "Cross",
    "EdgeProbes",
    "MappedSums",
    "PairedRows",
    "RowFault",
    "RowMap",
    "SpanRows",
    "UnusableRowError",
    "accumulate",
    "adam",
    "attend_spans",
    "attend_spans_gradient",
    "correlate_pairs",
    "depth_gradient",
    "device_of_sums",
    "distance_gradient",
    "dot_precision",
    "edge_gradient",
    "edge_logits",
    "eigh",
    "linear_gradient",
    "multiply",
    "nuclear_norms",
    "pool_rows",
    "require_usable",
    "sigmoid_gradient",
    "softmax_gradient",
    "svd",
    "tanh_norm",
    "tanh_norm_gradient",
]

MOST_RANKED = 65_536
"""Most rows whose pairs are ranked."""


def pool_rows(
    x: Tensor, starts: Tensor, stops: Tensor, out: Tensor, *, backend: str | None = None
) -> Tensor:
    """Write the mean of each run of rows, `out[i] = mean(x[starts[i]:stops[i]])`, widened.

    Args:
        x: `(N, d)` rows.
        starts: `(m,)` int64, the first row of each run.
        stops: `(m,)` int64, one past the last row of each run.
        out: `(m, d)`, float64 for float64 rows and float32 for all others.
        backend: of those that `backends` names; by default the one of `x`'s device.

    Returns:
        Whether every value written is finite: one bool on the device, which waits when it is read.

    Raises:
        ValueError: a run is empty or leaves `x`, or `out` has another shape, dtype or layout. On a
            GPU, which would have to be waited for, such a run becomes NaN.
        TypeError: `x` is not a floating-point matrix.
    """
    call = Call("pool_rows")
    call.rows(x, "x")
    out_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    call.output(starts, "starts", torch.int64, (len(starts),))
    call.output(stops, "stops", torch.int64, (len(starts),))
    call.output(out, "out", out_dtype, (len(starts), x.shape[1]))
    chosen = choose_backend(call, backend, [x, starts, stops, out])
    is_finite: Tensor = torch.as_tensor(chosen.pool_rows(x, starts, stops, out))
    return is_finite


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
    *,
    fault: Tensor | None = None,
    backend: str | None = None,
) -> None:
    """Add rows to the sums of their sides and of pairs of sides (cross moments).

    With `z = map(x) - origin` per side and row map, `totals[a] += sum_i z_i`, and for each pair
    `(a, b)` `product += z_a^T z_b`, `weight += sum_i |z_a,i|^2 |z_b,i|^2`,
    `left += sum_i |z_b,i|^2 z_a,i` and `right += sum_i |z_a,i|^2 z_b,i`. A side paired with itself
    gets the upper triangle of its product only, and no `right`. Of the rows as they are,
    `norms[a] += sum_i |x_a,i|` and, for pairs of one width, `distances += sum_i |x_a,i - x_b,i|`.
    Cost: O(n d_a d_b) for each pair and row map, half of it for a side with itself.

    Args:
        rows: `k` sides, each `(n, d_a)`, all float64 or none.
        pairs: index pairs into the sides.
        maps: for each row map its origins, and the sums that are added to.
        norms: `(k,)` float64, added to.
        distances: one float64 for each pair, added to.
        fault: one int64, -1 at first, in which a GPU notes an unusable row, so that nothing waits
            for it; `require_usable` reads it. The sums are the same either way.
        backend: of those that `backends` names; by default the one of the rows' device.

    Raises:
        UnusableRowError: a row that is not finite, or that has no direction under "unit" or
            "centered_unit". The sums are then as they were.
        ValueError: shapes that don't fit.
        TypeError: rows that are no floating-point matrices, or float64 beside narrower ones.
    """
    call = Call("accumulate")
    check_rows(call, rows)
    check_pairs(call, pairs, len(rows))
    if not maps:
        raise call.fail("maps must be at least one, got none; pass one for each row map.")
    for sums in maps:
        check_sums(call, rows, pairs, sums)
    call.output(norms, "norms", torch.float64, (len(rows),))
    call.output(distances, "distances", torch.float64, (len(pairs),))
    tensors = [*rows, norms, distances]
    for _, *of_sides, crosses in maps:
        tensors += [sum_ for sums in (*of_sides, *crosses) for sum_ in sums]
    if fault is not None:
        call.output(fault, "fault", torch.int64, ())
        tensors.append(fault)
    found = choose_backend(call, backend, tensors).accumulate(rows, pairs, maps, norms, distances)
    if isinstance(found, Tensor):
        if fault is None:
            require_usable(found, len(rows))
        else:
            fault.copy_(torch.where(fault < 0, found, fault))
    elif found is not None:
        raise _unusable(found)


def require_usable(fault: Tensor, sides: int) -> None:
    """Refuse the first of the unusable rows that `accumulate` noted, and wait for it to be noted.

    Raises:
        UnusableRowError: there is one; its number is that in the call that met it.
    """
    found = RowFault.of(int(fault), sides)
    if found is not None:
        raise _unusable(found)


def _unusable(fault: RowFault) -> UnusableRowError:
    return UnusableRowError(
        f"[accumulate] rows must be finite, not zero under unit and not constant under "
        f"centered_unit, got row {fault.row} of side {fault.side}, which is {fault.what}; "
        "drop it on every side.",
        fault,
    )


def correlate_pairs(
    x: PairedRows,
    y: PairedRows,
    correlation: Correlation = "pearson",
    *,
    backend: str | None = None,
) -> float:
    """Correlate the similarities of all pairs of rows i < j of two sides (second-order).

    In [-1, 1], NaN where all pairs of a side are alike. Cost: O(n^2 d); Pearson in tiles that are
    never stored, the rank correlations with one value of the rows' type for each pair and side
    (50 MB at n = 5,000 in float32), and up to 28 bytes for each pair to sort them. Offsets that
    take the mean similarity off keep Pearson's digits.

    Args:
        x: one side.
        y: the other, of as many rows.
        correlation: "pearson", "spearman" (equal values share their mean rank) or "kendall"
            (tau-a).
        backend: of those that `backends` names; by default the one of the rows' device.

    Raises:
        ValueError: shapes, types or layouts that don't fit; fewer than 3 rows, or more than
            65,536 for ranks.
    """
    call = Call("correlate_pairs")
    if correlation not in get_args(Correlation):
        raise call.fail(
            f"correlation must be one of {get_args(Correlation)}, got {correlation!r}; pass one."
        )
    for name, side in (("x", x), ("y", y)):
        call.matrix(side.rows, f"{name}.rows")
    n = len(x.rows)
    if not 3 <= n <= MOST_RANKED:
        raise call.fail(f"rows must be 3 to {MOST_RANKED:,}, got {n}; take a sample.")
    for name, side in (("x", x), ("y", y)):
        dtype = x.rows.dtype if x.rows.dtype == torch.float64 else torch.float32
        call.output(side.rows, f"{name}.rows", dtype, (n, side.rows.shape[-1]))
        call.output(side.offsets, f"{name}.offsets", torch.float64, (n,))
        if not (is_finite(side.rows) and is_finite(side.offsets)):
            raise call.fail(f"{name} must be finite, got NaN or infinity; drop such rows.")
    chosen = choose_backend(call, backend, [x.rows, x.offsets, y.rows, y.offsets])
    return float(chosen.correlate_pairs(x, y, correlation))
