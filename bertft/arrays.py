"""Arrays and tensors as rows: their conversion, and the words for rows that cannot be summed."""

import numpy as np
import torch
from torch import Tensor

from bertft.ops import RowFault, RowMap
from bertft.ops.reference import first_fault

# What rows must do, what was found, and what else helps, by fault.
_REFUSALS = {
    "not finite": ("be finite", "NaN or infinity in row", "find where it arises"),
    "zero": (
        "have a direction under a cosine kernel", "a zero row at",
        "leave out the measures of cosines",
    ),
    "constant": (
        "have a direction under a correlation kernel", "a constant row at",
        "leave out rsa_correlation",
    ),
}  # fmt: skip


def as_rows(x: Tensor | np.ndarray, name: str) -> Tensor:
    """Return an array or tensor as a floating-point `(n, d)` tensor on the CPU, without gradient.

    There is no backend for other devices yet, so rows on them are copied here.

    Raises:
        TypeError: anything else.
    """
    rows = x.detach().resolve_neg().cpu() if isinstance(x, Tensor) else np.asarray(x)
    dtype = str(rows.dtype).removeprefix("torch.")
    if rows.ndim != 2 or dtype not in ("float64", "float32", "float16", "bfloat16"):
        raise TypeError(
            f"[Moments] {name} must be a floating-point (n, d) array or tensor, got {dtype} of "
            f"shape {tuple(rows.shape)}; reshape or convert it."
        )
    if isinstance(rows, Tensor):
        return rows
    # torch shares neither read-only memory nor negative strides.
    shared = rows.flags.writeable and min(rows.strides) >= 0
    return torch.from_numpy(rows if shared else rows.copy())


def require_usable(x: Tensor, row_map: RowMap, function: str, name: str) -> None:
    """Refuse rows that a row map cannot map.

    Raises:
        ValueError: with the number of the first such row.
    """
    fault = first_fault(x, row_map, 0)
    if fault is not None:
        raise refusal(fault, name, function)


def refusal(fault: RowFault, side: str, function: str = "Moments.update") -> ValueError:
    """Return the error for a row of a side that cannot be summed."""
    need, found, remedy = _REFUSALS[fault.what]
    return ValueError(
        f"[{function}] rows of {side!r} must {need}, got {found} {fault.row}; drop it on every "
        f"side, or {remedy}."
    )
