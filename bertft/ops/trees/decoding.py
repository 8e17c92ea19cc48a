"""Decoding: the best dependency tree for a table of arc scores.

What the kernels are made of (`register_jitable`) runs as plain Python too, on exact integers. What
scores the arcs, and what is said of the trees, is left to others.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import inf, lcm
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

Array = NDArray[Any]

FOUND, UNSURE, NO_TREE, NOT_FINITE = range(4)
NONE = -1
HALF_ULP = 2.0**-53
# Sums of scores up to here stay finite.
LARGE = 1e300


def decode(scores: Array, lengths: Sequence[int] | Array) -> NDArray[np.int32]:
    """Find the dependency tree of the largest score for each sentence, with one child of the root.

    `argmax over trees of sum_i scores[b, i, head of word i + 1]`: the maximum spanning arborescence
    (Chu-Liu-Edmonds, dense) among those with exactly one arc from the root. Exact for all scores:
    where float64 cannot tell two arcs apart, the sentence is solved again in integers. Between
    equal arcs into a word (or into a cycle, once contracted) the lowest head wins; the tree depends
    on nothing but the sentence's own scores. Cost: O(n^2) for each sentence of n words.

    Args:
        scores: `(batch, n_max, n_max + 1)` float32 or float64; `scores[b, i, j]` is that of the
            arc from word j, or from the root for j = 0, to word i + 1. -inf forbids an arc; arcs
            from a word to itself count as forbidden. What lies beyond a sentence is not read.
        lengths: `(batch,)` words of each sentence, at least 1.

    Returns:
        `(batch, n_max)` int32 heads, 0 for the root, -1 beyond a sentence.

    Raises:
        ValueError: shapes that don't fit, NaN or +inf, or no tree without a forbidden arc.
        TypeError: scores that are no floating-point array, or lengths that are no integers.

    Reference: Edmonds 1967; Gabow & Tarjan 1984, 10.1016/0196-6774(84)90014-X, for the one root.

    >>> decode(np.array([[[5.0, 0.0, 1.0], [4.0, 3.0, 0.0]]]), [2])
    array([[0, 1]], dtype=int32)
    """
    lengths = np.asarray(lengths)
    _check(scores, lengths)
    heads = np.full(scores.shape[:2], NONE, np.int32)
    outcomes = np.empty(len(lengths), np.int8)
    _decode_all(np.ascontiguousarray(scores), lengths.astype(np.int64), heads, outcomes)
    for b in np.flatnonzero(outcomes):
        n = int(lengths[b])
        table = scores[b, :n, : n + 1]
        if outcomes[b] == NOT_FINITE:
            i, j = np.argwhere(np.isnan(table) | (table == inf))[0]
            raise ValueError(
                f"[decode] scores must be finite or -inf, got {table[i, j]} in sentence {b} for "
                f"the arc {j} -> {i + 1}; look for an overflow in the model."
            )
        if outcomes[b] == NO_TREE or _solve_in_integers(table, heads[b, :n]) == NO_TREE:
            raise ValueError(
                f"[decode] scores must allow a tree with one root, got none in sentence {b} "
                f"of {n} words; set fewer of them to -inf."
            )
    return heads


def _check(scores: Array, lengths: Array) -> None:
    if not isinstance(scores, np.ndarray) or scores.dtype not in (np.float32, np.float64):
        found = getattr(scores, "dtype", type(scores).__name__)
        raise TypeError(
            f"[decode] scores must be a float32 or float64 array, got {found}; convert it."
        )
    if scores.ndim != 3 or scores.shape[2] != scores.shape[1] + 1:
        raise ValueError(
            f"[decode] scores must be (batch, n_max, n_max + 1), got {scores.shape}; put the "
            "root before the heads."
        )
    if lengths.shape != scores.shape[:1]:
        raise ValueError(
            f"[decode] lengths must be {scores.shape[:1]}, got {lengths.shape}; give one for each "
            "sentence."
        )
    if len(lengths) and lengths.dtype.kind not in "iu":
        raise TypeError(f"[decode] lengths must be integers, got {lengths.dtype}; convert them.")
    outside = np.flatnonzero((lengths < 1) | (lengths > scores.shape[1]))
    if len(outside):
        raise ValueError(
            f"[decode] lengths must be 1 to {scores.shape[1]}, got {lengths[outside[0]]} for "
            f"sentence {outside[0]}; drop empty sentences."
        )


def _solve_in_integers(table: Array, heads: Array) -> int:
    """Solve one sentence with Python's integers, some hundred times slower and free of rounding."""
    n = len(heads)
    arcs = [(i, j) for i in range(n) for j in range(n + 1) if table[i, j] != -inf and j != i + 1]
    exact = [Fraction(float(table[arc])) for arc in arcs]
    unit = lcm(*(score.denominator for score in exact))
    gain = np.full((n + 1, n + 1), -inf, object)
    for (i, j), score in zip(arcs, exact, strict=True):
        gain[i + 1, j] = int(score * unit)
    return _solve(gain, np.zeros((n + 1, n + 1), object), heads)


@numba.njit(nogil=True, cache=True)
def _decode_all(scores: Array, lengths: Array, heads: Array, outcomes: Array) -> None:
    for b in range(len(lengths)):
        n = lengths[b]
        gain = np.full((n + 1, n + 1), -np.inf)
        outcomes[b] = _load(scores[b], gain)
        if outcomes[b] == FOUND:
            outcomes[b] = _solve(gain, np.zeros((n + 1, n + 1)), heads[b, :n])


