"""Distances, spanning trees, correlations and counts, against networkx and SciPy."""

import warnings
from itertools import combinations, pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bertft.ops import trees

NAN = float("nan")


def random_tree(random, n):
    """Heads of a random tree of n words, from 1; 0 for the root."""
    order, heads = random.permutation(n), np.zeros(n, int)
    for i in range(1, n):
        heads[order[i]] = order[random.integers(i)] + 1
    return heads


def forest(seed, count, most):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, most + 1, count)
    heads = np.concatenate([random_tree(random, n) for n in lengths])
    return random, heads, np.concatenate([[0], lengths.cumsum()])


def tables(values, offsets):
    """The table of each sentence."""
    lengths = np.diff(offsets)
    parts = np.split(values, (lengths**2).cumsum()[:-1])
    return [part.reshape(n, n) for part, n in zip(parts, lengths, strict=True)]


def graph_of(heads):
    graph = nx.Graph((word, head - 1) for word, head in enumerate(heads) if head)
    graph.add_nodes_from(range(len(heads)))
    return graph


def edges_of(parents):
    return {tuple(sorted((i, int(up)))) for i, up in enumerate(parents) if up >= 0}


def kruskal(table, kept):
    """Edges by networkx, on pairs in the order of their distances and places."""
    places = [i for i in range(len(table)) if kept[i]]
    pairs = sorted(combinations(places, 2), key=lambda pair: (table[pair], pair))
    graph = nx.Graph()
    graph.add_nodes_from(places)
    graph.add_weighted_edges_from((i, j, rank) for rank, (i, j) in enumerate(pairs))
    return {tuple(sorted(edge)) for edge in nx.minimum_spanning_edges(graph, data=False)}


def scipy_spearman(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spearmanr(a, b).statistic if len(a) > 1 else NAN


def test_depths_and_distances_of_thousands_of_trees():
    _, heads, offsets = forest(0, 2000, 30)
    depths, distances = trees.depths(heads, offsets), trees.distances(heads, offsets)
    assert distances.dtype == np.float32
    for s, table in enumerate(tables(distances, offsets)):
        own = heads[offsets[s] : offsets[s + 1]]
        graph, root = graph_of(own), int(np.flatnonzero(own == 0)[0])
        lengths = dict(nx.all_pairs_shortest_path_length(graph))
        expected = [[lengths[i][j] for j in range(len(own))] for i in range(len(own))]
        assert table.tolist() == expected
        assert depths[offsets[s] : offsets[s + 1]].tolist() == expected[root]


def test_a_chain_of_many_words():
    n = 600
    heads = np.arange(n)
    assert trees.depths(heads, [0, n]).tolist() == list(range(n))
    places = np.arange(n)
    table = trees.distances(heads, [0, n]).reshape(n, n)
    np.testing.assert_array_equal(table, abs(places[:, None] - places))


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
def test_spanning_trees_of_thousands_of_tables(kind):
    random = np.random.default_rng(1)
    lengths = random.integers(1, 13, 1000)
    offsets = np.concatenate([[0], lengths.cumsum()])
    kept = random.random(offsets[-1]) < 0.8
    found = []
    for n in lengths:
        values = {
            "distinct": random.random((n, n)),
            "ties": random.integers(0, 4, (n, n)).astype(float),
            "constant": np.zeros((n, n)),
        }[kind]
        found.append(np.triu(values, 1) + np.triu(values, 1).T)
    values = np.concatenate([table.ravel() for table in found])
    parents = trees.spanning_trees(values, offsets, kept)
    for s, table in enumerate(found):
        own = slice(offsets[s], offsets[s + 1])
        assert edges_of(parents[own]) == kruskal(table, kept[own])


def test_without_words_left_out_the_spanning_tree_is_the_tree():
    _, heads, offsets = forest(2, 500, 40)
    parents = trees.spanning_trees(
        trees.distances(heads, offsets), offsets, np.ones(len(heads), bool)
    )
    for first, last in pairwise(offsets):
        own = {tuple(sorted(edge)) for edge in graph_of(heads[first:last]).edges}
        assert edges_of(parents[first:last]) == own


def test_words_below_one_that_is_left_out_are_joined_again():
    # Words 0 and 2 hang from word 1, a comma.
    heads, offsets, kept = [2, 0, 2, 3], [0, 4], [True, False, True, True]
    parents = trees.spanning_trees(trees.distances(heads, offsets), offsets, kept)
    assert parents.tolist() == [-1, -1, 0, 2]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.floats(-5, 5, width=32)) | st.tuples(*[st.just(1)] * 2),
        min_size=2,
        max_size=40,
    )
)
def test_rank_correlations_are_those_of_scipy(pairs):
    x, y = np.array(pairs, float).T
    for a, b in ((x, y), (x, x), (y, -y), (x, np.ones(len(x)))):
        [found] = trees.spearman([a], [b])
        np.testing.assert_allclose(found, scipy_spearman(a, b), rtol=0, atol=1e-12)


