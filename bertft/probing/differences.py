"""What the tables of probes tell: differences of two encoders, and which intervals they lack.

Differences are paired over sentences and seeds.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from bertft.probing.scores import Scored, difference, resampled
from bertft.probing.structural_scores import METRICS

DIFFERENCES = dict.fromkeys(("model", "base", "task", "probe", "layer", "metric"), "str")
DIFFERENCES |= dict.fromkeys(("value", "low", "high"), "float64")
DIFFERENCES |= {"n_seeds": "int64", "n": "int64"}
SCORES = ("micro_f1", "accuracy", *(name for own in METRICS.values() for name in own))


def differences(
    table: pd.DataFrame, tallies: Mapping[tuple[str, ...], Scored], models: Sequence[str]
) -> pd.DataFrame:
    """Return the scores of each model less those of the first, where both have the layer.

    Args:
        table: the scores.
        tallies: what they are made of, by model, task, kind of probe and layer.
        models: their names, the base first.

    Returns:
        A row for each model, task, probe, layer and metric, with the columns `DIFFERENCES`; `n` is
        the least over seeds. None where two tokenizers keep other targets.
    """
    base, rows = models[0], []
    scores = table[table["metric"].isin(SCORES)]
    keys = ["model", "task", "probe", "layer", "metric"]
    for key, own in scores.groupby(keys, sort=False):
        model, task, kind, layer, metric = map(str, key)
        other = tallies.get((base, task, kind, layer))
        if model == base or other is None:
            continue
        tally = tallies[model, task, kind, layer]
        if not tally.has_targets_of(other):
            continue  # their tokenizers keep other targets
        weights = resampled(len(tally.counts), 0)
        found = difference(tally, other, metric, weights, seed=0)
        about = (model, base, task, kind, layer, metric)
        rows.append((*about, *found, len(own), int(own["n"].min())))
    return pd.DataFrame(rows, columns=list(DIFFERENCES)).astype(DIFFERENCES)


def missing_intervals(table: pd.DataFrame) -> list[str]:
    """Return a note for each task with scores of a single sentence, which have no interval."""
    own = table[table["metric"].isin([*SCORES, "selectivity"])]
    alone = own[own["value"].notna() & own["low"].isna()]
    return [
        f"{task}: no interval of {', '.join(of['metric'].unique())} where only one dev sentence "
        "counts."
        for task, of in alone.groupby("task", sort=False)
    ]
