"""Peak memory of `compare` beyond the models must not grow with the rows.

Each size runs in a process of its own, after a first small pass; `extra_info` has the MiB
before the pass (the token ids are in it) and at its peak.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def measured(script, *arguments):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def record(benchmark, found):
    grown = found["peak"] - found["before"]
    benchmark.extra_info.update(found, grown_mib=grown, threads=torch.get_num_threads())


@pytest.mark.benchmark(group="memory of the pass by rows, tiny model")
@pytest.mark.parametrize("rows", [10_000, 200_000])
def test_memory(benchmark, rows):
    found = benchmark.pedantic(measured, ("memory_of_pass.py", rows), rounds=1)
    assert found["rows"] == rows
    record(benchmark, found)
    # Far below the rows themselves: 13 x 2 layers of 200,000 rows would take gigabytes.
    assert benchmark.extra_info["grown_mib"] < 64


@pytest.mark.benchmark(group="intervals of BERT-base from 20 groups, 25,000 words")
@pytest.mark.parametrize("pairs", ["same"])
def test_memory_of_intervals(benchmark, pairs):
    found = benchmark.pedantic(measured, ("memory_of_intervals.py", pairs, 25_000), rounds=1)
    record(benchmark, found)
    assert found["peak"] < 8 * 2**10
