"""Decoding against all trees in exact integers, and against networkx; faults of trees."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from math import inf, nan

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bertft.ops.trees import decode, decoding


def is_tree(heads):
    """By networkx: an arborescence in which the root has one child."""
    graph = nx.DiGraph((head, word) for word, head in enumerate(heads, 1))
    return nx.is_arborescence(graph) and graph.out_degree(0) == 1 and len(graph) == len(heads) + 1


@cache
def all_trees(n):
    """Heads of all trees of n words with one root, found by walking n steps up from every word."""
    heads = np.array(list(itertools.product(range(n + 1), repeat=n)))
    up = np.hstack([np.zeros((len(heads), 1), int), heads])
    at = up
    for _ in range(n):
        at = np.take_along_axis(up, at, axis=1)
    return heads[(at == 0).all(axis=1) & ((heads == 0).sum(axis=1) == 1)]


def exact(score):
    """The score in units of the smallest float64."""
    return int(Fraction(float(score)) * 2**1074)


def total(table, heads):
    return sum(exact(table[word][head]) for word, head in enumerate(heads))


def best_total(table):
    """The exact score of the best tree, None if there is none."""
    words, forbidden = np.arange(len(table)), np.isneginf(table)
    units = np.array([[0 if score == -inf else exact(score) for score in row] for row in table])
    candidates = all_trees(len(table))
    candidates = candidates[~forbidden[words, candidates].any(axis=1)]
    return units.astype(object)[words, candidates].sum(axis=1).max() if len(candidates) else None


def decode_one(table):
    return decode(np.asarray(table)[None], [len(table)])[0].tolist()


def batch(random, lengths, n_max, dtype="float32"):
    """Scores of normal size, NaN beyond the sentences."""
    scores = np.full((len(lengths), n_max, n_max + 1), nan, dtype)
    for table, n in zip(scores, lengths, strict=True):
        table[:n, : n + 1] = random.normal(size=(n, n + 1))
    return scores


def plus(offset):
    """Normal scores beside an offset of every word, or of some arcs."""
    return lambda random, n: random.normal(size=(n, n + 1)) + offset(random, n)


def among(*scores):
    return lambda random, n: random.choice(scores, (n, n + 1))


TABLES = {
    "normal": plus(lambda random, n: 0),
    "ties": among(-1, 0, 1),
    "ties-rounded": among(0.1, 0.2, 0.3, 0.7),
    "constant": among(0.1),
    "word-offsets": plus(lambda random, n: random.choice([-1e8, 1e8], (n, 1))),
    "many-roots": plus(lambda random, n: 50 * (np.arange(n + 1) == 0)),
    "huge-roots": plus(lambda random, n: 1e30 * (np.arange(n + 1) == 0)),
    "masked": plus(lambda random, n: random.choice([0, -1e9], (n, n + 1), p=[0.6, 0.4])),
    "magnitudes": among(1e30, 1e-3, 2e-3, -1e30, 1e14, 1.0),
    "near-overflow": among(1.7e308, -1.7e308, 1.0, 2.0),
    "subnormal": among(5e-324, 1e-323, 1.0, 3e30),
}


@pytest.mark.parametrize("n", range(1, 7))
def test_the_oracle_has_as_many_trees_as_cayley(n):
    assert len(all_trees(n)) == n ** (n - 1)


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("n", range(1, 7))
def test_no_tree_is_better(kind, n):
    random = np.random.default_rng(n)
    for _ in range(40 if n < 6 else 5):
        table = TABLES[kind](random, n).astype(float)
        heads = decode_one(table)
        assert is_tree(heads)
        assert total(table, heads) == best_total(table)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_forbidden_arcs_are_avoided_or_told(share):
    random = np.random.default_rng(0)
    for n in 200 * [1, 2, 3, 4]:
        table = np.where(random.random((n, n + 1)) < share, -inf, random.normal(size=(n, n + 1)))
        best = best_total(table)
        if best is None:
            with pytest.raises(ValueError, match="must allow a tree with one root"):
                decode_one(table)
        else:
            assert total(table, decode_one(table)) == best


def networkx_total(table):
    """The best score of integer scores: a root arc costs more than all others can bring."""
    penalty = 4 * len(table) * int(np.abs(table).max())
    graph = nx.DiGraph()
    for word in range(1, len(table) + 1):
        for head in range(len(table) + 1):
            if head != word:
                weight = int(table[word - 1, head]) - (penalty if head == 0 else 0)
                graph.add_edge(head, word, weight=weight)
    tree = nx.maximum_spanning_arborescence(graph)
    assert tree.out_degree(0) == 1
    return int(tree.size("weight")) + penalty


@pytest.mark.parametrize("top", [3, 10**6], ids=["ties", "distinct"])
@pytest.mark.parametrize("n", [2, 7, 12, 25, 40])
def test_networkx_finds_no_better_tree(n, top):
    table = np.random.default_rng(n).integers(-top, top + 1, (n, n + 1))
    heads = decode_one(table.astype(float))
    assert is_tree(heads)
    assert total(table, heads) == networkx_total(table) << 1074


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [5, 33, 80])
def test_a_planted_tree_is_found(n, dtype):
    random = np.random.default_rng(n)
    table = random.normal(size=(n, n + 1)).astype(dtype)
    order = random.permutation(n)
    planted = np.zeros(n, int)
    for i in range(1, n):
        planted[order[i]] = order[random.integers(i)] + 1
    table[np.arange(n), planted] += 100
    assert decode_one(table) == planted.tolist()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_decoded_is_a_tree(data):
    n, width = data.draw(st.integers(1, 12)), data.draw(st.sampled_from([32, 64]))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    few = st.sampled_from([0.0, 1.0, -1.0])
    table = data.draw(arrays(f"float{width}", (n, n + 1), elements=few | finite))
    assert is_tree(decode_one(table))


@pytest.mark.parametrize("kind", TABLES)
def test_integers_give_the_same_tree(kind):
    random = np.random.default_rng(1)
    for n in 4 * [1, 2, 5, 12]:
        table, heads = TABLES[kind](random, n).astype(float), np.empty(n, np.int32)
        decoding._solve_in_integers(table, heads)
        assert heads.tolist() == decode_one(table)


# Ways into a cycle that rounding to its 1e30 hides: two words, two heads, and no finite difference.
HIDDEN = {
    "words": ([[1e-3, 0, 1e30], [2e-3, 1e30, 0]], [2, 0]),
    "words-swapped": ([[2e-3, 0, 1e30], [1e-3, 1e30, 0]], [0, 1]),
    "heads": (
        [
            [-inf, 0, 1e30, 1e-3, -inf],
            [-inf, 1e30, 0, -inf, 2e-3],
            [0, -inf, -inf, 0, -inf],
            3 * [-inf] + [0, 0],
        ],
        [2, 4, 0, 3],
    ),
    "overflow": ([[-1e308, 0, 1e308], [-1.1e308, 1e308, 0]], [0, 1]),
}


@pytest.mark.parametrize(("table", "heads"), HIDDEN.values(), ids=HIDDEN)
def test_what_rounding_hides_is_solved_in_integers(monkeypatch, table, heads):
    assert decode_one(table) == heads
    monkeypatch.setattr(decoding, "_solve_in_integers", None)
    with pytest.raises(TypeError, match="not callable"):
        decode_one(table)


@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "word-offsets", "masked"])
def test_usual_scores_need_no_integers(monkeypatch, kind):
    monkeypatch.setattr(decoding, "_solve_in_integers", None)
    decode_one(TABLES[kind](np.random.default_rng(2), 40).astype(float))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_scores_go_to_the_lowest_head(n):
    assert decode_one(np.full((n, n + 1), 0.1)) == [0, 1, 1, 1, 1][:n]


def test_sentences_do_not_see_their_padding():
    random = np.random.default_rng(3)
    lengths = [1, 9, 4, 1, 12, 2]
    scores = batch(random, lengths, 12)
    heads = decode(scores, lengths)
    assert heads.dtype == np.int32
    assert heads.shape == (6, 12)
    for found, table, n in zip(heads, scores, lengths, strict=True):
        assert found[:n].tolist() == decode_one(table[:n, : n + 1])
        assert (found[n:] == -1).all()


def test_one_word_hangs_on_the_root():
    assert decode(np.array([[[-3.0, 7.0]]]), [1]).tolist() == [[0]]


@pytest.mark.parametrize("n_max", [0, 5])
def test_an_empty_batch_has_no_heads(n_max):
    assert decode(np.empty((0, n_max, n_max + 1)), []).shape == (0, n_max)


def test_layout_and_type_do_not_matter():
    lengths = np.array([7, 20, 13], np.uint8)
    scores = batch(np.random.default_rng(4), lengths, 20)
    heads = decode(scores, lengths)
    strided = np.repeat(scores, 2, axis=2)[:, :, ::2]
    for same in (scores.astype(float), np.asfortranarray(scores), strided, scores.copy()):
        same.setflags(write=False)
        np.testing.assert_array_equal(decode(same, lengths.tolist()), heads)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_may_share_the_work(threads):
    random = np.random.default_rng(5)
    lengths = random.integers(1, 31, 300)
    scores = batch(random, lengths, 30)
    parts = np.array_split(np.arange(300), 11)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda part: decode(scores[part], lengths[part]), parts))
    np.testing.assert_array_equal(np.concatenate(found), decode(scores, lengths))


@pytest.mark.parametrize("value", [nan, inf])
def test_values_that_are_no_scores_are_told(value):
    lengths = [3, 5]
    scores = batch(np.random.default_rng(6), lengths, 5)
    scores[1, 3, 2] = value
    text = (
        rf"\[decode\] scores must be finite or -inf, got {value} in sentence 1 for the arc 2 -> 4"
    )
    with pytest.raises(ValueError, match=text):
        decode(scores, lengths)


@pytest.mark.parametrize("largest", [1.0, 1e305], ids=["float64", "integers"])
def test_sentences_without_a_tree_are_told(largest):
    scores = np.full((2, 3, 4), largest)
    scores[1, :, 1:] = -inf
    with pytest.raises(ValueError, match=r"\[decode\] scores must allow .* got none in sentence 1"):
        decode(scores, [3, 3])


@pytest.mark.parametrize(
    ("scores", "lengths", "error", "text"),
    [
        ([[[0.0, 0.0]]], [1], TypeError, "scores must be a float32 or float64 array, got list"),
        (np.zeros((1, 2, 3), "float16"), [2], TypeError, "scores must be .*, got float16"),
        (np.zeros((1, 2, 2)), [2], ValueError, r"scores must be \(batch, .*, got \(1, 2, 2\)"),
        (np.zeros((2, 3)), [2], ValueError, r"scores must be \(batch, .*, got \(2, 3\)"),
        (np.zeros((2, 2, 3)), [2], ValueError, r"lengths must be \(2,\), got \(1,\)"),
        (np.zeros((1, 2, 3)), [2.0], TypeError, "lengths must be integers, got float64"),
        (np.zeros((2, 2, 3)), [2, 3], ValueError, "lengths must be 1 to 2, got 3 for sentence 1"),
        (np.zeros((2, 2, 3)), [0, 2], ValueError, "lengths must be 1 to 2, got 0 for sentence 0"),
    ],
)
def test_inputs_that_do_not_fit_are_told(scores, lengths, error, text):
    with pytest.raises(error, match=rf"\[decode\] {text}"):
        decode(scores, lengths)
