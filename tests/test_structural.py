"""Structural probes: what is trained, by which recipe, and what is said of it."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from bertft.corpora.conllu import Tree
from bertft.ops import trees
from bertft.ops.native import kernels_only
from bertft.probing.bank import Schedule, fit
from bertft.probing.examples import Examples, Inputs
from bertft.probing.options import tasks_of
from bertft.probing.scores import intervals, resampled
from bertft.probing.structural import (
    KINDS,
    SCHEDULE,
    Gold,
    Sentences,
    StructuralBank,
    StructuralProbe,
    train_structural,
)
from bertft.probing.structural_scores import METRICS, StructuralTally, tally_structure
from bertft.probing.structural_tasks import StructuralTask, kept_words

TREEBANK = """1\tGo\t_\tVERB\tVB\t_\t0\troot\t_\t_
2\t(\t_\tPUNCT\t-LRB-\t_\t3\tpunct\t_\t_
3-4\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
3\tdo\t_\tAUX\tVBP\t_\t1\tdep\t_\t_
4\tn't\t_\tPART\tRB\t_\t3\tdep\t_\t_
4.1\tgone\t_\t_\t_\t_\t_\t_\t_\t_
5\t$\t_\tSYM\t:\t_\t3\tdep\t_\t_

"""


def forest(count, most, seed=0):
    """Heads of random trees and the offsets of their sentences."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, most + 1, count)
    heads = []
    for n in lengths:
        order, own = random.permutation(n), np.zeros(n, int)
        for i in range(1, n):
            own[order[i]] = order[random.integers(i)] + 1
        heads.append(own)
    return np.concatenate(heads), np.concatenate([[0], lengths.cumsum()])


def gold_of(heads, offsets, kept=None):
    kept = np.ones(len(heads), bool) if kept is None else kept
    return Gold(
        torch.from_numpy(offsets),
        torch.from_numpy(trees.distances(heads, offsets)),
        torch.from_numpy(trees.depths(heads, offsets)).float(),
        torch.from_numpy(kept),
    )


def analytic(heads, offsets, width):
    """Each word at the sum of the unit vectors of the arcs on its way from the root."""
    points = np.zeros((len(heads), width))
    depths = trees.depths(heads, offsets)
    for first, last in itertools.pairwise(offsets):
        for word in first + np.argsort(depths[first:last]):
            if heads[word]:
                points[word] = points[first + heads[word] - 1]
                points[word, word - first] += 1
    return points


def noisy(count=12, most=9, width=10, layers=1, seed=0):
    heads, offsets = forest(count, most, seed)
    rows = [torch.randn(len(heads), width) for _ in range(layers)]
    return Sentences.of(Inputs(rows), gold_of(heads, offsets))


def whole(split):
    return torch.arange(len(split.examples))


def rotation(width, exactly):
    """A random one, or one of powers of 2, which rounds no product with a small whole number."""
    random = np.random.default_rng(1)
    if not exactly:
        return np.linalg.qr(random.normal(size=(width, width)))[0]
    mixed = hadamard(width)[random.permutation(width)][:, random.permutation(width)]
    return random.choice([-1, 1], width) * mixed / width**0.5


def holding(count, most, turned, dtype, seed=0):
    """Words of random trees where the arcs to them add up to, turned."""
    heads, offsets = forest(count, most, seed)
    points = torch.from_numpy(analytic(heads, offsets, len(turned)) @ turned)
    return Sentences.of(Inputs([points], dtype), gold_of(heads, offsets))


def scores_of(bank, split):
    """Scores of a distance and of a depth probe."""
    tally = StructuralTally(tally_structure(bank, split, 7), split.gold.offsets.diff().numpy())
    return {
        metric: tally.score(metric)[k] for k, kind in enumerate(KINDS) for metric in METRICS[kind]
    }


EVERYTHING = {"uuas": 1.0, "dspr": 1.0, "root_accuracy": 1.0, "nspr": 1.0}


@pytest.mark.parametrize(
    ("turned", "dtype", "most"),
    [
        (np.eye(16), torch.float32, 0.0),
        (rotation(16, exactly=True), torch.float32, 0.0),
        (rotation(16, exactly=False), torch.float64, 1e-13),
    ],
    ids=["as it is", "turned by powers of 2", "turned"],
)
def test_a_map_that_keeps_the_tree_loses_nothing(turned, dtype, most):
    split = holding(60, 16, turned, dtype)
    bank = StructuralBank([StructuralProbe(kind=kind, rank=16) for kind in KINDS], split.inputs)
    bank.parameters["projection"][:] = torch.eye(16)
    assert (bank.losses(split, 7, "sentences") <= most).all()
    assert scores_of(bank, split) == EVERYTHING


def test_the_last_bits_of_features_break_ties_whatever_maps_are_evaluated_in():
    """A product in float64 of a float32 map has the errors of the features that it is given."""
    heads, offsets = forest(60, 6)
    points = (analytic(heads, offsets, 6) @ rotation(6, exactly=False)).astype(np.float32)
    gold, kept = trees.distances(heads, offsets), np.ones(len(heads), bool)
    words = points.astype(np.float64)[:, None]
    found = StructuralTally(trees.score_distances(words, offsets, gold, kept), np.diff(offsets))
    assert found.score("uuas").tolist() == [1.0]
    assert 0.98 < found.score("dspr")[0] < 1
    whole_arcs = trees.score_distances(analytic(heads, offsets, 6)[:, None], offsets, gold, kept)
    assert StructuralTally(whole_arcs, np.diff(offsets)).score("dspr").tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_tree_is_found_from_a_random_start(dtype):
    turned = rotation(6, exactly=False)
    train, dev = (holding(n, 6, turned, dtype, seed) for seed, n in ((0, 150), (1, 40)))
    probes = [StructuralProbe(0, 0.1, kind=kind, rank=6) for kind in KINDS]
    patient = replace(SCHEDULE, epochs=240, reduce_after=3, factor=0.5, stop_after=20)
    bank, found = train_structural(probes, train, dev, patient)
    scores = scores_of(bank, dev)
    if dtype == torch.float64:
        # Once values are right to the last bit of float32, in which they are ranked, ties are too.
        assert (found.loss < 1e-9).all()
        assert scores == EVERYTHING
        return
    # Nothing but words at equal distances is out of order: by their last bits these differ.
    assert (scores["uuas"], scores["root_accuracy"]) == (1, 1)
    assert [scores[name] for name in ("dspr", "nspr")] == pytest.approx([0.98, 0.98], abs=5e-3)
    distances, depths = bank.project(dev, whole(dev)).unbind(1)
    parts = distances.split(dev.gold.offsets.diff().tolist())
    predicted = np.concatenate([trees.squared_distances(part.numpy()).ravel() for part in parts])
    np.testing.assert_allclose(predicted, dev.gold.distances, rtol=0, atol=1e-3)
    np.testing.assert_allclose(depths.square().sum(1), dev.gold.depths, rtol=0, atol=1e-3)


class HewittProbe(torch.nn.Module):
    """A probe as it is usually written: padded sentences and the tensor of all differences."""

    def __init__(self, start, kind):
        super().__init__()
        self.weight, self.kind = torch.nn.Parameter(start.T.clone()), kind

    def loss(self, sentences, gold):
        total = 0.0
        for x, own in zip(sentences, gold, strict=True):
            p = x @ self.weight
            p = p[:, None] - p if self.kind == "distance" else p
            error = (p.square().sum(-1) - own).abs()
            total = total + error.sum() / error.numel()
        return total / len(sentences)


@pytest.mark.parametrize("kind", KINDS)
def test_training_takes_the_steps_of_the_usual_way(kind):
    split = noisy(count=45, layers=2)
    probes = [StructuralProbe(seed, kind=kind, layer=1, rank=4) for seed in (3, 5)]
    start = StructuralBank(probes, split.inputs).parameters["projection"]
    schedule = Schedule(2, 20, "sentences", evaluate_every=10**9)
    bank = StructuralBank(probes, split.inputs)
    fit(bank, split, split, schedule)
    lengths = split.gold.offsets.diff().tolist()
    x = split.inputs.rows(whole(split))[1].split(lengths)
    gold = split.gold.depths.split(lengths)
    if kind == "distance":
        tables = split.gold.distances.split([n * n for n in lengths])
        gold = [table.view(n, n) for table, n in zip(tables, lengths, strict=True)]
    for k in range(2):
        module = HewittProbe(start[k], kind)
        adam = torch.optim.Adam(module.parameters(), lr=1e-3)
        order = torch.Generator().manual_seed(0)
        for _ in range(2):
            for part in torch.randperm(45, generator=order).split(20):
                adam.zero_grad()
                module.loss([x[i] for i in part], [gold[i] for i in part]).backward()
                adam.step()
        torch.testing.assert_close(
            bank.parameters["projection"][k], module.weight.detach().T, rtol=1e-3, atol=1e-5
        )
        with torch.no_grad():
            loss = module.loss(x, gold)
        assert float(bank.losses(split, 7, "sentences")[k]) == pytest.approx(float(loss), rel=1e-4)


def test_initial_maps_are_uniform():
    split = noisy(width=200)
    probes = [StructuralProbe(seed, rank=100) for seed in range(3)]
    maps = StructuralBank(probes, split.inputs).parameters["projection"]
    assert maps.shape == (3, 100, 200)
    assert float(maps.abs().max()) <= 0.05
    assert float(maps.abs().max()) > 0.0499
    assert float(maps.std()) == pytest.approx(0.05 / math.sqrt(3), rel=0.02)
    again = StructuralBank(probes[1:2], split.inputs).parameters["projection"]
    assert torch.equal(again[0], maps[1])
    assert not torch.equal(maps[0], maps[1])


def test_a_probe_does_not_depend_on_its_neighbors():
    train, dev = noisy(30, layers=3), noisy(10, layers=3, seed=1)
    probes = [
        StructuralProbe(seed, kind=kind, layer=layer, rank=rank)
        for kind in KINDS
        for layer in (0, 2)
        for seed, rank in ((0, 6), (1, 3))
    ]
    schedule = replace(SCHEDULE, epochs=12)
    bank, together = train_structural(probes, train, dev, schedule)
    for k, probe in enumerate(probes):
        alone, found = train_structural([probe], train, dev, schedule)
        assert float(found.loss[0]) == pytest.approx(float(together.loss[k]), rel=1e-5)
        projection = bank.parameters["projection"][k]
        torch.testing.assert_close(
            alone.parameters["projection"][0], projection[: probe.rank], rtol=1e-3, atol=1e-4
        )
        assert not projection[probe.rank :].any()


class Scripted:
    """A bank of one weight whose dev losses are given, and which moves by its rate each step."""

    def __init__(self, losses):
        self.probes, self.parameters = [StructuralProbe()], {"w": torch.zeros(1, 1, 1)}
        self._losses, self.seen = iter(losses), []

    def gradients(self, split, index):
        return {"w": torch.ones(1, 1, 1)}

    def losses(self, split, batch_size, unit):
        self.seen.append(float(self.parameters["w"]))
        return torch.tensor([next(self._losses)]).double()

    def select(self, kept):
        self.probes = self.probes[: len(kept)]
        self.parameters = {"w": self.parameters["w"][kept]}


def test_the_recipe_is_that_of_hewitt_and_manning():
    rows = torch.arange(20)[:, None]
    split = Sentences(Inputs([torch.zeros(20, 1)]), Examples(rows, rows + 1, rows[:, 0]), None)
    bank = Scripted([9.0, 8.0, 8.5, 8.4, 7.0, 7.1, 7.2, 7.3, 7.4, 7.5, 0.0])
    schedule = replace(SCHEDULE, evaluate_every=1)
    found = fit(bank, split, split, schedule)
    steps = -np.diff([0, *bank.seen])
    # A tenth of the rate after every epoch without gain; the end five epochs after the best.
    expected = 1e-3 * 10.0 ** -np.array([0, 0, 0, 1, 2, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(steps, expected, rtol=0.02, atol=1e-9)
    assert (found.loss.item(), found.steps.item(), found.stopped.item()) == (7.0, 5, True)
    assert float(bank.parameters["w"]) == pytest.approx(bank.seen[4])
    recipe = (SCHEDULE.epochs, SCHEDULE.batch_size, SCHEDULE.unit, StructuralProbe.lr)
    assert recipe == (40, 20, "sentences", 1e-3)


def test_ranks_are_whole():
    with pytest.raises(TypeError, match=r"^\[StructuralBank\] rank must be an integer, got 4.5; p"):
        StructuralBank([StructuralProbe(rank=4.5)], noisy().inputs)


@pytest.mark.parametrize("rank", [0, 11])
def test_ranks_are_those_that_the_width_allows(rank):
    probes = [StructuralProbe(rank=4), StructuralProbe(rank=rank)]
    message = rf"^\[StructuralBank\] rank must be from 1 to the 10 .*, got \[4, {rank}\]; pass"
    with pytest.raises(ValueError, match=message):
        StructuralBank(probes, noisy().inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_that_are_not_finite_are_refused(kind):
    split = noisy()
    split.inputs.rows(whole(split))
    rows = torch.randn(len(split.examples), 10)
    rows[3] = torch.nan
    broken = Sentences.of(Inputs([rows]), split.gold)
    with pytest.raises(ValueError, match=r"^\[probe\] losses must be finite, got .*; lower lr"):
        train_structural([StructuralProbe(kind=kind, rank=2)], broken, split)


def brute_force(values, counted, words, weights):
    """The mean over lengths 5 to 50 of the means of all correlations of sentences that long."""
    means = []
    for length in range(5, 51):
        own = np.flatnonzero(words == length)
        total = sum(weights[s] * values[s] for s in own)
        number = sum(weights[s] * counted[s] for s in own)
        if number:
            means.append(total / number)
    return np.mean(means) if means else np.nan


def test_scores_are_means_over_lengths_and_shares_of_all_edges():
    random = np.random.default_rng(0)
    words = random.choice([0, 1, 4, 5, 6, 17, 50, 51, 80], 60)
    counts = random.integers(0, 5, (60, 3, 4)).astype(float)
    counts[words == 17, 1, 2:] = 0
    tally = StructuralTally(counts, words)
    draws = resampled(60, 0, 4)
    for metric in ("dspr", "nspr"):
        plain, drawn = tally.score(metric), tally.score(metric, draws)
        for k in range(3):
            arguments = (counts[:, k, 2], counts[:, k, 3], words)
            assert plain[k] == pytest.approx(brute_force(*arguments, np.ones(60)))
            for own, weights in zip(drawn, draws, strict=True):
                assert own[k] == pytest.approx(brute_force(*arguments, weights))
    for metric in ("uuas", "root_accuracy"):
        shares = counts[:, :, 0].sum(0) / counts[:, :, 1].sum(0)
        np.testing.assert_allclose(tally.score(metric), shares)
        expected = (draws @ counts[:, :, 0]) / (draws @ counts[:, :, 1])
        np.testing.assert_allclose(tally.score(metric, draws), expected)
    inside = (words >= 5) & (words <= 50)
    for metric in ("uuas", "root_accuracy"):
        assert tally.numbers(metric).tolist() == counts[:, :, 1].sum(0).tolist()
        assert tally.sentences(metric).tolist() == (counts[:, :, 1] > 0).sum(0).tolist()
    for metric, possible in (("dspr", words[inside].sum()), ("nspr", inside.sum())):
        found = counts[inside, :, 3].sum(0)
        assert tally.numbers(metric).tolist() == found.tolist()
        assert tally.sentences(metric).tolist() == (counts[inside, :, 3] > 0).sum(0).tolist()
        assert tally.undefined(metric) == (possible - found).sum()
    [interval, _, _] = intervals(tally, "uuas", resampled(60, 0))
    assert interval.low < interval.value < interval.high


def test_scores_without_sentences_that_count():
    tally = StructuralTally(np.zeros((3, 2, 4)), np.array([1, 2, 60]))
    draws = np.ones((5, 3))
    for metric in ("uuas", "dspr", "root_accuracy", "nspr"):
        assert np.isnan(tally.score(metric)).all()
        assert tally.score(metric).shape == (2,)
        assert np.isnan(tally.score(metric, draws)).all()
        assert tally.score(metric, draws).shape == (5, 2)


def test_probes_that_map_all_words_to_one_place_have_no_correlations():
    heads, offsets = forest(20, 9)
    split = Sentences.of(Inputs([torch.ones(len(heads), 3)]), gold_of(heads, offsets))
    bank = StructuralBank([StructuralProbe(kind=kind, rank=2) for kind in KINDS], split.inputs)
    tally = StructuralTally(tally_structure(bank, split, 6), np.diff(offsets))
    assert np.isnan(tally.score("dspr")[0])
    assert np.isnan(tally.score("nspr")[1])
    inside = np.diff(offsets)[np.diff(offsets) >= 5]
    assert tally.of([0]).undefined("dspr") == inside.sum()
    assert tally.of([1]).undefined("nspr") == len(inside)
    assert tally.numbers("dspr")[0] == tally.numbers("nspr")[1] == 0


def test_threads_do_not_change_a_count():
    split = noisy(30, layers=2)
    probes = [StructuralProbe(seed, kind=kind, rank=5) for kind in KINDS for seed in range(2)]
    bank = StructuralBank(probes, split.inputs)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        with kernels_only():
            found.append(tally_structure(bank, split, 11))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def write(folder, text=TREEBANK):
    for part in ("train", "dev"):
        (folder / f"x-{part}.conllu").write_text(text * 3)
    return folder


def test_a_treebank_is_a_task(tmp_path):
    task = StructuralTask.read(write(tmp_path), limit=2)
    assert (len(task.train), len(task.dev), task.name) == (2, 3, "structural")
    tree = task.dev[0]
    assert tree.words == ("Go", "(", "do", "n't", "$")
    assert tree.heads == (0, 3, 1, 3, 3)
    assert tree.xpos == ("VB", "-LRB-", "VBP", "RB", ":")
    assert task.kept(tree) == (True, False, True, True, True)
    penn = StructuralTask.read(tmp_path, punctuation="xpos")
    assert penn.kept(tree) == (True, False, True, True, False)
    assert penn.fingerprint != StructuralTask.read(tmp_path).fingerprint


@pytest.mark.parametrize("tag", ["''", ",", ".", ":", "``", "-LRB-", "-RRB-"])
def test_penn_tags_of_punctuation_are_left_out(tag):
    tree = Tree(("a", "b"), ("X", "PUNCT"), (0, 1), ("root", "dep"), "", 1, (tag, "HYPH"))
    assert kept_words(tree, "xpos") == (False, True)
    assert kept_words(tree, "upos") == (True, False)


def test_treebanks_that_are_no_task(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^\[StructuralTask\] folder of structural must"):
        StructuralTask.read(tmp_path / "typo")
    with pytest.raises(FileNotFoundError, match=r"must hold one file \*train\*.conllu, got 0"):
        StructuralTask.read(tmp_path)
    write(tmp_path)
    with pytest.raises(ValueError, match=r"^\[StructuralTask\] limit must be at least 1, got 0"):
        StructuralTask.read(tmp_path, limit=0)
    with pytest.raises(ValueError, match=r"punctuation must be one of upos, xpos, got 'penn'"):
        StructuralTask.read(tmp_path, punctuation="penn")
    with pytest.raises(ValueError, match=r"punctuation must be one of upos, xpos, got ''"):
        tasks_of({"structural": tmp_path}, None, "")
    task = StructuralTask.read(tmp_path)
    with pytest.raises(ValueError, match="dev trees must be at least one, got none; pass a"):
        StructuralTask.of(task.train, [])
    for missing in ("_", " "):
        write(tmp_path, TREEBANK.replace("PART", missing))
        place = f"in the sentence at {tmp_path / 'x-train.conllu'}, line 1; fill it, or pass the "
        message = f'column UPOS, got none for "n\'t" {place}other rule for punctuation (xpos).'
        with pytest.raises(ValueError, match=re.escape(message)):
            StructuralTask.read(tmp_path)
    assert StructuralTask.read(tmp_path, punctuation="xpos").kept(task.dev[0])[0]
    bare = Tree(("a",), ("X",), (0,), ("root",), "s", 7)
    with pytest.raises(ValueError, match=r"column XPOS, got none for 'a' .* at line 7 \(sentence"):
        kept_words(bare, "xpos")
    (tmp_path / "x-dev.conllu").write_text(TREEBANK.replace("\t0\troot", "\t3\troot"))
    with pytest.raises(ValueError, match=r"x-dev.conllu, line 1 must have one root, got 0"):
        StructuralTask.read(tmp_path)


GOOD = Tree(("a", "b"), ("X", "X"), (0, 1), ("root", "dep"), "", 1)


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"heads": (2, 1)}, ValueError, r"must have one root, got 0 words with head 0 \[\]; mend"),
        ({"heads": (0, 0)}, ValueError, r"must have one root, got 2 words with head 0 \[1, 2\]"),
        ({"heads": (0, 2)}, ValueError, "must be a tree, got a cycle through word 2; mend"),
        ({"heads": (0, 3)}, ValueError, "must have heads from 0 to 2, got 3; number the words"),
        ({"heads": (0, -1)}, ValueError, "must have heads from 0 to 2, got -1; number the words"),
        ({"heads": (0, 1.5)}, TypeError, "must have integers for heads, got 1.5; convert"),
        ({"heads": (0,)}, ValueError, "must have a tag, a head and .* got 2 words, 2 tags, 1 head"),
        ({"xpos": ("X",)}, ValueError, "must have a tag, .* 2 labels and 1 xpos; give each word"),
        ({"words": (), "tags": (), "heads": (), "labels": ()}, ValueError, "must have one root, g"),
        ({"tags": ("X", "_")}, ValueError, "fill it, or pass the other rule"),
    ],
)
def test_trees_in_memory_are_refused_with_their_place(fields, error, told):
    bad = replace(GOOD, **fields)
    with pytest.raises(error, match=told) as found:
        StructuralTask.of([GOOD, bad], [GOOD])
    assert "training tree 1 (counted from 0)" in str(found.value)
    with pytest.raises(error, match=told) as found:
        StructuralTask.of([GOOD], [replace(bad, source="x.conllu", line=7)])
    assert "x.conllu, line 7" in str(found.value)


def test_heads_of_arrays_make_the_task_of_heads_of_integers():
    same = replace(GOOD, heads=tuple(np.array(GOOD.heads)))
    assert StructuralTask.of([same], [same]).fingerprint == (
        StructuralTask.of([GOOD], [GOOD]).fingerprint
    )
