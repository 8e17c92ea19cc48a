"""All pairs of layers, groups and samples through `compare`: values, files, report, refusals."""

import gc
import json
import math
import re
import tempfile
import weakref
from itertools import pairwise

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import transformers
from scipy import stats

import bertft
from bertft import preparing, similarity
from bertft.blocks import Blocks
from bertft.budget import Need, available_memory, choose_storage
from bertft.gathering import RowSample, SpooledGroups, SummedGroups
from bertft.moments import Moments
from bertft.planning import Options, layer_pairs
from bertft.preparing import group_bounds
from bertft.report import heatmaps
from bertft.rows import Encoded, Rows
from bertft.streaming import stream
from tests.test_comparison import nudge, word_rows
from tests.test_report import Page, build, check_text
from tests.test_similarity import ORACLES

MEASURES = ["rsa", "cka", "cka_debiased", "procrustes", "regression", "pwcca_y"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """Two tiny checkpoints, the second with a changed block and the third deeper."""
    import transformers

    from tests.conftest import tiny_config

    folders = []
    for name, change, layers in (("base", None, 3), ("tuned", nudge(1), 3), ("deep", None, 4)):
        torch.manual_seed(0)
        model = transformers.BertModel(tiny_config("bert", num_hidden_layers=layers))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        if change is not None:
            change(model)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(str(folder))
    return folders


def by_pair(table, measure, column="value"):
    rows = table[table["measure"] == measure]
    return rows.pivot(index="pretrained_layer", columns="finetuned_layer", values=column)


def test_all_pairs_equal_their_oracles(models, tokenizer, texts):
    comparison = bertft.compare(*models[:2], texts, measures=MEASURES, pairs="all")
    assert len(comparison.table) == 16 * len(MEASURES)
    before, after = (word_rows(folder, tokenizer, texts) for folder in models[:2])
    for name in ("rsa", "cka", "cka_debiased", "procrustes"):
        found = by_pair(comparison.table, name)
        for a, x in enumerate(before):
            for b, y in enumerate(after):
                slack = 1e-3 if name == "procrustes" and found[b][a] < 0.01 else 2e-5
                assert found[b][a] == pytest.approx(ORACLES[name](x, y), abs=slack), (name, a, b)


def test_the_diagonal_of_all_pairs_is_the_same_numbered_layers(models, texts):
    everything = bertft.compare(*models[:2], texts, measures=MEASURES, pairs="all").table
    same = bertft.compare(*models[:2], texts, measures=MEASURES).table
    diagonal = everything[everything["pretrained_layer"] == everything["finetuned_layer"]]
    pd.testing.assert_frame_equal(
        diagonal.reset_index(drop=True), same, rtol=1e-6, atol=1e-9, check_exact=False
    )


def test_a_model_with_itself_and_models_of_different_depth(models, texts):
    itself = bertft.compare(models[0], models[0], texts, measures=["cka"], pairs="all")
    found = by_pair(itself.table, "cka").to_numpy()
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    np.testing.assert_allclose(np.diag(found), 1.0, atol=1e-9)
    deep = bertft.compare(models[0], models[2], texts, measures=["cka"], pairs="all")
    assert by_pair(deep.table, "cka").shape == (4, 5)
    assert len(deep.geometry.groupby(["role", "layer"])) == 9
    with pytest.raises(ValueError, match=r"same depth, got 3 .* and 4 .*; pass pairs='all'"):
        bertft.compare(models[0], models[2], texts, measures=["cka"])


def test_a_report_of_all_pairs_has_heat_maps(models, texts, tmp_path):
    comparison = bertft.compare(
        *models[:2], {"a": texts, "b": texts[:12]}, measures=["rsa", "l2"], pairs="all"
    )
    comparison.save(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "All pairs of layers" in page
    assert Page(page).count("svg") == 2
    assert "differently numbered" not in page
    assert (tmp_path / "run" / "heatmap.svg").exists()
    loaded = bertft.Comparison.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.table, comparison.table)
    pd.testing.assert_frame_equal(loaded.geometry, comparison.geometry)
    csv = pd.read_csv(tmp_path / "run" / "results.csv")
    assert len(csv) == 2 * 2 * 16


def heat_table(layers=5, corpora=("a",), measures=("rsa",)):
    tables = []
    for shift in range(layers):
        table = build(
            {corpus: dict.fromkeys(measures, [0.1 * shift] * layers) for corpus in corpora}
        )
        table["finetuned_layer"] = (table["pretrained_layer"] + shift) % layers
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_heat_maps_draw_the_values_of_their_pairs():
    table = heat_table()
    table.loc[table.index[3], "value"] = np.nan
    figure = heatmaps.heat_figure(table)
    mesh = figure.axes[0].collections[0]
    expected = by_pair(table, "rsa").to_numpy(float)
    drawn = np.ma.filled(mesh.get_array().reshape(expected.shape), np.nan)
    np.testing.assert_array_equal(drawn, expected)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.0, 1.0)
    assert len(figure.axes[0].collections) == 1
    table["note"] = ""
    table.loc[table.index[[3, 7]], "note"] = "inflated: unrelated rows give 0.5 on average"
    dots = heatmaps.heat_figure(table).axes[0].collections[1].get_offsets()
    at = table.iloc[[3, 7]][["finetuned_layer", "pretrained_layer"]].to_numpy(float)
    np.testing.assert_array_equal(dots, at)
    with pytest.raises(ValueError, match=r"\[heat_figure\] table must hold one row per"):
        heatmaps.heat_figure(pd.concat([table, table]))
    with pytest.raises(ValueError, match=r"\[heat_figure\] table must hold values, got no row"):
        heatmaps.heat_figure(table.iloc[:0])


