"""What host code launches the Triton kernels with, beside the builds that are compiled.

`python -m tests.launches` runs the operations on the CPU with a driver that has no GPU: Triton does
all that comes before it compiles a kernel, and then nothing, so that values mean nothing here. A
process of its own, like `tests.kernels`, as Triton must not interpret.
"""

import os
import sys

import torch

ARCHITECTURE = 90


class NoGpu:
    """Stands in for Triton's driver of a GPU."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", ARCHITECTURE, 32)


def zeros(*shape, dtype=torch.float64):
    return torch.zeros(shape, dtype=dtype)


def launch_sums(ops, dtype):
    """Every kernel of rows."""
    rows = [torch.ones(40, 24, dtype=dtype) for _ in range(2)]
    pairs = [(0, 0), (0, 1)]
    maps = [
        ops.MappedSums(
            kind,
            [zeros(24), zeros(24)],
            [zeros(24), zeros(24)],
            [zeros(1), zeros(1)],
            [ops.Cross(zeros(24, 24), zeros(24), zeros(24), zeros(1)) for _ in pairs],
        )
        for kind in ("raw", "unit")
    ]
    fault = torch.full((), -1)
    ops.accumulate(rows, pairs, maps, zeros(2), zeros(2), fault=fault, backend="triton")
    runs = torch.arange(3)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    ops.pool_rows(rows[0], runs, runs + 1, zeros(3, 24, dtype=wide), backend="triton")


def launch_pairs(ops, dtype):
    """The kernels of pairs of rows."""
    side = ops.PairedRows(zeros(5, 3, dtype=dtype), zeros(5), -2.0)
    for correlation in ("pearson", "kendall"):
        ops.correlate_pairs(side, side, correlation, backend="triton")


def launch_losses(ops):
    """The kernels of linear and structural probes."""
    offsets = torch.tensor([0, 3, 6])
    logits = zeros(6, 9, dtype=torch.float32)
    classes, labels = zeros(2, 9, dtype=torch.int64), zeros(6, 9, dtype=torch.uint8)
    ops.softmax_gradient(logits, offsets, classes, zeros(2), backend="triton")
    ops.sigmoid_gradient(logits, offsets, labels, zeros(2), backend="triton")
    words = zeros(6, 8, dtype=torch.float32)
    gold = zeros(18, dtype=torch.float32)
    ops.distance_gradient(words, offsets, gold, zeros(2), backend="triton")
    ops.depth_gradient(words, offsets, gold[:6], zeros(2), backend="triton")


def launch_adam(ops, dtype):
    """Adam as it is, and with all that it can have."""
    for clip in (None, 1.0):
        moments = [[zeros(2, 5, dtype=torch.float32)] for _ in range(5)]
        largest = None if clip is None else moments.pop()
        given = (zeros(2, dtype=dtype), zeros(1, 2, dtype=dtype), 1)
        ops.adam(*moments[:4], largest, *given, clip=clip, backend="triton")


def launch_spans(ops, dtype):
    """Attention over spans, both ways."""
    x, weight = zeros(4, 2, 8, dtype=dtype), zeros(2, 8, dtype=dtype)
    out, logsums = zeros(2, 2, 8, dtype=dtype), zeros(2, 2, dtype=dtype)
    given = (x, weight, torch.tensor([0, 2]), torch.tensor([2, 4]), out, logsums)
    ops.attend_spans(*given, backend="triton")
    of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
    ops.attend_spans_gradient(*given, out, of_x, of_weight, backend="triton")


def launch_everything():
    """Every kernel, with every type that it is for."""
    from bertft import ops
    from bertft.ops.triton.jacobi import jacobi

    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        launch_sums(ops, dtype)
    for dtype in (torch.float32, torch.float64):
        launch_pairs(ops, dtype)
        launch_adam(ops, dtype)
        launch_spans(ops, dtype)
    launch_losses(ops)
    for size in (16, 32, 64, 128):
        jacobi(zeros(2, size, size))


def is_of(build, types):
    """Whether a build has the types of a launch, where 1 and None are constants."""
    of_build = build.signature | dict.fromkeys(build.constants, "constexpr")
    return all(kind in ("constexpr", of_build[name]) for name, kind in types.items())


def main():
    """Launch everything, and fail where no build is like a launch or a kernel is not launched."""
    os.environ["TRITON_INTERPRET"] = "0"
    import triton

    from bertft.ops import backends
    from bertft.ops.triton import BUILDS

    launched, faults = set(), []

    def compare(fn, compile, **_):
        kernel, types = fn.jit_function, compile["signature"]
        launched.add(kernel)
        if not any(build.kernel is kernel and is_of(build, types) for build in BUILDS):
            faults.append(f"no build of {fn.name} is for what it is launched with, {types}")
        return True

    triton.knobs.runtime.jit_cache_hook = compare
    triton.runtime.driver.set_active(NoGpu())
    backends._interprets = lambda: True
    launch_everything()
    faults += [f"{b.name} is not launched" for b in BUILDS if b.kernel not in launched]
    print(f"{len(launched)} kernels", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
