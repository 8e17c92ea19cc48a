"""The operations that have more than one backend, and the choice among them.

| op                | inputs                                     | beside it     | tolerance    |
|-------------------|--------------------------------------------|---------------|--------------|
| pool_rows         | x (N, d), runs (m,) int64 -> out (m, d)    | native        | last bit     |
| accumulate        | k sides (n, d_a), origins -> sums of pairs | native        | 2e-6 / 1e-13 |
| correlate_pairs   | two sides (n, d) -> correlation            | native        | 1e-6 / 1e-12 |
| eigh, svd         | matrices (d, d), (m, n) -> spectra         | native        | 1e-12        |
| multiply          | a (m, k), b (k, n) -> out (m, n)           | native, eager | 2e-6 / 1e-13 |
| softmax_gradient  | logits (n, c) of K probes -> gradients     | native, eager | 1e-6         |
| sigmoid_gradient  | logits (n, c) of K probes -> gradients     | native, eager | 1e-6         |
| distance_gradient | words (N, K r) of K probes -> gradients    | native, eager | 2e-6         |
| depth_gradient    | words (N, K r) of K probes -> gradients    | native, eager | 2e-6         |
| adam              | weights (r, c), moments -> the next ones   | native, eager | 2e-6         |

Every op has the backend `reference`, the definition (torch, float64), which is never chosen by
itself. `native` takes CPU tensors; `eager` is torch as it is, for tensors on other devices. Rows
are float64, float32, float16 or bfloat16, factors float64 or float32, and what probes are trained
with float32; the last three take float64 too, by `eager`. Tolerances are relative to the largest
entry, for types up to float32 and for float64.
Each has a file in `benchmarks/`. Callers allocate all outputs. The checks are in `checks`, the
operations of probes in `probes` and `structure`, the arithmetic in the backends. `trees`, decoding
and scores of dependency trees by numba, has no second backend and is imported on its own.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from bertft.ops.checks import (
    Call,
    check_pairs,
    check_rows,
    check_sums,
    choose_backend,
    require_finite,
    require_solved,
)
from bertft.ops.probes import adam, multiply, sigmoid_gradient, softmax_gradient
from bertft.ops.structure import depth_gradient, distance_gradient
from bertft.ops.types import (
    Correlation,
    Cross,
    MappedSums,
    PairedRows,
    RowFault,
    RowMap,
    UnusableRowError,
)

__all__ = [
    "Correlation",
    "Cross",
    "MappedSums",
    "PairedRows",
    "RowFault",
    "RowMap",
    "UnusableRowError",
    "accumulate",
    "adam",
    "correlate_pairs",
    "depth_gradient",
    "distance_gradient",
    "eigh",
    "multiply",
    "pool_rows",
    "sigmoid_gradient",
    "softmax_gradient",
    "svd",
]


def pool_rows(
    x: Tensor, starts: Tensor, stops: Tensor, out: Tensor, *, backend: str | None = None
) -> bool:
    """Write the mean of each run of rows, `out[i] = mean(x[starts[i]:stops[i]])`, widened.

    Args:
        x: `(N, d)` rows.
        starts: `(m,)` int64, the first row of each run.
        stops: `(m,)` int64, one past the last row of each run.
        out: `(m, d)`, float64 for float64 rows and float32 for all others.
        backend: "reference" or "native"; by default the one of `x`'s device.

    Returns:
        Whether every value written is finite.

    Raises:
        ValueError: a run is empty or leaves `x`, or `out` has another shape, dtype or layout.
        TypeError: `x` is not a floating-point matrix.
    """
    call = Call("pool_rows")
    call.rows(x, "x")
    out_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    call.output(starts, "starts", torch.int64, (len(starts),))
    call.output(stops, "stops", torch.int64, (len(starts),))
    call.output(out, "out", out_dtype, (len(starts), x.shape[1]))
    chosen = choose_backend(call, backend, [x, starts, stops, out])
    return bool(chosen.pool_rows(x, starts, stops, out))


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
    *,
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
        backend: "reference" or "native"; by default the one of the rows' device.

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
    for _, origins, totals, crosses in maps:
        tensors += [*origins, *totals, *(sum_ for cross in crosses for sum_ in cross)]
    fault = choose_backend(call, backend, tensors).accumulate(rows, pairs, maps, norms, distances)
    if fault is not None:
        raise UnusableRowError(
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
        backend: "reference" or "native"; by default the one of the rows' device.

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
    if not 3 <= n <= 65_536:
        raise call.fail(f"rows must be 3 to 65,536, got {n}; take a sample.")
    for name, side in (("x", x), ("y", y)):
        dtype = x.rows.dtype if x.rows.dtype == torch.float64 else torch.float32
        call.output(side.rows, f"{name}.rows", dtype, (n, side.rows.shape[-1]))
        call.output(side.offsets, f"{name}.offsets", torch.float64, (n,))
        if not (side.rows.isfinite().all() and side.offsets.isfinite().all()):
            raise call.fail(f"{name} must be finite, got NaN or infinity; drop such rows.")
    chosen = choose_backend(call, backend, [x.rows, x.offsets, y.rows, y.offsets])
    return float(chosen.correlate_pairs(x, y, correlation))


def eigh(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    vectors: Sequence[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Solve many symmetric eigenvalue problems, one thread for each matrix.

    Cost: O(d^3) each. Only the upper triangles are read.

    Args:
        matrices: float64 `(d, d)` each, of any sizes.
        values: `(d,)` for each, written in ascending order.
        vectors: `(d, d)` for each, whose columns become the eigenvectors; None for values only.
        backend: "reference" or "native"; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
        torch.linalg.LinAlgError: a matrix that is not finite, or an iteration that does not end.
    """
    call = Call("eigh")
    call.counts(len(matrices), values=values, vectors=vectors)
    for i, matrix in enumerate(matrices):
        call.matrix(matrix, f"matrices[{i}]")
        d = matrix.shape[-1]
        call.output(matrix, f"matrices[{i}]", torch.float64, (d, d))
        call.output(values[i], f"values[{i}]", torch.float64, (d,))
        if vectors is not None:
            call.output(vectors[i], f"vectors[{i}]", torch.float64, (d, d))
    require_finite(call, matrices)
    chosen = choose_backend(call, backend, [*matrices, *values, *(vectors or [])])
    require_solved(call, chosen.eigh(matrices, values, vectors))


