"""Probes with hidden units, or on a mixture of layers: MLP, edge and mixed linear probes.

Owns their forward passes, batched over the probes of a bank; torch derives the gradients. Probes
of one layer share the product of its features with all their first weights.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bertft import ops
from bertft.probing.bank import Bank, Draw, Probe, Split
from bertft.probing.examples import Inputs

HIDDEN = 256
# Of draws of 16 bits; dropout of 0.3.
KEPT = round(0.7 * 2**16)


class NeuralBank(Bank):
    """Probes whose gradients torch derives, on one layer or on a mixture of several.

    Probes of one layer stand side by side. A mixture is `gamma * sum_l softmax(w)_l h_l`, each
    probe with weights of its own over its lowest layers; w = 0 and gamma = 1 at the start (Peters
    et al. 2018).

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
            self.parameters["mix"] = torch.zeros(len(probes), inputs.depth)
            self.parameters["gamma"] = torch.ones(len(probes), 1)
        self.parameters = {name: p.to(inputs.device) for name, p in self.parameters.items()}

    @abstractmethod
    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        """The initial parameters of one probe."""

    @abstractmethod
    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        """Logits `(K, C, B)`."""

    def logits(self, split: Split, index: Tensor) -> Tensor:
        """Return `(K, C, B)` logits of a batch of targets, without dropout."""
        with torch.no_grad():
            return self._forward(self.parameters, split, index, False).contiguous()

    def gradients(self, split: Split, index: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each probe's mean loss over a batch."""
        leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
        with torch.enable_grad():
            logits = self._forward(leaves, split, index, True)
        gradient = logits.detach().clone(memory_format=torch.contiguous_format)
        wanted = split.labels.wanted(self.probes, index)
        wanted.differentiate(gradient, torch.zeros_like(wanted.counted))
        gradient *= wanted.scales[:, None, None]
        found = torch.autograd.grad(
            logits, list(leaves.values()), gradient, allow_unused=True, materialize_grads=True
        )
        return {name: g.contiguous() for name, g in zip(leaves, found, strict=True)}

    def select(self, kept: Tensor) -> None:
        """Keep only some of the probes, given by their numbers."""
        super().select(kept)
        self._noise = [self._noise[k] for k in kept.tolist()]

    def mix_weights(self) -> Tensor:
        """Return `(K, L)` the share that each layer has in each probe's mixture."""
        return _shares(self.parameters["mix"], self.probes)

    def _project(self, p: dict[str, Tensor], x: Tensor, weight: Tensor) -> Tensor:
        """`(N, K, H)`: rows `(L, N, d)`, mixed or those of the one layer, times `(K, d, H)`."""
        if not self.mixed:
            return _applied(_Multiply, x, weight, self._runs())
        shares = p["gamma"] * _shares(p["mix"], self.probes)
        mixture = (shares @ x.flatten(1)).view(len(shares), *x.shape[1:])
        return _applied(_MultiplyEach, mixture.transpose(0, 1), weight)

    def _runs(self) -> list[tuple[int, int, int]]:
        """For each run of probes with one layer: the layer, the first probe, one past the last."""
        runs, first = [], 0
        for layer, run in groupby(probe.layer for probe in self.probes):
            last = first + len(list(run))
            runs.append((layer, first, last))
            first = last
        return runs

    def _kept(self, count: int, device: torch.device) -> Tensor | None:
        """Units `(count, K, H)` that dropout keeps, each probe by its own stream, as uint8."""
        draws = np.stack(
            [noise.integers(2**16, size=(count, HIDDEN), dtype=np.uint16) for noise in self._noise],
            1,
        )
        return torch.from_numpy((draws < KEPT).view(np.uint8)).to(device)


class MixedLinearBank(NeuralBank):
    """Linear probes on a mixture of layers."""

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        size = self._spans * width
        return {
            "weight": draw(self.classes, size, inputs=size).T.contiguous(),
            "bias": draw(self.classes, inputs=size),
        }

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
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

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        x = split.inputs.pooled(split.examples, index)
        hidden = functional.relu(self._project(p, x, p["hidden"]) + p["hidden_bias"])
        return (_applied(_MultiplyEach, hidden, p["weight"]) + p["bias"]).permute(1, 2, 0)


class EdgeBank(NeuralBank):
    """Edge probes (Tenney et al. 2019): what the pieces of one or two spans say of their label.

    For each span a projection of its pieces and a mean of them by self-attention; the spans one
    after another go through `Linear, tanh, LayerNorm, dropout, Linear`. Only pieces inside spans
    are projected, and each once. The logits of the attention have no bias, which a softmax cancels.

    Args:
        probes, classes, exclusive, inputs, spans, mixed: as for `NeuralBank`.
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
        # For each span, which of the projections is its own.
        self._projection = [0] * spans if symmetric else list(range(spans))
        super().__init__(probes, classes, exclusive, inputs, spans, mixed)

    def _draw(self, draw: Draw, width: int) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for s in sorted(set(self._projection)):
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

    def _forward(self, p: dict[str, Tensor], split: Split, index: Tensor, train: bool) -> Tensor:
        spans = []
        every = split.inputs.pieces(split.examples, index)
        for s, pieces in zip(self._projection, every, strict=True):
            projected = self._project(p, pieces.x, p[f"projection{s}"]) + p[f"projection{s}_bias"]
            weight = p[f"attention{s}"]
            spans.append(_applied(_Attend, projected, weight, pieces.starts, pieces.stops))
        sums = _applied(_MultiplyEach, torch.cat(spans, 2), p["hidden"])
        kept = self._kept(len(index), sums.device) if train else None
        layer = (p["hidden_bias"], p["gain"], p["shift"])
        hidden = _applied(_TanhNorm, sums, *layer, kept)
        return (_applied(_MultiplyEach, hidden, p["weight"]) + p["bias"]).permute(1, 2, 0)


class _Multiply(torch.autograd.Function):
    """`x_l W_k` for each probe: `(L, N, d)`, without gradient, and `(K, d, H)` to `(N, K, H)`.

    `runs` has the layer of each run of probes, the first of them and one past the last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, runs: list[tuple[int, int, int]]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.runs = runs
        out = x.new_empty(x.shape[1], len(weight), weight.shape[2])
        for layer, first, last in runs:
            rows = x[layer].expand(last - first, *x.shape[1:])
            ops.multiply(rows, weight[first:last], out[:, first:last].transpose(0, 1))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        [x], [gradient] = ctx.saved_tensors, gradients
        of_weight = x.new_empty(gradient.shape[1], x.shape[2], gradient.shape[2])
        for layer, first, last in ctx.runs:
            columns = x[layer].T.expand(last - first, *x.shape[:0:-1])
            ops.multiply(columns, gradient[:, first:last].transpose(0, 1), of_weight[first:last])
        return None, of_weight, None


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


class _Attend(torch.autograd.Function):
    """The mean of each span's rows by self-attention: `(N, K, H)` and `(K, H)` to `(B, K, H)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor) -> Tensor:
        starts, stops = starts.to(x.device), stops.to(x.device)
        out = x.new_empty(len(starts), *weight.shape)
        logsums = x.new_empty(out.shape[:2])
        ops.attend_spans(x, weight, starts, stops, out, logsums)
        ctx.save_for_backward(x, weight, starts, stops, out, logsums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (x, weight, starts, stops, out, logsums), [gradient] = ctx.saved_tensors, gradients
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        ops.attend_spans_gradient(
            x, weight, starts, stops, out, logsums, gradient.contiguous(), of_x, of_weight
        )
        return of_x, of_weight, None, None


class _TanhNorm(torch.autograd.Function):
    """Hidden units `(B, K, H)` from sums that nothing else reads, with dropout or without."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, kept: Tensor | None
    ) -> Tensor:
        out, ctx.scale = torch.empty_like(x), 1.0 if kept is None else 2**16 / KEPT
        ops.tanh_norm(x, bias, gain, shift, kept, out, scale=ctx.scale)
        ctx.save_for_backward(x, bias, gain, shift, kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (hidden, bias, gain, shift, kept), [gradient] = ctx.saved_tensors, gradients
        of_x = gradient.clone(memory_format=torch.contiguous_format)
        of_bias, of_gain, of_shift = (torch.empty_like(t) for t in (bias, gain, shift))
        ops.tanh_norm_gradient(
            hidden, bias, gain, shift, kept, of_x, of_bias, of_gain, of_shift, scale=ctx.scale
        )
        return of_x, of_bias, of_gain, of_shift, None


def _applied(function: type[torch.autograd.Function], *arguments: object) -> Tensor:
    # torch has no types for apply.
    out: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def _shares(mix: Tensor, probes: Sequence[Probe]) -> Tensor:
    """`(K, L)`: the softmax of each probe's weights over the layers that it mixes, else 0."""
    depth = mix.shape[1]
    mixed = torch.tensor([probe.mixes or depth for probe in probes], device=mix.device)
    beyond = torch.arange(depth, device=mix.device) >= mixed[:, None]
    return torch.softmax(mix.masked_fill(beyond, -torch.inf), 1)
