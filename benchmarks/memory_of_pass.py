"""The memory of a pass over so many rows: `python memory_of_pass.py ROWS`."""

import json
import sys
import threading

import psutil
import torch
from conftest import letters_tokenizer, sentences
from transformers import BertConfig, BertModel

from bertft.checkpoints import Checkpoint
from bertft.corpora import Corpus, Text
from bertft.planning import FINETUNED, PRETRAINED, Options
from bertft.preparing import prepare
from bertft.progress import Display
from bertft.streaming import stream
from bertft.traces import inference


def tiny_checkpoint():
    """A small encoder with random weights."""
    config = BertConfig(
        vocab_size=60,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=256,
    )
    return Checkpoint.open(BertModel(config), None, letters_tokenizer())


def prepared(sides, name, rows):
    """The task of a corpus, which is forgotten once it is encoded."""
    corpus = Corpus.of(name, [Text.of(text) for text in sentences(rows)])
    [task] = prepare(corpus, sides, Options(), torch.device("cpu"))
    return task


class Watch:
    """The largest memory while it is open, in bytes: resident, but for pages mapped from files.

    Those (libraries, rows on disk) the system drops when it needs the room.
    """

    def __init__(self):
        self.process, self.stop = psutil.Process(), threading.Event()
        self.before = self.peak = self.held()
        self.thread = threading.Thread(target=self.look)

    def held(self):
        info = self.process.memory_info()
        return info.rss - info.shared

    def look(self):
        while not self.stop.wait(0.005):
            self.peak = max(self.peak, self.held())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def main(rows):
    sides = {role: tiny_checkpoint() for role in (PRETRAINED, FINETUNED)}
    quiet = Display(False)
    with inference(*(side.encoder for side in sides.values())):
        # Once through a few batches, so that what is allocated once and kept does not count.
        stream([prepared(sides, "few", 9_000)], sides, 32, None, quiet)
        task = prepared(sides, "words", rows)
        with Watch() as watch:
            [kept] = stream([task], sides, 32, None, quiet)
    print(
        json.dumps(
            {"rows": kept.moments.n, "before": watch.before / 2**20, "peak": watch.peak / 2**20}
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
