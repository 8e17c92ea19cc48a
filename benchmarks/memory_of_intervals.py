"""The MiB of intervals of BERT-base: `python memory_of_intervals.py same|all ROWS [default]`.

Two encoders with random weights, a jackknife over 20 groups of sentences; of six measures, or of
those of the default.
"""

import json
import sys
import time

import torch
from conftest import letters_tokenizer, sentences
from memory_of_pass import Watch
from transformers import BertConfig, BertModel

import bertft
from bertft import similarity

# Those of the default that solve few spectra: sides, and nuclear norms for Procrustes.
MEASURES = ("rsa", "cka", "cka_debiased", "procrustes", "regression", "cca_r2")


DEFAULT = tuple(name for name, measure in similarity.MEASURES.items() if measure.default)


def main(pairs, rows, measures):
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
    assert len(table) == len(measures) * (13 if pairs == "same" else 13 * 13)
    assert (table.low < table.high).all()
    seconds = time.perf_counter() - started
    before, peak = (size / 2**20 for size in (watch.before, watch.peak))
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak}))


if __name__ == "__main__":
    pairs, rows, *default = sys.argv[1:]
    main(pairs, int(rows), DEFAULT if default == ["default"] else MEASURES)
