"""Second-order correlation: similarities of all pairs of rows, tile by tile, and what is of them.

Pearson's sums need no similarity once it is counted; rank correlations write all of them and sort.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import TYPES, Build, on_device_of
from bertft.ops.triton.tilings import precision_of
from bertft.ops.types import Correlation, PairedRows

BLOCK, BLOCK_D, WARPS = 64, 16, 8
SUMS = 5


@triton.jit
def _similarities(
    rows_ptr,
    offsets_ptr,
    scale,
    i,
    j,
    N,
    D,
    PRECISION: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Similarities of rows i and rows j, `(BLOCK, BLOCK)`, the offsets added in float64."""
    place = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK, BLOCK), TYPE)
    for first in range(0, D, BLOCK_D):
        at = first + place
        is_column = (at < D)[None, :]
        a = tl.load(
            rows_ptr + i[:, None] * D + at[None, :], mask=(i < N)[:, None] & is_column, other=0.0
        )
        b = tl.load(
            rows_ptr + j[:, None] * D + at[None, :], mask=(j < N)[:, None] & is_column, other=0.0
        )
        total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION, out_dtype=TYPE)
    left = tl.load(offsets_ptr + i, mask=i < N, other=0.0)
    right = tl.load(offsets_ptr + j, mask=j < N, other=0.0)
    return total.to(tl.float64) * scale + left[:, None] + right[None, :]


