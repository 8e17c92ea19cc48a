"""Trees of 4,000 sentences as long as those of English EWT, beside what parsers do in NumPy.

Scores are random, which makes many cycles, or peaked at a tree's heads but for one word in ten, as
from a trained parser. NumPy gets float64 tables and keeps to one root by a penalty. networkx, the
oracle of the tests, takes some 30 ms for a sentence.
"""

import numpy as np
import pytest
from conftest import aim

from bertft.ops.trees import decode

COUNT, N_MAX, PENALTY = 4000, 80, 1e4


def sentences(kind):
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(1.9, 16.5 / 1.9, COUNT).round().astype(int), 1, N_MAX)
    scores = random.normal(size=(COUNT, N_MAX, N_MAX + 1)).astype("float32")
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
    kept = scores[np.ix_(rest, rest)]
    outer = by_numpy(np.block([[kept, leave.max(axis=1)[:, None]], [enter.max(axis=0), -np.inf]]))
    heads[cycle[enter[:, outer[-1]].argmax()]] = rest[outer[-1]]
    heads[rest] = np.where(
        outer[:-1] == len(rest), cycle[leave.argmax(axis=1)], np.append(rest, 0)[outer[:-1]]
    )
    return heads


def contenders(kind):
    scores, lengths = sentences(kind)
    tables = []
    for table, n in zip(scores, lengths, strict=True):
        tables.append(np.full((n + 1, n + 1), -np.inf))
        tables[-1][1:] = table[:n, : n + 1]
        tables[-1][1:, 0] -= PENALTY
        np.fill_diagonal(tables[-1], -np.inf)
    heads = decode(scores, lengths)
    for b, table in enumerate(tables[:200]):
        assert heads[b, : lengths[b]].tolist() == by_numpy(table)[1:].tolist()
    return {
        "bertft": lambda: decode(scores, lengths),
        "numpy": lambda: [by_numpy(table) for table in tables],
    }


@pytest.mark.parametrize("who", ["bertft", "numpy"])
@pytest.mark.parametrize("kind", ["random", "trained"])
def test_trees(benchmark, race, kind, who):
    benchmark.group = f"trees of 4,000 sentences, {kind} scores"
    if who == "bertft":
        aim(benchmark, least=20_000, of="sentences_per_s")
    race(kind, lambda: contenders(kind), who, rounds=3)
    benchmark.extra_info["sentences_per_s"] = COUNT / benchmark.stats.stats.median
