"""The report of probes: its table is plain statistics, and figure and page say what is in it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bertft.report.figures import svg_text
from bertft.report.probing import probe_figure, render_probes, summarize
from bertft.report.probing_figure import marks
from bertft.report.probing_table import COLUMNS, DIFFERENCES, SUMMARY
from bertft.report.probing_vocabulary import METRICS, RANDOMIZED, labels_of
from tests.test_report import HOSTILE, Page, check_text

HARMFUL = '<b>&"x'
MODELS = ("hub/bert", "runs/dep", "runs/mnli", RANDOMIZED)


def build(cells, model="bert", task="pos", metric="micro_f1", probe="edge", width=None):
    """A table from {layer: a value per seed}, with intervals of this width."""
    rows = []
    for layer, values in cells.items():
        for seed, value in enumerate(values):
            ends = (np.nan, np.nan) if width is None else (value - width / 2, value + width / 2)
            rows.append((model, task, probe, str(layer), seed, metric, value, *ends, 25094))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def grid(
    tasks=("pos", "arcs", "own"),
    models=MODELS,
    layers=range(13),
    mixed=("mix", "lexical"),
    seeds=3,
    metrics=("micro_f1", "accuracy"),
    probes=("edge",),
):
    """Scores that rise over the layers, less for later models, with noise over seeds."""
    noise, parts = np.random.default_rng(0), []
    for t, task in enumerate(tasks):
        for probe in probes:
            for m, model in enumerate(models):
                for metric in metrics:
                    at = {str(layer): layer / (max(layers) or 1) for layer in layers}
                    at |= {layer: 0.0 if layer == "lexical" else 1.0 for layer in mixed}
                    cells = {
                        layer: 0.7 - 0.05 * t + 0.2 * x - 0.02 * m + noise.normal(0, 0.002, seeds)
                        for layer, x in at.items()
                    }
                    parts.append(build(cells, model, task, metric, probe, width=0.01))
    return pd.concat(parts, ignore_index=True)


def trees(models=("hub/bert", "runs/dep", RANDOMIZED)):
    """Scores of structural probes, with the chain beside the first model."""
    parts = []
    for probe, metrics in (("distance", ("uuas", "dspr")), ("depth", ("root_accuracy", "nspr"))):
        for m, model in enumerate(models):
            for place, metric in enumerate(metrics):
                cells = {str(layer): [0.5 + 0.1 * layer - 0.2 * m] for layer in range(3)}
                cells |= {"lexical": [0.5 - 0.2 * m]} | ({} if m else {"chain": [0.25]})
                cells = {
                    layer: [value - 0.05 * place for value in own] for layer, own in cells.items()
                }
                parts.append(build(cells, model, "structural", metric, probe, width=0.01))
    return pd.concat(parts, ignore_index=True)


def paired(table):
    """Differences of means against the first model, with a width of 0.004."""
    keys, base = ["task", "probe", "layer", "metric"], table["model"].iloc[0]
    means = table.groupby(["model", *keys], sort=False)["value"].mean().reset_index()
    of_base = means[means["model"] == base].set_index(keys)["value"]
    rows = means[means["model"] != base].join(of_base.rename("of_base"), on=keys)
    value = rows["value"] - rows["of_base"]
    rows = rows.assign(base=base, value=value, low=value - 0.002, high=value + 0.002)
    return rows.assign(n_seeds=3, n=25094)[list(DIFFERENCES)]


def page_of(table, provenance=None, differences=None):
    return render_probes(table, provenance or {}, differences, svg_text(probe_figure(table)))


def cells_of(page, heading):
    """The rows of the first table below a heading, as lists of text."""
    table = page[page.index(f"{heading}</h") :].split("</table>")[0]
    rows = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", table, flags=re.DOTALL)
    return [
        re.findall(
            r"<t[hd][^>]*>(.*?)</t[hd]>", row.replace("<small>", " ").replace("</small>", "")
        )
        for row in rows
    ]


def panels(figure):
    return [ax for ax in figure.axes if ax.axison]


def legend(figure):
    (frame,) = [ax for ax in figure.axes if not ax.axison]
    return [text.get_text() for text in frame.texts]


def lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label and len(line.get_xdata())]


def test_means_differences_and_controls_by_hand():
    table = pd.concat(
        [
            build({"mix": [0.96, 0.97], "lexical": [0.88, 0.88]}),
            build({"mix": [0.95, 0.97]}, model="tuned"),
            build({"mix": [0.80, 0.80]}, model=RANDOMIZED),
        ]
    )
    summary = summarize(table)
    assert list(summary.columns) == list(SUMMARY)
    shown = summary[["role", "model", "layer", "seeds"]].itertuples(index=False, name=None)
    assert list(shown) == [
        ("base", "bert", "mix", 2),
        ("finetuned", "tuned", "mix", 2),
        ("lexical", "bert", "lexical", 2),
        ("randomized", RANDOMIZED, "mix", 2),
    ]
    np.testing.assert_allclose(summary["mean"], [0.965, 0.96, 0.88, 0.80])
    np.testing.assert_allclose(summary["difference"], [0, -0.005, -0.085, -0.165], atol=1e-12)
    np.testing.assert_allclose(summary["seeds_low"], [0.96, 0.95, 0.88, 0.80])
    np.testing.assert_allclose(summary["seeds_high"], [0.97, 0.97, 0.88, 0.80])
    assert summary[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)


@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_intervals_over_seeds_are_those_of_student(seeds):
    values = np.random.default_rng(seeds).normal(0.8, 0.02, seeds)
    (row,) = summarize(build({"mix": values}, width=0.01)).to_dict("records")
    low, high = scipy.stats.t.interval(
        0.95, seeds - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    np.testing.assert_allclose([row["seeds_low"], row["seeds_high"]], [low, high], rtol=1e-12)
    np.testing.assert_allclose(
        [row["low"], row["high"]], values.mean() + np.array([-0.005, 0.005]), rtol=1e-12
    )


def test_one_seed_has_the_interval_over_sentences_only():
    summary = summarize(grid(seeds=1))
    assert set(summary["seeds"]) == {1}
    assert summary[["seeds_low", "seeds_high"]].isna().all(axis=None)
    assert summary[["mean", "low", "high", "difference"]].notna().all(axis=None)


def test_without_a_mixture_all_models_are_read_where_the_base_is_best():
    table = pd.concat(
        [
            build({"0": [0.7], "1": [0.9], "2": [np.nan], "10": [0.9]}),
            build({"0": [0.7], "1": [0.8], "10": [0.95]}, model="tuned"),
            build({"0": [0.7]}, model="short"),
        ]
    )
    summary = summarize(table)
    shown = summary[["role", "model", "layer", "mean"]].itertuples(index=False, name=None)
    assert list(shown) == [
        ("base", "bert", "1", 0.9),
        ("finetuned", "tuned", "1", 0.8),
        ("lexical", "bert", "0", 0.7),
    ]


@pytest.mark.parametrize(
    ("layers", "read"),
    [(["mix"], ["mix"]), (["cumulative-3"], ["cumulative-3"]), (["lexical"], ["lexical"] * 2)],
)
def test_without_single_layers_there_is_a_summary_still(layers, read):
    table = build({layer: [0.9] for layer in layers})
    assert list(summarize(table)["layer"]) == read
    assert page_of(table)


def test_a_task_that_the_base_lacks_has_no_difference():
    table = pd.concat([grid(tasks=["pos"]), build({"mix": [0.8]}, model="runs/dep", task="srl")])
    (row,) = summarize(table)[lambda t: t["task"] == "srl"].to_dict("records")
    assert (row["role"], row["mean"]) == ("finetuned", 0.8)
    assert np.isnan(row["difference"])
    assert page_of(table)


def test_a_cell_in_which_a_seed_has_no_value_has_none():
    table = build({"mix": [0.9, np.nan], "lexical": [0.8, 0.8]}, width=0.01)
    mixed, lexical = summarize(table).to_dict("records")
    assert mixed["seeds"] == 2
    assert np.isnan([mixed[k] for k in ("mean", "low", "high", "seeds_low", "seeds_high")]).all()
    assert lexical["mean"] == 0.8
    assert cells_of(page_of(table), "Scores") == [
        ["POS", "micro-F1", "25,094", "—", "80.00 [79.50, 80.50]"]
    ]


def test_paired_differences_stand_where_there_are_some():
    table = grid(tasks=["pos"], metrics=["micro_f1"])
    known = paired(table)
    known.loc[known["layer"] == "mix", ["value", "low", "high"]] = [-0.01, -0.02, 0.001]
    summary = summarize(table, known).set_index("role")
    ends = ["difference", "difference_low", "difference_high"]
    np.testing.assert_array_equal(
        summary.loc[["finetuned", "randomized"], ends], [[-0.01, -0.02, 0.001]] * 3
    )
    assert summary.loc[["base", "lexical"], ends[1:]].isna().all(axis=None)
    other = summarize(table, known.assign(base="another"))
    pd.testing.assert_frame_equal(other, summarize(table, known.iloc[:0]))


def test_the_order_is_that_of_the_table_with_controls_last():
    table = grid(tasks=["srl", "pos"], models=("b", RANDOMIZED, "z", "a"))
    table = table.iloc[::-1].sort_values("model", key=lambda m: m != "b", kind="stable")
    summary = summarize(table)
    assert list(dict.fromkeys(summary["task"])) == ["pos", "srl"]
    assert list(dict.fromkeys(summary["metric"])) == ["micro_f1", "accuracy"]
    of = summary[(summary["task"] == "pos") & (summary["metric"] == "micro_f1")]
    assert list(of["model"]) == ["b", "a", "z", "b", RANDOMIZED]
    rows = cells_of(page_of(table), "POS")
    assert [row[0] for row in rows] == [*map(str, range(13)), "mix", "lexical"]


def test_the_table_is_not_changed():
    table = grid()
    known = paired(table)
    before = table.copy(), known.copy()
    page_of(table, differences=known)
    pd.testing.assert_frame_equal(table, before[0])
    pd.testing.assert_frame_equal(known, before[1])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda t: t.drop(columns="layer"), "have the columns .* got none named layer; pass"),
        (lambda t: t.iloc[:0], r"hold a score \(micro_f1 or accuracy or .*\), got no row; run"),
        (lambda t: t.assign(metric="compression"), "hold a score .* got compression; run"),
        (lambda t: t.assign(metric="bleu"), "hold known metrics, got bleu; keep rows"),
        (lambda t: t.assign(layer="1.0"), "hold layers such as 0, 12, mix, .* got '1.0'; write"),
        (lambda t: t.assign(layer="mix-3"), "hold layers such as .* got 'mix-3'"),
        (
            lambda t: t.assign(value=96.5),
            "hold finite micro_f1 from 0 to 1, got 96.5 for model bert, task pos, probe edge, "
            "layer mix, seed 0, metric micro_f1; pass shares",
        ),
        (lambda t: t.assign(value=np.inf), "hold finite micro_f1 .* got inf for model bert"),
        (
            lambda t: pd.concat([t, t]),
            "hold each value once, got several for model bert, task pos, .* metric micro_f1; drop",
        ),
    ],
    ids=["columns", "empty", "no-score", "metric", "layer", "mix", "percent", "inf", "repeated"],
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("summarize", summarize),
        ("probe_figure", probe_figure),
        ("render_probes", lambda table: render_probes(table, {}, None, "<svg></svg>")),
    ],
    ids=["summary", "figure", "page"],
)
def test_a_table_that_cannot_be_shown_is_refused(name, call, broken, message):
    with pytest.raises(ValueError, match=rf"\[{name}\] table must {message}"):
        call(broken(build({"mix": [0.9]})))


@pytest.mark.parametrize("metric", ["code_length_bits", "selectivity"])
def test_metrics_have_ranges_of_their_own(metric):
    table = pd.concat([build({"mix": [0.9]}), build({"mix": [-1.5]}, metric=metric)])
    with pytest.raises(ValueError, match=rf"must hold finite {metric} from .* got -1.5"):
        summarize(table)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("summarize", summarize),
        ("render_probes", lambda table, known: render_probes(table, {}, known, "<svg></svg>")),
    ],
    ids=["summary", "page"],
)
def test_differences_that_cannot_be_shown_are_refused(name, call):
    table = grid(tasks=["pos"])
    known = paired(table)
    with pytest.raises(
        ValueError, match=rf"\[{name}\] differences must have .* got none named n_seeds; pass"
    ):
        call(table, known.drop(columns="n_seeds"))
    with pytest.raises(
        ValueError, match=rf"\[{name}\] differences must hold each once, got .* task pos.*; drop"
    ):
        call(table, pd.concat([known, known]))


def test_something_else_than_svg_is_refused():
    with pytest.raises(ValueError, match=r"\[render_probes\] svg must hold an SVG element"):
        render_probes(grid(), {}, None, "a.svg")


def test_labels_are_the_ends_of_paths_that_tell_models_apart():
    assert labels_of(["hub/bert", "runs/mnli/model", "runs/dep/model/", "bert-b", "/"]) == {
        "hub/bert": "bert",
        "runs/mnli/model": "mnli/model",
        "runs/dep/model/": "dep/model",
        "bert-b": "bert-b",
        "/": "/",
    }


def test_the_figure_draws_a_line_per_model_over_single_layers():
    table = grid().sample(frac=1, random_state=0).sort_values("model", kind="stable")
    figure, means = probe_figure(table), table[table["metric"] == "micro_f1"]
    axes = panels(figure)
    assert {ax.get_title(loc="left") for ax in axes} == {"POS", "Dependency arcs", "own"}
    (ax,) = [ax for ax in axes if ax.get_title(loc="left") == "POS"]
    for model, label in zip(MODELS, ["bert", "dep", "mnli", "randomized encoder"], strict=True):
        over_layers, mixed = lines(ax, label)
        of = means[(means["model"] == model) & (means["task"] == "pos")]
        expected = of.groupby("layer")["value"].mean() * 100
        assert list(over_layers.get_xdata()) == list(range(13))
        np.testing.assert_allclose(
            over_layers.get_ydata(), [expected[str(layer)] for layer in range(13)]
        )
        np.testing.assert_allclose(mixed.get_ydata(), [expected["mix"]])
        assert mixed.get_xdata()[0] > 12
    assert legend(figure) == [
        "bert",
        "dep",
        "mnli",
        "randomized encoder",
        "base, all layers mixed",
        "base, embeddings alone",
    ]


def test_the_base_has_lines_for_its_mixture_and_its_embeddings():
    (ax,) = panels(probe_figure(build({"0": [0.7], "1": [0.8], "mix": [0.9], "lexical": [0.6]})))
    across = [line for line in ax.lines if list(line.get_xdata()) == [0, 1] and line.is_dashed()]
    assert [line.get_ydata()[0] for line in across] == [90.0, 60.0]
    assert ax.get_ylim()[0] < 60 < 90 < ax.get_ylim()[1]


def test_colors_tell_models_apart_and_keep_gray_for_the_randomized_encoder():
    figure = probe_figure(grid(tasks=["pos"], models=[*map(str, range(14)), RANDOMIZED]))
    (ax,) = panels(figure)
    drawn = [lines(ax, label)[0] for label in [*map(str, range(14)), "randomized encoder"]]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in drawn}
    assert len(looks) == 15
    assert sum(line.get_color() == drawn[-1].get_color() for line in drawn) == 1
    red, green, blue = matplotlib.colors.to_rgb(drawn[-1].get_color())
    assert max(red, green, blue) - min(red, green, blue) < 0.1
    assert sum(line.get_color() == drawn[0].get_color() for line in drawn) == 1


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        (1, "1 seed. Bands and bars: 95 % bootstrap interval over sentences."),
        (2, "means over 2 seeds. Bands and bars: lowest to highest of 2 seeds."),
        (4, "means over 4 seeds. Bands and bars: 95 % t interval over seeds."),
    ],
)
def test_bands_are_those_that_are_told(seeds, told):
    table = grid(["pos"], ["bert"], mixed=(), seeds=seeds, metrics=["micro_f1"])
    figure = probe_figure(table)
    assert told in " ".join(marks(table))
    assert told in figure.texts[0].get_text().replace("\n", " ")
    ends = ["low", "high"] if seeds == 1 else ["seeds_low", "seeds_high"]
    at_top = 100 * summarize(table)[ends].to_numpy()[0]
    band = panels(figure)[0].collections[0].get_paths()[0].vertices
    drawn = band[band[:, 0] == 12, 1]
    np.testing.assert_allclose([drawn.min(), drawn.max()], at_top)


def test_seeds_that_do_not_differ_have_the_band_of_sentences():
    table = build({"0": [0.7] * 3, "1": [0.8] * 3}).assign(low=0.6, high=0.9)
    assert "95 % bootstrap interval over sentences where seeds do not differ" in " ".join(
        marks(table)
    )
    band = panels(probe_figure(table))[0].collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [60, 90])


def test_mixed_numbers_of_seeds_are_told():
    table = pd.concat([build({"0": [0.7], "1": [0.8, 0.9], "2": [0.8, 0.9, 0.9]})])
    told = " ".join(marks(table))
    assert "means over 1, 2 and 3 seeds" in told
    assert "t interval over 3 or more seeds, lowest to highest of 2 seeds. 1 seed has none." in told


def test_one_seed_without_intervals_promises_none():
    table = build({"0": [0.7], "1": [0.8]})
    assert "Bands" not in " ".join(marks(table))
    assert "Brackets" not in page_of(table)


def test_accuracy_stands_in_where_there_is_no_micro_f1():
    table = pd.concat([grid(["pos"]), grid(["arcs"], metrics=["accuracy"]), grid(["srl"])])
    assert [ax.get_ylabel() for ax in panels(probe_figure(table))] == [
        "micro-F1 (%)",
        "accuracy (%)",
        "micro-F1 (%)",
    ]
    alike = panels(probe_figure(grid()))
    assert [ax.get_ylabel() for ax in alike] == ["micro-F1 (%)", "", ""]


def test_a_missing_value_leaves_a_gap_and_a_lone_one_is_marked():
    values = {layer: [np.nan if layer in (3, 5) else 0.8] for layer in range(60)}
    (ax,) = panels(probe_figure(build(values)))
    (line,) = lines(ax, "bert")
    assert np.isnan(np.array(line.get_ydata())[[3, 5]]).all()
    assert 4 in line.get_markevery()


def test_a_panel_without_any_layer_says_so():
    (ax,) = panels(probe_figure(build({"cumulative-3": [0.9]})))
    assert [text.get_text() for text in ax.texts] == ["no layer by itself"]


def test_several_kinds_of_probes_have_panels_of_their_own():
    titles = [
        ax.get_title(loc="left")
        for ax in panels(probe_figure(grid(["pos"], probes=["linear", "mlp"])))
    ]
    assert titles == ["POS, linear", "POS, mlp"]
    assert "edge probes" in probe_figure(grid(["pos"])).texts[-1].get_text()


def test_noise_is_not_blown_up_and_percent_has_its_end():
    (ax,) = panels(probe_figure(build({"0": [0.8], "1": [0.8001]})))
    assert np.ptp(ax.get_ylim()) >= 2
    (ax,) = panels(probe_figure(build({"0": [0.2, 0.99, 0.5], "1": [0.9, 0.99, 1.0]})))
    assert -10 < ax.get_ylim()[0] < 0 < 100 < ax.get_ylim()[1] < 110
    assert 0 <= min(ax.get_yticks()) < max(ax.get_yticks()) <= 100


@pytest.mark.parametrize(("models", "count"), [(1, 1), (12, 1), (5, 2), (3, 3), (1, 4), (5, 8)])
@pytest.mark.parametrize(
    ("layers", "mixed"),
    [
        (range(1), ()),
        (range(13), ("mix", "lexical")),
        (range(25), ("mix",)),
        (range(49), ("lexical",)),
        ([7], ("mix",)),
        ([], ("mix", "lexical")),
        ([], ("lexical",)),
    ],
    ids=["one", "13", "25", "49", "one-mix", "mix", "lexical"],
)
def test_the_figure_keeps_its_text_inside_and_apart(models, count, layers, mixed):
    names = [f"{at}WIDE/PATH/TO/{at}-A-WIDE-MODEL-OF-OLD" for at in range(models)]
    tasks = [f"{at} WIDE TASK WITH A LONG NAME" for at in range(count)]
    table = grid(tasks, [*names, RANDOMIZED], layers, mixed, 2, ["micro_f1"])
    check_text(probe_figure(table))


def test_the_legend_stands_right_of_all_panels():
    figure = probe_figure(grid(["a", "b", "c", "d", "e"]))
    figure.draw_without_rendering()
    (frame,) = [ax for ax in figure.axes if not ax.axison]
    right = max(ax.get_tightbbox().x1 for ax in panels(figure))
    assert right < frame.get_window_extent().x0
    assert {len({round(ax.get_position().x0, 6) for ax in panels(figure)})} == {3}


def test_the_svg_is_deterministic_whatever_the_style_in_force():
    table = grid(models=("$x_1$", "b"))
    plain = svg_text(probe_figure(table))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20}):
        assert svg_text(probe_figure(table)) == plain
    assert "$x_1$" in "".join(ElementTree.fromstring(plain).itertext())


def test_the_report_needs_no_torch_and_no_pyplot():
    code = (
        "import sys; from bertft.report import probing; "
        "assert not {'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PROVENANCE = {
    "created": "2026-07-01T10:00:00+00:00",
    "versions": {"bertft": "0.2.0", "torch": "2.9.0"},
    "command": "bertft probe bert runs/mnli",
    "tasks": {"pos": {"train": "train.conllu", "labels": 17}},
    "notes": ["6 labels of arcs are not in train."],
}


def test_the_page_shows_scores_differences_and_controls():
    table = pd.concat(
        [
            build({"mix": [0.965], "lexical": [0.88]}, width=0.01),
            build({"mix": [0.97]}, model="tuned", width=0.01),
            build({"mix": [0.8]}, model=RANDOMIZED, width=0.01),
        ]
    )
    page = page_of(table, differences=paired(table))
    assert cells_of(page, "Scores") == [
        [
            "POS",
            "micro-F1",
            "25,094",
            "96.50 [96.00, 97.00]",
            "97.00 [96.50, 97.50]",
            "+0.50 [0.30, 0.70]",
            "88.00 [87.50, 88.50]",
            "80.00 [79.50, 80.50]",
        ]
    ]
    assert cells_of(page, ">POS")[0] == [
        "mix",
        "96.50 [96.00, 97.00]",
        "97.00 [96.50, 97.50]",
        "+0.50 [0.30, 0.70]",
        "80.00 [79.50, 80.50]",
        "-16.50 [-16.70, -16.30]",
    ]
    assert "All models of a row are read at the same layer: mix." in page
    assert "bootstrap intervals over the sentences of dev." in page


def test_without_paired_differences_those_of_means_have_no_interval():
    page = page_of(grid(["pos"], mixed=("mix",)), differences=pd.DataFrame())
    assert re.fullmatch(r"-\d\.\d\d", cells_of(page, "Scores")[0][5])
    assert len(cells_of(page, ">POS")[0]) == 1 + len(MODELS)
    assert "paired over seeds" not in page


def test_the_layer_that_is_read_is_told_where_tasks_differ():
    table = pd.concat([build({"mix": [0.9]}), build({"3": [0.9], "4": [0.8]}, task="arcs")])
    assert [row[3] for row in cells_of(page_of(table), "Scores")] == ["mix", "3"]


def test_seeds_give_the_brackets_where_no_bootstrap_does():
    page = page_of(build({"mix": [0.9, 0.91]}))
    assert "Brackets below a score hold the lowest and highest of two seeds." in page
    assert cells_of(page, "Scores")[0][3] == "90.50 [90.00, 91.00]"


def test_layer_statistics_have_tables_where_present():
    codes = pd.concat(
        [
            build({"3": [123456.7, 123456.9]}, "hub/bert", metric="code_length_bits"),
            build({"3": [4.126]}, "hub/bert", metric="compression"),
        ]
    )
    table = pd.concat(
        [
            grid(["pos"]),
            build({"3": [0.25], "mix": [0.3]}, "hub/bert", metric="selectivity"),
            codes.assign(n=9000),
            build({"mix": [5.5, 6.0]}, "hub/bert", metric="center_of_gravity"),
            build({"cumulative": [np.nan]}, "hub/bert", metric="expected_layer"),
            build({"cumulative": [-0.5]}, "runs/dep", metric="expected_layer"),
            trees(),
        ]
    )
    page = page_of(table)
    assert cells_of(page, "Where the labels are") == [
        ["POS, edge", "center of gravity", "5.75", "—"],
        ["POS, edge", "expected layer", "—", "-0.50"],
    ]
    others = {row[0]: row[1:] for row in cells_of(page, "Other measures, layer by layer")}
    assert list(others) == [*map(str, range(13)), "mix", "lexical"]
    assert others["3"][-3:] == ["25.00", "123.46", "4.13"]
    assert others["mix"][-3:] == ["30.00", "—", "—"]
    assert "POS, edge on 25,094 targets and 9,000 training targets (code)" in page
    assert "POS, edge: micro-F1 (%) on 25,094 targets" in page
    for metric in METRICS.values():
        assert metric.question.replace("'", "&#39;") in page


def test_trees_are_summed_up_beside_the_chain():
    summary = summarize(trees())
    rows = summary.set_index(["probe", "metric", "role"])
    assert list(summary["role"].unique()) == ["base", "finetuned", "lexical", "chain", RANDOMIZED]
    assert rows["mean"]["distance", "uuas", "base"] == pytest.approx(0.7)
    assert rows["mean"]["depth", "nspr", "chain"] == pytest.approx(0.2)
    assert rows["difference"]["distance", "dspr", "chain"] == pytest.approx(-0.45)
    assert rows["layer"]["distance", "uuas", "chain"] == "chain"
    page = page_of(trees())
    scores = cells_of(page, "Scores")
    assert [row[:2] for row in scores] == [
        ["Syntax trees, distance", "UUAS"],
        ["Syntax trees, distance", "DSpr (x 100)"],
        ["Syntax trees, depth", "root accuracy"],
        ["Syntax trees, depth", "NSpr (x 100)"],
    ]
    assert any("25.00" in cell for cell in scores[0])
    by_layer = {row[0]: row[1] for row in cells_of(page, "Layer by layer")}
    assert list(by_layer) == ["0", "1", "2", "lexical", "linear chain"]
    assert "<strong>linear chain</strong>" in page
    assert "<strong>linear chain</strong>" not in page_of(grid(["pos"]))
    assert "from one of them, itself among them" in page
    assert "Merchant" not in page
    assert "Merchant" in page_of(grid(["pos"]))


def test_the_page_says_what_its_probes_are():
    labels, structural = grid(["pos"]), trees()
    told = {
        "probe</strong> is a small classifier trained": (True, False, False),
        "probe</strong> is a linear map trained": (False, True, False),
        "probe</strong> is a small classifier or a linear map trained": (False, False, True),
        "how easily a label can be": (True, False, False),
        "how easily a tree can be": (False, True, False),
        "how easily a label or a tree can be": (False, False, True),
        "made the label harder to read": (True, False, False),
        "made the tree harder to read": (False, True, False),
        "made the label or the tree harder to read": (False, False, True),
        "<strong>Distance and depth probes</strong>": (False, True, True),
    }
    both = pd.concat([labels, structural], ignore_index=True)
    pages = [page_of(table) for table in (labels, structural, both)]
    for text, expected in told.items():
        assert tuple(text in page for page in pages) == expected, text


def test_the_chain_is_a_line_across_the_panel():
    figure = probe_figure(trees())
    axes = panels(figure)
    assert [(ax.get_title(loc="left"), ax.get_ylabel()) for ax in axes] == [
        ("Syntax trees, distance", "UUAS (%)"),
        ("Syntax trees, distance", "DSpr (x 100)"),
        ("Syntax trees, depth", "root accuracy (%)"),
        ("Syntax trees, depth", "NSpr (x 100)"),
    ]
    for ax, chain in zip(axes, (25.0, 20.0, 25.0, 20.0), strict=True):
        flat = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
        assert chain in flat
        assert ax.get_ylim()[0] < chain
    words = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "no model, linear chain" in words


def test_lines_across_the_panel_have_no_bands_to_tell_of():
    table = trees()
    table = pd.concat([table, table.assign(seed=1, value=table["value"] + 0.01)])
    chain = table["layer"] == "chain"
    table.loc[chain, "value"] = 0.25
    said = " ".join(marks(table))
    assert "Bands and bars: lowest to highest of 2 seeds." in said


def test_correlations_below_zero_have_ticks_and_bands():
    table = build({"0": [-0.99, -0.8, -0.9], "1": [0.4, 0.5, 0.3]}, metric="dspr")
    (ax,) = panels(probe_figure(table))
    assert {-100, -50, 0, 50} <= set(ax.get_yticks())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == -100
    (ax,) = panels(probe_figure(table.assign(metric="uuas", value=abs(table["value"]))))
    assert ax.get_yticks().min() >= 0


def test_the_page_explains_only_what_it_shows():
    page = page_of(build({"0": [0.7], "1": [0.8]}))
    for absent in ("<strong>mix<", "<strong>randomized<", "<strong>Differences<", "selectivity"):
        assert absent not in page
    assert "There is no mixture of all layers" in page
    assert "mean over seeds" not in page
    assert "means over seeds" not in page
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == [
        "How to read it",
        "Models",
        "Scores over the layers",
        "Scores",
        "Layer by layer",
    ]
    whole = page_of(grid(mixed=("mix", "lexical", "cumulative-3")), PROVENANCE)
    for present in ("mix", "lexical", "randomized", "Differences", "0 to k mixed"):
        assert f"<strong>{present}</strong>" in whole
    assert "0 to 3 mixed" in whole


@pytest.mark.parametrize("provenance", [{}, PROVENANCE], ids=["bare", "full"])
def test_the_page_is_valid_and_asks_nothing_of_the_network(provenance):
    table = grid()
    text = page_of(table, provenance, paired(table))
    assert not re.search(r"https?:|\bsrc\b|<script|url\(|@import|<link|<iframe|javascript:", text)
    page = Page(text)
    assert [page.count(tag) for tag in ("title", "h1", "main", "svg")] == [1] * 4
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs}
    assert named <= set(ids)
    if provenance:
        assert "6 labels of arcs are not in train." in page.text["li"]
        for word in ("train.conllu", "17", "2.9.0", "bertft probe bert"):
            assert word in page.text["details"]
        assert "not in train" not in page.text["details"]
        assert "bertft 0.2.0, 2026-07-01" in page.text["footer"]


def test_every_row_of_a_table_has_a_cell_for_every_column():
    table = grid(mixed=("mix", "cumulative-3", "lexical"))
    page = page_of(table[table["layer"] != "5"], differences=paired(table))
    tables = re.findall(r'<table class="values">(.*?)</table>', page, flags=re.DOTALL)
    assert len(tables) == 1 + 3 + 3
    for text in tables:
        head, columns, *rows = (
            re.findall(r"<t[hd]( [^>]*)?>", row) for row in re.findall("<tr>(.*?)</tr>", text, re.S)
        )
        spans = [int(n) for cell in head for n in re.findall(r'colspan="(\d+)"', cell)]
        assert {sum(spans), *map(len, rows)} == {len(columns)}


@pytest.mark.parametrize("name", [HARMFUL, HOSTILE])
def test_every_name_is_escaped(name):
    table = grid(models=[name, f"{name}/other", RANDOMIZED]).replace("own", name)
    hostile = {name: [name, {name: name}], "notes": [name], "versions": {"bertft": name}}
    text = page_of(table, hostile, paired(table))
    page = Page(text)
    assert page.count("script") == page.count("b") == 0
    assert "<script" not in text
    assert page.text["main"].count(name) > 8
    assert ElementTree.fromstring(svg_text(probe_figure(table))) is not None


def test_a_single_note_is_a_note():
    assert "<li>left out: arcs</li>" in page_of(grid(["pos"]), {"notes": "left out: arcs"})
