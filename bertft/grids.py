"""The grid of an ablation: its cells, the plan of its folder, and who works on which cell.

A cell is one fine-tuning run, done once however often and by however many processes the grid is
run. What the cells of a task must agree in is in the plan.
"""

import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bertft import results
from bertft.amounts import require_integers
from bertft.checkpoints import fingerprint
from bertft.files import locked, reason_of, write_text
from bertft.finetuning.examples import Source
from bertft.finetuning.preparing import Prepared
from bertft.progress import Display

Ablated = Literal["full", "freeze", "keep"]
PLAN, CELLS, LOCKS, FAILED = "ablation.json", "cells", "locks", "failed"


@dataclass(frozen=True, order=True)
class Cell:
    """One run of the grid: a model with k blocks frozen or kept, or the whole of it, and a seed."""

    seed: int
    ablation: Ablated
    layers: int

    def name(self, task: str) -> str:
        """Name of the cell's folder."""
        which = "full" if self.ablation == "full" else f"{self.ablation}{self.layers}"
        return f"{task}-{which}-seed{self.seed}"


def grid(
    depth: int, freeze: Sequence[int], keep: Sequence[int], seeds: int | Sequence[int]
) -> list[Cell]:
    """Return the cells of a grid, each once, all of a seed before the next.

    Raises:
        TypeError: a number that is not whole.
        ValueError: no seed, a number twice, or one that a model of this depth does not allow.
    """
    given = {"freeze": freeze, "keep": keep, "seeds": [seeds] if isinstance(seeds, int) else seeds}
    for name, numbers in given.items():
        for number in numbers:
            require_integers("ablate", **{name: number})
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
    full: tuple[Ablated, int] = ("full", depth)
    frozen: list[tuple[Ablated, int]] = [("freeze", k) for k in sorted(set(freeze)) if k > 0]
    kept: list[tuple[Ablated, int]] = [("keep", k) for k in sorted(set(keep)) if k < depth]
    return [
        Cell(seed, ablation, layers)
        for seed in wanted
        for ablation, layers in [full, *frozen, *kept]
    ]


def taken(
    out: Path, task: str, same: Mapping[str, Any], cells: Sequence[Cell], display: Display
) -> Iterator[Cell]:
    """Yield the cells that are not done, each once, while this process holds its lock.

    When all that is left is in other hands, waits for them to finish or to die.

    Raises:
        ValueError: the folder's plan has been replaced by one that does not agree in `same`.
    """
    waiting, tried = False, set[Cell]()
    while left := [cell for cell in cells if cell not in tried and not is_done(out, task, cell)]:
        idle = True
        for cell in left:
            with locked(out / LOCKS / cell.name(task), wait=False) as held:
                if held and not is_done(out, task, cell):
                    idle = False
                    # Nobody replaces it now: that takes the locks of the cells.
                    theirs = read_plans(out).get(task, {}).get("same", {})
                    if _differing(theirs, same):
                        raise _disagreement(out, theirs, same)
                    tried.add(cell)
                    yield cell
        if idle and not waiting:
            display.note("waiting for the cells that other processes are at ...")
        waiting = idle
        if idle:
            time.sleep(1)


def is_done(out: Path, task: str, cell: Cell) -> bool:
    """Return whether a cell has its results."""
    return (out / CELLS / cell.name(task) / results.PROVENANCE).is_file()


def record_failure(out: Path, task: str, cell: Cell, error: Exception) -> str:
    """Leave why a cell failed, and where; return the error in one line."""
    line = " ".join((reason_of(error) or f"{type(error).__name__}: {error}").split())
    trace = "".join(traceback.format_exception(error))
    write_text(out / FAILED / f"{cell.name(task)}.txt", f"{line}\n\n{trace}")
    return line


def forget_failure(out: Path, task: str, cell: Cell) -> None:
    """Remove what an earlier try of a cell left, now that it is done."""
    (out / FAILED / f"{cell.name(task)}.txt").unlink(missing_ok=True)


def failure(out: Path, task: str, cell: Cell) -> str | None:
    """Return the error of the last try of a cell in one line, None where it did not fail."""
    try:
        trace = (out / FAILED / f"{cell.name(task)}.txt").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return trace.partition("\n")[0]


