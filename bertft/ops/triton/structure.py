"""Losses of structural probes: projected words to gradients in place, no (n, n, rank) tensor."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import Build, on_device_of
from bertft.ops.triton.losses import add_lost

# Words of a tile; columns of a tile of words at most, which all of a usual rank's are.
WORDS, WIDEST = 32, 64
WARPS, STAGES = 8, 1


@triton.jit
def _load_words(words_ptr, row, stop, column, first_word, R, stride_n):
    """Columns of some words of a sentence, less its first word; 0 for what there is not."""
    mask = (row < stop)[:, None] & (column < R)[None, :]
    words = tl.load(words_ptr + row[:, None] * stride_n + column, mask=mask, other=0.0)
    return tl.where(mask, words - first_word[None, :], 0.0)


@triton.jit
def _distance_gradient(
    words_ptr,
    offsets_ptr,
    tables_ptr,
    gold_ptr,
    out_ptr,
    lost_ptr,
    probes,
    R,
    stride_wn,
    stride_on,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Program (s k, i, j): gradients of words i and columns j of sentence s under probe k.

    Products are those of float32 ("ieee"): the sign of an error hangs on them.
    """
    sentence, probe = tl.program_id(0) // probes, tl.program_id(0) % probes
    start, stop = tl.load(offsets_ptr + sentence), tl.load(offsets_ptr + sentence + 1)
    words = stop - start
    table_ptr = gold_ptr + tl.load(tables_ptr + sentence)
    words_ptr += probe.to(tl.int64) * R
    first_ptr = words_ptr + start * stride_wn
    place = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    own = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    first_own = tl.load(first_ptr + own, mask=own < R, other=0.0)
    signs_sum = tl.zeros((BLOCK_N,), tl.float32)
    signed = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    lost = tl.zeros((BLOCK_N,), tl.float64)
    # A block of words past the end of a short sentence has nothing to do.
    last = tl.where(tl.program_id(1) * BLOCK_N < words, words, 0)
    for first in range(0, last, BLOCK_N):
        other = first + tl.arange(0, BLOCK_N)
        products = tl.zeros((BLOCK_N, BLOCK_N), tl.float32)
        squares = tl.zeros((BLOCK_N,), tl.float32)
        other_squares = tl.zeros((BLOCK_N,), tl.float32)
        for some in range(0, R, BLOCK_R):
            column = some + tl.arange(0, BLOCK_R)
            first_word = tl.load(first_ptr + column, mask=column < R, other=0.0)
            a = _load_words(words_ptr, start + place, stop, column, first_word, R, stride_wn)
            b = _load_words(words_ptr, start + other, stop, column, first_word, R, stride_wn)
            products = tl.dot(a, tl.trans(b), products, input_precision="ieee")
            squares += tl.sum(a * a, axis=1)
            other_squares += tl.sum(b * b, axis=1)
        both = (place < words)[:, None] & (other < words)[None, :]
        gold = tl.load(table_ptr + place[:, None] * words + other, mask=both, other=0.0)
        # From a word to itself the distance is exactly 0, or NaN where it is not finite.
        itself = place[:, None] == other[None, :]
        products = tl.where(itself, squares[:, None], products)
        errors = (squares[:, None] - products) + (other_squares[None, :] - products) - gold
        errors = tl.where(both, errors, 0.0)
        lost += tl.sum(tl.abs(errors).to(tl.float64), axis=1)
        signs = (errors > 0.0).to(tl.float32) - (errors < 0.0).to(tl.float32)
        signs_sum += tl.sum(signs, axis=1)
        b = _load_words(words_ptr, start + other, stop, own, first_own, R, stride_wn)
        signed = tl.dot(signs, b, signed, input_precision="ieee")
    a = _load_words(words_ptr, start + place, stop, own, first_own, R, stride_wn)
    scale = 1.0 / (words * words).to(tl.float32)
    gradient = 4.0 * scale * (signs_sum[:, None] * a - signed)
    out_ptr += (start + place[:, None]) * stride_on + probe.to(tl.int64) * R + own
    tl.store(out_ptr, gradient, mask=(place < words)[:, None] & (own < R)[None, :])
    if tl.program_id(2) == 0:
        index = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        total = tl.sum(lost, axis=0) / (words * words).to(tl.float64)
        tl.store(lost_ptr + index, total)


