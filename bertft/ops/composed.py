"""Operations composed of others, each by the backend of its device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bertft.ops.attention import attend_spans, attend_spans_gradient
from bertft.ops.hidden import tanh_norm, tanh_norm_gradient
from bertft.ops.probes import multiply, sigmoid_gradient, softmax_gradient
from bertft.ops.types import EdgeProbes, SpanRows


class _Attended(NamedTuple):
    """A span of each target: its projected rows, their means and what these were made by."""

    rows: Tensor
    means: Tensor
    logsums: Tensor


def edge_logits(
    probes: EdgeProbes,
    spans: Sequence[SpanRows],
    kept: Tensor | None,
    scale: float,
    epsilon: float,
    out: Tensor,
) -> tuple[list[_Attended], Tensor, Tensor, Tensor]:
    """See `bertft.ops.edge_logits`; returns what the gradient needs of the way there."""
    attended = [_attend(probes, spans, s) for s in range(len(spans))]
    # Shares sum to 1: a bias of the rows is one of their mean, and changes no share.
    pooled = torch.cat([own.means + probes.projection(s).bias for s, own in enumerate(attended)], 2)
    hidden = pooled.new_empty(*pooled.shape[:2], probes.hidden.shape[2])
    multiply(pooled.transpose(0, 1), probes.hidden, hidden.transpose(0, 1))
    units = torch.empty_like(hidden)
    layer = (probes.hidden_bias, probes.gain, probes.shift)
    tanh_norm(hidden, *layer, _by_target(kept), units, scale=scale, epsilon=epsilon)
    multiply(probes.weight.mT, units.permute(1, 2, 0), out)
    out += probes.bias[:, :, None]
    return attended, pooled, hidden, units


def edge_gradient(
    probes: EdgeProbes,
    spans: Sequence[SpanRows],
    targets: Tensor,
    scales: Tensor,
    kept: Tensor | None,
    scale: float,
    epsilon: float,
    losses: Tensor,
    gradients: EdgeProbes,
    of_x: Sequence[Tensor] | None,
) -> bool:
    """See `bertft.ops.edge_gradient`."""
    (k, c), b = probes.bias.shape, len(spans[0].starts)
    logits = probes.bias.new_empty(k, c, b)
    attended, pooled, hidden, units = edge_logits(probes, spans, kept, scale, epsilon, logits)
    offsets = torch.arange(k + 1, device=logits.device) * c
    differentiate = softmax_gradient if targets.dtype == torch.int64 else sigmoid_gradient
    is_finite = differentiate(logits.flatten(0, 1), offsets, targets, losses)
    logits *= scales[:, None, None]

    torch.sum(logits, 2, out=gradients.bias)
    multiply(units.permute(1, 2, 0), logits.mT, gradients.weight)
    multiply(logits.mT, probes.weight.mT, units.transpose(0, 1))
    layer = (probes.hidden_bias, probes.gain, probes.shift)
    of_layer = (gradients.hidden_bias, gradients.gain, gradients.shift)
    own = _by_target(kept)
    tanh_norm_gradient(hidden, *layer, own, units, *of_layer, scale=scale, epsilon=epsilon)
    multiply(pooled.permute(1, 2, 0), units.transpose(0, 1), gradients.hidden)
    of_pooled = torch.empty_like(pooled)
    multiply(units.transpose(0, 1), probes.hidden.mT, of_pooled.transpose(0, 1))

    for gradient in (g for projection in gradients.projections for g in projection):
        gradient.zero_()
    for s, of_means in enumerate(of_pooled.chunk(len(spans), 2)):
        of_rows = _differentiate(probes, spans, s, attended[s], of_means.contiguous(), gradients)
        if of_x is not None:
            multiply(of_rows.transpose(0, 1), probes.projection(s).weight.mT, of_x[s])
    return is_finite


def _by_target(kept: Tensor | None) -> Tensor | None:
    """Units that dropout keeps `(B, K, H)`, as the operations on units have them."""
    return None if kept is None else kept.transpose(0, 1).contiguous()


def _attend(probes: EdgeProbes, spans: Sequence[SpanRows], s: int) -> _Attended:
    weight, _, attention = probes.projection(s)
    x, starts, stops = spans[s]
    k, h = attention.shape
    rows = x.new_empty(x.shape[-2], k, h)
    multiply(x.expand(k, *x.shape[-2:]), weight, rows.transpose(0, 1))
    means = rows.new_empty(len(starts), k, h)
    logsums = rows.new_empty(len(starts), k)
    attend_spans(rows, attention, starts, stops, means, logsums)
    return _Attended(rows, means, logsums)


def _differentiate(
    probes: EdgeProbes,
    spans: Sequence[SpanRows],
    s: int,
    own: _Attended,
    of_means: Tensor,
    gradients: EdgeProbes,
) -> Tensor:
    """The gradient of a span's projected rows; those of its projection are added."""
    x, starts, stops = spans[s]
    attention, into = probes.projection(s).attention, gradients.projection(s)
    of_rows, of_attention = torch.empty_like(own.rows), torch.empty_like(attention)
    attend_spans_gradient(
        own.rows,
        attention,
        starts,
        stops,
        own.means,
        own.logsums,
        of_means,
        of_rows,
        of_attention,
    )
    of_weight = torch.empty_like(into.weight)
    columns = x.expand(len(of_weight), *x.shape[-2:]).mT
    multiply(columns, of_rows.transpose(0, 1), of_weight)
    found = (of_weight, of_means.sum(dim=0), of_attention)
    for gradient, added in zip(into, found, strict=True):
        gradient += added
    return of_rows
