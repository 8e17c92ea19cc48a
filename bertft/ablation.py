"""`ablate`: which layers did the task need? Partial freezing and truncation over a grid of runs.

Owns the composition and its results; `grids` owns cells, plan and locks, and the files of a cell
are those of `finetuning.runs`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bertft import results
from bertft.files import replacing, write_text
from bertft.finetuning.examples import Source
from bertft.finetuning.preparing import prepare
from bertft.finetuning.runs import Finetuned, finetune
from bertft.grids import (
    CELLS,
    PLAN,
    Cell,
    extend_plan,
    failure,
    forget_failure,
    grid,
    is_done,
    plan_of,
    read_plans,
    record_failure,
    require_grid,
    taken,
)
from bertft.progress import Display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "model", "task", "ablation", "layers", "depth", "seed", "corpus", "measure", "value", "n",
)  # fmt: skip


class Ablation:
    """The cells of a folder that are done, as a table, a figure and a report.

    Attributes:
        table: tidy pandas table with the columns `model, task, ablation, layers, depth, seed,
            corpus, measure, value, n`; `ablation` is "freeze", "keep" or "full".
        provenance: plans, versions, how many cells are done and why others failed, as JSON types.
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
        plans = read_plans(folder)
        if not plans:
            raise FileNotFoundError(
                f"[report] folder must hold a grid of ablations, got {str(folder)!r} without "
                f"{PLAN}; pass the out of ablate."
            )
        model = next(iter(plans.values()))["model"]
        tables, tasks, failed, total = [], {}, {}, 0
        for task, plan in plans.items():
            cells = [Cell(**cell) for cell in plan["cells"]]
            total += len(cells)
            prefixes = {}
            for cell in cells:
                if is_done(folder, task, cell):
                    found = Finetuned.load(folder / CELLS / cell.name(task))
                    # A model may have several names, and has one here.
                    about = {"model": model, "ablation": cell.ablation, "layers": cell.layers}
                    tables.append(found.table.assign(**about)[list(COLUMNS)])
                    prefixes[cell.name(task)] = found.provenance["prefix_cache"]
                elif (why := failure(folder, task, cell)) is not None:
                    failed[cell.name(task)] = why
            same = dict(plan["same"])
            fingerprints = {key: same.pop(key) for key in ("model", "train", "dev")}
            tasks[task] = {
                **same,
                "train": plan["train"],
                "dev": plan["dev"],
                "commands": plan.get("commands", []),
                "fingerprints": fingerprints,
                "frozen prefix": prefixes,
            }
        provenance = {
            "kind": "ablation",
            "created": min(plan["created"] for plan in plans.values()),
            "versions": results.versions(),
            "model": model,
            "cells": {"done": len(tables), "total": total},
            "failed": failed,
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
        cells, failed = self.provenance["cells"], len(self.provenance["failed"])
        tasks = ", ".join(self.provenance["tasks"])
        told = f", {failed} failed" if failed else ""
        return f"Ablation({tasks}: {cells['done']} of {cells['total']} cells done{told})"


class FailedCellsError(RuntimeError):
    """Cells of a grid that failed, while the others were done; `ablation` has the whole folder."""

    def __init__(self, failed: Mapping[str, str], ablation: Ablation) -> None:
        name, line = next(iter(failed.items()))
        super().__init__(
            f"[ablate] cells must all be done, got {len(failed)} that failed, first {name}: "
            f"{line.rstrip('.')}; run it again to try again."
        )
        self.ablation = ablation


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
    command: str | None = None,
    progress: bool = False,
    **options: Any,
) -> Ablation:
    """Fine-tune a model with its lower k blocks frozen, or only those kept, for every k and seed.

    The full model is always in the grid; it is both `freeze` 0 and `keep` L. A cell that is done is
    not done again, one that was cut short goes on from its last checkpoint, and several processes
    may work on one folder. Several tasks may share it too. A cell that fails does not keep the
    others from their turn; its error is kept, and the next run tries it again. What can be known
    before the first cell is an error then, also that a frozen prefix has no room.

    Args:
        task: "depparse", "mnli", "squad" or "tagging".
        model: folder or hub name.
        train: as for `finetune`.
        dev: as for `finetune`.
        out: the folder of the grid, new or of an earlier run.
        freeze: numbers of blocks to freeze, 0..L.
        keep: numbers of blocks to keep, 1..L.
        seeds: how many, from 0, or which.
        save_models: keep each cell's model too, not its scores only; the same for all cells.
        command: what was typed to start the run, for its record.
        progress: print what happens, with bars.
        **options: of `finetune`, the same for all cells.

    Raises:
        TypeError: an option that there is not, or that belongs to one cell.
        ValueError: a number of blocks that the model lacks, data or settings out of range, a frozen
            prefix beyond its budgets, or a folder with cells that are done, or that another process
            is at, of this task with another model, data or recipe.
        RuntimeError: no such device.
        FileExistsError: a folder with something else in it.
        FileNotFoundError: no such model or file.
        FailedCellsError: after all cells had their turn, where some of them failed.

    Reference: Merchant et al. 2020, partial freezing and layer truncation.
    """
    out, display = Path(out), Display(progress)
    if unusable := {"seed", "resume", "overwrite", "tokenizer"} & set(options):
        raise TypeError(
            f"[ablate] options must be the same for all cells, got {sorted(unusable)[0]!r}; pass "
            "seeds for seeds, and a folder for a tokenizer of its own."
        )
    require_grid(out)
    prepared = prepare(task, model, train, dev, **options)
    cells = grid(prepared.checkpoint.blocks.depth, freeze, keep, seeds)
    left = [cell for cell in cells if not is_done(out, task, cell)]
    if left:
        prepared.rehearse(
            out,
            freeze=[cell.layers for cell in left if cell.ablation == "freeze"],
            keep=[cell.layers for cell in left if cell.ablation == "keep"],
        )
    plan = plan_of(prepared, train, save_models=save_models, command=command)
    if forgotten := extend_plan(out, task, plan, cells):
        display.note(f"another plan gave way, with its unfinished cells {', '.join(forgotten)}")
    # It holds the model and all examples.
    del prepared
    display.note(f"{task}: {len(cells)} cells, {len(cells) - len(left)} of them done, in {out}")
    for cell in taken(out, task, plan["same"], cells, display):
        folder = out / CELLS / cell.name(task)
        display.note(f"cell {folder.name}")
        try:
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
                command=command,
                resume=True,
                progress=progress,
                **options,
            )
        except Exception as error:  # whatever it is, the other cells may do better
            # Its text alone is kept: the frames of the error hold the model.
            display.note(f"cell {folder.name} failed: {record_failure(out, task, cell, error)}")
        else:
            forget_failure(out, task, cell)
            display.note(f"cell {folder.name}: {found.headline}")
    ablation = Ablation.load(out)
    # Another process may have done since what failed here.
    ours = {cell.name(task) for cell in cells}
    failed = {name: why for name, why in ablation.provenance["failed"].items() if name in ours}
    if failed:
        raise FailedCellsError(failed, ablation)
    return ablation
