"""How well points tell of a tree: edges and roots that are right, and rank correlations.

Sentences lie one after another: `offsets` has the first word of each, and where the last one ends.
Of many probes side by side, each sentence makes one table of distances at a time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from numbers import Integral
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bertft.ops.trees.paths import checked_offsets, require_kind, require_size
from bertft.ops.trees.ranks import correlation, rank
from bertft.ops.trees.spanning import span

Array = NDArray[Any]


def squared_distances(points: ArrayLike) -> NDArray[np.float32]:
    """Return `(n, n)` squared distances between points `(n, r)`, summed in float64 and rounded.

    Cost: O(n^2 r).

    Raises:
        ValueError: points that are no matrix.
        TypeError: points that are no real numbers.

    >>> squared_distances(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[ 0., 25.],
           [25.,  0.]], dtype=float32)
    """
    rows = require_kind("squared_distances", "points", points, "numbers").astype(
        np.float64, order="C"
    )
    if rows.ndim != 2:
        raise ValueError(
            f"[squared_distances] points must be a matrix, got shape {rows.shape}; reshape them."
        )
    out = np.empty((len(rows), len(rows)), np.float32)
    _square_distances(rows, out)
    return out


def score_distances(
    projected: Array,
    offsets: ArrayLike,
    gold: ArrayLike,
    kept: ArrayLike,
    threads: int = 1,
) -> NDArray[np.float64]:
    """Count how well squared distances tell of distances in trees, for each sentence and probe.

    Edges are those of the minimum spanning trees over kept words; correlations are Spearman's, of
    each word's distances to all words of its sentence. Cost: O(n^2 (rank + log n)) each.

    Args:
        projected: `(N, K, rank)` float32 or float64 words as K probes project them.
        offsets: `(S + 1,)` first word of each sentence, from 0 up to N.
        gold: `(sum n^2,)` the distances in the tree of each sentence.
        kept: `(N,)` bool, words that edges are counted between.
        threads: how many; the counts don't depend on it.

    Returns:
        `(S, K, 4)`: edges in common, edges of the true tree, the sum of correlations, and how many
        there are; a word whose distances don't vary has none.

    Raises:
        ValueError: arrays that do not fit, or less than one thread.
        TypeError: gold that is no real numbers, offsets no integers, or `kept` no booleans.

    Reference: Hewitt & Manning 2019.
    """
    places, keeps = _checked("score_distances", projected, offsets, kept, threads)
    table = require_kind("score_distances", "gold", gold, "numbers").astype(np.float64)
    require_size("score_distances", "gold", table, (np.diff(places) ** 2).sum())
    starts = np.concatenate([[0], np.cumsum(np.diff(places) ** 2)])
    return _by_sentences(_score_distances, projected, places, threads, table, starts, keeps)


def score_depths(
    projected: Array,
    offsets: ArrayLike,
    gold: ArrayLike,
    kept: ArrayLike,
    threads: int = 1,
) -> NDArray[np.float64]:
    """Count how well squared norms tell of depths in trees, for each sentence and probe.

    The root is right where the kept word with the smallest norm (the first of equals) has depth 0;
    a sentence without kept words counts for none. Arguments as in `score_distances`, but `gold` is
    `(N,)`, the depth of each word. Cost: O(n (rank + log n)) each.

    Returns:
        `(S, K, 4)`: right roots, roots, the sum of correlations, and how many there are.

    Raises:
        ValueError: arrays that do not fit, or less than one thread.
        TypeError: gold that is no real numbers, offsets no integers, or `kept` no booleans.
    """
    places, keeps = _checked("score_depths", projected, offsets, kept, threads)
    depths = require_kind("score_depths", "gold", gold, "numbers").astype(np.float64)
    require_size("score_depths", "gold", depths, len(keeps))
    return _by_sentences(_score_depths, projected, places, threads, depths, keeps)


def _checked(
    function: str, projected: Array, offsets: ArrayLike, kept: ArrayLike, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if not isinstance(projected, np.ndarray):
        raise TypeError(
            f"[{function}] projected must be an array, got {type(projected).__name__}; convert it."
        )
    if projected.ndim != 3 or projected.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"[{function}] projected must be float32 or float64 (words, probes, rank), got "
            f"{projected.dtype} of shape {projected.shape}; reshape or convert it."
        )
    if not isinstance(threads, Integral) or threads < 1:
        raise ValueError(
            f"[{function}] threads must be an integer from 1, got {threads!r}; pass how many."
        )
    keeps = require_kind(function, "kept", kept, "booleans").astype(np.bool_)
    require_size(function, "kept", keeps, len(projected))
    return checked_offsets(function, offsets, len(projected)), keeps


def _by_sentences(
    score: Callable[..., None], projected: Array, offsets: Array, threads: int, *rest: Array
) -> NDArray[np.float64]:
    """Count in several threads, each for some sentences."""
    out = np.empty((len(offsets) - 1, projected.shape[1], 4))
    # Several parts for each thread, for sentences differ in length.
    bounds = np.linspace(0, len(out), min(len(out), 4 * threads) + 1).astype(int)
    words = np.ascontiguousarray(projected)
    with ThreadPoolExecutor(threads) as pool:
        parts = [
            pool.submit(score, words, offsets, *rest, first, last, out)
            for first, last in pairwise(bounds.tolist())
        ]
        for part in parts:
            part.result()
    return out


@numba.njit(nogil=True, cache=True)
def _score_distances(
    projected: Array,
    offsets: Array,
    gold: Array,
    starts: Array,
    kept: Array,
    first: int,
    last: int,
    out: Array,
) -> None:
    for s in range(first, last):
        begin, end = offsets[s], offsets[s + 1]
        n = end - begin
        table = gold[starts[s] : starts[s + 1]].reshape(n, n)
        own = kept[begin:end]
        tree, found = np.empty(n, np.int32), np.empty(n, np.int32)
        span(table, own, tree)
        ranks = np.empty((n, n), np.int64)
        for i in range(n):
            rank(table[i], ranks[i])
        squares, row = np.empty((n, n), np.float32), np.empty(n, np.int64)
        for k in range(projected.shape[1]):
            _square_distances(projected[begin:end, k], squares)
            span(squares, own, found)
            right, edges, total, count = 0, 0, 0.0, 0
            for i in range(n):
                edges += tree[i] >= 0
                right += found[i] >= 0 and (tree[i] == found[i] or tree[found[i]] == i)
                rank(squares[i], row)
                rho = correlation(ranks[i], row)
                if not np.isnan(rho):
                    total += rho
                    count += 1
            out[s, k, 0], out[s, k, 1], out[s, k, 2], out[s, k, 3] = right, edges, total, count


@numba.njit(nogil=True, cache=True)
def _score_depths(
    projected: Array,
    offsets: Array,
    gold: Array,
    kept: Array,
    first: int,
    last: int,
    out: Array,
) -> None:
    for s in range(first, last):
        begin, end = offsets[s], offsets[s + 1]
        n = end - begin
        ranks, row = np.empty(n, np.int64), np.empty(n, np.int64)
        rank(gold[begin:end], ranks)
        norms = np.empty(n, np.float32)
        for k in range(projected.shape[1]):
            root = -1
            for i in range(n):
                norms[i] = _square(projected[begin + i, k])
                if kept[begin + i] and (root < 0 or norms[i] < norms[root]):
                    root = i
            rank(norms, row)
            rho = correlation(ranks, row)
            defined = not np.isnan(rho)
            out[s, k, 0] = root >= 0 and gold[begin + root] == 0
            out[s, k, 1] = root >= 0
            out[s, k, 2] = rho if defined else 0.0
            out[s, k, 3] = defined


# Sums of a row's terms may be formed in any order: lanes of a register at a time.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _square(point: Array) -> float:
    total = 0.0
    for j in range(len(point)):
        value = np.float64(point[j])
        total += value * value
    return total


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _square_distances(points: Array, out: Array) -> None:
    n, r = points.shape
    for i in range(n):
        out[i, i] = 0
        for j in range(i):
            total = 0.0
            for k in range(r):
                difference = np.float64(points[i, k]) - np.float64(points[j, k])
                total += difference * difference
            out[i, j] = total
            out[j, i] = total