def test_rank_correlations_reach_their_bounds_exactly():
    random = np.random.default_rng(3)
    x = random.integers(0, 9, (500, 23))
    x[:, :2] = 0, 8
    assert (trees.spearman(x, 3 * x + 1) == 1).all()
    assert (trees.spearman(x, -x) == -1).all()


def test_rank_correlations_without_a_value():
    found = trees.spearman([[1, 2, 3], [1, NAN, 3], [2, 2, 2]], [[1, NAN, 2], [1, 2, 3], [1, 2, 3]])
    assert np.isnan(found).all()
    assert np.isnan(trees.spearman([[1]], [[1]])).all()
    assert trees.spearman(np.empty((0, 3)), np.empty((0, 3))).shape == (0,)


def test_squared_distances_are_those_of_scipy():
    from scipy.spatial.distance import cdist

    points = np.random.default_rng(0).normal(100, 1, (30, 17))
    expected = cdist(points, points, "sqeuclidean")
    np.testing.assert_allclose(trees.squared_distances(points), expected, rtol=1e-6)


def brute_force(points, table, kept):
    """Counts of a sentence by SciPy and networkx, from float32 distances as they are ranked."""
    squares = ((points[:, None].astype(float) - points[None]) ** 2).sum(2).astype(np.float32)
    true, found = kruskal(table, kept), kruskal(squares, kept)
    rows = np.array([scipy_spearman(a, b) for a, b in zip(table, squares, strict=True)])
    return len(true & found), len(true), np.nansum(rows), np.isfinite(rows).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counts_of_distances(dtype):
    random, heads, offsets = forest(4, 150, 20)
    gold, kept = trees.distances(heads, offsets), random.random(len(heads)) < 0.8
    # Whole numbers make ties that are exact.
    projected = np.stack(
        [random.normal(size=(len(heads), 3)), random.integers(0, 3, (len(heads), 3))], 1
    ).astype(dtype)
    projected[offsets[9] : offsets[10]] = 5.0
    counts = trees.score_distances(projected, offsets, gold, kept)
    for s, table in enumerate(tables(gold, offsets)):
        own = slice(offsets[s], offsets[s + 1])
        for k in range(2):
            expected = brute_force(projected[own, k], table, kept[own])
            np.testing.assert_allclose(counts[s, k], expected, rtol=0, atol=1e-9)
    assert (counts[9, :, 3] == 0).all()
    for threads in (2, 5):
        again = trees.score_distances(projected, offsets, gold, kept, threads)
        np.testing.assert_array_equal(again, counts)


def test_counts_of_depths():
    random, heads, offsets = forest(5, 400, 20)
    gold, kept = trees.depths(heads, offsets), random.random(len(heads)) < 0.7
    projected = random.integers(-2, 3, (len(heads), 2, 3)).astype(np.float32)
    projected[offsets[9] : offsets[10]] = 5.0
    counts = trees.score_depths(projected, offsets, gold, kept, threads=2)
    for s, (first, last) in enumerate(pairwise(offsets)):
        own, places = gold[first:last], np.flatnonzero(kept[first:last])
        for k in range(2):
            norms = (projected[first:last, k] ** 2).sum(1)
            # The first of the smallest, as by `min`.
            root = min(places, key=lambda i: norms[i]) if len(places) else None
            rho = scipy_spearman(own, norms)
            expected = (
                root is not None and own[root] == 0,
                root is not None,
                np.nan_to_num(rho),
                np.isfinite(rho),
            )
            np.testing.assert_allclose(counts[s, k], expected, rtol=0, atol=1e-12)
    assert (counts[9, :, 3] == 0).all()


