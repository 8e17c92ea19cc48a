"""Linear probes of one layer: all of them share one product with the features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft import ops
from bertft.probing.bank import Bank, Draw, Probe, Split
from bertft.probing.labels import require_finite


class LinearBank(Bank):
    """Linear probes, `z = W x + b` with x the features of a target's spans, one after another.

    A span of several words has the mean of its pieces. The gradients of all probes are one call of
    `ops.linear_gradient`.

    Args:
        probes: what tells them apart.
        classes: number C of labels.
        exclusive: softmax over the labels, or a sigmoid for each.
        width: number of features of a target.
        device: where these are.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        classes: int,
        exclusive: bool,
        width: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(probes, classes, exclusive)
        draws = [Draw(probe.seed) for probe in probes]
        weights = torch.stack([draw(classes, width, inputs=width) for draw in draws])
        biases = torch.stack([draw(classes, inputs=width) for draw in draws])
        self.parameters = {"weight": weights.to(device), "bias": biases.to(device)}

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(K, C, B)` logits of a batch of targets."""
        x = split.inputs.pooled(split.examples, index)[0]
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        out = x.new_empty(*bias.shape, len(x))
        ops.multiply(weight.flatten(0, 1), x.T, out.flatten(0, 1))
        return out.add_(bias[..., None])

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        x = split.inputs.pooled(split.examples, index)[0]
        wanted = split.labels.wanted(self.probes, index)
        gradients = {name: torch.empty_like(p) for name, p in self.parameters.items()}
        losses = torch.zeros_like(wanted.counted)
        finite = ops.linear_gradient(
            x,
            self.parameters["weight"].flatten(0, 1),
            self.parameters["bias"].flatten(),
            wanted.targets.flatten(0, -2),
            wanted.scales,
            losses,
            gradients["weight"].flatten(0, 1),
            gradients["bias"].flatten(),
        )
        require_finite(finite, losses)
        return gradients
