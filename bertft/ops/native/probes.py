"""Products, losses, spans, hidden units and the optimizer of probes."""

from collections.abc import Sequence

from torch import Tensor

from bertft import _native
from bertft.ops.native.running import threads_now, view, views
from bertft.ops.types import EdgeProbes, SpanRows


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """See `bertft.ops.multiply`."""
    _native.multiply(view(a), view(b), view(out), threads_now())


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.softmax_gradient`."""
    threads = threads_now()
    return _native.softmax_gradient(
        view(logits), view(offsets), view(targets), view(losses), threads
    )


def sigmoid_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.sigmoid_gradient`."""
    threads = threads_now()
    return _native.sigmoid_gradient(
        view(logits), view(offsets), view(targets), view(losses), threads
    )


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
    return _native.linear_gradient(
        view(x),
        view(weights),
        None if biases is None else view(biases),
        view(targets),
        view(scales),
        view(losses),
        view(of_weights),
        None if of_biases is None else view(of_biases),
        threads_now(),
    )


def distance_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.distance_gradient`."""
    threads = threads_now()
    return _native.distance_gradient(
        view(projected), view(offsets), view(gold), view(losses), threads
    )


def depth_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> bool:
    """See `bertft.ops.depth_gradient`."""
    threads = threads_now()
    return _native.depth_gradient(view(projected), view(offsets), view(gold), view(losses), threads)


def attend_spans(
    x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor, out: Tensor, logsums: Tensor
) -> None:
    """See `bertft.ops.attend_spans`."""
    _native.attend_spans(
        view(x),
        view(weight),
        view(starts),
        view(stops),
        view(out),
        view(logsums),
        threads_now(),
    )


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
    _native.attend_spans_gradient(
        view(x),
        view(weight),
        view(starts),
        view(stops),
        view(out),
        view(logsums),
        view(gradient),
        view(of_x),
        view(of_weight),
        threads_now(),
    )


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
    _native.tanh_norm(
        view(x),
        view(bias),
        view(gain),
        view(shift),
        epsilon,
        None if kept is None else view(kept),
        scale,
        view(out),
        threads_now(),
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
    scale: float,
    epsilon: float,
) -> None:
    """See `bertft.ops.tanh_norm_gradient`."""
    _native.tanh_norm_gradient(
        view(hidden),
        view(bias),
        view(gain),
        view(shift),
        epsilon,
        None if kept is None else view(kept),
        scale,
        view(gradient),
        view(of_bias),
        view(of_gain),
        view(of_shift),
        threads_now(),
    )


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
    return _native.edge_gradient(
        [views(own) for own in probes.projections],
        views(probes[1:]),
        [views(span) for span in spans],
        view(targets),
        view(scales),
        None if kept is None else view(kept),
        scale,
        epsilon,
        view(losses),
        [views(own) for own in gradients.projections],
        views(gradients[1:]),
        None if of_x is None else views(of_x),
        threads_now(),
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
    betas: tuple[float, float],
    epsilon: float,
    clip: float | None,
) -> None:
    """See `bertft.ops.adam`."""
    _native.adam(
        views(weights),
        views(gradients),
        views(first),
        views(second),
        None if largest is None else views(largest),
        view(rates),
        view(decays),
        step,
        *betas,
        epsilon,
        clip,
        threads_now(),
    )
