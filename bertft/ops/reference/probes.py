"""The definitions of the operations of probes."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from bertft.ops.checks import Call, require_classes, require_labels, require_spans


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """See `bertft.ops.multiply`."""
    out.copy_(a.double() @ b.double())


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.softmax_gradient`."""
    require_classes(Call("softmax_gradient"), targets, offsets.diff())
    is_finite = True
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        counts = targets[k] >= 0
        z, target = logits[start:stop, counts].T.double(), targets[k, counts]
        is_finite &= bool(z.isfinite().all())
        losses[k] += (z.logsumexp(dim=1) - z.gather(1, target[:, None])[:, 0]).sum()
        onehot = torch.nn.functional.one_hot(target, stop - start)
        logits[start:stop] = 0.0
        logits[start:stop, counts] = (z.softmax(dim=1) - onehot).T.to(logits.dtype)
    return is_finite


def sigmoid_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.sigmoid_gradient`."""
    require_labels(Call("sigmoid_gradient"), targets, offsets)
    z, y, counts = logits.double(), (targets == 1).double(), targets != 255
    lost = z.clamp(min=0.0) - z * y + (-z.abs()).exp().log1p()
    for k, (start, stop) in enumerate(pairwise(offsets.tolist())):
        losses[k] += lost[start:stop][counts[start:stop]].sum()
    is_finite = bool(z[counts].isfinite().all())
    logits.copy_(torch.where(counts, z.sigmoid() - y, 0.0))
    return is_finite


def linear_gradient(
    x: Tensor,
    weights: Tensor,
    biases: Tensor | None,
    targets: Tensor,
    scales: Tensor,
    losses: Tensor,
    of_weights: Tensor,
    of_biases: Tensor | None,
) -> bool:
    """See `bertft.ops.linear_gradient`."""
    labels = len(weights) // len(losses)
    offsets = torch.arange(len(losses) + 1, device=x.device) * labels
    logits = weights.double() @ x.double().T
    if biases is not None:
        logits += biases.double()[:, None]
    if targets.dtype == torch.int64:
        require_classes(Call("linear_gradient"), targets, offsets.diff())
        is_finite = softmax_gradient(logits, offsets, targets, losses)
    else:
        require_labels(Call("linear_gradient"), targets, offsets)
        is_finite = sigmoid_gradient(logits, offsets, targets, losses)
    logits *= scales.double().repeat_interleave(labels)[:, None]
    of_weights.copy_(logits @ x.double())
    if of_biases is not None:
        of_biases.copy_(logits.sum(dim=1))
    return is_finite


def distance_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.distance_gradient`."""
    place, added = 0, torch.zeros_like(losses)
    for rows in torch.split(projected, offsets.diff().tolist()):
        n = len(rows)
        table = gold[place : place + n * n].double().view(n, n)
        place += n * n
        for k, p in enumerate(rows.view(n, len(losses), -1).unbind(1)):
            differences = p.double()[:, None] - p.double()
            errors = differences.square().sum(dim=2) - table
            added[k] += errors.abs().sum() / n**2
            p.copy_(4.0 / n**2 * (errors.sign()[:, :, None] * differences).sum(dim=1))
    losses += added
    return bool(added.isfinite().all())


def depth_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.depth_gradient`."""
    added = torch.zeros_like(losses)
    sizes = offsets.diff().tolist()
    for rows, depths in zip(torch.split(projected, sizes), torch.split(gold, sizes), strict=True):
        n = len(rows)
        p = rows.double().view(n, len(losses), -1)
        errors = p.square().sum(dim=2) - depths.double()[:, None]
        added += errors.abs().sum(dim=0) / n
        rows.copy_((2.0 / n * errors.sign()[:, :, None] * p).view(rows.shape))
    losses += added
    return bool(added.isfinite().all())


def attend_spans(
    x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor, out: Tensor, logsums: Tensor
) -> None:
    """See `bertft.ops.attend_spans`."""
    require_spans(Call("attend_spans"), len(x), starts, stops)
    for b, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        rows = x[start:stop].double()
        logits = (rows * weight.double()).sum(dim=2)
        out[b] = (logits.softmax(dim=0)[:, :, None] * rows).sum(dim=0)
        logsums[b] = logits.logsumexp(dim=0)


