"""The Triton kernels compiled ahead of time: they fit sm_80 and sm_90, and spill nothing."""

import json
import subprocess
import sys

import pytest

from tests.kernels import SHARED_BYTES

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def rows():
    """One build of every kernel for each architecture, compiled in a process of its own."""
    command = [sys.executable, "-m", "tests.kernels", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_every_kernel_compiles_and_spills_nothing(rows):
    for capability, bound in SHARED_BYTES.items():
        built = [row for row in rows if row["capability"] == capability]
        assert built
        assert not [row for row in built if row["spills"] or row["shared"] > bound]


def test_cross_moments_are_products_of_tensor_cores(rows):
    for capability, instruction in ((80, "mma.sync"), (90, "wgmma.mma_async")):
        found = [
            name
            for row in rows
            if row["capability"] == capability and row["kernel"].startswith("multiply")
            for name in row["tensor_cores"]
        ]
        assert found
        assert all(name.startswith(instruction) for name in found)


def test_builds_are_what_host_code_launches():
    command = [sys.executable, "-m", "tests.launches"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
