"""Hidden units of probes, normalized, and their gradient: the checks, and the choice of backend.

`bertft.ops` has the table of all operations, and offers these with the others.
"""

import torch
from torch import Tensor

from bertft.ops.backends import choose_backend
from bertft.ops.checks import Call, check_hidden


def tanh_norm(
    x: Tensor,
    bias: Tensor,
    gain: Tensor,
    shift: Tensor,
    kept: Tensor | None,
    out: Tensor,
    *,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    backend: str | None = None,
) -> None:
    """Write hidden units of many probes: tanh, layer normalization and dropout in one pass.

    `x = tanh(x + bias)`, and `out = scale * (gain * (x - mean) / sqrt(var + epsilon) + shift)` with
    the mean and variance of each row's H units, or 0 where they are dropped. Cost: O(B K H).

    Args:
        x: `(B, K, H)` float32, sums of B rows under each of K probes, overwritten.
        bias: `(K, H)` float32, as are `gain` and `shift`.
        gain: see there.
        shift: see there.
        kept: `(B, K, H)` uint8, 1 for units that are kept and 0 for others; None for all.
        out: `(B, K, H)` float32, written.
        scale: of the units that are kept.
        epsilon: added to the variance.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.

    Reference: Ba et al., Layer normalization (2016); Tenney et al., What do you learn from context?
    (2019).
    """
    call = Call("tanh_norm")
    tensors = check_hidden(call, "x", x, bias, gain, shift, kept)
    call.output(out, "out", torch.float32, tuple(x.shape))
    choose_backend(call, backend, [*tensors, out]).tanh_norm(
        x, bias, gain, shift, kept, out, scale, epsilon
    )


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
    *,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    backend: str | None = None,
) -> None:
    """Turn the gradient of what `tanh_norm` wrote into the gradients of what it read.

    Units near 1 keep fewer digits: the slope of tanh is `1 - hidden^2`, from rounded units.

    Args:
        hidden: `(B, K, H)` float32, what it left in `x`.
        bias: as for `tanh_norm`, like `gain`, `shift`, `kept`, `scale`, `epsilon` and `backend`.
        gain: see there.
        shift: see there.
        kept: see there.
        gradient: `(B, K, H)` float32, of `out`; it becomes that of `x`.
        of_bias: `(K, H)` float32, written, as are `of_gain` and `of_shift`.
        of_gain: see there.
        of_shift: see there.
        scale: see there.
        epsilon: see there.
        backend: see there.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
    """
    call = Call("tanh_norm_gradient")
    tensors = check_hidden(call, "hidden", hidden, bias, gain, shift, kept)
    call.output(gradient, "gradient", torch.float32, tuple(hidden.shape))
    outputs = {"of_bias": of_bias, "of_gain": of_gain, "of_shift": of_shift}
    for name, tensor in outputs.items():
        call.output(tensor, name, torch.float32, tuple(bias.shape))
    tensors += [gradient, *outputs.values()]
    choose_backend(call, backend, tensors).tanh_norm_gradient(
        hidden, bias, gain, shift, kept, gradient, *outputs.values(), scale, epsilon
    )
