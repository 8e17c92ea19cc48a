"""What the training loop asks of a bank, whatever its probes compute and learn from."""

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from bertft.probing.examples import Examples, Unit


class Batched(Protocol):
    """What to train or to score on, in batches of its examples."""

    @property
    def examples(self) -> Examples:
        """The targets, or words, that batches are made of."""


Given = TypeVar("Given", bound=Batched)
_Given = TypeVar("_Given", bound=Batched, contravariant=True)


class Trainable(Protocol[_Given]):
    """K probes side by side.

    Attributes:
        probes: what tells them apart (`bank.Probe`).
        parameters: tensors whose first axis is the probe.
    """

    probes: list[Any]
    parameters: dict[str, Tensor]

    def gradients(self, split: _Given, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch, for each parameter."""

    def losses(self, split: _Given, batch_size: int, unit: Unit) -> Tensor:
        """Return each probe's mean loss `(K,)` over all of a split."""

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""


def device_of(bank: Trainable[Any]) -> torch.device:
    """Return where a bank's parameters are."""
    return next(iter(bank.parameters.values())).device
