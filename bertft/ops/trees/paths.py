"""What is measured along given dependency trees: depths, and distances between words.

Sentences lie one after another: `offsets` has the first word of each, and where the last one ends.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
KINDS = {"integers": "iu", "numbers": "iuf", "booleans": "b"}


def depths(heads: ArrayLike, offsets: ArrayLike) -> NDArray[np.int32]:
    """Return how many arcs lead from the root to each word, `(N,)`; 0 for the root itself.

    Cost: O(n) for each sentence of n words.

    Args:
        heads: `(N,)` number of each word's head in its sentence, from 1; 0 for the root.
        offsets: `(S + 1,)` first word of each sentence, from 0 up to N.

    Raises:
        ValueError: offsets that do not share the words, or heads that are no trees with one root.
        TypeError: heads or offsets that are no integers.

    >>> depths([2, 0, 2, 3, 0], [0, 4, 5])
    array([1, 0, 1, 2, 0], dtype=int32)
    """
    up, places = _checked("depths", heads, offsets)
    return _depths(up, places)


def distances(heads: ArrayLike, offsets: ArrayLike) -> NDArray[np.float32]:
    """Return how many arcs lie between any two words of a sentence.

    Cost: O(n^2) for each sentence of n words.

    Args:
        heads: `(N,)` number of each word's head in its sentence, from 1; 0 for the root.
        offsets: `(S + 1,)` first word of each sentence, from 0 up to N.

    Returns:
        `(sum n^2,)` the table of each sentence, one after another.

    Raises:
        ValueError: offsets that do not share the words, or heads that are no trees with one root.
        TypeError: heads or offsets that are no integers.

    >>> distances([2, 0, 2], [0, 3]).reshape(3, 3)
    array([[0., 1., 2.],
           [1., 0., 1.],
           [2., 1., 0.]], dtype=float32)
    """
    up, places = _checked("distances", heads, offsets)
    out = np.empty((np.diff(places) ** 2).sum(), np.float32)
    _distances(up, places, _depths(up, places), out)
    return out


def require_kind(function: str, name: str, values: ArrayLike, kind: str) -> Array:
    """Return values as an array of "integers", "numbers" (real ones), or "booleans".

    Raises:
        TypeError: they are something else. An empty list is of every kind.
    """
    array = np.asarray(values)
    if array.size and array.dtype.kind not in KINDS[kind]:
        raise TypeError(f"[{function}] {name} must be {kind}, got {array.dtype}; convert them.")
    return array


def checked_offsets(function: str, offsets: ArrayLike, words: int) -> NDArray[np.int64]:
    """Return offsets that give every sentence its words, one or more.

    Raises:
        ValueError: others.
        TypeError: they are no integers.
    """
    places = require_kind(function, "offsets", offsets, "integers").astype(np.int64)
    ends = len(places) and (places[0], places[-1]) == (0, words)
    if not ends or (np.diff(places) < 1).any():
        raise ValueError(
            f"[{function}] offsets must rise from 0 to the {words} words, got {places.tolist()}; "
            "give every sentence its words."
        )
    return places


def require_size(function: str, name: str, values: Array, size: int) -> None:
    """Refuse values that are not as many as are wanted, in a row."""
    if values.shape != (size,):
        raise ValueError(
            f"[{function}] {name} must have {size} values in a row, got shape {values.shape}; give "
            "every sentence its own."
        )


def _checked(
    function: str, heads: ArrayLike, offsets: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    up = require_kind(function, "heads", heads, "integers").astype(np.int64)
    require_size(function, "heads", up, up.size)
    places = checked_offsets(function, offsets, len(up))
    bad = _first_fault(up, places)
    if bad >= 0:
        own = up[places[bad] : places[bad + 1]].tolist()
        raise ValueError(
            f"[{function}] heads must be a tree with one root for each sentence, got {own} for "
            f"sentence {bad}; number heads from 1, with 0 for the root."
        )
    return up, places


@numba.njit(nogil=True, cache=True)
def _first_fault(heads: Array, offsets: Array) -> int:
    """The first sentence whose words do not all lead to one root, or -1."""
    for s in range(len(offsets) - 1):
        first, n = offsets[s], offsets[s + 1] - offsets[s]
        own = heads[first : first + n]
        if (own == 0).sum() != 1 or own.min() < 0 or own.max() > n:
            return s
        # A word that a walk from an earlier one has passed leads where that one leads.
        seen = np.zeros(n, np.int64)
        for start in range(n):
            word = start
            while word >= 0 and not seen[word]:
                seen[word] = start + 1
                word = own[word] - 1
            if word >= 0 and seen[word] == start + 1:
                return s
    return -1


@numba.njit(nogil=True, cache=True)
def _depths(heads: Array, offsets: Array) -> Array:
    out = np.full(len(heads), -1, np.int32)
    for s in range(len(offsets) - 1):
        first = offsets[s]
        path = np.empty(offsets[s + 1] - first, np.int64)
        for start in range(first, offsets[s + 1]):
            steps, word = 0, start
            while out[word] < 0 and heads[word] > 0:
                path[steps] = word
                steps, word = steps + 1, first + heads[word] - 1
            if out[word] < 0:
                out[word] = 0
            for i in range(steps):
                out[path[i]] = out[word] + steps - i
    return out


@numba.njit(nogil=True, cache=True)
def _distances(heads: Array, offsets: Array, depth: Array, out: Array) -> None:
    """From the root down: a word is one arc further than its head from each word before it."""
    place = 0
    for s in range(len(offsets) - 1):
        first, n = offsets[s], offsets[s + 1] - offsets[s]
        table = out[place : place + n * n].reshape(n, n)
        place += n * n
        order = np.argsort(depth[first : first + n])
        for number in range(n):
            word = order[number]
            head = heads[first + word] - 1
            for other in order[:number]:
                distance = table[head, other] + 1
                table[word, other] = distance
                table[other, word] = distance
            table[word, word] = 0
