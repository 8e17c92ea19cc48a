"""The bank: many probes trained in lockstep on the same batches, each as if it were alone.

Owns the loop, the optimizer and the rules by which a probe's rate falls, its best weights are
kept and it stops. What a probe computes is for the families (`linear`, `neural`, `edge`,
`structural`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bertft import ops
from bertft.probing.examples import Examples, Inputs, Unit
from bertft.probing.labels import Labels
from bertft.probing.trainable import Given, Trainable, device_of

EVERY = (1000, 500, 100)
BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Probe:
    """One probe of a bank.

    Attributes:
        seed: of its initial weights and its dropout.
        lr: learning rate.
        weight_decay: decoupled from the gradient (AdamW).
        labels: which of the bank's sets of labels it learns.
        mixes: how many of the inputs' layers, from the lowest, a mixture has; None for all of them.
    """

    seed: int = 0
    lr: float = 1e-4
    weight_decay: float = 0.0
    labels: int = 0
    mixes: int | None = None


@dataclass(frozen=True)
class Schedule:
    """How a bank is trained; the order of batches is the same for all probes.

    Attributes:
        epochs: most passes over the training targets, unless they make too few steps.
        least_steps: passes go on until so many steps are made.
        batch_size: targets or sentences of a batch.
        unit: what `batch_size` counts.
        evaluate_every: steps between two evaluations on dev, or "epoch"; None for the largest of
            1000, 500 and 100 that is no more than an epoch (100 where an epoch is shorter).
        reduce_after: evaluations without gain after which a probe's rate is reduced.
        factor: what the rate is multiplied by then.
        stop_after: evaluations without gain after which a probe stops.
        clip: most that the norm of a probe's gradient may be; None for no bound.
        amsgrad: whether Adam keeps the largest second moment.
        order_seed: of the order of batches.
    """

    epochs: int
    batch_size: int
    unit: Unit
    least_steps: int = 0
    evaluate_every: int | Literal["epoch"] | None = None
    reduce_after: int = 5
    factor: float = 0.5
    stop_after: int = 20
    clip: float | None = None
    amsgrad: bool = False
    order_seed: int = 0

    def passes(self, steps: int) -> int:
        """Return the most passes over training targets that make so many steps each."""
        return max(self.epochs, math.ceil(self.least_steps / steps))

    def interval(self, steps: int) -> int:
        """Return the steps between two evaluations where a pass makes so many."""
        if self.evaluate_every == "epoch":
            return steps
        return self.evaluate_every or next((e for e in EVERY if e <= steps), EVERY[-1])

    def describe(self, steps: int) -> dict[str, Any]:
        """Return the record of what this comes to where a pass makes so many steps."""
        return vars(self) | {"epochs": self.passes(steps), "evaluate_every": self.interval(steps)}


@dataclass(frozen=True)
class Fit:
    """How the training of each of K probes went.

    Attributes:
        loss: `(K,)` float64, the lowest mean loss on dev.
        steps: `(K,)` int64, steps until it was reached.
        stopped: `(K,)` bool, whether the probe stopped before the last epoch was over.
    """

    loss: Tensor
    steps: Tensor
    stopped: Tensor


class Bank(ABC):
    """K probes of one family on the same inputs.

    A family sets `parameters`, tensors whose first axis is the probe, and computes logits and
    gradients for those probes that are still in training.

    Args:
        probes: what tells them apart.
        classes: number C of labels, the same for all of them.
        exclusive: whether a target has exactly one label (softmax); otherwise each label is a
            decision of its own (sigmoid).
    """

    parameters: dict[str, Tensor]

    def __init__(self, probes: Sequence[Probe], classes: int, exclusive: bool) -> None:
        self.probes = list(probes)
        self.classes = classes
        self.exclusive = exclusive

    @abstractmethod
    def logits(self, split: "Split", index: Tensor) -> Tensor:
        """Return `(K, C, B)` logits of a batch of targets, contiguous and without dropout."""

    @abstractmethod
    def gradients(self, split: "Split", index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch, for each parameter."""

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""
        self.probes = [self.probes[k] for k in kept.tolist()]
        self.parameters = {name: p[kept] for name, p in self.parameters.items()}

    def losses(self, split: "Split", batch_size: int, unit: Unit) -> Tensor:
        """Return each probe's mean loss over all targets `(K,)`, in nats a target (and label)."""
        total = torch.zeros(len(self.probes), dtype=torch.float64, device=split.inputs.device)
        counted = torch.zeros_like(total)
        with torch.no_grad():
            for index in split.examples.batches(batch_size, unit, None):
                wanted = split.labels.wanted(self.probes, index)
                wanted.differentiate(self.logits(split, index), total)
                counted += wanted.counted
        if not counted.all():
            raise ValueError(
                f"[probe] dev must have a target with a label that training has, got "
                f"{counted.int().tolist()} for the probes; pass other sentences."
            )
        return total / counted


