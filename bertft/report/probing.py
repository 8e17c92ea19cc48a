"""The report of probes: one HTML file without scripts that asks nothing of the network.

Owns the shape of the tables; `probing.html` owns the words on how to read them. The summary and
the figure are those of `probing_table` and `probing_figure`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bertft.report.figures import elide
from bertft.report.page import inline, interval, number, template
from bertft.report.probing_figure import marks, probe_figure
from bertft.report.probing_table import (
    CELL,
    ROLES,
    averaged,
    base_of,
    checked,
    headline,
    paired,
    rank_of_layer,
    summarize,
)
from bertft.report.probing_vocabulary import (
    CHAIN,
    CODES,
    DEPTHS,
    LABEL_SCORES,
    LAYERWISE,
    LEXICAL,
    METRICS,
    MIX,
    SCORES,
    TREE_SCORES,
    labels_of,
    title_of,
)

__all__ = ["probe_figure", "render_probes", "summarize"]

Ends = tuple[str, str]


class Cell(NamedTuple):
    """One value of a table as text, and its interval."""

    text: str
    interval: str


class Column(NamedTuple):
    """What a column shows: the mean of a metric for a model, or its difference to the base."""

    name: str
    metric: str
    model: str
    difference: bool = False


class _Probes(NamedTuple):
    """A checked table as the page needs it.

    `known` holds paired differences, `means` and `values` a mean and its interval for each cell.
    """

    base: str
    labels: dict[str, str]
    kinds: set[str]
    means: pd.DataFrame
    values: dict[tuple[str, ...], tuple[float, float, float]]
    known: dict[tuple[str, ...], tuple[float, float, float]]


def render_probes(
    table: pd.DataFrame,
    provenance: Mapping[str, Any],
    differences: pd.DataFrame | None,
    svg: str,
    drawn: Mapping[str, str] | None = None,
) -> str:
    """The report as one self-contained HTML document, with every name, path and note escaped.

    Args:
        table: the tidy table of probes; its first model is the base.
        provenance: the record kept with it. Every key is optional; `notes` have a section of their
            own, and the rest is listed as it comes, nested or not.
        differences: paired differences against the base, with `probing_table.DIFFERENCES`; empty
            or None where there are none.
        svg: the figure, from `figures.svg_text`. It goes in as markup, unescaped, so it must not
            come from anywhere else.
        drawn: pictures of a sentence in the same form, "trees" and "distances".

    Raises:
        ValueError: the table is not what `probing_table.checked` expects, `differences` lacks a
            column or repeats a row, or `svg` holds no SVG element.
    """
    rows = checked(table, "render_probes")
    base, means = base_of(rows), averaged(rows)
    ends, brackets = _ends(means)
    values = means[["mean", *ends]].itertuples(index=False, name=None)
    labels = labels_of(list(dict.fromkeys(rows["model"])))
    probes = _Probes(
        base=base,
        labels={model: elide(label, room=40) for model, label in labels.items()},
        kinds=set(means["probe"]),
        means=means,
        values=dict(zip(means[CELL].itertuples(index=False, name=None), values, strict=True)),
        known=paired(differences, base, "render_probes"),
    )
    summary, present = summarize(table, differences), set(rows["metric"])
    shown = list(means.groupby(["task", "probe"], sort=False))
    return template("probing.html").render(
        base=base,
        models=probes.labels,
        roles=set(summary["role"]),
        read_at=set(summary["layer"]),
        of_labels=_has(rows, LABEL_SCORES),
        of_trees=_has(rows, TREE_SCORES),
        layers={"mix" if layer == MIX else layer.split("-")[0] for layer in means["layer"]},
        compared=bool(probes.known),
        single=set(means["seeds"]) == {1},
        brackets=brackets,
        marks=marks(table),
        metrics={name: metric for name, metric in METRICS.items() if name in present},
        figure=inline(svg, "render_probes"),
        drawn={name: inline(own, "render_probes", name) for name, own in (drawn or {}).items()},
        summary=_summary_table(summary, probes, ends),
        layer_tables=[_layer_table(of, probes) for _, of in shown if _has(of, SCORES)],
        depth_table=_depth_table(means[means["metric"].isin(DEPTHS)], probes),
        other_tables=[_other_table(of, probes) for _, of in shown if _others(of)],
        notes=_notes(provenance.get("notes")),
        provenance={key: value for key, value in provenance.items() if key != "notes"},
    )


def _ends(means: pd.DataFrame) -> tuple[Ends, str]:
    """The columns with the ends of the intervals that the page shows, and what these are."""
    if means[["low", "high"]].notna().all(axis=1).any():
        over = "" if (means["seeds"] == 1).all() else ", averaged over seeds"
        return ("low", "high"), f"95 % bootstrap intervals over the sentences of dev{over}"
    if means["seeds_low"].notna().any():
        kinds = ["95 % t intervals over seeds"] if (means["seeds"] > 2).any() else []
        kinds += ["the lowest and highest of two seeds"] if (means["seeds"] == 2).any() else []
        return ("seeds_low", "seeds_high"), " or ".join(kinds)
    return ("low", "high"), ""


def _summary_table(summary: pd.DataFrame, probes: _Probes, ends: Ends) -> dict[str, Any]:
    """The paper's table: a row per task and score, the base, tuned models and controls across."""
    across = summary[["role", "model"]].drop_duplicates().itertuples(index=False, name=None)
    columns = sorted(across, key=lambda pair: ROLES.index(pair[0]))
    groups, bodies = [], []
    for role, model in columns:
        titles = {"base": "{} (base)", LEXICAL: LEXICAL, CHAIN: "linear chain"}
        name = titles.get(role, "{}").format(probes.labels[model])
        groups.append((name, ["score", "difference"] if role == "finetuned" else ["score"]))
    read_at = _read_at(summary)
    for keys, of in summary.groupby(["task", "probe", "metric"], sort=False):
        task, probe, metric = map(str, keys)
        by_column = {(row["role"], row["model"]): row for row in of.to_dict("records")}
        cells = []
        for role, model in columns:
            row = by_column.get((role, model), {})
            names = ["mean", *ends]
            cells.append(_cell(metric, *(row.get(name, math.nan) for name in names)))
            if role == "finetuned":
                names = ["difference", "difference_low", "difference_high"]
                cells.append(_signed(metric, *(row.get(name, math.nan) for name in names)))
        heads = [title_of(task, probe, probes.kinds), METRICS[metric].name.removesuffix(" (%)")]
        heads += [f"{int(of['n'].max()):,}", *_read_at(of)[: len(read_at) > 1]]
        bodies.append([{"heads": heads, "cells": cells}])
    heads = ["task", "score", "targets", *["read at"][: len(read_at) > 1]]
    return {"heads": heads, "groups": groups, "bodies": bodies, "read_at": read_at}


