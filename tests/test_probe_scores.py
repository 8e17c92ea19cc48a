"""Scores, intervals, controls, code length and statistics over layers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from bertft.corpora.edges import Record, Target
from bertft.probing.bank import Bank, Probe, Split
from bertft.probing.code_length import SHARES, code_length
from bertft.probing.controls import control_labels, word_types
from bertft.probing.examples import Examples, Inputs
from bertft.probing.labels import Labels
from bertft.probing.layers import center_of_gravity, expected_layer
from bertft.probing.scores import Tally, change, difference, intervals, resampled, tally

N, K, C, SENTENCES = 120, 3, 4, 40


class Said(Bank):
    """A bank that says what it is told."""

    def __init__(self, logits, exclusive):
        super().__init__([Probe(k) for k in range(logits.shape[1])], logits.shape[2], exclusive)
        self.said = logits

    def logits(self, split, index):
        return self.said[self.rows(split, index)].permute(1, 2, 0).contiguous()

    def rows(self, split, index):
        return index

    def gradients(self, split, index):
        raise AssertionError


def said(exclusive=False, seed=0, labels=None):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, K, C, generator=draw)
    if labels is None:
        labels = (torch.rand(N, C, generator=draw) < 0.4).byte()
        if exclusive:
            labels = torch.nn.functional.one_hot(labels.argmax(1), C).byte()
    rows = torch.arange(N)[:, None]
    sentence = torch.arange(N) * SENTENCES // N
    examples = Examples(rows, rows + 1, sentence)
    return Said(logits, exclusive), Split(
        Inputs([torch.zeros(N, 2)]), examples, Labels([labels], exclusive)
    )


EVERY = torch.ones(C, dtype=torch.bool)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("scored", [EVERY, torch.tensor([True, False, True, True])])
def test_micro_f1_and_accuracy_are_scikit_learns(exclusive, scored):
    bank, dev = said(exclusive)
    found = tally(bank, dev, scored, SENTENCES, 17, "targets")
    labels = dev.labels.of([Probe()], torch.arange(N))[0].T.numpy()
    for k in range(K):
        z = bank.said[:, k].numpy()
        decided = np.eye(C)[z.argmax(1)] if exclusive else z >= 0
        own = scored.numpy()
        expected = f1_score(labels[:, own], decided[:, own], average="micro")
        assert found.micro_f1()[k] == pytest.approx(expected, abs=1e-12)
        if exclusive:
            right = accuracy_score(labels.argmax(1), z.argmax(1))
            assert found.accuracy()[k] == pytest.approx(right, abs=1e-12)


def test_unknown_labels_count_as_missed():
    bank, dev = said()
    unknown = torch.zeros(N, dtype=torch.int64)
    unknown[::7] = 2
    labels = dev.labels.of([Probe()], torch.arange(N))[0].T
    wider = Split(dev.inputs, dev.examples, Labels([labels], False, unknown))
    found = tally(bank, wider, EVERY, SENTENCES, 17, "targets")
    for k in range(K):
        decided = torch.cat([bank.said[:, k] >= 0, torch.zeros(N, 2)], 1)
        true = torch.cat([labels, (unknown[:, None] > 0).expand(-1, 2)], 1)
        expected = f1_score(true, decided, average="micro")
        assert found.micro_f1()[k] == pytest.approx(expected, abs=1e-12)


def test_intervals_are_of_sentences_drawn_with_putting_back():
    bank, dev = said(exclusive=True)
    found = tally(bank, dev, EVERY, SENTENCES, 17, "targets")
    weights = resampled(SENTENCES, 0)
    assert weights.shape == (1000, SENTENCES)
    assert (weights.sum(1) == SENTENCES).all()
    right = (
        bank.said.argmax(2) == dev.labels.of([Probe()], torch.arange(N))[0].argmax(0)[:, None]
    ).double()
    means = right.view(SENTENCES, -1, K).mean(1).numpy()
    for k, interval in enumerate(intervals(found, "accuracy", weights)):
        assert interval.low < interval.value < interval.high
        # Sentences have as many targets each, so the standard error of their mean applies.
        expected = 2 * 1.96 * means[:, k].std() / math.sqrt(SENTENCES)
        assert interval.high - interval.low == pytest.approx(expected, rel=0.15)


def test_differences_are_paired():
    bank, dev = said(exclusive=True)
    own = tally(bank, dev, EVERY, SENTENCES, 17, "targets")
    weights = resampled(SENTENCES, 0)
    assert difference(own, own, "accuracy", weights, 0) == (0, 0, 0)
    assert change(own, own, "micro_f1", weights) == [(0, 0, 0)] * K
    better = bank.said.clone()
    truth = dev.labels.of([Probe()], torch.arange(N))[0].argmax(0)
    better[::2] = 0
    better[torch.arange(N)[::2], :, truth[::2]] = 9
    other = tally(Said(better, True), dev, EVERY, SENTENCES, 17, "targets")
    found = difference(other, own, "accuracy", weights, 0)
    assert found.value == pytest.approx((other.accuracy() - own.accuracy()).mean())
    assert 0 < found.low < found.value < found.high


@pytest.mark.parametrize("metric", ["micro_f1", "accuracy"])
def test_a_score_of_one_sentence_has_no_interval(metric):
    bank, dev = said(exclusive=True)
    own = tally(bank, dev, EVERY, SENTENCES, 17, "targets")
    weights = resampled(SENTENCES, 0)
    for alone in (2, 1):
        own.counts[alone:] = 0
        assert own.sentences(metric).tolist() == [alone] * K
        found = intervals(own, metric, weights) + change(own, own, metric, weights)
        found.append(difference(own, own, metric, weights, 0))
        assert np.isfinite([interval.value for interval in found]).all()
        ends = [(interval.low, interval.high) for interval in found]
        assert np.isnan(ends).all() if alone == 1 else np.isfinite(ends).all()


def test_micro_f1_is_of_sentences_with_a_scored_label():
    """A sentence of labels that are not scored, and for which none is predicted, does not count."""
    counts = np.zeros((3, 1, 5))
    counts[:, 0, 4] = 2
    counts[0, 0, :3] = 1
    own = Tally(counts)
    assert (own.sentences("micro_f1"), own.sentences("accuracy")) == (1, 3)
    [interval] = intervals(own, "micro_f1", resampled(3, 0))
    assert interval.value == 1
    assert math.isnan(interval.low)


def test_control_labels_belong_to_words():
    records = [
        Record(("the", "cat", "sat"), tuple(Target(((i, i + 1),), ("x",)) for i in range(3))),
        Record(("The", "cat"), (Target(((0, 2),), ("x",)), Target(((1, 2),), ("x",)))),
    ]
    types = word_types(records, [0, 1, 2, 3, 4])
    assert types == ["the", "cat", "sat", "the cat", "cat"]
    labels = torch.eye(C, dtype=torch.uint8)[torch.arange(5) % C]
    train, dev = control_labels([types, ["cat", "new"]], labels, seed=0)
    assert torch.equal(train[1], train[4])
    assert torch.equal(train[1], dev[0])
    draws = torch.cat([control_labels([types, ["new"]], labels, seed)[1] for seed in range(400)])
    shares = draws.double().mean(0)
    # Label 0 stands on two of the five training targets, the others on one each.
    assert (shares - torch.tensor([0.4, 0.2, 0.2, 0.2])).abs().max() < 5 * math.sqrt(0.24 / 400)


@pytest.mark.parametrize("exclusive", [True, False])
def test_code_length_is_in_bits(exclusive):
    n = 1000
    draw = torch.Generator().manual_seed(1)
    classes = torch.randint(C, (n,), generator=draw)
    labels = torch.nn.functional.one_hot(classes, C).byte()
    rows = torch.arange(n)[:, None]
    examples = Examples(rows, rows + 1, torch.arange(n))
    whole = Split(Inputs([torch.zeros(n, 2)]), examples, Labels([labels], exclusive))
    # Which targets a code has paid for can be told from their probabilities.
    p = 0.5 + 0.4 * torch.rand(n, generator=draw, dtype=torch.float64)
    parts = []

    def train(part):
        parts.append(part.examples.starts[:, 0])
        if exclusive:
            # The right label has probability p.
            logits = torch.log((1 - p) / (C - 1))[:, None, None].repeat(1, 1, C)
            logits[torch.arange(n), 0, classes] = p.log()
        else:
            logits = (2 * labels[:, None] - 1.0) * torch.log(p / (1 - p))[:, None, None]

        class Sure(Said):
            def rows(self, split, index):
                return split.examples.starts[index, 0]

        return Sure(logits.float(), exclusive)

    bits, uniform = code_length(train, whole, C, 64, "targets")
    ends = [max(1, round(n * share / 100)) for share in SHARES]
    assert [len(part) for part in parts] == ends[:-1]
    assert all(set(a.tolist()) < set(b.tolist()) for a, b in pairwise(parts))
    later = torch.ones(n, dtype=torch.bool)
    later[parts[0]] = False
    a_target, terms = (2.0, 1) if exclusive else (float(C), C)
    assert uniform == n * a_target
    expected = ends[0] * a_target - terms * float(p[later].log2().sum())
    assert float(bits[0]) == pytest.approx(expected, rel=1e-5)


def test_statistics_over_layers():
    assert center_of_gravity([1, 0, 0]) == 0
    assert center_of_gravity([0.2, 0.3, 0.5]) == pytest.approx(1.3)
    assert expected_layer([0.5, 0.7, 0.6, 0.9]) == pytest.approx((0.2 - 0.2 + 0.9) / 0.4)
    assert math.isnan(expected_layer([0.5, 0.9, 0.5]))
    assert math.isnan(expected_layer([0.9, 0.8, 0.7]))
    assert math.isnan(expected_layer([0.5, 0.9, math.nan]))
