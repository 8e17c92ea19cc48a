"""Whether two sides have anything in common: permutation tests of RSA and CKA."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from bertft.amounts import require_integers
from bertft.arrays import as_rows, require_usable
from bertft.ops import RowMap
from bertft.ops.row_maps import map_rows
from bertft.similarity.arguments import Rows, require_varied

Tested = Literal["rsa", "cka"]


class PermutationTest(NamedTuple):
    """The p-value of a measure, and the mean and standard deviation of its permuted values."""

    p_value: float
    mean: float
    deviation: float


def permutation_test(
    x: Rows, y: Rows, *, measure: Tested = "rsa", permutations: int = 999, seed: int = 0
) -> PermutationTest:
    """Test whether RSA (cosine, Pearson) or linear CKA exceed what unrelated rows would give.

    The p-value is the share of orders of the rows of y, the given one among them, whose value is at
    least that of the given one (Mantel); the least is `1 / (permutations + 1)`. Rows count as
    exchangeable: rows of one sentence are not quite, so take few rows of each. Cost: O(n^2) for
    each permutation and O(n^2 d) once; two matrices of n^2.

    Args:
        x: `(n, d_x)` rows.
        y: `(n, d_y)` rows of the same positions.
        measure: "rsa" or "cka".
        permutations: random orders.
        seed: of the orders.

    Raises:
        ValueError: unequal n, fewer than 4 rows, rows that are not finite or that do not vary, an
            unknown measure, or fewer than 1 permutation.
        TypeError: input that is no floating-point matrix, or no whole number.

    Reference: Mantel 1967; Phipson & Smyth 2010 (the given order counts).
    """
    require_integers("permutation_test", permutations=permutations, seed=seed)
    sides = [as_rows(rows, name) for rows, name in ((x, "x"), (y, "y"))]
    if measure not in get_args(Tested) or permutations < 1:
        raise ValueError(
            f"[permutation_test] measure must be one of {get_args(Tested)} and permutations at "
            f"least 1, got {measure!r} and {permutations}; pass others."
        )
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 4:
        raise ValueError(
            f"[permutation_test] rows must be the same positions, at least 4, got "
            f"{len(sides[0])} and {len(sides[1])}; pass them row for row."
        )
    a, b = (similarities(rows, measure, name) for rows, name in zip(sides, "xy", strict=True))
    given = (a * b).sum()
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(permutations, dtype=torch.float64)
    for i in range(permutations):
        order = torch.randperm(len(b), generator=generator)
        found[i] = (a * b[order][:, order]).sum()
    # Orders that change nothing, as of equal rows, differ by rounding only.
    reached = int((found >= given - 1e-12).sum())
    deviation = float(found.std(correction=0))
    return PermutationTest((1 + reached) / (1 + permutations), float(found.mean()), deviation)


def similarities(x: Tensor, measure: Tested, name: str = "x") -> Tensor:
    """Return centered similarities of unit norm: products of two sides are the measure.

    Raises:
        ValueError: rows that are not finite, zero under RSA, or all alike.
    """
    row_map: RowMap = "unit" if measure == "rsa" else "raw"
    require_usable(x, row_map, "permutation_test", name)
    rows = map_rows(x, row_map)
    require_varied("permutation_test", name, rows, x.dtype)
    rows = rows - rows.mean(dim=0)
    kernel = rows @ rows.T
    if measure == "rsa":
        # About the mean unit row, cosines are what is left of squared distances.
        squares = kernel.diagonal() / 2
        kernel = kernel - squares - squares[:, None]
        n = len(kernel)
        kernel -= (kernel.sum() - kernel.trace()) / (n * (n - 1))
        kernel.fill_diagonal_(0.0)
    size = kernel.norm()
    if size <= 1e-12 * rows.square().sum():
        raise ValueError(
            f"[permutation_test] pairs of rows of {name} must differ in similarity, got pairs that "
            "are all alike; check that the layer is not collapsed."
        )
    return kernel.div_(size)
