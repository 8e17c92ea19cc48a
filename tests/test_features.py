"""Features against hidden states by hand; their shards, cut short, damaged or of something else."""

import copy
import errno
import json
import re
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from bertft import recording, shards
from bertft.checkpoints import Checkpoint
from bertft.corpora import Text
from bertft.features import Features
from bertft.files import load_tensors, locked, save_tensors
from bertft.progress import Display
from bertft.recording import feature_bytes, record
from bertft.rows import Encoded, Rows
from bertft.shards import INDEX
from bertft.tokenizing import encode
from bertft.traces import inference
from tests.conftest import KINDS

DTYPES = ("float32", "bfloat16", "float16")
# Two models of four layers of 24 float32 columns: 768 bytes a row.
SMALL_SHARDS = 20 * 768


@pytest.fixture
def rows(tokenizer, texts):
    """Words of texts of many lengths, in no order; the first, a middle and the last have no row."""
    rows = encode([Text.of(text) for text in texts], tokenizer)
    for number in (0, 7, len(rows.texts) - 1):
        own = rows.texts[number]
        rows.texts[number] = Encoded(own.ids, own.starts[:0], own.stops[:0])
    return rows


@pytest.fixture
def sides(make_model, tokenizer):
    """Two models of the same tokens, as they come: in training mode."""
    return {
        name: Checkpoint.open(make_model(seed=seed), None, tokenizer)
        for seed, name in enumerate(("a", "b.1"))
    }


def keep(sides, rows, **options):
    return record(sides, rows, display=Display(False), **options)


def by_hand(side, text, layer):
    """The rows of a text that runs alone."""
    with inference(side.encoder):
        ids = torch.from_numpy(text.ids.astype(np.int64))[None]
        hidden = side.encoder(ids, output_hidden_states=True).hidden_states[layer][0]
    runs = zip(text.starts.tolist(), text.stops.tolist(), strict=True)
    return torch.stack([hidden[start:stop].double().mean(0) for start, stop in runs]).float()


def matrices(features):
    return {key: features.read(*key) for key in features.widths}


def assert_same(features, other):
    found, expected = matrices(features), matrices(other)
    assert found.keys() == expected.keys()
    for key, matrix in found.items():
        assert torch.equal(matrix, expected[key]), key


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_means_of_hidden_states_in_the_order_of_the_texts(
    make_model, tokenizer, rows, kind
):
    side = Checkpoint.open(make_model(kind), None, tokenizer)
    features = keep({"it": side}, rows, batch_size=4)
    assert features.n == rows.n
    assert features.widths == {("it", layer): w for layer, w in enumerate(side.blocks.widths)}
    for number, text in enumerate(rows.texts):
        first, last = features.offsets[number : number + 2].tolist()
        assert last - first == len(text.starts)
        assert (features.text[first:last] == number).all()
        for layer in range(side.blocks.depth + 1 if last > first else 0):
            found = features.read("it", layer)[first:last]
            expected = by_hand(side, text, layer)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)


def test_tokens_equal_the_hidden_states_of_their_batch(sides, tokenizer):
    texts = [Text.of("the cat sat"), Text.of("a dog ran"), Text.of("on the mat")]
    rows = encode(texts, tokenizer, "tokens")
    features = keep(sides, rows, batch_size=3)
    ids = torch.from_numpy(np.stack([text.ids for text in rows.texts])).long()
    for (name, layer), own in matrices(features).items():
        encoder = sides[name].encoder
        with inference(encoder):
            hidden = encoder(ids, output_hidden_states=True).hidden_states[layer]
        assert torch.equal(own, hidden[:, 1:-1].reshape(-1, 24))