@register_jitable
def _load(scores: Array, gain: Array) -> int:
    """Fill `gain[word, head]`, whose diagonal and row 0 stay forbidden."""
    outcome = FOUND
    for word in range(1, len(gain)):
        for head in range(len(gain)):
            score = scores[word - 1, head]
            if np.isnan(score) or score == np.inf:
                return NOT_FINITE
            if head != word:
                gain[word, head] = score
                if score != -np.inf and abs(score) > LARGE:
                    outcome = UNSURE
    return outcome


@register_jitable
def _solve(gain: Array, error: Array, heads: Array) -> int:
    """Write the heads of the best tree; `gain[word, head]` and `error` (zeros) are used up."""
    # Trees compare by their number of root arcs first and by score second. Such pairs are an
    # ordered group, so Chu-Liu-Edmonds holds for them, and they need no arithmetic: no cycle has a
    # root arc, so a root arc always comes after every other one. A second one means that no tree
    # has but one.
    # A node is a word or a contracted cycle, and its row of `gain` tells the arcs into it. A gain
    # is within `error` of the exact one, which stays 0 until something is rounded.
    n = len(heads)
    child = np.empty((n + 1, n + 1), np.int64)  # the word that an arc into a node leads to
    for word in range(n + 1):
        child[word] = word
    row_of_word, node_of_row = np.arange(n + 1), np.arange(n + 1)
    parent, arc_head, arc_child = (
        np.zeros(2 * n, np.int64),
        np.zeros(2 * n, np.int64),
        np.zeros(2 * n, np.int64),
    )
    path, taken = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    place = np.full(n + 1, NONE)  # of a row in the path
    done = np.arange(n + 1) == 0
    nodes, roots = n + 1, 0
    for start in range(1, n + 1):
        depth, row = 0, row_of_word[start]
        while not done[row]:
            if place[row] != NONE:
                cycle = path[place[row] : depth]
                parent[node_of_row[cycle]] = nodes
                _contract(gain, error, child, cycle, taken, row_of_word)
                node_of_row[row] = nodes
                nodes, depth = nodes + 1, place[row]
            head, sure = _best_head(gain[row], error[row])
            roots += head == 0
            if head == NONE or roots > 1:
                return NO_TREE
            if not sure or child[row, head] == NONE:
                return UNSURE
            arc_head[node_of_row[row]], arc_child[node_of_row[row]] = head, child[row, head]
            path[depth], place[row], taken[row] = row, depth, head
            depth, row = depth + 1, row_of_word[head]
        done[path[:depth]] = True
    _expand(parent[:nodes], arc_head, arc_child, heads)
    return FOUND


@register_jitable
def _best_head(gain: Array, error: Array) -> tuple[int, bool]:
    """Choose the best head, the root only for want of another, and say if rounding allows it."""
    best = 0
    for head in range(1, len(gain)):
        if gain[head] != -np.inf and (best == 0 or gain[head] > gain[best]):
            best = head
    if best == 0:
        return (NONE if gain[0] == -np.inf else 0), True
    sure = True
    for head in range(1, len(gain)):
        if head != best and _unclear(gain[best], gain[head], error[best] + error[head]):
            sure = False
    return best, sure


@register_jitable
def _unclear(gain: Any, other: Any, error: Any) -> bool:
    """Say whether rounding may hide which is larger; twice the bound covers its own rounding."""
    if error == 0 or other == -np.inf:
        return False
    return bool(abs(gain - other) <= 2 * error)


@register_jitable
def _contract(
    gain: Array, error: Array, child: Array, cycle: Array, taken: Array, row_of_word: Array
) -> None:
    """Merge a cycle into its first row: what an arc into it gains over the one that it breaks."""
    # Where rounding hides which arc from a head gains most, `child` becomes NONE.
    for row in cycle:
        _subtract(gain[row], error[row], taken[row])
    first = cycle[0]
    for row in cycle[1:]:
        for word in range(len(row_of_word)):
            if row_of_word[word] == row:
                row_of_word[word] = first
        for head in range(len(row_of_word)):
            if gain[row, head] == -np.inf:
                continue
            better = gain[row, head] > gain[first, head]
            if _unclear(gain[row, head], gain[first, head], error[row, head] + error[first, head]):
                child[first, head] = NONE
                error[first, head] = max(error[row, head], error[first, head])
            elif better:
                child[first, head] = child[row, head]
                error[first, head] = error[row, head]
            if better:
                gain[first, head] = gain[row, head]
    for head in range(len(row_of_word)):
        if row_of_word[head] == first:
            gain[first, head] = -np.inf


@register_jitable
def _subtract(gain: Array, error: Array, taken: int) -> None:
    """Take the gain of the chosen arc off those of all arcs into a node."""
    loss, loss_error = gain[taken], error[taken]
    for head in range(len(gain)):
        if gain[head] != -np.inf:
            rest = gain[head] - loss
            error[head] += loss_error
            # One of the two is off just if the difference was rounded (Dekker 1971).
            if gain[head] - rest != loss or rest + loss != gain[head]:
                error[head] += HALF_ULP * abs(rest)
            gain[head] = rest


@register_jitable
def _expand(parent: Array, arc_head: Array, arc_child: Array, heads: Array) -> None:
    """Open the contracted nodes, last first: the arc into a node takes the place of its child's."""
    settled = np.zeros(len(parent), np.bool_)
    for node in range(len(parent) - 1, 0, -1):
        if not settled[node]:
            word = arc_child[node]
            heads[word - 1] = arc_head[node]
            while word != node:
                settled[word] = True
                word = parent[word]
