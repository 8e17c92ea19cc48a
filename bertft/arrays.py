"""Arrays and tensors as rows: their conversion, and the words for rows that cannot be summed."""

from collections.abc import Mapping, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from bertft.ops import RowFault, RowMap, device_of_sums
from bertft.ops.row_maps import first_fault

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


def as_rows(x: Tensor | np.ndarray, name: str, device: torch.device | str = "cpu") -> Tensor:
    """Return an array or tensor as a floating-point `(n, d)` tensor, without gradient.

    Rows are copied to the device of the sums here, and only here.

    Raises:
        TypeError: anything else.
    """
    rows = x.detach().resolve_neg().to(device) if isinstance(x, Tensor) else np.asarray(x)
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
    return torch.from_numpy(rows if shared else rows.copy()).to(device)


def two_sides(
    x: Tensor | np.ndarray, y: Tensor | np.ndarray, backend: str | None
) -> dict[str, Tensor]:
    """Return two sides as rows of types that go together, on the device where they are summed."""
    homes = [tensor.device for tensor in (x, y) if isinstance(tensor, Tensor)]
    device = device_of_sums(homes, backend)
    rows = {"x": as_rows(x, "x", device), "y": as_rows(y, "y", device)}
    if len({tensor.dtype == torch.float64 for tensor in rows.values()}) > 1:
        rows = {side: tensor.double() for side, tensor in rows.items()}
    return rows


def check_sides(
    widths: Mapping[str, int], pairs: Sequence[tuple[str, str]], row_maps: Sequence[RowMap]
) -> None:
    """Refuse pairs of sides that there are not, and unknown row maps."""
    for a, b in pairs:
        if a not in widths or b not in widths or a == b:
            raise ValueError(
                f"[Moments] pairs must join two different sides of {tuple(widths)}, got "
                f"{(a, b)}; name the sides in widths."
            )
    for row_map in row_maps:
        if row_map not in get_args(RowMap):
            raise ValueError(
                f"[Moments] row_maps must be among {get_args(RowMap)}, got {row_map!r}; "
                "pass some of them."
            )


def same_rows(
    rows: Mapping[str, Tensor], widths: Mapping[str, int], device: torch.device
) -> list[Tensor]:
    """Return the rows of sides of these widths in their order, on a device.

    Raises:
        ValueError: other sides or widths, or numbers of rows that differ.
    """
    checked = {side: as_rows(x, side, device) for side, x in rows.items()}
    found = {side: x.shape[1] for side, x in checked.items()}
    if found != dict(widths) or len({len(x) for x in checked.values()}) != 1:
        raise ValueError(
            f"[Moments.update] rows must be the same positions on sides of widths {dict(widths)}, "
            f"got { {side: tuple(x.shape) for side, x in checked.items()} }; pass every side, row "
            "for row."
        )
    return [checked[side] for side in widths]


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
