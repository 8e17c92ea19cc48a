"""Rows, their cross moments and their similarities."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bertft import _native
from bertft.ops.native.running import threads_now, view, views
from bertft.ops.types import Correlation, MappedSums, PairedRows, RowFault


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    threads = threads_now()
    return _native.pool_rows(view(x), view(starts), view(stops), view(out), threads)


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> RowFault | None:
    """See `bertft.ops.accumulate`."""
    fault = _native.accumulate(*described(rows, pairs, maps, norms, distances))
    return None if fault is None else RowFault(*fault)


def described(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> tuple[Any, ...]:
    """Return the arguments of the compiled `accumulate`; the tensors must outlive them."""
    described_maps = [
        (row_map, *map(views, of_sides), [views(cross) for cross in crosses])
        for row_map, *of_sides, crosses in maps
    ]
    threads = threads_now()
    return views(rows), list(pairs), described_maps, view(norms), view(distances), threads


def correlate_pairs(x: PairedRows, y: PairedRows, correlation: Correlation) -> float:
    """See `bertft.ops.correlate_pairs`."""
    threads = threads_now()
    sides = [(view(side.rows), view(side.offsets), side.scale) for side in (x, y)]
    count = len(x.rows) * (len(x.rows) - 1) // 2
    if correlation == "pearson":
        sx, sy, xx, yy, xy = _native.sum_pairs(*sides[0], *sides[1], threads)
        variances = (xx - sx * sx / count) * (yy - sy * sy / count)
        return (xy - sx * sy / count) / math.sqrt(variances) if variances > 0 else math.nan
    a, b = (torch.empty(count, dtype=x.rows.dtype) for _ in sides)
    _native.condense(*sides[0], view(a), threads)
    _native.condense(*sides[1], view(b), threads)
    return _native.rank_correlation(view(a), view(b), correlation, threads)
