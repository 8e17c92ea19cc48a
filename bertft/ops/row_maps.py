"""What is done to rows before they are summed or compared, and which rows it cannot be done to."""

import torch
from torch import Tensor

from bertft.ops.types import RowFault, RowMap, What


def first_fault(x: Tensor, row_map: RowMap, side: int) -> RowFault | None:
    """Return the first row that cannot be mapped, if there is one."""
    tests: dict[What, Tensor] = {"not finite": ~x.isfinite().all(dim=1)}
    if row_map == "unit":
        tests["zero"] = (x == 0).all(dim=1)
    if row_map == "centered_unit":
        tests["constant"] = (x == x[:, :1]).all(dim=1)
    faults = [
        RowFault(what, side, int(bad.nonzero()[0, 0])) for what, bad in tests.items() if bad.any()
    ]
    return min(faults, key=lambda fault: fault.row, default=None)


def map_rows(x: Tensor, row_map: RowMap) -> Tensor:
    """Widen `x: (n, d)` to float64 and apply the row map."""
    x = x.double()
    if row_map == "raw":
        return x
    if row_map == "centered_unit":
        x = x - x.mean(dim=1, keepdim=True)
    # A power of two per row keeps the squares of very large and very small rows in range.
    largest = x.abs().amax(dim=1, keepdim=True)
    x = torch.ldexp(x, -torch.frexp(largest).exponent)
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return unit
