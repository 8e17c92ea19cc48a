"""`compare` end to end beside the two bare forward passes that it needs, and the usual way.

Rows of one group share batches and models; ratios within a group are the figures to quote. The
baseline runs the encoders in inference mode, without pooler and without hidden states.
"""

import numpy as np
import pytest
import torch
from conftest import sentences

from bertft.checkpoints import Checkpoint
from bertft.comparison import FINETUNED, PRETRAINED, _solve
from bertft.corpora import Corpus, Text
from bertft.models import inference
from bertft.moments import BLOCK_ROWS
from bertft.planning import prepare
from bertft.progress import Display
from bertft.rows import batches, pad
from bertft.streaming import stream

WORDS = 20_000


@pytest.fixture(scope="module")
def work(bert_base, letters):
    """Checkpoints, task and batches of the pass."""
    roles = zip((PRETRAINED, FINETUNED), bert_base, strict=True)
    sides = {role: Checkpoint.open(model, None, letters) for role, model in roles}
    corpus = Corpus.of("sentences", [Text.of(text) for text in sentences(WORDS)])
    return sides, prepare(corpus, sides, None, "words", None, 0, None)


def forward_passes(sides, parts):
    for batch in parts:
        for side in sides.values():
            last = side.encoder(input_ids=batch.ids, attention_mask=batch.mask)
    return last.last_hidden_state


def usual_way(sides, parts):
    """Hidden states of everything, concatenated, then float64 linear algebra: linear CKA."""
    kept = {role: [] for role in sides}
    for batch in parts:
        for role, side in sides.items():
            states = side.encoder(
                input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True
            ).hidden_states
            flat = [state.flatten(0, 1) for state in states]
            runs = list(zip(batch.starts.tolist(), batch.stops.tolist(), strict=True))
            kept[role].append([torch.stack([f[i:j].mean(dim=0) for i, j in runs]) for f in flat])
    values = []
    for layer in range(len(kept[PRETRAINED][0])):
        x, y = (torch.cat([part[layer] for part in parts]).double() for parts in kept.values())
        x, y = x - x.mean(dim=0), y - y.mean(dim=0)
        values.append(float((x.T @ y).norm() ** 2 / (x.T @ x).norm() / (y.T @ y).norm()))
    return values


def run(benchmark, sides, call, *arguments, rounds):
    benchmark.extra_info.update(words=WORDS, layers=13, width=768)
    with inference(*(side.encoder for side in sides.values())):
        return benchmark.pedantic(call, arguments, rounds=rounds, warmup_rounds=0)


@pytest.mark.benchmark(group="compare, BERT-base shape, 20,000 words")
@pytest.mark.parametrize("what", ["forward passes", "pass of compare", "usual way (CKA only)"])
def test_pass(benchmark, work, what):
    sides, task = work
    parts = [pad(group, 0) for group in batches(task.rows, 32, BLOCK_ROWS)]
    if what == "forward passes":
        assert run(benchmark, sides, forward_passes, sides, parts, rounds=2).isfinite().all()
    elif what == "pass of compare":
        moments = run(benchmark, sides, stream, task, sides, 32, None, Display(False), rounds=2)
        assert moments.n == WORDS
    else:
        values = run(benchmark, sides, usual_way, sides, parts, rounds=1)
        assert np.isfinite(values).all()


@pytest.mark.benchmark(group="compare, BERT-base shape, solving")
def test_solving(benchmark, work):
    sides, _ = work
    small = prepare(
        Corpus.of("few", [Text.of(text) for text in sentences(2_000)]),
        sides, None, "words", None, 0, None,
    )  # fmt: skip
    with inference(*(side.encoder for side in sides.values())):
        moments = stream(small, sides, 32, None, Display(False))
        expected = usual_way(
            sides, [pad(group, 0) for group in batches(small.rows, 32, BLOCK_ROWS)]
        )
    benchmark.extra_info.update(pairs=13, width=768, measures=len(small.measures))
    table, _ = benchmark.pedantic(
        lambda: _solve(
            {"few": moments}, {"few": small.measures}, sides, Display(False)
        ),
        rounds=2,
    )  # fmt: skip
    found = table.query("measure == 'cka'")["value"].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
