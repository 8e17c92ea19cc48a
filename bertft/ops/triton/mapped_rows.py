"""Rows under row maps: what each is shifted and scaled by, its norms, and what is wrong with it.

A mapped row is `z = (x * power - shift) * factor - origin`, with three numbers for each row: the
power of two that brings its largest entry near 1, its own mean (times that power) where it is
centered, and one over the norm of what is left. Products map their tiles as they load them, so no
mapped row is ever written.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import Build, type_of_products
from bertft.ops.types import FAULTS, MappedSums, RowMap

# Of float64; 512 would spill for some row maps on compute capability 9.0.
BLOCK_D = 256
KINDS: dict[RowMap, int] = {"raw": 0, "unit": 1, "centered_unit": 2}
NO_NOTE = torch.iinfo(torch.int64).max
# Powers of two that are normal numbers, as exponents of float64: of float32 for narrow rows.
EXPONENTS = {torch.float64: (1, 2046), torch.float32: (1023 - 126, 1023 + 126)}


class MappedRows(NamedTuple):
    """A side's rows and how each row map changes them.

    Attributes:
        rows: `(n, d)`.
        steps: `(n, maps, 3)`, the power, shift and factor of every row, in the type of products.
        origins: `(maps, d)`, in the type of products.
        squares: `(n, maps)`, float64, the `|z|^2`.
    """

    rows: Tensor
    steps: Tensor
    origins: Tensor
    squares: Tensor

    @property
    def width(self) -> int:
        """Columns of the rows."""
        return self.rows.shape[1]

    def part(self, first: int, last: int) -> "MappedRows":
        """Return some of the rows, as views."""
        rows, steps, squares = (x[first:last] for x in (self.rows, self.steps, self.squares))
        return MappedRows(rows, steps, self.origins, squares)


class Measured(NamedTuple):
    """What one look at all rows finds.

    Attributes:
        sides: the mapped rows of each side.
        norms: `(k, n)`, float64, the `|x|`.
        note: one int64, the first row with a fault as `RowFault.of` reads it, or -1.
    """

    sides: list[MappedRows]
    norms: Tensor
    note: Tensor


@triton.jit
def mapped(x, steps_ptr, row, is_row, origin, STEPS: tl.constexpr, TYPE: tl.constexpr):
    """Map a tile `(rows, columns)`; rows that are not there become zero.

    `steps_ptr` is at the row map's place, and the steps of two rows are `STEPS` apart.
    """
    step_ptr = steps_ptr + row * STEPS
    power = tl.load(step_ptr, mask=is_row, other=0.0)
    shift = tl.load(step_ptr + 1, mask=is_row, other=0.0)
    factor = tl.load(step_ptr + 2, mask=is_row, other=0.0)
    z = (x.to(TYPE) * power[:, None] - shift[:, None]) * factor[:, None] - origin[None, :]
    return tl.where(is_row[:, None], z, 0.0)


@triton.jit
def _measure_rows(
    x_ptr,
    origins_ptr,
    steps_ptr,
    squares_ptr,
    norms_ptr,
    faults_ptr,
    D,
    stride_xn,
    stride_xd,
    stride_om,
    KINDS: tl.constexpr,
    LEAST: tl.constexpr,
    MOST: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program i: row i, in float64 as memory bounds it; after the first look it is in the cache."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK_D).to(tl.int64)
    x_ptr += row * stride_xn
    totals = tl.zeros((BLOCK_D,), tl.float64)
    lowest = tl.full((BLOCK_D,), float("inf"), tl.float64)
    highest = tl.full((BLOCK_D,), float("-inf"), tl.float64)
    finite = tl.full((BLOCK_D,), 1, tl.int32)
    for first in range(0, D, BLOCK_D):
        at = first + place
        x = tl.load(x_ptr + at * stride_xd, mask=at < D, other=0.0).to(tl.float64)
        is_finite = tl.abs(x) < float("inf")
        x = tl.where(is_finite, x, 0.0)
        totals += x
        lowest = tl.where(at < D, tl.minimum(lowest, x), lowest)
        highest = tl.where(at < D, tl.maximum(highest, x), highest)
        finite = finite & is_finite.to(tl.int32)
    mean = tl.sum(totals, axis=0) / D
    low = tl.min(lowest, axis=0)
    high = tl.max(highest, axis=0)
    # The exponent of the largest entry, turned around: scaling by a power of two is exact.
    largest = tl.maximum(tl.abs(low), tl.abs(high))
    exponent = (largest.to(tl.int64, bitcast=True) >> 52) & 2047
    exponent = tl.minimum(tl.maximum(2046 - exponent, LEAST), MOST)
    power = (exponent << 52).to(tl.float64, bitcast=True)

    uncentered = tl.zeros((BLOCK_D,), tl.float64)
    centered = tl.zeros((BLOCK_D,), tl.float64)
    for first in range(0, D, BLOCK_D):
        at = first + place
        x = tl.load(x_ptr + at * stride_xd, mask=at < D, other=0.0).to(tl.float64)
        x = tl.where(tl.abs(x) < float("inf"), x, 0.0)
        z = x * power
        uncentered += z * z
        z = tl.where(at < D, z - mean * power, 0.0)
        centered += z * z
    norm = tl.sqrt(tl.sum(uncentered, axis=0))
    tl.store(norms_ptr + row, norm / power)
    centered_norm = tl.sqrt(tl.sum(centered, axis=0))

    # What a row without direction is divided by does not matter: it is refused.
    fault = tl.where(tl.min(finite, axis=0) == 1, -1, 0)
    for m in tl.static_range(len(KINDS)):
        scale = power
        shift = mean * 0.0
        factor = shift + 1.0
        if KINDS[m] == 0:
            scale = factor
        elif KINDS[m] == 1:
            fault = tl.where((fault < 0) & (largest == 0.0), 1, fault)
            factor = 1.0 / tl.where(norm > 0.0, norm, 1.0)
        else:
            fault = tl.where((fault < 0) & (low == high), 2, fault)
            shift = mean * power
            factor = 1.0 / tl.where(centered_norm > 0.0, centered_norm, 1.0)
        squares = tl.zeros((BLOCK_D,), tl.float64)
        for first in range(0, D, BLOCK_D):
            at = first + place
            x = tl.load(x_ptr + at * stride_xd, mask=at < D, other=0.0).to(tl.float64)
            x = tl.where(tl.abs(x) < float("inf"), x, 0.0)
            origin = tl.load(origins_ptr + m * stride_om + at, mask=at < D, other=0.0)
            z = tl.where(at < D, (x * scale - shift) * factor - origin, 0.0)
            squares += z * z
        step_ptr = steps_ptr + (row * len(KINDS) + m) * 3
        tl.store(step_ptr, scale)
        tl.store(step_ptr + 1, shift)
        tl.store(step_ptr + 2, factor)
        tl.store(squares_ptr + row * len(KINDS) + m, tl.sum(squares, axis=0))
    tl.store(faults_ptr + row, fault)


@triton.jit
def _measure_distances(
    x_ptr,
    y_ptr,
    out_ptr,
    D,
    stride_xn,
    stride_xd,
    stride_yn,
    stride_yd,
    BLOCK_D: tl.constexpr,
):
    """Program i: `|x_i - y_i|` in float64."""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK_D,), tl.float64)
    for first in range(0, D, BLOCK_D):
        at = first + tl.arange(0, BLOCK_D).to(tl.int64)
        x = tl.load(x_ptr + row * stride_xn + at * stride_xd, mask=at < D, other=0.0)
        y = tl.load(y_ptr + row * stride_yn + at * stride_yd, mask=at < D, other=0.0)
        difference = x.to(tl.float64) - y.to(tl.float64)
        squares += difference * difference
    tl.store(out_ptr + row, tl.sqrt(tl.sum(squares, axis=0)))


def measure(rows: Sequence[Tensor], maps: Sequence[MappedSums]) -> Measured:
    """Look at every row once: its steps under every map, its norms and its faults."""
    n, widths, device = len(rows[0]), [x.shape[1] for x in rows], rows[0].device
    wide = type_of_products(rows[0])
    kinds = tuple(KINDS[sums.row_map] for sums in maps)
    everything = torch.cat([origin for sums in maps for origin in sums.origins])
    origins = everything.view(len(maps), -1).split(widths, dim=1)
    rounded = everything.to(wide).view(len(maps), -1).split(widths, dim=1)
    norms = torch.empty(len(rows), n, dtype=torch.float64, device=device)
    faults = torch.empty(len(rows), n, dtype=torch.int32, device=device)
    sides = []
    for side, x in enumerate(rows):
        steps = torch.empty(n, len(maps), 3, dtype=wide, device=device)
        squares = torch.empty(n, len(maps), dtype=torch.float64, device=device)
        _measure_rows[(n,)](
            x,
            origins[side],
            steps,
            squares,
            norms[side],
            faults[side],
            x.shape[1],
            *x.stride(),
            origins[side].stride(0),
            KINDS=kinds,
            LEAST=EXPONENTS[wide][0],
            MOST=EXPONENTS[wide][1],
            BLOCK_D=BLOCK_D,
        )
        sides.append(MappedRows(x, steps, rounded[side], squares))
    return Measured(sides, norms, _noted(faults))


def _noted(faults: Tensor) -> Tensor:
    """The note of the first of all faults `(k, n)`, or -1."""
    k, n = faults.shape
    place = torch.arange(n, device=faults.device) * k
    notes = (place + torch.arange(k, device=faults.device)[:, None]) * len(FAULTS) + faults
    first = torch.where(faults < 0, NO_NOTE, notes).min()
    return torch.where(first == NO_NOTE, -1, first)


def distances_of(x: Tensor, y: Tensor) -> Tensor:
    """Return the `|x_i - y_i|` of two sides of one width, `(n,)` float64."""
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    strides = (*x.stride(), *y.stride())
    _measure_distances[(len(x),)](x, y, out, x.shape[1], *strides, BLOCK_D=BLOCK_D)
    return out


def _builds(name: str) -> list[Build]:
    x = {"x_ptr": f"*{name}", "D": "i32", "stride_xn": "i32"}
    wide = torch.float64 if name == "fp64" else torch.float32
    pointers = {"origins_ptr": "*fp64", "squares_ptr": "*fp64", "norms_ptr": "*fp64"}
    pointers |= {"steps_ptr": "*fp64" if name == "fp64" else "*fp32", "faults_ptr": "*i32"}
    least, most = EXPONENTS[wide]
    fixed = {"stride_xd": 1, "LEAST": least, "MOST": most, "BLOCK_D": BLOCK_D}
    return [
        *(
            Build(
                f"measure_rows {name} {len(kinds)} maps",
                _measure_rows,
                {**x, **pointers, "stride_om": "i32"},
                {**fixed, "KINDS": kinds},
                aligned=("D", "stride_xn", "stride_om"),
            )
            for kinds in ((0, 1, 2), (0, 1), (0,))
        ),
        Build(
            f"measure_distances {name}",
            _measure_distances,
            {**x, "y_ptr": f"*{name}", "out_ptr": "*fp64", "stride_yn": "i32"},
            {"stride_xd": 1, "stride_yd": 1, "BLOCK_D": BLOCK_D},
            aligned=("D", "stride_xn", "stride_yn"),
        ),
    ]


BUILDS = [build for name in ("fp32", "bf16", "fp16", "fp64") for build in _builds(name)]
