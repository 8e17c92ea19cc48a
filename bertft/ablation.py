"""`ablate`: which layers did the task need? Partial freezing and truncation over a grid of runs.

Owns the grid and its folder: a cell is one fine-tuning run, done once however often and by however
many processes the grid is run. Files of a cell are those of `finetuning.runs`.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from bertft import results
from bertft.checkpoints import Checkpoint, fingerprint
from bertft.files import locked, replacing, write_text
from bertft.finetuning.examples import Source, named
from bertft.finetuning.recipe import Recipe
from bertft.finetuning.runs import Finetuned, finetune
from bertft.finetuning.tasks import task_of
from bertft.progress import Display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAN, CELLS, LOCKS = "ablation.json", "cells", "locks"
COLUMNS = (
    "model", "task", "ablation", "layers", "depth", "seed", "corpus", "measure", "value", "n",
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Cell:
    """One run of the grid: a model with k blocks frozen or kept, or the whole of it, and a seed."""

    seed: int
    ablation: Literal["full", "freeze", "keep"]
    layers: int

    def name(self, task: str) -> str:
        """Name of the cell's folder."""
        which = "full" if self.ablation == "full" else f"{self.ablation}{self.layers}"
        return f"{task}-{which}-seed{self.seed}"


class Ablation:
    """The cells of a folder that are done, as a table, a figure and a report.

    Attributes:
        table: tidy pandas table with the columns `model, task, ablation, layers, depth, seed,
            corpus, measure, value, n`; `ablation` is "freeze", "keep" or "full".
        provenance: plans, versions and how many cells are done, as JSON types.
    """

    def __init__(self, folder: Path, table: pd.DataFrame, provenance: dict[str, Any]) -> None:
        self.folder = folder
        self.table = table
        self.provenance = provenance

    @classmethod
    def load(cls, folder: Source) -> "Ablation":
        """Collect the cells that are done, also while others are running.

        Raises:
            FileNotFoundError: the folder holds no grid.
        """
        folder = Path(folder)
        plans = _read_plans(folder)
        if not plans:
            raise FileNotFoundError(
                f"[report] folder must hold a grid of ablations, got {str(folder)!r} without "
                f"{PLAN}; pass the out of ablate."
            )
        model = next(iter(plans.values()))["model"]
        tables, tasks, total = [], {}, 0
        for task, plan in plans.items():
            cells = [Cell(**cell) for cell in plan["cells"]]
            total += len(cells)
            prefixes = {}
            for cell in cells:
                if _is_done(folder, task, cell):
                    found = Finetuned.load(folder / CELLS / cell.name(task))
                    # A model may have several names, and has one here.
                    about = {"model": model, "ablation": cell.ablation, "layers": cell.layers}
                    tables.append(found.table.assign(**about)[list(COLUMNS)])
                    prefixes[cell.name(task)] = found.provenance["prefix_cache"]
            same = dict(plan["same"])
            fingerprints = {key: same.pop(key) for key in ("model", "train", "dev")}
            tasks[task] = {
                **same,
                "train": plan["train"],
                "dev": plan["dev"],
                "fingerprints": fingerprints,
                "frozen prefix": prefixes,
            }
        provenance = {
            "kind": "ablation",
            "created": min(plan["created"] for plan in plans.values()),
            "versions": results.versions(),
            "model": model,
            "cells": {"done": len(tables), "total": total},
            "tasks": tasks,
        }
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
        return cls(folder, table, provenance)

    @property
    def summary(self) -> pd.DataFrame:
        """Means over seeds with intervals, and points lost against the full model."""
        from bertft.report.ablation import summarize

        return summarize(self.table)

    @property
    def headline(self) -> pd.DataFrame:
        """The summary of each task's first measure, the full model's row only where it is alone."""
        summary = self.summary
        first = summary.groupby("task", sort=False)["measure"].transform("first")
        grid = summary.groupby("task", sort=False)["ablation"].transform(
            lambda a: (a != "full").any()
        )
        return summary[(summary["measure"] == first) & ((summary["ablation"] != "full") | ~grid)]

    def plot(self) -> "Figure":
        """Return a figure of the headline measure against layers frozen and layers kept."""
        from bertft.report.ablation import ablation_figure

        return ablation_figure(self.table)

    def write_report(self) -> Path:
        """Write table, summary, figure and report into the folder; return the report's path."""
        from bertft.report.ablation import render_ablation
        from bertft.report.figures import svg_text, write_svg

        with replacing(self.folder / "results.parquet") as path:
            self.table.to_parquet(path, index=False)
        write_text(self.folder / "results.csv", self.table.to_csv(index=False))
        write_text(self.folder / "summary.csv", self.summary.to_csv(index=False))
        figure = self.plot()
        write_svg(figure, self.folder / "figure.svg")
        report = self.folder / "report.html"
        write_text(report, render_ablation(self.table, self.provenance, svg_text(figure)))
        return report

    def _repr_html_(self) -> str:
        return str(self.summary.to_html(index=False))

    def __repr__(self) -> str:
        cells = self.provenance["cells"]
        tasks = ", ".join(self.provenance["tasks"])
        return f"Ablation({tasks}: {cells['done']} of {cells['total']} cells done)"


