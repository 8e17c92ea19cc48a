"""Products of mapped rows, `sum_i z_x,i z_y,i^T`.

Every program sums some of the rows in float32 (float64 for float64 rows) and writes what it has;
a second kernel adds these parts to the float64 sums, in their order, so that nothing depends on
which program ends first.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import TYPES, Build, as_factor, type_of_products
from bertft.ops.triton.mapped_rows import MappedRows, mapped
from bertft.ops.triton.tilings import (
    TILINGS,
    Precision,
    Tiling,
    parts_of,
    precision_of,
    tiling_of,
)
from bertft.ops.triton.weighing import weigh

ADDED_COLUMNS = 1024


@triton.jit
def _multiply(
    x_ptr,
    y_ptr,
    x_steps_ptr,
    y_steps_ptr,
    x_origins_ptr,
    y_origins_ptr,
    note_ptr,
    out_ptr,
    N,
    DX,
    DY,
    ROWS,
    stride_xn,
    stride_xd,
    stride_yn,
    stride_yd,
    stride_xm,
    stride_ym,
    MAPS: tl.constexpr,
    IS_OWN: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """Program (t, s, m): tile t of the product under map m, over the rows of part s."""
    across = tl.cdiv(DY, BLOCK_Y)
    i = (tl.program_id(0) // across).to(tl.int64)
    j = (tl.program_id(0) % across).to(tl.int64)
    # Of a side with itself the upper triangle is enough.
    if (IS_OWN and (j + 1) * BLOCK_Y <= i * BLOCK_X) or tl.load(note_ptr) >= 0:
        return
    part = tl.program_id(1).to(tl.int64)
    m = tl.program_id(2).to(tl.int64)
    left = i * BLOCK_X + tl.arange(0, BLOCK_X)
    right = j * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x_origin = tl.load(x_origins_ptr + m * stride_xm + left, mask=left < DX, other=0.0)
    y_origin = tl.load(y_origins_ptr + m * stride_ym + right, mask=right < DY, other=0.0)
    first = part * ROWS
    last = tl.minimum(first + ROWS, N)
    row = first + tl.arange(0, BLOCK_N)
    x_ptrs = x_ptr + row[:, None] * stride_xn + left[None, :] * stride_xd
    y_ptrs = y_ptr + row[:, None] * stride_yn + right[None, :] * stride_yd
    total = tl.zeros((BLOCK_X, BLOCK_Y), TYPE)
    for start in range(first, last, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        is_row = row < last
        x = tl.load(x_ptrs, mask=is_row[:, None] & (left < DX)[None, :], other=0.0)
        y = tl.load(y_ptrs, mask=is_row[:, None] & (right < DY)[None, :], other=0.0)
        zx = mapped(x, x_steps_ptr + 3 * m, row, is_row, x_origin, 3 * MAPS, TYPE)
        if IS_SPLIT:
            # The right factor is bfloat16 as it came (times a power of two); what its map takes
            # off and multiplies by is linear, so `_add_parts` and the left factor have it. The left
            # factor is float32 as a sum of three bfloat16.
            power = tl.load(y_steps_ptr + 3 * m + row * (3 * MAPS), mask=is_row, other=0.0)
            factor = tl.load(y_steps_ptr + 3 * m + 2 + row * (3 * MAPS), mask=is_row, other=0.0)
            z = (y.to(TYPE) * power[:, None]).to(tl.bfloat16)
            rest = tl.trans(zx * factor[:, None])
            # Tensor cores round sums towards zero, so those of a step are as long as they get.
            step = tl.zeros((BLOCK_X, BLOCK_Y), TYPE)
            for _ in tl.static_range(3):
                piece = rest.to(tl.bfloat16)
                rest = rest - piece.to(TYPE)
                step = tl.dot(as_factor(piece), as_factor(z), step)
            total += step
        else:
            zy = mapped(y, y_steps_ptr + 3 * m, row, is_row, y_origin, 3 * MAPS, TYPE)
            total = tl.dot(tl.trans(zx), zy, total, input_precision=PRECISION, out_dtype=TYPE)
        x_ptrs += BLOCK_N * tl.cast(stride_xn, tl.int64)
        y_ptrs += BLOCK_N * tl.cast(stride_yn, tl.int64)
    at = (m * tl.num_programs(1) + part) * DX * DY + left[:, None] * DY + right[None, :]
    tl.store(out_ptr + at, total, mask=(left < DX)[:, None] & (right < DY)[None, :])


@triton.jit
def _add_parts(
    parts_ptr,
    product_ptr,
    taken_ptr,
    origin_ptr,
    note_ptr,
    DX,
    DY,
    PARTS,
    IS_OWN: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (r, c): add row r, columns c of every part to the product, in float64 and in order.

    Where a right side was split, its map's shifts and origin are taken off: `taken` is the sum of
    the left side's `z`, and that of `z` times these shifts.
    """
    if tl.load(note_ptr) >= 0:
        return
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wanted = columns < DY
    if IS_OWN:
        wanted = wanted & (columns >= row)
    at = row * DY + columns
    total = tl.zeros((BLOCK,), tl.float64)
    place = at
    for _ in range(PARTS):
        total += tl.load(parts_ptr + place, mask=wanted, other=0.0).to(tl.float64)
        place += tl.cast(DX, tl.int64) * DY
    if IS_SPLIT:
        origin = tl.load(origin_ptr + columns, mask=wanted, other=0.0).to(tl.float64)
        total -= tl.load(taken_ptr + row) * origin + tl.load(taken_ptr + DX + row)
    total += tl.load(product_ptr + at, mask=wanted, other=0.0)
    tl.store(product_ptr + at, total, mask=wanted)


