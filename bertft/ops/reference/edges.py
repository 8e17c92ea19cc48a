"""The definition of edge probes and their gradients, which torch derives."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from bertft.ops.checks import Call, require_spans
from bertft.ops.reference.probes import sigmoid_gradient, softmax_gradient
from bertft.ops.types import EdgeProbes, SpanRows


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
    wide = EdgeProbes.of([p.double().requires_grad_() for p in probes.tensors])
    k = len(losses)
    rows = [span.x.double().expand(k, *span.x.shape[-2:]).requires_grad_() for span in spans]
    with torch.enable_grad():
        means = []
        for s, (x, span) in enumerate(zip(rows, spans, strict=True)):
            require_spans(Call("edge_gradient"), x.shape[1], span.starts, span.stops)
            projection = wide.projection(s)
            z = torch.bmm(x, projection.weight) + projection.bias[:, None]
            logits = (z * projection.attention[:, None]).sum(dim=2)
            means.append(
                torch.stack(
                    [
                        (logits[:, i:j].softmax(dim=1)[:, :, None] * z[:, i:j]).sum(dim=1)
                        for i, j in zip(span.starts.tolist(), span.stops.tolist(), strict=True)
                    ],
                    1,
                )
            )
        sums = torch.bmm(torch.cat(means, 2), wide.hidden) + wide.hidden_bias[:, None]
        units = layer_norm(sums.tanh(), sums.shape[2:], eps=epsilon)
        units = units * wide.gain[:, None] + wide.shift[:, None]
        units = units * (scale if kept is None else scale * kept)
        out = (torch.bmm(units, wide.weight) + wide.bias[:, None]).mT
    of_logits = out.detach().clone().flatten(0, 1)
    offsets = torch.arange(k + 1, device=out.device) * out.shape[1]
    differentiate = softmax_gradient if targets.dtype == torch.int64 else sigmoid_gradient
    is_finite = differentiate(of_logits, offsets, targets, losses)
    wanted = of_logits.view(out.shape) * scales.double()[:, None, None]
    found = torch.autograd.grad(out, [*wide.tensors, *rows], wanted)
    for gradient, own in zip([*gradients.tensors, *(of_x or ())], found, strict=False):
        gradient.copy_(own)
    return is_finite
