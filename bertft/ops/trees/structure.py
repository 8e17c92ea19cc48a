"""How well points tell a tree: spanning trees, edges in common, and rank correlations.

Sentences lie one after another: `offsets` has the first word of each, and where the last one ends.
Of many probes side by side, each sentence makes one table of distances at a time.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import ArrayLike, NDArray

from bertft.ops.trees.paths import checked_offsets

Array = NDArray[Any]
DISTANCE_COUNTS = ("edges_right", "edges", "correlations", "correlated_words")
DEPTH_COUNTS = ("roots_right", "roots", "correlations", "correlated_sentences")


def spearman(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return the rank correlation of each row of `x` with that of `y`, in [-1, 1].

    Pearson's correlation of ranks, where equal values share the mean of theirs. NaN for a row that
    is constant on either side, or holds NaN. Cost: O(n log n) a row.

    Args:
        x: `(m, n)`.
        y: `(m, n)`.

    Raises:
        ValueError: arrays of other shapes.

    >>> spearman([[1, 2, 3], [1, 1, 1]], [[10, 30, 20], [1, 2, 3]])
    array([0.5, nan])
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(
            f"[spearman] x and y must be matrices of one shape, got {a.shape} and {b.shape}; "
            "reshape them."
        )
    return _spearman(a, b)


def spanning_trees(distances: Array, offsets: ArrayLike, kept: ArrayLike) -> NDArray[np.int32]:
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
        ValueError: arrays that do not fit.

    >>> spanning_trees(np.array([0.0, 1, 5, 1, 0, 2, 5, 2, 0]), [0, 3], [True, True, True])
    array([-1,  0,  1], dtype=int32)
    """
    keeps = np.asarray(kept, np.bool_)
    places = checked_offsets("spanning_trees", offsets, len(keeps))
    _check_size("spanning_trees", "distances", distances, (np.diff(places) ** 2).sum())
    out = np.full(len(keeps), -1, np.int32)
    _span_all(np.ascontiguousarray(distances, np.float64), places, keeps, out)
    return out


def squared_distances(points: Array) -> NDArray[np.float32]:
    """Return `(n, n)` squared distances between points `(n, r)`, summed in float64 and rounded.

    Cost: O(n^2 r).

    >>> squared_distances(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[ 0., 25.],
           [25.,  0.]], dtype=float32)
    """
    out = np.empty((len(points), len(points)), np.float32)
    _square_distances(np.ascontiguousarray(points, np.float64), out)
    return out


def score_distances(
    projected: Array,
    offsets: ArrayLike,
    gold: Array,
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
        ValueError: arrays that do not fit.

    Reference: Hewitt & Manning 2019.
    """
    places, keeps = _checked("score_distances", projected, offsets, kept)
    table = np.ascontiguousarray(gold, np.float64)
    _check_size("score_distances", "gold", table, (np.diff(places) ** 2).sum())
    starts = np.concatenate([[0], np.cumsum(np.diff(places) ** 2)])
    return _by_sentences(_score_distances, projected, places, threads, table, starts, keeps)


def score_depths(
    projected: Array,
    offsets: ArrayLike,
    gold: Array,
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
        ValueError: arrays that do not fit.
    """
    places, keeps = _checked("score_depths", projected, offsets, kept)
    depths = np.ascontiguousarray(gold, np.float64)
    _check_size("score_depths", "gold", depths, len(keeps))
    return _by_sentences(_score_depths, projected, places, threads, depths, places, keeps)


def _checked(
    function: str, projected: Array, offsets: ArrayLike, kept: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if projected.ndim != 3 or projected.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"[{function}] projected must be float32 or float64 (words, probes, rank), got "
            f"{projected.dtype} of shape {projected.shape}; reshape or convert it."
        )
    keeps = np.asarray(kept, np.bool_)
    _check_size(function, "kept", keeps, len(projected))
    return checked_offsets(function, offsets, len(projected)), keeps


def _check_size(function: str, name: str, values: Array, size: int) -> None:
    if values.shape != (size,):
        raise ValueError(
            f"[{function}] {name} must have {size} values in a row, got shape {values.shape}; give "
            "every sentence its own."
        )


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
        _span(table, own, tree)
        ranks = np.empty((n, n), np.int64)
        for i in range(n):
            _rank(table[i], ranks[i])
        squares, row = np.empty((n, n), np.float32), np.empty(n, np.int64)
        for k in range(projected.shape[1]):
            _square_distances(projected[begin:end, k], squares)
            _span(squares, own, found)
            right, edges, total, count = 0, 0, 0.0, 0
            for i in range(n):
                edges += tree[i] >= 0
                right += found[i] >= 0 and (tree[i] == found[i] or tree[found[i]] == i)
                _rank(squares[i], row)
                rho = _correlation(ranks[i], row)
                if not np.isnan(rho):
                    total += rho
                    count += 1
            out[s, k, 0], out[s, k, 1], out[s, k, 2], out[s, k, 3] = right, edges, total, count


@numba.njit(nogil=True, cache=True)
def _score_depths(
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
        begin, end = starts[s], offsets[s + 1]
        n = end - begin
        ranks, row = np.empty(n, np.int64), np.empty(n, np.int64)
        _rank(gold[begin:end], ranks)
        norms = np.empty(n, np.float32)
        for k in range(projected.shape[1]):
            root = -1
            for i in range(n):
                norms[i] = _square(projected[begin + i, k])
                if kept[begin + i] and (root < 0 or norms[i] < norms[root]):
                    root = i
            _rank(norms, row)
            rho = _correlation(ranks, row)
            defined = not np.isnan(rho)
            out[s, k, 0] = root >= 0 and gold[begin + root] == 0
            out[s, k, 1] = root >= 0
            out[s, k, 2] = rho if defined else 0.0
            out[s, k, 3] = defined


@numba.njit(nogil=True, cache=True)
def _spearman(x: Array, y: Array) -> Array:
    out = np.empty(len(x))
    a, b = np.empty(x.shape[1], np.int64), np.empty(x.shape[1], np.int64)
    for i in range(len(x)):
        _rank(x[i], a)
        _rank(y[i], b)
        out[i] = _correlation(a, b)
    return out


@numba.njit(nogil=True, cache=True)
def _span_all(distances: Array, offsets: Array, kept: Array, out: Array) -> None:
    place = 0
    for s in range(len(offsets) - 1):
        begin, end = offsets[s], offsets[s + 1]
        n = end - begin
        table = distances[place : place + n * n].reshape(n, n)
        place += n * n
        _span(table, kept[begin:end], out[begin:end])


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


@register_jitable
def _span(distances: Array, kept: Array, parents: Array) -> None:
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


@register_jitable
def _rank(values: Array, ranks: Array) -> None:
    """Twice the rank of each value less those of all, which is 0 on average; 0 for all with NaN."""
    n = len(values)
    order = np.argsort(values)
    if n and np.isnan(values[order[n - 1]]):
        ranks[:] = 0
        return
    first = 0
    while first < n:
        last = first
        while last + 1 < n and values[order[last + 1]] == values[order[first]]:
            last += 1
        for place in range(first, last + 1):
            ranks[order[place]] = first + last + 1 - n
        first = last + 1


@register_jitable
def _correlation(a: Array, b: Array) -> float:
    """The correlation of centered ranks, whose sums are exact; NaN where either does not vary."""
    aa, bb, ab = 0, 0, 0
    for i in range(len(a)):
        aa += a[i] * a[i]
        bb += b[i] * b[i]
        ab += a[i] * b[i]
    if aa == 0 or bb == 0:
        return np.nan
    return ab / np.sqrt(float(aa) * float(bb))
