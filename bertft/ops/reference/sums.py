"""The definitions of sums over rows, of correlations of pairs, and of spectra."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.ops.row_maps import first_fault, map_rows
from bertft.ops.types import Correlation, MappedSums, PairedRows, RowFault


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    invalid = (starts < 0) | (starts >= stops) | (stops > len(x))
    if invalid.any():
        at = int(invalid.nonzero()[0])
        raise ValueError(
            f"[pool_rows] runs must be non-empty and inside x of {len(x)} rows, got "
            f"[{int(starts[at])}, {int(stops[at])}) at {at}; drop it."
        )
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        out[i] = x[start:stop].double().mean(dim=0)
    return bool(out.isfinite().all())


def accumulate(
    rows: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    maps: Sequence[MappedSums],
    norms: Tensor,
    distances: Tensor,
) -> RowFault | None:
    """See `bertft.ops.accumulate`."""
    faults = [first_fault(x, sums.row_map, side) for sums in maps for side, x in enumerate(rows)]
    found = [fault for fault in faults if fault is not None]
    if found:
        return min(found, key=lambda fault: (fault.row, fault.side))
    for side, x in enumerate(rows):
        norms[side] += x.double().norm(dim=1).sum()
    for p, (a, b) in enumerate(pairs):
        if a != b and rows[a].shape == rows[b].shape:
            distances[p] += (rows[a].double() - rows[b].double()).norm(dim=1).sum()
    for sums in maps:
        _add_mapped(rows, pairs, sums)
    return None


def correlate_pairs(x: PairedRows, y: PairedRows, correlation: Correlation) -> float:
    """See `bertft.ops.correlate_pairs`."""
    a, b = (_condensed(side) for side in (x, y))
    if (a == a[0]).all() or (b == b[0]).all():
        return float("nan")
    if correlation == "kendall":
        signs = (torch.sign(a[:, None] - a) * torch.sign(b[:, None] - b)).triu(1)
        return float(signs.sum()) / (len(a) * (len(a) - 1) / 2)
    if correlation == "spearman":
        a, b = _ranks(a), _ranks(b)
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (a.norm() * b.norm()))


def _condensed(side: PairedRows) -> Tensor:
    """Similarities of all pairs i < j, in the rows' type as far as ranks go."""
    rows = side.rows.double()
    similarities = side.scale * (rows @ rows.T) + side.offsets[:, None] + side.offsets
    i, j = torch.triu_indices(len(rows), len(rows), 1)
    return similarities[i, j]


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0, equal values at the mean of theirs."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    ranks: Tensor = (2 * last - counts - 1).double() / 2
    return ranks[place]


def eigh(
    matrices: Sequence[Tensor], values: Sequence[Tensor], vectors: Sequence[Tensor] | None
) -> int:
    """See `bertft.ops.eigh`."""
    for i, matrix in enumerate(matrices):
        solution = torch.linalg.eigh(matrix, UPLO="U")
        values[i].copy_(solution.eigenvalues)
        if vectors is not None:
            vectors[i].copy_(solution.eigenvectors)
    return -1


def svd(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    left: Sequence[Tensor] | None,
    right: Sequence[Tensor] | None,
) -> int:
    """See `bertft.ops.svd`."""
    for i, matrix in enumerate(matrices):
        solution = torch.linalg.svd(matrix, full_matrices=False)
        values[i].copy_(solution.S)
        if left is not None and right is not None:
            left[i].copy_(solution.U)
            right[i].copy_(solution.Vh)
    return -1


def nuclear_norms(matrices: Sequence[Tensor], out: Tensor) -> int:
    """See `bertft.ops.nuclear_norms`."""
    for i, matrix in enumerate(matrices):
        out[i] = torch.linalg.svdvals(matrix).sum()
    return -1


def _add_mapped(rows: Sequence[Tensor], pairs: Sequence[tuple[int, int]], sums: MappedSums) -> None:
    mapped = [
        map_rows(x, sums.row_map) - origin for x, origin in zip(rows, sums.origins, strict=True)
    ]
    squares = [z.square().sum(dim=1) for z in mapped]
    for side, z in enumerate(mapped):
        sums.totals[side].add_(z.sum(dim=0))
        sums.squares[side].add_(squares[side].sum())
    for (a, b), cross in zip(pairs, sums.crosses, strict=True):
        product = mapped[a].T @ mapped[b]
        cross.product.add_(product.triu() if a == b else product)
        cross.left.add_(squares[b] @ mapped[a])
        if a != b:
            cross.right.add_(squares[a] @ mapped[b])
        cross.weight.add_(squares[a] @ squares[b])
