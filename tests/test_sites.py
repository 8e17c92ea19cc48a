"""Which layers and sublayers are compared, and how tables and reports say so."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import bertft
from bertft import cli
from bertft.checkpoints import load_encoder
from bertft.planning import layers_asked, sites_asked
from bertft.traces import inference

NAMES = {
    "attention": "encoder.layer.{}.attention.output.dense",
    "mlp": "encoder.layer.{}.output.dense",
}
MEASURES = ["rsa", "cka", "procrustes"]


def nudge(model):
    torch.manual_seed(99)
    for parameter in model.base_model.encoder.layer[1].parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)


@pytest.fixture
def pair(checkpoint):
    return str(checkpoint("base")), str(checkpoint("tuned", change=nudge))


def token_rows(folder, tokenizer, texts, name):
    """What a module returns for all tokens that are not special, one text at a time."""
    encoder, rows = load_encoder(folder, torch.float32), []
    module = encoder.get_submodule(name)
    handle = module.register_forward_hook(lambda _, args, output: rows.append(output[0, 1:-1]))
    with inference(encoder):
        for text in texts:
            encoder(**tokenizer(text, return_tensors="pt"))
    handle.remove()
    return torch.cat(rows).double()


def keyed(table):
    return table.set_index(["site", "pretrained_layer", "finetuned_layer", "measure"])["value"]


def test_sites_are_what_modules_of_that_name_return(pair, tokenizer, texts):
    table = bertft.compare(
        *pair, texts, measures=MEASURES, rows="tokens", sites="mlp,attention"
    ).table
    assert list(dict.fromkeys(table["site"])) == ["attention", "mlp"]
    assert sorted(set(table["pretrained_layer"])) == [1, 2, 3]
    found = keyed(table)
    for site, name in NAMES.items():
        for layer in (1, 2, 3):
            both = [token_rows(folder, tokenizer, texts, name.format(layer - 1)) for folder in pair]
            for measure in MEASURES:
                expected = float(getattr(bertft.similarity, measure)(*both))
                assert found[site, layer, layer, measure] == pytest.approx(expected, abs=2e-5)


def test_sites_beside_outputs_change_no_value(pair, texts):
    alone = bertft.compare(*pair, texts, measures=MEASURES)
    all_sites = bertft.compare(
        *pair, texts, measures=MEASURES, sites=["output", "attention", "mlp"]
    )
    outputs = all_sites.table[all_sites.table["site"] == "output"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.table, outputs, check_exact=True)
    assert set(alone.geometry["site"]) == {"output"}
    assert set(all_sites.geometry["site"]) == {"output", "attention", "mlp"}
    sides = all_sites.moments[all_sites.table["corpus"].iloc[0]].widths
    assert {"pretrained.0", "finetuned.3.attention", "pretrained.1.mlp"} <= sides.keys()


def test_pairs_stay_within_a_site(pair, texts):
    table = bertft.compare(*pair, texts, measures=["cka"], sites="output,mlp", pairs="all").table
    assert dict(table["site"].value_counts()) == {"output": 16, "mlp": 9}


@pytest.mark.parametrize("layers", [[2, 0], "0,2"])
def test_chosen_layers_have_the_values_of_the_whole(pair, texts, layers):
    whole = keyed(bertft.compare(*pair, texts, measures=MEASURES).table)
    found = bertft.compare(*pair, texts, measures=MEASURES, layers=layers)
    assert sorted(set(found.table["pretrained_layer"])) == [0, 2]
    for key, value in keyed(found.table).items():
        assert value == whole[key]
    (moments,) = found.moments.values()
    assert moments.widths.keys() == {
        f"{r}.{n}" for r in ("pretrained", "finetuned") for n in (0, 2)
    }


def test_blocks_above_the_deepest_layer_do_not_run(make_model, tokenizer, texts):
    models, ran = [make_model(seed=seed) for seed in (0, 1)], []
    for model in models:
        for number, block in enumerate(model.encoder.layer, start=1):
            block.register_forward_hook(lambda *_, number=number: ran.append(number))
    bertft.compare(*models, texts, measures=["cka"], layers=[0, 1], tokenizer=tokenizer)
    # Each model is read once as a whole, on a few tokens.
    assert ran.count(2) == ran.count(3) == 2
    assert ran.count(1) > 2


def test_models_of_different_depth_have_layers_in_common(checkpoint, texts):
    pair = str(checkpoint("three")), str(checkpoint("two", num_hidden_layers=2))
    with pytest.raises(ValueError, match=r"must have the same depth, .* or layers that both have"):
        bertft.compare(*pair, texts)
    table = bertft.compare(*pair, texts, measures=["cka"], layers=[1, 2]).table
    assert list(table["finetuned_layer"]) == [1, 2]
    with pytest.raises(ValueError, match=r"among 0\.\.3 of .* and 0\.\.2 of .*, got 3; leave it"):
        bertft.compare(*pair, texts, layers=[1, 3])


def test_blocks_may_be_named_by_the_path_of_their_list(pair, texts):
    by_itself = bertft.compare(*pair, texts, measures=MEASURES).table
    for path in ("encoder.layer", "bert.encoder.layer"):
        named = bertft.compare(*pair, texts, measures=MEASURES, layers=path).table
        pd.testing.assert_frame_equal(by_itself, named)
    some = bertft.compare(*pair, texts, measures=MEASURES, layers="encoder.layer:2,0")
    kept = by_itself[by_itself["pretrained_layer"].isin([0, 2])].reset_index(drop=True)
    pd.testing.assert_frame_equal(some.table, kept)
    options = some.provenance["options"]
    assert (options["blocks"], options["layers"]) == ("encoder.layer", [0, 2])
    with pytest.raises(ValueError, match=r"path of a module list in a BertModel, got 'decoder"):
        bertft.compare(*pair, texts, layers="decoder.layers")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sites": "heads"}, r"sites must be among output, attention, mlp, got heads; pass"),
        ({"sites": None}, r"sites must be among output, attention, mlp, got None"),
        ({"sites": []}, r"sites must be among output, attention, mlp, got none"),
        ({"layers": [4]}, r"layers must be among 0\.\.3 of .*, got 4; leave it out"),
        ({"layers": [-1, 1]}, r"layers must be among 0\.\.3 of .*, got -1; leave it out"),
        ({"layers": []}, r"layers must be among 0\.\.3 of .*, got none"),
        (
            {"layers": [0, 1], "sites": "mlp"},
            r"layers must .* only output has a layer 0, got 0; leave it out",
        ),
    ],
)
def test_layers_and_sites_that_are_not_there_are_refused(pair, texts, options, told):
    with pytest.raises(ValueError, match=r"^\[compare\] " + told):
        bertft.compare(*pair, texts, **options)


def test_sites_that_blocks_lack_are_refused(make_model, tokenizer, texts):
    models = [make_model(seed=seed) for seed in (0, 1)]
    for block in models[1].encoder.layer:
        block.attention.output.dense = torch.nn.Identity()
    with pytest.raises(
        ValueError, match=r"sites must be ones that the blocks have, got 'attention'"
    ):
        bertft.compare(*models, texts, sites="attention", tokenizer=tokenizer)


def test_names_come_in_one_order():
    assert sites_asked("mlp, output,mlp") == ("output", "mlp")
    assert layers_asked(" 3, 0") == (None, (0, 3))
    assert layers_asked((5, 5, 1)) == (None, (1, 5))
    assert layers_asked("encoder.layer") == ("encoder.layer", None)
    assert layers_asked(None) == (None, None)
    assert layers_asked(2) == (None, (2,))
    assert layers_asked(np.int64(2)) == (None, (2,))
    assert layers_asked("encoder.layer:3, 0") == ("encoder.layer", (0, 3))


def test_layers_that_are_neither_numbers_nor_a_path_are_refused():
    for text in (
        "0-3",
        "-1",
        "0,x",
        "",
        "a b",
        "0:3",
        "encoder.layer:",
        "encoder.layer:x",
        "a.b,0",
    ):
        with pytest.raises(ValueError, match=rf"must be numbers, .*, got '{text}'; pass one of"):
            layers_asked(text)
    for layers in ([0.5], 0.5):
        with pytest.raises(TypeError, match=r"layers must be an integer, got 0\.5"):
            layers_asked(layers)


def test_sites_are_told_everywhere(pair, texts, tmp_path, capsys):
    path = tmp_path / "few.txt"
    path.write_text("\n".join(texts))
    out = tmp_path / "run"
    command = ["bertft", "compare", *pair, "--data", str(path), "--out", str(out)]
    command += ["--sites", "output,attention", "--layers", "1,3", "--measures", "cka,rsa"]
    before, sys.argv = sys.argv, command
    try:
        cli.app(standalone_mode=False)
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    assert "few (attention)" in printed.out
    assert "layers 1, 3 (output, attention), 4 pairs" in printed.err
    loaded = bertft.Comparison.load(out)
    assert loaded.facets == ["few", "few (attention)"]
    assert list(loaded.summary("few (attention)").index) == [1, 3]
    csv = pd.read_csv(out / "results.csv")
    assert list(csv["site"]) == ["output"] * 4 + ["attention"] * 4
    for name in ("figure.svg", "report.html"):
        assert "few (attention)" in (out / name).read_text()
    page = (out / "report.html").read_text()
    assert "attention: what the last projection of a block&#39;s self-attention returns." in page
    assert "mlp: " not in page
    assert {record["site"] for record in loaded.provenance["diagnostics"]} == {
        "output",
        "attention",
    }
    assert loaded.provenance["options"]["layers"] == [1, 3]
    difference = loaded.difference(loaded)
    assert list(difference["site"]) == ["output"] * 4 + ["attention"] * 4
    assert np.all(difference["value"] == 0)
