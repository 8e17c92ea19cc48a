"""From the moments of all layers to the table of measures: every pair, solved in batches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from bertft.checkpoints import Checkpoint
from bertft.moments import Moments
from bertft.progress import Display
from bertft.similarity import MEASURES, factorize
from bertft.similarity.arguments import constant_columns
from bertft.similarity.canonical import kept_ranks
from bertft.streaming import FINETUNED, PRETRAINED, side_name


def solve(
    moments: Mapping[str, Moments],
    measures: Mapping[str, list[str]],
    sides: Mapping[str, Checkpoint],
    display: Display,
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Return the table and the diagnostics of every pair of same-numbered layers."""
    table: list[dict[str, Any]] = []
    diagnostics: list[dict[str, Any]] = []
    depth = sides[PRETRAINED].blocks.depth
    layers = range(depth + 1)
    # So many pairs at once keep all threads at work; each holds some 20 matrices of (d, d).
    some = 4 * torch.get_num_threads()
    with display.bar("solving", len(moments) * len(layers), "layers") as bar:
        for corpus, of_corpus in moments.items():
            for chunk in (layers[start : start + some] for start in layers[::some]):
                pairs = {
                    layer: of_corpus.pair(side_name(PRETRAINED, layer), side_name(FINETUNED, layer))
                    for layer in chunk
                }
                factorize(list(pairs.values()), measures[corpus])
                for layer, pair in pairs.items():
                    table += _rows_of(pair, layer, corpus, measures[corpus], sides)
                    found = _diagnose(pair, measures[corpus])
                    diagnostics.append({"corpus": corpus, "layer": layer, **found})
                    bar.advance(1)
    return pd.DataFrame(table), diagnostics


def _rows_of(
    pair: Moments,
    layer: int,
    corpus: str,
    measures: Sequence[str],
    sides: Mapping[str, Checkpoint],
) -> Iterator[dict[str, Any]]:
    for name in measures:
        yield {
            "pretrained": sides[PRETRAINED].name,
            "finetuned": sides[FINETUNED].name,
            "corpus": corpus,
            "pretrained_layer": layer,
            "finetuned_layer": layer,
            "measure": name,
            "value": _value(name, pair, corpus),
            "low": float("nan"),
            "high": float("nan"),
            "n": pair.n,
        }


def _value(name: str, pair: Moments, corpus: str) -> float:
    try:
        return float(MEASURES[name].compute(pair))
    except (ValueError, torch.linalg.LinAlgError) as error:
        error.add_note(f"(measure {name} of {' and '.join(pair.sides)} on {corpus!r})")
        raise


def _diagnose(pair: Moments, measures: Sequence[str]) -> dict[str, int]:
    """Columns that never vary, and the ranks that the CCA family and regression stand on."""
    found: dict[str, int] = {}
    if "raw" in pair.row_maps:
        for role, side in zip((PRETRAINED, FINETUNED), pair.sides, strict=True):
            constant = constant_columns(pair.under("raw"), side, pair.dtype)
            found[f"constant_columns_{role}"] = int(constant.sum())
    if any(MEASURES[name].n_above_d for name in measures):
        found["rank_pretrained"], found["rank_finetuned"] = kept_ranks(pair)
    return found
