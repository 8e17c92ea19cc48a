"""What the probes of a task are given, and what is measured on each layer.

Owns which probes and controls are trained on which layers, and the way from trained banks to the
rows of the table. Features come from the caller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bertft.features import Layer
from bertft.probing.bank import Bank, Probe, Split
from bertft.probing.code_length import code_length
from bertft.probing.controls import control_arcs, control_labels
from bertft.probing.families import Training, train_bank
from bertft.probing.layers import center_of_gravity, expected_layer
from bertft.probing.mixtures import MixingBank
from bertft.probing.parts import Part
from bertft.probing.scores import Interval, Tally, change, intervals, resampled, tally
from bertft.probing.tasks import EdgeTask
from bertft.progress import counted

Row = dict[str, Any]
MIX, LEXICAL = "mix", "lexical"
CPU = torch.device("cpu")


def cumulative(layer: int) -> str:
    """Return the name of a mixture of layers 0..layer."""
    return f"cumulative-{layer}"


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
        single: whether there are probes of one layer.
        mixed: whether there are probes of mixtures.
        device: where the probes are trained.
    """

    task: EdgeTask
    training: Training
    train: Part
    dev: Part
    seeds: Sequence[int]
    control: bool
    measure_code: bool
    models: Sequence[str]
    single: bool
    mixed: bool
    device: torch.device = CPU

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
                cut = counted(part.targets.cut, "target")
                notes.append(f"{where}: left out: {cut} beyond the maximal length.")
            if part.rows.dropped_words:
                words = counted(part.rows.dropped_words, "word")
                lost = counted(part.targets.dropped, "target")
                more = f"; left out: {lost} of nothing else" if part.targets.dropped else ""
                notes.append(f"{where}: {words} without a token{more}.")
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
            f"{len(self.dev.examples):,} dev targets, {counted(len(self.task.labels), 'label')}; "
            f"{self.training.family} probes of {counted(len(self.models), 'model')}, "
            f"{counted(len(self.seeds), 'seed')}"
        )

    def describe(self) -> dict[str, Any]:
        """Return the record of the task for the provenance."""
        schedule = self.training.schedule
        steps = self.train.examples.steps(schedule.batch_size, schedule.unit)
        return {
            "name": self.task.name,
            "models": list(self.models),
            "fingerprint": self.task.fingerprint,
            "labels": list(self.task.labels),
            "unscored": [label for label in self.task.labels if not self.task.scores(label)],
            "exclusive": self.task.exclusive,
            "symmetric": self.training.symmetric,
            "unknown": self.task.unknown,
            **self.training.describe(steps, single=self.single, mixed=self.mixed),
            **{
                part: {
                    "sentences": len(records),
                    "targets": len(own.examples),
                    "cut": own.targets.cut,
                    "dropped_words": own.rows.dropped_words,
                    "dropped": own.targets.dropped,
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
        rows, counts, _ = self._probed({name: None}, [train], [dev])
        return rows, counts[name]

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
        depth, k = len(train), len(self.seeds)
        layers = [depth if name == MIX else int(name.partition("-")[2]) + 1 for name in names]
        rows, counts, bank = self._probed(dict(zip(names, layers, strict=True)), train, dev)
        if MIX in counts:
            assert isinstance(bank, MixingBank)
            first = k * names.index(MIX)
            shares = bank.mix_weights()[first : first + k].tolist()
            rows += self._plain(
                MIX, "center_of_gravity", [center_of_gravity(own) for own in shares]
            )
        if cumulative(depth - 1) in counts:
            scores = [counts[cumulative(layer)].micro_f1() for layer in range(depth)]
            expected = [expected_layer([own[s] for own in scores]) for s in range(k)]
            rows += self._plain(cumulative(depth - 1), "expected_layer", expected)
        return rows, counts

    @property
    def metrics(self) -> list[str]:
        """The scores of every probe."""
        return ["micro_f1", "accuracy"] if self.task.exclusive else ["micro_f1"]

    def _probed(
        self, names: Mapping[str, int | None], train: Sequence[Layer], dev: Sequence[Layer]
    ) -> tuple[list[Row], dict[str, Tally], Bank]:
        """Train, score and encode with the probes of one layer (None), or of mixtures of several.

        Args:
            names: in the rows, and how many of the layers a mixture has.
            train: features of a layer or of all that are mixed, on the training rows.
            dev: the same on dev.
        """
        probes = [Probe(seed, mixes=layers) for layers in names.values() for seed in self.seeds]
        mixed = None not in names.values()
        splits = self._splits(train, dev, softmax=self.training.softmax)
        bank, own, control = self._trained(splits, probes, mixed)
        weights = resampled(len(self.task.dev), 0)
        rows: list[Row] = []
        counts: dict[str, Tally] = {}
        for name, first in zip(names, range(0, len(probes), len(self.seeds)), strict=True):
            these = range(first, first + len(self.seeds))
            counts[name] = own.of(these)
            for metric in self.metrics:
                rows += self._rows(name, metric, intervals(counts[name], metric, weights))
            if control is not None:
                found = change(counts[name], control.of(these), "accuracy", weights)
                rows += self._rows(name, "selectivity", found)
        if self.measure_code:
            # A code gives the whole of its probability to labels that exclude each other.
            splits = self._splits(train, dev, softmax=True)
            rows += self._coded(list(names), splits, probes, mixed)
        return rows, counts, bank

    @property
    def _controlled(self) -> bool:
        return self.control and self.task.exclusive

    def _splits(
        self, train: Sequence[Layer], dev: Sequence[Layer], *, softmax: bool
    ) -> tuple[Split, Split]:
        """Targets to train and to score on; each seed has a further set of labels, its control."""
        controls: list[list[Tensor]] = [[], []]
        if self._controlled:
            types = [self.train.types, self.dev.types]
            for seed in self.seeds:
                drawn = control_labels(types, self.train.labels, seed)
                for own, labels in zip(controls, drawn, strict=True):
                    own.append(labels)
        exclusive = self.task.exclusive and softmax
        return (
            self.train.split(train, self.device, exclusive=exclusive, controls=controls[0]),
            self.dev.split(dev, self.device, exclusive=exclusive, controls=controls[1]),
        )

    def _trained(
        self, splits: tuple[Split, Split], probes: Sequence[Probe], mixed: bool
    ) -> tuple[Bank, Tally, Tally | None]:
        """A bank with these probes first, what they get right, and what their controls do."""
        controls = [replace(probe, labels=1 + self.seeds.index(probe.seed)) for probe in probes]
        if not self._controlled:
            bank = self._bank(splits, probes, mixed)
            return bank, self._tally(bank, splits[1]), None
        if self.task.has_arcs:
            bank, trees = self._bank(splits, probes, mixed), self._control_trees(splits)
            of_trees = self._bank(trees, controls, mixed)
            return bank, self._tally(bank, splits[1]), self._tally(of_trees, trees[1])
        bank, k = self._bank(splits, [*probes, *controls], mixed), len(probes)
        everything = self._tally(bank, splits[1])
        return bank, everything.of(range(k)), everything.of(range(k, 2 * k))

    def _control_trees(self, splits: tuple[Split, Split]) -> tuple[Split, Split]:
        """The same words and labels, with the arcs of control trees."""
        arcs = control_arcs(
            [self.train.types, self.dev.types], [self.train.examples, self.dev.examples]
        )
        first, second = (
            split._replace(examples=own.to(self.device))
            for split, own in zip(splits, arcs, strict=True)
        )
        return first, second

    def _bank(self, splits: tuple[Split, Split], probes: Sequence[Probe], mixed: bool) -> Bank:
        classes = len(self.task.labels)
        return train_bank(self.training, *splits, probes, classes, mixed=mixed)[0]

    def _tally(self, bank: Bank, dev: Split) -> Tally:
        schedule = self.training.schedule
        scored = torch.tensor(self.task.scored)
        size = 4 * schedule.batch_size
        return tally(bank, dev, scored, len(self.task.dev), size, schedule.unit)

    def _coded(
        self,
        names: Sequence[str],
        splits: tuple[Split, Split],
        probes: Sequence[Probe],
        mixed: bool,
    ) -> list[Row]:
        train, dev = splits
        bits, uniform = code_length(
            lambda part: self._bank((part, dev), probes, mixed),
            train,
            len(self.task.labels),
            self.training.schedule.batch_size,
            self.training.schedule.unit,
        )
        # Targets too few for a second block cost the same for all probes.
        bits = bits.expand(len(probes)).view(len(names), -1)
        n, rows = len(self.train.examples), []
        for name, own in zip(names, bits, strict=True):
            rows += self._plain(name, "code_length_bits", own.tolist(), n)
            rows += self._plain(name, "compression", (uniform / own).tolist(), n)
        return rows

    def _plain(
        self, name: str, metric: str, values: Sequence[float], n: int | None = None
    ) -> list[Row]:
        nan = float("nan")
        return self._rows(name, metric, [Interval(value, nan, nan) for value in values], n)

    def _rows(
        self, name: str, metric: str, found: Sequence[Interval], n: int | None = None
    ) -> list[Row]:
        return [
            {
                "task": self.task.name,
                "probe": self.training.family,
                "layer": name,
                "seed": seed,
                "metric": metric,
                "value": value,
                "low": low,
                "high": high,
                "n": len(self.dev.examples) if n is None else n,
            }
            for seed, (value, low, high) in zip(self.seeds, found, strict=True)
        ]