def distance_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> Tensor:
    """See `bertft.ops.distance_gradient`; the verdict stays on the GPU."""
    sentences, probes, rank, width = _sizes(projected, offsets, losses)
    if not sentences:
        return add_lost(losses.new_empty(0, probes), losses)
    lengths = offsets.diff()
    tables = lengths.square().cumsum(0) - lengths.square()
    blocks = triton.cdiv(int(lengths.max()), WORDS)
    lost = losses.new_empty(blocks * sentences, probes)
    # Every program reads all words of its sentence, so that none may write over them.
    words = projected.clone(memory_format=torch.contiguous_format)
    with on_device_of(projected):
        _distance_gradient[(sentences * probes, blocks, triton.cdiv(rank, width))](
            words,
            offsets,
            tables,
            gold,
            projected,
            lost,
            probes,
            rank,
            words.stride(0),
            projected.stride(0),
            BLOCK_N=WORDS,
            BLOCK_R=width,
            num_warps=WARPS,
            num_stages=STAGES,
        )
    return add_lost(lost, losses)


@triton.jit
def _depth_gradient(
    words_ptr,
    offsets_ptr,
    gold_ptr,
    lost_ptr,
    probes,
    R,
    stride_wn,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Program i: a sentence under a probe."""
    sentence, probe = tl.program_id(0) // probes, tl.program_id(0) % probes
    start, stop = tl.load(offsets_ptr + sentence), tl.load(offsets_ptr + sentence + 1)
    words_ptr += probe.to(tl.int64) * R
    words = stop - start
    scale = 2.0 / words.to(tl.float32)
    lost = tl.zeros((BLOCK_N,), tl.float64)
    for first in range(start, stop, BLOCK_N):
        row = (first + tl.arange(0, BLOCK_N)).to(tl.int64)
        squares = tl.zeros((BLOCK_N,), tl.float32)
        for some in range(0, R, BLOCK_R):
            column = some + tl.arange(0, BLOCK_R)
            mask = (row < stop)[:, None] & (column < R)[None, :]
            place = row[:, None] * stride_wn + column
            p = tl.load(words_ptr + place, mask=mask, other=0.0)
            squares += tl.sum(p * p, axis=1)
        errors = squares - tl.load(gold_ptr + row, mask=row < stop, other=0.0)
        lost += tl.abs(errors).to(tl.float64)
        signs = (errors > 0.0).to(tl.float32) - (errors < 0.0).to(tl.float32)
        for some in range(0, R, BLOCK_R):
            column = some + tl.arange(0, BLOCK_R)
            mask = (row < stop)[:, None] & (column < R)[None, :]
            place = row[:, None] * stride_wn + column
            p = tl.load(words_ptr + place, mask=mask, other=0.0)
            tl.store(words_ptr + place, scale * signs[:, None] * p, mask=mask)
    total = tl.sum(lost, axis=0) / words.to(tl.float64)
    tl.store(lost_ptr + tl.program_id(0), total)


def depth_gradient(projected: Tensor, offsets: Tensor, gold: Tensor, losses: Tensor) -> Tensor:
    """See `bertft.ops.depth_gradient`; the verdict stays on the GPU."""
    sentences, probes, rank, width = _sizes(projected, offsets, losses)
    lost = losses.new_empty(sentences, probes)
    if sentences:
        with on_device_of(projected):
            _depth_gradient[(sentences * probes,)](
                projected,
                offsets,
                gold,
                lost,
                probes,
                rank,
                projected.stride(0),
                BLOCK_N=WORDS,
                BLOCK_R=width,
                num_warps=WARPS,
                num_stages=STAGES,
            )
    return add_lost(lost, losses)


def _sizes(projected: Tensor, offsets: Tensor, losses: Tensor) -> tuple[int, int, int, int]:
    """Sentences, probes, their rank, and how many of its columns a tile has."""
    probes = len(losses)
    rank = projected.shape[1] // probes
    # Products on the GPU have 16 columns at least.
    width = min(max(triton.next_power_of_2(rank), 16), WIDEST)
    return len(offsets) - 1, probes, rank, width


BUILDS = [
    Build(
        f"{name} {width}",
        kernel,
        arguments,
        {"BLOCK_N": WORDS, "BLOCK_R": width},
        warps=WARPS,
        stages=STAGES,
    )
    for width in (WIDEST, 16)
    for name, kernel, arguments in (
        (
            "distance_gradient",
            _distance_gradient,
            {
                "words_ptr": "*fp32",
                "offsets_ptr": "*i64",
                "tables_ptr": "*i64",
                "gold_ptr": "*fp32",
                "out_ptr": "*fp32",
                "lost_ptr": "*fp64",
                "probes": "i32",
                "R": "i32",
                "stride_wn": "i32",
                "stride_on": "i32",
            },
        ),
        (
            "depth_gradient",
            _depth_gradient,
            {
                "words_ptr": "*fp32",
                "offsets_ptr": "*i64",
                "gold_ptr": "*fp32",
                "lost_ptr": "*fp64",
                "probes": "i32",
                "R": "i32",
                "stride_wn": "i32",
            },
        ),
    )
]