@pytest.mark.parametrize("corpora", [("a",), ("a/LONG/PATH/TO/SOME/CORPUS.CONLLU", "b")])
@pytest.mark.parametrize("measures", [("rsa",), ("rsa", "cka", "procrustes_angle", "l2", "cca")])
@pytest.mark.parametrize("layers", [1, 13])
def test_heat_maps_keep_their_text_inside_and_apart(corpora, measures, layers):
    check_text(heatmaps.heat_figure(heat_table(layers, corpora, measures)))


def test_distances_are_bright_where_nothing_changed():
    near = [heatmaps._colors(name)(0.0 if name == "l2" else 1.0) for name in ("l2", "rsa")]
    assert near[0] == near[1]


@pytest.fixture(scope="module")
def jackknifed(models, request):
    texts = [f"{a} {b}" for a in request.getfixturevalue("many") for b in ("", "the cat sat .")]
    options = {"measures": ["rsa", "cka", "knn_overlap"], "intervals": "jackknife", "groups": 6}
    return texts, options, bertft.compare(*models[:2], texts, pairs="all", **options)


@pytest.fixture(scope="module")
def many():
    from tests.conftest import TEXTS

    return [f"{a} {b}" for a in TEXTS for b in TEXTS]


def test_intervals_leave_out_groups_of_sentences(models, tokenizer, jackknifed):
    texts, _, comparison = jackknifed
    bounds = comparison.provenance["corpora"][0]["group_bounds"]
    x, y = (word_rows(folder, tokenizer, texts)[2] for folder in models[:2])
    parts = [Moments.of(x[i:j], y[i:j]) for i, j in pairwise(bounds)]
    found = comparison.table.set_index(["measure", "pretrained_layer", "finetuned_layer"])
    for name in ("rsa", "cka"):
        row = found.loc[name, 2, 2]
        expected = similarity.jackknife(getattr(similarity, name), parts)
        assert row[["value", "low", "high"]].tolist() == pytest.approx(expected[:3], abs=2e-5)
        assert ("not centered on the truth" in row["note"]) == (name == "cka")
    assert comparison.table["low"].notna().all()
    assert (comparison.table["low"] <= comparison.table["value"]).all()
    assert comparison.geometry["low"].notna().all()


def test_intervals_of_geometry_keep_its_range(models, texts):
    model = transformers.BertModel.from_pretrained(models[1], add_pooling_layer=False)
    with torch.no_grad():  # an outlier dimension, which has nearly all of the variance
        model.encoder.layer[-1].output.LayerNorm.weight[0] *= 40
        model.encoder.layer[-1].output.LayerNorm.bias[0] += 200
    options = {"measures": ["rsa", "cka"], "intervals": "jackknife", "groups": 5, "limit": 20}
    before = transformers.BertModel.from_pretrained(models[0], add_pooling_layer=False)
    geometry = bertft.compare(before, model, texts, **options).geometry
    assert geometry["low"].notna().all()
    cut = 0
    for name, least, largest in (
        ("mean_norm", 0, math.inf),
        ("mean_cosine", -1, 1),
        ("participation_ratio", 1, 24),
        ("effective_rank", 1, 24),
        ("isoscore", 0, 1),
        ("top_share", 1 / 24, 1),
    ):
        rows = geometry[geometry["measure"] == name]
        assert (rows["low"] >= least).all(), name
        assert (rows["high"] <= largest).all(), name
        cut += ((rows["low"] == least) | (rows["high"] == largest)).sum()
    assert cut


