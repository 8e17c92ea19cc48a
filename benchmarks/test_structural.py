"""Structural probes beside Hewitt & Manning's way: losses, an epoch of training, and scores.

The usual way trains one probe of one layer at a time, on padded batches in memory: here with the
tensor of all differences, as published, and with products of words, as one would improve it. It is
scored sentence by sentence, with Kruskal's algorithm in Python and SciPy's correlations.
"""

import time
from functools import cache

import numpy as np
import pytest
import torch
from conftest import aim, shared, tell
from scipy.stats import spearmanr
from torch.nn.utils.rnn import pad_sequence

from bertft import ops
from bertft.checkpoints import Checkpoint
from bertft.corpora.conllu import read_trees
from bertft.ops import trees
from bertft.ops.native import kernels_only
from bertft.probing.bank import Schedule, fit
from bertft.probing.examples import Inputs
from bertft.probing.structural import KINDS, Sentences, StructuralBank, StructuralProbe
from bertft.probing.structural_parts import StructuralPart
from bertft.probing.structural_tasks import StructuralTask
from bertft.recording import record
from bertft.traces import inference

RANK, BATCH, LAYERS, SEEDS = 64, 20, 7, 3
TIMES = {}


@cache
def part(name, count, step=1):
    """Sentences of EWT, and their features in all layers of MiniLM."""
    folder = shared() / "data" / "ud_english_ewt"
    chosen = read_trees(folder / f"en_ewt-ud-{name}.conllu")[: count * step : step]
    checkpoint = Checkpoint.open(str(shared() / "models" / "minilm"))
    own = StructuralPart.of(StructuralTask.of(chosen, chosen), chosen, checkpoint.tokenizer, 512)
    with inference(checkpoint.encoder, device=None):
        features = record({"minilm": checkpoint}, own.rows)
    layers = [features.read("minilm", layer) for layer in range(LAYERS)]
    return Sentences.of(Inputs(layers), own.gold), layers


def padded_loss(projected, gold, lengths, differences):
    """The distance loss of a padded batch `(b, n, rank)`; `gold` is -1 beyond a sentence."""
    if differences:
        found = (projected[:, :, None] - projected[:, None]).pow(2).sum(-1)
    else:
        products = projected @ projected.transpose(1, 2)
        squares = products.diagonal(dim1=1, dim2=2)
        found = squares[:, :, None] + squares[:, None] - 2 * products
    mask = gold >= 0
    errors = ((found - gold) * mask).abs().sum((1, 2))
    return (errors / lengths.float().square()).mean()


def padded_depth_loss(projected, gold, lengths):
    mask = gold >= 0
    return (((projected.pow(2).sum(-1) - gold) * mask).abs().sum(1) / lengths).mean()


def padded(sentences, kind):
    """Gold values by sentence, padded with -1 to a batch."""
    if kind == "depth":
        return pad_sequence(sentences, batch_first=True, padding_value=-1)
    n = max(len(table) for table in sentences)
    out = torch.full((len(sentences), n, n), -1.0)
    for row, table in zip(out, sentences, strict=True):
        row[: len(table), : len(table)] = table
    return out


def by_sentence(split):
    lengths = split.gold.offsets.diff().tolist()
    tables = split.gold.distances.split([n * n for n in lengths])
    tables = [table.view(n, n) for table, n in zip(tables, lengths, strict=True)]
    return {"distance": tables, "depth": list(split.gold.depths.split(lengths))}, lengths


