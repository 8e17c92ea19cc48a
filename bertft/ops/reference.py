"""The definition of every operation, in torch and float64; written to be read."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertft.ops.types import Cross, RowMap


def pool_rows(x: Tensor, starts: Tensor, stops: Tensor, out: Tensor) -> bool:
    """See `bertft.ops.pool_rows`."""
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        out[i] = x[start:stop].double().mean(dim=0)
    return bool(out.isfinite().all())


def accumulate(
    rows: Sequence[Tensor],
    origins: Sequence[Tensor],
    totals: Sequence[Tensor],
    pairs: Sequence[tuple[int, int]],
    crosses: Sequence[Cross],
    row_map: RowMap,
) -> None:
    """See `bertft.ops.accumulate`."""
    mapped = [map_rows(x, row_map) - origin for x, origin in zip(rows, origins, strict=True)]
    norms = [z.square().sum(dim=1) for z in mapped]
    for z, total in zip(mapped, totals, strict=True):
        total += z.sum(dim=0)
    for (a, b), cross in zip(pairs, crosses, strict=True):
        product = mapped[a].T @ mapped[b]
        cross.product.add_(product.triu() if a == b else product)
        cross.left.add_(norms[b] @ mapped[a])
        if a != b:
            cross.right.add_(norms[a] @ mapped[b])
        cross.weight.add_(norms[a] @ norms[b])


def map_rows(x: Tensor, row_map: RowMap) -> Tensor:
    """Widen `x: (n, d)` to float64 and apply the row map."""
    x = x.double()
    if row_map == "raw":
        return x
    if row_map == "centered_unit":
        x = x - x.mean(dim=1, keepdim=True)
    # A power of two per row keeps the squares of very large and very small rows in range.
    largest = x.abs().amax(dim=1, keepdim=True)
    if (largest == 0).any():
        row = int((largest == 0).nonzero()[0, 0])
        what = "not be zero" if row_map == "unit" else "vary over their features"
        raise ValueError(f"[accumulate] rows must {what}, got row {row} that cannot be scaled.")
    x = torch.ldexp(x, -torch.frexp(largest).exponent)
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return unit