def test_the_report_says_which_intervals_are_not_centered(jackknifed, tmp_path):
    page = jackknifed[2].write_report(tmp_path).read_text()
    assert "Intervals of cka, knn_overlap are about values that are biased at this n" in page
    assert re.search("Geometry: .* Intervals of participation_ratio.* not centered", page)


def test_spooled_rows_give_the_intervals_of_sums(models, jackknifed, monkeypatch, capsys):
    texts, options, expected = jackknifed
    assert not expected.provenance["options"]["memory_gib"]
    monkeypatch.setattr(
        "bertft.budget.Need.memory", lambda self, groups, storage: {"sums": 2**40}.get(storage, 0)
    )
    spooled = bertft.compare(*models[:2], texts, pairs="all", progress=True, **options)
    assert f"rows on disk in {tempfile.gettempdir()}\n" in capsys.readouterr().err
    pd.testing.assert_frame_equal(spooled.table, expected.table, rtol=1e-4, atol=2e-6)


def test_batches_do_not_change_groups_or_samples(models, jackknifed):
    texts, options, expected = jackknifed
    other = bertft.compare(*models[:2], texts, pairs="all", batch_size=3, **options)
    columns = ["value", "low", "high"]
    pd.testing.assert_frame_equal(
        other.table[columns], expected.table[columns], atol=2e-5, rtol=1e-3
    )


def test_differences_of_comparisons(models, jackknifed):
    texts, options, first = jackknifed
    second = bertft.compare(models[0], models[0], texts, pairs="all", **options)
    found = first.difference(second)
    assert found["is_paired"].all()
    assert len(found) == len(first.table)
    keys = ["pretrained_layer", "finetuned_layer", "measure"]
    joined = found.merge(first.table, on=keys, suffixes=("", "_a")).merge(
        second.table, on=keys, suffixes=("", "_b")
    )
    np.testing.assert_allclose(joined["value"], joined["value_a"] - joined["value_b"], atol=1e-12)
    nothing = first.difference(first)
    assert (nothing[["value", "low", "high"]].abs() < 1e-12).all(axis=None)
    # What both have in common is left out of both, and drops out of the difference.
    wider = (joined["high_a"] - joined["low_a"]) + (joined["high_b"] - joined["low_b"])
    assert (found["high"] - found["low"] <= wider + 1e-9).all()


