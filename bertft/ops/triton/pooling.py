"""Row pooling: the mean of runs of rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import TYPES, Build, on_device_of

# Columns of a program: a row of most models at once, with its loads next to each other.
WIDEST = 1024


@triton.jit
def _pool_rows(
    x_ptr,
    starts_ptr,
    stops_ptr,
    out_ptr,
    finite_ptr,
    N,
    D,
    stride_xn,
    stride_xd,
    BLOCK_D: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Program (i, j): columns j of the mean of run i, in float64: memory bounds it anyway."""
    run = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_column = columns < D
    start = tl.load(starts_ptr + run)
    stop = tl.load(stops_ptr + run)
    is_run = (start >= 0) & (start < stop) & (stop <= N)
    total = tl.zeros((BLOCK_D,), tl.float64)
    for row in range(start, tl.where(is_run, stop, start)):
        at = tl.cast(row, tl.int64) * stride_xn + columns * stride_xd
        x = tl.load(x_ptr + at, mask=is_column, other=0.0)
        total += x.to(tl.float64)
    mean = (tl.where(is_run, total, float("nan")) / (stop - start).to(tl.float64)).to(TYPE)
    tl.store(out_ptr + run * D + columns, mean, mask=is_column)
    is_finite = tl.min(((tl.abs(mean) < float("inf")) | ~is_column).to(tl.int32), axis=0)
    tl.store(finite_ptr + run * tl.num_programs(1) + tl.program_id(1), is_finite)


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> Tensor:
    """See `bertft.ops.pool_rows`; the verdict stays on the GPU."""
    block = min(WIDEST, triton.next_power_of_2(max(x.shape[1], 1)))
    grid = (len(out), triton.cdiv(x.shape[1], block))
    finite = torch.empty(grid, dtype=torch.int32, device=x.device)
    if finite.numel():
        with on_device_of(x):
            _pool_rows[grid](
                x,
                starts,
                stops,
                out,
                finite,
                len(x),
                x.shape[1],
                *x.stride(),
                BLOCK_D=block,
                TYPE=TYPES[out.dtype],
            )
    return finite.all()


BUILDS = [
    Build(
        f"pool_rows {name}",
        _pool_rows,
        {
            "x_ptr": f"*{name}",
            "starts_ptr": "*i64",
            "stops_ptr": "*i64",
            "out_ptr": f"*{out}",
            "finite_ptr": "*i32",
            "N": "i32",
            "D": "i32",
            "stride_xn": "i32",
        },
        {"stride_xd": 1, "BLOCK_D": WIDEST, "TYPE": getattr(tl, f"float{out[2:]}")},
        aligned=("D", "stride_xn"),
    )
    for name, out in (("bf16", "fp32"), ("fp16", "fp32"), ("fp32", "fp32"), ("fp64", "fp64"))
]
