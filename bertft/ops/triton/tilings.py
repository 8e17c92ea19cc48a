"""How products are cut into tiles, steps and parts, and in what precision they are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
import triton
from torch import Tensor

Precision = Literal["ieee", "tf32x3", "tf32"]
"""What float32 factors are multiplied as: 24, 22 or 11 bits of each (bounds: docs/gpu.md)."""

PART_ROWS = 2048
"""Most rows that are summed before float64 takes over."""

MOST_PARTS = 16
PROGRAMS = 512
"""Programs that keep a GPU of some 130 multiprocessors busy; rows are split to have as many."""


class Tiling(NamedTuple):
    """How a product is cut.

    Attributes:
        rows: of a step.
        left: columns of the left side in a tile.
        right: columns of the right side in it.
        warps: of a program.
        stages: of its pipeline.
        capability: the least that it is for; it would spill registers below.
        below: the least above it that it is not for, with too little shared memory or registers.
    """

    rows: int
    left: int
    right: int
    warps: int
    stages: int
    capability: int = 80
    below: int = 1000

    def suits(self, capability: int) -> bool:
        """Whether it is for GPUs of a compute capability, such as 90 for 9.0."""
        return self.capability <= capability < self.below


# The first that suits a GPU runs; those of capability 12 have less shared memory than 9 or 10.
# They are no candidates to be timed when first used: the last bits of sums would then depend on
# which was faster that day.
TILINGS = {
    torch.float32: (
        Tiling(32, 128, 128, 8, 3, 90, below=120),
        Tiling(16, 128, 128, 8, 3),
    ),
    torch.bfloat16: (Tiling(32, 128, 128, 8, 3, 90, below=120), Tiling(32, 64, 128, 8, 3)),
    torch.float64: (Tiling(16, 64, 64, 4, 3), Tiling(16, 32, 64, 4, 3)),
}
_PRECISION: ContextVar[Precision] = ContextVar("precision", default="tf32x3")
_TILING: ContextVar[Tiling | None] = ContextVar("tiling", default=None)


@contextmanager
def using(precision: Precision | None = None, tiling: Tiling | None = None) -> Iterator[None]:
    """Multiply float32 rows in another precision, or cut products otherwise, inside the block."""
    tokens = _PRECISION.set(precision or _PRECISION.get()), _TILING.set(tiling or _TILING.get())
    try:
        yield
    finally:
        _PRECISION.reset(tokens[0])
        _TILING.reset(tokens[1])


def precision_of(wide: torch.dtype) -> Precision:
    """Return the precision of products in this type."""
    return "ieee" if wide == torch.float64 else _PRECISION.get()


def tiling_of(x: Tensor) -> Tiling:
    """Return how products of rows like these are cut."""
    chosen = _TILING.get()
    if chosen is not None:
        return chosen
    kind = x.dtype if x.dtype in TILINGS else torch.float32
    major, minor = torch.cuda.get_device_capability(x.device) if x.is_cuda else (8, 0)
    return next(t for t in TILINGS[kind] if t.suits(10 * major + minor))


def parts_of(n: int, programs: int, step: int) -> tuple[int, int]:
    """Return into how many parts rows are split, and the rows of each, a multiple of a step."""
    parts = max(triton.cdiv(n, PART_ROWS), min(wanted_parts(programs), triton.cdiv(n, step)))
    rows = triton.cdiv(triton.cdiv(n, parts), step) * step
    return triton.cdiv(n, rows), rows


def wanted_parts(programs: int) -> int:
    """Return how many parts keep a GPU busy, where one part takes this many programs."""
    return min(MOST_PARTS, -(-PROGRAMS // programs))
