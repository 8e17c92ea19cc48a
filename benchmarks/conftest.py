"""Models and batches of the benchmarks; races; quantiles, threads and ceilings on every row."""

import os
import time
from pathlib import Path

import numpy as np
import peak
import pytest
import torch

from bertft.ops import native

RACES: dict[object, dict[str, list[float]]] = {}


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["isa"] = native.isa()
    machine_info["peak_gflops"] = peak.gflops()


def pytest_benchmark_update_json(config, benchmarks, output_json):
    for row in output_json["benchmarks"]:
        times = row["stats"].get("data") or [row["stats"]["median"]]
        row["stats"]["q20"], row["stats"]["q80"] = np.quantile(times, [0.2, 0.8]).tolist()


class Replay:
    """A timer that tells durations measured before: each round asks it twice."""

    def __init__(self, durations):
        self.times = iter([time for duration in durations for time in (0.0, duration)])

    def __call__(self):
        return next(self.times)


@pytest.fixture
def race(benchmark):
    """Time several calls in turn, A A B B A A, so that a slow minute of the machine hits all.

    `race(key, make, name)` times the calls that `make()` returns by name, once for each key, and
    makes this test the row of `name`.
    `flops` and `traffic` (bytes that must be read and written) give the row its ceiling: what the
    machine reaches at that moment in multiply-adds, and in copies of so many bytes.
    """

    def run(key, make, name, *, seconds=0.6, rounds=None, flops=0.0, traffic=0.0, dtype="float32"):
        if key not in RACES:
            calls = make()
            RACES[key] = {who: [timed(call)] for who, call in calls.items()}
            first = max(durations[0] for durations in RACES[key].values())
            if first < 0.3:  # a first call makes caches, pages and threads
                RACES[key] = {who: [] for who in calls}
            turns = rounds or int(np.clip(seconds / first, 3, 5))
            for _ in range(turns if first < 0.3 else turns - 1):
                for who, call in calls.items():
                    RACES[key][who] += burst(call, first)
        if flops or traffic:
            ceiling = [flops / (peak.gflops(dtype) * 1e9)] if flops else []
            ceiling += [traffic / (peak.copy_gbs(traffic / 2**20) * 1e9)] if traffic else []
            benchmark.extra_info.update(flops=flops, bytes=traffic, ceiling_s=max(ceiling))
        tell(benchmark, RACES[key][name])

    return run


def aim(benchmark, *, least=None, most=None, of="ratio", why=""):
    """State the target of a row, which `table.py` checks.

    It is of the row's `ratio` (its time by the first contender's), its `share` of the ceiling, its
    `median_s`, or a value of its `extra_info`; `why` tells what is known of a miss.
    """
    benchmark.extra_info["target"] = {"of": of, "least": least, "most": most, "why": why}


def tell(benchmark, durations, flops=0.0):
    """Make durations that were measured before the row of a test; flops give its ceiling."""
    if flops:
        ceiling = flops / (peak.gflops() * 1e9)
        benchmark.extra_info.update(flops=flops, ceiling_s=ceiling)
    benchmark.extra_info.setdefault("threads", torch.get_num_threads())
    benchmark._timer = Replay(durations)
    benchmark.pedantic(lambda: None, rounds=len(durations))


def burst(call, longest):
    """Durations of a few calls in a row, or of a single long one.

    The libraries' threads spin for up to 100 ms after their work and would slow the next contender:
    first they go to sleep. Processors that were idle take some 100 ms to their full speed: then
    this one runs untimed.
    """
    if longest > 0.3:
        return [timed(call)]
    time.sleep(0.12)
    warm = time.perf_counter() + 0.12
    while time.perf_counter() < warm:
        call()
    return [timed(call) for _ in range(int(np.clip(0.08 / longest, 1, 40)))]


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.fixture(scope="session")
def bert_base():
    """Two encoders of BERT-base's shape with random weights."""
    from transformers import BertConfig, BertModel

    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(BertModel(BertConfig(), add_pooling_layer=False).eval())
    return models


@pytest.fixture(scope="session")
def letters():
    """See `letters_tokenizer`."""
    return letters_tokenizer()


def letters_tokenizer():
    """A tokenizer that knows single letters: a word of k letters has k pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = [mark + chr(97 + i) for mark in ("", "##") for i in range(26)]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *alphabet]
    vocabulary = {name: i for i, name in enumerate(names)}
    rules = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


def shared():
    """The folder with real corpora and checkpoints."""
    folder = Path(os.environ.get("BERTFT_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "models" / "minilm").is_dir():
        pytest.skip(f"no real checkpoints in {folder}; set BERTFT_SHARED")
    return folder


def sentences(words, seed=0):
    """Sentences of about 25 words, of which every fifth has two pieces."""
    random = np.random.default_rng(seed)
    made = []
    while words > 0:
        length = min(words, int(random.integers(15, 36)))
        letters = random.integers(0, 26, (length, 2))
        long = random.random(length) < 0.2
        made.append(
            " ".join(
                chr(97 + a) + (chr(97 + b) if two else "")
                for (a, b), two in zip(letters, long, strict=True)
            )
        )
        words -= length
    return made
