"""The operations by which many probes are trained at once: the checks, and the choice of backend.

Probes lie one after another: a matrix of logits has the rows of probe 0, then those of probe 1, and
a column for each target.
`bertft.ops` has the table of all operations, and offers these with the others.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from bertft.ops.backends import choose_backend, choose_trainer
from bertft.ops.checks import (
    Call,
    check_factors,
    check_linear,
    check_logits,
    check_step,
)


def multiply(a: Tensor, b: Tensor, out: Tensor, *, backend: str | None = None) -> None:
    """Write the product of two matrices, or of as many pairs of them, `out = a @ b`.

    Cost: O(K m n k). Products are summed in the matrices' type, in runs of `k`.

    Args:
        a: `(m, k)` or `(K, m, k)`, float32 or float64, of any strides.
        b: `(k, n)` or `(K, k, n)`, of `a`'s type and any strides.
        out: `(m, n)` or `(K, m, n)`, of that type; a row is contiguous, rows may lie apart.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: shapes that don't fit, an `out` whose rows are not contiguous, or that overlaps
            a factor.
        TypeError: matrices of other types, or of several.
    """
    call = Call("multiply")
    check_factors(call, a, b, out)
    choose_backend(call, backend, [a, b, out]).multiply(a, b, out)


def softmax_gradient(
    logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor, *, backend: str | None = None
) -> bool:
    """Turn logits of many probes into the gradients of their cross-entropies.

    By target and probe `logits = softmax(logits) - onehot(class)`, the gradient of the sum of what
    `losses` is added, `log(sum(exp(logits))) - logits[class]` (nats).

    Args:
        logits: `(c, n)` float32, overwritten; probe k has the rows from `offsets[k]` to
            `offsets[k + 1]`, one for each of its labels.
        offsets: `(K + 1,)` int64, from 0 up to `c`.
        targets: `(K, n)` int64, a label of the probe, or -1 where a target does not count: its
            gradient is 0.
        losses: `(K,)` float64, added to.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target that the probe does not have; shapes, types or layouts that don't fit.
    """
    call = Call("softmax_gradient")
    probes = check_logits(call, logits, offsets, losses)
    call.output(targets, "targets", torch.int64, (probes, logits.shape[1]))
    tensors = [logits, offsets, targets, losses]
    chosen = choose_backend(call, backend, tensors)
    return bool(chosen.softmax_gradient(logits, offsets, targets, losses))


def sigmoid_gradient(
    logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor, *, backend: str | None = None
) -> bool:
    """Turn logits of many probes into the gradients of their binary cross-entropies.

    By element `logits = sigmoid(logits) - target`, the gradient of the sum of what `losses` is
    added, `log(1 + exp(logit)) - target * logit` (nats).

    Args:
        logits: `(c, n)` float32, overwritten; probe k has the rows from `offsets[k]` to
            `offsets[k + 1]`, one for each of its labels.
        offsets: `(K + 1,)` int64, from 0 up to `c`.
        targets: `(c, n)` uint8, 0 or 1, or 255 where a logit does not count: its gradient is 0.
        losses: `(K,)` float64, added to.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target of another value; shapes, types or layouts that don't fit.
    """
    call = Call("sigmoid_gradient")
    check_logits(call, logits, offsets, losses)
    call.output(targets, "targets", torch.uint8, tuple(logits.shape))
    tensors = [logits, offsets, targets, losses]
    chosen = choose_backend(call, backend, tensors)
    return bool(chosen.sigmoid_gradient(logits, offsets, targets, losses))


def linear_gradient(
    x: Tensor,
    weights: Tensor,
    biases: Tensor | None,
    targets: Tensor,
    scales: Tensor,
    losses: Tensor,
    of_weights: Tensor,
    of_biases: Tensor | None,
    *,
    backend: str | None = None,
) -> bool:
    """Write the gradients of the cross-entropies of many linear probes, `z = W x + b`.

    With G the gradient of each logit, `of_weights = scale G x` and `of_biases = scale sum(G)`, from
    logits that are never whole in memory. Softmax does not see a shift of all logits of a target,
    and its gradients sum to 0 over labels: natively both products have a row less for each probe.
    Cost: O(n d K C).

    Args:
        x: `(n, d)` float32, contiguous rows, which may lie apart.
        weights: `(K C, d)` float32, for each of K probes a row for each of its C labels.
        biases: `(K C,)` float32, or None.
        targets: `(K, n)` int64, a label of the probe (softmax), or -1 where a target does not
            count; or `(K C, n)` uint8, 0 or 1 (sigmoid), or 255 where a logit does not count.
        scales: `(K,)` float32, what a probe's gradients are multiplied by.
        losses: `(K,)` float64, added to: the sum over targets, in nats and not scaled.
        of_weights: `(K C, d)` float32, written.
        of_biases: `(K C,)` float32, written; None where there are no biases.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target that the probe does not have; shapes, types or layouts that don't fit.
    """
    call = Call("linear_gradient")
    check_linear(call, x, weights, losses)
    rows, d = weights.shape
    call.output(weights, "weights", torch.float32, (rows, d))
    call.output(scales, "scales", torch.float32, (len(losses),))
    call.output(of_weights, "of_weights", torch.float32, (rows, d))
    if targets.dtype == torch.int64:
        call.output(targets, "targets", torch.int64, (len(losses), len(x)))
    else:
        call.output(targets, "targets", torch.uint8, (rows, len(x)))
    tensors = [x, weights, targets, scales, losses, of_weights]
    call.both(biases, of_biases, "biases", "of_biases")
    if biases is not None and of_biases is not None:
        call.output(biases, "biases", torch.float32, (rows,))
        call.output(of_biases, "of_biases", torch.float32, (rows,))
        tensors += [biases, of_biases]
    chosen = choose_backend(call, backend, tensors)
    return bool(
        chosen.linear_gradient(x, weights, biases, targets, scales, losses, of_weights, of_biases)
    )


def adam(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    largest: Sequence[Tensor] | None,
    rates: Tensor,
    decays: Tensor,
    step: int,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    clip: float | None = None,
    backend: str | None = None,
) -> None:
    """Take a step of Adam with decoupled weight decay, each row at its own rate.

    `weights -= rate * decay * weights + rate * m / (sqrt(v) + epsilon)`, with the moments `m` and
    `v` corrected for their start at zero; under AMSGrad `v` is the largest so far.

    Args:
        weights: P parameters of R rows each, such as one for each probe, `(R, c)` float32 or
            float64, written.
        gradients: of the weights' shapes and type, as all moments.
        first: written: the running mean of the gradients.
        second: written: that of their squares.
        largest: written: the largest `second` so far; None for Adam.
        rates: `(R,)`, float32 or float64.
        decays: `(P, R)`, float32 or float64.
        step: the number of this step, from 1.
        betas: how much of each moment is kept.
        epsilon: added to the root of the second moment.
        clip: most that the norm of a row's gradients over all parameters may be, else they are
            scaled to it; None for no bound.
        backend: of those that `backends` names; by default the one of the device, and "eager" for
            float64.

    Raises:
        ValueError: a step below 1, betas outside [0, 1), an epsilon or clip that is not positive,
            or shapes, types or layouts that don't fit.

    Reference: Loshchilov & Hutter, Decoupled weight decay regularization (2019); Reddi et al., On
    the convergence of Adam and beyond (2018).
    """
    call = Call("adam")
    check_step(call, step, betas, epsilon, clip)
    lists = {"weights": weights, "gradients": gradients, "first": first, "second": second}
    if largest is not None:
        lists["largest"] = largest
    call.counts(len(weights), **lists)
    for name, values, shape in (
        ("rates", rates, (rates.numel(),)),
        ("decays", decays, (len(weights), rates.numel())),
    ):
        call.output(values, name, _float_of(values), shape)
    for p, own in enumerate(weights):
        call.matrix(own, f"weights[{p}]")
        shape = (len(rates), own.shape[1])
        for name, tensors in lists.items():
            call.output(tensors[p], f"{name}[{p}]", _float_of(weights[0]), shape)
    every = [*chain.from_iterable(lists.values()), rates, decays]
    choose_trainer(call, backend, every).adam(
        weights, gradients, first, second, largest, rates, decays, step, betas, epsilon, clip
    )


def _float_of(x: Tensor) -> torch.dtype:
    """float64 for what is of that type, float32 for what is, or should be, of the other."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
