"""Scores of probes on held-out targets, with intervals by bootstrap over sentences.

Owns the decisions, micro-F1 and accuracy, and how two encoders' probes are compared.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertft.probing.bank import Bank, Split
from bertft.probing.examples import Unit

Floats = npt.NDArray[np.float64]
DRAWS = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A value and a 95 % interval."""

    value: float
    low: float
    high: float


class Scored(Protocol):
    """Counts of K probes for each of N sentences, and the scores that are ratios of them.

    Attributes:
        counts: `(N, K, ...)`.
    """

    counts: Floats

    def score(self, metric: str, weights: Floats | None = None) -> Floats:
        """Return the scores under the name of a metric; see `Tally.micro_f1`."""

    def sentences(self, metric: str) -> npt.NDArray[np.int64]:
        """Return how many sentences each score is made of, `(K,)`."""

    def has_targets_of(self, other: Any) -> bool:
        """Return if both count the same targets."""


class Tally:
    """Counts of K probes' decisions for each of N sentences; every score is a ratio of them.

    Attributes:
        counts: `(N, K, 5)`: scored labels predicted and right, predicted, and true; targets whose
            likeliest label is right, and targets.
    """

    def __init__(self, counts: Floats) -> None:
        self.counts = counts

    def micro_f1(self, weights: Floats | None = None) -> Floats:
        """Return `2 right / (predicted + true)` over all scored labels of all targets, in [0, 1].

        Args:
            weights: `(draws, N)` how often each sentence counts; once by default.

        Returns:
            `(K,)`, or `(draws, K)`; NaN where nothing is predicted or true.
        """
        right, predicted, true, _, _ = self._sums(weights)
        with np.errstate(invalid="ignore"):
            return np.asarray(2 * right / (predicted + true))

    def accuracy(self, weights: Floats | None = None) -> Floats:
        """Return the share of targets whose likeliest label is right; arguments as above."""
        *_, best, targets = self._sums(weights)
        with np.errstate(invalid="ignore"):
            return np.asarray(best / targets)

    def score(self, metric: str, weights: Floats | None = None) -> Floats:
        """Return the scores under the name of a metric, "micro_f1" or "accuracy"."""
        return self.accuracy(weights) if metric == "accuracy" else self.micro_f1(weights)

    def sentences(self, metric: str) -> npt.NDArray[np.int64]:
        """Return how many sentences each score is made of, `(K,)`."""
        parts = self.counts[..., 4:] if metric == "accuracy" else self.counts[..., 1:3]
        return np.asarray(parts.any(2).sum(0), np.int64)

    def has_targets_of(self, other: "Tally") -> bool:
        """Return if both count the same number of targets in every sentence."""
        return bool((self.counts[:, 0, -1] == other.counts[:, 0, -1]).all())

    def of(self, probes: Sequence[int]) -> "Tally":
        """Return the tally of some of the probes."""
        return Tally(self.counts[:, list(probes)])

    def _sums(self, weights: Floats | None) -> tuple[Floats, ...]:
        n = len(self.counts)
        flat = self.counts.reshape(n, -1)
        sums = flat.sum(0) if weights is None else weights @ flat
        return tuple(np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 5), -1, 0))


def tally(
    bank: Bank, dev: Split, scored: Tensor, sentences: int, batch_size: int, unit: Unit
) -> Tally:
    """Count what the probes of a bank decide.

    A label is predicted where it is the likeliest (exclusive) or its logit is at least 0.

    Args:
        bank: trained.
        dev: what to score on; its unknown labels count as missed.
        scored: `(C,)` bool, which labels count in micro-F1.
        sentences: N, of which some may have no target.
        batch_size: targets or sentences at a time.
        unit: what `batch_size` counts.
    """
    k = len(bank.probes)
    counts = torch.zeros(sentences, k, 5, dtype=torch.float64)
    examples = dev.examples
    for index in examples.batches(batch_size, unit, None):
        logits = bank.logits(dev, index).permute(2, 0, 1).cpu()
        likeliest = logits.argmax(2)
        if bank.exclusive:
            decided = torch.zeros_like(logits, dtype=torch.bool).scatter_(
                2, likeliest[..., None], 1
            )
        else:
            decided = logits >= 0
        decided &= scored
        labels = dev.labels.of(bank.probes, index).permute(2, 0, 1).cpu()
        true = labels.bool() & scored
        here = torch.stack(
            [
                (decided & true).sum(2),
                decided.sum(2),
                true.sum(2) + dev.labels.unknown(bank.probes, index).cpu(),
                labels.gather(2, likeliest[..., None])[..., 0],
                torch.ones_like(likeliest),
            ],
            2,
        )
        counts.index_add_(0, examples.sentence[index].cpu(), here.double())
    return Tally(counts.numpy())


def resampled(sentences: int, seed: int, draws: int = DRAWS) -> Floats:
    """Return `(draws, sentences)`, how often each sentence comes up when all are drawn anew."""
    shares = np.full(sentences, 1 / sentences)
    drawn = np.random.default_rng(seed).multinomial(sentences, shares, draws)
    return drawn.astype(np.float64)


def intervals(own: Scored, metric: str, weights: Floats) -> list[Interval]:
    """Return each probe's score with its percentile interval over draws of sentences.

    A score of one sentence has no interval: all draws of it are alike.
    """
    return _intervals(own.score(metric), own.score(metric, weights), own.sentences(metric))


def change(own: Scored, base: Scored, metric: str, weights: Floats) -> list[Interval]:
    """Return by how much each probe's score is above that of a base, with its interval."""
    values = own.score(metric) - base.score(metric)
    drawn = own.score(metric, weights) - base.score(metric, weights)
    return _intervals(values, drawn, _common(own, base, metric))


def difference(own: Scored, base: Scored, metric: str, weights: Floats, seed: int) -> Interval:
    """Return by how much the mean over seeds is above that of a base, with its interval.

    Probe k of both has the same seed. A draw takes sentences and seeds with putting back, the same
    for both: the interval covers the choice of either.

    Args:
        own: of K probes.
        base: of K probes on the same sentences.
        metric: its name.
        weights: draws of sentences (`resampled`).
        seed: of the draws of seeds.
    """
    k = own.counts.shape[1]
    value = float((own.score(metric) - base.score(metric)).mean())
    drawn = own.score(metric, weights) - base.score(metric, weights)
    seeds = np.random.default_rng(seed).integers(k, size=(len(weights), k))
    drawn = np.take_along_axis(drawn, seeds, 1).mean(1)
    return _interval(value, drawn, _common(own, base, metric).min())


def _common(own: Scored, base: Scored, metric: str) -> npt.NDArray[np.int64]:
    return np.minimum(own.sentences(metric), base.sentences(metric))


def _intervals(values: Floats, drawn: Floats, sentences: npt.NDArray[np.int64]) -> list[Interval]:
    return [
        _interval(float(value), *of_probe)
        for value, *of_probe in zip(values, drawn.T, sentences, strict=True)
    ]


def _interval(value: float, drawn: Floats, sentences: int) -> Interval:
    if sentences < 2 or not np.isfinite(drawn).any():
        return Interval(value, np.nan, np.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
