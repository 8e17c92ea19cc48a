"""This machine's ceilings, measured in the same run as what is compared with them.

`python benchmarks/peak.py` prints them. Multiply-adds per instruction set and dtype run from
registers on as many threads as torch uses; copies run between buffers of a given size. peak.cpp is
compiled with the C++ compiler that builds the package.
"""

import ctypes
import functools
import os
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bertft.ops import native

SOURCE = Path(__file__).with_name("peak.cpp")
# Vector bytes, accumulators that fit the registers, and flags, as in CMakeLists.txt.
SETS = {
    "avx512": (64, 24, ["-mavx512f", "-mfma"]),
    "avx2": (32, 12, ["-mavx2", "-mfma"]),
    "portable": (16, 12, []),
}


@functools.cache
def library(isa: str) -> ctypes.CDLL:
    size, count, flags = SETS[isa]
    if isa == "portable" and platform.machine() == "aarch64":
        count = 24
    out = Path(tempfile.mkdtemp()) / f"peak_{isa}.so"
    command = [os.environ.get("CXX", "c++"), "-O3", "-shared", "-fPIC", "-ffp-contract=fast"]
    command += [*flags, f"-DPEAK_VECTOR_BYTES={size}", f"-DPEAK_ACCUMULATORS={count}"]
    subprocess.run([*command, str(SOURCE), "-o", str(out)], check=True)
    loaded = ctypes.CDLL(str(out))
    for name in ("peak_float32", "peak_float64", "copy_rate"):
        getattr(loaded, name).restype = ctypes.c_double
    loaded.copy_rate.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return loaded


def on_all_threads(call):
    """Sum what `call(i)` returns on as many threads as torch uses; ctypes lets go of the GIL."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(call, range(threads)))


def gflops(dtype: str = "float32", isa: str | None = None, rounds: int = 5) -> float:
    """Billions of floating-point operations per second: the best of some short rounds."""
    measure = getattr(library(isa or native.isa()), f"peak_{dtype}")
    steps = ctypes.c_int64(400_000)
    return max(on_all_threads(lambda _: measure(steps)) for _ in range(rounds)) / 1e9


def copy_gbs(mib: float, rounds: int = 5) -> float:
    """Billions of bytes per second by copies that read and write `mib` MiB together."""
    threads = torch.get_num_threads()
    size = max(int(mib * 2**20) // 2 // threads, 64)
    # Written once: pages that never were would all be the same page of zeros.
    parts = [np.ones((2, size), np.uint8) for _ in range(threads)]
    repeats = max(1, int(2**28 / (size * threads)))

    def copy(i):
        to, source = parts[i]
        return library(native.isa()).copy_rate(to.ctypes.data, source.ctypes.data, size, repeats)

    return max(on_all_threads(copy) for _ in range(rounds)) / 1e9


if __name__ == "__main__":
    for name in native.available_isas():
        for dtype in ("float32", "float64"):
            print(f"{name:9} {dtype}: {gflops(dtype, name):8.1f} GFLOP/s")
    for size in (1, 8, 64, 512):
        print(f"copies of {size:4} MiB: {copy_gbs(size):8.1f} GB/s read and written")