@triton.jit
def _sum_pairs(
    x_ptr,
    x_offsets_ptr,
    y_ptr,
    y_offsets_ptr,
    x_scale: tl.float64,
    y_scale: tl.float64,
    sums_ptr,
    N,
    DX,
    DY,
    PRECISION: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (i, j): sums of s, t, s s, t t and s t over the pairs of a tile, in float64."""
    if tl.program_id(1) < tl.program_id(0):
        return
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_pair = (i[:, None] < j[None, :]) & (j < N)[None, :]
    s = _similarities(x_ptr, x_offsets_ptr, x_scale, i, j, N, DX, PRECISION, TYPE, BLOCK, BLOCK_D)
    s = tl.where(is_pair, s, 0.0)
    t = _similarities(y_ptr, y_offsets_ptr, y_scale, i, j, N, DY, PRECISION, TYPE, BLOCK, BLOCK_D)
    t = tl.where(is_pair, t, 0.0)
    sums_ptr += (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 5
    tl.store(sums_ptr, tl.sum(tl.sum(s, axis=1), axis=0))
    tl.store(sums_ptr + 1, tl.sum(tl.sum(t, axis=1), axis=0))
    tl.store(sums_ptr + 2, tl.sum(tl.sum(s * s, axis=1), axis=0))
    tl.store(sums_ptr + 3, tl.sum(tl.sum(t * t, axis=1), axis=0))
    tl.store(sums_ptr + 4, tl.sum(tl.sum(s * t, axis=1), axis=0))


@triton.jit
def _condense(
    x_ptr,
    offsets_ptr,
    scale: tl.float64,
    out_ptr,
    N,
    D,
    PRECISION: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Program (i, j): write a tile of the pairs i < j, in the order of SciPy's pdist."""
    if tl.program_id(1) < tl.program_id(0):
        return
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_pair = (i[:, None] < j[None, :]) & (j < N)[None, :]
    s = _similarities(x_ptr, offsets_ptr, scale, i, j, N, D, PRECISION, TYPE, BLOCK, BLOCK_D)
    before = i * N - i * (i + 1) // 2
    at = (before - i - 1)[:, None] + j[None, :]
    tl.store(out_ptr + at, s.to(TYPE), mask=is_pair)


def correlate_pairs(x: PairedRows, y: PairedRows, correlation: Correlation) -> float:
    """See `bertft.ops.correlate_pairs`; waits for the GPU, as the result is a number."""
    with on_device_of(x.rows):
        if correlation == "pearson":
            return _pearson(x, y)
        a, b = _condensed(x), _condensed(y)
        if bool((a == a[0]).all() | (b == b[0]).all()):
            return math.nan
        return _spearman(a, b) if correlation == "spearman" else _kendall(a, b)


def _pearson(x: PairedRows, y: PairedRows) -> float:
    n, tiles = len(x.rows), triton.cdiv(len(x.rows), BLOCK)
    sums = torch.zeros(tiles * tiles, SUMS, dtype=torch.float64, device=x.rows.device)
    _sum_pairs[(tiles, tiles)](
        x.rows,
        x.offsets,
        y.rows,
        y.offsets,
        float(x.scale),
        float(y.scale),
        sums,
        n,
        x.rows.shape[1],
        y.rows.shape[1],
        PRECISION=precision_of(x.rows.dtype),
        TYPE=TYPES[x.rows.dtype],
        BLOCK=BLOCK,
        BLOCK_D=BLOCK_D,
        num_warps=WARPS,
    )
    s, t, ss, tt, st = sums.sum(dim=0).tolist()
    count = n * (n - 1) // 2
    variances = (ss - s * s / count) * (tt - t * t / count)
    return (st - s * t / count) / math.sqrt(variances) if variances > 0 else math.nan


def _condensed(side: PairedRows) -> Tensor:
    """Similarities of all pairs i < j, in the rows' type."""
    n, d = side.rows.shape
    tiles = triton.cdiv(n, BLOCK)
    out = torch.empty(n * (n - 1) // 2, dtype=side.rows.dtype, device=side.rows.device)
    _condense[(tiles, tiles)](
        side.rows,
        side.offsets,
        float(side.scale),
        out,
        n,
        d,
        PRECISION=precision_of(side.rows.dtype),
        TYPE=TYPES[side.rows.dtype],
        BLOCK=BLOCK,
        BLOCK_D=BLOCK_D,
        num_warps=WARPS,
    )
    return out


def _spearman(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of the ranks."""
    ranks_a, ranks_b = _centered_ranks(a), _centered_ranks(b)
    return float(ranks_a @ ranks_b / (ranks_a.norm() * ranks_b.norm()))


def _centered_ranks(values: Tensor) -> Tensor:
    """Ranks less their mean in float64, equal values at the mean of theirs."""
    order = values.argsort()
    _, group, counts = values[order].unique_consecutive(return_inverse=True, return_counts=True)
    means = (2 * counts.cumsum(0) - counts - len(values)).double() / 2
    ranks = torch.empty(len(values), dtype=torch.float64, device=values.device)
    ranks[order] = means[group]
    return ranks


def _kendall(a: Tensor, b: Tensor) -> float:
    """Tau-a: pairs in the same order less pairs in opposite orders, of all pairs.

    Sorted by `a`, and by `b` where `a` is equal, the opposite ones are the inversions of `b`.
    """
    order = b.argsort(stable=True)
    order = order[a[order].argsort(stable=True)]
    a, b = a[order], b[order]
    both = torch.stack([a, b], dim=1)
    pairs = len(a) * (len(a) - 1) // 2
    tied = _ties(a) + _ties(b.sort().values) - _ties(both)
    return float(pairs - tied - 2 * _inversions(b)) / pairs


def _ties(sorted_values: Tensor) -> int:
    """How many pairs are of equal values, which are next to each other."""
    _, counts = sorted_values.unique_consecutive(return_counts=True, dim=0)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: Tensor) -> int:
    """How many pairs i < j have the larger value first: a merge sort that counts them."""
    size = triton.next_power_of_2(len(values))
    runs = torch.nn.functional.pad(values, (0, size - len(values)), value=math.inf)
    count = torch.zeros((), dtype=torch.int64, device=values.device)
    width = 1
    while width < size:
        left, right = (half.contiguous() for half in runs.view(-1, 2, width).unbind(dim=1))
        count += (width - torch.searchsorted(left, right, right=True)).sum()
        runs = runs.view(-1, 2 * width).sort(dim=1).values
        width *= 2
    return int(count)


def _builds(name: str) -> list[Build]:
    constants = {
        "PRECISION": "ieee" if name == "fp64" else "tf32x3",
        "TYPE": tl.float64 if name == "fp64" else tl.float32,
        "BLOCK": BLOCK,
        "BLOCK_D": BLOCK_D,
    }
    x = {"x_ptr": f"*{name}"}
    two = {"x_offsets_ptr": "*fp64", "y_offsets_ptr": "*fp64", "y_ptr": f"*{name}"}
    two |= {"x_scale": "fp64", "y_scale": "fp64", "sums_ptr": "*fp64"}
    one = {"offsets_ptr": "*fp64", "scale": "fp64", "out_ptr": f"*{name}"}
    return [
        Build(
            f"sum_pairs {name}",
            _sum_pairs,
            {**x, **two, "N": "i32", "DX": "i32", "DY": "i32"},
            constants,
            WARPS,
            aligned=("DX", "DY"),
        ),
        Build(
            f"condense {name}",
            _condense,
            {**x, **one, "N": "i32", "D": "i32"},
            constants,
            WARPS,
            aligned=("D",),
        ),
    ]


BUILDS = [*_builds("fp32"), *_builds("fp64")]
