"""Linear probes of one layer: all of them share one product with the features."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft import ops
from bertft.probing.bank import Bank, Draw, Probe, Split


class LinearBank(Bank):
    """Linear probes, `z = W x + b` with x the features of a target's spans, one after another.

    A span of several words has the mean of its pieces. The gradient is written out: a product for
    the logits, their fused loss, and a product for the weights, each for all probes at once.

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
        if any(probe.layer for probe in probes):
            raise ValueError(
                f"[LinearBank] probes must read the one layer of their inputs, 0, got "
                f"{[probe.layer for probe in probes]}; make a bank for each layer."
            )
        draws = [Draw(probe.seed) for probe in probes]
        weights = torch.stack([draw(classes, width, inputs=width) for draw in draws])
        biases = torch.stack([draw(classes, inputs=width) for draw in draws])
        self.parameters = {"weight": weights.to(device), "bias": biases.to(device)}

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(B, K, C)` logits of a batch of targets."""
        return self._logits(split.inputs.pooled(split.examples, index)[0])

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        x = split.inputs.pooled(split.examples, index)[0]
        logits = self._logits(x)
        k = len(self.probes)
        losses = torch.zeros(k, dtype=torch.float64, device=x.device)
        counted = split.labels.differentiate(logits, index, self.probes, losses)
        logits.div_(counted.clamp(min=1).float()[:, None])
        flat = logits.flatten(1)
        weight = torch.empty(flat.shape[1], x.shape[1], device=x.device)
        ops.multiply(flat.T, x, weight)
        return {"weight": weight.view(k, self.classes, -1), "bias": logits.sum(0)}

    def _logits(self, x: Tensor) -> Tensor:
        weight = self.parameters["weight"].flatten(0, 1)
        out = torch.empty(len(x), len(weight), device=x.device)
        ops.multiply(x, weight.T, out)
        return out.view(len(x), -1, self.classes).add_(self.parameters["bias"])