def analytic(heads, offsets, width):
    """Each word at the sum of the unit vectors of the arcs on its way from the root."""
    points = np.zeros((len(heads), width))
    depths = trees.depths(heads, offsets)
    for first, last in pairwise(offsets):
        for word in first + np.argsort(depths[first:last]):
            if heads[word]:
                points[word] = points[first + heads[word] - 1]
                points[word, word - first] += 1
    return points


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "rotated"])
def test_points_that_hold_the_tree_score_1_exactly(turned):
    random, heads, offsets = forest(6, 300, 25)
    points = analytic(heads, offsets, 25)
    if turned:
        points = points @ np.linalg.qr(random.normal(size=(25, 25)))[0]
    kept = random.random(len(heads)) < 0.9
    gold, depths = trees.distances(heads, offsets), trees.depths(heads, offsets)
    kept[depths == 0] = True
    counts = trees.score_distances(points[:, None], offsets, gold, kept)[:, 0]
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 3]).all()
    assert (counts[:, 3] == np.where(np.diff(offsets) > 1, np.diff(offsets), 0)).all()
    counts = trees.score_depths(points[:, None], offsets, depths, kept)[:, 0]
    assert (counts[:, :2] == 1).all()
    assert (counts[:, 2] == counts[:, 3]).all()


def test_sentences_of_one_word_and_of_dropped_words():
    heads, offsets = [0, 0, 1, 1], [0, 1, 4]
    gold, depths = trees.distances(heads, offsets), trees.depths(heads, offsets)
    points = np.random.default_rng(0).normal(size=(4, 1, 2))
    nothing = np.zeros(4, bool)
    counts = trees.score_distances(points, offsets, gold, nothing)
    assert counts[:, 0, [0, 1, 3]].tolist() == [[0, 0, 0], [0, 0, 3]]
    counts = trees.score_depths(points, offsets, depths, nothing)
    assert counts[:, 0, [0, 1, 3]].tolist() == [[0, 0, 0], [0, 0, 1]]
    counts = trees.score_depths(points, offsets, depths, ~nothing)
    assert counts[0, 0].tolist() == [1, 1, 0, 0]


def test_points_without_a_place_have_no_correlations():
    points = np.full((3, 1, 2), NAN)
    gold = trees.distances([0, 1, 1], [0, 3])
    counts = trees.score_distances(points, [0, 3], gold, np.ones(3, bool))
    assert counts[0, 0, 3] == 0


FAULTS = [[0, 0], [1, 2], [2, 1], [3, 0], [-1, 0], [2, 3, 2]]


@pytest.mark.parametrize("heads", FAULTS, ids=str)
@pytest.mark.parametrize("name", ["depths", "distances"])
def test_heads_that_are_no_trees_are_refused(name, heads):
    with pytest.raises(ValueError, match=rf"^\[{name}\] heads must be a tree .* for sentence 1; "):
        getattr(trees, name)([0, *heads], [0, 1, 1 + len(heads)])


