"""Edge probes: what the pieces of one or two spans say of their label."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bertft import ops
from bertft.probing.bank import Draw, Probe, Split
from bertft.probing.examples import Inputs
from bertft.probing.labels import require_finite
from bertft.probing.mixtures import MixingBank, mixture_of

HIDDEN = 256
# Of draws of 16 bits; dropout of 0.3.
KEPT = round(0.7 * 2**16)
SCALE = 2**16 / KEPT


class EdgeBank(MixingBank):
    """Edge probes (Tenney et al. 2019), on one layer or on a mixture of several.

    For each span a projection of its pieces and a mean of them by self-attention; the spans one
    after another go through `Linear, tanh, LayerNorm, dropout, Linear`. Only pieces inside spans
    are projected, and each once. The logits of the attention have no bias, which a softmax cancels.
    The gradients of all probes are one call of `ops.edge_gradient`.

    Args:
        probes, classes, exclusive, inputs, spans, mixed: as for `MixingBank`.
        symmetric: whether all spans share one projection and one attention.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        classes: int,
        exclusive: bool,
        inputs: Inputs,
        spans: int,
        mixed: bool,
        symmetric: bool = False,
    ) -> None:
        self._projections = 1 if symmetric else spans
        super().__init__(probes, classes, exclusive, inputs, spans, mixed)
        self._noise = [np.random.SFC64(probe.seed) for probe in probes]

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        # In the order of `ops.EdgeProbes`.
        drawn: dict[str, Tensor] = {}
        for s in range(self._projections):
            drawn[f"projection{s}"] = draw(HIDDEN, width, inputs=width).T.contiguous()
            drawn[f"projection{s}_bias"] = draw(HIDDEN, inputs=width)
            drawn[f"attention{s}"] = draw(HIDDEN, inputs=HIDDEN)
        size = self._spans * HIDDEN
        return drawn | {
            "hidden": draw(size, HIDDEN, inputs=size),
            "hidden_bias": draw(HIDDEN, inputs=size),
            "gain": torch.ones(HIDDEN),
            "shift": torch.zeros(HIDDEN),
            "weight": draw(HIDDEN, self.classes, inputs=HIDDEN),
            "bias": draw(self.classes, inputs=HIDDEN),
        }

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(K, C, B)` logits of a batch of targets, without dropout."""
        probes = _probes_of(self.parameters)
        out = probes.bias.new_empty(*probes.bias.shape, len(index))
        ops.edge_logits(probes, self._read(split, index)[1], out)
        return out

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        layers, spans = self._read(split, index)
        wanted = split.labels.wanted(self.probes, index)
        losses = torch.zeros_like(wanted.counted)
        gradients = {name: torch.empty_like(p) for name, p in self.parameters.items()}
        of_x = [torch.empty_like(span.x) for span in spans] if self.mixed else None
        finite = ops.edge_gradient(
            _probes_of(self.parameters),
            spans,
            wanted.targets.flatten(0, -2),
            wanted.scales,
            losses,
            _probes_of(gradients),
            kept=self._kept(len(index), losses.device),
            scale=SCALE,
            of_x=of_x,
        )
        require_finite(finite, losses)
        if of_x is not None:
            gradients["mix"], gradients["gamma"] = self._of_mixture(layers, of_x)
        return gradients

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""
        super().select(kept)
        self._noise = [self._noise[k] for k in kept.tolist()]

    def _read(self, split: Split, index: Tensor) -> tuple[list[Tensor], list[ops.SpanRows]]:
        """For each span the pieces of all layers `(L, N, d)`, and what the probes read of them."""
        every = split.inputs.pieces(split.examples, index)
        layers = [pieces.x for pieces in every]
        if self.mixed:
            factors = self._factors(self.parameters)
            rows = [mixture_of(factors, x) for x in layers]
        else:
            rows = [x[0] for x in layers]
        spans = zip(rows, every, strict=True)
        return layers, [ops.SpanRows(x, own.starts, own.stops) for x, own in spans]

    def _of_mixture(
        self, layers: Sequence[Tensor], of_x: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the weights of the layers and of their factor, from those of rows."""
        leaves = {
            name: self.parameters[name].detach().requires_grad_() for name in ("mix", "gamma")
        }
        with torch.enable_grad():
            factors = self._factors(leaves)
        of_factors = torch.zeros_like(factors)
        for x, gradient in zip(layers, of_x, strict=True):
            of_factors += gradient.flatten(1) @ x.flatten(1).T
        of_mix, of_gamma = torch.autograd.grad(factors, list(leaves.values()), of_factors)
        return of_mix, of_gamma

    def _kept(self, count: int, device: torch.device) -> Tensor:
        """Units `(K, count, H)` that dropout keeps, each probe by its own stream, as uint8."""
        kept = np.empty((len(self._noise), count, HIDDEN), np.bool_)
        for k, noise in enumerate(self._noise):
            # Four draws of 16 bits from each of the stream's 64.
            draws = np.asarray(noise.random_raw(count * HIDDEN // 4)).view(np.uint16)
            np.less(draws.reshape(count, HIDDEN), KEPT, out=kept[k])
        return torch.from_numpy(kept.view(np.uint8)).to(device)


def _probes_of(parameters: dict[str, Tensor]) -> ops.EdgeProbes:
    """What the operations see of a bank's parameters, or of their gradients."""
    own = (p for name, p in parameters.items() if name not in ("mix", "gamma"))
    return ops.EdgeProbes.of(list(own))
