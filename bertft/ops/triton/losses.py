"""Losses of banks of probes: logits to gradients in place, the probabilities never in memory."""

import triton
import triton.language as tl
from torch import Tensor

from bertft.ops import eager
from bertft.ops.checks import Call, require_classes, require_labels
from bertft.ops.triton.launching import Build, on_device_of

# Logits of a program at a time, and labels among them at most: a label's logits lie side by side.
TILE, TALLEST = 512, 16


@triton.jit
def log1p(x):
    """`log(1 + x)` for x >= 0 to the last digits, also of a small x (Goldberg 1991, theorem 4)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def _softmax_gradient(
    logits_ptr,
    offsets_ptr,
    targets_ptr,
    lost_ptr,
    N,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program k blocks + i: targets i of probe k; NaN is lost where a logit is not finite."""
    program, blocks = tl.program_id(0), tl.cdiv(tl.cast(N, tl.int64), BLOCK_N)
    probe, column = program // blocks, program % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    start, stop = tl.load(offsets_ptr + probe), tl.load(offsets_ptr + probe + 1)
    target = tl.load(targets_ptr + probe * N + column, mask=column < N, other=-1)
    counts = target >= 0
    # The largest logit so far, the exponentials of those beside the target, and the target's logit.
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    others = tl.zeros((BLOCK_N,), tl.float32)
    chosen = tl.zeros((BLOCK_N,), tl.float32)
    is_finite = tl.full((BLOCK_N,), 1, tl.int32)
    for first in range(start, stop, BLOCK_C):
        row = (first + tl.arange(0, BLOCK_C)).to(tl.int64)[:, None]
        is_own = row < stop
        z = tl.load(logits_ptr + row * N + column, mask=counts & is_own, other=0.0)
        is_finite &= tl.min((tl.abs(z) < float("inf")).to(tl.int32), axis=0)
        top = tl.maximum(largest, tl.max(tl.where(is_own, z, float("-inf")), axis=0))
        is_target = row == start + target
        e = tl.where(is_own & ~is_target, tl.exp(z - top), 0.0)
        others = others * tl.exp(largest - top) + tl.sum(e, axis=0)
        chosen += tl.sum(tl.where(is_target, z, 0.0), axis=0)
        largest = top
    total = others + tl.exp(chosen - largest)
    # Where the target's logit is the largest the sum is 1 + others: small losses keep their digits.
    of_others = tl.where(chosen == largest, log1p(others), tl.log(total))
    lost = of_others.to(tl.float64) + (largest.to(tl.float64) - chosen.to(tl.float64))
    lost = tl.where(counts, tl.where(is_finite != 0, lost, float("nan")), 0.0)
    tl.store(lost_ptr + program, tl.sum(lost, axis=0))
    for first in range(start, stop, BLOCK_C):
        row = (first + tl.arange(0, BLOCK_C)).to(tl.int64)[:, None]
        mask = (row < stop) & (column < N)
        z = tl.load(logits_ptr + row * N + column, mask=mask & counts, other=0.0)
        share = tl.exp(z - largest) / total
        gradient = tl.where(counts, share - (row == start + target).to(tl.float32), 0.0)
        tl.store(logits_ptr + row * N + column, gradient, mask=mask)


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
    """See `bertft.ops.softmax_gradient`; the verdict stays on the GPU."""
    require_classes(Call("softmax_gradient"), targets, offsets.diff())
    blocks, tile = _blocks(logits, losses)
    lost = losses.new_empty(len(losses), blocks)
    if logits.numel():
        with on_device_of(logits):
            _softmax_gradient[(lost.numel(),)](
                logits, offsets, targets, lost, logits.shape[1], BLOCK_C=tile[0], BLOCK_N=tile[1]
            )
    return add_lost(lost.T, losses)


@triton.jit
def _sigmoid_gradient(
    logits_ptr,
    offsets_ptr,
    targets_ptr,
    lost_ptr,
    N,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Program k blocks + i: targets i of probe k; NaN is lost where a logit is not finite."""
    program, blocks = tl.program_id(0), tl.cdiv(tl.cast(N, tl.int64), BLOCK_N)
    probe, column = program // blocks, program % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    start, stop = tl.load(offsets_ptr + probe), tl.load(offsets_ptr + probe + 1)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for first in range(start, stop, BLOCK_C):
        row = (first + tl.arange(0, BLOCK_C)).to(tl.int64)[:, None]
        place, mask = row * N + column, (row < stop) & (column < N)
        label = tl.load(targets_ptr + place, mask=mask, other=255)
        counts = label != 255
        z = tl.load(logits_ptr + place, mask=counts, other=0.0)
        y = (label == 1).to(tl.float32)
        e = tl.exp(-tl.abs(z))
        lost = tl.maximum(z, 0.0) - z * y + log1p(e)
        lost = tl.where(tl.abs(z) < float("inf"), lost, float("nan"))
        total += tl.sum(tl.where(counts, lost, 0.0).to(tl.float64), axis=0)
        gradient = tl.where(z < 0.0, e, 1.0) / (1.0 + e) - y
        tl.store(logits_ptr + place, tl.where(counts, gradient, 0.0), mask=mask)
    tl.store(lost_ptr + program, tl.sum(total, axis=0))


def sigmoid_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
    """See `bertft.ops.sigmoid_gradient`; the verdict stays on the GPU."""
    require_labels(Call("sigmoid_gradient"), targets, offsets)
    blocks, tile = _blocks(logits, losses)
    lost = losses.new_empty(len(losses), blocks)
    if logits.numel():
        with on_device_of(logits):
            _sigmoid_gradient[(lost.numel(),)](
                logits, offsets, targets, lost, logits.shape[1], BLOCK_C=tile[0], BLOCK_N=tile[1]
            )
    return add_lost(lost.T, losses)


def add_lost(lost: Tensor, losses: Tensor) -> Tensor:
    """Add what programs have found, `(programs, K)` float64, and return whether it is finite."""
    added = lost.sum(dim=0)
    losses += added
    is_finite: Tensor = added.isfinite().all()
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
) -> bool | Tensor:
    """See `bertft.ops.linear_gradient`: products by torch, the losses fused."""
    by = (softmax_gradient, sigmoid_gradient)
    return eager.linear_gradient(
        x, weights, biases, targets, scales, losses, of_weights, of_biases, by
    )


def _blocks(logits: Tensor, losses: Tensor) -> tuple[int, tuple[int, int]]:
    """The blocks of targets, and the tile of a program: as tall as the probes are on average."""
    probes = max(len(losses), 1)
    height = triton.next_power_of_2(triton.cdiv(max(len(logits), 1), probes))
    height = min(max(height, 2), TALLEST)
    width = TILE // height
    return triton.cdiv(logits.shape[1], width), (height, width)


BUILDS = [
    Build(
        name,
        kernel,
        {
            "logits_ptr": "*fp32",
            "offsets_ptr": "*i64",
            "targets_ptr": targets,
            "lost_ptr": "*fp64",
            "N": "i32",
        },
        {"BLOCK_C": height, "BLOCK_N": TILE // height},
    )
    for height in (TALLEST, 8, 4, 2)
    for name, kernel, targets in (
        (f"softmax_gradient {height}", _softmax_gradient, "*i64"),
        (f"sigmoid_gradient {height}", _sigmoid_gradient, "*u8"),
    )
]