def svd(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    left: Sequence[Tensor] | None = None,
    right: Sequence[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Decompose many matrices into singular values and vectors, one thread for each matrix.

    `matrix = left @ diag(values) @ right`. Cost: O(m n k) each, with `k = min(m, n)`.

    Args:
        matrices: float64 `(m, n)` each, of any sizes.
        values: `(k,)` for each, written in descending order.
        left: `(m, k)` for each, or None, like `right`, for values only.
        right: `(k, n)` for each.
        backend: "reference" or "native"; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
        torch.linalg.LinAlgError: a matrix that is not finite, or an iteration that does not end.
    """
    call = Call("svd")
    if (left is None) != (right is None):
        raise call.fail("left and right must be given both or neither, got one; allocate both.")
    call.counts(len(matrices), values=values, left=left, right=right)
    for i, matrix in enumerate(matrices):
        call.matrix(matrix, f"matrices[{i}]")
        m, n = matrix.shape
        call.output(matrix, f"matrices[{i}]", torch.float64, (m, n))
        call.output(values[i], f"values[{i}]", torch.float64, (min(m, n),))
        if left is not None and right is not None:
            call.output(left[i], f"left[{i}]", torch.float64, (m, min(m, n)))
            call.output(right[i], f"right[{i}]", torch.float64, (min(m, n), n))
    require_finite(call, matrices)
    chosen = choose_backend(call, backend, [*matrices, *values, *(left or []), *(right or [])])
    require_solved(call, chosen.svd(matrices, values, left, right))
