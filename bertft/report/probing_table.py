"""The table of probes: checked, in order, averaged over seeds and brought into the paper's form.

A row is one metric of one probe, trained with one seed on one layer (or mixture of layers) of one
model. Names and metrics are those of `probing_vocabulary`. Draws nothing and formats no number.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from bertft.report.probing_vocabulary import (
    CHAIN,
    CORRELATIONS,
    LEXICAL,
    METRICS,
    MIX,
    RANDOMIZED,
    SCORES,
)

COLUMNS = ("model", "task", "probe", "layer", "seed", "metric", "value", "low", "high", "n")
DIFFERENCES = (
    "model", "base", "task", "probe", "layer", "metric", "value", "low", "high", "n_seeds", "n",
)  # fmt: skip
SUMMARY = (
    "task", "probe", "metric", "role", "model", "layer", "seeds", "mean", "low", "high",
    "seeds_low", "seeds_high", "difference", "difference_low", "difference_high", "n",
)  # fmt: skip
ROLES = ("base", "finetuned", LEXICAL, CHAIN, RANDOMIZED)
CELL = ["task", "probe", "metric", "model", "layer"]
_LAYER = re.compile(r"(\d+)|mix|cumulative(?:-(\d+))?|lexical|chain")


def summarize(table: pd.DataFrame, differences: pd.DataFrame | None = None) -> pd.DataFrame:
    """The paper's table: every task's scores for the base, the tuned models and two controls.

    All models are read at one layer: "mix" where the base has it, else the single layer at which
    the base scores best (on the dev data, so a little too well). The lexical control is the base's
    "lexical", else its layer "0"; structural probes have "chain" too, which reads no model.
    Values are those of the table: shares, not percent.

    Args:
        table: the tidy table of probes, with `COLUMNS`; its first model is the base.
        differences: paired differences against the base, with `DIFFERENCES`.

    Returns:
        A row per task, probe, metric (one of `SCORES`) and model, with `SUMMARY`: `role` is
        "base", "finetuned", "lexical", "chain" or "randomized"; `mean` is over `seeds`; `low` and
        `high` are the means of the seeds' bootstrap intervals; `seeds_low` and `seeds_high` are a
        95 % t interval over 3 seeds or more, the extremes of 2, NaN for 1. `difference` is the
        paired one with its interval where `differences` has it, else of means against the base's
        at the layer.

    Raises:
        ValueError: the table is not what `checked` expects, or `differences` lacks a column or
            repeats a row.

    Example:
        >>> table = pd.DataFrame({"model": ["bert", "tuned"], "value": [0.965, 0.96]})
        >>> table = table.assign(task="pos", probe="edge", layer="mix", seed=0, metric="micro_f1")
        >>> table = table.assign(low=None, high=None, n=25094)
        >>> summarize(table)[["role", "layer", "seeds", "mean", "difference"]].round(4)
                role layer  seeds   mean  difference
        0       base   mix      1  0.965       0.000
        1  finetuned   mix      1  0.960      -0.005
    """
    rows = checked(table, "summarize")
    means, base = averaged(rows), base_of(rows)
    means = means[means["metric"].isin(SCORES)]
    groups = means.groupby(["task", "probe"], sort=False)
    frame = pd.concat([_roles(of, base) for _, of in groups], ignore_index=True)
    of_base = frame[frame["role"] == "base"].set_index(["task", "probe", "metric"])["mean"]
    frame = frame.join(of_base.rename("reference"), on=["task", "probe", "metric"])
    frame = frame.assign(difference=frame["mean"] - frame["reference"])
    return _paired(frame, paired(differences, base, "summarize"))[list(SUMMARY)]


def checked(table: pd.DataFrame, function: str) -> pd.DataFrame:
    """The rows of the table, checked and in order, with float values.

    Tasks, probes, models and seeds keep the order of the table, but the randomized encoder is the
    last model; metrics have the order of `METRICS`; single layers ascend, then come "mix", the
    cumulative mixtures, "lexical" and "chain".

    Args:
        table: the tidy table of probes.
        function: the public function that asks, for error messages.

    Raises:
        ValueError: a column is missing, no row holds a score, a metric or layer is unknown, a value
            is out of range, or a value occurs twice. NaN is no value, and allowed.
    """
    _check(table, function)
    floats = {name: pd.to_numeric(table[name]).astype(float) for name in ("value", "low", "high")}
    names = {name: table[name].astype(str) for name in ("model", "task", "probe", "layer")}
    rows = table.assign(**names, **floats)
    models = [*dict.fromkeys(rows["model"][rows["model"] != RANDOMIZED]), RANDOMIZED]
    keys = (
        rows["layer"].map(rank_of_layer).rank(method="dense"),
        rows["model"].map(models.index),
        rows["metric"].map(list(METRICS).index),
        *(rows.groupby(by, sort=False).ngroup() for by in (["task", "probe"], ["task"])),
    )
    # Stable, so that seeds stay in the order of the table.
    return rows.iloc[np.lexsort([key.to_numpy(float) for key in keys])].reset_index(drop=True)


def averaged(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of checked rows, a row per cell, with the columns told in `summarize`.

    A cell in which some seed has no value has none.
    """
    groups = rows.groupby(CELL, sort=False)
    counts = groups["value"].size()
    mean, low, high = (
        groups[name].mean().where(groups[name].count() == counts)
        for name in ("value", "low", "high")
    )
    half = stdtrit(counts - 1, 0.975) * groups["value"].std() / np.sqrt(counts)
    several, known = counts > 2, (counts > 1) & mean.notna()
    columns = {
        "seeds": counts,
        "mean": mean,
        "low": low,
        "high": high,
        "seeds_low": (mean - half).where(several, groups["value"].min()).where(known),
        "seeds_high": (mean + half).where(several, groups["value"].max()).where(known),
        "n": groups["n"].min(),
    }
    return pd.DataFrame(columns).reset_index()


