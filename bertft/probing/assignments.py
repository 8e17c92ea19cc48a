"""What the probes of a task are given, and what is measured on each layer.

Owns the way from a task's records to targets, labels and controls, and from trained banks to
scores. Features come from the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bertft.corpora.edges import Record
from bertft.features import Layer
from bertft.probing.bank import Bank, Probe, Split
from bertft.probing.code_length import code_length
from bertft.probing.controls import control_labels, word_types
from bertft.probing.examples import Examples, Inputs
from bertft.probing.families import Training, train_bank
from bertft.probing.labels import Labels
from bertft.probing.layers import center_of_gravity, expected_layer
from bertft.probing.neural import NeuralBank
from bertft.probing.scores import Interval, Tally, change, intervals, resampled, tally
from bertft.probing.spans import Targets, span_rows
from bertft.probing.tasks import EdgeTask
from bertft.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
MIX, LEXICAL = "mix", "lexical"


def cumulative(layer: int) -> str:
    """Return the name of a mixture of layers 0..layer."""
    return f"cumulative-{layer}"


@dataclass(frozen=True, eq=False)
class Part:
    """A split of a task in the rows of one tokenizer: what to capture, and what it is for."""

    rows: Rows
    targets: Targets
    examples: Examples
    labels: Tensor
    unknown: Tensor
    types: list[str]

    @classmethod
    def of(
        cls,
        task: EdgeTask,
        records: Sequence[Record],
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int | None,
        pooled: bool,
    ) -> "Part":
        """Find the pieces of a split's spans, and its labels."""
        rows, targets = span_rows(records, tokenizer, max_length, pooled)
        number = {label: c for c, label in enumerate(task.labels)}
        everything = [target for record in records for target in record.targets]
        labels = torch.zeros(len(targets.kept), len(number), dtype=torch.uint8)
        unknown = torch.zeros(len(targets.kept), dtype=torch.int64)
        for t, kept in enumerate(targets.kept.tolist()):
            for label in everything[kept].labels:
                if label in number:
                    labels[t, number[label]] = 1
                else:
                    unknown[t] += task.scores(label)
        examples = Examples(
            *(torch.from_numpy(a) for a in (targets.starts, targets.stops, targets.sentence))
        )
        types = word_types(records, targets.kept.tolist())
        return cls(rows, targets, examples, labels, unknown, types)