class Draw:
    """Initial parameters of one probe, from a random stream of its own."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, inputs: int) -> Tensor:
        """Draw weights or biases as torch draws those of a linear layer with so many inputs."""
        bound = inputs**-0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=self._generator)


class Split(NamedTuple):
    """Targets with their features and their labels, to train or to score on: on one device."""

    inputs: Inputs
    examples: Examples
    labels: Labels

    def take(self, index: Tensor) -> "Split":
        """Return some of the targets, given by rising numbers."""
        return Split(self.inputs, self.examples.take(index), self.labels.take(index))


def fit(bank: Trainable[Given], train: Given, dev: Given, schedule: Schedule) -> Fit:
    """Train a bank with Adam, and leave it with the weights of each probe that were best on dev.

    A probe's result does not depend, beyond rounding, on the others in its bank.

    Args:
        bank: freshly made.
        train: to learn from.
        dev: to tell when a probe is at its best.
        schedule: how to train.

    Raises:
        ValueError: a loss that is not finite.
    """
    size, unit = schedule.batch_size, schedule.unit
    an_epoch = train.examples.steps(size, unit)
    every, epochs = schedule.interval(an_epoch), schedule.passes(an_epoch)
    order = torch.Generator().manual_seed(schedule.order_seed)
    adam, best = _Adam(bank, schedule), _Best(bank)
    passes = (train.examples.batches(size, unit, order) for _ in range(epochs))
    for step, index in enumerate(chain.from_iterable(passes), start=1):
        adam.step(bank.gradients(train, index), step)
        if step % every and step != epochs * an_epoch:
            continue
        best.update(bank.losses(dev, 4 * size, unit), step)
        adam.rates[(best.idle > 0) & (best.idle % schedule.reduce_after == 0)] *= schedule.factor
        going = best.idle < schedule.stop_after
        if not going.all():
            kept = going.nonzero()[:, 0]
            for part in (bank, adam, best):
                part.select(kept)
        if not bank.probes:
            break
    return best.restore()


class _Adam:
    """Adam over the parameters of a bank, each probe with its own rate."""

    def __init__(self, bank: Trainable[Any], schedule: Schedule) -> None:
        self._bank = bank
        self._clip = schedule.clip
        rates = [[probe.lr for probe in bank.probes], [probe.weight_decay for probe in bank.probes]]
        self.rates, own = torch.tensor(rates, device=device_of(bank))
        # Of weights, and not of biases.
        self._decays = torch.stack([own * (p.dim() > 2) for p in bank.parameters.values()])
        zeros = [torch.zeros_like(p.flatten(1)) for p in bank.parameters.values()]
        self._first, self._second = zeros, [p.clone() for p in zeros]
        self._largest = [p.clone() for p in zeros] if schedule.amsgrad else None

    def step(self, gradients: dict[str, Tensor], number: int) -> None:
        ops.adam(
            [p.flatten(1) for p in self._bank.parameters.values()],
            [gradients[name].flatten(1) for name in self._bank.parameters],
            self._first,
            self._second,
            self._largest,
            self.rates,
            self._decays,
            number,
            betas=BETAS,
            epsilon=EPSILON,
            clip=self._clip,
        )

    def select(self, kept: Tensor) -> None:
        self.rates, self._decays = self.rates[kept], self._decays[:, kept]
        for moments in (self._first, self._second, self._largest or []):
            moments[:] = [p[kept] for p in moments]


class _Best:
    """The best weights of each probe so far, and evaluations since then."""

    def __init__(self, bank: Trainable[Any]) -> None:
        self._bank = bank
        self._probes = bank.probes
        self._alive = torch.arange(len(bank.probes), device=device_of(bank))
        self._parameters = {name: p.clone() for name, p in bank.parameters.items()}
        self._loss = torch.full_like(self._alive, torch.inf, dtype=torch.float64)
        self._steps = torch.zeros_like(self._alive)
        self.idle = torch.zeros_like(self._alive)

    def update(self, loss: Tensor, step: int) -> None:
        gained = loss < self._loss[self._alive]
        winners = self._alive[gained]
        self._loss[winners], self._steps[winners] = loss[gained], step
        for name, p in self._bank.parameters.items():
            self._parameters[name][winners] = p[gained]
        self.idle = torch.where(gained, 0, self.idle + 1)

    def select(self, kept: Tensor) -> None:
        self._alive, self.idle = self._alive[kept], self.idle[kept]

    def restore(self) -> Fit:
        stopped = torch.ones_like(self._loss, dtype=torch.bool)
        stopped[self._alive] = False
        self._bank.probes, self._bank.parameters = self._probes, self._parameters
        return Fit(self._loss, self._steps, stopped)
