"""The report of a comparison: one HTML file without scripts that asks nothing of the network.

Owns the words of the summary and the shape of the tables; `template.html` owns the sections,
`page` what all reports share and `vocabulary` what each measure means.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bertft.report.page import inline, interval, listed, number, template
from bertft.report.vocabulary import (
    MEASURES,
    SITES,
    by_facet,
    is_shrunken,
    same_numbered,
    tuned_from,
)

DECIMALS = 4


class Cell(NamedTuple):
    """One value of a table as text, its interval, its shade from 0 to 1 ("": none), and a mark."""

    text: str
    interval: str
    shade: str
    mark: str = ""


def summary_table(table: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """The values on one corpus: a row per layer, a column per measure in canonical order.

    Args:
        table: the tidy table of a comparison.
        corpus: a name from its column `corpus`, with the site as in `by_facet`.

    Returns:
        A float64 frame indexed by `layer`; a value that the table lacks is NaN.

    Raises:
        ValueError: the corpus is not in the table, or the table is not what `same_numbered`
            expects.
    """
    rows = same_numbered(table, "summary_table")
    known = list(dict.fromkeys(rows["corpus"]))
    if corpus not in known:
        raise ValueError(
            f"[summary_table] corpus must be in the table, got {corpus!r}; "
            f"use one of {', '.join(map(repr, known))}."
        )
    return _pivot(rows[rows["corpus"] == corpus], "value")


def summary_sentences(table: pd.DataFrame) -> list[str]:
    """What the numbers say, in plain words: a sentence per corpus, then how the corpora compare.

    Speaks of `rsa` where the table has it, else of `cka`, else of the first measure it has.

    Args:
        table: the tidy table of a comparison.

    Raises:
        ValueError: the table is not what `same_numbered` expects.

    Example:
        >>> table = pd.DataFrame({"pretrained_layer": [0, 1], "value": [0.99, 0.5]})
        >>> table = table.assign(finetuned_layer=[0, 1], corpus="ewt", measure="rsa", n=4096)
        >>> table = table.assign(pretrained="base", finetuned="tuned", low=None, high=None)
        >>> print(summary_sentences(table)[0])  # doctest: +ELLIPSIS
        On ewt, layer 1 (the top) changed most: rsa is 0.5000 there ... at layer 0 (the embeddings).
    """
    rows = same_numbered(table, "summary_sentences")
    present = set(rows["measure"])
    measure = next(name for name in ("rsa", "cka", *MEASURES) if name in present)
    layers = {
        str(corpus): group.set_index("layer")[["value", "low", "high", "unchanged"]].astype(float)
        for corpus, group in rows[rows["measure"] == measure].groupby("corpus", sort=False)
    }
    sentences = [_corpus_sentence(corpus, measure, frame) for corpus, frame in layers.items()]
    return sentences + _comparison_sentences(measure, layers)


def render(
    table: pd.DataFrame,
    provenance: Mapping[str, Any],
    svg: str,
    heatmap: str | None = None,
    geometry: pd.DataFrame | None = None,
) -> str:
    """The report as one self-contained HTML document, with every name, path and note escaped.

    Args:
        table: the tidy table of a comparison, of one pretrained model.
        provenance: the record kept with it. Every key is optional; `diagnostics` and `notes` have
            sections of their own and the rest is listed as it comes, nested or not.
        svg: the figure, from `svg_text` or a file of `write_svg`. It goes in as markup, unescaped,
            so it must not come from anywhere else.
        heatmap: the same for all pairs of layers, where there are any.
        geometry: the table of single layers of a comparison.

    Raises:
        ValueError: the table is not what `same_numbered` expects, or `svg` holds no SVG element.
    """
    rows = same_numbered(table, "render")
    present = set(rows["measure"])
    named = set(table["site"]) if "site" in table else set()
    several = rows["finetuned"].nunique() > 1
    return template("template.html").render(
        pretrained=str(rows["pretrained"].iloc[0]),
        finetuned=tuned_from(rows),
        facet=listed(["corpus", *["site"] * bool(named - {"output"}), *["model"] * several]),
        summary=summary_sentences(table),
        figure=inline(svg, "render"),
        heatmap=inline(heatmap, "render", "heatmap") if heatmap else None,
        tables=[_corpus_table(str(name), of) for name, of in rows.groupby("corpus", sort=False)],
        references=[
            table
            for name, of in rows.groupby("corpus", sort=False)
            for table in _reference_tables(str(name), of)
        ],
        geometry=[] if geometry is None or geometry.empty else _geometry_tables(geometry),
        sites={name: told for name, told in SITES.items() if name in named},
        measures={name: measure for name, measure in MEASURES.items() if name in present},
        unchanged={str(name): _unchanged(of) for name, of in rows.groupby("measure")},
        is_shrunken=any(is_shrunken(of) for _, of in rows.groupby("measure")),
        is_inflated="note" in table and bool(table["note"].str.contains("inflated").any()),
        diagnostics=provenance.get("diagnostics"),
        notes=_notes(provenance.get("notes"), left_out=0 if heatmap else len(table) - len(rows)),
        provenance={
            key: value for key, value in provenance.items() if key not in ("diagnostics", "notes")
        },
    )


def _corpus_sentence(corpus: str, measure: str, frame: pd.DataFrame) -> str:
    known = frame["value"].dropna()
    if known.empty:
        return f"On {corpus}, {measure} has no value in any layer."
    change = _change(frame.loc[known.index])
    most = [int(layer) for layer in change.index[change == change.max()]]
    top = int(frame.index[-1])
    value = f"{measure} is {_at(frame, most[0])}"
    scale = f"({_scale(frame['unchanged'][most[0]])} = unchanged)"
    partial = len(known) < len(frame)
    on = f"On {corpus}, of the {len(known)} layers with a value," if partial else f"On {corpus},"
    if len(known) == 1:
        return f"On {corpus}, only layer {most[0]} has a value: {value} {scale}."
    if change.max() == 0:
        if frame["unchanged"].nunique() > 1:
            value = f"{measure} is what unchanged layers give"
        return f"{on} {'none' if partial else 'no layer'} changed: {value} in all of them."
    if len(most) == len(known):
        return f"{on} {'all' if partial else 'every layer'} changed equally: {value} {scale}."
    noun = "layer" if len(most) == 1 else "layers"
    names = listed([_layer(layer, top) for layer in most])
    others = [layer for layer in (int(frame.index[0]), top) if layer not in most]
    ends = listed([f"{_at(frame, layer)} at layer {_layer(layer, top)}" for layer in others])
    against = f", against {ends}" if ends else ""
    return f"{on} {noun} {names} changed most: {value} there {scale}{against}."


def _comparison_sentences(measure: str, layers: Mapping[str, pd.DataFrame]) -> list[str]:
    """Which corpus changed more at the top layer."""
    top = int(max(frame.index[-1] for frame in layers.values()))
    values = {corpus: frame["value"].get(top, math.nan) for corpus, frame in layers.items()}
    change = {
        corpus: float(_change(layers[corpus].loc[[top]]).iloc[0])
        for corpus, value in values.items()
        if not math.isnan(value)
    }
    if len(change) < 2:
        return []
    order = sorted(change, key=lambda corpus: -change[corpus])
    at = [_at(layers[corpus], top) for corpus in order]
    if change[order[0]] == change[order[-1]]:
        claim = f"{listed(order)} changed equally: {measure} is {at[0]}"
    elif len(order) == 2:
        claim = f"{order[0]} changed more than {order[1]}: {measure} is {at[0]} against {at[1]}"
    else:
        ranking = [f"{corpus} {value}" for corpus, value in zip(order, at, strict=True)]
        claim = f"from most to least changed by {measure}: {', '.join(ranking)}"
    absent = [corpus for corpus in layers if corpus not in change]
    without = f"; no value there on {listed(absent)}" if absent else ""
    return [f"At the top layer, {top}, {claim}{without}."]


def _change(frame: pd.DataFrame) -> pd.Series[float]:
    """How far values are from what unchanged layers give."""
    return (frame["value"] - frame["unchanged"]).abs().round(DECIMALS)


def _scale(unchanged: float) -> str:
    """Short where it is whole, as it is without a ridge."""
    return f"{unchanged:.0f}" if unchanged in (0.0, 1.0) else number(unchanged, DECIMALS)


def _layer(layer: int, top: int) -> str:
    glosses = {0: " (the embeddings)", top: " (the top)"}
    return f"{layer}{glosses.get(layer, '')}"


def _at(frame: pd.DataFrame, layer: int) -> str:
    """The value at a layer, with its interval where there is one."""
    value, low, high = (float(frame[name][layer]) for name in ("value", "low", "high"))
    if math.isnan(value):
        return "no value"
    return f"{number(value, DECIMALS)} {interval(low, high, DECIMALS - 1)}".strip()


def _pivot(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    frame = rows.pivot(index="layer", columns="measure", values=column).astype(float)
    return frame[[name for name in MEASURES if name in frame]]


def _corpus_table(corpus: str, rows: pd.DataFrame) -> dict[str, Any]:
    columns = [_pivot(rows, column) for column in ("value", "low", "high", "unchanged")]
    value, marks = columns[0], _marks(rows)
    counts = rows["n"].dropna()
    extremes = [] if counts.empty else sorted({int(counts.min()), int(counts.max())})
    families = itertools.groupby(value.columns, key=lambda name: MEASURES[name].family)
    return {
        "corpus": corpus,
        "n": " to ".join(f"{n:,}" for n in extremes),
        "biased": _biased(rows),
        "families": [(family, len(list(names))) for family, names in families],
        "measures": list(value.columns),
        "layers": {
            layer: [
                _cell(
                    name,
                    marks.get((layer, name), ""),
                    *(float(frame[name][layer]) for frame in columns),
                )
                for name in value.columns
            ]
            for layer in value.index
        },
    }


def _marks(rows: pd.DataFrame) -> dict[tuple[int, str], str]:
    """A word for cells that are not what they seem; the notes say why."""
    if "note" not in rows:
        return {}
    return {
        (int(row["layer"]), str(row["measure"])): "inflated"
        for row in rows.to_dict("records")
        if "inflated" in str(row["note"])
    }


def _biased(rows: pd.DataFrame) -> list[str]:
    """Measures, or quantities of a layer, whose intervals are about a biased value."""
    if "note" not in rows:
        return []
    of = rows["measure"][rows["note"].fillna("").str.contains("not centered on the truth")]
    order = {name: at for at, name in enumerate(MEASURES)}
    return sorted(dict.fromkeys(of), key=lambda name: order.get(name, 0))


def _reference_tables(corpus: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Tables of layers by measures of what values on a corpus are to be held against."""
    shrunken = [name for name, of in rows.groupby("measure", sort=False) if is_shrunken(of)]
    parts = {
        "chance": (rows, "unrelated rows, as many and as varied, would give on average"),
        "unchanged": (
            rows[rows["measure"].isin(shrunken)],
            "an unchanged layer would give with this ridge",
        ),
    }
    tables = [
        _plain_table(of, column, f"On {corpus}: what {what}")
        for column, (of, what) in parts.items()
        if column in of and of[column].notna().any()
    ]
    if "p_value" in rows and rows["p_value"].notna().any():
        n = int(rows["p_value_n"].max())
        named = f"On {corpus}: p-values, the share of orders of the rows of one model with at least"
        tables.append(_plain_table(rows, "p_value", f"{named} this value, on {n:,} rows"))
    return tables


