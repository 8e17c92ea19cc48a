"""Losses of banks of probes: logits to gradients in place, the probabilities never in memory."""

import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.checks import Call, require_labels, require_targets
from bertft.ops.triton.launching import Build, on_device_of

# Logits of a program at a time, and of a row at most: a bank of 17 to 100 labels has whole rows.
TILE, WIDEST = 512, 256


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
    C,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (i, k): rows i of probe k. A loss is NaN where a logit that counts is not finite."""
    probe, probes = tl.program_id(1), tl.num_programs(1)
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    start, stop = tl.load(offsets_ptr + probe), tl.load(offsets_ptr + probe + 1)
    target = tl.load(targets_ptr + row * probes + probe, mask=row < N, other=-1)
    counts = target >= 0
    row_ptr = logits_ptr + row[:, None] * C
    # The largest logit so far, the exponentials of those beside the target, and the target's logit.
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    others = tl.zeros((BLOCK_N,), tl.float32)
    chosen = tl.zeros((BLOCK_N,), tl.float32)
    is_finite = tl.full((BLOCK_N,), 1, tl.int32)
    for first in range(start, stop, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        is_own = (column < stop)[None, :]
        z = tl.load(row_ptr + column, mask=counts[:, None] & is_own, other=0.0)
        is_finite &= tl.min((tl.abs(z) < float("inf")).to(tl.int32), axis=1)
        top = tl.maximum(largest, tl.max(tl.where(is_own, z, float("-inf")), axis=1))
        is_target = column[None, :] == start + target[:, None]
        e = tl.where(is_own & ~is_target, tl.exp(z - top[:, None]), 0.0)
        others = others * tl.exp(largest - top) + tl.sum(e, axis=1)
        chosen += tl.sum(tl.where(is_target, z, 0.0), axis=1)
        largest = top
    total = others + tl.exp(chosen - largest)
    # Where the target's logit is the largest the sum is 1 + others: small losses keep their digits.
    of_others = tl.where(chosen == largest, log1p(others), tl.log(total))
    lost = of_others.to(tl.float64) + (largest.to(tl.float64) - chosen.to(tl.float64))
    lost = tl.where(counts, tl.where(is_finite != 0, lost, float("nan")), 0.0)
    tl.store(lost_ptr + tl.program_id(0).to(tl.int64) * probes + probe, tl.sum(lost, axis=0))
    for first in range(start, stop, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        mask = (row < N)[:, None] & (column < stop)[None, :]
        z = tl.load(row_ptr + column, mask=mask & counts[:, None], other=0.0)
        share = tl.exp(z - largest[:, None]) / total[:, None]
        onehot = (column[None, :] == start + target[:, None]).to(tl.float32)
        gradient = tl.where(counts[:, None], share - onehot, 0.0)
        tl.store(row_ptr + column, gradient, mask=mask)


def softmax_gradient(logits: Tensor, offsets: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
    """See `bertft.ops.softmax_gradient`; the verdict stays on the GPU."""
    require_targets(Call("softmax_gradient"), targets, offsets.diff())
    grid, tile = _blocks(logits, losses)
    lost = losses.new_empty(grid)
    if logits.numel():
        with on_device_of(logits):
            _softmax_gradient[grid](
                logits, offsets, targets, lost, *logits.shape, BLOCK_N=tile[0], BLOCK_C=tile[1]
            )
    return add_lost(lost, losses)


@triton.jit
def _sigmoid_gradient(
    logits_ptr,
    offsets_ptr,
    targets_ptr,
    lost_ptr,
    N,
    C,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (i, k): rows i of probe k. A loss is NaN where a logit that counts is not finite."""
    probe, probes = tl.program_id(1), tl.num_programs(1)
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    start, stop = tl.load(offsets_ptr + probe), tl.load(offsets_ptr + probe + 1)
    total = tl.zeros((BLOCK_N,), tl.float64)
    for first in range(start, stop, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        place = row[:, None] * C + column
        mask = (row < N)[:, None] & (column < stop)[None, :]
        label = tl.load(targets_ptr + place, mask=mask, other=255)
        counts = label != 255
        z = tl.load(logits_ptr + place, mask=counts, other=0.0)
        y = (label == 1).to(tl.float32)
        e = tl.exp(-tl.abs(z))
        lost = tl.maximum(z, 0.0) - z * y + log1p(e)
        lost = tl.where(tl.abs(z) < float("inf"), lost, float("nan"))
        total += tl.sum(tl.where(counts, lost, 0.0).to(tl.float64), axis=1)
        gradient = tl.where(z < 0.0, e, 1.0) / (1.0 + e) - y
        tl.store(logits_ptr + place, tl.where(counts, gradient, 0.0), mask=mask)
    tl.store(lost_ptr + tl.program_id(0).to(tl.int64) * probes + probe, tl.sum(total, axis=0))


def sigmoid_gradient(logits: Tensor, targets: Tensor, losses: Tensor, offsets: Tensor) -> Tensor:
    """See `bertft.ops.sigmoid_gradient`; the verdict stays on the GPU."""
    require_labels(Call("sigmoid_gradient"), targets, offsets)
    grid, tile = _blocks(logits, losses)
    lost = losses.new_empty(grid)
    if logits.numel():
        with on_device_of(logits):
            _sigmoid_gradient[grid](
                logits, offsets, targets, lost, *logits.shape, BLOCK_N=tile[0], BLOCK_C=tile[1]
            )
    return add_lost(lost, losses)


def add_lost(lost: Tensor, losses: Tensor) -> Tensor:
    """Add what programs have found, `(programs, K)` float64, and return whether it is finite."""
    added = lost.sum(dim=0)
    losses += added
    is_finite: Tensor = added.isfinite().all()
    return is_finite


def _blocks(logits: Tensor, losses: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """The grid, and the tile of a program: as wide as the probes are on average."""
    probes = max(len(losses), 1)
    width = triton.next_power_of_2(triton.cdiv(max(logits.shape[1], 1), probes))
    width = min(max(width, 16), WIDEST)
    height = TILE // width
    return (triton.cdiv(len(logits), height), len(losses)), (height, width)


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
            "C": "i32",
        },
        {"BLOCK_N": TILE // width, "BLOCK_C": width},
    )
    for width in (64, 16, WIDEST)
    for name, kernel, targets in (
        (f"softmax_gradient {width}", _softmax_gradient, "*i64"),
        (f"sigmoid_gradient {width}", _sigmoid_gradient, "*u8"),
    )
]
