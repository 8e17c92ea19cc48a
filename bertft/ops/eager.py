"""The operations of probes in torch, in the tensors' own types, on any device.

For devices that have no kernels of ours; as right as torch's own rounding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from bertft.ops.checks import Call, require_classes, require_labels, require_spans

Losses = Callable[[Tensor, Tensor, Tensor, Tensor], bool | Tensor]


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """See `bertft.ops.multiply`."""
    (torch.mm if a.ndim == 2 else torch.bmm)(a, b, out=out)


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.softmax_gradient`."""
    sizes = offsets.diff()
    require_classes(Call("softmax_gradient"), targets, sizes)
    if not logits.numel():
        return True
    # Every probe as high as the highest: rows past its own are no logits.
    place = torch.arange(int(sizes.max()), device=logits.device)
    is_own = place < sizes[:, None]
    rows = (offsets[:-1, None] + place).clamp(max=len(logits) - 1)
    padded = logits[rows].masked_fill_(~is_own[:, :, None], -torch.inf)
    counts, chosen = targets[:, None] >= 0, targets.clamp(min=0)[:, None]
    is_finite = bool((padded.isfinite() | ~is_own[:, :, None] | ~counts).all())
    likelihoods = padded.log_softmax(dim=1)
    of_target = likelihoods.gather(1, chosen).masked_fill_(~counts, 0.0)
    losses -= of_target[:, 0].sum(dim=1, dtype=torch.float64)
    gradients = likelihoods.exp_()
    gradients.scatter_add_(1, chosen, gradients.new_full((), -1.0).expand(chosen.shape))
    logits.copy_(gradients.masked_fill_(~counts, 0.0)[is_own])
    return is_finite


