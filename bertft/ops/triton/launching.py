"""What all kernels share: the interpreter's widening, the device of a launch, builds to compile."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETS: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter, which is settled when Triton is imported."""

# Kernels may read no other kind of global.
WIDENS = tl.constexpr(INTERPRETS)

TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


def type_of_products(x: Tensor) -> torch.dtype:
    """Return float64 for float64 rows, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class Build(NamedTuple):
    """A kernel and all that its machine code depends on.

    Attributes:
        name: for the table, such as "pool_rows bfloat16".
        kernel: the function under `triton.jit`.
        signature: the type of every argument that is no constant, such as "*bf16" or "i64".
        constants: the other arguments.
        warps: threads of a program, in 32s.
        stages: of its software pipeline.
        aligned: arguments that are multiples of 16 (pointers of torch are).
        capability: the least that it is for.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 3
    aligned: tuple[str, ...] = ()
    capability: int = 80


def on_device_of(x: Tensor) -> torch.cuda.device_of:
    """Launch on the tensor's device inside the block; nothing changes for the interpreter."""
    return torch.cuda.device_of(x)


@triton.jit
def as_factor(x):
    """Return a factor of `tl.dot`: as tensor cores take it, and widened when interpreting.

    The interpreter has the bits of bfloat16 for its values and would multiply those. Elsewhere
    kernels widen by `.to` before any arithmetic, on a GPU too, where it costs nothing.
    """
    if WIDENS and x.dtype == tl.bfloat16:
        return x.to(tl.float32)
    return x
