"""The benchmarks of a GPU run, with few rows and in the interpreter; their times mean nothing."""

import pytest
import torch

pytest.importorskip("triton")
from benchmarks import gpu
from bertft.ops import backends
from bertft.ops.triton.tilings import Tiling, using

TILING = Tiling(16, 16, 16, 4, 2)
SMALL = {
    gpu.ceilings: {"n": 8, "copied": 8},
    gpu.cross_moments: {"n": 2, "widths": (5,)},
    gpu.row_pooling: {"tokens": 12, "d": 5},
    gpu.second_order: {"n": 9, "d": 5},
    gpu.spectra: {"pairs": 5, "d": 7, "looped": 2},
    gpu.small_spectra: {"batch": 1, "sizes": (5,)},
    gpu.probe_bank: {"rows": 9, "probes": 2, "classes": 3},
    gpu.passes: {"batches": 1, "texts": 1, "length": 2, "sizes": {"tiny": (8, 1, 2, 8)}},
}


@pytest.mark.parametrize("measure", gpu.BENCHMARKS, ids=lambda own: own.__name__)
def test_benchmarks_of_a_gpu(measure, monkeypatch):
    def timed(call):
        call()
        return 1.0, 0.5, 2.0

    # The CPU stands in for a GPU.
    taken = {**backends.DEVICES, "native": "none", "triton": "cpu"}
    monkeypatch.setattr(backends, "DEVICES", taken)
    monkeypatch.setattr(gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(gpu, "time_ms", timed)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(gpu, "TILINGS", dict.fromkeys(gpu.TILINGS, (TILING,)))
    with using(tiling=TILING):
        rows = list(measure(**SMALL[measure]))
    assert rows
    assert len({row["name"] + row.get("tiling", "") for row in rows}) == len(rows)
    assert all(row["ms_q20"] <= row["ms"] <= row["ms_q80"] for row in rows)


def test_targets_of_a_gpu_are_told():
    times = (1.0, 1.0, 1.0)
    first = gpu.row("torch.mm", times, flops=4e9)
    aimed = {"beside": "torch.mm", "of": "tflops", "least": 0.7}
    rows = [gpu.row("ours", times, flops=flops, **aimed) for flops in (3e9, 2e9)]
    rows.append(gpu.row("pass", times, beside="torch.mm", of="ms", most=1.3))
    found = list(gpu.measured([lambda: iter([first, *rows])]))
    assert [row.get("ratio") for row in found] == [None, 0.75, 0.5, 1.0]
    ends = ["tflops", "at least 0.7 met", "at least 0.7 MISSED", "at most 1.3 met"]
    assert all(gpu.told(row).endswith(end) for row, end in zip(found, ends, strict=True))