POINTS = np.zeros((4, 1, 2), np.float32)
KEPT = np.ones(4, bool)
ARGUMENTS = {
    "depths": [[0, 1, 0, 1], [0, 2, 4]],
    "distances": [[0, 1, 0, 1], [0, 2, 4]],
    "spanning_trees": [np.zeros(8), [0, 2, 4], KEPT],
    "score_distances": [POINTS, [0, 2, 4], np.zeros(8), KEPT],
    "score_depths": [POINTS, [0, 2, 4], np.zeros(4), KEPT],
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("offsets", [[], [0, 2, 5], [1, 4], [0, 2, 2, 4], [0, 3, 2, 4]], ids=str)
def test_offsets_are_checked(name, offsets):
    arguments = [*ARGUMENTS[name]]
    arguments[1] = offsets
    with pytest.raises(ValueError, match=rf"^\[{name}\] offsets must rise from 0 to the 4 words"):
        getattr(trees, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("spanning_trees", 0, np.zeros(7), r"distances must have 8 values .* got shape \(7,\)"),
        ("score_distances", 2, np.zeros(9), r"gold must have 8 values in a row, got shape \(9,\)"),
        ("score_depths", 2, np.zeros((4, 1)), r"gold must have 4 values .* got shape \(4, 1\)"),
        ("score_depths", 3, KEPT[:3], r"kept must have 4 values in a row, got shape \(3,\)"),
        ("score_depths", 0, POINTS[:, 0], r"projected must be float32 .* of shape \(4, 2\)"),
        ("score_distances", 0, POINTS.astype(int), "projected must be float32 .* got int64"),
    ],
)
def test_arrays_are_checked(name, place, value, message):
    arguments = [*ARGUMENTS[name]]
    arguments[place] = value
    with pytest.raises(ValueError, match=rf"^\[{name}\] {message}"):
        getattr(trees, name)(*arguments)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("depths", 0, [0, 1.9, 0, 1], "heads must be integers, got float64; convert them"),
        ("distances", 0, ["0", "1", "0", "1"], "heads must be integers, got <U1; convert them"),
        ("depths", 1, [0, 2.5, 4], "offsets must be integers, got float64"),
        ("spanning_trees", 1, [0.0, 2.0, 4.0], "offsets must be integers, got float64"),
        ("spanning_trees", 0, np.zeros(8, complex), "distances must be numbers, got complex128"),
        ("spanning_trees", 2, [0, 1, 2, 3], "kept must be booleans, got int64"),
        ("score_distances", 3, np.ones(4), "kept must be booleans, got float64"),
        ("score_distances", 2, np.zeros(8, complex), "gold must be numbers, got complex128"),
        ("score_depths", 2, list("abcd"), "gold must be numbers, got <U1"),
        ("score_depths", 1, [0.0, 4.0], "offsets must be integers, got float64"),
        ("score_depths", 0, POINTS.tolist(), "projected must be an array, got list"),
    ],
)
def test_types_are_checked(name, place, value, message):
    arguments = [*ARGUMENTS[name]]
    arguments[place] = value
    with pytest.raises(TypeError, match=rf"^\[{name}\] {message}"):
        getattr(trees, name)(*arguments)


def test_what_has_no_order_or_place_is_refused():
    with pytest.raises(
        ValueError, match=r"^\[spanning_trees\] distances must be .*, got NaN at 3;"
    ):
        trees.spanning_trees([0, 1, 1, NAN], [0, 2], [True, True])
    with pytest.raises(ValueError, match=r"^\[depths\] heads must have 4 values .* \(2, 2\)"):
        trees.depths([[0, 1], [0, 1]], [0, 2])
    with pytest.raises(
        ValueError, match=r"^\[squared_distances\] points must be a matrix, got shap"
    ):
        trees.squared_distances([1.0, 2.0])
    with pytest.raises(TypeError, match=r"^\[squared_distances\] points must be numbers, got <U1"):
        trees.squared_distances([["a"]])
    with pytest.raises(TypeError, match=r"^\[spearman\] y must be numbers, got complex128"):
        trees.spearman([[1.0, 2.0]], [[1j, 2.0]])


@pytest.mark.parametrize("threads", [0, 1.5])
@pytest.mark.parametrize("name", ["score_distances", "score_depths"])
def test_threads_are_at_least_one(name, threads):
    message = rf"^\[{name}\] threads must be an integer from 1, got {threads}; pass"
    with pytest.raises(ValueError, match=message):
        getattr(trees, name)(*ARGUMENTS[name], threads)


def test_rows_to_correlate_have_one_shape():
    with pytest.raises(ValueError, match=r"^\[spearman\] x and y must be matrices of one shape"):
        trees.spearman([[1, 2]], [[1, 2, 3]])