@dataclass(frozen=True, eq=False)
class Assignment:
    """A task as it is set to the probes of the models with one tokenizer.

    Attributes:
        task: the task.
        training: family and schedule of the probes.
        train: to learn from.
        dev: to score on.
        seeds: of the probes.
        control: whether each seed has a control task too.
        measure_code: whether to measure the online code length.
        models: names of the models.
    """

    task: EdgeTask
    training: Training
    train: Part
    dev: Part
    seeds: Sequence[int]
    control: bool
    measure_code: bool
    models: Sequence[str]

    @property
    def row_kind(self) -> str:
        """What a row of features is of."""
        return "spans" if self.training.pooled else "pieces"

    @property
    def notes(self) -> list[str]:
        """What the user should know of the targets that are not there."""
        notes = []
        for name, part in (("train", self.train), ("dev", self.dev)):
            where = f"{self.task.name}, {name}"
            if part.targets.cut:
                notes.append(
                    f"{where}: {part.targets.cut} targets reach beyond the maximal length and were "
                    "left out."
                )
            if part.targets.dropped_words:
                notes.append(
                    f"{where}: {part.targets.dropped_words} targets have a span without a token "
                    "and were left out."
                )
        if self.task.unknown:
            notes.append(
                f"{self.task.name}, dev: labels that training lacks count as missed: "
                + ", ".join(f"{label} ({n})" for label, n in self.task.unknown.items())
            )
        gone = self.train.labels.sum(0) == 0
        if gone.any():
            held_out = self.dev.labels.sum(0).tolist()
            notes.append(
                f"{self.task.name}: labels whose training targets were all left out, how often "
                "they are held out: "
                + ", ".join(
                    f"{self.task.labels[c]} ({held_out[c]})" for c in gone.nonzero()[:, 0].tolist()
                )
            )
        if self.control and not self.task.exclusive:
            notes.append(
                f"{self.task.name}: no selectivity, which wants one label for each target."
            )
        return notes

    @property
    def plan(self) -> str:
        """Return the line that is printed before the pass."""
        return (
            f"{self.task.name}: {len(self.train.examples):,} training and "
            f"{len(self.dev.examples):,} dev targets, {len(self.task.labels)} labels; "
            f"{self.training.family} probes of {len(self.models)} models, {len(self.seeds)} seeds"
        )

    def describe(self) -> dict[str, Any]:
        """Return the record of the task for the provenance."""
        return {
            "name": self.task.name,
            "models": list(self.models),
            "fingerprint": self.task.fingerprint,
            "labels": list(self.task.labels),
            "unscored": [label for label in self.task.labels if not self.task.scores(label)],
            "exclusive": self.task.exclusive,
            "unknown": self.task.unknown,
            **{
                part: {
                    "sentences": len(records),
                    "targets": len(own.examples),
                    "cut": own.targets.cut,
                    "dropped_words": own.targets.dropped_words,
                }
                for part, records, own in (
                    ("train", self.task.train, self.train),
                    ("dev", self.task.dev, self.dev),
                )
            },
        }

    def probe_layer(self, name: str, train: Layer, dev: Layer) -> tuple[list[Row], Tally]:
        """Train and score the probes of one layer, with their controls.

        Args:
            name: of the layer, in the rows.
            train: `(n, d)` its features on the training rows.
            dev: the same on dev.
        """
        layers = [train], [dev]
        split = self._splits(*layers, softmax=self.training.softmax)
        bank = self._bank(split, self._probes(controls=True))
        rows, counts = self._scored(name, bank, split[1])
        if self.measure_code:
            # A code gives the whole of its probability to labels that exclude each other.
            rows += self._coded(name, self._splits(*layers, softmax=True))
        return rows, counts

    def probe_mixtures(
        self,
        names: Sequence[str],
        train: Sequence[Layer],
        dev: Sequence[Layer],
    ) -> tuple[list[Row], dict[str, Tally]]:
        """Train and score probes on the mixture of all layers, or of all layers up to each one.

        Args:
            names: "mix", or "cumulative-0" to "cumulative-L", or both.
            train: features of layers 0..L on the training rows.
            dev: the same on dev.
        """
        split = self._splits(train, dev, softmax=self.training.softmax)
        depth = len(train)
        layers = [depth if name == MIX else int(name.partition("-")[2]) + 1 for name in names]
        probes = [Probe(seed, mixes=count) for count in layers for seed in self.seeds]
        bank = self._bank(split, probes, mixed=True)
        assert isinstance(bank, NeuralBank)
        shares = bank.mix_weights()
        rows, counts = [], {}
        everything = self._tally(bank, split[1])
        for i, name in enumerate(names):
            own = everything.of(range(i * len(self.seeds), (i + 1) * len(self.seeds)))
            rows += self._rows(name, own)
            counts[name] = own
            if name == MIX:
                first = i * len(self.seeds)
                gravity = [center_of_gravity(own) for own in shares[first:].tolist()]
                rows += self._plain(name, "center_of_gravity", gravity[: len(self.seeds)])
        if cumulative(depth - 1) in counts:
            scores = [counts[cumulative(layer)].score(self.headline) for layer in range(depth)]
            expected = [expected_layer([own[s] for own in scores]) for s in range(len(self.seeds))]
            rows += self._plain(cumulative(depth - 1), "expected_layer", expected)
        return rows, counts

    @property
    def headline(self) -> str:
        """The metric that statistics over layers are taken of."""
        return "micro_f1"

    @property
    def metrics(self) -> list[str]:
        """The scores of every probe."""
        return ["micro_f1", "accuracy"] if self.task.exclusive else ["micro_f1"]

    def _splits(
        self, train: Sequence[Layer], dev: Sequence[Layer], *, softmax: bool
    ) -> tuple[Split, Split]:
        types = [self.train.types, self.dev.types]
        sets = [[self.train.labels], [self.dev.labels]]
        if self.control and self.task.exclusive:
            for seed in self.seeds:
                drawn = control_labels(types, self.train.labels, seed)
                for own, labels in zip(sets, drawn, strict=True):
                    own.append(labels)
        exclusive = self.task.exclusive and softmax
        parts = zip((train, dev), (self.train, self.dev), sets, strict=True)
        first, second = (
            Split(Inputs(layers), part.examples, Labels(own, exclusive, part.unknown))
            for layers, part, own in parts
        )
        return first, second

    def _probes(self, *, controls: bool) -> list[Probe]:
        probes = [Probe(seed) for seed in self.seeds]
        if controls and self.control and self.task.exclusive:
            probes += [Probe(seed, labels=1 + i) for i, seed in enumerate(self.seeds)]
        return probes

    def _bank(
        self,
        split: tuple[Split, Split],
        probes: Sequence[Probe],
        *,
        mixed: bool = False,
    ) -> Bank:
        classes = len(self.task.labels)
        return train_bank(self.training, *split, probes, classes, mixed=mixed)[0]

    def _tally(self, bank: Bank, dev: Split) -> Tally:
        schedule = self.training.schedule
        scored = torch.tensor(self.task.scored)
        size = 4 * schedule.batch_size
        return tally(bank, dev, scored, len(self.task.dev), size, schedule.unit)

    def _scored(self, name: str, bank: Bank, dev: Split) -> tuple[list[Row], Tally]:
        everything, k = self._tally(bank, dev), len(self.seeds)
        own = everything.of(range(k))
        rows = self._rows(name, own)
        if len(bank.probes) > k:
            weights = resampled(len(own.counts), 0)
            control = everything.of(range(k, 2 * k))
            found = change(own, control, "accuracy", weights)
            rows += [self._row(name, s, "selectivity", *found[s]) for s in range(k)]
        return rows, own

    def _coded(self, name: str, split: tuple[Split, Split]) -> list[Row]:
        bits, uniform = code_length(
            lambda part: self._bank((part, split[1]), self._probes(controls=False)),
            split[0],
            len(self.task.labels),
            self.training.schedule.batch_size,
            self.training.schedule.unit,
        )
        n = len(split[0].examples)
        # Targets too few for a second block cost the same for all probes.
        bits = bits.expand(len(self.seeds))
        return self._plain(name, "code_length_bits", bits.tolist(), n) + self._plain(
            name, "compression", (uniform / bits).tolist(), n
        )

    def _rows(self, name: str, own: Tally) -> list[Row]:
        weights = resampled(len(own.counts), 0)
        return [
            self._row(name, s, metric, *interval)
            for metric in self.metrics
            for s, interval in enumerate(intervals(own, metric, weights))
        ]

    def _plain(
        self, name: str, metric: str, values: Sequence[float], n: int | None = None
    ) -> list[Row]:
        nan = float("nan")
        return [
            self._row(name, s, metric, *Interval(value, nan, nan), n=n)
            for s, value in enumerate(values)
        ]

    def _row(
        self, layer: str, s: int, metric: str, value: float, low: float, high: float, n: Any = None
    ) -> Row:
        return {
            "task": self.task.name,
            "probe": self.training.family,
            "layer": layer,
            "seed": self.seeds[s],
            "metric": metric,
            "value": value,
            "low": low,
            "high": high,
            "n": len(self.dev.examples) if n is None else n,
        }