def test_differences_of_unequal_n_say_so(models, many):
    options = {"measures": ["rsa", "procrustes"]}
    both = bertft.compare(*models[:2], {"a": many, "b": many[: len(many) // 2]}, **options)
    found = both.difference(both, corpus="a", other_corpus="b")
    assert (found["n"] > found["other_n"]).all()
    told = found.set_index("measure")["note"]
    assert (told["rsa"] == "").all()
    assert told["procrustes"].str.startswith("biased values of unequal n").all()


def test_differences_of_unequal_ridges_say_so(models, texts):
    first, second, third = (
        bertft.compare(*models[:2], texts, measures=["rsa", "cca"], ridge=ridge)
        for ridge in (0.1, 0.1, 1.0)
    )
    told = first.difference(second).set_index("measure")["note"]
    assert (told["rsa"] == "").all()
    assert not told["cca"].str.contains("unequal|here:").any()
    assert told["cca"].str.contains("with this ridge an unchanged layer gives 0").all()
    told = first.difference(third).set_index("measure")["note"]
    assert (told["rsa"] == "").all()
    assert told["cca"].str.match(r"unequal ridges: an unchanged layer gives 0\.\d+ here").all()
    assert told["cca"].str.contains(r"here: .*; there: .*an unchanged layer gives").all()


def test_small_samples_of_rows_leave_values_out_with_a_reason(models, many):
    texts = many[:8]
    options = {"intervals": "jackknife", "groups": 5, "sample": 14}
    found = bertft.compare(
        *models[:2], texts, measures=["rsa", "knn_overlap", "rsa_spearman"], **options
    ).table
    assert found["low"][found["measure"] == "rsa"].notna().all()
    few = found[found["measure"] == "knn_overlap"]
    assert few["low"].isna().all()
    assert few["note"].str.contains("no interval: no value without a group").all()


def test_intervals_that_there_cannot_be_have_a_reason(models, texts):
    options = {"measures": ["cca", "rsa"], "intervals": "jackknife", "groups": 5, "limit": 27}
    found = bertft.compare(*models[:2], texts, **options)
    table = found.table.set_index("measure")
    assert table["value"].notna().all()
    assert table["low"]["rsa"].notna().all()
    assert table["low"]["cca"].isna().all()
    reason = (
        r"no interval: no value without a group, \d of 5 times, the first since \[cca\] rows must"
    )
    assert table["note"]["cca"].str.contains(reason).all()
    [note] = [note for note in found.provenance["notes"] if "no intervals" in note]
    assert re.search(
        r"no intervals of cca: without the largest group 2\d rows are left for 24", note
    )


def test_a_layer_beyond_the_range_of_sums_is_missing_with_its_reason(models, texts, tmp_path):
    model = transformers.BertModel.from_pretrained(models[1], add_pooling_layer=False)
    with torch.no_grad():
        model.encoder.layer[-1].output.LayerNorm.weight.mul_(1e25)
    before = transformers.BertModel.from_pretrained(models[0], add_pooling_layer=False)
    options = {"intervals": "jackknife", "groups": 5}
    found = bertft.compare(before, model, texts, **options)
    top = found.table[found.table["finetuned_layer"] == 3].set_index("measure")
    assert top["value"].drop(["rsa", "cosine", "l2"]).isna().all()
    assert top["note"].drop(["rsa", "cosine", "l2"]).str.contains("sums must be finite, got").all()
    assert top["value"][["rsa", "cosine"]].notna().all()
    rest = found.table[found.table["finetuned_layer"] < 3]
    assert rest["value"].notna().all()
    geometry = found.geometry.set_index(["role", "layer"])
    assert geometry["note"]["finetuned", 3].str.contains("sums must be finite").any()
    assert not geometry["note"]["finetuned", 2].str.contains("finite", na=True).any()
    json.dumps(found.provenance)
    found.save(tmp_path / "run")


@pytest.mark.parametrize(
    ("measure", "described"),
    [("rsa", {"mean_norm", "mean_cosine"}), ("cka", set(similarity.GEOMETRY) - {"mean_cosine"})],
)
def test_every_measure_alone_carries_what_it_stands_on(models, texts, measure, described):
    found = bertft.compare(*models[:2], texts, measures=[measure])
    carried = [
        f"{quantity}_{role}"
        for quantity in ("rank", "condition", "left_out")
        for role in ("pretrained", "finetuned")
    ]
    assert found.table[["n", "n_per_d", "chance", *carried]].notna().all(axis=None)
    assert set(found.geometry["measure"]) == described
    assert found.geometry["value"].notna().all()


def test_differences_keep_reasons_and_pair_equal_samples_only(models, many):
    options = {"measures": ["rsa", "knn_overlap"], "intervals": "jackknife", "groups": 5}
    first, second = (
        bertft.compare(*models[:2], many, sample=sample, **options) for sample in (200, 300)
    )
    paired = first.difference(second).groupby("measure")["is_paired"].agg(["min", "max"])
    assert paired.loc["rsa"].all()
    assert not paired.loc["knn_overlap"].any()
    assert first.difference(first)["is_paired"].all()
    first.table.loc[0, ["value", "low", "high", "note"]] = [np.nan, np.nan, np.nan, "collapsed"]
    found = first.difference(second)
    assert found["note"][0] == "here: collapsed"
    assert found["value"].isna().sum() == 1


def test_differences_between_corpora_are_unpaired(models, many):
    options = {"measures": ["rsa"], "intervals": "jackknife", "groups": 5}
    both = bertft.compare(*models[:2], {"a": many, "b": many[::-1]}, **options)
    found = both.difference(both, corpus="a", other_corpus="b")
    assert not found["is_paired"].any()
    a, b = (both.table[both.table["corpus"] == name] for name in "ab")
    halves = [(t["high"] - t["low"]).to_numpy() / 2 for t in (a, b)]
    width = ((found["high"] - found["low"]) / 2).to_numpy()
    errors = [half / stats.t.ppf(0.975, 4) for half in halves]
    freedom = 4 * (errors[0] ** 2 + errors[1] ** 2) ** 2 / (errors[0] ** 4 + errors[1] ** 4)
    expected = np.hypot(*errors) * stats.t.ppf(0.975, freedom)
    np.testing.assert_allclose(width[2:], expected[2:], rtol=1e-9)
    without = bertft.compare(*models[:2], {"a": many}, measures=["rsa"])
    assert without.difference(both, corpus="a")["low"].isna().all()
    with pytest.raises(ValueError, match=r"\[difference\] corpus and other_corpus must be among"):
        both.difference(without, other_corpus="c")
    other = bertft.compare(*models[:2], {"a": many}, measures=["cka"])
    with pytest.raises(ValueError, match=r"\[difference\] comparisons must have pairs"):
        without.difference(other)


def test_replicates_are_saved_and_differences_read_them(models, jackknifed, tmp_path):
    _, _, first = jackknifed
    first.save(tmp_path / "run")
    loaded = bertft.Comparison.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.difference(first), first.difference(first))
    (tmp_path / "run" / "replicates.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="files of a run must be whole"):
        bertft.Comparison.load(tmp_path / "run")


def test_p_values_tell_related_layers(models, texts, tmp_path):
    comparison = bertft.compare(
        *models[:2], texts, measures=["rsa", "cka", "l2"], permutations=99, sample=60
    )
    table = comparison.table
    tested = table["measure"] != "l2"
    assert (table[tested]["p_value"] == 0.01).all()
    assert (table[tested]["p_value_n"] == 60).all()
    assert table[~tested][["p_value", "p_value_n"]].isna().all(axis=None)
    page = comparison.write_report(tmp_path).read_text()
    assert "at least this value, on 60 rows" in page
    assert page.count("<td>0.0100</td>") == 8


@pytest.mark.parametrize("ridge", ["ledoit-wolf", 0.1, 1e-9])
def test_a_ridge_lifts_n_above_d_and_says_what_chance_gives(models, texts, ridge, tmp_path):
    comparison = bertft.compare(
        *models[:2], texts, measures=["cca", "regression"], limit=20, ridge=ridge
    )
    table = comparison.table
    assert table["value"].between(0.01, 0.999999).all() or ridge == 1e-9
    assert table["note"].str.contains("inflated: unrelated rows give").all()
    assert table["chance"].between(0.75 if ridge == 1e-9 else 0.25, 1.0).all()
    # The embeddings are the same in both models.
    same = table[table["pretrained_layer"] == 0]
    np.testing.assert_allclose(same["value"], same["unchanged"], atol=1e-6)
    page = comparison.write_report(tmp_path).read_text()
    assert page.count("<small>inflated</small>") == 8
    if ridge != 1e-9:
        assert table["note"].str.contains("with this ridge an unchanged layer gives 0").all()
        assert "would give with this ridge" in page
        assert re.search(r"cca is 0\.\d{4} there \(0\.\d{4} = unchanged\)", page)
        assert "with a ridge they lie on a dotted line" in page
    assert "(1 = unchanged)" not in page.split("<svg")[0]
    assert comparison.provenance["options"]["ridge"] == ridge
    json.dumps(comparison.provenance)


def test_an_inflated_cca_says_so(models, texts, tmp_path):
    comparison = bertft.compare(*models[:2], texts, measures=["cca", "rsa"], limit=60)
    table = comparison.table.set_index("measure")
    assert (table["note"]["cca"].str.contains(r"inflated: unrelated rows give 0\.\d{3}")).all()
    assert (table["note"]["rsa"] == "").all()
    expected = similarity.chance_correlation(60, 23, 23)
    assert table["chance"]["cca"].iloc[1] == pytest.approx(expected)
    comparison.save(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<small>inflated</small>" in page
    assert "inflated, since unrelated rows, as many and as varied, would give" in page
    assert f"<td>{expected:.4f}</td>" in page
    many_rows = bertft.compare(*models[:2], texts * 30, measures=["cca"])
    assert (many_rows.table["note"] == "").all()


def test_every_row_carries_what_it_stands_on(models, texts):
    table = bertft.compare(*models[:2], texts, measures=["cca", "svcca", "rsa"]).table
    assert table["n_per_d"].to_numpy() == pytest.approx((table["n"] / 24).to_numpy())
    inverted = table[table["measure"] == "cca"]
    assert inverted["rank_pretrained"].tolist() == [23, 23, 23, 23]
    assert (inverted["condition_finetuned"] > 1).all()
    leading = table[table["measure"] == "svcca"]
    assert (leading["rank_pretrained"] < 23).any()
    assert leading["left_out_pretrained"].between(0, 0.01).all()


def test_negative_debiased_hsic_is_missing_with_its_reason(models, texts, monkeypatch):
    hsic = similarity.alignment._hsic

    def negative(two, a, b):
        return [-1e-9] if a == b == "finetuned.2" else hsic(two, a, b)

    monkeypatch.setattr(similarity.alignment, "_hsic", negative)
    comparison = bertft.compare(*models[:2], texts, measures=["cka_debiased", "cka"])
    debiased = comparison.table[comparison.table["measure"] == "cka_debiased"]
    assert debiased["value"].isna().tolist() == [False, False, True, False]
    reason = "must be enough for a positive debiased HSIC of each side, got .* and -1e-09"
    assert re.search(reason, debiased["note"].iloc[2])
    assert re.search("1 of 4 values of cka_debiased are missing", comparison.provenance["notes"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "some"}, r"pairs must be one of \('same', 'all'\), got 'some'"),
        ({"intervals": "bootstrap"}, "intervals must be 'jackknife' or None, got 'bootstrap'"),
        ({"intervals": "jackknife", "groups": 4}, "groups must be at least 5, got 4"),
        ({"intervals": "jackknife", "groups": 26}, "groups must each have texts of their own"),
        ({"ridge": -1.0}, "ridge must be positive or 'ledoit-wolf', got -1.0"),
        ({"ridge": "best"}, "ridge must be positive or 'ledoit-wolf', got 'best'"),
        ({"sample": 3}, "sample must be at least 4, got 3"),
        ({"permutations": -1}, "permutations must be at least 0, got -1"),
        ({"memory_gib": 0.0}, "memory_gib must be positive and finite, got 0.0"),
        ({"memory_gib": math.inf}, "memory_gib must be positive and finite, got inf"),
        ({"ridge": True}, "ridge must be positive or 'ledoit-wolf', got True"),
        (
            {"measures": ["cka_rbf"], "memory_gib": 0.002},
            "must fit in 0.0 GiB of memory, got .*a smaller sample",
        ),
        ({"memory_gib": 1e-4}, "must fit in 0.0 GiB of memory, got .*; pass fewer measures"),
        (
            {"memory_gib": 1e-4, "pairs": "all", "measures": ["rsa"]},
            "got 0.. GiB; pass pairs='same', or more memory_gib",
        ),
        (
            {"memory_gib": 1e-4, "measures": ["rsa"], "intervals": "jackknife", "groups": 5},
            "GiB of memory, got 0.. GiB; pass no intervals, or more memory_gib",
        ),
        (
            {"measures": ["rsa", "svcca"], "ridge": 0.1},
            "ridge must be of one of cca, .*regression_y, got measures rsa, svcca; add one, or",
        ),
        (
            {"measures": ["knn_overlap"], "limit": 9},
            "knn_overlap need a sample of 12 rows, got 9 of n=9 on .*; pass more text or a larger",
        ),
        (
            {"measures": ["knn_overlap"], "sample": 9},
            "knn_overlap need a sample of 12 rows, got 9 of n=490 on .*; pass a larger sample",
        ),
        (
            {"measures": ["cca", "l2"], "permutations": 9},
            "permutations must be of rsa or cka, got measures cca, l2; add one",
        ),
    ],
)
def test_refusals_before_the_pass(models, texts, options, message, monkeypatch):
    monkeypatch.setattr("bertft.comparison.stream", lambda *_: pytest.fail("the pass began"))
    with pytest.raises(ValueError, match=message):
        bertft.compare(*models[:2], texts, **options)


@pytest.mark.parametrize("name", ["groups", "sample", "limit", "permutations", "batch_size"])
def test_counts_must_be_whole(models, texts, name):
    with pytest.raises(TypeError, match=rf"\[compare\] {name} must be an integer, got 7.5"):
        bertft.compare(*models[:2], texts, intervals="jackknife", **{name: 7.5})


def test_a_sample_carries_its_own_ranks_and_a_p_value_its_reason(models, texts):
    table = bertft.compare(
        *models[:2], texts, measures=["rsa", "knn_overlap"], sample=12, permutations=9
    ).table.set_index("measure")
    assert (table.loc["knn_overlap", "rank_pretrained"] <= 11).all()
    few = bertft.compare(*models[:2], texts, measures=["rsa"], limit=3, permutations=9).table
    assert few["p_value"].isna().all()
    assert few["p_value_n"].isna().all()
    assert few["note"].str.contains("no p-value: .* at least 4, got 3").all()


def test_all_that_is_solved_has_a_bar(models, texts, monkeypatch):
    done = {}

    def advance(bar, amount):
        before, _ = done.get(bar._title, (0, 0))
        done[bar._title] = before + amount, bar._total

    monkeypatch.setattr("bertft.progress.Bar.advance", advance)
    measures = ["rsa", "knn_overlap", "cka_rbf"]
    given = {"measures": measures, "pairs": "all", "intervals": "jackknife", "groups": 5}
    table = bertft.compare(*models[:2], texts, permutations=9, **given).table
    pairs = len(table) // len(measures)
    assert {
        title.partition(": ")[2]: counts for title, counts in done.items() if ": " in title
    } == {
        "solving": (6 * pairs, 6 * pairs),
        "comparing the sample": (12 * pairs, 12 * pairs),
        "permutations": (pairs, pairs),
    }


def test_storage_follows_memory_and_disk(monkeypatch):
    small, large = Need(100, 7, 3, 10, 5, 1000, 0), Need(100, 7, 3, 50, 5, 1000, 0)
    assert choose_storage(small, large, None, 115, "a", "less") is None
    assert choose_storage(small, large, 20, 2212, "a", "less") == "sums"
    assert choose_storage(small, large, 20, 2211, "a", "less") == "rows"
    with pytest.raises(ValueError, match=r"statistics of 'a' must fit .*; pass less"):
        choose_storage(small, large, 20, 304, "a", "less")
    monkeypatch.setattr("bertft.budget.tempfile.gettempdir", lambda: pytest.fail("no rows on disk"))
    assert choose_storage(small, large, None, 122, "a", "less") is None
    monkeypatch.undo()
    usage = type("Usage", (), {"free": 999})
    monkeypatch.setattr("bertft.budget.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"rows of 'a' must fit on disk for 20 groups, .*TMPDIR"):
        choose_storage(small, large, 20, 500, "a", "less")
    assert available_memory() > 2**20


def test_fewer_pairs_are_solved_at_once_where_memory_is_short():
    need = Need(sums=100, solving=107, pair=3, block=10, sample=5, rows=1000, sampling=0)
    assert need.memory(20, "rows") == 312
    at_once = [need.pairs_at_once(20, "rows", memory) for memory in (312, 314, 315, 342)]
    assert at_once == [1, 1, 2, 11]


def test_a_corpus_fits_beside_the_sums_of_all():
    need = Need(sums=100, solving=7, pair=3, block=10, sample=5, rows=1000, sampling=0, corpora=3)
    assert need.memory(None, None) == 315
    assert need.memory(20, "sums") == 2412


def test_more_corpora_than_fit_are_refused(models, texts):
    options = {"measures": ["rsa"], "memory_gib": 1e-3}
    one = bertft.compare(*models[:2], {"a": texts}, **options)
    assert one.table["value"].notna().all()
    with pytest.raises(ValueError, match=r"got 0.0 GiB; pass a corpus at a time, or more memory"):
        bertft.compare(*models[:2], {str(number): texts for number in range(50)}, **options)


def test_what_is_gathered_of_a_corpus_goes_before_the_next_pass(models, texts, monkeypatch):
    kept = []

    def streaming(*arguments):
        assert [of() for of in kept] == [None] * len(kept)
        found = stream(*arguments)
        kept.extend(map(weakref.ref, (found[0].groups, found[0].sample)))
        return found

    monkeypatch.setattr("bertft.comparison.stream", streaming)
    data = {"a": texts, "b": texts, "c": texts[:12]}
    options = {"intervals": "jackknife", "groups": 5, "measures": ["rsa", "knn_overlap"]}
    gc.disable()  # memory must not wait for the collector
    try:
        found = bertft.compare(*models[:2], data, **options)
    finally:
        gc.enable()
    assert len(kept) == 6
    alone = bertft.compare(*models[:2], {"c": texts[:12]}, **options)
    table = found.table[found.table["corpus"] == "c"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, alone.table)
    assert list(found.moments) == list(data)


def needs_of_bert_base(options):
    """What a pass over 20,000 rows takes, for all default measures and those of a sample."""
    encoder = type("Encoder", (), {"dtype": torch.float32})
    after = (frozenset[str](),) * 13
    blocks = Blocks((torch.nn.Identity(),) * 12, (768,) * 13, None, None, {}, after, False)
    side = type("Side", (), {"encoder": encoder, "blocks": blocks, "name": "bert-base"})
    sides = {"pretrained": side, "finetuned": side}
    default = [name for name, measure in similarity.MEASURES.items() if measure.default]
    pairs, sampled = layer_pairs(sides, options), list(similarity.SAMPLED)
    return preparing._needs(sides, pairs, default, sampled, 20_000, options, torch.device("cpu"))


@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("pairs", ["same", "all"])
def test_bert_base_with_20_groups_fits_in_8_gib(pairs, threads, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    options = Options(pairs=pairs, groups=20)
    need = needs_of_bert_base(options)
    models = 2 * 110e6 * 4
    storage, at_once = preparing._storage(need, options, "a", int(8 * 2**30 - models), "less")
    assert storage == "rows"
    assert 1 <= at_once <= 4 * threads


def test_memory_is_for_the_layers_that_are_compared():
    whole, few = (needs_of_bert_base(Options(layers=layers))["rows"] for layers in (None, (0, 12)))
    for part in ("sums", "block", "sample", "rows"):
        assert getattr(few, part) == pytest.approx(getattr(whole, part) * 2 / 13)


@pytest.mark.parametrize("kind", ["summed", "spooled"])
def test_groups_are_the_moments_of_their_rows(kind):
    x, y = torch.randn(90, 5), torch.randn(90, 4)
    bounds = [0, 17, 30, 90]
    template = Moments({"x": 5, "y": 4}, [("x", "y")])
    groups = (
        SummedGroups(template, bounds, None)
        if kind == "summed"
        else SpooledGroups(template, bounds, torch.float32, None)
    )
    for numbers in torch.randperm(90).split(13):
        groups.add({"x": x[numbers], "y": y[numbers]}, numbers)
    assert groups.sizes == [17, 13, 60]
    for _ in range(2):
        for part, (i, j) in zip(groups, [(0, 17), (17, 30), (30, 90)], strict=True):
            assert part.n == j - i
            scatter = part.under("raw").scatter("x", "y")
            expected = Moments.of(x[i:j], y[i:j]).under("raw").scatter("x", "y")
            torch.testing.assert_close(scatter, expected, rtol=1e-5, atol=1e-5)


def test_rows_on_disk_do_not_stay_in_memory():
    process = psutil.Process()
    groups = SpooledGroups(Moments({"x": 256}, []), [0, 8192, 16384], torch.float32, None)
    before = process.memory_info().shared
    for numbers in torch.arange(16384).split(4096):
        groups.add({"x": torch.randn(len(numbers), 256)}, numbers)
    assert process.memory_info().shared < before + 2**21  # of 2^24 bytes
    for _ in groups:
        assert process.memory_info().shared < before + 2**21


def test_a_spool_without_room_is_refused(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertft.gathering.os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"must have room for .* rows of a layer, got none left"):
        SpooledGroups(Moments({"x": 5}, []), [0, 9], torch.float32, None)
    monkeypatch.setattr(
        "bertft.gathering.os.posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O"))
    )
    with pytest.raises(OSError, match="I/O"):
        SpooledGroups(Moments({"x": 5}, []), [0, 9], torch.float32, None)


def test_a_sample_is_uniform_and_keeps_its_rows():
    counts = np.zeros(40)
    for seed in range(600):
        sample = RowSample({"x": 1}, 40, 10, seed, torch.float32)
        for numbers in torch.randperm(40).split(7):
            sample.add({"x": numbers[:, None].float()}, numbers)
        assert torch.equal(sample.rows["x"][:, 0].long(), sample.numbers)
        counts[sample.numbers] += 1
        assert sample.sizes([0, 11, 40]) == [
            int((sample.numbers < 11).sum()),
            int((sample.numbers >= 11).sum()),
        ]
    assert np.square(counts - 150).sum() / 150 < 1.6 * 40


def test_group_bounds_cut_between_texts():
    none = np.zeros(0, np.int32)
    lengths = [3, 1, 4, 1, 5, 9, 2, 6]
    firsts = np.cumsum([0, *lengths[:-1]]).tolist()
    rows = Rows(
        [
            Encoded(none, np.zeros(n, np.int32), none, first)
            for n, first in zip(lengths, firsts, strict=True)
        ]
    )
    bounds = group_bounds(rows, 3, "a")
    assert bounds[0] == 0
    assert bounds[-1] == sum(lengths)
    assert set(bounds[:-1]) <= set(firsts)
    with pytest.raises(
        ValueError, match=r"groups must each have texts .* got 8 groups and 8 texts"
    ):
        group_bounds(rows, 8, "a")


def test_options_of_the_command_line(models, texts, tmp_path):
    from typer.testing import CliRunner

    from bertft.cli import app

    data = tmp_path / "texts.txt"
    data.write_text("\n".join(texts))
    arguments = ["compare", *models[:2], "--data", str(data), "--out", str(tmp_path / "run")]
    arguments += ["--pairs", "all", "--intervals", "jackknife", "--groups", "5"]
    arguments += ["--measures", "cca,rsa,knn_overlap", "--ridge", "0.1", "--sample", "50"]
    done = CliRunner().invoke(app, [*arguments, "--permutations", "9", "--memory", "4"])
    assert done.exit_code == 0, done.output
    loaded = bertft.Comparison.load(tmp_path / "run")
    of_cca = loaded.table[loaded.table["measure"] == "cca"]
    same = of_cca[of_cca["pretrained_layer"] == of_cca["finetuned_layer"]]
    for value, note in zip(same["value"], same["note"], strict=True):
        assert f"{value:.4f}{'*' if 'inflated' in note else ' '}" in done.output
    assert ("* inflated" in done.output) == same["note"].str.contains("inflated").any()
    options = loaded.provenance["options"]
    assert options["ridge"] == 0.1
    assert (options["groups"], options["sample"], options["memory_gib"]) == (5, 50, 4.0)
    assert Options(**{k: options[k] for k in ("pairs", "permutations")}).permutations == 9
    assert (loaded.table[loaded.table["measure"] == "knn_overlap"]["n"] == 50).all()
    assert re.search("heatmap", " ".join(path.name for path in (tmp_path / "run").iterdir()))
