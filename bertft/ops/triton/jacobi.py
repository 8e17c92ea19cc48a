"""Eigenvalue problems of many small symmetric matrices in one launch, by block Jacobi.

One-sided Jacobi (Hestenes 1958) turns rows until all are orthogonal. Of a symmetric positive
definite matrix they are then its eigenvectors times its eigenvalues, so that no other matrix is
turned along. Every matrix is scaled to eigenvalues in [-1, 1] and shifted to [1, 3], where rows
are as good as orthonormal to rounding. Rows meet in blocks: the products of two blocks, held in
registers, tell an orthogonal map that makes them smaller, and a product applies it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.triton.launching import Build, on_device_of

LARGEST = 128
"""Columns of the largest matrices that are solved so."""

# Rows of a block, a power of two; sweeps, of which matrices take 6 to 10 and few twice as many.
BLOCK, SWEEPS = 16, 40
WARPS, STAGES = 4, 1


@triton.jit
def _map_of(products, P: tl.constexpr):
    """An orthogonal map of P rows, given their products, under which these come near a diagonal.

    Row i meets row i ^ m in round m, so that P - 1 rounds of P / 2 rotations are a sweep. Both rows
    of a pair compute their rotation, and come to the same bits: all differences change sign only.
    """
    row = tl.arange(0, P)
    turned = (row[:, None] == row[None, :]).to(tl.float64)
    for m in range(1, P):
        partner = row ^ m
        itself = row[:, None] == row[None, :]
        pair = partner[:, None] == row[None, :]
        square = tl.sum(tl.where(itself, products, 0.0), axis=1)
        squares = tl.sum(tl.where(itself, products, 0.0), axis=0)
        other = tl.sum(tl.where(pair, squares[None, :], 0.0), axis=1)
        # Above and below the diagonal, which rounding makes differ.
        twice = tl.sum(tl.where(pair, products + tl.trans(products), 0.0), axis=1)
        ratio = (other - square) / tl.where(twice == 0.0, 1.0, twice)
        sign = tl.where((ratio > 0.0) | ((ratio == 0.0) & (row < partner)), 1.0, -1.0)
        tangent = sign / (tl.abs(ratio) + tl.sqrt(1.0 + ratio * ratio))
        tangent = tl.where(twice == 0.0, 0.0, tangent)
        cosine = 1.0 / tl.sqrt(1.0 + tangent * tangent)
        sine = cosine * tangent
        # Every row is turned with its partner's, and of the products every column too.
        cosine, sine = cosine[:, None], sine[:, None]
        swap = tl.broadcast_to(partner[:, None], (P, P))
        products = tl.trans(cosine * products - sine * tl.gather(products, swap, axis=0))
        products = cosine * products - sine * tl.gather(products, swap, axis=0)
        turned = cosine * turned - sine * tl.gather(turned, swap, axis=0)
    return turned


@triton.jit
def _jacobi(
    rows_ptr,
    angles_ptr,
    tolerance: tl.float64,
    sweeps,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program i: rows of matrix i, `(D, D)`, become orthogonal; the largest cosine of the last."""
    rows_ptr += tl.program_id(0).to(tl.int64) * D * D
    index = tl.arange(0, 2 * BLOCK)
    column = tl.arange(0, 2 * BLOCK)
    angle = tolerance + 1.0
    sweep = 0
    while (angle > tolerance) & (sweep < sweeps):
        angle = tolerance * 0.0
        # Blocks meet as rows do: block i and block i ^ m, i without the highest bit of m.
        for m in range(1, D // BLOCK):
            high = m
            high |= high >> 1
            high |= high >> 2
            low = high >> 1
            for pair in range(0, D // BLOCK // 2):
                block = ((pair & ~low) << 1) | (pair & low)
                row = tl.where(index < BLOCK, block, (block ^ m) - 1) * BLOCK + index
                place = row[:, None] * D + column
                products = tl.zeros((2 * BLOCK, 2 * BLOCK), tl.float64)
                for first in range(0, D, 2 * BLOCK):
                    x = tl.load(rows_ptr + place + first)
                    products = tl.dot(x, tl.trans(x), products, out_dtype=tl.float64)
                itself = index[:, None] == index[None, :]
                norms = tl.sqrt(tl.sum(tl.where(itself, products, 0.0), axis=1))
                others = tl.sqrt(tl.sum(tl.where(itself, products, 0.0), axis=0))
                cosines = tl.abs(products) / (norms[:, None] * others[None, :])
                beside = tl.max(tl.max(tl.where(itself, 0.0, cosines), axis=1), axis=0)
                angle = tl.maximum(angle, beside)
                turned = _map_of(products, 2 * BLOCK)
                for first in range(0, D, 2 * BLOCK):
                    x = tl.dot(turned, tl.load(rows_ptr + place + first), out_dtype=tl.float64)
                    # What other threads still read is not written, nor read before it is written.
                    tl.debug_barrier()
                    tl.store(rows_ptr + place + first, x)
                tl.debug_barrier()
        sweep += 1
    tl.store(angles_ptr + tl.program_id(0), angle)


def jacobi(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues `(B, d)` ascending, eigenvectors `(B, d, d)` in rows, and who failed.

    Args:
        matrices: `(B, d, d)` float64, symmetric and finite, d from 1 to 128.

    Reference: Hestenes, Inversion of matrices by biorthogonalization (1958); Demmel & Veselic,
    Jacobi's method is more accurate than QR (1992).
    """
    batch, d, _ = matrices.shape
    size = max(triton.next_power_of_2(d), BLOCK)
    # A power of two rounds nothing, and sums of entries from -2 to 2 do not overflow.
    exponents = torch.frexp(matrices.abs().amax(dim=(1, 2))).exponent - 1
    power = 2.0 ** exponents.double()[:, None, None]
    scaled = matrices / power
    # The largest sum of a row bounds the eigenvalues.
    bound = scaled.abs().sum(dim=2).amax(dim=1).clamp(min=1.0)
    rows = matrices.new_zeros(batch, size, size)
    rows[:, :d, :d] = scaled / bound[:, None, None]
    rows.diagonal(dim1=1, dim2=2).add_(2.0)
    angles = matrices.new_empty(batch)
    tolerance = 4.0 * torch.finfo(torch.float64).eps * size**0.5
    with on_device_of(matrices):
        _jacobi[(batch,)](
            rows,
            angles,
            tolerance,
            SWEEPS,
            D=size,
            BLOCK=min(BLOCK, size // 2),
            num_warps=WARPS,
            num_stages=STAGES,
        )
    vectors = torch.nn.functional.normalize(rows[:, :d, :d], dim=2)
    values = ((vectors @ scaled) * vectors).sum(dim=2) * power[:, :, 0]
    values, order = values.sort(dim=1, stable=True)
    vectors = vectors.gather(1, order[:, :, None].expand_as(vectors))
    return values, vectors, angles > tolerance


BUILDS = [
    Build(
        f"jacobi {size}",
        _jacobi,
        {"rows_ptr": "*fp64", "angles_ptr": "*fp64", "tolerance": "fp64", "sweeps": "i32"},
        {"D": size, "BLOCK": min(BLOCK, size // 2)},
        warps=WARPS,
        stages=STAGES,
    )
    for size in (128, 16, 32, 64)
]
