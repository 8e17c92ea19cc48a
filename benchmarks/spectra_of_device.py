"""Times every way to spectra on this GPU and writes its rows of the table that chooses by them.

`python benchmarks/spectra_of_device.py` replaces the rows of this device in
`bertft/ops/triton/spectra.jsonl`, here and where the package is installed. Matrices are positive
definite, so that all values add up to their trace: a way counts only where they do to 1e-10.
"""

import json
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from bertft.ops.triton.jacobi import LARGEST
from bertft.ops.triton.spectra import TABLE, WAYS, device_name, measure

SIZES = (16, 32, 64, 128, 256, 512, 768, 1024)
# Matrices of a size, as many as pairs of layers where that is quick.
VALUES, MOST = 2**21, 256
SOURCE = Path(__file__).parents[1] / "bertft/ops/triton/spectra.jsonl"
# A call that takes longer is timed once.
LONG = 0.2


def seconds_of(call, repetitions=3):
    """Median seconds of a call, after one that compiles and warms up."""
    call().sum().item()
    taken = []
    while len(taken) < repetitions and max(taken, default=0.0) < LONG:
        before = time.perf_counter()
        call().sum().item()  # waits for the GPU
        taken.append(time.perf_counter() - before)
    return statistics.median(taken)


def rows_of(device, sizes=SIZES):
    """Measure all ways of all operations, and return the rows of the table."""
    rows = []
    for size in sizes:
        batch = max(1, min(MOST, VALUES // size**2))
        draw = torch.randn(batch, 2 * size, size, dtype=torch.float64, device=device)
        stack = draw.mT @ draw
        expected = stack.diagonal(dim1=1, dim2=2).sum(dim=1)
        for operation, ways in WAYS.items():
            for way in ways:
                if way == "jacobi" and size > LARGEST:
                    continue
                found = measure(operation, way, stack)
                if not torch.allclose(found, expected, rtol=1e-10, atol=0.0):
                    print(f"{operation} by {way} at {size} is off: left out")
                    continue
                seconds = seconds_of(partial(measure, operation, way, stack)) / batch
                name = device_name(stack)
                row = {"device": name, "operation": operation, "size": size, "way": way}
                rows.append({**row, "batch": batch, "seconds": float(f"{seconds:.3g}")})
                print(rows[-1])
    return rows


def write(rows, table):
    """Replace the rows of the same devices, and keep those of others."""
    devices = {row["device"] for row in rows}
    kept = [json.loads(line) for line in table.read_text().splitlines()]
    kept = [row for row in kept if row["device"] not in devices]
    table.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *rows]))


if __name__ == "__main__":
    found = rows_of("cuda")
    for place in {SOURCE, TABLE}:
        write(found, place)
