"""Nuclear norms by products alone: the polar factor by a scaled Newton-Schulz iteration."""

import torch
from torch import Tensor

# The largest scale under which rounding takes no singular value past 0 (Chen & Chow 2014).
STABLE = 1.69770248526
CONVERGED = 1e-15


def polar_norms(matrices: Tensor) -> Tensor:
    """Return the nuclear norms `(B,)` of `(B, m, n)` float64 matrices, `tr(U^T A)` with A = U H.

    `X <- s X (3 - s^2 X^T X) / 2` takes singular values in [low, 1] to 1, with `s` so that both
    ends come to the same value: s^2 = 3 / (1 + low + low^2). Those below 2^-52 of a bound of the
    largest one may fall short of 1, which takes less than they are themselves, rounding, off the
    norm. Cost: some 40 steps of two products, 4 m n k each, with `k = min(m, n)`.

    Reference: Chen & Chow, A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix (2014).
    """
    a = matrices.mT if matrices.shape[1] < matrices.shape[2] else matrices
    # sqrt(|A|_1 |A|_inf) and |A|_F both bound the largest singular value.
    sizes = a.abs()
    largest = sizes.amax(dim=(1, 2)).clamp(min=torch.finfo(a.dtype).tiny)[:, None, None]
    sizes = sizes / largest
    rows, columns = sizes.sum(dim=2).amax(dim=1), sizes.sum(dim=1).amax(dim=1)
    bound = torch.minimum((rows * columns).sqrt(), sizes.square().sum(dim=(1, 2)).sqrt())
    x = a / largest / bound.clamp(min=1.0)[:, None, None]
    low = torch.finfo(a.dtype).eps
    identity = torch.eye(a.shape[2], dtype=a.dtype, device=a.device)
    while low < 1.0 - CONVERGED:
        scale = min((3.0 / (1.0 + low + low**2)) ** 0.5, STABLE)
        x = x @ (1.5 * scale * identity - 0.5 * scale**3 * (x.mT @ x))
        low = min(1.5 * scale * end - 0.5 * (scale * end) ** 3 for end in (low, 1.0))
    norms: Tensor = (x * a).sum(dim=(1, 2))
    return norms
