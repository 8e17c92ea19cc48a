"""Measures that need the rows themselves: ranks over pairs, a Gaussian kernel, neighborhoods.

Each prepares a side once and compares prepared sides, so that many pairs of layers share the work.
`SAMPLED` has them by the names of a comparison's table; they run on a sample of rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bertft import ops
from bertft.amounts import require_integers
from bertft.arrays import as_rows, require_usable
from bertft.ops.row_maps import map_rows
from bertft.similarity.alignment import aligned, gaussian_kernel
from bertft.similarity.arguments import Rows, require_varied
from bertft.similarity.chance import kernel_alignment
from bertft.similarity.representational import paired_rows
from bertft.similarity.scale import Scale

NEIGHBORS = 10


@dataclass(frozen=True)
class Sampled(Scale):
    """A measure of the rows of a sample, and its scale.

    Attributes:
        prepare: what it needs of one side, from its rows `(n, d)`.
        compare: from what both sides have prepared to the value.
        chance: from what both sides have prepared to what unrelated rows would give on average.
        most_rows: of a sample.
        kept: values of the rows' type for each pair of rows that a prepared side holds.
        working: most such values that preparing a side or comparing two takes beside these.
    """

    prepare: Callable[[Tensor], Any]
    compare: Callable[[Any, Any], float]
    chance: Callable[[Any, Any], float] | None = None
    most_rows: float = math.inf
    kept: int = 0
    working: int = 5

    def nbytes(self, n: int, width: int, layers: int, itemsize: int) -> int:
        """Return the bytes that comparing n rows takes while so many layers are prepared."""
        prepared = layers * n * (self.kept * n + width)
        return itemsize * (prepared + self.working * n * n) + 16 * n * width


def neighbor_overlap(x: Rows, y: Rows, *, neighbors: int = NEIGHBORS) -> float:
    """Mean share of a row's nearest neighbors that both sides have in common (mutual k-NN).

    `mean_i |N_x(i) and N_y(i)| / k`, neighbors by cosine. In [0, 1]; 1 where neighborhoods are the
    same, `k / (n - 1)` by chance. Sees local structure only. Cost: O(n^2 d), n^2 numbers.

    Args:
        x: `(n, d_x)` rows.
        y: `(n, d_y)` rows of the same positions.
        neighbors: k.

    Raises:
        ValueError: unequal n, no more rows than neighbors, a row that is zero or not finite, or
            a side whose rows all have the same direction.
        TypeError: input that is no floating-point matrix, or neighbors that are no whole number.

    Reference: Huh et al. 2024 (mutual k-NN).
    """
    require_integers("neighbor_overlap", neighbors=neighbors)
    sides = [as_rows(rows, name) for rows, name in ((x, "x"), (y, "y"))]
    if len(sides[0]) != len(sides[1]) or not 0 < neighbors < len(sides[0]):
        raise ValueError(
            f"[neighbor_overlap] rows must be the same positions, and more than neighbors, got "
            f"{len(sides[0])} and {len(sides[1])} rows and {neighbors} neighbors; pass others."
        )
    x_near, y_near = (
        nearest(rows, neighbors, name) for rows, name in zip(sides, "xy", strict=True)
    )
    return _overlap(x_near, y_near)


def nearest(x: Tensor, neighbors: int, name: str = "x") -> Tensor:
    """Return each row's nearest other rows by cosine, `(n, k)` and sorted by number.

    Raises:
        ValueError: no more rows than neighbors, a row that is not finite, or zero, or rows that all
            have the same direction.
    """
    if len(x) <= neighbors:
        raise ValueError(
            f"[neighbor_overlap] rows must be more than neighbors, got {len(x)} and {neighbors}; "
            "pass more rows."
        )
    require_usable(x, "unit", "neighbor_overlap", name)
    unit = map_rows(x, "unit")
    require_varied("neighbor_overlap", name, unit, x.dtype)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-math.inf)
    return cosines.topk(neighbors, dim=1).indices.sort(dim=1).values


def _overlap(a: Tensor, b: Tensor) -> float:
    n, k = a.shape
    # Numbers of row i move to a range of their own, so that one search serves all rows.
    shift = n * torch.arange(n)[:, None]
    first, second = (a + shift).flatten(), (b + shift).flatten()
    place = torch.searchsorted(first, second).clamp(max=n * k - 1)
    return float((first[place] == second).sum()) / (n * k)


def _paired(x: Tensor) -> ops.PairedRows:
    require_usable(x, "unit", "rsa", "x")
    require_varied("rsa", "x", map_rows(x, "unit"), x.dtype)
    return paired_rows(x, "cosine", torch.promote_types(x.dtype, torch.float32))


SAMPLED: dict[str, Sampled] = {
    "rsa_spearman": Sampled(
        _paired,
        partial(ops.correlate_pairs, correlation="spearman"),
        lambda a, b: 0.0,
        least_rows=3,
        most_rows=ops.MOST_RANKED,
    ),
    "rsa_kendall": Sampled(
        _paired,
        partial(ops.correlate_pairs, correlation="kendall"),
        lambda a, b: 0.0,
        least_rows=3,
        most_rows=ops.MOST_RANKED,
    ),
    # Kernels of many layers are kept at once, so they are rounded to half the bytes.
    "cka_rbf": Sampled(
        lambda x: gaussian_kernel(x).float(),
        aligned,
        kernel_alignment,
        low=0.0,
        least_rows=3,
        is_biased=True,
        kept=1,
    ),
    "knn_overlap": Sampled(
        partial(nearest, neighbors=NEIGHBORS),
        _overlap,
        lambda a, b: a.shape[1] / (len(a) - 1),
        low=0.0,
        least_rows=NEIGHBORS + 2,
        is_biased=True,
    ),
}
