"""The report of an ablation: one HTML file without scripts that asks nothing of the network.

Owns the shape of the tables and what is said of unfinished cells; `ablation.html` owns the words on
how to read it. The summary and the figure are those of `ablation_table` and `ablation_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bertft.report.ablation_figure import ablation_figure
from bertft.report.ablation_table import UNITS, name_of, scores, summarize
from bertft.report.page import inline, interval, number, template

__all__ = ["ablation_figure", "render_ablation", "summarize"]

DECIMALS = 2


def render_ablation(table: pd.DataFrame, provenance: Mapping[str, Any], svg: str) -> str:
    """The report as one self-contained HTML document, with every name, path and note escaped.

    Args:
        table: the tidy table of an ablation, finished or not.
        provenance: the record kept with it. Every key is optional; `cells` tells how much is done,
            `failed` why some are not, and everything is listed as it comes, nested or not.
        svg: the figure, from `figures.svg_text`. It goes in as markup, unescaped, so it must not
            come from anywhere else.

    Raises:
        ValueError: the table is not what `ablation_table.scores` expects, or `svg` holds no SVG
            element.
    """
    rows = scores(table, "render_ablation")
    means = summarize(table)
    return template("ablation.html").render(
        model=str(rows["model"].iloc[0]),
        depth=int(rows["depth"].iloc[0]),
        ablations=set(means["ablation"]),
        single=set(means["seeds"]) == {1},
        progress=_progress(provenance.get("cells")),
        failed=dict(provenance.get("failed", {})),
        figure=inline(svg, "render_ablation"),
        tables=[
            _table(means[(means["task"] == task) & (means["corpus"] == corpus)], int(of["n"].max()))
            for (task, corpus), of in rows.groupby(["task", "corpus"], sort=False)
        ],
        provenance=dict(provenance),
    )


def _progress(cells: Any) -> str:
    """How many cells are done, where the provenance tells."""
    if not isinstance(cells, Mapping) or not {"done", "total"} <= set(cells):
        return ""
    done, total = cells["done"], cells["total"]
    if done == total:
        return f"All {total} cells are done."
    return f"{done} of {total} cells are done; the others are absent below."


def _table(means: pd.DataFrame, n: int) -> dict[str, Any]:
    """One task on one corpus: a row per cell, with a mean and a loss for every measure."""
    task, corpus = (str(means[name].iloc[0]) for name in ("task", "corpus"))
    # The full model has a row of its own; freeze 0 and keep `depth` would repeat it.
    full = means.loc[means["ablation"] == "full", "layers"]
    repeats = (means["ablation"] == "freeze") & (means["layers"] == 0)
    repeats |= (means["ablation"] == "keep") & means["layers"].isin(full)
    cells = means[~repeats].groupby(["ablation", "layers"], sort=False)
    measures = [str(measure) for measure in dict.fromkeys(means["measure"])]
    return {
        "task": name_of(task),
        "corpus": corpus,
        "n": f"{n:,} {UNITS.get(task, 'items')}",
        "measures": [name_of(measure) for measure in measures],
        "rows": [
            {
                "ablation": str(ablation),
                "layers": layers,
                "seeds": int(of["seeds"].max()),
                "cells": [_cell(of[of["measure"] == measure]) for measure in measures],
            }
            for (ablation, layers), of in cells
        ],
    }


def _cell(means: pd.DataFrame) -> dict[str, str]:
    """The mean of one measure as text, with its interval and its loss."""
    if means.empty:
        return {"mean": "—", "interval": "", "loss": "—"}
    mean, low, high, loss = (
        float(means[name].to_numpy(float)[0]) for name in ("mean", "low", "high", "loss")
    )
    of_full = means["ablation"].iloc[0] == "full"
    return {
        "mean": number(mean, DECIMALS),
        "interval": interval(low, high, DECIMALS),
        "loss": "" if of_full else number(loss, DECIMALS),
    }
