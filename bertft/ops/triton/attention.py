"""Pooling of spans by self-attention, forward and backward, the weights never in memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.checks import Call, require_spans
from bertft.ops.eager import rows_of_spans
from bertft.ops.triton.launching import Build, on_device_of

# Values of a tile of rows; most spans have one to four rows.
TILE, ROWS = 4096, 4


@triton.jit
def _attend_spans(
    x_ptr,
    weight_ptr,
    starts_ptr,
    stops_ptr,
    out_ptr,
    logsums_ptr,
    K,
    H,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program b K + k: span b under probe k, with a softmax that goes along (online)."""
    place = tl.program_id(0).to(tl.int64)
    span, probe = place // K, place % K
    column = tl.arange(0, BLOCK_H)
    is_column = column < H
    weight = tl.load(weight_ptr + probe * H + column, mask=is_column, other=0.0)
    start, stop = tl.load(starts_ptr + span), tl.load(stops_ptr + span)
    TYPE: tl.constexpr = weight.dtype
    largest = tl.full((), float("-inf"), TYPE)
    total = tl.full((), 0.0, TYPE)
    mean = tl.zeros((BLOCK_H,), TYPE)
    for first in range(start, stop, BLOCK_N):
        row = first + tl.arange(0, BLOCK_N)
        mask = (row < stop)[:, None] & is_column[None, :]
        x = tl.load(x_ptr + (row[:, None] * K + probe) * H + column, mask=mask, other=0.0)
        logit = tl.where(row < stop, tl.sum(x * weight[None, :], axis=1), float("-inf"))
        top = tl.maximum(largest, tl.max(logit, axis=0))
        kept = tl.exp(largest - top)
        share = tl.exp(logit - top)
        total = total * kept + tl.sum(share, axis=0)
        mean = mean * kept + tl.sum(share[:, None] * x, axis=0)
        largest = top
    tl.store(out_ptr + place * H + column, mean / total, mask=is_column)
    tl.store(logsums_ptr + place, largest + tl.log(total))


def attend_spans(
    x: Tensor, weight: Tensor, starts: Tensor, stops: Tensor, out: Tensor, logsums: Tensor
) -> None:
    """See `bertft.ops.attend_spans`."""
    require_spans(Call("attend_spans"), len(x), starts, stops)
    spans, probes, width = out.shape
    if not out.numel():
        return
    with on_device_of(x):
        _attend_spans[(spans * probes,)](
            x, weight, starts, stops, out, logsums, probes, width, **_tile(width)
        )


@triton.jit
def _attend_spans_gradient(
    x_ptr,
    weight_ptr,
    bounds_ptr,
    span_ptr,
    out_ptr,
    logsums_ptr,
    gradient_ptr,
    of_x_ptr,
    of_logits_ptr,
    K,
    H,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    """Program i K + k: row i of probe k, from the spans that it is in, `span[bounds[i]:...]`."""
    place = tl.program_id(0).to(tl.int64)
    row, probe = place // K, place % K
    column = tl.arange(0, BLOCK_H)
    is_column = column < H
    weight = tl.load(weight_ptr + probe * H + column, mask=is_column, other=0.0)
    x = tl.load(x_ptr + place * H + column, mask=is_column, other=0.0)
    logit = tl.sum(x * weight, axis=0)
    start, stop = tl.load(bounds_ptr + row), tl.load(bounds_ptr + row + 1)
    of_logit = tl.full((), 0.0, weight.dtype)
    of_x = tl.zeros((BLOCK_H,), weight.dtype)
    for first in range(start, stop, BLOCK_N):
        index = first + tl.arange(0, BLOCK_N)
        is_span = index < stop
        of_span = tl.load(span_ptr + index, mask=is_span, other=0) * K + probe
        value = of_span[:, None] * H + column
        mask = is_span[:, None] & is_column[None, :]
        mean = tl.load(out_ptr + value, mask=mask, other=0.0)
        gradient = tl.load(gradient_ptr + value, mask=mask, other=0.0)
        logsum = tl.load(logsums_ptr + of_span, mask=is_span, other=float("inf"))
        share = tl.exp(logit - logsum)
        of_logit += tl.sum(share * tl.sum(gradient * (x[None, :] - mean), axis=1), axis=0)
        of_x += tl.sum(share[:, None] * gradient, axis=0)
    tl.store(of_x_ptr + place * H + column, of_x + of_logit * weight, mask=is_column)
    tl.store(of_logits_ptr + place, of_logit)


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
    """See `bertft.ops.attend_spans_gradient`; of rows, so that no two programs add to one place."""
    require_spans(Call("attend_spans_gradient"), len(x), starts, stops)
    rows, probes, width = x.shape
    row, span = rows_of_spans(starts, stops)
    row, order = row.sort(stable=True)
    bounds = torch.searchsorted(row, torch.arange(rows + 1, device=x.device))
    of_logits = x.new_empty(rows, probes)
    if x.numel():
        with on_device_of(x):
            _attend_spans_gradient[(rows * probes,)](
                x,
                weight,
                bounds,
                span[order],
                out,
                logsums,
                gradient,
                of_x,
                of_logits,
                probes,
                width,
                **_tile(width),
            )
    torch.bmm(of_logits.T[:, None], x.transpose(0, 1), out=of_weight[:, None])


def _tile(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK_N": max(1, min(ROWS, TILE // block)), "BLOCK_H": block}


_NAMES = {
    "attend_spans": ("x", "weight", "starts", "stops", "out", "logsums"),
    "attend_spans_gradient": (
        *("x", "weight", "bounds", "span", "out", "logsums", "gradient", "of_x", "of_logits"),
    ),
}
BUILDS = [
    Build(
        f"{kernel.__name__[1:]} {kind}",
        kernel,
        {
            f"{name}_ptr": "*i64" if name in ("starts", "stops", "bounds", "span") else f"*{kind}"
            for name in _NAMES[kernel.__name__[1:]]
        }
        | {"K": "i32", "H": "i32"},
        {"BLOCK_N": ROWS, "BLOCK_H": 256},
        aligned=("H",),
    )
    for kind in ("fp32", "fp64")
    for kernel in (_attend_spans, _attend_spans_gradient)
]