def _plain_table(rows: pd.DataFrame, column: str, named: str) -> dict[str, Any]:
    """A table of layers by the measures that have something in a column."""
    frame = _pivot(rows, column).dropna(axis="columns", how="all")
    layers = {
        layer: [Cell(number(float(value), DECIMALS), "", "") for value in values]
        for layer, values in frame.iterrows()
    }
    return {"named": named, "measures": list(frame.columns), "layers": layers, "biased": []}


def _unchanged(of_measure: pd.DataFrame) -> str:
    """The value, or the range of values, of unchanged layers."""
    ends = sorted({_scale(float(of_measure["unchanged"].agg(end))) for end in ("min", "max")})
    return " to ".join(ends)


def _geometry_tables(geometry: pd.DataFrame) -> list[dict[str, Any]]:
    """For each corpus and model a table of layers by quantities."""
    tables = []
    keys = ["corpus", "role", "model"]
    for (corpus, role, model), rows in by_facet(geometry).groupby(keys, sort=False):
        layers = {
            layer: [
                Cell(
                    number(float(row["value"]), DECIMALS),
                    interval(float(row["low"]), float(row["high"]), DECIMALS - 1),
                    "",
                )
                for row in of_layer.to_dict("records")
            ]
            for layer, of_layer in rows.groupby("layer", sort=True)
        }
        named = f"Geometry: {role} model {model} on {corpus}"
        tables.append(
            {
                "named": named,
                "measures": rows["measure"].unique(),
                "layers": layers,
                "biased": _biased(rows),
            }
        )
    return tables


def _cell(measure: str, mark: str, value: float, low: float, high: float, unchanged: float) -> Cell:
    change = unchanged - value
    # The root makes the small changes near 1, where most values lie, visible.
    shaded = MEASURES[measure].panel == "similarity" and change > 0
    shade = f"{min(change, 1.0) ** 0.5:.2f}" if shaded else ""
    return Cell(number(value, DECIMALS), interval(low, high, DECIMALS - 1), shade, mark)


def _notes(notes: str | Sequence[Any] | None, left_out: int) -> list[str]:
    given = [notes] if isinstance(notes, str) else list(notes or [])
    if left_out:
        given.append(
            f"{left_out} rows of the table compare differently numbered layers; "
            "this report shows same-numbered layers only."
        )
    return [str(note) for note in given]
