"""Features read from shards in the page cache, and captured beside the bare forward passes.

Reading: every layer of half a gibibyte in 128 MiB shards, checked before, beside plain copies of
the same files. Counted: every byte read once and written once. Capture: MiniLM's shape.
"""

import shutil

import numpy as np
import pytest
import torch
from conftest import aim, sentences

from bertft.checkpoints import Checkpoint
from bertft.corpora import Text
from bertft.features import Features
from bertft.files import save_tensors
from bertft.recording import record
from bertft.rows import batches, pad
from bertft.shards import Shard, checksum
from bertft.tokenizing import encode
from bertft.traces import inference

LAYERS, WIDTH, SHARD_ROWS, SHARDS = 7, 384, 12_000, 4
WORDS, DTYPES = 20_000, {"float32": 4, "float16": 2}


def stored(folder, dtype):
    """Features that were read once, so that their files are in the page cache and checked."""
    widths = {("it", layer): WIDTH for layer in range(LAYERS)}
    shards = []
    for number in range(SHARDS):
        path = folder / f"{dtype}-{number}.safetensors"
        rows = {
            f"it.{i}": torch.randn(SHARD_ROWS, WIDTH).to(getattr(torch, dtype)) for _, i in widths
        }
        save_tensors(path, rows, {"format": "bertft features"})
        shards.append(Shard(SHARD_ROWS, None, path, checksum(path), path.stat().st_size))
    offsets = torch.arange(0, SHARDS * SHARD_ROWS + 1, 20)
    return Features(offsets, widths, getattr(torch, dtype), shards)


def readers(features):
    files = [shard.path for shard in features._shards]
    order, out = torch.arange(features.n), torch.ones(8192, WIDTH)
    layer_bytes = features.nbytes // LAYERS
    kept = np.ones(layer_bytes, np.uint8)

    def readinto(room):
        for path in files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(room()):
                    pass

    def read():
        for key in features.widths:
            features.read(*key)

    def index_select():
        for key in features.widths:
            features.rows(*key).index_select(0, order)

    def prefetched():
        for _ in features.prefetched(features.widths):
            pass

    def gather():
        for key in features.widths:
            for part in order.split(len(out)):
                features.gather(*key, part, out[: len(part)])

    for key, rows in zip(features.widths, features.prefetched(features.widths), strict=True):
        own = features.read(*key)
        assert torch.equal(rows, own.float())
        assert torch.equal(features.rows(*key).index_select(0, order), own)
        features.gather(*key, order[-8192:], out)
        assert torch.equal(out, rows[-8192:])
    return {
        "read": read,
        "rows in order": index_select,
        "readinto, new memory": lambda: readinto(lambda: np.empty(layer_bytes, np.uint8)),
        "prefetched": prefetched,
        "gather": gather,
        "readinto, kept memory": lambda: readinto(lambda: kept),
    }


WHO = (
    "read",
    "rows in order",
    "readinto, new memory",
    "prefetched",
    "gather",
    "readinto, kept memory",
)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("dtype", DTYPES)
def test_read(benchmark, race, tmp_path_factory, dtype, who):
    size = LAYERS * SHARDS * SHARD_ROWS * WIDTH * DTYPES[dtype]
    benchmark.group = f"features of {size / 2**20:,.0f} MiB read, {dtype}"
    if who == "readinto, new memory":  # copies of the same files
        aim(benchmark, least=0.8)
    folder = tmp_path_factory.getbasetemp() / "features"
    race(("read", dtype), lambda: readers(stored(folder, dtype)), who, rounds=9)
    benchmark.extra_info["mb_s"] = size / 1e6 / np.median(benchmark.stats.stats.data)


def test_checksum(benchmark, tmp_path_factory):
    benchmark.group = "the checksum of a shard of 70 MiB"
    folder = tmp_path_factory.getbasetemp() / "checked"
    shard = stored(folder, "float32")._shards[0]
    benchmark.pedantic(checksum, (shard.path,), rounds=9, warmup_rounds=1)
    benchmark.extra_info["mb_s"] = shard.nbytes / 1e6 / np.median(benchmark.stats.stats.data)


def passes(folder, letters):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    encoder = BertModel(config, add_pooling_layer=False)
    sides = {"it": Checkpoint.open(encoder, None, letters)}
    rows = encode([Text.of(text) for text in sentences(WORDS)], letters)

    def forward():
        with inference(encoder):
            for group in batches(rows, 32, rows.n):
                batch = pad(group, 0)
                encoder(input_ids=batch.ids, attention_mask=batch.mask)

    def memory():
        return record(sides, rows)

    def disk(shard_bytes=2**26):
        shutil.rmtree(folder, ignore_errors=True)
        return record(sides, rows, folder=folder, shard_bytes=shard_bytes)

    assert torch.equal(memory().read("it", 6), disk(2**30).read("it", 6))
    return {"features in memory": memory, "features on disk": disk, "bare forwards": forward}


@pytest.mark.parametrize("who", ["bare forwards", "features in memory", "features on disk"])
def test_capture(benchmark, race, tmp_path_factory, letters, who):
    benchmark.group = f"a pass over {WORDS:,} words, MiniLM's shape, all layers in float32"
    folder = tmp_path_factory.getbasetemp() / "captured"
    race("capture", lambda: passes(folder, letters), who, rounds=3)