def _read_at(summary: pd.DataFrame) -> list[str]:
    """The layers, under the names of this page, at which models are read."""
    return [
        _layer_name(name)
        for name in dict.fromkeys(summary.loc[~summary["role"].isin([LEXICAL, CHAIN]), "layer"])
    ]


def _layer_table(of: pd.DataFrame, probes: _Probes) -> dict[str, Any]:
    """The headline of one task over the layers: a group of columns per model."""
    metric = headline(of)
    models = list(dict.fromkeys(of.loc[of["metric"] == metric, "model"]))
    groups = []
    for model in models:
        columns = [Column("score", metric, model)]
        if any(key[2:4] == (metric, model) for key in probes.known):
            columns.append(Column("difference", metric, model, difference=True))
        name = probes.labels[model] + (" (base)" if model == probes.base else "")
        groups.append((name, columns))
    return _by_layer(of[of["metric"] == metric], groups, probes) | {"metric": METRICS[metric].name}


def _other_table(of: pd.DataFrame, probes: _Probes) -> dict[str, Any]:
    """Everything else that one task has for each layer: a group of columns per metric."""
    groups = []
    for metric in _others(of):
        models = dict.fromkeys(of.loc[of["metric"] == metric, "model"])
        columns = [Column(probes.labels[model], metric, model) for model in models]
        groups.append((METRICS[metric].name, columns))
    return _by_layer(of[of["metric"].isin(_others(of))], groups, probes)


