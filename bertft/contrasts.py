"""Comparisons of comparisons: differences of their values, with intervals from groups."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import pandas as pd

from bertft.similarity import MEASURES, SAMPLED
from bertft.similarity.intervals import Interval, interval
from bertft.similarity.intervals import difference as independent_difference
from bertft.similarity.scale import Scale

KEY = ["site", "pretrained_layer", "finetuned_layer", "measure"]
GROUPED_BY = ("fingerprint", "rows_used", "group_bounds")


class Tables(Protocol):
    """The tables of a comparison and their provenance."""

    table: pd.DataFrame
    replicates: pd.DataFrame
    provenance: dict[str, Any]


class Place(NamedTuple):
    """A corpus and a fine-tuned model of a comparison."""

    corpus: str
    finetuned: str


def difference(
    first: Tables,
    second: Tables,
    corpus: str | None,
    other_corpus: str | None,
    finetuned: str | None = None,
    other_finetuned: str | None = None,
) -> pd.DataFrame:
    """See `Comparison.difference`."""
    model = _model(first, "finetuned", finetuned)
    other_model = _model(second, "other_finetuned", other_finetuned)
    rows = [
        row
        for own, other in _corpora(first, second, corpus, other_corpus)
        for row in _rows(first, second, Place(own, model), Place(other, other_model))
    ]
    if not rows:
        raise ValueError(
            "[difference] comparisons must have pairs of layers and measures in common, got none; "
            "run both with the same measures."
        )
    return pd.DataFrame(rows)


def _model(comparison: Tables, argument: str, name: str | None) -> str:
    known = [str(model) for model in dict.fromkeys(comparison.table["finetuned"])]
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        raise ValueError(
            f"[difference] {argument} must be among the fine-tuned models of the comparison, "
            f"{', '.join(known)}, got {name!r}; pass one of these."
        )
    return name


def _corpora(
    first: Tables, second: Tables, corpus: str | None, other_corpus: str | None
) -> list[tuple[str, str]]:
    known, others = (list(dict.fromkeys(c.table["corpus"])) for c in (first, second))
    if corpus is None and other_corpus is None:
        pairs = [(name, name) for name in known if name in others]
    else:
        own = corpus if corpus is not None else other_corpus
        other = other_corpus if other_corpus is not None else corpus
        pairs = [(str(own), str(other))] if own in known and other in others else []
    if not pairs:
        raise ValueError(
            f"[difference] corpus and other_corpus must be among those of the comparisons, got "
            f"{corpus!r} and {other_corpus!r} for {known} and {others}; pass a name of each."
        )
    return pairs


def _rows(first: Tables, second: Tables, here: Place, there: Place) -> list[dict[str, Any]]:
    corpus, other = here.corpus, there.corpus
    a, b = (_keyed(c.table, place) for c, place in ((first, here), (second, there)))
    left, right = (_keyed(c.replicates, place) for c, place in ((first, here), (second, there)))
    # Rows of a sample are the same where as many were drawn of the same rows.
    same_groups = _groups_of(first, corpus) == _groups_of(second, other)
    sizes = (c.provenance["options"].get("sample") for c in (first, second))
    same_sample = same_groups and len(set(sizes)) == 1
    rows = []
    for key, row in a.items():
        if key not in b:
            continue
        is_paired = (
            (same_sample if row["measure"] in SAMPLED else same_groups)
            and key in left
            and key in right
        )
        found = _interval(row, b[key], left.get(key), right.get(key), is_paired)
        rows.append(
            {
                "corpus": corpus,
                "other_corpus": other,
                "finetuned": here.finetuned,
                "other_finetuned": there.finetuned,
                **dict(zip(KEY, key, strict=True)),
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "is_paired": is_paired,
                "n": row["n"],
                "other_n": b[key]["n"],
                "note": _note(row, b[key]),
            }
        )
    return rows


def _note(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why a difference may be none of the layers, and what there is to mind about both values."""
    measure: Scale = MEASURES.get(row["measure"]) or SAMPLED[row["measure"]]
    notes = []
    if measure.is_biased and row["n"] != other["n"]:
        notes.append("biased values of unequal n: part of the difference is the bias")
    ends = [float(side.get("unchanged", math.nan)) for side in (row, other)]
    if abs(ends[0] - ends[1]) > 0.001:
        notes.append(
            f"unequal ridges: an unchanged layer gives {ends[0]:.3f} here and {ends[1]:.3f} there"
        )
    own, others = (side.get("note") or "" for side in (row, other))
    if own == others:
        notes += [own] if own else []
    else:
        notes += [f"{where}: {note}" for where, note in (("here", own), ("there", others)) if note]
    return "; ".join(notes)


def _interval(
    row: Mapping[str, Any],
    other: Mapping[str, Any],
    left: Mapping[str, Any] | None,
    right: Mapping[str, Any] | None,
    is_paired: bool,
) -> Interval:
    """The difference, with ends where both values have an interval."""
    value = row["value"] - other["value"]
    if left is None or right is None or pd.isna([row["low"], other["low"]]).any():
        return Interval(value, math.nan, math.nan, math.nan)
    a, b = (np.asarray(side["without"], float) for side in (left, right))
    if is_paired:
        return interval(value, a - b, left["sizes"])
    first = interval(row["value"], a, left["sizes"])
    second = interval(other["value"], b, right["sizes"])
    return independent_difference(first, second, (len(a), len(b)))


def _keyed(table: pd.DataFrame, place: Place) -> dict[tuple[str, int, int, str], dict[str, Any]]:
    """The rows of a corpus and a model about pairs of layers, by layers and measure."""
    if table.empty:
        return {}
    rows = table[(table["corpus"] == place.corpus) & (table["finetuned"] == place.finetuned)]
    rows = rows[rows["pretrained_layer"].notna()]
    rows = rows[rows["finetuned_layer"].notna()]
    keys = (
        (str(site), int(a), int(b), str(name))
        for site, a, b, name in rows[KEY].itertuples(index=False)
    )
    records = rows.to_dict("records")
    return {key: cast(dict[str, Any], row) for key, row in zip(keys, records, strict=True)}


def _groups_of(comparison: Tables, corpus: str) -> Any:
    """What makes the groups of a corpus what they are; nothing without intervals."""
    for described in comparison.provenance["corpora"]:
        if described["name"] == corpus and described.get("group_bounds"):
            return [described[name] for name in GROUPED_BY] + [
                comparison.provenance["options"][name] for name in ("rows", "limit", "seed")
            ]
    return object()