def losses(count):
    """Calls that leave the gradients of the distance losses of a batch for 21 probes."""
    split, _ = part("train", 800, 15)
    probes = LAYERS * SEEDS
    index = next(split.examples.batches(count, "sentences", torch.Generator().manual_seed(0)))
    gold = split.gold.take(torch.unique_consecutive(split.examples.sentence[index]))
    lengths = gold.offsets.diff()
    torch.manual_seed(0)
    start = torch.randn(len(index), probes * RANK)
    own, other = start.clone(), start.clone()
    lost = torch.zeros(probes).double()
    sizes = lengths.tolist()
    tables = gold.distances.split([n * n for n in sizes])
    tables = [table.view(n, n) for table, n in zip(tables, sizes, strict=True)]
    wanted = padded(tables, "distance").repeat(probes, 1, 1)
    # Padding is part of a user's collation, and not timed here.
    rows = torch.cat(
        [
            pad_sequence(p.split(sizes), batch_first=True)
            for p in start.view(-1, probes, RANK).unbind(1)
        ]
    )
    several = lengths.repeat(probes)

    def native():
        own.copy_(start)
        ops.distance_gradient(own, gold.offsets, gold.distances, lost)

    def eager():
        other.copy_(start)
        ops.distance_gradient(other, gold.offsets, gold.distances, lost, backend="eager")

    def autograd(differences):
        leaf = rows.clone().requires_grad_()
        padded_loss(leaf, wanted, several, differences).mul(len(several)).backward()
        return leaf.grad

    native()
    eager()
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
    for differences in (True, False):
        grads = autograd(differences).view(probes, len(sizes), -1, RANK)
        flat = torch.cat([grads[:, i, :n].transpose(0, 1) for i, n in enumerate(sizes)])
        torch.testing.assert_close(flat.flatten(1), own, rtol=1e-3, atol=1e-4)
    return {
        "bertft": native,
        "torch by sentence": eager,
        "torch padded": lambda: autograd(False),
        "torch padded, differences": lambda: autograd(True),
    }


LOSSES = ("bertft", "torch by sentence", "torch padded", "torch padded, differences")


@pytest.mark.parametrize("who", LOSSES)
def test_losses(benchmark, race, who):
    benchmark.group = f"distance gradients: {BATCH} sentences of EWT, 21 probes of rank {RANK}"
    race("losses", lambda: losses(BATCH), who)


def epoch_alone(x, gold, lengths, start, kind, differences):
    """An epoch of one probe of one layer; returns its map."""
    weight = torch.nn.Parameter(start.T.clone())
    adam = torch.optim.Adam([weight], lr=1e-3)
    order = torch.Generator().manual_seed(0)
    for batch in torch.randperm(len(x), generator=order).split(BATCH):
        own = batch.tolist()
        projected = pad_sequence([x[i] for i in own], batch_first=True) @ weight
        wanted, sizes = padded([gold[i] for i in own], kind), lengths[batch]
        adam.zero_grad()
        if kind == "distance":
            padded_loss(projected, wanted, sizes, differences).backward()
        else:
            padded_depth_loss(projected, wanted, sizes).backward()
        adam.step()
    return weight.detach().T


def timed(call, *arguments):
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


WAYS = ("bank", "one by one, products", "one by one, differences")


@pytest.mark.parametrize("who", WAYS)
def test_an_epoch(benchmark, who):
    benchmark.group = (
        f"an epoch of {LAYERS} layers x {SEEDS} seeds of distance and depth probes, MiniLM, 800 "
        f"sentences of EWT, rank {RANK}"
    )
    if "epoch" not in TIMES:
        TIMES["epoch"] = race_of_epochs()
    if who == "one by one, differences":  # the usual way
        aim(benchmark, least=5)
    tell(benchmark, TIMES["epoch"][who])


