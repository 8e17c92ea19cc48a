"""What probes read: one layer, or a mixture of several with weights of their own."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.probing.bank import Bank, Draw, Probe
from bertft.probing.examples import Inputs


class MixingBank(Bank):
    """Probes on one layer or on a mixture of several.

    A mixture is `gamma * sum_l softmax(w)_l h_l`, each probe with weights of its own over its
    lowest layers; w = 0 and gamma = 1 at the start (Peters et al. 2018).

    Args:
        probes: what tells them apart.
        classes: number C of labels.
        exclusive: softmax over the labels, or a sigmoid for each.
        inputs: features that the bank will be trained on, for their number and width.
        spans: S, one or two for each target.
        mixed: whether to mix the layers of the inputs, which else have one.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        classes: int,
        exclusive: bool,
        inputs: Inputs,
        spans: int,
        mixed: bool,
    ) -> None:
        super().__init__(probes, classes, exclusive)
        if not mixed and inputs.depth != 1:
            raise ValueError(
                f"[{type(self).__name__}] inputs must have one layer, or be mixed, got "
                f"{inputs.depth}; make a bank for each layer."
            )
        self.mixed = mixed
        self._spans = spans
        drawn = [self._draw(Draw(probe.seed), inputs.width) for probe in probes]
        self.parameters = {name: torch.stack([own[name] for own in drawn]) for name in drawn[0]}
        if mixed:
            self.parameters["mix"] = torch.zeros(len(probes), inputs.depth)
            self.parameters["gamma"] = torch.ones(len(probes), 1)
        self.parameters = {name: p.to(inputs.device) for name, p in self.parameters.items()}

    @abstractmethod
    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        """The initial parameters of one probe."""

    def mix_weights(self) -> Tensor:
        """Return `(K, L)` the share that each layer has in each probe's mixture."""
        return _shares(self.parameters["mix"], self.probes)

    def _factors(self, p: dict[str, Tensor]) -> Tensor:
        """`(K, L)`, what each probe's mixture multiplies the layers by."""
        return p["gamma"] * _shares(p["mix"], self.probes)


def mixture_of(factors: Tensor, x: Tensor) -> Tensor:
    """Return `(K, N, d)`, rows `(L, N, d)` of all layers mixed by the factors of each probe."""
    return (factors @ x.flatten(1)).view(len(factors), *x.shape[1:])


def _shares(mix: Tensor, probes: Sequence[Probe]) -> Tensor:
    """Return `(K, L)`, the softmax of each probe's weights over the layers it mixes, else 0."""
    depth = mix.shape[1]
    mixed = torch.tensor([probe.mixes or depth for probe in probes], device=mix.device)
    beyond = torch.arange(depth, device=mix.device) >= mixed[:, None]
    return torch.softmax(mix.masked_fill(beyond, -torch.inf), 1)
