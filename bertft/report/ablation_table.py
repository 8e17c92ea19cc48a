"""The table of an ablation: checked, in order, and summarized over seeds.

A row is the score of one fine-tuned model on one corpus by one measure. Owns the names of tasks
and measures; draws nothing and formats no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

COLUMNS = (
    "model",
    "task",
    "ablation",
    "layers",
    "depth",
    "seed",
    "corpus",
    "measure",
    "value",
    "n",
)
ABLATIONS = ("full", "freeze", "keep")
SCORE = ["task", "corpus", "measure"]

NAMES = {
    "depparse": "Dependency parsing",
    "mnli": "MNLI",
    "squad": "SQuAD",
    "tagging": "Part-of-speech tagging",
    "las": "LAS",
    "uas": "UAS",
    "las_no_punct": "LAS without punctuation",
    "uas_no_punct": "UAS without punctuation",
    "f1": "F1",
    "em": "exact match",
}
UNITS = {"depparse": "words", "mnli": "pairs", "squad": "questions", "tagging": "words"}


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Every cell's mean over seeds, its interval, and what it loses to the full model.

    The interval is mean ± t · sd / √seeds, with t the 97.5 % point of Student's distribution with
    seeds - 1 degrees of freedom. It covers the seeds of fine-tuning, not the choice of dev texts.

    Args:
        table: the tidy table of an ablation, with `COLUMNS`.

    Returns:
        A row per task, corpus, measure, `ablation` and `layers`, in the table's order, with
        `seeds`, `mean`, `low` and `high` (95 %; NaN for a single seed, which has no interval) and
        `loss`: points below the full model's mean, negative where the cell is better, NaN without
        a full model. The full model is "full"; in a task with such cells it is also freeze 0, and
        keep `depth`.

    Raises:
        ValueError: the table is not what `scores` expects.

    Example:
        >>> cells = pd.DataFrame({"ablation": ["full", "freeze"], "layers": [12, 8]})
        >>> cells = cells.assign(model="bert", task="mnli", depth=12, seed=0, corpus="matched")
        >>> cells = cells.assign(measure="accuracy", value=[84.5, 84.0], n=9815)
        >>> summarize(cells)[["ablation", "layers", "seeds", "mean", "loss"]]
          ablation  layers  seeds  mean  loss
        0     full      12      1  84.5   0.0
        1   freeze       0      1  84.5   0.0
        2   freeze       8      1  84.0   0.5
    """
    rows = scores(table, "summarize")
    values = rows.groupby([*SCORE, "ablation", "layers"], sort=False)["value"]
    frame = values.agg(seeds="count", mean="mean", deviation="std").reset_index()
    half = stdtrit(frame["seeds"] - 1, 0.975) * frame["deviation"] / np.sqrt(frame["seeds"])
    full = frame[frame["ablation"] == "full"].set_index(SCORE)["mean"]
    frame = frame.join(full.rename("full"), on=SCORE)
    return frame.assign(
        low=frame["mean"] - half, high=frame["mean"] + half, loss=frame["full"] - frame["mean"]
    ).drop(columns=["deviation", "full"])


def scores(table: pd.DataFrame, function: str) -> pd.DataFrame:
    """The rows of the table, checked and in order, with the full model's repeated.

    Tasks, corpora, measures and seeds keep the order of the table, and layers ascend. The full
    model's rows also stand for freeze 0 and keep `depth` in a task with such cells.

    Args:
        table: the tidy table of an ablation, with `COLUMNS`.
        function: the public function that asks, for error messages.

    Raises:
        ValueError: a column is missing, there is no row, several models are mixed, an ablation or
            its number of layers is impossible, a value is not finite, or a score occurs twice.
    """
    _check(table, function)
    full = table[table["ablation"] == "full"]
    parts = [table]
    for ablation, layers in (("freeze", 0), ("keep", int(table["depth"].iloc[0]))):
        tasks = table.loc[table["ablation"] == ablation, "task"]
        parts.append(full[full["task"].isin(tasks)].assign(ablation=ablation, layers=layers))
    rows = pd.concat([part for part in parts if len(part)], ignore_index=True)
    keys = (
        rows["layers"].to_numpy(np.intp),
        rows["ablation"].map(ABLATIONS.index).to_numpy(np.intp),
        *(_appearance(rows, by) for by in (["task", "measure"], ["task", "corpus"], ["task"])),
    )
    # Stable, so that seeds stay in the order of the table.
    return rows.iloc[np.lexsort(keys)].reset_index(drop=True)


def name_of(word: str) -> str:
    """A task or a measure as it is written in papers; an unknown one stays as it is."""
    return NAMES.get(word, word)


def headline(rows: pd.DataFrame) -> str:
    """The first measure of one task's rows."""
    return str(rows["measure"].iloc[0])


def _appearance(rows: pd.DataFrame, by: Sequence[str]) -> NDArray[Any]:
    return rows.groupby(list(by), sort=False).ngroup().to_numpy()


def _check(table: pd.DataFrame, function: str) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"[{function}] table must have the columns {', '.join(COLUMNS)}, got none named "
            f"{', '.join(missing)}; pass the table of an ablation."
        )
    if table.empty:
        raise ValueError(
            f"[{function}] table must hold a finished cell, got no row; run `bertft ablate` first."
        )
    models = table[["model", "depth"]].drop_duplicates()
    if len(models) > 1:
        got = ", ".join(f"{model!r} of depth {depth}" for model, depth in models.to_numpy())
        raise ValueError(
            f"[{function}] table must hold one model, got {got}; filter it by `model` and report "
            "each on its own."
        )
    _check_cells(table, function)


def _check_cells(table: pd.DataFrame, function: str) -> None:
    layers, depth = table["layers"], table["depth"]
    possible = (
        ((table["ablation"] == "full") & (layers == depth))
        | ((table["ablation"] == "freeze") & layers.between(1, depth))
        | ((table["ablation"] == "keep") & layers.between(0, depth - 1))
    )
    for ablation, count in table.loc[~possible, ["ablation", "layers"]].head(1).to_numpy():
        raise ValueError(
            f"[{function}] table must hold cells of full {depth.iloc[0]}, freeze 1 to "
            f"{depth.iloc[0]} or keep 0 to {depth.iloc[0] - 1}, got {ablation} {count}; call the "
            "model of which nothing is frozen or cut full."
        )
    keys = ["task", "ablation", "layers", "seed", "corpus", "measure"]
    unusable = table[~np.isfinite(table["value"].to_numpy(float))]
    if len(unusable):
        raise ValueError(
            f"[{function}] table must hold finite values, got {unusable['value'].iloc[0]} for "
            f"{_described(unusable[keys])}; run that cell again."
        )
    repeated = table[table.duplicated(keys)]
    if len(repeated):
        raise ValueError(
            f"[{function}] table must hold each score once, got several for "
            f"{_described(repeated[keys])}; drop the repeated rows."
        )


def _described(rows: pd.DataFrame) -> str:
    """The keys of the first row."""
    return ", ".join(f"{name} {value}" for name, value in rows.iloc[0].items())
