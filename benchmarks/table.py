"""From a run of the benchmarks to one table, rows in results/, and docs/benchmarks.md.

`python benchmarks/table.py RUN.json` takes what pytest-benchmark wrote; without it only the page is
written again. A row is one contender of a group; the first of a group is what the others are
compared with, round by round. Targets are stated in the benchmarks (`aim`) and checked here; what
misses one is listed with the reason that is known for it, and makes the exit status 1.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "benchmarks" / "results" / "rows.jsonl"
DOCUMENT = ROOT / "docs" / "benchmarks.md"

TITLES = {
    "test_compare.py": "`compare`, end to end",
    "test_rows.py": "Rows and batches beside the forward passes",
    "test_memory.py": "Memory of the pass",
    "test_cross_moments.py": "Cross moments",
    "test_row_pooling.py": "Row pooling",
    "test_pairs.py": "Correlations over all pairs of rows",
    "test_spectra.py": "Batched spectra",
    "test_similarity.py": "All pairs of layers",
    "test_probe_ops.py": "Training many probes at once",
    "test_trees.py": "Maximum spanning arborescences",
    "test_prefix.py": "Epochs with a frozen prefix",
    "test_features.py": "Features: capture and reading",
    "test_probes.py": "Banks of probes",
    "test_structural.py": "Structural probes",
    "test_peers.py": "Beside published packages, by value first",
}


def rows_of(run):
    """One flat row for every contender, in the order of the files above."""
    first: dict[str, list[float]] = {}
    about = {
        "run": run["datetime"],
        "commit": run["commit_info"]["id"][:12] + ("+" if run["commit_info"]["dirty"] else ""),
        "machine": run["machine_info"]["cpu"]["brand_raw"],
        "isa": run["machine_info"]["isa"],
        "peak_gflops": run["machine_info"]["peak_gflops"],
        "python": platform.python_version(),
        **{name: version(name) for name in ("bertft", "torch", "numpy", "scipy")},
    }
    order = list(TITLES)
    benchmarks = sorted(run["benchmarks"], key=lambda b: order.index(file_of(b)))
    for benchmark in benchmarks:
        times = benchmark["stats"]["data"]
        against = first.setdefault(benchmark["group"], times)
        info = benchmark["extra_info"]
        yield {
            **about,
            "file": file_of(benchmark),
            "group": benchmark["group"],
            "who": name_of(benchmark),
            "median_s": benchmark["stats"]["median"],
            "q20_s": benchmark["stats"]["q20"],
            "q80_s": benchmark["stats"]["q80"],
            "rounds": len(times),
            # In turns where the rows raced, else one median by the other.
            "ratio": median(t / a for t, a in zip(times, against, strict=True))
            if len(times) == len(against)
            else median(times) / median(against),
            **info,
        }


def file_of(benchmark):
    return Path(benchmark["fullname"].split("::")[0]).name


def name_of(benchmark):
    values = [str(value) for value in (benchmark["params"] or {}).values()]
    return (benchmark["params"] or {}).get("who") or "-".join(values) or benchmark["name"]


def share(row):
    return row["ceiling_s"] / row["median_s"] if "ceiling_s" in row else None


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def section(title, rows):
    """A table with a line for each group: the first contender, and the others as ratios to it."""
    lines = [f"## {title}", ""]
    groups: dict[str, list[dict]] = {}
    for row in rows:
        group = f"{row['group']}: {row['who']}" if "grown_mib" in row else row["group"]
        groups.setdefault(group, []).append(row)
    lines += ["| | median (20 to 80 %) | of the ceiling | others: their time by the first |"]
    lines += ["|---|---|---|---|"]
    for group, (own, *others) in groups.items():
        spread = f"{duration(own['q20_s'])} to {duration(own['q80_s'])}"
        part = f"{share(own):.0%}" if share(own) else ""
        beside = ", ".join(f"{row['who']} {row['ratio']:.2f}x" for row in others)
        if "grown_mib" in own:
            beside = f"peak {own['grown_mib']:.0f} MiB above the {own['before']:.0f} before"
        if "padding" in own:
            beside = f"{own['padding']:.1%} of the positions are padding"
        name = f"{group}: {own['who']}" if others else group
        lines.append(f"| {name} | {duration(own['median_s'])} ({spread}) | {part} | {beside} |")
    return [*lines, ""]


# What a target may be of, and how it reads.
TARGETS = {
    "ratio": ("{:.2f}", "times the time of the first"),
    "share": ("{:.1%}", "of the ceiling"),
    "median_s": ("{:.2f}", "seconds"),
    "gain": ("{:.2f}", "times as fast as (x, y)"),
    "sentences_per_s": ("{:,.0f}", "sentences a second"),
    "padding": ("{:.1%}", "of the positions are padding"),
}


def missed(rows):
    """What does not reach the target that its benchmark states, with the reason that is known."""
    for row in rows:
        if (target := row.get("target")) is None:
            continue
        number, unit = TARGETS[target["of"]]
        value = share(row) if target["of"] == "share" else row[target["of"]]
        told = f"{row['group']}: {row['who']}, {number.format(value)} {unit}, not at"
        least, most = target["least"], target["most"]
        if least is not None and value < least:
            yield f"{told} least {number.format(least)}. {target['why']}".rstrip()
        if most is not None and value > most:
            yield f"{told} most {number.format(most)}. {target['why']}".rstrip()


INTRODUCTION = """# Benchmarks

`make bench` runs them and writes this page from the newest rows of every line. Contenders must give
equal values before they are timed. Those of a kernel or of `compare` take turns, so that a slow
minute of the machine hits all of them; ratios are the figures to quote. A ceiling is what the same
machine reached at that moment in multiply-adds from registers, or in copies of as many bytes
(`benchmarks/peak.py`), whichever takes longer for the flops and bytes that each file counts.
Each file states its targets; while one is missed, `make bench` ends with an error.
"""


def newest(rows):
    """The rows of the last run of every group: a part of the benchmarks can be run alone."""
    last = {(row["file"], row["group"]): row["run"] for row in rows}
    return [row for row in rows if last[row["file"], row["group"]] == row["run"]]


def main(path=None):
    if path is not None:
        run = json.loads(Path(path).read_text())
        ROWS.parent.mkdir(exist_ok=True)
        with ROWS.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows_of(run))
    kept = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    rows = newest([row for row in kept if row["machine"] == kept[-1]["machine"]])
    lines = [INTRODUCTION]
    for row in {row["run"]: row for row in rows}.values():
        own = [r for r in rows if r["run"] == row["run"]]
        files, threads = {r["file"] for r in own}, max(r.get("threads", 1) for r in own)
        lines.append(
            f"Run of {row['run'][:16]} ({', '.join(f for f in TITLES if f in files)}), commit "
            f"{row['commit']}: {row['machine']}, {row['isa']}, {threads} threads, "
            f"FMA peak {row['peak_gflops']:.0f} GFLOP/s in float32; Python {row['python']}, torch "
            f"{row['torch']}, NumPy {row['numpy']}, SciPy {row['scipy']}."
        )
        lines.append("")
    for file, title in TITLES.items():
        found = [row for row in rows if row["file"] == file]
        if found:
            lines += section(title, found)
    misses = list(missed(rows))
    lines += ["## Targets that these runs missed", ""]
    lines += [f"- {text}" for text in misses] or ["None."]
    DOCUMENT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[2:]))
    if misses:
        sys.exit(f"targets missed: {len(misses)}, listed above")


if __name__ == "__main__":
    main(*sys.argv[1:])
