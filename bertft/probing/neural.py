"""Probes whose gradients torch derives: MLPs, and linear probes on a mixture of layers.

Owns their forward passes, batched over the probes of a bank, which share the product of a layer's
features with all their first weights.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bertft import ops
from bertft.probing.bank import Draw, Split
from bertft.probing.mixtures import MixingBank, mixture_of

HIDDEN = 256


class NeuralBank(MixingBank):
    """Probes whose gradients torch derives."""

    @abstractmethod
    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor) -> Tensor:
        """Logits `(K, C, B)`."""

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(K, C, B)` logits of a batch of targets, without dropout."""
        with torch.no_grad():
            return self._forward(self.parameters, split, index).contiguous()

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
        with torch.enable_grad():
            logits = self._forward(leaves, split, index)
        gradient = logits.detach().clone(memory_format=torch.contiguous_format)
        wanted = split.labels.wanted(self.probes, index)
        wanted.differentiate(gradient, torch.zeros_like(wanted.counted))
        gradient *= wanted.scales[:, None, None]
        found = torch.autograd.grad(
            logits, list(leaves.values()), gradient, allow_unused=True, materialize_grads=True
        )
        return {name: g.contiguous() for name, g in zip(leaves, found, strict=True)}

    def _project(self, p: dict[str, Tensor], x: Tensor, weight: Tensor) -> Tensor:
        """`(N, K, H)`: rows `(L, N, d)`, mixed or those of the one layer, times `(K, d, H)`."""
        if not self.mixed:
            return _applied(_Multiply, x[0], weight)
        mixture = mixture_of(self._factors(p), x)
        return _applied(_MultiplyEach, mixture.transpose(0, 1), weight)


class MixedLinearBank(NeuralBank):
    """Linear probes on a mixture of layers."""

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        size = self._spans * width
        return {
            "weight": draw(self.classes, size, inputs=size).T.contiguous(),
            "bias": draw(self.classes, inputs=size),
        }

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor) -> Tensor:
        x = split.inputs.pooled(split.examples, index)
        return (self._project(p, x, p["weight"]) + p["bias"]).permute(1, 2, 0)


class MlpBank(NeuralBank):
    """Probes with one hidden layer of ReLUs (Hewitt & Liang 2019)."""

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        size = self._spans * width
        return {
            "hidden": draw(HIDDEN, size, inputs=size).T.contiguous(),
            "hidden_bias": draw(HIDDEN, inputs=size),
            "weight": draw(HIDDEN, self.classes, inputs=HIDDEN),
            "bias": draw(self.classes, inputs=HIDDEN),
        }

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor) -> Tensor:
        x = split.inputs.pooled(split.examples, index)
        hidden = functional.relu(self._project(p, x, p["hidden"]) + p["hidden_bias"])
        return (_applied(_MultiplyEach, hidden, p["weight"]) + p["bias"]).permute(1, 2, 0)


class _Multiply(torch.autograd.Function):
    """`x W_k` for each probe: `(N, d)`, without gradient, and `(K, d, H)` to `(N, K, H)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        k, _, h = weight.shape
        out = x.new_empty(len(x), k, h)
        ops.multiply(x.expand(k, *x.shape), weight, out.transpose(0, 1))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        [x], [gradient] = ctx.saved_tensors, gradients
        (n, d), (_, k, h) = x.shape, gradient.shape
        of_weight = x.new_empty(k, d, h)
        ops.multiply(x.T.expand(k, d, n), gradient.transpose(0, 1), of_weight)
        return None, of_weight


class _MultiplyEach(torch.autograd.Function):
    """`x_k W_k` for each probe: `(B, K, m)` and `(K, m, n)` to `(B, K, n)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(*x.shape[:2], weight.shape[2])
        ops.multiply(x.transpose(0, 1), weight, out.transpose(0, 1))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, weight), [gradient] = ctx.saved_tensors, gradients
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        of_out = gradient.transpose(0, 1)
        ops.multiply(of_out, weight.mT, of_x.transpose(0, 1))
        ops.multiply(x.permute(1, 2, 0), of_out, of_weight)
        return of_x, of_weight


def _applied(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    # torch has no types for apply.
    out: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out