def sigmoid_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.sigmoid_gradient`."""
    require_labels(Call("sigmoid_gradient"), targets, offsets)
    if not logits.numel():
        return True
    counts, labels = targets != 255, (targets == 1).to(logits.dtype)
    is_finite = bool((logits.isfinite() | ~counts).all())
    lost = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    by_row = lost.masked_fill_(~counts, 0.0).sum(dim=1, dtype=torch.float64)
    losses += torch.segment_reduce(by_row, "sum", offsets=offsets)
    logits.sigmoid_().sub_(labels).masked_fill_(~counts, 0.0)
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
    by: tuple[Losses, Losses] = (softmax_gradient, sigmoid_gradient),
) -> bool | Tensor:
    """See `bertft.ops.linear_gradient`; `by` are the softmax and the sigmoid loss to take."""
    labels = len(weights) // len(losses)
    offsets = torch.arange(len(losses) + 1, device=x.device) * labels
    logits = torch.mm(weights, x.T)
    if biases is not None:
        logits += biases[:, None]
    if targets.dtype == torch.int64:
        require_classes(Call("linear_gradient"), targets, offsets.diff())
        is_finite = by[0](logits, offsets, targets, losses)
    else:
        require_labels(Call("linear_gradient"), targets, offsets)
        is_finite = by[1](logits, offsets, targets, losses)
    logits *= scales.repeat_interleave(labels)[:, None]
    torch.mm(logits, x, out=of_weights)
    if of_biases is not None:
        torch.sum(logits, 1, out=of_biases)
    return is_finite


def distance_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.distance_gradient`."""
    added = torch.zeros_like(losses)
    sizes = offsets.diff().tolist()
    tables = torch.split(gold, [n * n for n in sizes])
    for rows, table in zip(torch.split(projected, sizes), tables, strict=True):
        n = len(rows)
        p = rows.view(n, len(losses), -1).transpose(0, 1)
        p = p - p[:, :1]
        errors = torch.bmm(p, p.transpose(1, 2))
        squares = errors.diagonal(dim1=1, dim2=2)
        errors = squares[:, :, None] + squares[:, None] - 2 * errors - table.view(n, n)
        added += errors.abs().sum(dim=(1, 2), dtype=torch.float64) / n**2
        signs = errors.sign()
        gradients = signs.sum(dim=2)[:, :, None] * p - torch.bmm(signs, p)
        rows.view(n, len(losses), -1).copy_(gradients.mul_(4.0 / n**2).transpose(0, 1))
    losses += added
    return bool(added.isfinite().all())


def depth_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.depth_gradient`."""
    n, columns = projected.shape
    p = projected.view(n, len(losses), columns // len(losses))
    lengths = offsets.diff()
    share = (1.0 / lengths.to(p.dtype)).repeat_interleave(lengths)[:, None]
    errors = p.square().sum(dim=2) - gold[:, None]
    added = (errors.abs() * share).sum(dim=0, dtype=torch.float64)
    p.mul_((2.0 * share * errors.sign())[:, :, None])
    losses += added
    return bool(added.isfinite().all())


def attend_spans(
    x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor, out: Tensor, logsums: Tensor
) -> None:
    """See `bertft.ops.attend_spans`."""
    require_spans(Call("attend_spans"), len(x), starts, stops)
    row, span = rows_of_spans(starts, stops)
    logits = (x * weight).sum(dim=2).index_select(0, row)
    index = span[:, None].expand_as(logits)
    largest = torch.full_like(logsums, -torch.inf).scatter_reduce_(0, index, logits, "amax")
    shares = (logits - largest.index_select(0, span)).exp_()
    totals = torch.zeros_like(logsums).index_add_(0, span, shares)
    shares /= totals.index_select(0, span)
    out.zero_().index_add_(0, span, shares[:, :, None] * x.index_select(0, row))
    logsums.copy_(largest + totals.log())


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
    """See `bertft.ops.attend_spans_gradient`."""
    require_spans(Call("attend_spans_gradient"), len(x), starts, stops)
    row, span = rows_of_spans(starts, stops)
    logits = (x * weight).sum(dim=2)
    shares = (logits.index_select(0, row) - logsums.index_select(0, span)).exp_()
    of_mean = gradient.index_select(0, span)
    beside = x.index_select(0, row) - out.index_select(0, span)
    of_logits = torch.zeros_like(logits)
    of_logits.index_add_(0, row, shares * (of_mean * beside).sum(dim=2))
    torch.mul(of_logits[:, :, None], weight, out=of_x)
    of_x.index_add_(0, row, shares[:, :, None] * of_mean)
    torch.bmm(of_logits.T[:, None], x.transpose(0, 1), out=of_weight[:, None])


def rows_of_spans(starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all spans one after another, and the number of each one's span."""
    lengths = stops - starts
    span = torch.arange(len(starts), device=starts.device).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    row = torch.arange(len(span), device=starts.device) + (starts - first).index_select(0, span)
    return row, span


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
    hidden = x.add_(bias).tanh_()
    units = layer_norm(hidden, hidden.shape[2:], eps=epsilon).mul_(gain).add_(shift)
    torch.mul(units, scale if kept is None else kept * scale, out=out)


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
    """See `bertft.ops.tanh_norm_gradient`."""
    variance, mean = torch.var_mean(hidden, 2, correction=0, keepdim=True)
    inverse = (variance + epsilon).rsqrt()
    unit = (hidden - mean) * inverse
    gradient.mul_(scale if kept is None else kept * scale)
    torch.sum(gradient, 0, out=of_shift)
    torch.sum(gradient * unit, 0, out=of_gain)
    gradient.mul_(gain)
    along = (gradient * unit).mean(2, keepdim=True)
    gradient.sub_(gradient.mean(2, keepdim=True) + unit * along).mul_(inverse)
    gradient.mul_(1.0 - hidden.square())
    torch.sum(gradient, 0, out=of_bias)


def scales_to(clip: float, gradients: Sequence[Tensor]) -> Tensor:
    """Return what makes the norm of each row over all gradients at most `clip`."""
    norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients])
    total: Tensor = torch.linalg.vector_norm(norms, dim=0)
    return (clip / total).clamp(max=1.0)


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
    if clip is not None:
        scales = scales_to(clip, gradients)[:, None]
        gradients = [g * scales for g in gradients]
    dtype = gradients[0].dtype
    kept = (1.0 - rates.double() * decays.double()).to(dtype)[:, :, None]
    sizes = (rates.double() / (1.0 - beta_1**step)).to(dtype)[:, None]
    for p, (w, g, m, v) in enumerate(zip(weights, gradients, first, second, strict=True)):
        m.lerp_(g, 1.0 - beta_1)
        v.mul_(beta_2).addcmul_(g, g, value=1.0 - beta_2)
        most = v if largest is None else torch.maximum(largest[p], v, out=largest[p])
        roots = most.sqrt().mul_((1.0 - beta_2**step) ** -0.5).add_(epsilon)
        w.mul_(kept[p]).sub_(m / roots * sizes)
