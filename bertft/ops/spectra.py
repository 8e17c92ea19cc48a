"""Spectra of many matrices at once: the checks, and the choice of backend.

`bertft.ops` has the table of all operations, and offers these with the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.ops.backends import choose_backend
from bertft.ops.checks import Call, require_finite, require_solved


def eigh(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    vectors: Sequence[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Solve many symmetric eigenvalue problems.

    Cost: O(d^3) each. Only the upper triangles are read.

    Args:
        matrices: float64 `(d, d)` each, of any sizes.
        values: `(d,)` for each, written in ascending order.
        vectors: `(d, d)` for each, whose columns become the eigenvectors; None for values only.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
        torch.linalg.LinAlgError: a matrix that is not finite, or an iteration that does not end.
    """
    call = Call("eigh")
    call.counts(len(matrices), values=values, vectors=vectors)
    for i, matrix in enumerate(matrices):
        call.matrix(matrix, f"matrices[{i}]")
        d = matrix.shape[-1]
        call.output(matrix, f"matrices[{i}]", torch.float64, (d, d))
        call.output(values[i], f"values[{i}]", torch.float64, (d,))
        if vectors is not None:
            call.output(vectors[i], f"vectors[{i}]", torch.float64, (d, d))
    require_finite(call, matrices)
    chosen = choose_backend(call, backend, [*matrices, *values, *(vectors or [])])
    require_solved(call, chosen.eigh(matrices, values, vectors))


def svd(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    left: Sequence[Tensor] | None = None,
    right: Sequence[Tensor] | None = None,
    *,
    backend: str | None = None,
) -> None:
    """Decompose many matrices into singular values and vectors.

    `matrix = left @ diag(values) @ right`. Cost: O(m n k) each, with `k = min(m, n)`.

    Args:
        matrices: float64 `(m, n)` each, of any sizes.
        values: `(k,)` for each, written in descending order.
        left: `(m, k)` for each, or None, like `right`, for values only.
        right: `(k, n)` for each.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
        torch.linalg.LinAlgError: a matrix that is not finite, or an iteration that does not end.
    """
    call = Call("svd")
    call.both(left, right, "left", "right")
    call.counts(len(matrices), values=values, left=left, right=right)
    for i, matrix in enumerate(matrices):
        call.matrix(matrix, f"matrices[{i}]")
        m, n = matrix.shape
        call.output(matrix, f"matrices[{i}]", torch.float64, (m, n))
        call.output(values[i], f"values[{i}]", torch.float64, (min(m, n),))
        if left is not None and right is not None:
            call.output(left[i], f"left[{i}]", torch.float64, (m, min(m, n)))
            call.output(right[i], f"right[{i}]", torch.float64, (min(m, n), n))
    require_finite(call, matrices)
    chosen = choose_backend(call, backend, [*matrices, *values, *(left or []), *(right or [])])
    require_solved(call, chosen.svd(matrices, values, left, right))


def nuclear_norms(matrices: Sequence[Tensor], out: Tensor, *, backend: str | None = None) -> None:
    """Write the nuclear norm of many matrices, the sum of their singular values.

    Cost: O(m n k) each, with `k = min(m, n)`.

    Args:
        matrices: float64 `(m, n)` each, of any sizes.
        out: `(len(matrices),)` float64, written.
        backend: of those that `backends` names; by default the one of the device.

    Raises:
        ValueError: shapes, types or layouts that don't fit.
        torch.linalg.LinAlgError: a matrix that is not finite, or an iteration that does not end.
    """
    call = Call("nuclear_norms")
    for i, matrix in enumerate(matrices):
        call.matrix(matrix, f"matrices[{i}]")
        call.output(matrix, f"matrices[{i}]", torch.float64, tuple(matrix.shape))
    call.output(out, "out", torch.float64, (len(matrices),))
    require_finite(call, matrices)
    chosen = choose_backend(call, backend, [*matrices, out])
    require_solved(call, chosen.nuclear_norms(matrices, out))
