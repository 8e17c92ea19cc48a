"""The families of probes by name: which bank, and how it is trained by default."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

from bertft.ops.native import kernels_only
from bertft.probing.bank import Bank, Fit, Probe, Schedule, Split, fit
from bertft.probing.edge import EdgeBank
from bertft.probing.linear import LinearBank
from bertft.probing.logistic import Optimum, solve
from bertft.probing.neural import MixedLinearBank, MlpBank

Family = Literal["linear", "mlp", "edge"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class Training:
    """How the probes of a family are trained.

    Attributes:
        family: "linear", "mlp" or "edge".
        schedule: of Adam.
        lr: its rate.
        l2: prior precision of linear probes of one layer, which are solved and need neither.
        symmetric: whether both spans of a target share projection and attention (edge).
    """

    family: Family
    schedule: Schedule
    lr: float
    l2: float = 50.0
    symmetric: bool = False

    @classmethod
    def of(cls, family: str, epochs: int | None = None, lr: float | None = None) -> "Training":
        """Return the defaults of a family, with some of them replaced.

        Raises:
            ValueError: no such family, or a setting out of range.
        """
        if family not in DEFAULTS:
            raise ValueError(
                f"[probe] probe must be one of {', '.join(FAMILIES)}, got {family!r}; pass one."
            )
        if (epochs is not None and epochs < 1) or (lr is not None and not lr > 0):
            raise ValueError(
                f"[probe] epochs and lr must be positive, got {epochs} and {lr}; leave them out "
                "for the defaults."
            )
        found = DEFAULTS[family]
        schedule = found.schedule
        if epochs is not None:
            schedule = replace(schedule, epochs=epochs, least_steps=0)
        return replace(found, schedule=schedule, lr=lr or found.lr)

    def describe(self, steps: int, *, single: bool, mixed: bool) -> dict[str, Any]:
        """Return the record of how probes are trained.

        Args:
            steps: that a pass over the training targets makes.
            single: whether there are probes of one layer.
            mixed: whether there are probes of mixtures.
        """
        record: dict[str, Any] = {"probe": self.family}
        if self.family == "linear" and single:
            record["l2"] = self.l2
        if self.family != "linear" or mixed:
            record |= {"lr": self.lr, "schedule": self.schedule.describe(steps)}
        return record

    @property
    def softmax(self) -> bool:
        """Whether labels that exclude each other share one decision, or each has its own."""
        return self.family != "edge"

    @property
    def pooled(self) -> bool:
        """Whether a probe reads a row for each span instead of one for each piece."""
        return self.family != "edge"


_TARGETS = Schedule(epochs=20, batch_size=256, unit="targets", least_steps=2000, stop_after=10)
DEFAULTS = {
    "linear": Training("linear", _TARGETS, lr=1e-3),
    "mlp": Training("mlp", _TARGETS, lr=1e-3),
    # The recipe of Tenney et al. 2019, in jiant.
    "edge": Training(
        "edge",
        Schedule(
            epochs=30, batch_size=32, unit="sentences", least_steps=3000, clip=5.0, amsgrad=True
        ),
        lr=1e-4,
    ),
}


def train_bank(
    training: Training,
    train: Split,
    dev: Split,
    probes: Sequence[Probe],
    classes: int,
    *,
    mixed: bool = False,
) -> tuple[Bank, Fit | Optimum]:
    """Train a bank of probes on one layer, or on mixtures of layers.

    Args:
        training: family and schedule.
        train: to learn from.
        dev: to tell when a probe is at its best.
        probes: what tells them apart.
        classes: number of labels.
        mixed: whether to mix the layers of the inputs.
    """
    with kernels_only():
        probes = [replace(probe, lr=training.lr) for probe in probes]
        exclusive, spans = train.labels.exclusive, train.examples.starts.shape[1]
        if training.family == "linear" and not mixed:
            width, device = spans * train.inputs.width, train.inputs.device
            bank = LinearBank(probes, classes, exclusive, width, device)
            return bank, solve(bank, train, training.l2)
        kinds: dict[Family, Callable[..., MixedLinearBank | MlpBank | EdgeBank]] = {
            "linear": MixedLinearBank,
            "mlp": MlpBank,
            "edge": partial(EdgeBank, symmetric=training.symmetric),
        }
        neural = kinds[training.family](probes, classes, exclusive, train.inputs, spans, mixed)
        return neural, fit(neural, train, dev, training.schedule)
