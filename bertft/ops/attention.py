"""Self-attentive pooling of spans and its gradient: the checks, and the choice of backend.

`bertft.ops` has the table of all operations, and offers these with the others.
"""

from torch import Tensor

from bertft.ops.backends import choose_trainer
from bertft.ops.checks import Call, check_spans

# What takes no float64.
NARROW = ("native",)


def attend_spans(
    x: Tensor,
    weight: Tensor,
    starts: Tensor,
    stops: Tensor,
    out: Tensor,
    logsums: Tensor,
    *,
    backend: str | None = None,
) -> None:
    """Write the mean of the rows of each span, weighted by a softmax over them, for many probes.

    `out[b, k] = sum_i a_i x[i, k]` with `a = softmax(x[:, k] . weight[k])` over the rows
    `starts[b]` to `stops[b] - 1`. Cost: O(E K H) for E rows of all spans.

    Args:
        x: `(N, K, H)` float32 or float64, rows under each of K probes.
        weight: `(K, H)`, of `x`'s type. A bias would change nothing.
        starts: `(B,)` int64, the first row of each span.
        stops: `(B,)` int64, one past its last row.
        out: `(B, K, H)`, written.
        logsums: `(B, K)`, written: the log of the sum of the exponentials, for the gradient.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: a span that is empty or leaves `x`; shapes, types or layouts that don't fit.

    Reference: Lee et al., End-to-end neural coreference resolution (2017), equation 8; Tenney et
    al., What do you learn from context? (2019).
    """
    call = Call("attend_spans")
    check_spans(call, x, weight, starts, stops)
    (_, k, h), b = x.shape, len(starts)
    call.output(out, "out", x.dtype, (b, k, h))
    call.output(logsums, "logsums", x.dtype, (b, k))
    tensors = (x, weight, starts, stops, out, logsums)
    choose_trainer(call, backend, tensors, NARROW).attend_spans(*tensors)


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
    *,
    backend: str | None = None,
) -> None:
    """Write the gradients of what `attend_spans` read, from the gradient of what it wrote.

    With `d_i = a_i gradient[b, k] . (x[i, k] - out[b, k])` the gradient of a row's logit, a row has
    `sum_b a_i gradient[b, k] + d_i weight[k]` over its spans, and a weight `sum_i d_i x[i, k]`.

    Args:
        x: as for `attend_spans`, like `weight`, `starts` and `stops`.
        weight: see there.
        starts: see there.
        stops: see there.
        out: what it wrote.
        logsums: what it wrote.
        gradient: `(B, K, H)`, of `out`.
        of_x: `(N, K, H)`, written; 0 for rows outside of all spans.
        of_weight: `(K, H)`, written.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: a span that is empty or leaves `x`; shapes, types or layouts that don't fit.
    """
    call = Call("attend_spans_gradient")
    check_spans(call, x, weight, starts, stops)
    (_, k, h), b = x.shape, len(starts)
    for name, tensor in (("out", out), ("gradient", gradient)):
        call.output(tensor, name, x.dtype, (b, k, h))
    call.output(logsums, "logsums", x.dtype, (b, k))
    call.output(of_x, "of_x", x.dtype, tuple(x.shape))
    call.output(of_weight, "of_weight", x.dtype, (k, h))
    tensors = (x, weight, starts, stops, out, logsums, gradient, of_x, of_weight)
    choose_trainer(call, backend, tensors, NARROW).attend_spans_gradient(*tensors)
