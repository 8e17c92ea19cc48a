"""The operations by which many probes are trained at once: the checks, and the choice of backend.

Probes lie side by side: a matrix of logits has the columns of probe 0, then those of probe 1.
`bertft.ops` has the table of all operations, and offers these with the others.
"""

import torch
from torch import Tensor

from bertft.ops.backends import choose_backend, choose_trainer
from bertft.ops.checks import (
    Call,
    check_factors,
    check_offsets,
    check_step,
)


def multiply(a: Tensor, b: Tensor, out: Tensor, *, backend: str | None = None) -> None:
    """Write the product of two matrices, `out = a @ b`.

    Cost: O(m n k). Products are summed in the matrices' type, in runs of `k`.

    Args:
        a: `(m, k)`, float32 or float64, of any strides.
        b: `(k, n)`, of `a`'s type and any strides.
        out: `(m, n)`, of that type; a row is contiguous, rows may lie apart.
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

    By row and probe `logits = softmax(logits) - onehot(target)`, the gradient of the sum of what
    `losses` is added, `log(sum(exp(logits))) - logits[target]` (nats).

    Args:
        logits: `(n, c)` float32, overwritten; probe k has the columns from `offsets[k]` to
            `offsets[k + 1]`.
        offsets: `(K + 1,)` int64, from 0 up to `c`.
        targets: `(n, K)` int64, a column of the probe, or -1 where a row does not count: its
            gradient is 0.
        losses: `(K,)` float64, added to.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target that the probe does not have; shapes, types or layouts that don't fit.
    """
    call = Call("softmax_gradient")
    call.matrix(logits, "logits")
    n, columns = logits.shape
    probes = check_offsets(call, offsets, columns)
    call.output(logits, "logits", torch.float32, (n, columns))
    call.output(targets, "targets", torch.int64, (n, probes))
    call.output(losses, "losses", torch.float64, (probes,))
    tensors = [logits, offsets, targets, losses]
    chosen = choose_backend(call, backend, tensors)
    return bool(chosen.softmax_gradient(logits, offsets, targets, losses))


def sigmoid_gradient(
    logits: Tensor, targets: Tensor, losses: Tensor, offsets: Tensor, *, backend: str | None = None
) -> bool:
    """Turn logits of many probes into the gradients of their binary cross-entropies.

    By element `logits = sigmoid(logits) - target`, the gradient of the sum of what `losses` is
    added, `log(1 + exp(logit)) - target * logit` (nats).

    Args:
        logits: `(n, c)` float32, overwritten; probe k has the columns from `offsets[k]` to
            `offsets[k + 1]`.
        targets: `(n, c)` uint8, 0 or 1, or 255 where a logit does not count: its gradient is 0.
        losses: `(K,)` float64, added to.
        offsets: `(K + 1,)` int64, from 0 up to `c`.
        backend: of those that `backends` names; by default the one of the device.

    Returns:
        Whether every logit that counts is finite.

    Raises:
        ValueError: a target of another value; shapes, types or layouts that don't fit.
    """
    call = Call("sigmoid_gradient")
    call.matrix(logits, "logits")
    n, columns = logits.shape
    probes = check_offsets(call, offsets, columns)
    call.output(logits, "logits", torch.float32, (n, columns))
    call.output(targets, "targets", torch.uint8, (n, columns))
    call.output(losses, "losses", torch.float64, (probes,))
    tensors = [logits, targets, losses, offsets]
    chosen = choose_backend(call, backend, tensors)
    return bool(chosen.sigmoid_gradient(logits, targets, losses, offsets))


def adam(
    weights: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    largest: Tensor | None,
    rates: Tensor,
    decays: Tensor,
    step: int,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    backend: str | None = None,
) -> None:
    """Take a step of Adam with decoupled weight decay, each row at its own rate.

    `weights -= rate * decay * weights + rate * m / (sqrt(v) + epsilon)`, with the moments `m` and
    `v` corrected for their start at zero; under AMSGrad `v` is the largest so far.

    Args:
        weights: `(r, c)` float32 or float64, written.
        gradients: `(r, c)`, of the weights' type, as all moments.
        first: `(r, c)`, written: the running mean of the gradients.
        second: `(r, c)`, written: that of their squares.
        largest: `(r, c)`, written: the largest `second` so far; None for Adam.
        rates: `(r,)`, float32 or float64.
        decays: `(r,)`, float32 or float64.
        step: the number of this step, from 1.
        betas: how much of each moment is kept.
        epsilon: added to the root of the second moment.
        backend: of those that `backends` names; by default the one of the device, and "eager" for
            float64.

    Raises:
        ValueError: a step below 1, betas outside [0, 1), an epsilon that is not positive, or
            shapes, types or layouts that don't fit.

    Reference: Loshchilov & Hutter, Decoupled weight decay regularization (2019); Reddi et al., On
    the convergence of Adam and beyond (2018).
    """
    call = Call("adam")
    check_step(call, step, betas, epsilon)
    call.matrix(weights, "weights")
    shape = tuple(weights.shape)
    matrices = {"weights": weights, "gradients": gradients, "first": first, "second": second}
    if largest is not None:
        matrices["largest"] = largest
    dtype = _float_of(weights)
    for name, matrix in matrices.items():
        call.output(matrix, name, dtype, shape)
    for name, values in (("rates", rates), ("decays", decays)):
        call.output(values, name, _float_of(values), shape[:1])
    tensors = [*matrices.values(), rates, decays]
    choose_trainer(call, backend, tensors).adam(
        weights, gradients, first, second, largest, rates, decays, step, betas, epsilon
    )


def _float_of(x: Tensor) -> torch.dtype:
    """float64 for what is of that type, float32 for what is, or should be, of the other."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
