"""Spectra on a GPU, each in the way that is fastest for its size by measurements of the device.

The measurements are in `spectra.jsonl` beside this file, a row for each device, operation, size and
way; `benchmarks/spectra_of_device.py` adds those of a device. Where it has no row, symmetric
matrices up to 128 columns are solved by our block Jacobi in one launch and all else by cuSOLVER in
torch's own choice of driver.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bertft.ops.triton.jacobi import LARGEST, jacobi
from bertft.ops.triton.polar import polar_norms

Operation = Literal["eigh", "eigvalsh", "svd", "svdvals", "nuclear_norms"]
WAYS: dict[Operation, tuple[str, ...]] = {
    "eigh": ("jacobi", "cusolver"),
    "eigvalsh": ("jacobi", "cusolver"),
    "svd": ("cusolver", "gesvd", "gesvdj", "gesvda"),
    "svdvals": ("cusolver", "gesvd", "gesvdj", "gesvda"),
    "nuclear_norms": ("cusolver", "gesvd", "gesvdj", "gesvda", "polar"),
}
"""Of each operation, the ways to choose from; the names of drivers are those of `torch.linalg`."""

TABLE = Path(__file__).with_name("spectra.jsonl")
# Matrices of one size go to cuSOLVER in stacks of at most so many values (1 GiB).
STACK = 2**27


def choose_way(operation: Operation, size: int, device: str, table: Path = TABLE) -> str:
    """Return the fastest way for matrices of `size` columns, by the nearest size measured."""
    ways = [way for way in WAYS[operation] if way != "jacobi" or size <= LARGEST]
    measured: dict[int, dict[str, float]] = defaultdict(dict)
    for row in _rows(table):
        if (row["device"], row["operation"]) == (device, operation) and row["way"] in ways:
            measured[row["size"]][row["way"]] = row["seconds"]
    if not measured:
        return ways[0]
    # Time grows with a power of the size: near is what has a small ratio.
    nearest = min(measured, key=lambda other: max(size, other) / min(size, other))
    seconds = measured[nearest]
    return min(seconds, key=lambda way: seconds[way])


def eigh(
    matrices: Sequence[Tensor], values: Sequence[Tensor], vectors: Sequence[Tensor] | None
) -> int:
    """See `bertft.ops.eigh`; returns the first matrix that failed, or -1."""
    operation: Operation = "eigvalsh" if vectors is None else "eigh"
    failed: list[int] = []
    for numbers, stack in _stacks(matrices):
        upper = stack.triu()
        own, columns, has_failed = solve_symmetric(
            upper + stack.triu(1).mT, operation, _way_for(operation, stack)
        )
        _write(values, numbers, own)
        if vectors is not None:
            _write(vectors, numbers, columns)
        failed += [numbers[i] for i in has_failed.nonzero()[:, 0].tolist()]
    return min(failed, default=-1)


def svd(
    matrices: Sequence[Tensor],
    values: Sequence[Tensor],
    left: Sequence[Tensor] | None,
    right: Sequence[Tensor] | None,
) -> int:
    """See `bertft.ops.svd`; torch raises where an iteration does not end."""
    for numbers, stack in _stacks(matrices):
        if left is None or right is None:
            way = _way_for("svdvals", stack)
            _write(values, numbers, torch.linalg.svdvals(stack, driver=_driver(way)))
            continue
        driver = _driver(_way_for("svd", stack))
        u, s, vh = torch.linalg.svd(stack, full_matrices=False, driver=driver)
        for written, found in ((left, u), (values, s), (right, vh)):
            _write(written, numbers, found)
    return -1


def nuclear_norms(matrices: Sequence[Tensor], out: Tensor) -> int:
    """See `bertft.ops.nuclear_norms`; torch raises where an iteration does not end."""
    out.zero_()  # the norm of what has no entries
    for numbers, stack in _stacks(matrices):
        norms = solve_norms(stack, _way_for("nuclear_norms", stack))
        out[torch.tensor(numbers, device=out.device)] = norms
    return -1


def solve_symmetric(stack: Tensor, operation: Operation, way: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return values `(B, d)`, of "eigh" vectors `(B, d, d)`, and who failed `(B,)`."""
    if way == "jacobi":
        values, rows, failed = jacobi(stack)
        return values, rows.mT, failed
    failed = torch.zeros(len(stack), dtype=torch.bool, device=stack.device)
    if operation == "eigvalsh":
        return torch.linalg.eigvalsh(stack), stack[:, :, :0], failed
    return *torch.linalg.eigh(stack), failed


def solve_norms(stack: Tensor, way: str) -> Tensor:
    """Return the nuclear norms `(B,)` of `(B, m, n)` matrices."""
    if way == "polar":
        return polar_norms(stack)
    norms: Tensor = torch.linalg.svdvals(stack, driver=_driver(way)).sum(dim=1)
    return norms


def measure(operation: Operation, way: str, stack: Tensor) -> Tensor:
    """Run one way on `(B, d, d)` symmetric matrices, and return the sums of its values `(B,)`."""
    if operation in ("eigh", "eigvalsh"):
        return solve_symmetric(stack, operation, way)[0].sum(dim=1)
    if operation == "svd":
        solution = torch.linalg.svd(stack, full_matrices=False, driver=_driver(way))
        values: Tensor = solution.S
        return values.sum(dim=1)
    return solve_norms(stack, way)


def device_name(x: Tensor) -> str:
    """Return what the table calls a tensor's device."""
    return torch.cuda.get_device_name(x.device) if x.is_cuda else x.device.type


def _way_for(operation: Operation, stack: Tensor) -> str:
    return choose_way(operation, min(stack.shape[1:]), device_name(stack))


def _driver(way: str) -> str | None:
    """None is torch's own choice."""
    return None if way == "cusolver" else way


@cache
def _rows(table: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in table.read_text().splitlines()]


def _stacks(matrices: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Matrices of one shape as `(B, m, n)`, with their numbers; those without entries left out."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        if matrix.numel():
            alike[tuple(matrix.shape)].append(i)
    for (m, n), numbers in alike.items():
        most = max(1, STACK // (m * n))
        for first in range(0, len(numbers), most):
            some = numbers[first : first + most]
            yield some, torch.stack([matrices[i] for i in some])


def _write(written: Sequence[Tensor], numbers: Sequence[int], found: Tensor) -> None:
    for i, own in zip(numbers, found, strict=True):
        written[i].copy_(own)
