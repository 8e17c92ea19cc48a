"""Targets of benchmarks: what misses one is told, on the page and by the exit status."""

import json

import pytest

from benchmarks import table

ROW = {
    "run": "2026-01-02T03:04:05",
    "commit": "abc",
    "machine": "it",
    "isa": "avx2",
    "peak_gflops": 100.0,
    "python": "3.11",
    "torch": "2",
    "numpy": "2",
    "scipy": "1",
    "file": "test_trees.py",
    "group": "trees",
    "who": "numpy",
    "median_s": 2.0,
    "q20_s": 2.0,
    "q80_s": 2.0,
    "ratio": 3.0,
    "ceiling_s": 1.0,
    "sentences_per_s": 5000.0,
}


def row(**target):
    return {**ROW, "target": {"of": "ratio", "least": None, "most": None, "why": "", **target}}


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"least": 3}, None),
        ({"most": 3}, None),
        ({"least": 3.5, "why": "Noise."}, "3.00 times the time of the first, not at least 3.50. N"),
        ({"most": 0.4}, "3.00 times the time of the first, not at most 0.40."),
        ({"of": "share", "least": 0.5}, None),
        ({"of": "share", "least": 0.75}, "50.0% of the ceiling, not at least 75.0%."),
        ({"of": "median_s", "most": 1}, "2.00 seconds, not at most 1.00."),
        ({"of": "sentences_per_s", "least": 2e4}, "5,000 sentences a second, not at least 20,000."),
    ],
)
def test_what_misses_its_target_is_told(target, told):
    found = list(table.missed([ROW, row(**target)]))
    assert len(found) == (told is not None)
    assert all(f"trees: numpy, {told}" in text for text in found)


@pytest.mark.parametrize("least", [2, 4])
def test_a_missed_target_is_an_error(least, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(table, "DOCUMENT", tmp_path / "page.md")
    table.ROWS.write_text(json.dumps(row(least=least)) + "\n")
    if least == 4:
        with pytest.raises(SystemExit, match="targets missed: 1"):
            table.main()
    else:
        table.main()
    page = table.DOCUMENT.read_text()
    assert ("not at least 4.00" in page) == (least == 4)