def ablate(
    task: str,
    model: str | Path,
    train: Source,
    dev: Source | Sequence[Source],
    out: Source,
    *,
    freeze: Sequence[int] = (),
    keep: Sequence[int] = (),
    seeds: int | Sequence[int] = 1,
    save_models: bool = False,
    progress: bool = False,
    **options: Any,
) -> Ablation:
    """Fine-tune a model with its lower k blocks frozen, or only those kept, for every k and seed.

    The full model is always in the grid; it is both `freeze` 0 and `keep` L. A cell that is done is
    not done again, one that was cut short goes on from its last checkpoint, and several processes
    may work on one folder. Several tasks may share it too.

    Args:
        task: "depparse", "mnli" or "squad".
        model: folder or hub name.
        train: as for `finetune`.
        dev: as for `finetune`.
        out: the folder of the grid, new or of an earlier run.
        freeze: numbers of blocks to freeze, 0..L.
        keep: numbers of blocks to keep, 1..L.
        seeds: how many, from 0, or which.
        save_models: keep each cell's model too, not its scores only.
        progress: print what happens, with bars.
        **options: of `finetune`, the same for all cells.

    Raises:
        ValueError: a number of blocks that the model lacks, or a folder whose cells of this task
            have another model, data or recipe.
        FileExistsError: a folder with something else in it.
        FileNotFoundError: no such model or file.

    Reference: Merchant et al. 2020, partial freezing and layer truncation.
    """
    out, display = Path(out), Display(progress)
    if unusable := {"seed", "resume", "overwrite", "tokenizer"} & set(options):
        raise TypeError(
            f"[ablate] options must be the same for all cells, got {sorted(unusable)[0]!r}; pass "
            "seeds for seeds, and a folder for a tokenizer of its own."
        )
    _require_grid(out)
    checkpoint = Checkpoint.open(model)
    cells = grid(checkpoint.blocks.depth, freeze, keep, seeds)
    _extend_plan(out, task, _plan(task, checkpoint, train, dev, options), cells)
    del checkpoint
    display.note(
        f"{task}: {len(cells)} cells, {sum(_is_done(out, task, cell) for cell in cells)} of them "
        f"done, in {out}"
    )
    for cell in _taken(out, task, cells, display):
        folder = out / CELLS / cell.name(task)
        display.note(f"cell {folder.name}")
        found = finetune(
            task,
            model,
            train,
            dev,
            folder,
            freeze=cell.layers if cell.ablation == "freeze" else 0,
            keep=cell.layers if cell.ablation == "keep" else None,
            seed=cell.seed,
            save_model=save_models,
            resume=True,
            progress=progress,
            **options,
        )
        display.note(f"cell {folder.name}: {found.headline}")
    return Ablation.load(out)


