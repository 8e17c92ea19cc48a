"""Tables and lines on the terminal, and the line that was typed there."""

import shlex
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from bertft.ablation import Ablation
    from bertft.compared import Comparison
    from bertft.probes import Probing


def typed() -> str:
    """Return the command line, for the record of a run."""
    return shlex.join(["bertft", *sys.argv[1:]])


def show_comparison(comparison: "Comparison") -> None:
    """Print measures by layers for every corpus, in as many parts as the terminal needs.

    Values that are inflated have an asterisk.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for corpus in comparison.facets:
        summary = comparison.summary(corpus).T
        inflated = _inflated(comparison.rows_of(corpus))
        names = max(map(len, summary.index)) + 2
        per_part = max(1, (console.width - names) // 8)
        for first in range(0, len(summary.columns), per_part):
            layers = summary.columns[first : first + per_part]
            table = Table("layer", box=box.SIMPLE_HEAD, padding=0, title_justify="left")
            table.title = Text(str(corpus))
            for layer in layers:
                table.add_column(str(layer), justify="right", no_wrap=True)
            for measure, values in summary[layers].iterrows():
                marks = ["*" if (str(measure), int(layer)) in inflated else "" for layer in layers]
                cells = [f"{value:.4f}{mark}" for value, mark in zip(values, marks, strict=True)]
                table.add_row(str(measure), *cells)
            console.print(table)
        if inflated:
            say("* inflated: much of it is what unrelated rows give (chance, in results.csv)")


def _inflated(table: "pd.DataFrame") -> set[tuple[Hashable, Hashable]]:
    """Measures and numbers of layers of which chance alone makes much."""
    rows = table[table["note"].str.contains("inflated")]
    rows = rows[rows["pretrained_layer"] == rows["finetuned_layer"]]
    return set(zip(rows["measure"], rows["pretrained_layer"].astype(int), strict=True))


def show_ablation(ablation: "Ablation") -> None:
    """Print the means of what is done, and write the report; nothing is done yet at first."""
    cells = ablation.provenance["cells"]
    done = f"{cells['done']} of {cells['total']} cells done"
    if cells["done"]:
        what = {"full": "all", "freeze": "{} frozen", "keep": "{} kept"}
        for task, rows in ablation.headline.groupby("task", sort=False):
            shown = rows[["corpus", "mean", "low", "high", "seeds", "loss"]].copy()
            pairs = zip(rows["ablation"], rows["layers"], strict=True)
            shown.insert(1, "layers", [what[name].format(k) for name, k in pairs])
            show_table(shown, f"{task}, {rows['measure'].iloc[0]} (%); {done}")
        say(f"report: {ablation.write_report()}")
    else:
        say(done)
    for cell, why in ablation.provenance["failed"].items():
        say(f"{cell} failed: {why}")


def show_probing(probing: "Probing") -> None:
    """Print the scores of the models and controls (%), a row for each task and metric."""
    import pandas as pd

    rows = []
    models = {str(model): Path(str(model)).name for model in probing.summary["model"]}
    if len(set(models.values()) | {"lexical", "chain"}) < len(models) + 2:
        models = {model: model for model in models}
    for key, scores in probing.summary.groupby(["task", "metric"], sort=False):
        task, metric = map(str, key)
        cells = {"task": task, "score": metric, "layer": str(scores["layer"].iloc[0])}
        for score in scores.to_dict("records"):
            alone = score["role"] in ("lexical", "chain")
            name = score["role"] if alone else models[str(score["model"])]
            cells[name] = f"{100 * score['mean']:.1f}"
            if score["role"] != "base":
                cells[name] += f" ({100 * score['difference']:+.1f})"
        rows.append(cells)
    title = f"{', '.join(probing.table['probe'].unique())} probes, %"
    table, heads = pd.DataFrame(rows).fillna(""), ["task", "score", "layer"]
    if len(table.columns) > len(heads) + 1:
        title += " (less the first model)"
    if table["layer"].nunique() == 1:
        layer = table.pop("layer").iloc[0]
        title += f", layer {layer}" if layer.isdecimal() else f", {layer}"
        heads.remove("layer")
    show_parts(table.set_index(heads), title)
    for note in probing.provenance["notes"]:
        say(note)


def show_table(table: "pd.DataFrame", title: str | None = None) -> None:
    """Print a table as it is, numbers with two decimals."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, title_justify="left")
    shown.title = None if title is None else Text(title)
    for name in table.columns:
        numeric = table[name].dtype.kind in "if"
        shown.add_column(
            str(name), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for _, row in table.iterrows():
        shown.add_row(*(_cell(value) for value in row))
    Console().print(shown)


def show_parts(table: "pd.DataFrame", title: str) -> None:
    """Print a table of text in as many parts as the terminal needs, the index in each of them."""
    from rich.console import Console

    whole = table.reset_index()
    # A column has a space on both sides and one after it.
    widths = {str(name): 3 + max(map(len, [str(name), *whole[name]])) for name in whole}
    room = Console().width - 1 - sum(widths[str(name)] for name in table.index.names)
    parts: list[list[str]] = [[]]
    for name in map(str, table.columns):
        if parts[-1] and sum(widths[own] for own in [*parts[-1], name]) > room:
            parts.append([])
        parts[-1].append(name)
    say(title)
    for part in parts:
        show_table(table[part].reset_index())


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.2f}"
    return str(value)


def say(text: str) -> None:
    """Print a line as it is."""
    from rich.console import Console

    Console().print(text, highlight=False, markup=False, soft_wrap=True)