def paired(
    differences: pd.DataFrame | None, base: str, function: str
) -> dict[tuple[str, ...], tuple[float, float, float]]:
    """Differences against this base and their intervals, by the names in `CELL`.

    Raises:
        ValueError: a column is missing or a difference occurs twice.
    """
    if differences is None or differences.empty:
        return {}
    missing = [name for name in DIFFERENCES if name not in differences]
    if missing:
        raise ValueError(
            f"[{function}] differences must have the columns {', '.join(DIFFERENCES)}, got none "
            f"named {', '.join(missing)}; pass the differences of a run of probes."
        )
    rows = differences[differences["base"].astype(str) == base]
    repeated = rows[rows.duplicated(CELL)]
    if len(repeated):
        raise ValueError(
            f"[{function}] differences must hold each once, got several for "
            f"{_described(repeated[CELL])}; drop the repeated rows."
        )
    keys = rows[CELL].astype(str).itertuples(index=False, name=None)
    values = rows[["value", "low", "high"]].astype(float).itertuples(index=False, name=None)
    return dict(zip(keys, values, strict=True))


def base_of(rows: pd.DataFrame) -> str:
    """The first model; the randomized encoder only where there is no other."""
    return str(rows["model"].iloc[(rows["model"] != RANDOMIZED).to_numpy().argmax()])


def headline(rows: pd.DataFrame) -> str:
    """The score of one task and probe that stands for them: micro-F1, else accuracy."""
    present = set(rows["metric"])
    return next(metric for metric in SCORES if metric in present)


def drawn_scores(rows: pd.DataFrame) -> list[str]:
    """The scores of one task and probe that the figure shows: the headline, and correlations."""
    present = set(rows["metric"])
    return [headline(rows), *(metric for metric in CORRELATIONS if metric in present)]


def rank_of_layer(layer: str) -> tuple[int, int]:
    """Where a layer stands: single ones, then "mix", cumulative mixtures, "lexical", "chain"."""
    number = re.search(r"\d+", layer)
    kinds = ("", MIX, "cumulative", LEXICAL, CHAIN)
    return kinds.index(re.sub(r"-?\d+", "", layer)), int(number[0]) if number else -1