def read_plans(out: Path) -> dict[str, Any]:
    """Return the plans of a folder by task; none where there is no grid.

    Raises:
        ValueError: a plan that is no JSON.
    """
    try:
        plans: dict[str, Any] = json.loads((out / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"[ablate] {PLAN} must be JSON, got {error} in {str(out)!r}; restore or remove it."
        ) from error
    return plans


def require_grid(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        FileExistsError: it does.
    """
    if out.is_dir() and not (out / LOCKS).is_dir() and (found := sorted(out.iterdir())):
        raise FileExistsError(
            f"[ablate] out must be a new or empty folder, or hold a grid, got {found[0].name!r} in "
            f"{str(out)!r}; pass another folder."
        )


def plan_of(
    prepared: Prepared, train: Source, *, save_models: bool, command: str | None
) -> dict[str, Any]:
    """Return what the cells of a task have in common; `same` is what they must agree in."""
    checkpoint, options = prepared.checkpoint, prepared.options
    plan: dict[str, Any] = {
        "commands": [command] if command else [],
        "model": checkpoint.name,
        "depth": checkpoint.blocks.depth,
        "train": os.fspath(train),
        "dev": [found.source for found in prepared.dev.values()],
        "same": {
            "model": fingerprint(checkpoint.encoder),
            "recipe": asdict(prepared.recipe),
            "limit": options["limit"],
            "dev_every": options["dev_every"],
            "train": prepared.train.fingerprint,
            "dev": {name: found.fingerprint for name, found in prepared.dev.items()},
            "prefix_cache": prepared.cache is not None,
            "save_models": save_models,
        },
    }
    return plan


def extend_plan(out: Path, task: str, plan: dict[str, Any], cells: Sequence[Cell]) -> list[str]:
    """Add cells to the plan of the folder; return the names of those that it forgot.

    A plan that does not agree gives way, with failures and checkpoints of its cells, where none of
    them is done or in other hands. Whether prefixes are cached concerns cells with frozen blocks.

    Raises:
        ValueError: the folder has cells of another model, or of this task with other data or
            another recipe.
    """
    with locked(out / LOCKS / "plan", wait=True), ExitStack() as locks:
        plans = read_plans(out)
        forgotten = [
            (name, cell)
            for name in plans
            for cell in _outdated(out, name, plans[name], task, plan["same"], locks)
        ]
        for name, cell in forgotten:
            shutil.rmtree(out / CELLS / cell.name(name), ignore_errors=True)
            forget_failure(out, name, cell)
            plans[name]["cells"].remove(asdict(cell))
        plans = {name: found for name, found in plans.items() if found["cells"]}
        found = plans.get(task, {"created": results.now(), "cells": [], **plan})
        found["same"] = plan["same"]
        known = [Cell(**cell) for cell in found["cells"]]
        known += [cell for cell in cells if cell not in known]
        found["cells"] = [asdict(cell) for cell in known]
        found["commands"] = list(dict.fromkeys([*found.get("commands", []), *plan["commands"]]))
        write_text(out / PLAN, json.dumps({**plans, task: found}, indent=2) + "\n")
    return [cell.name(name) for name, cell in forgotten]


def _outdated(
    out: Path,
    name: str,
    found: Mapping[str, Any],
    task: str,
    same: Mapping[str, Any],
    locks: ExitStack,
) -> list[Cell]:
    """The cells of a plan that cannot stay beside a run of `task`; holds the locks of them all.

    Raises:
        ValueError: one of them is done, or in other hands.
    """
    # The cells of another task must agree in the model alone.
    theirs, wanted = found["same"], same if name == task else {"model": same["model"]}
    differing = _differing(theirs, wanted)
    cells = [
        cell
        for cell in (Cell(**each) for each in found["cells"])
        if differing and (differing != ["prefix_cache"] or cell.ablation == "freeze")
    ]
    for cell in cells:
        held = locks.enter_context(locked(out / LOCKS / cell.name(name), wait=False))
        if not held or is_done(out, name, cell):
            raise _disagreement(out, theirs, wanted)
    return cells


def _differing(theirs: Mapping[str, Any], same: Mapping[str, Any]) -> list[str]:
    return [key for key, value in same.items() if theirs.get(key) != value]


def _disagreement(out: Path, theirs: Mapping[str, Any], same: Mapping[str, Any]) -> ValueError:
    key = _differing(theirs, same)[0]
    return ValueError(
        f"[ablate] out must hold cells of the same {key}, got {theirs.get(key)} in {str(out)!r} "
        f"where this run has {same[key]}; pass another out."
    )
