"""A treebank set to the structural probes of models, and what is measured of each layer.

Owns the way from features, which come from the caller, to a trained bank and its scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from bertft.amounts import require_integers
from bertft.corpora.conllu import Tree
from bertft.features import Layer
from bertft.ops.native import kernels_only
from bertft.probing.assignments import CPU, Row
from bertft.probing.bank import Schedule
from bertft.probing.examples import Inputs
from bertft.probing.scores import Floats, intervals, resampled
from bertft.probing.structural import (
    KINDS,
    SCHEDULE,
    Kind,
    Sentences,
    StructuralBank,
    StructuralProbe,
    train_structural,
)
from bertft.probing.structural_parts import StructuralPart
from bertft.probing.structural_scores import METRICS, StructuralTally, count, tally_structure
from bertft.probing.structural_tasks import StructuralTask
from bertft.progress import counted

CHAIN = "chain"
PICTURED_WORDS = 11
Tallies = dict[tuple[str, str], StructuralTally]


class Structure(NamedTuple):
    """What structural probes found in the layers of a model.

    Attributes:
        rows: of the table.
        tallies: counts by kind of probe and layer.
        notes: what the user should know.
        picture: the distances of one sentence by the probe of the best layer, as JSON types; None
            where there is no sentence to draw.
        uuas: of that probe.
    """

    rows: list[Row]
    tallies: Tallies
    notes: list[str]
    picture: dict[str, Any] | None
    uuas: float


@dataclass(frozen=True)
class StructuralTraining:
    """How structural probes are trained.

    Attributes:
        rank: of their maps.
        schedule: of Adam.
        lr: its first rate.
    """

    rank: int
    schedule: Schedule
    lr: float

    @classmethod
    def of(
        cls, rank: int = StructuralProbe.rank, epochs: int | None = None, lr: float | None = None
    ) -> "StructuralTraining":
        """Return the recipe of Hewitt & Manning, with some of it replaced.

        Raises:
            ValueError: a rank below 1.
            TypeError: a rank or epochs that are no integers.
        """
        require_integers("probe", rank=rank, epochs=epochs)
        if rank < 1:
            raise ValueError(f"[probe] rank must be at least 1, got {rank}; pass such as 64.")
        schedule = SCHEDULE if epochs is None else replace(SCHEDULE, epochs=epochs)
        return cls(rank, schedule, lr or StructuralProbe.lr)


def nearest_sentence(trees: Sequence[Tree], numbers: Sequence[int]) -> int | None:
    """Return which of some sentences to draw: the first that is nearest to 11 words, if any."""
    return min(numbers, key=lambda s: abs(len(trees[s].words) - PICTURED_WORDS), default=None)


@dataclass(frozen=True, eq=False)
class StructuralAssignment:
    """A treebank as it is set to the structural probes of the models with one tokenizer.

    Attributes:
        task: the treebank.
        training: rank and schedule.
        train: to learn from.
        dev: to score on.
        seeds: of the probes.
        models: names of the models.
        pictured: number of the dev sentence to draw; None where the models have none in common.
        skipped: what was asked for and is for probes of labels only.
        device: where the probes are trained.
    """

    task: StructuralTask
    training: StructuralTraining
    train: StructuralPart
    dev: StructuralPart
    seeds: Sequence[int]
    models: Sequence[str]
    pictured: int | None
    skipped: Sequence[str] = ()
    device: torch.device = CPU
    row_kind = "words"

    @property
    def notes(self) -> list[str]:
        """What the user should know of sentences that are left out, or that scores lack."""
        notes = [
            f"{self.task.name}: no {what}, only for probes of labels." for what in self.skipped
        ]
        for name, part in (("train", self.train), ("dev", self.dev)):
            reasons = {"longer than the maximal length": part.cut}
            reasons["with a word without a token"] = part.dropped_words
            notes += [
                f"{self.task.name}, {name}: left out: {counted(n, 'sentence')} {reason}."
                for reason, n in reasons.items()
                if n
            ]
        notes += [
            f"{self.task.name}: no {scores}, for no dev sentence has {what}."
            for scores, what in self.dev.lacking
        ]
        if self.pictured is None:
            notes.append(
                f"{self.task.name}: no picture, for no dev sentence is kept for all models."
            )
        return notes

    @property
    def plan(self) -> str:
        """Return the line that is printed before the pass."""
        whose = f"{counted(len(self.models), 'model')}, {counted(len(self.seeds), 'seed')}"
        return (
            f"{self.task.name}: {len(self.train.kept):,} training and {len(self.dev.kept):,} dev "
            f"sentences of {self.train.rows.n:,} and {self.dev.rows.n:,} words; probes of rank "
            f"{self.training.rank} of {whose}"
        )

    def describe(self) -> dict[str, Any]:
        """Return the record of the task for the provenance."""
        schedule = self.training.schedule
        steps = -(-len(self.train.kept) // schedule.batch_size)
        return {
            "name": self.task.name,
            "models": list(self.models),
            "fingerprint": self.task.fingerprint,
            "punctuation": self.task.punctuation,
            "probe": list(KINDS),
            "rank": self.training.rank,
            "lr": self.training.lr,
            "schedule": schedule.describe(steps),
            **{
                name: {
                    "sentences": len(part.words),
                    "words": part.rows.n,
                    "cut": part.cut,
                    "dropped_words": part.dropped_words,
                }
                for name, part in (("train", self.train), ("dev", self.dev))
            },
        }

    def probe_layers(
        self, layers: Mapping[str, int], train: Sequence[Layer], dev: Sequence[Layer]
    ) -> Structure:
        """Train and score the probes of all layers together.

        Args:
            layers: for each name in the rows, the place of its layer among the features.
            train: `(n, d)` features of layers on the words of training sentences.
            dev: the same on dev.
        """
        places = sorted(set(layers.values()))
        training = self.training
        probes = [
            StructuralProbe(seed, training.lr, layer=place, kind=kind, rank=training.rank)
            for kind in KINDS
            for place in places
            for seed in self.seeds
        ]
        held_out = Sentences.of(Inputs(dev, device=self.device), self.dev.gold)
        learned = Sentences.of(Inputs(train, device=self.device), self.train.gold)
        bank, _ = train_structural(probes, learned, held_out, training.schedule)
        with kernels_only():
            counts = tally_structure(bank, held_out, 4 * training.schedule.batch_size)
        everything = self._tally(counts)
        rows: list[Row] = []
        tallies: Tallies = {}
        for kind in KINDS:
            for name, place in layers.items():
                own = everything.of(
                    [k for k, p in enumerate(probes) if (p.kind, p.layer) == (kind, place)]
                )
                tallies[kind, name] = own
                rows += self._rows(kind, name, own)
        undefined = {
            kind: everything.of([k for k, p in enumerate(probes) if p.kind == kind]).undefined(
                METRICS[kind][1]
            )
            for kind in KINDS
        }
        told = [
            f"{self.task.name}: {n} rank correlations of {kind} probes have no value, since all "
            "words of a sentence are in one place, and are in no mean."
            for kind, n in undefined.items()
            if n
        ]
        best = max(layers, key=lambda name: tallies["distance", name].score("uuas")[0])
        found = next(k for k, p in enumerate(probes) if p.layer == layers[best])
        picture = None
        if self.pictured is not None:
            picture = self._picture(self.pictured, held_out, bank, found) | {"layer": best}
        uuas = float(tallies["distance", best].score("uuas")[0])
        return Structure(rows, tallies, told, picture, uuas)

    def _picture(
        self, sentence: int, dev: Sentences, bank: StructuralBank, k: int
    ) -> dict[str, Any]:
        """The distances of a dev sentence by one probe."""
        from bertft.ops.trees import spanning_trees, squared_distances

        tree = self.task.dev[sentence]
        s, n = int(self.dev.kept.searchsorted(sentence)), len(tree.words)
        first = int(self.dev.gold.offsets[s])
        gold = self.dev.gold.take(torch.tensor([s]))
        words = torch.arange(first, first + n, device=dev.inputs.device)
        points = bank.project(dev, words)[:, k].cpu()
        tables = {
            "gold": gold.distances.numpy(),
            "predicted": squared_distances(points.numpy()).ravel(),
        }
        kept = gold.kept.numpy()
        picture: dict[str, Any] = {
            "words": list(tree.words),
            "kept": kept.tolist(),
        }
        for name, table in tables.items():
            parents = spanning_trees(table, [0, n], kept).tolist()
            picture[name] = table.reshape(n, n).round(3).tolist()
            picture[f"{name}_edges"] = [[up, i] for i, up in enumerate(parents) if up >= 0]
        return picture

    def chain(self) -> list[Row]:
        """Score the linear chain: words as far apart as in the sentence, and deeper one by one."""
        lengths = self.dev.words[self.dev.kept]
        place = np.concatenate([np.arange(n) for n in lengths]).astype(np.float32)
        rows: list[Row] = []
        for kind in KINDS:
            own = self._tally(count(kind, place[:, None, None], self.dev.gold))
            rows += self._rows(kind, CHAIN, own.of([0] * len(self.seeds)))
        return rows

    def _tally(self, counts: Floats) -> StructuralTally:
        """Counts with a place for the sentences that are left out."""
        everything = np.zeros((len(self.dev.words), *counts.shape[1:]))
        everything[self.dev.kept] = counts
        return StructuralTally(everything, self.dev.words)

    def _rows(self, kind: Kind, layer: str, own: StructuralTally) -> list[Row]:
        weights = resampled(len(own.counts), 0)
        found = (
            (metric, *of_seed)
            for metric in METRICS[kind]
            for of_seed in zip(
                self.seeds, intervals(own, metric, weights), own.numbers(metric), strict=True
            )
        )
        return [
            {
                "task": self.task.name,
                "probe": kind,
                "layer": layer,
                "seed": seed,
                "metric": metric,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n": int(number),
            }
            for metric, seed, interval, number in found
        ]
