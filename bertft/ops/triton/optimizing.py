"""The step of Adam for banks of probes, in one pass over weights and moments."""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from bertft.ops.eager import scales_to
from bertft.ops.triton.launching import Build, on_device_of

WIDEST = 1024


@triton.jit
def _adam(
    weights_ptr,
    gradients_ptr,
    first_ptr,
    second_ptr,
    largest_ptr,
    rates_ptr,
    decays_ptr,
    scales_ptr,
    C,
    beta_1,
    beta_2,
    rest_1,
    rest_2,
    correction_1,
    correction_2,
    epsilon,
    AMSGRAD: tl.constexpr,
    CLIPPED: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program i: some columns of a row. `rest_j` is 1 - beta_j, as float32 has no 1 - 0.999."""
    program, blocks = tl.program_id(0), tl.cdiv(tl.cast(C, tl.int64), BLOCK_C)
    row, column = program // blocks, program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    place, mask = row * C + column, column < C
    rate = tl.load(rates_ptr + row).to(tl.float64)
    decay = tl.load(decays_ptr + row).to(tl.float64)
    weight = tl.load(weights_ptr + place, mask=mask, other=0.0)
    gradient = tl.load(gradients_ptr + place, mask=mask, other=0.0)
    if CLIPPED:
        gradient *= tl.load(scales_ptr + row)
    first = tl.load(first_ptr + place, mask=mask, other=0.0)
    second = tl.load(second_ptr + place, mask=mask, other=0.0)
    first = beta_1 * first + rest_1 * gradient
    second = beta_2 * second + rest_2 * gradient * gradient
    tl.store(first_ptr + place, first, mask=mask)
    tl.store(second_ptr + place, second, mask=mask)
    if AMSGRAD:
        second = tl.maximum(second, tl.load(largest_ptr + place, mask=mask, other=0.0))
        tl.store(largest_ptr + place, second, mask=mask)
    size = (rate * correction_1).to(tl.float32)
    kept = (1.0 - rate * decay).to(tl.float32)
    step = size * first / (tl.sqrt(second * correction_2) + epsilon)
    tl.store(weights_ptr + place, kept * weight - step, mask=mask)


def adam(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    largest: Sequence[Tensor] | None,
    rates: Tensor,
    decays: Tensor,
    step: int,
    betas: tuple[float, float],
    epsilon: float,
    clip: float | None,
) -> None:
    """See `bertft.ops.adam`: a launch for each parameter."""
    beta_1, beta_2 = betas
    scales = None if clip is None else scales_to(clip, gradients)
    for p, own in enumerate(weights):
        if not own.numel():
            continue
        rows, columns = own.shape
        block = min(WIDEST, triton.next_power_of_2(columns))
        with on_device_of(own):
            _adam[(rows * triton.cdiv(columns, block),)](
                own,
                gradients[p],
                first[p],
                second[p],
                None if largest is None else largest[p],
                rates,
                decays[p],
                scales,
                columns,
                beta_1,
                beta_2,
                1.0 - beta_1,
                1.0 - beta_2,
                1.0 / (1.0 - beta_1**step),
                1.0 / (1.0 - beta_2**step),
                epsilon,
                AMSGRAD=largest is not None,
                CLIPPED=clip is not None,
                BLOCK_C=block,
            )


_POINTERS = ("weights", "gradients", "first", "second")
_FLOATS = ("beta_1", "beta_2", "rest_1", "rest_2", "correction_1", "correction_2", "epsilon")


def _build(rates: str, is_whole: bool) -> Build:
    beside = ("largest_ptr", "scales_ptr")
    return Build(
        f"adam {'amsgrad clipped ' * is_whole}{rates}",
        _adam,
        {f"{name}_ptr": "*fp32" for name in _POINTERS}
        | (dict.fromkeys(beside, "*fp32") if is_whole else {})
        | {"rates_ptr": f"*{rates}", "decays_ptr": f"*{rates}", "C": "i32"}
        | dict.fromkeys(_FLOATS, "fp32"),
        {"AMSGRAD": is_whole, "CLIPPED": is_whole, "BLOCK_C": WIDEST}
        | ({} if is_whole else dict.fromkeys(beside)),
        aligned=("C",),
    )


BUILDS = [_build(rates, is_whole) for is_whole in (True, False) for rates in ("fp32", "fp64")]
