"""Peak memory of `compare` beyond the models must not grow with the rows.

Each size runs in a process of its own, after a first small pass; `extra_info` has the resident MiB
before the pass (the token ids are in it) and at its peak.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, resource, sys, threading
from conftest import sentences
import psutil, torch
from transformers import BertConfig, BertModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from bertft.checkpoints import Checkpoint
from bertft.corpora import Corpus, Text
from bertft.traces import inference
from bertft.planning import Options
from bertft.preparing import prepare
from bertft.progress import Display
from bertft.streaming import stream

names = ["[PAD]", "[UNK]"] + [mark + chr(97 + i) for mark in ("", "##") for i in range(26)]
rules = Tokenizer(models.WordPiece({n: i for i, n in enumerate(names)}, unk_token="[UNK]"))
rules.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=rules, unk_token="[UNK]", pad_token="[PAD]")
config = BertConfig(vocab_size=60, hidden_size=128, num_hidden_layers=4, num_attention_heads=2,
                    intermediate_size=256)
sides = {role: Checkpoint.open(BertModel(config), None, tokenizer)
         for role in ("pretrained", "finetuned")}
process = psutil.Process()
# Once through a few batches, so that what is allocated once and kept does not count.
with inference(*(side.encoder for side in sides.values())):
    few = Corpus.of("few", [Text.of(text) for text in sentences(9_000)])
    stream(prepare(few, sides, Options()), sides, 32, None, Display(False))
    del few
    corpus = Corpus.of("words", [Text.of(text) for text in sentences(int(sys.argv[1]))])
    task = prepare(corpus, sides, Options())
    del corpus
    before, peak, stop = process.memory_info().rss, 0, threading.Event()
    def watch():
        global peak
        while not stop.wait(0.005):
            peak = max(peak, process.memory_info().rss)
    watcher = threading.Thread(target=watch)
    watcher.start()
    moments = stream(task, sides, 32, None, Display(False)).moments
    stop.set(); watcher.join()
print(json.dumps({"rows": moments.n, "before": before / 2**20, "peak": peak / 2**20}))
"""


@pytest.mark.benchmark(group="memory of the pass by rows, tiny model")
@pytest.mark.parametrize("rows", [10_000, 200_000])
def test_memory(benchmark, rows):
    def measure():
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(rows)],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
        )  # fmt: skip
        return json.loads(done.stdout)

    found = benchmark.pedantic(measure, rounds=1)
    assert found["rows"] == rows
    grown = found["peak"] - found["before"]
    # Far below the rows themselves: 13 x 2 layers of 200,000 rows would take gigabytes.
    assert grown < 64
    benchmark.extra_info.update(found, grown_mib=grown)