@pytest.mark.parametrize("dtype", ["float64", *DTYPES])
def test_words_equal_the_means_of_their_padded_batch(make_model, tokenizer, rows, dtype):
    side = Checkpoint.open(make_model(dtype=getattr(torch, dtype)), None, tokenizer)
    rows = Rows(sorted(rows.texts, key=lambda text: -len(text.ids)))
    features = keep({"it": side}, rows, batch_size=len(rows.texts))
    texts = [text for text in rows.texts if len(text.starts)]
    ids = torch.zeros(len(texts), len(texts[0].ids), dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text.ids)] = torch.from_numpy(text.ids)
    lengths = torch.tensor([len(text.ids) for text in texts])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with inference(side.encoder):
        states = side.encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer, hidden in enumerate(states):
        means = [
            hidden[i, start:stop].double().mean(0).float()
            for i, text in enumerate(texts)
            for start, stop in zip(text.starts.tolist(), text.stops.tolist(), strict=True)
        ]
        assert torch.equal(features.read("it", layer), torch.stack(means))


def test_a_tokenizer_without_padding_has_features(make_model, tokenizer, rows):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    assert bare.pad_token_id is None
    sides = [Checkpoint.open(make_model("gpt2"), None, words) for words in (tokenizer, bare)]
    with_pad, without = (keep({"it": side}, rows) for side in sides)
    assert_same(with_pad, without)


