"""`compare` from checkpoints to tables: values, refusals, files and the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import bertft
from bertft import results
from bertft.checkpoints import load_encoder
from bertft.models import truncate
from bertft.results import require_free
from bertft.similarity import MEASURES
from bertft.traces import inference
from tests.test_similarity import ORACLES

COLUMNS = [
    "pretrained",
    "finetuned",
    "corpus",
    "site",
    "pretrained_layer",
    "finetuned_layer",
    "measure",
    "value",
    "low",
    "high",
    "n",
    "n_per_d",
    "rank_pretrained",
    "rank_finetuned",
    "condition_pretrained",
    "condition_finetuned",
    "left_out_pretrained",
    "left_out_finetuned",
    "chance",
    "unchanged",
    "p_value",
    "p_value_n",
    "note",
]


def nudge(layer, size=0.3):
    """Change one block of a BERT."""

    def change(model):
        torch.manual_seed(99)
        for parameter in model.base_model.encoder.layer[layer].parameters():
            parameter.data += size * torch.randn_like(parameter)

    return change


@pytest.fixture
def pair(checkpoint):
    """Two tiny checkpoints: block 1 of the second was changed."""
    return str(checkpoint("base")), str(checkpoint("tuned", change=nudge(1)))


def word_rows(folder, tokenizer, texts):
    """Every layer's word rows, the plain way: one text at a time, `word_ids`, a mean."""
    encoder = load_encoder(folder, torch.float32)
    rows = []
    with inference(encoder):
        for text in texts:
            encoded = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
            states = encoder(**encoded, output_hidden_states=True).hidden_states
            words = np.array([-1 if word is None else word for word in encoded.word_ids()])
            rows += [
                [state[0, words == word].mean(dim=0).numpy() for state in states]
                for word in range(words.max() + 1)
            ]
    return [np.array(layer, np.float64) for layer in zip(*rows, strict=True)]


def values(comparison, measure, corpus=None):
    table = comparison.table
    keep = table["measure"] == measure
    if corpus is not None:
        keep &= table["corpus"] == corpus
    return table[keep]["value"].to_numpy()


def whitened(x):
    """Coordinates on the kept principal directions; LayerNorm leaves a null one."""
    left, sizes, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    return left[:, sizes**2 > 1e-8 * sizes[0] ** 2]


INVERTING = {name for name, measure in MEASURES.items() if measure.n_above_d} | {"svcca"}


def test_every_measure_equals_its_oracle_on_the_same_rows(pair, tokenizer, texts):
    comparison = bertft.compare(*pair, texts, measures=list(MEASURES))
    before, after = (word_rows(folder, tokenizer, texts) for folder in pair)
    for layer, (x, y) in enumerate(zip(before, after, strict=True)):
        rho = np.linalg.svd(whitened(x).T @ whitened(y), compute_uv=False)
        assert values(comparison, "cca")[layer] == pytest.approx(rho.mean(), abs=1e-5)
        assert values(comparison, "cca_r2")[layer] == pytest.approx((rho**2).mean(), abs=1e-5)
        for name in set(MEASURES) - INVERTING:
            found, expected = values(comparison, name)[layer], ORACLES[name](x, y)
            # Square roots of a difference at 1 lose half of the digits.
            slack = 1e-3 if name.startswith("procrustes") and expected < 0.01 else 2e-5
            assert found == pytest.approx(expected, abs=slack), (name, layer)


def test_the_table_is_tidy(pair, texts):
    comparison = bertft.compare(*pair, {"a": texts, "b": texts[:10]}, measures=["rsa", "cka"])
    table = comparison.table
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * 4 * 2
    assert set(table["corpus"]) == {"a", "b"}
    assert (table["pretrained_layer"] == table["finetuned_layer"]).all()
    assert table[["low", "high"]].isna().all(axis=None)
    assert (table.groupby("corpus")["n"].nunique() == 1).all()
    assert set(table["pretrained"]) == {pair[0]}