def _by_layer(
    of: pd.DataFrame, groups: Sequence[tuple[str, Sequence[Column]]], probes: _Probes
) -> dict[str, Any]:
    """A table of one task with a row per layer, in bodies of single and mixed layers."""
    task, probe = (str(of[name].iloc[0]) for name in ("task", "probe"))
    bodies: dict[str, list[dict[str, Any]]] = {}
    for layer in sorted(set(of["layer"]), key=rank_of_layer):
        kind = "single" if layer.isdecimal() else layer.split("-")[0]
        cells = [_find((task, probe), layer, column, probes) for _, own in groups for column in own]
        row = {"heads": [_layer_name(layer)], "cells": cells}
        bodies.setdefault(kind, []).append(row)
    return {
        "task": title_of(task, probe, probes.kinds),
        "targets": _targets(of),
        "heads": ["layer"],
        "groups": [(name, [column.name for column in own]) for name, own in groups],
        "bodies": list(bodies.values()),
    }


def _targets(of: pd.DataFrame) -> str:
    """How many targets the values are of: those of dev, for a code those of training."""
    coded = of["metric"].isin(CODES)
    dev, train = of.loc[~coded, "n"], of.loc[coded, "n"]
    told = [f"{int(dev.max()):,} targets"] if len(dev) else []
    told += [f"{int(train.max()):,} training targets (code)"] if len(train) else []
    return " and ".join(told)


def _depth_table(of: pd.DataFrame, probes: _Probes) -> dict[str, Any] | None:
    """Where in the model each task's labels are: a row per task and statistic."""
    models = [model for model in probes.labels if model in set(of["model"])]
    bodies = []
    for keys, own in of.groupby(["task", "probe"], sort=False):
        task, probe = map(str, keys)
        pairs = own[["metric", "layer"]].drop_duplicates().itertuples(index=False, name=None)
        rows = [
            {
                "heads": [title_of(task, probe, probes.kinds), name],
                "cells": [
                    _find((task, probe), layer, Column("", metric, model), probes)
                    for model in models
                ],
            }
            for metric, layer in pairs
            for name in [METRICS[metric].name.removesuffix(" (layer)")]
        ]
        bodies.append(rows)
    names = [probes.labels[model] for model in models]
    heads = ["task", "statistic"]
    return {"heads": heads, "groups": [("layer", names)], "bodies": bodies} if bodies else None


def _find(task: tuple[str, str], layer: str, column: Column, probes: _Probes) -> Cell:
    key = (*task, column.metric, column.model, layer)
    absent = (math.nan, math.nan, math.nan)
    if column.difference:
        return _signed(column.metric, *probes.known.get(key, absent))
    return _cell(column.metric, *probes.values.get(key, absent))


def _cell(metric: str, value: float, low: float, high: float) -> Cell:
    scale, decimals = METRICS[metric].scale, METRICS[metric].decimals
    ends = interval(scale * low, scale * high, decimals)
    return Cell(number(scale * value, decimals), ends)


def _signed(metric: str, value: float, low: float, high: float) -> Cell:
    """A difference, with a plus where it is a gain as shown."""
    cell = _cell(metric, value, low, high)
    gain = value > 0 and any(digit in cell.text for digit in "123456789")
    return cell._replace(text=f"+{cell.text}" if gain else cell.text)


def _has(of: pd.DataFrame, metrics: Sequence[str]) -> bool:
    return bool(of["metric"].isin(metrics).any())


def _others(of: pd.DataFrame) -> list[str]:
    """The metrics by layer that the table of the headline leaves out."""
    present = set(of["metric"])
    shown = headline(of) if _has(of, SCORES) else ""
    return [name for name in (*SCORES, *LAYERWISE) if name in present and name != shown]


def _layer_name(layer: str) -> str:
    if layer.startswith("cumulative-"):
        return f"0 to {layer.removeprefix('cumulative-')} mixed"
    return {CHAIN: "linear chain"}.get(layer, layer)


def _notes(notes: str | Sequence[Any] | None) -> list[str]:
    return [notes] if isinstance(notes, str) else [str(note) for note in notes or []]
