"""The MiB of intervals of BERT-base: `python memory_of_intervals.py same|all ROWS [MEASURES]`.

Two encoders with random weights, a jackknife over 20 groups of sentences. MEASURES are names with
commas, or `default`.
"""

import json
import sys
import time

import torch
from conftest import letters_tokenizer, sentences
from memory_of_pass import Watch
from transformers import BertConfig, BertModel

import bertft

# Those of the default that need no spectrum of their own for each group.
MEASURES = ("rsa", "cka", "cka_debiased", "procrustes", "regression", "cca_r2")


def main(pairs, rows, measures=MEASURES):
    encoders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoders.append(BertModel(BertConfig(), add_pooling_layer=False).eval())
    started = time.perf_counter()
    with Watch() as watch:
        found = bertft.compare(
            encoders[0],
            encoders[1],
            sentences(rows),
            tokenizer=letters_tokenizer(),
            pairs=pairs,
            intervals="jackknife",
            measures=measures,
            memory_gib=6.5,
        )
    table = found.table
    assert len(table) == table.measure.nunique() * (13 if pairs == "same" else 13 * 13)
    assert (table.low < table.high).all()
    seconds = time.perf_counter() - started
    before, peak = (size / 2**20 for size in (watch.before, watch.peak))
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak}))


if __name__ == "__main__":
    pairs, rows, *names = sys.argv[1:]
    main(pairs, int(rows), *(None if name == "default" else name.split(",") for name in names))