def race_of_epochs(rounds=3):
    """Seconds of an epoch of all probes; one layer and seed is run, and counted as often."""
    split, layers = part("train", 800, 15)
    gold, sizes = by_sentence(split)
    lengths = torch.tensor(sizes)
    x = list(layers[3].split(sizes))
    probes = [
        StructuralProbe(seed, kind=kind, layer=layer, rank=RANK)
        for kind in KINDS
        for layer in range(LAYERS)
        for seed in range(SEEDS)
    ]
    schedule = Schedule(1, BATCH, "sentences", evaluate_every=10**9)
    few = Sentences.of(split.inputs, split.gold.take(torch.arange(5)))
    times = {who: [] for who in WAYS}
    for _ in range(rounds):
        bank = StructuralBank(probes, split.inputs)
        starts = bank.parameters["projection"].clone()
        time.sleep(0.12)
        with kernels_only():
            times["bank"].append(timed(fit, bank, split, few, schedule)[0])
        for who in WAYS[1:]:
            seconds = 0.0
            for kind in KINDS:
                k = next(k for k, p in enumerate(probes) if (p.kind, p.layer) == (kind, 3))
                time.sleep(0.12)
                arguments = (x, gold[kind], lengths, starts[k], kind, "differences" in who)
                spent, found = timed(epoch_alone, *arguments)
                seconds += spent
                mine = bank.parameters["projection"][k]
                torch.testing.assert_close(mine, found, rtol=1e-2, atol=1e-3)
            times[who].append(LAYERS * SEEDS * seconds)
    return times


class UnionFind:
    def __init__(self, n):
        self.parents = list(range(n))

    def find(self, i):
        if self.parents[i] != i:
            self.parents[i] = self.find(self.parents[i])
        return self.parents[i]


def edges_of(matrix, kept):
    """Hewitt & Manning's edges: pairs by their distances, joined while they are apart."""
    distances = {}
    for i, row in enumerate(matrix):
        for j, distance in enumerate(row):
            if kept[i] and kept[j]:
                distances[i, j] = distance
    joined, edges = UnionFind(len(matrix)), set()
    for (i, j), _ in sorted(distances.items(), key=lambda item: item[1]):
        if joined.find(i) != joined.find(j):
            joined.parents[joined.find(i)] = joined.find(j)
            edges.add((min(i, j), max(i, j)))
    return edges


def scores():
    """Calls that score a distance probe on 2,000 dev sentences."""
    split, layers = part("dev", 2000)
    torch.manual_seed(0)
    projected = (layers[3] @ torch.randn(layers[3].shape[1], RANK)).unsqueeze(1).numpy()
    gold, sizes = by_sentence(split)
    offsets, kept = split.gold.offsets.numpy(), split.gold.kept.numpy()
    flat = split.gold.distances.numpy()
    points = np.split(projected[:, 0], offsets[1:-1])
    squares = [trees.squared_distances(own) for own in points]

    def native(threads=1):
        return trees.score_distances(projected, offsets, flat, kept, threads)

    def plain():
        counts = []
        for s, (table, found) in enumerate(zip(gold["distance"], squares, strict=True)):
            own = kept[offsets[s] : offsets[s + 1]]
            true, guessed = edges_of(table.tolist(), own), edges_of(found.tolist(), own)
            rows = zip(table.numpy(), found, strict=True)
            rho = [spearmanr(a, b).statistic for a, b in rows] if sizes[s] > 1 else []
            counts.append((len(true & guessed), len(true), np.sum(rho), len(rho)))
        return np.array(counts)

    seconds, other = timed(plain)
    np.testing.assert_allclose(native()[:, 0], other, rtol=0, atol=1e-9)
    return native, plain, seconds


SCORERS = ("bertft, a thread", "bertft", "Python and SciPy")


@pytest.mark.parametrize("who", SCORERS)
def test_scores(benchmark, who):
    benchmark.group = f"UUAS and DSpr of 2,000 sentences of EWT, a probe of rank {RANK}"
    if "scores" not in TIMES:
        TIMES["scores"] = race_of_scores()
    if who == "Python and SciPy":
        aim(benchmark, least=100)
    tell(benchmark, TIMES["scores"][who])


def race_of_scores(rounds=3):
    native, plain, first = scores()
    times = {who: [] for who in SCORERS}
    times["Python and SciPy"].append(first)
    for turn in range(rounds):
        for who, threads in (("bertft, a thread", 1), ("bertft", torch.get_num_threads())):
            times[who].append(min(timed(native, threads)[0] for _ in range(3)))
        if turn:
            times["Python and SciPy"].append(timed(plain)[0])
    return times
