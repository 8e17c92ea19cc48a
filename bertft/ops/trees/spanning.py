"""Minimum spanning trees of the words of sentences, one and only one whatever ties there are."""

from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import ArrayLike, NDArray

from bertft.ops.trees.paths import checked_offsets, require_kind, require_size

Array = NDArray[Any]


def spanning_trees(distances: ArrayLike, offsets: ArrayLike, kept: ArrayLike) -> NDArray[np.int32]:
    """Return the minimum spanning tree of the kept words of each sentence, as parents `(N,)`.

    Edges compare by distance, then by their first word, then by their second: the tree is the one
    that Kruskal's algorithm finds on pairs in that order. Cost: O(n^2) for each sentence (Prim).

    Args:
        distances: `(sum n^2,)` a symmetric table for each sentence, one after another.
        offsets: `(S + 1,)` first word of each sentence, from 0 up to N.
        kept: `(N,)` bool, the words that the tree joins.

    Returns:
        For each word its neighbor, by its number in the sentence from 0, on the way to the first
        kept word; -1 for that one and for words that are not kept.

    Raises:
        ValueError: arrays that do not fit, or a distance that is NaN.
        TypeError: distances that are no real numbers, offsets no integers, or `kept` no booleans.

    >>> spanning_trees(np.array([0.0, 1, 5, 1, 0, 2, 5, 2, 0]), [0, 3], [True, True, True])
    array([-1,  0,  1], dtype=int32)
    """
    keeps = require_kind("spanning_trees", "kept", kept, "booleans").astype(np.bool_)
    places = checked_offsets("spanning_trees", offsets, len(keeps))
    tables = require_kind("spanning_trees", "distances", distances, "numbers").astype(np.float64)
    require_size("spanning_trees", "distances", tables, (np.diff(places) ** 2).sum())
    if np.isnan(tables).any():
        raise ValueError(
            f"[spanning_trees] distances must be numbers that have an order, got NaN at "
            f"{int(np.isnan(tables).argmax())}; look for an overflow."
        )
    out = np.full(len(keeps), -1, np.int32)
    _span_all(tables, places, keeps, out)
    return out


@numba.njit(nogil=True, cache=True)
def _span_all(distances: Array, offsets: Array, kept: Array, out: Array) -> None:
    place = 0
    for s in range(len(offsets) - 1):
        begin, end = offsets[s], offsets[s + 1]
        n = end - begin
        table = distances[place : place + n * n].reshape(n, n)
        place += n * n
        span(table, kept[begin:end], out[begin:end])


@register_jitable
def span(distances: Array, kept: Array, parents: Array) -> None:
    """Prim's algorithm from the first kept word, under a total order of the edges."""
    n = len(kept)
    parents[:] = -1
    outside = kept.copy()
    at = -1
    for i in range(n):
        if kept[i]:
            at = i
            break
    while at >= 0:
        outside[at] = False
        best = -1
        for i in range(n):
            if not outside[i]:
                continue
            if parents[i] < 0 or _is_before(distances, at, i, parents[i], i):
                parents[i] = at
            if best < 0 or _is_before(distances, parents[i], i, parents[best], best):
                best = i
        at = best


@register_jitable
def _is_before(distances: Array, a: int, b: int, c: int, d: int) -> bool:
    """Whether the edge a, b comes before the edge c, d."""
    if distances[a, b] != distances[c, d]:
        return bool(distances[a, b] < distances[c, d])
    if min(a, b) != min(c, d):
        return bool(min(a, b) < min(c, d))
    return bool(max(a, b) < max(c, d))
