"""Scores of structural probes: edges and roots that are right, and correlations of ranks."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bertft.ops.native import threads_now
from bertft.probing.scores import Floats
from bertft.probing.structural import Gold, Kind, Sentences, StructuralBank

METRICS: dict[Kind, tuple[str, str]] = {
    "distance": ("uuas", "dspr"),
    "depth": ("root_accuracy", "nspr"),
}
# Lengths of sentences that correlations are averaged over, the last one included.
SHORTEST, LONGEST = 5, 50


class StructuralTally:
    """Counts of K probes for each of N sentences; every score is made of ratios of them.

    Attributes:
        counts: `(N, K, 4)`: edges, or roots, that are right and all of them; the sum of rank
            correlations and how many there are.
        words: `(N,)` of each sentence; 0 for one that was left out.
    """

    def __init__(self, counts: Floats, words: npt.NDArray[np.int64]) -> None:
        self.counts, self.words = counts, words

    def score(self, metric: str, weights: Floats | None = None) -> Floats:
        """Return the scores under the name of a metric.

        "uuas" and "root_accuracy" are shares of all edges and of all roots. "dspr" and "nspr" are
        means of rank correlations: over all those of sentences of one length, then over the
        lengths 5 to 50 that occur. Correlations without a value are in no mean.

        Args:
            metric: one of `METRICS`.
            weights: `(draws, N)` how often each sentence counts; once by default.

        Returns:
            `(K,)`, or `(draws, K)`; NaN where nothing counts.
        """
        if metric in ("uuas", "root_accuracy"):
            return _ratio(self.counts[..., :2], weights)
        of_length = [self.words == length for length in np.unique(self.words[self._counted])]
        means = [
            _ratio(self.counts[own, :, 2:], weights if weights is None else weights[:, own])
            for own in of_length
        ]
        if not means:
            return np.full((*(() if weights is None else (len(weights),)), len(self)), np.nan)
        stacked = np.stack(means)
        known = np.isfinite(stacked)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(known, stacked, 0).sum(0) / known.sum(0))

    def numbers(self, metric: str) -> npt.NDArray[np.int64]:
        """Return how many edges, roots, or correlations each score is made of, `(K,)`."""
        return np.asarray(self._parts(metric).sum(0), np.int64)

    def sentences(self, metric: str) -> npt.NDArray[np.int64]:
        """Return how many sentences each score is made of, `(K,)`."""
        return np.asarray((self._parts(metric) > 0).sum(0), np.int64)

    def undefined(self, metric: str) -> int:
        """Return how many correlations have no value, because a probe maps words to one place."""
        words = self.words[self._counted]
        possible = words.sum() if metric == "dspr" else len(words)
        return int((possible - self.numbers(metric)).sum())

    def _parts(self, metric: str) -> Floats:
        """How many edges, roots, or correlations of each sentence count, `(.., K)`."""
        if metric in ("uuas", "root_accuracy"):
            return self.counts[..., 1]
        return self.counts[self._counted, :, 3]

    @property
    def _counted(self) -> npt.NDArray[np.bool_]:
        """Sentences of a length that correlations are averaged over."""
        return (self.words >= SHORTEST) & (self.words <= LONGEST)

    def of(self, probes: Sequence[int]) -> "StructuralTally":
        """Return the tally of some of the probes."""
        return StructuralTally(self.counts[:, list(probes)], self.words)

    def has_targets_of(self, other: "StructuralTally") -> bool:
        """Return if both count the same sentences."""
        return bool((self.words == other.words).all())

    def __len__(self) -> int:
        return int(self.counts.shape[1])


def tally_structure(bank: StructuralBank, dev: Sentences, batch_size: int) -> Floats:
    """Count what the probes of a bank get right in each sentence, `(S, K, 4)`.

    Args:
        bank: trained.
        dev: what to score on.
        batch_size: sentences at a time.
    """
    found = []
    for index in dev.examples.batches(batch_size, "sentences", None):
        sentences = torch.unique_consecutive(dev.examples.sentence[index])
        gold = dev.gold.take(sentences).to(torch.device("cpu"))
        projected = bank.project(dev, index).cpu().numpy()
        own = np.empty((len(sentences), len(bank.probes), 4))
        for kind in dict.fromkeys(probe.kind for probe in bank.probes):
            columns = [k for k, probe in enumerate(bank.probes) if probe.kind == kind]
            own[:, columns] = count(kind, projected[:, columns], gold)
        found.append(own)
    return np.concatenate(found)


def count(kind: Kind, projected: npt.NDArray[np.float32], gold: Gold) -> Floats:
    """Count what words `(n, K, rank)` under K maps tell of their trees, `(S, K, 4)`."""
    from bertft.ops import trees

    offsets, kept = gold.offsets.numpy(), gold.kept.numpy()
    if kind == "distance":
        values = gold.distances.numpy()
        return trees.score_distances(projected, offsets, values, kept, threads_now())
    return trees.score_depths(projected, offsets, gold.depths.numpy(), kept, threads_now())


def _ratio(pairs: Floats, weights: Floats | None) -> Floats:
    """The sum of the first values `(N, K, 2)` by that of the second."""
    sums = pairs.sum(0) if weights is None else np.tensordot(weights, pairs, 1)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])
