"""Probes with hidden units, or on a mixture of layers: MLP, edge and mixed linear probes.

Owns their forward passes, batched over the probes of a bank; torch derives the gradients. Probes
of one layer share the product of its features with all their first weights.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bertft import ops
from bertft.probing.bank import Bank, Draw, Probe, Split
from bertft.probing.examples import Inputs, Pieces

HIDDEN = 256
DROPOUT = 0.3


class NeuralBank(Bank):
    """Probes whose gradients torch derives, on one layer or on a mixture of several.

    A mixture is `gamma * sum_l softmax(w)_l h_l`, each probe with weights of its own over its
    lowest layers; w = 0 and gamma = 1 at the start (methods: Peters et al. 2018).

    Args:
        probes: what tells them apart.
        classes: number C of labels.
        exclusive: softmax over the labels, or a sigmoid for each.
        inputs: features that the bank will be trained on, for their number and width.
        spans: S, one or two for each target.
        mixed: whether to mix the layers, which single-layer probes do not.
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
        self.mixed = mixed
        self._spans = spans
        self._noise = [np.random.Generator(np.random.SFC64(probe.seed)) for probe in probes]
        drawn = [self._draw(Draw(probe.seed), inputs.width) for probe in probes]
        self.parameters = {name: torch.stack([own[name] for own in drawn]) for name in drawn[0]}
        if mixed:
            k = len(probes)
            self._outside = torch.stack([_beyond(probe, inputs.depth) for probe in probes])
            self.parameters["mix"] = torch.zeros(k, inputs.depth)
            self.parameters["gamma"] = torch.ones(k, 1)
        self.parameters = {name: p.to(inputs.device) for name, p in self.parameters.items()}

    @abstractmethod
    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        """The initial parameters of one probe."""

    @abstractmethod
    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        """Logits `(B, K, C)`."""

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(B, K, C)` logits of a batch of targets, without dropout."""
        with torch.no_grad():
            return self._forward(self.parameters, split, index, False).contiguous()

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
        with torch.enable_grad():
            logits = self._forward(leaves, split, index, True)
        gradient = logits.detach().clone(memory_format=torch.contiguous_format)
        losses = torch.zeros(len(self.probes), dtype=torch.float64)
        counted = split.labels.differentiate(gradient, index, self.probes, losses)
        gradient.div_(counted.clamp(min=1).float().to(gradient.device)[:, None])
        found = torch.autograd.grad(logits, list(leaves.values()), gradient)
        return {name: g.contiguous() for name, g in zip(leaves, found, strict=True)}

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""
        super().select(kept)
        self._noise = [self._noise[k] for k in kept.tolist()]
        if self.mixed:
            self._outside = self._outside[kept]

    def mix_weights(self) -> Tensor:
        """Return `(K, L)` the share that each layer has in each probe's mixture."""
        return _shares(self.parameters["mix"], self._outside)

    def _project(self, p: dict[str, Tensor], x: Tensor, weight: Tensor) -> Tensor:
        """`(N, K, H)`: rows `(L, N, d)`, mixed or those of the one layer, times `(K, H, d)`."""
        if not self.mixed:
            flat: Tensor = _Multiply.apply(x[0], weight.flatten(0, 1))  # type: ignore[no-untyped-call]
            return flat.view(x.shape[1], *weight.shape[:2])
        shares = p["gamma"] * _shares(p["mix"], self._outside)
        mixture = (shares @ x.flatten(1)).view(len(shares), *x.shape[1:])
        return torch.bmm(mixture, weight.transpose(1, 2)).transpose(0, 1)

    def _dropped(self, hidden: Tensor) -> Tensor:
        """Dropout of `(K, B, H)`, each probe by its own stream, whichever probes are beside it."""
        kept = round((1 - DROPOUT) * 2**16)
        masks = np.stack(
            [noise.integers(2**16, size=hidden.shape[1:], dtype=np.uint16) for noise in self._noise]
        )
        return hidden * torch.from_numpy(masks < kept).to(hidden.device) * (2**16 / kept)


class MixedLinearBank(NeuralBank):
    """Linear probes on a mixture of layers."""

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        return draw.linear("weight", "bias", self.classes, self._spans * width)

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        return self._project(p, split.inputs.pooled(split.examples, index), p["weight"]) + p["bias"]


class MlpBank(NeuralBank):
    """Probes with one hidden layer of ReLUs (Hewitt & Liang 2019)."""

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        return {
            **draw.linear("hidden", "hidden_bias", HIDDEN, self._spans * width),
            **draw.linear("weight", "bias", self.classes, HIDDEN),
        }

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        x = split.inputs.pooled(split.examples, index)
        hidden = functional.relu(self._project(p, x, p["hidden"]) + p["hidden_bias"])
        logits = torch.bmm(hidden.transpose(0, 1), p["weight"].transpose(1, 2))
        return logits.transpose(0, 1) + p["bias"]


class EdgeBank(NeuralBank):
    """Edge probes (Tenney et al. 2019): what the pieces of one or two spans say of their label.

    For each span a projection of its pieces and a mean of them by self-attention; the spans one
    after another go through `Linear, tanh, LayerNorm, dropout, Linear`. Only pieces inside spans
    are projected, and each once. The logits of the attention have no bias, which a softmax cancels.
    """

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for s in range(self._spans):
            drawn |= draw.linear(f"projection{s}", f"projection{s}_bias", HIDDEN, width)
            drawn[f"attention{s}"] = draw.linear("attention", "", 1, HIDDEN)["attention"][0]
        drawn |= draw.linear("hidden", "hidden_bias", HIDDEN, self._spans * HIDDEN)
        drawn |= {"gain": torch.ones(HIDDEN), "shift": torch.zeros(HIDDEN)}
        return drawn | draw.linear("weight", "bias", self.classes, HIDDEN)

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        spans = []
        for s, pieces in enumerate(split.inputs.pieces(split.examples, index)):
            projected = self._project(p, pieces.x, p[f"projection{s}"]) + p[f"projection{s}_bias"]
            attention = (projected * p[f"attention{s}"]).sum(2)
            spans.append(_attended(projected, attention, pieces, len(index)))
        pooled = torch.cat(spans, 2).transpose(0, 1)
        hidden = torch.baddbmm(p["hidden_bias"][:, None], pooled, p["hidden"].transpose(1, 2))
        hidden = functional.layer_norm(torch.tanh(hidden), (HIDDEN,))
        hidden = hidden * p["gain"][:, None] + p["shift"][:, None]
        if train:
            hidden = self._dropped(hidden)
        logits = torch.baddbmm(p["bias"][:, None], hidden, p["weight"].transpose(1, 2))
        return logits.transpose(0, 1)


class _Multiply(torch.autograd.Function):
    """`x W^T` for features x `(N, d)`, which need no gradient, and weights W `(M, d)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty(len(x), len(weight), device=x.device)
        ops.multiply(x, weight.T, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        [x], [gradient] = ctx.saved_tensors, gradients
        out = torch.empty(gradient.shape[1], x.shape[1], device=x.device)
        ops.multiply(gradient.T, x, out)
        return None, out


def _attended(projected: Tensor, attention: Tensor, pieces: Pieces, targets: int) -> Tensor:
    """`(B, K, H)`: the mean of each span's pieces, weighted by a softmax inside the span."""
    here = projected.index_select(0, pieces.row)
    if pieces.longest == 1:
        return here
    own = attention.index_select(0, pieces.row)
    _, k, h = here.shape
    index = pieces.target[:, None].expand(-1, k)
    # A shift by the span's largest logit leaves the softmax as it is.
    top = own.new_full((targets, k), -torch.inf).scatter_reduce(0, index, own.detach(), "amax")
    weights = (own - top.index_select(0, pieces.target)).exp()
    total = own.new_zeros(targets, k).index_add(0, pieces.target, weights)
    weights = weights / total.index_select(0, pieces.target)
    return here.new_zeros(targets, k, h).index_add(0, pieces.target, weights[..., None] * here)


def _beyond(probe: Probe, depth: int) -> Tensor:
    """`(L,)` -inf for the layers that a probe does not mix."""
    outside = torch.zeros(depth)
    outside[probe.layers or depth :] = -torch.inf
    return outside


def _shares(mix: Tensor, outside: Tensor) -> Tensor:
    return torch.softmax(mix + outside.to(mix.device), 1)