def tiles_of(x: MappedRows, y: MappedRows, tiling: Tiling) -> int:
    """Return the tiles of a product."""
    return int(triton.cdiv(x.width, tiling.left) * triton.cdiv(y.width, tiling.right))


def add_products(
    x: MappedRows, y: MappedRows, products: Sequence[Tensor], is_own: bool, note: Tensor
) -> None:
    """Add `sum_i z_x,i z_y,i^T` under every map to its product, unless a fault is noted."""
    parts = _multiplied(x, y, is_own, note)
    is_split = _is_split(y)
    taken: Tensor | None = None
    if is_split:
        shifts = y.steps[..., 1] * y.steps[..., 2]
        taken = weigh(x, torch.stack([torch.ones_like(shifts), shifts]), note)
    for m, product in enumerate(products):
        _add_parts[(x.width, triton.cdiv(y.width, ADDED_COLUMNS))](
            parts[m],
            product,
            None if taken is None else taken[m],
            y.origins[m],
            note,
            x.width,
            y.width,
            parts.shape[1],
            IS_OWN=is_own,
            IS_SPLIT=is_split,
            BLOCK=ADDED_COLUMNS,
        )


def _is_split(y: MappedRows) -> bool:
    """Whether a right side is multiplied as it came, by a left side in three pieces."""
    return y.rows.dtype == torch.bfloat16


def _multiplied(x: MappedRows, y: MappedRows, is_own: bool, note: Tensor) -> Tensor:
    """The parts of the products, `(maps, parts, d_x, d_y)`."""
    tiling, (n, maps) = tiling_of(y.rows), x.squares.shape
    tiles = tiles_of(x, y, tiling)
    parts, rows = parts_of(n, tiles * maps, tiling.rows)
    wide = type_of_products(x.rows)
    out = torch.empty(maps, parts, x.width, y.width, dtype=wide, device=x.rows.device)
    _multiply[(tiles, parts, maps)](
        x.rows,
        y.rows,
        x.steps,
        y.steps,
        x.origins,
        y.origins,
        note,
        out,
        n,
        x.width,
        y.width,
        rows,
        *x.rows.stride(),
        *y.rows.stride(),
        x.origins.stride(0),
        y.origins.stride(0),
        MAPS=maps,
        IS_OWN=is_own,
        IS_SPLIT=_is_split(y),
        PRECISION=precision_of(wide),
        TYPE=TYPES[wide],
        BLOCK_N=tiling.rows,
        BLOCK_X=tiling.left,
        BLOCK_Y=tiling.right,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out


def _multiply_build(name: str, precision: Precision, tiling: Tiling) -> Build:
    wide = "fp64" if name == "fp64" else "fp32"
    pointers = ("x_steps_ptr", "y_steps_ptr", "x_origins_ptr", "y_origins_ptr", "out_ptr")
    strides = ("stride_xn", "stride_yn", "stride_xm", "stride_ym")
    sizes = ("N", "DX", "DY", "ROWS", *strides)
    return Build(
        f"multiply {name} {precision} {tiling.rows}x{tiling.left}x{tiling.right}",
        _multiply,
        {"x_ptr": f"*{name}", "y_ptr": f"*{name}", "note_ptr": "*i64"}
        | dict.fromkeys(pointers, f"*{wide}")
        | dict.fromkeys(sizes, "i32"),
        {
            "stride_xd": 1,
            "stride_yd": 1,
            "MAPS": 2,
            "IS_OWN": False,
            "IS_SPLIT": name == "bf16",
            "PRECISION": precision,
            "TYPE": tl.float64 if name == "fp64" else tl.float32,
            "BLOCK_N": tiling.rows,
            "BLOCK_X": tiling.left,
            "BLOCK_Y": tiling.right,
        },
        tiling.warps,
        tiling.stages,
        aligned=("DX", "DY", "ROWS", *strides),
        capability=tiling.capability,
    )


def _add_parts_build(name: str, is_split: bool) -> Build:
    pointers = {"parts_ptr": f"*{name}", "origin_ptr": f"*{name}", "note_ptr": "*i64"}
    pointers |= {"product_ptr": "*fp64"} | ({"taken_ptr": "*fp64"} if is_split else {})
    return Build(
        f"add_parts {name}{' split' if is_split else ''}",
        _add_parts,
        pointers | dict.fromkeys(("DX", "DY", "PARTS"), "i32"),
        {"IS_OWN": False, "IS_SPLIT": is_split, "BLOCK": ADDED_COLUMNS}
        | ({} if is_split else {"taken_ptr": None}),
        aligned=("DX", "DY"),
    )


_MULTIPLIED: list[tuple[torch.dtype, str, Precision]] = [
    (torch.float32, "fp32", "tf32x3"),
    (torch.bfloat16, "bf16", "tf32x3"),
    (torch.float32, "fp16", "tf32x3"),
    (torch.float64, "fp64", "ieee"),
    (torch.float32, "fp32", "tf32"),
    (torch.float32, "fp32", "ieee"),
]
BUILDS = [
    *(
        _multiply_build(name, p, tiling)
        for dtype, name, p in _MULTIPLIED
        for tiling in TILINGS[dtype]
    ),
    _add_parts_build("fp32", False),
    _add_parts_build("fp32", True),
    _add_parts_build("fp64", False),
]
