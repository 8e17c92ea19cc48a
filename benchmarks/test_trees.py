"""Decoding of 200 sentences as long as those of English EWT, beside NumPy and networkx.

Random scores make many cycles, and those of a trained parser (one head in ten is not the tree's)
few. The others get float64 and a penalty for roots.
"""

import networkx as nx
import numpy as np
import pytest

from bertft.ops.trees import decode

N_MAX, PENALTY = 80, 1e4


def sentences(kind, count):
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(1.9, 16.5 / 1.9, count).round().astype(int), 1, N_MAX)
    scores = random.normal(size=(count, N_MAX, N_MAX + 1)).astype("float32")
    for table, n in zip(scores, lengths, strict=True):
        order = random.permutation(n) + 1
        heads = [0, *(order[random.integers(i)] for i in range(1, n))]
        heads = np.where(random.random(n) < 0.1, random.integers(0, n + 1, n), heads)
        table[order - 1, heads] += 10 * (kind == "trained")
    return scores, lengths


def by_numpy(scores):
    """Chu-Liu-Edmonds by recursion, as parsers ship it; scores of (word or root, head)."""
    heads = scores.argmax(axis=1)
    heads[0] = 0
    up = heads
    for _ in range(len(heads)):
        up = heads[up]
    if not up.any():
        return heads
    cycle = [up.max()]
    while heads[cycle[-1]] != cycle[0]:
        cycle.append(heads[cycle[-1]])
    cycle, rest = np.array(cycle), np.setdiff1d(np.arange(len(heads)), cycle)
    enter = scores[np.ix_(cycle, rest)] - scores[cycle, heads[cycle]][:, None]
    leave = scores[np.ix_(rest, cycle)]
    inner = np.block([[scores[np.ix_(rest, rest)], leave.max(axis=1)[:, None]], [enter.max(0), -np.inf]])
    outer = by_numpy(inner)
    heads[cycle[enter[:, outer[-1]].argmax()]] = rest[outer[-1]]
    heads[rest] = np.where(outer[:-1] == len(rest), cycle[leave.argmax(axis=1)], np.append(rest, 0)[outer[:-1]])
    return heads


def by_networkx(scores):
    graph = nx.from_numpy_array(scores.T, create_using=nx.DiGraph)
    graph.remove_edges_from([arc for arc in graph.edges if arc[0] == arc[1] or arc[1] == 0])
    tree = nx.maximum_spanning_arborescence(graph)
    return np.array([0, *(head for head, _ in sorted(tree.edges, key=lambda arc: arc[1]))])


def contenders(kind):
    scores, lengths = sentences(kind, 200)
    tables = [np.full((n + 1, n + 1), -np.inf) for n in lengths]
