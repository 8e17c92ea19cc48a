"""`compare` end to end beside the two bare forward passes that it needs, and the usual way.

All calls share batches and models, and take turns. The baseline runs the encoders in inference
mode, without pooler and without hidden states.
"""

import numpy as np
import pytest
import torch
from conftest import aim, sentences, shared

from bertft.checkpoints import Checkpoint
from bertft.corpora import Corpus, Text, corpora_of
from bertft.gathering import Gathered
from bertft.moments import BLOCK_ROWS
from bertft.planning import FINETUNED, PRETRAINED, Options
from bertft.preparing import prepare
from bertft.progress import Display
from bertft.rows import batches, pad
from bertft.solving import solve
from bertft.streaming import stream
from bertft.traces import inference

QUIET = Display(False)
# Most that a pass may take by the time of the bare forward passes.
MOST = {"the pass of compare": 1.10, "the pass, all 169 pairs": 1.6}
WORDS = 20_000


class Work:
    """Checkpoints and a task, with each way to go over them."""

    def __init__(self, models, tokenizer, corpus, words=None):
        roles = zip((PRETRAINED, FINETUNED), models, strict=True)
        self.sides = {role: Checkpoint.open(model, None, tokenizer) for role, model in roles}
        self.tasks = {
            pairs: prepare(
                corpus, self.sides, Options(limit=words, pairs=pairs), torch.device("cpu")
            )[0]
            for pairs in ("same", "all")
        }
        self.task = self.tasks["same"]
        pad_id = self.sides[PRETRAINED].pad_id
        self.parts = [pad(part, pad_id) for part in batches(self.task.rows, 32, BLOCK_ROWS)]

    def inferring(self, call):
        def run():
            with inference(*(side.encoder for side in self.sides.values())):
                return call()

        return run

    def forward_passes(self):
        for batch in self.parts:
            for side in self.sides.values():
                side.encoder(input_ids=batch.ids, attention_mask=batch.mask)

    def stream(self, pairs="same"):
        return stream([self.tasks[pairs]], self.sides, 32, None, QUIET)[0]

    def solve(self, gathered):
        return solve([gathered], [self.task], self.sides, QUIET).table

    def check(self):
        """The pass and its solution give what the usual way gives."""
        found = self.solve(self.inferring(self.stream)()).query("measure == 'cka'")["value"]
        np.testing.assert_allclose(found, self.inferring(self.usual_way)(), atol=1e-6)

    def usual_way(self, parts=None):
        """Hidden states of everything, concatenated, then float64 linear algebra: linear CKA."""
        parts = parts or self.parts
        kept = {role: [] for role in self.sides}
        for batch in parts:
            runs = list(zip(batch.starts.tolist(), batch.stops.tolist(), strict=True))
            for role, side in self.sides.items():
                states = side.encoder(
                    input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True
                ).hidden_states
                flat = [state.flatten(0, 1) for state in states]
                rows = [torch.stack([f[i:j].mean(dim=0) for i, j in runs]) for f in flat]
                kept[role].append(rows)
        return [self.cka(kept, layer) for layer in range(len(kept[PRETRAINED][0]))]

    @staticmethod
    def cka(kept, layer):
        x, y = (torch.cat([part[layer] for part in parts]).double() for parts in kept.values())
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        return float((x.T @ y).norm() ** 2 / (x.T @ x).norm() / (y.T @ y).norm())


WAYS = [
    "two forward passes",
    "the pass of compare",
    "the pass, all 169 pairs",
    "the usual way, CKA",
]


@pytest.fixture(scope="module")
def work(bert_base, letters):
    few = Corpus.of("few", [Text.of(text) for text in sentences(500)])
    Work(bert_base, letters, few).check()
    corpus = Corpus.of("sentences", [Text.of(text) for text in sentences(WORDS)])
    return Work(bert_base, letters, corpus)


@pytest.mark.parametrize("who", WAYS)
def test_pass(benchmark, race, work, who):
    benchmark.group = "compare, BERT-base shape, 20,000 words in sentences of about 25 tokens"

    def make():
        calls = [work.forward_passes, work.stream, lambda: work.stream("all"), work.usual_way]
        return dict(zip(WAYS, map(work.inferring, calls), strict=True))

    if who in MOST:
        aim(benchmark, most=MOST[who])
    race("pass", make, who, rounds=2)


@pytest.mark.parametrize("who", ["all layers", "--layers 0,1"])
def test_some_layers(benchmark, race, bert_base, letters, who):
    benchmark.group = "the pass of compare over 12 layers, 3,000 words"

    def make():
        corpus = Corpus.of("sentences", [Text.of(text) for text in sentences(3_000)])
        work = Work(bert_base, letters, corpus)
        [few] = prepare(corpus, work.sides, Options(layers=(0, 1)), torch.device("cpu"))

        def some():
            return stream([few], work.sides, 32, None, QUIET)[0]

        both = [work.inferring(call)() for call in (work.stream, some)]
        tables = [
            solve([kept], [task], work.sides, QUIET).table.query("pretrained_layer < 2")
            for kept, task in zip(both, (work.task, few), strict=True)
        ]
        assert tables[0]["value"].tolist() == tables[1]["value"].tolist()
        return {"all layers": work.inferring(work.stream), "--layers 0,1": work.inferring(some)}

    if who == "--layers 0,1":
        aim(benchmark, most=0.2)
    race("some layers", make, who, rounds=4)


def test_solving(benchmark, race, bert_base, letters):
    benchmark.group = "solving 13 pairs of layers, d = 768, all default measures"
    corpus = Corpus.of("few", [Text.of(text) for text in sentences(2_000)])
    work = Work(bert_base, letters, corpus)

    def make():
        work.check()
        gathered = work.inferring(work.stream)()

        def solve():
            # What was solved before stays with the sums.
            fresh = Gathered(gathered.moments + gathered.moments.empty())
            return work.solve(fresh)

        return {"bertft": solve}

    aim(benchmark, most=4.0, of="median_s")
    race("solving", make, "bertft", rounds=5)


@pytest.mark.parametrize("who", WAYS[:2])
def test_minilm(benchmark, race, who):
    from transformers import AutoModel

    folder = shared()
    benchmark.group = "compare, MiniLM and MiniLM tuned to parse, 4,000 words of English EWT"

    def make():
        models = [
            AutoModel.from_pretrained(folder / "models" / name, dtype=torch.float32).eval()
            for name in ("minilm", "minilm-dep")
        ]
        [corpus] = corpora_of(folder / "data" / "ud_english_ewt" / "en_ewt-ud-dev.conllu")
        Work(models, None, corpus, 500).check()
        work = Work(models, None, corpus, 4000)
        calls = map(work.inferring, (work.forward_passes, work.stream))
        return dict(zip(WAYS, calls, strict=False))

    if who in MOST:
        aim(benchmark, most=MOST[who])
    race("minilm", make, who, rounds=3)