def grid(
    depth: int, freeze: Sequence[int], keep: Sequence[int], seeds: int | Sequence[int]
) -> list[Cell]:
    """Return the cells of a grid, each once, all of a seed before the next.

    Raises:
        ValueError: no seed, a number twice, or one that a model of this depth does not allow.
    """
    wanted = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    for name, values, least in (("freeze", freeze, 0), ("keep", keep, 1)):
        for k in values:
            if not least <= k <= depth:
                raise ValueError(
                    f"[ablate] {name} must be in {least}..{depth} for a model of {depth} blocks, "
                    f"got {k}; leave it out."
                )
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(
            f"[ablate] seeds must be one or more, each once, got {seeds}; pass how many."
        )
    frozen = [("freeze", k) for k in sorted(set(freeze)) if k > 0]
    kept = [("keep", k) for k in sorted(set(keep)) if k < depth]
    return [
        Cell(seed, ablation, layers)  # type: ignore[arg-type]
        for seed in wanted
        for ablation, layers in [("full", depth), *frozen, *kept]
    ]


def _taken(out: Path, task: str, cells: Sequence[Cell], display: Display) -> Iterator[Cell]:
    """Cells that are not done, each while this process holds its lock.

    When all that is left is in other hands, waits for them to finish or to die.
    """
    waiting = False
    while left := [cell for cell in cells if not _is_done(out, task, cell)]:
        taken = False
        for cell in left:
            with locked(out / LOCKS / cell.name(task), wait=False) as held:
                if held and not _is_done(out, task, cell):
                    taken = True
                    yield cell
        if not taken and not waiting:
            display.note("waiting for the cells that other processes are at ...")
        waiting = not taken
        if waiting:
            time.sleep(1)


def _is_done(out: Path, task: str, cell: Cell) -> bool:
    return (out / CELLS / cell.name(task) / results.PROVENANCE).is_file()


def _read_plans(out: Path) -> dict[str, Any]:
    try:
        plans: dict[str, Any] = json.loads((out / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"[ablate] {PLAN} must be JSON, got {error} in {str(out)!r}; restore or remove it."
        ) from error
    return plans


def _require_grid(out: Path) -> None:
    if out.is_dir() and not (out / LOCKS).is_dir() and (found := sorted(out.iterdir())):
        raise FileExistsError(
            f"[ablate] out must be a new or empty folder, or hold a grid, got {found[0].name!r} in "
            f"{str(out)!r}; pass another folder."
        )


def _plan(
    task: str,
    checkpoint: Checkpoint,
    train: Source,
    dev: Source | Sequence[Source],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What the cells of a task have in common; `same` is what they must agree in."""
    job = task_of(task)
    settings = {field.name for field in fields(Recipe)}
    recipe = job.recipe.with_settings(**{k: v for k, v in options.items() if k in settings})
    skip_bad = bool(options.get("skip_bad"))
    train_set = job.read(os.fspath(train), skip_bad=skip_bad)
    dev_sets = {name: job.read(path, skip_bad=skip_bad) for name, path in named(dev).items()}
    return {
        "model": checkpoint.name,
        "depth": checkpoint.blocks.depth,
        "train": os.fspath(train),
        "dev": [found.source for found in dev_sets.values()],
        "same": {
            "model": fingerprint(checkpoint.encoder),
            "train": train_set.fingerprint,
            "dev": {name: found.fingerprint for name, found in dev_sets.items()},
            "recipe": asdict(recipe),
            "limit": options.get("limit"),
            "dev_every": options.get("dev_every", 1),
            "prefix_cache": options.get("prefix_cache", True),
        },
    }


def _extend_plan(out: Path, task: str, plan: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Add cells to the plan of the folder, which must be for the same model, data and recipe."""
    plan = json.loads(json.dumps(plan))
    with locked(out / LOCKS / "plan", wait=True):
        plans = _read_plans(out)
        found = plans.get(task, {"created": results.now(), "cells": [], **plan})
        theirs = {**found["same"], "model": next(iter(plans.values()), plan)["same"]["model"]}
        for key, value in plan["same"].items():
            if theirs[key] != value:
                raise ValueError(
                    f"[ablate] out must hold cells of the same {key}, got {theirs[key]} in "
                    f"{str(out)!r} where this run has {value}; pass another out."
                )
        known = [Cell(**cell) for cell in found["cells"]]
        known += [cell for cell in cells if cell not in known]
        found["cells"] = [asdict(cell) for cell in known]
        write_text(out / PLAN, json.dumps({**plans, task: found}, indent=2) + "\n")