def test_a_planted_change_is_found_in_its_layer(checkpoint, texts):
    for block in range(3):
        folders = checkpoint(f"base{block}"), checkpoint(f"tuned{block}", change=nudge(block))
        comparison = bertft.compare(*map(str, folders), texts)
        for name in comparison.table["measure"].unique():
            unchanged = 0.0 if name in ("procrustes", "procrustes_angle", "l2") else 1.0
            same = np.abs(values(comparison, name) - unchanged) < 1e-3
            assert same.tolist() == [layer <= block for layer in range(4)], name


def test_defaults_leave_out_what_the_rows_do_not_allow(pair, texts):
    everything = set(bertft.compare(*pair, texts).table["measure"])
    assert everything == set(MEASURES) - {"rsa_correlation"}
    few = bertft.compare(*pair, texts, limit=20)
    assert everything - set(few.table["measure"]) == {n for n, m in MEASURES.items() if m.n_above_d}
    note, inflated = few.provenance["notes"]
    assert re.search(r"inflated, since unrelated rows, .* give .* cka 0\.\d\d, svcca 0", inflated)
    assert re.search(
        r"left out: cca, .* need more rows than columns, got n=20 and d=24 .*svcca", note
    )


def test_very_few_rows_leave_measures_out(pair):
    two = bertft.compare(*pair, ["the cat"])
    assert {"rsa", "cka_debiased"}.isdisjoint(two.table["measure"])
    assert any("cka_debiased need more rows, got n=2" in n for n in two.provenance["notes"])


def test_measures_may_be_one_string(pair, texts):
    table = bertft.compare(*pair, texts, measures="rsa, cka").table
    assert set(table["measure"]) == {"rsa", "cka"}


def test_a_model_in_memory_borrows_the_tokenizer(pair, make_model, texts):
    table = bertft.compare(pair[0], make_model(), texts, measures=["rsa"]).table
    assert table["value"].to_numpy() == pytest.approx(np.ones(4), abs=1e-6)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 1000}])
def test_batches_do_not_change_the_values(pair, texts, options):
    expected = bertft.compare(*pair, texts)
    other = bertft.compare(*pair, texts, **options)
    pd.testing.assert_frame_equal(expected.table, other.table, atol=2e-6, rtol=2e-5)
    again = bertft.compare(*pair, texts)
    pd.testing.assert_frame_equal(expected.table, again.table, check_exact=True)


def test_order_of_texts_does_not_change_the_values(pair, texts):
    expected = bertft.compare(*pair, texts, measures=["rsa", "cka_debiased"])
    other = bertft.compare(*pair, texts[::-1], measures=["rsa", "cka_debiased"])
    close = {"atol": 2e-6, "rtol": 0}
    pd.testing.assert_frame_equal(expected.table[COLUMNS[:10]], other.table[COLUMNS[:10]], **close)


