"""The Triton kernels compiled ahead of time: they fit sm_80 and sm_90, and spill nothing."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def rows():
    """One build of every kernel for each architecture, compiled in a process of its own."""
    command = [sys.executable, "-m", "tests.kernels", "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_every_kernel_compiles_and_spills_nothing(rows):
    assert {row["capability"] for row in rows} == {80, 90}
    assert not [row for row in rows if row["spills"]]