def attend_spans_gradient(
    x: Tensor,
    weight: Tensor,
    starts: Tensor,
    stops: Tensor,
    out: Tensor,
    logsums: Tensor,
    gradient: Tensor,
    of_x: Tensor,
    of_weight: Tensor,
) -> None:
    """See `bertft.ops.attend_spans_gradient`: torch derives them, as below."""
    require_spans(Call("attend_spans_gradient"), len(x), starts, stops)
    h, w = (t.double().requires_grad_() for t in (x, weight))
    total = torch.zeros((), dtype=torch.float64, device=x.device, requires_grad=True)
    with torch.enable_grad():
        for g, start, stop in zip(gradient.double(), starts.tolist(), stops.tolist(), strict=True):
            shares = (h[start:stop] * w).sum(dim=2).softmax(dim=0)
            total = total + (g * (shares[:, :, None] * h[start:stop]).sum(dim=0)).sum()
    found = torch.autograd.grad(total, (h, w), allow_unused=True, materialize_grads=True)
    of_x.copy_(found[0])
    of_weight.copy_(found[1])


def tanh_norm(
    x: Tensor,
    bias: Tensor,
    gain: Tensor,
    shift: Tensor,
    kept: Tensor | None,
    out: Tensor,
    scale: float,
    epsilon: float,
) -> None:
    """See `bertft.ops.tanh_norm`."""
    hidden = (x.double() + bias.double()).tanh()
    units = layer_norm(hidden, hidden.shape[2:], eps=epsilon) * gain.double()
    out.copy_((units + shift.double()) * (scale if kept is None else scale * kept.double()))
    x.copy_(hidden)


def tanh_norm_gradient(
    hidden: Tensor,
    bias: Tensor,
    gain: Tensor,
    shift: Tensor,
    kept: Tensor | None,
    gradient: Tensor,
    of_bias: Tensor,
    of_gain: Tensor,
    of_shift: Tensor,
    scale: float,
    epsilon: float,
) -> None:
    """See `bertft.ops.tanh_norm_gradient`: torch derives them."""
    h, g, s = (t.double().requires_grad_() for t in (hidden, gain, shift))
    of_out = gradient.double() * (scale if kept is None else scale * kept.double())
    with torch.enable_grad():
        out = layer_norm(h, h.shape[2:], eps=epsilon) * g + s
    of_hidden, of_g, of_s = torch.autograd.grad(out, (h, g, s), of_out)
    of_x = of_hidden * (1.0 - hidden.double().square())
    gradient.copy_(of_x)
    of_bias.copy_(of_x.sum(0))
    of_gain.copy_(of_g)
    of_shift.copy_(of_s)


def adam(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    largest: Sequence[Tensor] | None,
    rates: Tensor,
    decays: Tensor,
    step: int,
    betas: tuple[float, float],
    epsilon: float,
    clip: float | None,
) -> None:
    """See `bertft.ops.adam`."""
    beta_1, beta_2 = betas
    scales = torch.ones_like(rates, dtype=torch.float64)
    if clip is not None:
        norms = torch.cat([g.double() for g in gradients], 1).norm(dim=1)
        scales = (clip / norms).clamp(max=1.0)
    for p, (w, m, v) in enumerate(zip(weights, first, second, strict=True)):
        g, rate, decay = scales[:, None] * gradients[p], rates[:, None].double(), decays[p, :, None]
        m.copy_(beta_1 * m.double() + (1.0 - beta_1) * g)
        v.copy_(beta_2 * v.double() + (1.0 - beta_2) * g.square())
        most = v if largest is None else largest[p].copy_(torch.maximum(largest[p], v))
        mean, square = m.double() / (1.0 - beta_1**step), most.double() / (1.0 - beta_2**step)
        w.copy_((1.0 - rate * decay) * w.double() - rate * mean / (square.sqrt() + epsilon))