def test_float64_models_give_float64_statistics(pair, texts):
    narrow = bertft.compare(*pair, texts)
    wide = bertft.compare(*pair, texts, dtype="float64")
    assert wide.moments["texts"].dtype == torch.float64
    pd.testing.assert_frame_equal(narrow.table, wide.table, atol=2e-5, rtol=2e-5)
    assert not narrow.table["value"].equals(wide.table["value"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_models(pair, texts, dtype):
    comparison = bertft.compare(*pair, texts, dtype=dtype, measures=["rsa", "cka"])
    assert values(comparison, "rsa")[0] == pytest.approx(1.0, abs=1e-6)
    exact = bertft.compare(*pair, texts, measures=["rsa", "cka"])
    assert values(comparison, "rsa") == pytest.approx(values(exact, "rsa"), abs=0.05)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("kind", ["distilbert", "albert", "gpt2"])
def test_other_architectures(checkpoint, texts, kind, backend):
    base = checkpoint("base", kind=kind)
    tuned = checkpoint("tuned", kind=kind, seed=1)
    comparison = bertft.compare(str(base), str(base), texts, measures=["rsa"], backend=backend)
    assert values(comparison, "rsa") == pytest.approx(np.ones(4), abs=1e-9)
    comparison = bertft.compare(str(base), str(tuned), texts, measures=["rsa"], backend=backend)
    assert (values(comparison, "rsa") < 0.9).all()


def test_token_rows(pair, texts, tokenizer):
    comparison = bertft.compare(*pair, texts, rows="tokens", measures=["cka"])
    pieces = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    assert (comparison.table["n"] == pieces).all()


def test_models_in_memory_are_left_as_they_came(make_model, tokenizer, texts):
    model = make_model(head="AutoModelForTokenClassification").train()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    comparison = bertft.compare(model, model, texts, tokenizer=tokenizer, measures=["rsa", "cka"])
    assert values(comparison, "rsa") == pytest.approx(np.ones(4), abs=1e-12)
    assert model.training
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    broken = make_model(seed=1)
    broken.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    broken.train()
    with pytest.raises(ValueError, match=r"layer 2 of the finetuned model 'BertModel', batch 0"):
        bertft.compare(model, broken, texts, tokenizer=tokenizer)
    assert model.training
    assert broken.training
    assert hooks == [len(module._forward_hooks) for module in model.modules()]


def test_long_texts_are_counted(pair, texts):
    comparison = bertft.compare(*pair, texts, max_length=12, measures=["rsa"])
    (corpus,) = comparison.provenance["corpora"]
    assert corpus["truncated_texts"] > 0
    assert corpus["truncated_words"] > 0
    told = r"texts are longer than 12 tokens and were cut"
    count = corpus["truncated_words"]
    note = comparison.provenance["notes"][0]
    assert re.search(rf"{told}, which leaves out {count} words\.$", note)
    # Rows of tokens: what is left out was no row, and is not counted.
    of_tokens = bertft.compare(*pair, texts, max_length=12, measures=["rsa"], rows="tokens")
    assert re.search(rf"{told}\.$", of_tokens.provenance["notes"][0])


def test_constant_columns_and_ranks_are_reported(checkpoint, texts):
    def flatten(model):
        norm = model.encoder.layer[1].output.LayerNorm
        norm.weight.data[5] = 0.0

    folders = checkpoint("base"), checkpoint("tuned", change=flatten)
    diagnostics = bertft.compare(*map(str, folders), texts).provenance["diagnostics"]
    assert [d["constant_columns_pretrained"] for d in diagnostics] == [0, 0, 0, 0]
    assert [d["constant_columns_finetuned"] for d in diagnostics] == [0, 0, 1, 0]
    assert [d["rank_pretrained"] for d in diagnostics[1:]] == [23, 23, 23]
    # A constant column takes the place of the null direction that LayerNorm leaves.
    assert diagnostics[2]["rank_finetuned"] == 23


def break_layer(model):
    model.encoder.layer[2].output.LayerNorm.weight.data.zero_()


def test_a_collapsed_layer_is_missing_with_its_reason(checkpoint, texts):
    folders = checkpoint("base"), checkpoint("tuned", change=break_layer)
    comparison = bertft.compare(*map(str, folders), texts, measures=["rsa", "cka", "l2"])
    table = comparison.table.set_index(["measure", "finetuned_layer"])
    for name in ("rsa", "cka"):
        assert table["value"][name].isna().tolist() == [False, False, False, True]
        assert re.search(r"finetuned.3 must vary over its \d+ rows", table["note"][name, 3])
    assert table["value"]["l2"].notna().all()
    assert any("1 of 4 values of rsa are missing" in n for n in comparison.provenance["notes"])


def test_a_layer_of_round_off_says_so(checkpoint, texts):
    def collapse(model):
        model.encoder.layer[0].output.LayerNorm.weight.data.zero_()

    folders = checkpoint("base"), checkpoint("tuned", change=collapse)
    comparison = bertft.compare(*map(str, folders), texts, measures=["rsa", "cka"])
    above = comparison.table.query("finetuned_layer > 0")
    known = above["value"].notna()
    rounded = above["note"].str.contains("vary by no more than rounding may make")
    assert (known == rounded).all()
    assert not comparison.table.query("finetuned_layer == 0")["note"].str.contains("rounding").any()


def zero_rows(model):
    break_layer(model)
    model.encoder.layer[2].output.LayerNorm.bias.data.zero_()


def test_zero_rows_are_an_error_under_a_cosine_kernel_only(checkpoint, texts):
    folders = checkpoint("base"), checkpoint("tuned", change=zero_rows)
    with pytest.raises(ValueError, match=r"'finetuned.3' must have a direction under a cosine"):
        bertft.compare(*map(str, folders), texts)
    comparison = bertft.compare(*map(str, folders), texts, measures=["l2"])
    assert np.isfinite(values(comparison, "l2")).all()


def other_vocabulary(folder):
    file = folder / "tokenizer.json"
    rules = json.loads(file.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    file.write_text(json.dumps(rules))


def test_rows_of_tokens_want_one_vocabulary(checkpoint, texts):
    base, tuned = checkpoint("base"), checkpoint("tuned", seed=1)
    file = tuned / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["padding"] = {
        "strategy": {"Fixed": 30},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    rules["truncation"] = {
        "direction": "Right",
        "max_length": 9,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    file.write_text(json.dumps(rules))
    same = bertft.compare(str(base), str(tuned), texts, measures=["rsa"])
    turned = bertft.compare(str(tuned), str(base), texts, measures=["rsa"])
    assert values(same, "rsa") == pytest.approx(values(turned, "rsa"), abs=1e-6)
    assert same.provenance["corpora"][0]["truncated_texts"] == 0
    other_vocabulary(tuned)
    tokens = {"rows": "tokens", "measures": ["rsa"]}
    message = r"same tokens for rows of tokens, got 'the cat.*base' and .*tuned' split differently"
    with pytest.raises(ValueError, match=message):
        bertft.compare(str(base), str(tuned), texts, **tokens)
    assert len(bertft.compare(str(base), str(tuned), texts, measures=["rsa"]).table)


def test_rows_of_tokens_want_texts_split_alike(checkpoint, texts):
    base, tuned = checkpoint("base"), checkpoint("tuned", seed=1)
    file = tuned / "tokenizer.json"
    rules = json.loads(file.read_text())
    rules["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(rules))
    options = json.loads((tuned / "tokenizer_config.json").read_text())
    (tuned / "tokenizer_config.json").write_text(json.dumps({**options, "do_lower_case": False}))
    tokens = {"rows": "tokens", "measures": ["rsa"]}
    bertft.compare(str(base), str(tuned), texts, **tokens)
    with pytest.raises(ValueError, match=r"must turn texts into the same tokens .* got 'The cat"):
        bertft.compare(str(base), str(tuned), ["The cat sat"] * 30, **tokens)


def test_models_must_have_the_same_depth(checkpoint, texts):
    base, deep = checkpoint("base"), checkpoint("deep", num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"same depth, got 3 layers in .*base' and 4 in .*deep'"):
        bertft.compare(str(base), str(deep), texts)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_truncated_model_is_compared_where_it_has_layers(kind, checkpoint, texts):
    base = checkpoint("base", kind=kind)
    cut = [
        checkpoint(f"cut{k}", kind=kind, change=lambda model, k=k: truncate(model, k))
        for k in (1, 2)
    ]
    for pair, depths in (((base, cut[1]), (3, 2)), ((cut[1], base), (2, 3)), (cut, (1, 2))):
        found = bertft.compare(*pair, texts, measures=["l2"])
        rows = found.table
        shared = min(depths)
        assert list(rows["pretrained_layer"]) == list(rows["finetuned_layer"])
        assert list(rows["pretrained_layer"]) == list(range(shared + 1))
        # GPT-2 has a norm behind the last block, which stays.
        assert (rows["value"].iloc[:shared] == 0).all()
        assert (rows["value"].iloc[shared] == 0) == (kind == "bert")
        told = found.provenance["notes"][0]
        assert f"layers 0 to {shared} are compared: " in told
        assert f"cut off above block {shared}, and " in told
        assert f"has {max(depths)} blocks" in told
        assert ("final norm" in told) == (kind == "gpt2")
    shallow = checkpoint(
        "shallow", kind=kind, **{{"bert": "num_hidden_layers", "gpt2": "n_layer"}[kind]: 2}
    )
    with pytest.raises(
        ValueError, match=r"same depth, got 3 layers in .*base' and 2 in .*shallow'"
    ):
        bertft.compare(base, shallow, texts)


def test_models_of_different_width(checkpoint, texts):
    base, wide = checkpoint("base"), checkpoint("wide", hidden_size=32)
    comparison = bertft.compare(str(base), str(wide), texts)
    assert not {"cosine", "l2"} & set(comparison.table["measure"])
    assert "cosine, l2 need layers of the same width" in comparison.provenance["notes"][0]
    with pytest.raises(ValueError, match="cosine need layers of the same width"):
        bertft.compare(str(base), str(wide), texts, measures=["cosine"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measures": ["rsa", "svd"]}, r"measures must be among rsa, .*, got svd"),
        ({"measures": []}, "measures must be among"),
        ({"measures": ["cca"], "limit": 24}, "cca need more rows than columns, got n=24 and d=24"),
        ({"measures": ["rsa", "regression"], "limit": 5}, "regression need more rows than columns"),
        ({"rows": "chunks"}, "rows must be among words, tokens, cls and .* got 'chunks'"),
        ({"group": "text"}, "group must be 'segment' or None, got 'text'"),
        ({"group": "segment", "rows": "cls"}, "rows must be words or tokens where .* got 'cls'"),
        ({"pieces": "last", "rows": "tokens"}, "pieces must be left out where rows are not words"),
        ({"max_length": 65}, "max_length must be at most what the models take, 64, got 65"),
        ({"dtype": "int8"}, "dtype must be one of float32, .*, got 'int8'"),
        ({"limit": 1}, "limit must be at least 2, got 1"),
        ({"limit": 0}, "limit must be at least 2, got 0"),
        ({"max_length": 2}, "must leave room beside 2 special tokens, got 2; pass at least 3"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"device": "tpu"}, "device must be cpu, cuda or auto, got 'tpu'"),
        ({"measures": ["cka_debiased"], "limit": 3}, "cka_debiased need more rows, got n=3"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_refusals_before_the_pass(pair, texts, options, message, monkeypatch):
    monkeypatch.setattr("bertft.comparison.stream", lambda *_: pytest.fail("the pass began"))
    with pytest.raises(ValueError, match=message):
        bertft.compare(*pair, texts, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu(pair, texts):
    with pytest.raises(RuntimeError, match="device must be available, got 'cuda' without CUDA"):
        bertft.compare(*pair, texts, device="cuda")
    assert bertft.compare(*pair, texts, device="auto", measures=["rsa"]) is not None


def test_save_and_load(pair, texts, tmp_path):
    comparison = bertft.compare(*pair, texts, measures=["rsa", "cka"])
    out = tmp_path / "deep" / "run"
    comparison.save(out)
    files = {path.name for path in out.iterdir()}
    assert files == {
        "results.parquet",
        "results.csv",
        "provenance.json",
        "moments.safetensors",
        "figure.svg",
        "report.html",
        "geometry.parquet",
        "geometry.csv",
    }
    assert [path.name for path in out.parent.iterdir()] == ["run"]
    loaded = bertft.Comparison.load(out)
    pd.testing.assert_frame_equal(loaded.table, comparison.table, check_exact=True)
    assert loaded.provenance == comparison.provenance
    csv = pd.read_csv(out / "results.csv")
    assert list(csv.columns) == COLUMNS
    np.testing.assert_array_equal(csv["value"], comparison.table["value"])
    moments = loaded.moments["texts"].pair("pretrained.2", "finetuned.2")
    assert bertft.similarity.rsa(moments) == values(comparison, "rsa")[2]
    assert "<table" in loaded._repr_html_()
    assert len(loaded.plot().axes) >= 1
    with pytest.raises(FileExistsError, match=r"out must not hold another run.*overwrite"):
        comparison.save(out)
    comparison.save(out, overwrite=True)
    (out / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="files of a run must be whole"):
        bertft.Comparison.load(out)
    comparison.save(out, overwrite=True)
    (out / "provenance.json").write_text("[]")
    with pytest.raises(ValueError, match=r"provenance.json must hold an object, got list"):
        bertft.Comparison.load(out)
    with pytest.raises(FileNotFoundError, match="folder must hold a run"):
        bertft.Comparison.load(tmp_path)
    with pytest.raises(NotADirectoryError, match="must be a folder that can be written"):
        require_free(out / "figure.svg" / "run", overwrite=False)
    with pytest.raises(NotADirectoryError, match="out must be a folder"):
        require_free(out / "figure.svg", overwrite=True)


def test_a_failing_writer_leaves_nothing(pair, texts, tmp_path, monkeypatch):
    comparison = bertft.compare(*pair, texts, measures=["rsa"])

    def fail(self, out):
        (out / "figure.svg").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(bertft.Comparison, "write_report", fail)
    with pytest.raises(KeyboardInterrupt):
        comparison.save(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "tuned"}


def test_a_run_keeps_every_file_of_its_writer_and_replaces_the_provenance_last(
    tmp_path, monkeypatch
):
    table, out, moved = pd.DataFrame({"value": [1.0]}), tmp_path / "run", []

    def write(folder):
        assert folder != out
        for name in ("a.html", "z.svg"):
            (folder / name).write_text(name)

    def move(source, target):
        if target.name == "z.svg":
            assert not (out / "provenance.json").exists()
        moved.append(target.name)
        source.rename(target)

    monkeypatch.setattr(results.shutil, "move", move)
    results.save_run(out, table, {"at": 1}, write)
    results.save_run(out, table, {"at": 2}, write, overwrite=True)
    assert moved[-1] == "provenance.json"
    assert {path.name for path in out.iterdir()} == set(moved)
    assert (out / "z.svg").read_text() == "z.svg"
    assert results.load_run(out)[1] == {"at": 2}


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "bertft", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_command_line(pair, texts, tmp_path):
    data = tmp_path / "texts[v2].txt"
    data.write_text("\n".join(texts))
    out = tmp_path / "run"
    done = run(
        "compare", *pair, "--data", data, "--out", out, "--limit", 100, "--measures", "rsa,cka"
    )
    assert done.returncode == 0, done.stderr
    assert "texts[v2]: 100 of" in done.stderr
    assert "texts[v2]" in done.stdout
    assert "layers 0 to 3" in done.stderr
    assert "Writing" not in done.stderr
    assert "rsa" in done.stdout
    assert str(out / "report.html") in done.stdout.replace("\n", "")
    assert (out / "report.html").stat().st_size > 1000
    again = run("compare", *pair, "--data", data, "--out", out)
    assert (again.returncode, again.stdout) == (2, "")
    assert "out must not hold another run" in again.stderr
    (out / "report.html").unlink()
    shown = run("report", out)
    assert shown.returncode == 0
    assert (out / "report.html").exists()
    assert run("--version").stdout == f"bertft {bertft.__version__}\n"


def test_command_line_refusals_write_nothing(pair, tmp_path):
    data = tmp_path / "texts.txt"
    data.write_text("the cat sat\n")
    broken = tmp_path / "broken.conllu"
    broken.write_text("1\ta\n")
    out = tmp_path / "run"
    for arguments, message in (
        ((*pair, "--data", tmp_path / "none.txt"), "must be an existing file"),
        ((pair[0], tmp_path / "none", "--data", data), "must be an existing folder or a hub name"),
        ((*pair, "--data", broken), "broken.conllu, line 1 must have 10 tab-separated columns"),
        ((*pair, "--data", data, "--measures", "cca"), "cca need more rows than columns"),
        ((*pair, "--data", data, "--limit", 1), "--limit"),
    ):
        done = run("compare", *arguments, "--out", out)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not out.exists()


def test_interruption_leaves_no_files(pair, texts, tmp_path):
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(texts * 400))
    before = sorted(tmp_path.iterdir())
    arguments = ["compare", *pair, "--data", str(data), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "bertft", *arguments, "--batch-size", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    assert "rows in" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted; nothing was written" in errors
    assert "Traceback" not in errors
    assert sorted(tmp_path.iterdir()) == before