def _roles(means: pd.DataFrame, base: str) -> pd.DataFrame:
    """The rows of one task and probe that the paper's table shows, in its order."""
    layer = _reading_layer(means, base)
    at = means[means["layer"] == layer]
    controls = {base: "base", RANDOMIZED: RANDOMIZED}
    at = at.assign(role=at["model"].map(lambda model: controls.get(model, "finetuned")))
    of_base = means[means["model"] == base]
    alone = next((name for name in (LEXICAL, "0") if name in set(of_base["layer"])), "")
    lexical = of_base[of_base["layer"] == alone].assign(role=LEXICAL)
    chain = of_base[of_base["layer"] == CHAIN].assign(role=CHAIN)
    frame = pd.concat([at, lexical, chain], ignore_index=True)
    keys = [frame["role"].map(ROLES.index), frame["metric"].map(list(METRICS).index)]
    return frame.iloc[np.lexsort([key.to_numpy(float) for key in keys])]


def _reading_layer(means: pd.DataFrame, base: str) -> str:
    """The layer at which all models of one task and probe are read."""
    of_base = means[means["model"] == base]
    own = of_base if len(of_base) else means[means["model"] == means["model"].iloc[0]]
    own = own[own["metric"] == headline(own)]
    single = own[own["layer"].str.isdecimal() & own["mean"].notna()]
    if MIX in set(own["layer"]):
        return MIX
    best = single if len(single) else own
    return str(best["layer"].to_numpy()[best["mean"].fillna(-1).to_numpy().argmax()])


def _paired(
    frame: pd.DataFrame, known: dict[tuple[str, ...], tuple[float, float, float]]
) -> pd.DataFrame:
    """Puts the paired differences and their intervals where there are some."""
    found: list[tuple[float, float, float]] = []
    columns = (frame[name] for name in (*CELL, "role", "difference"))
    for *cell, role, difference in zip(*columns, strict=True):
        # These controls are other layers of the base, of which no pair is known.
        alone = (difference, np.nan, np.nan)
        found.append(alone if role in (LEXICAL, CHAIN) else known.get(tuple(cell), alone))
    names = ["difference", "difference_low", "difference_high"]
    frame[names] = np.array(found, dtype=float).reshape(-1, 3)
    return frame


def _check(table: pd.DataFrame, function: str) -> None:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ValueError(
            f"[{function}] table must have the columns {', '.join(COLUMNS)}, got none named "
            f"{', '.join(missing)}; pass the table of a run of probes."
        )
    unknown = sorted(set(map(str, table["metric"])) - set(METRICS))
    if unknown:
        raise ValueError(
            f"[{function}] table must hold known metrics, got {', '.join(unknown)}; keep rows "
            f"whose metric is one of {', '.join(METRICS)}."
        )
    if not table["metric"].isin(SCORES).any():
        got = ", ".join(dict.fromkeys(table["metric"])) or "no row"
        raise ValueError(
            f"[{function}] table must hold a score ({' or '.join(SCORES)}), got {got}; run "
            "`bertft probe` first."
        )
    _check_cells(table, function)


def _check_cells(table: pd.DataFrame, function: str) -> None:
    odd = [layer for layer in dict.fromkeys(table["layer"]) if not _LAYER.fullmatch(str(layer))]
    if odd:
        raise ValueError(
            f"[{function}] table must hold layers such as 0, 12, mix, cumulative-3, lexical or "
            f"chain, got "
            f"{odd[0]!r}; write numbers of layers without a point."
        )
    keys = ["model", "task", "probe", "layer", "seed", "metric"]
    value = pd.to_numeric(table["value"]).to_numpy(float)
    for metric, (least, most) in {name: (m.least, m.most) for name, m in METRICS.items()}.items():
        outside = _outside(value, least, most) & (table["metric"] == metric).to_numpy()
        if outside.any():
            raise ValueError(
                f"[{function}] table must hold finite {metric} from {least} to {most}, got "
                f"{value[outside][0]} for {_described(table.loc[outside, keys])}; pass shares, "
                "not percent, and run a probe that failed again."
            )
    repeated = table[table.duplicated(keys)]
    if len(repeated):
        raise ValueError(
            f"[{function}] table must hold each value once, got several for "
            f"{_described(repeated[keys])}; drop the repeated rows."
        )


def _outside(value: NDArray[np.float64], least: float, most: float) -> NDArray[Any]:
    return ~np.isnan(value) & ~((least <= value) & (value <= most) & np.isfinite(value))


def _described(rows: pd.DataFrame) -> str:
    """The keys of the first row."""
    return ", ".join(f"{name} {value}" for name, value in rows.iloc[0].items())
