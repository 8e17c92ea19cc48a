"""Weighted sums of mapped rows, `sum_i w_i z_i`, many weights at once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import TYPES, Build
from bertft.ops.triton.mapped_rows import MappedRows, mapped
from bertft.ops.triton.tilings import parts_of

BLOCK_N, BLOCK_W, BLOCK_D = 32, 16, 64


@triton.jit
def _weigh(
    x_ptr,
    steps_ptr,
    origins_ptr,
    weights_ptr,
    note_ptr,
    out_ptr,
    N,
    D,
    WEIGHTS,
    ROWS,
    stride_xn,
    stride_xd,
    stride_om,
    MAPS: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (c, s, m): columns c of the weighted sums under map m, over the rows of part s."""
    if tl.load(note_ptr) >= 0:
        return
    part = tl.program_id(1).to(tl.int64)
    m = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    weight = tl.arange(0, BLOCK_W).to(tl.int64)
    is_column = columns < D
    origin = tl.load(origins_ptr + m * stride_om + columns, mask=is_column, other=0.0)
    first = part * ROWS
    last = tl.minimum(first + ROWS, N)
    total = tl.zeros((BLOCK_W, BLOCK_D), TYPE)
    for start in range(first, last, BLOCK_N):
        row = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        is_row = row < last
        at = row[:, None] * stride_xn + columns[None, :] * stride_xd
        x = tl.load(x_ptr + at, mask=is_row[:, None] & is_column[None, :], other=0.0)
        z = mapped(x, steps_ptr + 3 * m, row, is_row, origin, 3 * MAPS, TYPE)
        at = (weight[:, None] * N + row[None, :]) * MAPS + m
        w = tl.load(weights_ptr + at, mask=(weight < WEIGHTS)[:, None] & is_row[None, :], other=0.0)
        total = tl.dot(w, z, total, input_precision="ieee", out_dtype=TYPE)
    at = ((m * tl.num_programs(1) + part) * WEIGHTS + weight[:, None]) * D + columns[None, :]
    tl.store(out_ptr + at, total, mask=(weight < WEIGHTS)[:, None] & is_column[None, :])


def weigh(x: MappedRows, weights: Tensor, note: Tensor) -> Tensor:
    """Return `sum_i w_i z_i` for weights `(count, n, maps)`, `(maps, count, d)` float64.

    Nothing is computed where a fault is noted.
    """
    if len(weights) > BLOCK_W:
        return torch.cat([weigh(x, some, note) for some in weights.split(BLOCK_W)], dim=1)
    count, n, maps = weights.shape
    blocks = triton.cdiv(x.width, BLOCK_D)
    parts, rows = parts_of(n, blocks * maps, BLOCK_N)
    out = torch.empty(maps, parts, count, x.width, dtype=weights.dtype, device=weights.device)
    _weigh[(blocks, parts, maps)](
        x.rows,
        x.steps,
        x.origins,
        weights,
        note,
        out,
        n,
        x.width,
        count,
        rows,
        *x.rows.stride(),
        x.origins.stride(0),
        MAPS=maps,
        TYPE=TYPES[weights.dtype],
        BLOCK_N=BLOCK_N,
        BLOCK_W=BLOCK_W,
        BLOCK_D=BLOCK_D,
    )
    return out.sum(dim=1, dtype=torch.float64)


def _weigh_build(name: str) -> Build:
    wide = "fp64" if name == "fp64" else "fp32"
    pointers = ("steps_ptr", "origins_ptr", "weights_ptr", "out_ptr")
    sizes = ("N", "D", "WEIGHTS", "ROWS", "stride_xn", "stride_om")
    return Build(
        f"weigh {name}",
        _weigh,
        {"x_ptr": f"*{name}", "note_ptr": "*i64"}
        | dict.fromkeys(pointers, f"*{wide}")
        | dict.fromkeys(sizes, "i32"),
        {
            "stride_xd": 1,
            "MAPS": 2,
            "TYPE": tl.float64 if name == "fp64" else tl.float32,
            "BLOCK_N": BLOCK_N,
            "BLOCK_W": BLOCK_W,
            "BLOCK_D": BLOCK_D,
        },
        aligned=("D", "ROWS", "stride_xn", "stride_om"),
    )


BUILDS = [_weigh_build(name) for name in ("fp32", "bf16", "fp16", "fp64")]
