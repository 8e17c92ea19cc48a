"""The operations that have more than one backend, and the choice among them.

| op         | inputs                                        | backends          | tolerance      |
|------------|-----------------------------------------------|-------------------|----------------|
| pool_rows  | x (N, d), runs (m,) int64 -> out (m, d)       | reference, native | last bit       |
| accumulate | k sides (n, d_a), origins -> totals, crosses  | reference, native | 2e-6 / 1e-13   |

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

from bertft.ops.types import Cross, RowMap

__all__ = ["Cross", "RowMap", "accumulate", "pool_rows"]

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
    origins: Sequence[Tensor],
    totals: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    crosses: Sequence[Cross],
    *,
    row_map: RowMap = "raw",
    backend: str | None = None,
) -> None:
    """Add a block of rows to the sums of its sides and of pairs of sides (cross moments).

    With `z = map(x) - origin` per side, `totals[a] += sum_i z_i`, and for each pair `(a, b)`
    `product += z_a^T z_b`, `weight += sum_i |z_a,i|^2 |z_b,i|^2`, `left += sum_i |z_b,i|^2 z_a,i`
    and `right += sum_i |z_a,i|^2 z_b,i`. A side paired with itself gets the upper triangle of its
    product only, and no `right`. Cost: O(n d_a d_b) per pair, half of it for a side with itself.

    Args:
        rows: `k` sides, each `(n, d_a)`, all float64 or none.
        origins: `k` float64 vectors `(d_a,)`.
        totals: `k` float64 vectors `(d_a,)`, added to.
        pairs: index pairs into the sides.
        crosses: one `Cross` for each pair, added to.
        row_map: "raw", "unit" (`x / |x|`) or "centered_unit" (the row's own mean taken off first).
        backend: "reference" or "native"; by default the one of the rows' device.

    Raises:
        ValueError: shapes that don't fit; a row without a direction under "unit" or
            "centered_unit". The sums are then as they were.
        TypeError: rows that are no floating-point matrices, or float64 beside narrower ones.
    """
    call = _Call("accumulate")
    _check_accumulate(call, rows, origins, totals, pairs, crosses, row_map)
    tensors = [*rows, *origins, *totals, *(sum_ for cross in crosses for sum_ in cross)]
    chosen = _backend(call, backend, tensors)
    chosen.accumulate(rows, origins, totals, pairs, crosses, row_map)


def _check_accumulate(
    call: _Call,
    rows: Sequence[Tensor],
    origins: Sequence[Tensor],
    totals: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    crosses: Sequence[Cross],
    row_map: str,
) -> None:
    if row_map not in get_args(RowMap):
        raise call.fail(f"row_map must be one of {get_args(RowMap)}, got {row_map!r}; pass one.")
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
    for a, (x, origin, total) in enumerate(zip(rows, origins, totals, strict=True)):
        call.output(origin, f"origins[{a}]", torch.float64, (x.shape[1],))
        call.output(total, f"totals[{a}]", torch.float64, (x.shape[1],))
    for p, ((a, b), cross) in enumerate(zip(pairs, crosses, strict=True)):
        dx, dy = rows[a].shape[1], rows[b].shape[1]
        shapes = ((dx, dy), (dx,), (dy,), (1,))
        for name, sum_, shape in zip(Cross._fields, cross, shapes, strict=True):
            call.output(sum_, f"crosses[{p}].{name}", torch.float64, shape)


def _backend(call: _Call, name: str | None, tensors: Sequence[Tensor]) -> ModuleType:
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise call.fail(f"tensors must be on one device, got {sorted(devices)}; move them.")
    device = devices.pop()
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
