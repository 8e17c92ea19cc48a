"""Structural probes: a linear map under which words lie as they do in their tree.

`|B (h_i - h_j)|^2` against the arcs between two words, or `|B h_i|^2` against a word's depth
(Hewitt & Manning 2019). Owns what is trained and how; scores are for `structural_scores`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from bertft import ops
from bertft.amounts import require_integers
from bertft.ops.native import kernels_only
from bertft.probing.bank import Fit, Probe, Schedule, fit
from bertft.probing.examples import Examples, Inputs, Unit

_Value = TypeVar("_Value")
Kind = Literal["distance", "depth"]
KINDS: tuple[Kind, ...] = ("distance", "depth")
START = 0.05
SCHEDULE = Schedule(
    epochs=40,
    batch_size=20,
    unit="sentences",
    evaluate_every="epoch",
    reduce_after=1,
    factor=0.1,
    stop_after=5,
)


@dataclass(frozen=True)
class StructuralProbe(Probe):
    """One structural probe.

    Attributes:
        layer: the layer that it reads, by its place among the inputs' layers.
        kind: "distance" or "depth".
        rank: rows of its map.
    """

    lr: float = 1e-3
    layer: int = 0
    kind: Kind = "distance"
    rank: int = 64


class Sentences(NamedTuple):
    """Sentences of words with their features and their trees, to train or to score on.

    Attributes:
        inputs: the features of one or more layers, a row for each word.
        examples: the words, each a row of its own.
        gold: what the trees say of them.
    """

    inputs: Inputs
    examples: Examples
    gold: "Gold"

    @classmethod
    def of(cls, inputs: Inputs, gold: "Gold") -> "Sentences":
        """Return sentences whose words are all rows of the inputs, in order, on their device."""
        gold = gold.to(inputs.device)
        lengths = gold.offsets.diff()
        rows = torch.arange(int(lengths.sum()), device=inputs.device)[:, None]
        numbers = torch.arange(len(lengths), device=inputs.device)
        return cls(inputs, Examples(rows, rows + 1, numbers.repeat_interleave(lengths)), gold)


class Gold:
    """Distances and depths in the trees of sentences.

    Args:
        offsets: `(S + 1,)` int64, the first word of each sentence, from 0 up to N.
        distances: `(sum n^2,)` float32, a table for each sentence, one after another.
        depths: `(N,)` float32.
        kept: `(N,)` bool, words that are no punctuation.
    """

    def __init__(self, offsets: Tensor, distances: Tensor, depths: Tensor, kept: Tensor) -> None:
        self.offsets, self.distances, self.depths, self.kept = offsets, distances, depths, kept
        self._tables = torch.split(distances, offsets.diff().square().tolist())

    def to(self, device: torch.device) -> "Gold":
        """Return the same on a device."""
        parts = (self.offsets, self.distances, self.depths, self.kept)
        return Gold(*(part.to(device) for part in parts))

    def take(self, sentences: Tensor) -> "Gold":
        """Return what the trees of some sentences say."""
        lengths = self.offsets.diff()[sentences]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        rows = torch.arange(int(offsets[-1]), device=offsets.device) + (
            self.offsets[sentences] - offsets[:-1]
        ).repeat_interleave(lengths)
        tables = torch.cat([self._tables[s] for s in sentences.tolist()])
        return Gold(offsets, tables, self.depths[rows], self.kept[rows])


class StructuralBank:
    """Structural probes of any layers, ranks and kinds, trained together.

    All probes of a layer share one product with its words. Maps of a lower rank than the highest
    have rows of zeros, which stay so. Maps are of the type that the inputs are read in.

    Args:
        probes: what tells them apart; those of one kind, and in it of one layer, side by side.
        inputs: features that the bank will be trained on, for their width.

    Raises:
        ValueError: a rank that the width does not allow.
        TypeError: a rank that is no integer.
    """

    def __init__(self, probes: Sequence[StructuralProbe], inputs: Inputs) -> None:
        ranks = [probe.rank for probe in probes]
        for rank in ranks:
            require_integers("StructuralBank", rank=rank)
        if not (min(ranks) >= 1 and max(ranks) <= inputs.width):
            raise ValueError(
                f"[StructuralBank] rank must be from 1 to the {inputs.width} features of a word, "
                f"got {ranks}; pass another."
            )
        self.probes = list(probes)
        projection = torch.zeros(len(ranks), max(ranks), inputs.width)
        for k, probe in enumerate(probes):
            stream = torch.Generator().manual_seed(probe.seed)
            projection[k, : probe.rank].uniform_(-START, START, generator=stream)
        self.parameters = {"projection": projection.to(inputs.device, inputs.dtype)}

    @property
    def rank(self) -> int:
        """The highest rank."""
        return self.parameters["projection"].shape[1]

    def project(self, split: Sentences, index: Tensor) -> Tensor:
        """Return `(n, K, rank)`, some words under the map of each probe."""
        return self._project(split.inputs.rows(index)).view(len(index), -1, self.rank)

    def gradients(self, split: Sentences, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's loss, the mean over the sentences of a batch."""
        x = split.inputs.rows(index)
        projected = self._project(x)
        lost = torch.zeros(len(self.probes), dtype=torch.float64, device=x.device)
        projected /= self._differentiate(projected, split, index, lost)
        out = x.new_empty(projected.shape[1], x.shape[2])
        for layer, columns in self._columns(probe.layer for probe in self.probes):
            ops.multiply(projected[:, columns].T, x[layer], out[columns])
        return {"projection": out.view(len(self.probes), self.rank, -1)}

    def losses(self, split: Sentences, batch_size: int, unit: Unit) -> Tensor:
        """Return each probe's mean loss over all sentences `(K,)`, in arcs."""
        device = split.inputs.device
        lost = torch.zeros(len(self.probes), dtype=torch.float64, device=device)
        sentences = 0
        for index in split.examples.batches(batch_size, unit, None):
            projected = self._project(split.inputs.rows(index))
            sentences += self._differentiate(projected, split, index, lost)
        return lost / sentences

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""
        self.probes = [self.probes[k] for k in kept.tolist()]
        self.parameters = {name: p[kept] for name, p in self.parameters.items()}

    def _project(self, x: Tensor) -> Tensor:
        """`(n, K * rank)`: rows `(L, n, d)` under all maps, side by side."""
        maps = self.parameters["projection"].flatten(0, 1)
        out = x.new_empty(x.shape[1], len(maps))
        for layer, columns in self._columns(probe.layer for probe in self.probes):
            ops.multiply(x[layer], maps[columns].T, out[:, columns])
        return out

    def _differentiate(
        self, projected: Tensor, split: Sentences, index: Tensor, lost: Tensor
    ) -> int:
        """Turn projected words of whole sentences into gradients, and return how many these are."""
        sentences = torch.unique_consecutive(split.examples.sentence[index])
        gold = split.gold.take(sentences)
        finite = True
        for kind, columns in self._columns(probe.kind for probe in self.probes):
            own = lost[columns.start // self.rank : columns.stop // self.rank]
            part = projected[:, columns]
            if kind == "distance":
                finite &= ops.distance_gradient(part, gold.offsets, gold.distances, own)
            else:
                finite &= ops.depth_gradient(part, gold.offsets, gold.depths, own)
        if not finite:
            raise ValueError(
                f"[probe] losses must be finite, got {lost.tolist()}; lower lr, or check the "
                "features."
            )
        return len(sentences)

    def _columns(self, values: Iterable[_Value]) -> Iterator[tuple[_Value, slice]]:
        """The columns of each run of probes that have a value in common."""
        first = 0
        for value, run in groupby(values):
            last = first + self.rank * len(list(run))
            yield value, slice(first, last)
            first = last


def train_structural(
    probes: Sequence[StructuralProbe],
    train: Sentences,
    dev: Sentences,
    schedule: Schedule = SCHEDULE,
) -> tuple[StructuralBank, Fit]:
    """Train structural probes together.

    Args:
        probes: what tells them apart; see `StructuralBank`.
        train: to learn from.
        dev: to tell when a probe is at its best.
        schedule: by default that of Hewitt & Manning.

    Raises:
        ValueError: a rank above the width, or a loss that is not finite.
    """
    with kernels_only():
        bank = StructuralBank(probes, train.inputs)
        return bank, fit(bank, train, dev, schedule)
