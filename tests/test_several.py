"""Several fine-tuned models beside their base in one pass."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import bertft
from bertft import streaming
from bertft.compared import Comparison
from bertft.models import truncate
from tests.test_comparison import nudge, run

OPTIONS = {"measures": ["rsa", "cka", "svcca", "knn_overlap"]}
MODELS = ("lower", "upper", "whole")


@pytest.fixture
def models(checkpoint):
    """A base and three models tuned from it, by where they changed."""

    def whole(model):
        for layer in range(3):
            nudge(layer, 0.1)(model)

    changes = dict(zip(MODELS, (nudge(0), nudge(2), whole), strict=True))
    tuned = [str(checkpoint(name, change=change)) for name, change in changes.items()]
    return str(checkpoint("base")), tuned


def of_model(table, name):
    rows = table[table["finetuned"] == name].drop(columns="finetuned")
    return rows.reset_index(drop=True)


def test_each_is_as_it_is_alone(models, texts):
    base, tuned = models
    together = bertft.compare(base, tuned, texts, intervals="jackknife", groups=5, **OPTIONS)
    assert list(together.table["finetuned"].unique()) == tuned
    for name in tuned:
        alone = bertft.compare(base, name, texts, intervals="jackknife", groups=5, **OPTIONS)
        own = of_model(together.table, name)
        pd.testing.assert_frame_equal(own, of_model(alone.table, name), rtol=1e-9, atol=1e-12)
        geometry = together.geometry.query("role == 'pretrained' or model == @name")
        pd.testing.assert_frame_equal(
            geometry.sort_values(["role", "layer", "measure"]).reset_index(drop=True),
            alone.geometry.sort_values(["role", "layer", "measure"]).reset_index(drop=True),
            rtol=1e-9,
            atol=1e-12,
        )
        left = together.replicates.query("finetuned == @name")["without"]
        np.testing.assert_allclose(
            np.stack(left.to_list()),
            np.stack(alone.replicates.query("finetuned == @name")["without"].to_list()),
            rtol=1e-9,
        )


def test_the_base_runs_once_a_batch(models, texts, monkeypatch):
    base, tuned = models
    calls = []
    capture = streaming.capture

    def counted(encoder, *args, **rest):
        calls.append(encoder.name_or_path)
        return capture(encoder, *args, **rest)

    monkeypatch.setattr(streaming, "capture", counted)
    bertft.compare(base, tuned, texts, batch_size=5, measures=["cka"])
    batches = -(-len(texts) // 5)
    assert {name: calls.count(name) for name in calls} == dict.fromkeys([base, *tuned], batches)


def test_a_truncated_model_beside_a_whole_one(models, checkpoint, texts):
    base, tuned = models
    short = str(checkpoint("short", change=lambda model: truncate(model, 2)))
    found = bertft.compare(base, [short, tuned[0]], texts, measures=["cka"])
    layers = found.table.groupby("finetuned")["pretrained_layer"].max()
    assert layers.to_dict() == {short: 2, tuned[0]: 3}
    geometry = found.geometry.query("role == 'pretrained' and measure == 'mean_norm'")
    assert geometry["layer"].tolist() == [0, 1, 2, 3]
    assert any("layers 0 to 2 are compared" in note for note in found.provenance["notes"])


def test_differences_of_models_are_paired(models, texts):
    base, tuned = models
    together = bertft.compare(base, tuned, texts, intervals="jackknife", groups=5, **OPTIONS)
    alone = [
        bertft.compare(base, name, texts, intervals="jackknife", groups=5, **OPTIONS)
        for name in tuned[:2]
    ]
    found = together.difference(together, finetuned=tuned[0], other_finetuned=tuned[1])
    assert found["is_paired"].all()
    expected = alone[0].difference(alone[1])
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-9)
    assert found["value"].abs().max() > 0.01
    with pytest.raises(ValueError, match=r"\[difference\] finetuned must be among .*, got None"):
        together.difference(alone[0])
    with pytest.raises(ValueError, match=r"other_finetuned must be among .* got 'x'; pass one of"):
        alone[0].difference(together, other_finetuned="x")


def test_two_segments_two_tokenizers_and_several_models(models, tmp_path, checkpoint, texts):
    """Rows are those that all models have, whatever the group."""
    base, tuned = models
    other = checkpoint("cased", seed=4)
    rules = json.loads((other / "tokenizer.json").read_text())
    rules["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(rules))
    options = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**options, "do_lower_case": False}))
    records = [{"premise": f"The {a}", "hypothesis": "a Cat sat"} for a in texts]
    found = bertft.compare(
        base, [tuned[0], str(other)], records, group="segment", measures=["cka"], batch_size=4
    )
    assert list(found.table["corpus"].unique()) == ["texts/first", "texts/second"]
    n = found.table.groupby(["corpus", "finetuned"])["n"].unique().map(list)
    assert n["texts/first", tuned[0]] == n["texts/first", str(other)]
    assert (
        "texts: no rows of special (those of different tokenizers have no order)."
        in (found.provenance["notes"])
    )


def test_models_must_have_names_of_their_own(models, texts):
    base, tuned = models
    with pytest.raises(ValueError, match="finetuned must be models of different names, got"):
        bertft.compare(base, [tuned[0], tuned[0]], texts)
    with pytest.raises(ValueError, match="finetuned must be at least one model, got none"):
        bertft.compare(base, [], texts)


def test_files_figures_and_report_name_the_models(models, texts, tmp_path):
    base, tuned = models
    found = bertft.compare(base, tuned, {"ewt": texts}, pairs="all", **OPTIONS)
    assert found.facets == [f"ewt ({name})" for name in MODELS]
    for name, model in zip(found.facets, tuned, strict=True):
        assert set(found.rows_of(name)["finetuned"]) == {model}
        cka = found.table.query("finetuned == @model and measure == 'cka'")
        same = cka[cka["pretrained_layer"] == cka["finetuned_layer"]]
        assert found.summary(name)["cka"].tolist() == same["value"].tolist()
    found.save(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    for name in MODELS:
        assert f"<h3>ewt ({name})</h3>" in page
        assert f"On ewt ({name}), " in page
    assert f"{base} → lower, upper, whole" in page
    loaded = Comparison.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.table, found.table)
    assert set(loaded.moments) == {"ewt", "ewt, finetuned-2", "ewt, finetuned-3"}
    assert set(pd.read_csv(tmp_path / "run" / "results.csv")["finetuned"]) == set(tuned)
    assert [*loaded.provenance["models"]] == [
        "pretrained",
        "finetuned",
        "finetuned-2",
        "finetuned-3",
    ]
    assert {record["finetuned"] for record in loaded.provenance["diagnostics"]} == set(tuned)


def test_sites_and_models_are_named_together(models, texts):
    base, tuned = models
    found = bertft.compare(base, tuned[:2], {"ewt": texts}, sites="output,mlp", measures=["cka"])
    named = ("ewt (lower)", "ewt (mlp, lower)", "ewt (upper)", "ewt (mlp, upper)")
    assert found.facets == list(named)


def test_command_line(models, texts, tmp_path):
    base, tuned = models
    data = tmp_path / "ewt.txt"
    data.write_text("\n".join(texts))
    out = tmp_path / "run"
    done = run("compare", base, *tuned, "--data", data, "--out", out, "--measures", "rsa,cka")
    assert done.returncode == 0, done.stderr
    for name in MODELS:
        assert f"ewt ({name})" in done.stdout
    assert Comparison.load(out).table["finetuned"].nunique() == 3
    again = run("report", out)
    assert again.returncode == 0
    assert again.stdout == done.stdout


def test_models_in_memory(make_model, tokenizer, texts):
    models = [make_model(seed=seed) for seed in range(3)]
    for number, model in enumerate(models[1:]):
        model.config._name_or_path = model.name_or_path = ""
        model.name_or_path = f"tuned-{number}"
    with torch.no_grad():
        found = bertft.compare(
            models[0], tuple(models[1:]), texts, measures=["cka"], tokenizer=tokenizer
        )
    assert list(found.table["finetuned"].unique()) == ["tuned-0", "tuned-1"]
