"""The operations that have more than one backend, and the choice among them.

| op         | inputs                                        | backends          | tolerance      |
|------------|-----------------------------------------------|-------------------|----------------|
| pool_rows  | x (N, d), runs (m,) int64 -> out (m, d)       | reference, native | last bit       |
| accumulate | k sides (n, d_a), origins -> sums of pairs    | reference, native | 2e-6 / 1e-13   |

Rows are float64, float32, float16 or bfloat16; tolerances are relative to the largest entry, for
rows up to float32 and for float64 rows. Benchmarks: `benchmarks/test_kernels.py`. `reference` is
the definition (torch, float64) and never chosen by itself; `native` takes CPU tensors. Callers
allocate all outputs. Owns the checks and the choice; the arithmetic is in the backends.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from bertft.ops.types import Cross, MappedSums, RowFault, RowMap, UnusableRowError

__all__ = [
    "Cross",
    "MappedSums",
    "RowFault",
    "RowMap",
    "UnusableRowError",
    "accumulate",
    "pool_rows",
]

BACKENDS = ("reference", "native")
ROW_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class _Call(NamedTuple):
    """The name of the op that is running, for its error texts."""

    name: str

    def fail(self, text: str, kind: type[Exception] = ValueError) -> Exception:
        return kind(f"[{self.name}] {text}")

    def rows(self, x: Tensor, name: str) -> None:
        if x.ndim != 2 or x.dtype not in ROW_DTYPES:
            raise self.fail(
                f"{name} must be a floating-point (n, d) tensor, got {x.dtype} of shape "
                f"{tuple(x.shape)}; reshape or convert it.",
                TypeError,
            )

    def output(self, x: Tensor, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        if x.dtype != dtype or x.shape != shape or not x.is_contiguous():
            raise self.fail(
                f"{name} must be a contiguous {dtype} tensor of shape {shape}, got {x.dtype} of "
                f"shape {tuple(x.shape)} and strides {x.stride()}; allocate it so."
            )


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
    call = _Call("pool_rows")
    call.rows(x, "x")
    out_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    call.output(starts, "starts", torch.int64, (len(starts),))
    call.output(stops, "stops", torch.int64, (len(starts),))
    call.output(out, "out", out_dtype, (len(starts), x.shape[1]))
    invalid = (starts < 0) | (starts >= stops) | (stops > len(x))
    if invalid.any():
        at = int(invalid.nonzero()[0])
        raise call.fail(
            f"runs must be non-empty and inside x of {len(x)} rows, got "
            f"[{int(starts[at])}, {int(stops[at])}) at {at}; drop it."
        )
    chosen = _backend(call, backend, [x, starts, stops, out])
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
    call = _Call("accumulate")
    _check_rows(call, rows)
    for sums in maps:
        _check_sums(call, rows, pairs, sums)
    call.output(norms, "norms", torch.float64, (len(rows),))
    call.output(distances, "distances", torch.float64, (len(pairs),))
    tensors = [*rows, norms, distances]
    for _, origins, totals, crosses in maps:
        tensors += [*origins, *totals, *(sum_ for cross in crosses for sum_ in cross)]
    fault = _backend(call, backend, tensors).accumulate(rows, pairs, maps, norms, distances)
    if fault is not None:
        raise UnusableRowError(
            f"[accumulate] rows must be finite, not zero under unit and not constant under "
            f"centered_unit, got row {fault.row} of side {fault.side}, which is {fault.what}; "
            "drop it on every side.",
            fault,
        )


def _check_rows(call: _Call, rows: Sequence[Tensor]) -> None:
    for a, x in enumerate(rows):
        call.rows(x, f"rows[{a}]")
    if len({len(x) for x in rows}) > 1:
        raise call.fail(
            f"rows must have the same number on every side, got {[len(x) for x in rows]}; "
            "pass the same positions."
        )
    if len({x.dtype == torch.float64 for x in rows}) > 1:
        raise call.fail(
            f"rows must be float64 on every side or on none, got {[str(x.dtype) for x in rows]}; "
            "convert one.",
            TypeError,
        )


def _check_sums(
    call: _Call, rows: Sequence[Tensor], pairs: Sequence[tuple[int, int]], sums: MappedSums
) -> None:
    if sums.row_map not in get_args(RowMap):
        raise call.fail(
            f"row_map must be one of {get_args(RowMap)}, got {sums.row_map!r}; pass one."
        )
    for a, (x, origin, total) in enumerate(zip(rows, sums.origins, sums.totals, strict=True)):
        call.output(origin, f"origins[{a}]", torch.float64, (x.shape[1],))
        call.output(total, f"totals[{a}]", torch.float64, (x.shape[1],))
    for p, ((a, b), cross) in enumerate(zip(pairs, sums.crosses, strict=True)):
        dx, dy = rows[a].shape[1], rows[b].shape[1]
        shapes = ((dx, dy), (dx,), (dy,), (1,))
        for name, sum_, shape in zip(Cross._fields, cross, shapes, strict=True):
            call.output(sum_, f"crosses[{p}].{name}", torch.float64, shape)


def _backend(call: _Call, name: str | None, tensors: Sequence[Tensor]) -> ModuleType:
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise call.fail(
            f"tensors must be on one device, got {sorted(map(str, devices))}; move them."
        )
    device = str(devices.pop()) if devices else "cpu"
    if name is not None and name not in BACKENDS:
        raise call.fail(f"backend must be one of {BACKENDS}, got {name!r}; pass one.")
    if name == "reference":
        from bertft.ops import reference

        return reference
    if device != "cpu":
        raise call.fail(
            f"tensors must be on the CPU for the native backend, got {device}; copy them with "
            '.cpu() or pass backend="reference".',
            RuntimeError,
        )
    from bertft.ops import native

    return native