def test_two_models_in_one_pass_are_as_each_alone(sides, rows):
    both = keep(sides, rows)
    for name, side in sides.items():
        alone = keep({name: side}, rows)
        assert all(torch.equal(both.read(*key), alone.read(*key)) for key in alone.widths)
    assert not torch.equal(both.read("a", 2), both.read("b.1", 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_and_disk_hold_the_same_in_every_dtype(tmp_path, sides, rows, dtype):
    wide = keep(sides, rows)
    memory = keep(sides, rows, dtype=dtype)
    disk = keep(sides, rows, dtype=dtype, folder=tmp_path / "new" / "features")
    assert_same(memory, disk)
    assert_same(memory, Features.open(tmp_path / "new" / "features"))
    for key in wide.widths:
        assert torch.equal(memory.read(*key), wide.read(*key).to(getattr(torch, dtype)))
    size = {"float32": 4}.get(dtype, 2)
    need = rows.n * 24 * 8 * size
    assert memory.nbytes == disk.nbytes == need == feature_bytes(sides, rows, None, dtype)


@pytest.mark.parametrize("shard_bytes", [1, SMALL_SHARDS, 1 << 20])
def test_the_size_of_shards_does_not_matter(tmp_path, sides, rows, shard_bytes):
    disk = keep(sides, rows, folder=tmp_path, shard_bytes=shard_bytes, batch_size=1)
    assert_same(disk, keep(sides, rows, batch_size=1))
    index = json.loads((tmp_path / "features.json").read_text())["index"]
    texts = [shard["texts"] for shard in index["shards"]]
    assert (len(texts) == 1) == (shard_bytes == 1 << 20)
    assert texts[0][0] == 0
    assert texts[-1][1] == len(rows.texts)
    assert all(a[1] == b[0] for a, b in pairwise(texts))
    assert all(shard["rows"][0] < shard["rows"][1] for shard in index["shards"])
    assert len(texts) == 22 or shard_bytes > 1
    again = Features.open(tmp_path)
    assert torch.equal(again.offsets, disk.offsets)
    assert torch.equal(again.text, disk.text)


def test_a_single_row_is_larger_than_its_shard(tmp_path, sides, rows):
    text = rows.texts[1]
    one = Rows([*rows.texts[:1] * 2, Encoded(text.ids, text.starts[:1], text.stops[:1])])
    features = keep(sides, one, folder=tmp_path, shard_bytes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.safetensors", INDEX]
    assert features.offsets.tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(features.read("a", 3), by_hand(sides["a"], one.texts[2], 3))


@pytest.mark.parametrize("shard_bytes", [SMALL_SHARDS, 1 << 20])
def test_rows_by_number_in_any_order(tmp_path, sides, rows, shard_bytes):
    features = keep(sides, rows, folder=tmp_path, shard_bytes=shard_bytes)
    layer, whole = features.rows("b.1", 1), features.read("b.1", 1)
    assert (layer.shape, layer.dtype, len(layer)) == (whole.shape, whole.dtype, rows.n)
    for index in (
        torch.arange(rows.n),
        torch.randperm(rows.n),
        torch.randint(rows.n, (500,)),
        torch.tensor([rows.n - 1, 0, 0]),
        torch.tensor([1, 1, 3, 4]),
        torch.arange(rows.n)[::3],
        torch.arange(rows.n, dtype=torch.int32),
        torch.empty(0, dtype=torch.int64),
    ):
        assert torch.equal(layer.index_select(0, index), whole[index])


def test_one_shard_and_memory_are_not_copied(tmp_path, sides, rows):
    for features in (keep(sides, rows), keep(sides, rows, folder=tmp_path)):
        a, b = features.rows("a", 1), features.rows("a", 1)
        assert isinstance(a, torch.Tensor)
        assert a.data_ptr() == b.data_ptr()
        assert torch.equal(a, features.read("a", 1))


def test_only_layers_that_are_asked_for_are_kept(tmp_path, sides, rows):
    chosen = {"a": [3, 0], "b.1": [2]}
    features = keep(sides, rows, layers=chosen, folder=tmp_path)
    assert set(features.widths) == {("a", 3), ("a", 0), ("b.1", 2)}
    everything = keep(sides, rows)
    for key in features.widths:
        assert torch.equal(features.read(*key), everything.read(*key))
    with pytest.raises(KeyError, match=r"layer must be one that was captured, got 1 of 'a'"):
        features.rows("a", 1)


def refused_pass(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model ran")

    monkeypatch.setattr(recording, "capture", refuse)


def test_features_that_are_there_are_used(tmp_path, sides, rows, monkeypatch):
    first = keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    refused_pass(monkeypatch)
    assert_same(keep(sides, rows, folder=tmp_path), first)
    part = keep({"a": sides["a"]}, rows, layers={"a": [1]}, folder=tmp_path)
    assert torch.equal(part.read("a", 1), first.read("a", 1))


class Killed(BaseException):
    """Not an error that a program handles."""


@pytest.mark.parametrize("place", ["pass", "shard", "index"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_pass_that_was_killed_goes_on(tmp_path, sides, rows, monkeypatch, place, after):
    whole = keep(sides, rows)
    name = {"pass": "capture", "shard": "save_tensors", "index": "write_index"}[place]
    real, calls = getattr(recording, name), []
    # The index is written before the first shard too.
    last = {"pass": 12 * after, "shard": after, "index": after + 1}[place]

    def kill(path, *args, **kwargs):
        if len(calls) == last:
            if place == "shard":
                for name in (".00009.safetensors.half", ".features.json.half", ".tmpAb3dEf"):
                    path.with_name(name).write_bytes(b"half of a shard")
            raise Killed
        calls.append(path)
        return real(path, *args, **kwargs)

    options = {"folder": tmp_path, "shard_bytes": SMALL_SHARDS, "batch_size": 2}
    with monkeypatch.context() as patch:
        patch.setattr(recording, name, kill)
        with pytest.raises(Killed):
            keep(sides, rows, **options)
    with pytest.raises(ValueError, match=r"must hold all shards, got .* cut short; capture into"):
        Features.open(tmp_path)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[0-9]*.safetensors")}
    features = keep(sides, rows, **options)
    assert not list(tmp_path.glob(".*"))
    kept = [path for path, time in done.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(done) - (place == "index")
    for key, own in matrices(features).items():
        torch.testing.assert_close(own, whole.read(*key), rtol=1e-5, atol=2e-6)
    assert_same(features, Features.open(tmp_path))


def change(sides, rows, what, make_model, tokenizer):
    options = {}
    if what == "dtype":
        options["dtype"] = "float16"
    elif what == "data":
        own = rows.texts[1]
        changed = Encoded(own.ids, own.starts, own.stops + (np.arange(len(own.stops)) == 2))
        rows = Rows([rows.texts[0], changed, *rows.texts[2:]])
    elif what == "model 'a'":
        sides = {**sides, "a": Checkpoint.open(make_model(seed=9), None, tokenizer)}
    elif what == "a model 'c'":
        sides = {**sides, "c": Checkpoint.open(make_model(seed=9), None, tokenizer)}
    else:
        options["layers"] = {"a": [0, 2], "b.1": [0]}
    return sides, rows, options


@pytest.mark.parametrize(
    "what", ["dtype", "data", "model 'a'", "a model 'c'", "set of layers of 'a'"]
)
def test_features_of_something_else_are_refused(tmp_path, sides, rows, make_model, tokenizer, what):
    keep(sides, rows, folder=tmp_path, layers={"a": [0, 1], "b.1": [0]})
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    sides, rows, options = change(sides, rows, what, make_model, tokenizer)
    options = {"layers": {side: [0] for side in sides}, **options}
    clause = "of 'a', 'b.1' and not 'c'" if what == "a model 'c'" else f"whose {what} differs"
    message = rf"^\[features\] folder must hold .* got .*, {re.escape(clause)}; pass"
    with pytest.raises(ValueError, match=message):
        keep(sides, rows, folder=tmp_path, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "altered":
        raw[-5] ^= 1
    path.write_bytes(raw[: len(raw) // 2] if how == "truncated" else raw)
    if how == "missing":
        path.unlink()
    if how == "exchanged":  # for a whole shard of the same size
        save_tensors(
            path,
            {key: tensor + 1 for key, tensor in load_tensors(path, "bertft features")[0].items()},
            {"format": "bertft features"},
        )


@pytest.mark.parametrize("how", ["altered", "truncated", "missing", "exchanged"])
@pytest.mark.parametrize("call", ["rows", "read"])
def test_damaged_shards_are_refused(tmp_path, sides, rows, how, call):
    keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    damage(tmp_path / "00002.safetensors", how)
    features = Features.open(tmp_path)
    damaged = {
        "altered": "the checksum [0-9a-f]{8}, got the checksum [0-9a-f]{8}",
        "exchanged": "the checksum .*, got the checksum",
        "missing": r"\d+ bytes, got 0 bytes",
        "truncated": r"\d+ bytes, got \d+ bytes",
    }
    message = rf"shard '.*00002\.safetensors' must have {damaged[how]}.*; delete it and capture"
    with pytest.raises(ValueError, match=message):
        getattr(features, call)("a", 1)


def test_checksums_are_checked_once(tmp_path, sides, rows, monkeypatch):
    keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    checked = []
    real = shards.checksum
    monkeypatch.setattr(shards, "checksum", lambda path: checked.append(path) or real(path))
    features = Features.open(tmp_path)
    matrices(features), matrices(features), features.rows("a", 0)
    assert sorted(checked) == sorted(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"features.json must be a whole index, got"),
        ("[]", r"features.json must be a whole index, got"),
        ('{"format": "other", "version": 1}', r"must be of format 'bertft features' 1, got"),
        ('{"format": "bertft features", "version": 2}', r"must be of format .* 1, got"),
        ('{"format": "bertft features", "version": 1}', r"KeyError: 'index'\); delete the folder"),
    ],
)
def test_damaged_indices_are_refused(tmp_path, sides, rows, text, message):
    keep(sides, rows, folder=tmp_path)
    (tmp_path / "features.json").write_text(text)
    for call in (lambda: Features.open(tmp_path), lambda: keep(sides, rows, folder=tmp_path)):
        with pytest.raises(ValueError, match=message):
            call()


def test_an_altered_index_is_refused(tmp_path, sides, rows):
    keep(sides, rows, folder=tmp_path)
    text = (tmp_path / INDEX).read_text()
    (tmp_path / INDEX).write_text(text.replace("[0, 0, ", "[0, 1, "))
    with pytest.raises(ValueError, match=r"must be a whole index, got .*its checksum is another"):
        Features.open(tmp_path)


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder must hold features, got .* without"):
        Features.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("save_tensors", RuntimeError("I/O error: No space left on device (os error 28)")),
        ("write_index", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_keeps_what_is_done(tmp_path, sides, rows, monkeypatch, name, error, after):
    real, written = getattr(recording, name), []

    def write(path, *args):
        if len(written) == after:
            raise error
        written.append(path)
        real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(recording, name, write)
        message = r"disk must have room for another shard, got none in '.*'; free some and capture"
        with pytest.raises(OSError, match=message):
            keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == after
    features = keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    assert features.read("a", 1).shape == (rows.n, 24)


@pytest.mark.parametrize("end", ["", "below"])
def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path, sides, rows, end):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        keep(sides, rows, folder=tmp_path / "file" / end)


def test_a_pass_waits_for_another_into_its_folder(tmp_path, sides, rows):
    expected = keep(sides, rows)
    with locked(tmp_path, wait=True):
        other = threading.Thread(target=keep, args=(sides, rows), kwargs={"folder": tmp_path})
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert not list(tmp_path.iterdir())
    other.join()
    assert_same(Features.open(tmp_path), expected)


def test_memory_has_a_budget(sides, rows):
    need = rows.n * 768 / 2**30
    message = r"must fit in memory_gib, .* got 0\.00 GiB; pass a folder, fewer layers, float16 or"
    with pytest.raises(ValueError, match=message):
        keep(sides, rows, memory_gib=need * 0.99)
    assert keep(sides, rows, memory_gib=need).nbytes == rows.n * 768
    assert keep(sides, rows, memory_gib=need / 2, dtype="float16").nbytes == rows.n * 384


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_that_are_not_finite_are_refused(make_model, tokenizer, rows, value, dtype):
    model = make_model()
    with torch.no_grad():
        model.encoder.layer[1].output.LayerNorm.bias[5] = value
    side = Checkpoint.open(model, None, tokenizer)
    message = r"activations must be finite, got NaN or infinity in layer 2 of 'it'"
    with pytest.raises(ValueError, match=message):
        keep({"it": side}, rows, dtype=dtype)


@pytest.mark.parametrize(("value", "fits"), [(65472.0, True), (65536.0, False), (-7e4, False)])
def test_activations_beyond_float16_are_refused(make_model, tokenizer, rows, value, fits):
    model = make_model()
    with torch.no_grad():
        model.encoder.layer[0].output.LayerNorm.bias[5] = value
    sides = {"it": Checkpoint.open(model, None, tokenizer)}
    assert keep(sides, rows, dtype="bfloat16").read("it", 1).isfinite().all()
    if fits:
        assert keep(sides, rows, dtype="float16").read("it", 1).isfinite().all()
        return
    message = r"must be in the range of float16, got [67].*e\+04 in layer 1 of 'it'; use bfloat16"
    with pytest.raises(ValueError, match=message):
        keep(sides, rows, dtype="float16")


def test_activations_beyond_float32_are_refused(make_model, tokenizer, rows):
    model = make_model(dtype=torch.float64)
    with torch.no_grad():
        model.encoder.layer[0].output.LayerNorm.bias[5] = 1e39
    message = r"in the range of float32, got 1e\+39 in layer 1 of 'it'; check its weights\."
    with pytest.raises(ValueError, match=message):
        keep({"it": Checkpoint.open(model, None, tokenizer)}, rows)


def test_bad_input_is_refused(sides, rows):
    with pytest.raises(
        ValueError, match=r"\[features\] rows, .* must be at least one, got 0, 32 and"
    ):
        keep(sides, Rows([Encoded(rows.texts[1].ids, *[np.zeros(0, np.int32)] * 2)]))
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, got 'int8'; pass"):
        keep(sides, rows, dtype="int8")
    for options in ({"batch_size": 0}, {"shard_bytes": 0}):
        with pytest.raises(
            ValueError, match=r"batch_size and shard_bytes must be at least one, got"
        ):
            keep(sides, rows, **options)
    for layers in ({"a": [0]}, {"a": [0], "b.1": [0], "c": [0]}, {}):
        with pytest.raises(ValueError, match=r"layers must be given for each of one or more sides"):
            keep(sides, rows, layers=layers)
    with pytest.raises(ValueError, match=r"layers must be given .* got \[\] for the sides \[\]"):
        keep({}, rows)
    for own in ([-1], [4], []):
        with pytest.raises(ValueError, match=r"layers of 'b.1' must be some of 0..3, got \["):
            keep(sides, rows, layers={"a": [0], "b.1": own})


def test_a_text_may_come_twice_as_the_same_object(sides, rows):
    twice = Rows([*rows.texts, *rows.texts])
    features, once = keep(sides, twice), keep(sides, rows)
    for key, whole in matrices(features).items():
        torch.testing.assert_close(whole, once.read(*key).repeat(2, 1), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["memory", "one shard", "shards"])
def test_layers_and_blocks_read_ahead(tmp_path, sides, rows, where, dtype):
    size = SMALL_SHARDS if where == "shards" else 1 << 20
    folder = None if where == "memory" else tmp_path
    features = keep(sides, rows, dtype=dtype, folder=folder, shard_bytes=size)
    expected = {key: matrix.float() for key, matrix in matrices(features).items()}
    # As a probe does: the caller may be in inference mode, the reader's thread never is.
    with inference(sides["a"].encoder):
        for key, matrix in zip(expected, features.prefetched(expected), strict=True):
            assert matrix.dtype == torch.float32
            assert torch.equal(matrix, expected[key])
            for length in (1, 7, rows.n, 1000):
                parts = [part.clone() for part in features.blocks(*key, length)]
                assert {len(part) for part in parts[:-1]} <= {length}
                assert torch.equal(torch.cat(parts), expected[key])
    assert list(features.prefetched([])) == []
    with pytest.raises(KeyError, match="must be one that was captured, got 9 of 'a'"):
        features.prefetched([("a", 0), ("a", 9)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shard_bytes", [SMALL_SHARDS, 1 << 20])
def test_gathered_rows_are_widened(tmp_path, sides, rows, shard_bytes, dtype):
    features = keep(sides, rows, dtype=dtype, folder=tmp_path, shard_bytes=shard_bytes)
    whole = features.read("b.1", 3).float()
    for index in (
        torch.arange(rows.n),
        torch.arange(0, rows.n, 3),
        torch.randperm(rows.n),
        torch.tensor([rows.n - 1, 0, 0]),
        torch.tensor([1, 1, 3, 4]),
        torch.empty(0, dtype=torch.int64),
    ):
        out = torch.full((len(index), 24), torch.nan)
        features.gather("b.1", 3, index, out)
        assert torch.equal(out, whole[index])
    for bad in ([0, rows.n], [-1, 0]):
        with pytest.raises(IndexError, match=r"index must be in 0\.\.\d+, got"):
            features.gather("b.1", 3, torch.tensor(bad), torch.empty(2, 24))
    for out in (torch.empty(1, 23), torch.empty(2, 24), torch.empty(1, 24).double()):
        with pytest.raises(ValueError, match=r"out must be float32 of shape \(1, 24\), got"):
            features.gather("b.1", 3, torch.tensor([0]), out)


def test_a_reader_that_is_left_stops(tmp_path, sides, rows):
    features = keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    before = threading.active_count()
    reader = features.prefetched(features.widths)
    next(reader)
    reader.close()
    assert threading.active_count() == before


def test_a_damaged_shard_is_told_by_the_reader(tmp_path, sides, rows):
    keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    damage(tmp_path / "00001.safetensors", "altered")
    with pytest.raises(ValueError, match=r"00001\.safetensors' must have the checksum"):
        list(Features.open(tmp_path).prefetched([("a", 0), ("a", 1)]))


def test_a_deleted_shard_is_captured_again(tmp_path, sides, rows, monkeypatch):
    options = {"folder": tmp_path, "shard_bytes": SMALL_SHARDS}
    expected = matrices(keep(sides, rows, **options))
    (tmp_path / "00001.safetensors").unlink()
    with monkeypatch.context() as patch:
        refused_pass(patch)
        with pytest.raises(AssertionError, match="a model ran"):
            keep(sides, rows, **options)
    with pytest.raises(ValueError, match="folder must hold all shards, got"):
        Features.open(tmp_path)
    again = keep(sides, rows, **options)
    assert all(torch.equal(own, expected[key]) for key, own in matrices(again).items())


def test_a_pass_cut_short_does_not_go_on_with_fewer_layers(tmp_path, sides, rows):
    keep(sides, rows, folder=tmp_path, shard_bytes=SMALL_SHARDS)
    (tmp_path / "00001.safetensors").unlink()
    for layers, what in (
        ({"a": [0]}, "set of layers of 'a' differs"),
        (None, r"capture of 'b\.1' too was cut short"),
    ):
        with pytest.raises(ValueError, match=rf"folder must hold .*, whose {what}"):
            keep({"a": sides["a"]}, rows, layers=layers, folder=tmp_path)


def test_a_folder_knows_models_by_their_weights(tmp_path, sides, rows, monkeypatch):
    options = {"folder": tmp_path, "shard_bytes": SMALL_SHARDS}
    expected = keep(sides, rows, **options)
    renamed = {"./b": sides["b.1"], "/elsewhere/a": sides["a"]}
    (tmp_path / "00001.safetensors").unlink()
    again = keep(renamed, rows, **options)
    with monkeypatch.context() as patch:
        refused_pass(patch)
        both = [keep(named, rows, folder=tmp_path) for named in (renamed, sides)]
    for own, other in (("/elsewhere/a", "a"), ("./b", "b.1")):
        for layer in range(sides[other].blocks.depth + 1):
            found = [each.read(own, layer) for each in (again, both[0])]
            found.append(both[1].read(other, layer))
            assert all(torch.equal(rows, expected.read(other, layer)) for rows in found)


def test_blocks_above_the_last_layer_do_not_run(sides, rows, monkeypatch):
    ran = []
    encoder = sides["a"].encoder
    handles = [
        block.register_forward_hook(lambda *args, layer=layer: ran.append(layer))
        for layer, block in enumerate(encoder.encoder.layer)
    ]
    keep({"a": sides["a"]}, rows, layers={"a": [0]})
    keep({"a": sides["a"]}, rows, layers={"a": [2, 1]})
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_an_error_tells_the_batch(make_model, tokenizer, rows):
    model = make_model()
    with torch.no_grad():
        model.embeddings.LayerNorm.bias[0] = torch.inf
    side = Checkpoint.open(model, None, tokenizer)
    with pytest.raises(ValueError, match="must be finite") as raised:
        keep({"it": side}, rows)
    assert raised.value.__notes__ == ["(batch 0 of 25 texts; 'BertModel')"]


def test_features_can_be_trained_on_wherever_they_were_captured(tmp_path, sides, rows):
    with inference(sides["a"].encoder):
        every = [keep(sides, rows), keep(sides, rows, folder=tmp_path)]
        layers = [features.rows("a", 1) for features in every]
    for layer in layers:
        weight = torch.zeros(24, requires_grad=True)
        (layer @ weight).sum().backward()
        assert weight.grad is not None
