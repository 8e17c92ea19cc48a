"""Edge probes and their gradients: the checks, and the choice of backend.

`bertft.ops` has the table of all operations, and offers these with the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.ops import composed
from bertft.ops.backends import choose_backend
from bertft.ops.checks import Call
from bertft.ops.types import EdgeProbes, SpanRows

EPSILON = 1e-5


def edge_logits(
    probes: EdgeProbes, spans: Sequence[SpanRows], out: Tensor, *, epsilon: float = EPSILON
) -> None:
    """Write what edge probes say of targets, without dropout.

    Of each span the rows `z = x W` have a mean `m` by self-attention; the spans' `m + b`, one after
    another, go through a layer of tanh, normalized, and the logits are linear in its units.
    Composed of `multiply`, `attend_spans` and `tanh_norm`. Cost: O(K (N d P + B S P H)).

    Args:
        probes: float32.
        spans: S, one or two for each target.
        out: `(K, C, B)` float32, written.
        epsilon: added to the variance in the normalization.

    Raises:
        ValueError: a span that is empty or leaves its rows; shapes, types or layouts that don't
            fit.

    Reference: Tenney et al., What do you learn from context? (2019).
    """
    call = Call("edge_logits")
    _check(call, probes, spans)
    call.output(out, "out", torch.float32, (*probes.bias.shape, len(spans[0].starts)))
    composed.edge_logits(probes, spans, None, 1.0, epsilon, out)


def edge_gradient(
    probes: EdgeProbes,
    spans: Sequence[SpanRows],
    targets: Tensor,
    scales: Tensor,
    losses: Tensor,
    gradients: EdgeProbes,
    *,
    kept: Tensor | None = None,
    scale: float = 1.0,
    of_x: Sequence[Tensor] | None = None,
    epsilon: float = EPSILON,
    backend: str | None = None,
) -> bool:
    """Write the gradients of the cross-entropies of many edge probes.

    Cost: three times that of `edge_logits`.

    Args:
        probes: as for `edge_logits`, like `spans` and `epsilon`.
        spans: see there.
        targets: `(K, B)` int64, a label of the probe (softmax), or -1 where a target does not
            count; or `(K C, B)` uint8, 0 or 1 (sigmoid), or 255 where a logit does not count.
        scales: `(K,)` float32, what a probe's gradients are multiplied by.
        losses: `(K,)` float64, added to: the sum over targets, in nats and not scaled.
        gradients: like the probes, written.
        kept: `(K, B, H)` uint8, 1 for units that dropout keeps and 0 for others; None for all.
        scale: of the units that are kept.
        of_x: for each span `(K, N, d)`, the gradient of its rows, written; None for none.
        epsilon: see there.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target that the probe does not have, a span that is empty or leaves its rows;
            shapes, types or layouts that don't fit.
    """
    call = Call("edge_gradient")
    _check(call, probes, spans)
    (k, c), b = probes.bias.shape, len(spans[0].starts)
    is_class = targets.dtype == torch.int64
    shape = (k, b) if is_class else (k * c, b)
    call.output(targets, "targets", torch.int64 if is_class else torch.uint8, shape)
    call.output(scales, "scales", torch.float32, (k,))
    call.output(losses, "losses", torch.float64, (k,))
    if kept is not None:
        call.output(kept, "kept", torch.uint8, (k, b, probes.gain.shape[1]))
    call.counts(len(probes.tensors), gradients=gradients.tensors)
    call.counts(len(spans), of_x=of_x)
    for own, gradient in zip(probes.tensors, gradients.tensors, strict=True):
        call.output(gradient, "gradients", torch.float32, tuple(own.shape))
    for own, span in zip(of_x or (), spans, strict=False):
        call.output(own, "of_x", torch.float32, (k, *span.x.shape[-2:]))
    tensors = [*probes.tensors, *(t for span in spans for t in span), targets, scales, losses]
    tensors += [*gradients.tensors, *(of_x or ()), *([] if kept is None else [kept])]
    return bool(
        choose_backend(call, backend, tensors).edge_gradient(
            probes, spans, targets, scales, kept, scale, epsilon, losses, gradients, of_x
        )
    )


def _check(call: Call, probes: EdgeProbes, spans: Sequence[SpanRows]) -> None:
    """Refuse parameters and spans that do not go together."""
    if not spans or len(probes.projections) not in (1, len(spans)):
        raise call.fail(
            f"probes must have one projection, or one for each span, got "
            f"{len(probes.projections)} for {len(spans)} spans; pass as many."
        )
    if any(t.ndim != 3 for t in (probes.projections[0].weight, probes.hidden, probes.weight)):
        raise call.fail("weights must have three axes, got others; reshape them.")
    k, d, p = probes.projections[0].weight.shape
    h, c = probes.hidden.shape[2], probes.weight.shape[2]
    of_head = [(k, len(spans) * p, h), (k, h), (k, h), (k, h), (k, h, c), (k, c)]
    shapes = [*[(k, d, p), (k, p), (k, p)] * len(probes.projections), *of_head]
    for tensor, shape in zip(probes.tensors, shapes, strict=True):
        call.output(tensor, "probes", torch.float32, shape)
    for x, starts, stops in spans:
        if x.ndim not in (2, 3):
            raise call.fail(f"x must be (N, d) or (K, N, d), got {tuple(x.shape)}; reshape it.")
        call.output(x, "x", torch.float32, (*[k] * (x.ndim - 2), x.shape[-2], d))
        for name, tensor in (("starts", starts), ("stops", stops)):
            call.output(tensor, name, torch.int64, (len(spans[0].starts),))
