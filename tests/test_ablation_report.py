"""The summary of an ablation is plain statistics, and its figure and page say what is in it."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bertft.report import ablation_figure as drawing
from bertft.report.ablation import ablation_figure, render_ablation, summarize
from bertft.report.ablation_table import COLUMNS
from bertft.report.figures import svg_text
from tests.test_report import HOSTILE, Page, check_text

TASKS = {
    "depparse": (["ewt-dev.conllu"], ["las", "uas"], 88.0),
    "mnli": (["matched", "mismatched"], ["accuracy"], 84.0),
    "squad": (["dev-v1.1.json"], ["f1", "em"], 88.5),
}
GRID = {"full": [12], "freeze": [4, 8, 10], "keep": [2, 4, 8]}


def build(cells, task="mnli", corpus="matched", measure="accuracy", depth=12):
    """A table from {(ablation, layers): a value per seed}."""
    rows = [
        ("bert", task, ablation, layers, depth, seed, corpus, measure, value, 9815)
        for (ablation, layers), values in cells.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def grid(seeds=3, tasks=TASKS, ablations=GRID, depth=12, absent=()):
    """Scores that fall with the layers frozen and cut, with noise over seeds."""
    noise, parts = np.random.default_rng(0), []
    for task, (corpora, measures, top) in tasks.items():
        for (at, corpus), measure in itertools.product(enumerate(corpora), measures):
            cells = {}
            for ablation, count in (
                (name, k) for name, layers in ablations.items() for k in layers
            ):
                lost = {"full": 0, "freeze": count / 4, "keep": (depth - count) * 2}[ablation]
                cells[ablation, count] = top - lost + at + noise.normal(0, 0.3, seeds)
            parts.append(build(cells, task, corpus, measure, depth))
    table = pd.concat(parts, ignore_index=True)
    cells = zip(*(table[name] for name in ("task", "ablation", "layers", "seed")), strict=True)
    return table[[cell not in absent for cell in cells]].reset_index(drop=True)


def page_of(table, provenance=None):
    return render_ablation(table, provenance or {}, svg_text(ablation_figure(table)))


def row_of(summary, ablation, layers, measure="accuracy", corpus="matched"):
    found = summary[
        (summary["ablation"] == ablation)
        & (summary["layers"] == layers)
        & (summary["measure"] == measure)
        & (summary["corpus"] == corpus)
    ]
    (row,) = found.to_dict("records")
    return row


def panels(figure):
    return [ax for ax in figure.axes if ax.axison]


def labels(figure):
    """The lines of text beside the panels."""
    frames = [ax for ax in figure.axes if not ax.axison]
    return [text.get_text() for frame in frames for text in frame.texts]


def drawn(ax, corpus):
    """The points of a corpus's line."""
    (line,) = [line for line in ax.lines if line.get_label() == corpus]
    return np.array(line.get_xydata())


def test_means_and_losses_by_hand():
    table = build({("full", 12): [84.0, 85.0], ("freeze", 8): [83.0, 84.0], ("keep", 6): [86.5]})
    summary = summarize(table)
    assert [
        tuple(row) for row in summary[["ablation", "layers", "seeds", "mean", "loss"]].values
    ] == [
        ("full", 12, 2, 84.5, 0.0),
        ("freeze", 0, 2, 84.5, 0.0),
        ("freeze", 8, 2, 83.5, 1.0),
        ("keep", 6, 1, 86.5, -2.0),
        ("keep", 12, 2, 84.5, 0.0),
    ]
    # t(0.975, 1 degree of freedom) = 12.7062 and the standard error is 0.5.
    assert row_of(summary, "freeze", 8)["low"] == pytest.approx(83.5 - 6.3531, abs=1e-4)
    assert row_of(summary, "freeze", 8)["high"] == pytest.approx(83.5 + 6.3531, abs=1e-4)


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_intervals_are_those_of_student(seeds):
    values = np.random.default_rng(seeds).normal(80, 2, seeds)
    row = row_of(summarize(build({("keep", 3): values})), "keep", 3)
    low, high = scipy.stats.t.interval(
        0.95, seeds - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    np.testing.assert_allclose([row["low"], row["high"]], [low, high], rtol=1e-12)


def test_one_seed_has_no_interval():
    summary = summarize(grid(seeds=1))
    assert set(summary["seeds"]) == {1}
    assert summary[["low", "high"]].isna().all(axis=None)
    assert summary[["mean", "loss"]].notna().all(axis=None)


def test_without_a_full_model_no_loss_is_known():
    summary = summarize(build({("freeze", 8): [83.0], ("keep", 6): [80.0]}))
    assert summary["loss"].isna().all()
    assert list(summary["ablation"]) == ["freeze", "keep"]


def test_the_full_model_is_repeated_only_where_a_task_has_such_cells():
    table = pd.concat(
        [
            build({("full", 12): [84.0], ("freeze", 8): [83.0]}),
            build({("full", 12): [88.0]}, task="squad", corpus="dev", measure="f1"),
        ]
    )
    summary = summarize(table)
    assert list(zip(summary["task"], summary["ablation"], summary["layers"], strict=True)) == [
        ("mnli", "full", 12),
        ("mnli", "freeze", 0),
        ("mnli", "freeze", 8),
        ("squad", "full", 12),
    ]


def test_losses_are_against_the_same_corpus_and_measure():
    table = grid()
    summary = summarize(table)
    for row in summary.to_dict("records"):
        same = table[
            (
                table[["task", "corpus", "measure"]]
                == [row[k] for k in ("task", "corpus", "measure")]
            ).all(axis=1)
        ]
        full = same.loc[same["ablation"] == "full", "value"].mean()
        assert row["loss"] == pytest.approx(full - row["mean"], abs=1e-12)


def test_missing_cells_are_absent_and_leave_the_others_alone():
    absent = [("mnli", "freeze", 10, seed) for seed in range(3)] + [("mnli", "keep", 4, 1)]
    whole, partial = summarize(grid()), summarize(grid(absent=absent))
    assert len(whole) - len(partial) == 2
    assert row_of(partial, "keep", 4)["seeds"] == 2
    assert row_of(partial, "keep", 8) == row_of(whole, "keep", 8)


def test_the_order_is_that_of_the_table_and_layers_ascend():
    table = grid(ablations={"keep": [8, 2], "freeze": [10, 4], "full": [12]})
    summary = summarize(table)
    assert list(dict.fromkeys(summary["task"])) == list(TASKS)
    of = summary[summary["task"] == "mnli"]
    assert list(dict.fromkeys(of["corpus"])) == ["matched", "mismatched"]
    of = of[of["corpus"] == "matched"]
    assert list(zip(of["ablation"], of["layers"], strict=True)) == [
        ("full", 12),
        ("freeze", 0),
        ("freeze", 4),
        ("freeze", 10),
        ("keep", 2),
        ("keep", 8),
        ("keep", 12),
    ]
    assert list(dict.fromkeys(summary.loc[summary["task"] == "squad", "measure"])) == ["f1", "em"]


def test_the_table_is_not_changed():
    table = grid()
    before = table.copy()
    page_of(table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda t: t.drop(columns=["value", "n"]), "have the columns .* got none named value, n"),
        (lambda t: t.iloc[:0], "hold a finished cell, got no row; run `bertft ablate` first"),
        (
            lambda t: pd.concat([t, t.assign(model="other")]),
            "hold one model, got 'bert' of depth 12, 'other' of depth 12; filter it",
        ),
        (lambda t: t.assign(ablation="drop"), "hold cells of full 12, .* got drop 12; call"),
        (lambda t: t.assign(layers=8), "hold cells of full 12, .* got full 8"),
        (
            lambda t: t.assign(ablation="freeze", layers=13),
            "hold cells .* freeze 1 to 12 .* got freeze 13",
        ),
        (
            lambda t: t.assign(ablation="freeze", layers=0),
            "hold cells .* freeze 1 to 12 .* got freeze 0",
        ),
        (lambda t: t.assign(ablation="keep"), "hold cells .* keep 0 to 11, got keep 12; call"),
        (
            lambda t: t.assign(value=np.nan),
            "hold finite values, got nan for task mnli, ablation full, layers 12, seed 0, "
            "corpus matched, measure accuracy; run that cell again",
        ),
        (lambda t: pd.concat([t, t]), "hold each score once, got several for task mnli, ablation"),
    ],
    ids=[
        "columns",
        "empty",
        "models",
        "ablation",
        "full",
        "above",
        "none-frozen",
        "all-kept",
        "nan",
        "repeated",
    ],
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("summarize", summarize),
        ("ablation_figure", ablation_figure),
        ("render_ablation", lambda table: render_ablation(table, {}, "<svg></svg>")),
    ],
    ids=["summary", "figure", "page"],
)
def test_a_table_that_cannot_be_shown_is_refused(name, call, broken, message):
    with pytest.raises(ValueError, match=rf"\[{name}\] table must {message}"):
        call(broken(build({("full", 12): [84.0]})))


def test_the_figure_draws_the_headline_measure_of_every_task():
    table = grid()
    figure, summary = ablation_figure(table), summarize(table)
    axes = panels(figure)
    assert [ax.get_title(loc="left") for ax in axes[::2]] == ["Dependency parsing", "MNLI", "SQuAD"]
    assert [ax.get_ylabel() for ax in axes[::2]] == ["LAS (%)", "accuracy (%)", "F1 (%)"]
    for at, (task, (corpora, measures, _)) in enumerate(TASKS.items()):
        for ax, ablation, ticks in (
            (axes[2 * at], "freeze", [0, 4, 8, 10]),
            (axes[2 * at + 1], "keep", [2, 4, 8, 12]),
        ):
            assert list(ax.get_xticks()) == ticks
            for corpus in corpora:
                points = drawn(ax, corpus)
                rows = [row_of(summary, ablation, k, measures[0], corpus) for k in ticks]
                assert np.abs(points[:, 0] - ticks).max() < 0.4, task
                np.testing.assert_allclose(points[:, 1], [row["mean"] for row in rows])
                assert ax.get_ylim()[0] < min(row["low"] for row in rows)


def test_the_full_model_is_a_labeled_line_in_both_panels():
    figure = ablation_figure(
        build({("full", 12): [84.126], ("freeze", 8): [83], ("keep", 6): [80]})
    )
    assert labels(figure) == ["matched", "full model 84.13"]
    for ax in panels(figure):
        (line,) = [line for line in ax.lines if list(line.get_xdata()) == [0, 1]]
        assert list(line.get_ydata()) == [84.126] * 2
    assert "full model: no cell yet" in labels(ablation_figure(build({("freeze", 8): [83]})))


def test_intervals_and_seeds_are_drawn_where_there_are_several():
    figure = ablation_figure(build({("freeze", 4): [83.0, 84.0, 82.5], ("freeze", 8): [81.0]}))
    (ax,) = panels(figure)
    (bars,) = ax.collections
    spans = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]
    summary = summarize(build({("freeze", 4): [83.0, 84.0, 82.5]}))
    assert np.nanmax(spans) == pytest.approx((summary["high"] - summary["low"]).iloc[0])
    _, hollow, points = ax.lines
    assert list(hollow.get_ydata()) == [81.0]
    assert hollow.get_markerfacecolor() == "white"
    assert list(points.get_ydata()) == [83.0, 84.0, 82.5]
    note = figure.texts[-1].get_text()
    assert "95 % interval" in note
    assert "one seed only" in note


def test_one_seed_promises_no_interval():
    figure = ablation_figure(grid(seeds=1))
    assert "interval" not in figure.texts[-1].get_text()
    assert all(len(line.get_xdata()) == 0 for ax in panels(figure) for line in ax.lines[3::4])


@pytest.mark.parametrize(
    ("ablations", "columns"),
    [
        ({"full": [12], "freeze": [8]}, ["frozen"]),
        ({"full": [12], "keep": [8]}, ["kept"]),
        ({"full": [12]}, ["frozen", "kept"]),
        (GRID, ["frozen", "kept"]),
    ],
    ids=["freeze", "keep", "full", "both"],
)
def test_the_figure_has_only_the_panels_it_needs(ablations, columns):
    axes = panels(ablation_figure(grid(ablations=ablations)))
    assert [re.search("frozen|kept", ax.get_xlabel())[0] for ax in axes] == columns * len(TASKS)


def test_a_panel_without_cells_says_so():
    absent = [("squad", "keep", k, 0) for k in GRID["keep"]]
    axes = panels(ablation_figure(grid(seeds=1, absent=absent)))
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [[]] * 5 + [["no cell yet"]]


def test_noise_is_not_blown_up_and_both_panels_share_their_limits():
    left, right = panels(
        ablation_figure(build({("full", 12): [84.0], ("freeze", 8): [84.01], ("keep", 6): [84.0]}))
    )
    assert left.get_ylim() == right.get_ylim()
    assert np.ptp(left.get_ylim()) >= 2


def test_a_wide_interval_does_not_leave_the_percent_scale_behind():
    (ax,) = panels(ablation_figure(build({("freeze", 8): [20.0, 99.0]})))
    assert -10 < ax.get_ylim()[0] < 0 < 100 < ax.get_ylim()[1] < 110
    assert max(ax.get_yticks()) <= 100


@pytest.mark.parametrize(("corpora", "seeds"), [(1, 3), (3, 1), (8, 2)])
@pytest.mark.parametrize(
    ("depth", "ablations"),
    [
        (1, {"full": [1], "freeze": [1], "keep": [0]}),
        (12, GRID),
        (12, {"freeze": [12], "full": [12]}),
        (48, {"full": [48], "freeze": range(1, 49, 2), "keep": range(0, 48, 5)}),
    ],
    ids=["1", "12", "freeze", "48"],
)
def test_the_figure_keeps_its_text_inside_and_apart(corpora, seeds, depth, ablations):
    names = [f"{at}/A/WIDE/PATH/TO/A/CORPUS.CONLLU" for at in range(corpora)]
    tasks = {task: (names, measures, top) for task, (_, measures, top) in TASKS.items()}
    table = grid(seeds, tasks, ablations, depth)
    check_text(ablation_figure(table.assign(model="WIDE/" * 40)))
    check_text(ablation_figure(table[table["task"] == "mnli"]))


@pytest.mark.parametrize(
    "heights", [[0.1], [1.7, 1.7, 1.7], [0.0, 0.1, 1.8], [0.9, 0.95], [-1.0, 5.0]]
)
def test_labels_stay_in_order_apart_and_inside(heights):
    heights = np.array(heights)
    spread = drawing._spread(heights, 1.8)
    assert (np.diff(np.sort(spread)) >= drawing.LABEL_HEIGHT - 1e-12).all()
    assert spread.min() >= drawing.LABEL_HEIGHT / 2 - 1e-12
    assert spread.max() <= 1.8 - drawing.LABEL_HEIGHT / 2 + 1e-12
    assert list(np.argsort(-spread)) == list(np.argsort(-heights, kind="stable"))


def test_labels_with_room_stay_where_their_lines_are():
    np.testing.assert_allclose(drawing._spread(np.array([0.5, 1.2]), 1.8), [0.5, 1.2])


def test_the_svg_is_deterministic_whatever_the_style_in_force():
    table = grid().replace("matched", "$x_1$")
    plain = svg_text(ablation_figure(table))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20}):
        assert svg_text(ablation_figure(table)) == plain
    assert "$x_1$" in "".join(ElementTree.fromstring(plain).itertext())


PROVENANCE = {
    "created": "2026-07-01T10:00:00+00:00",
    "versions": {"bertft": "0.2.0", "torch": "2.9.0"},
    "command": "bertft ablate bert --task mnli",
    "model": "bert",
    "cells": {"done": 11, "total": 18},
    "tasks": {"mnli": {"recipe": {"batch_size": 32}, "train": "train.jsonl", "dev": ["a", "b"]}},
}


def test_the_page_shows_means_intervals_seeds_and_losses():
    page = page_of(
        build(
            {
                ("full", 12): [84.0, 85.0],
                ("freeze", 8): [83.0, 84.0],
                ("keep", 6): [86.5],
            }
        )
    )
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, flags=re.DOTALL)
    cells = {name: re.findall(r"<td>(.*?)</td>", rest) for name, rest in rows}
    assert cells == {
        "full model": ["2", "84.50<small>[78.15, 90.85]</small>", ""],
        "8 frozen": ["2", "83.50<small>[77.15, 89.85]</small>", "1.00"],
        "6 kept": ["1", "86.50", "-2.00"],
    }
    assert "matched (9,815 pairs)" in page
    assert "a single seed has none" in page


def test_the_page_has_a_table_for_every_corpus_and_a_column_for_every_measure():
    page = page_of(grid())
    assert re.findall("<h3>(.*?)</h3>", page) == [
        "Dependency parsing: ewt-dev.conllu",
        "MNLI: matched",
        "MNLI: mismatched",
        "SQuAD: dev-v1.1.json",
    ]
    assert [name for name in re.findall(r'colspan="2">([^<]+)</th>', page)] == [
        "LAS",
        "UAS",
        "accuracy",
        "accuracy",
        "F1",
        "exact match",
    ]


def test_the_page_tells_of_one_seed_and_of_missing_values():
    assert "Every cell has a single seed" in page_of(grid(seeds=1))
    page = page_of(build({("freeze", 8): [83.0]}))
    assert "The full model is not done yet" in page
    assert "<td>83.00</td><td>—</td>" in page
    table = grid(seeds=1)
    page = page_of(table[(table["measure"] != "uas") | (table["ablation"] == "full")])
    assert "<td>—</td><td>—</td>" in page


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({"done": 11, "total": 18}, "11 of 18 cells are done"),
        ({"done": 18, "total": 18}, "All 18 cells are done."),
        (None, None),
        ([3], None),
    ],
    ids=["partial", "whole", "none", "other"],
)
def test_the_page_tells_how_much_is_done(cells, told):
    page = page_of(grid(), {"cells": cells})
    assert told in page if told else "are done" not in page


def test_the_page_explains_only_what_it_shows():
    page = page_of(build({("full", 12): [84.0], ("freeze", 8): [83.0]}))
    assert "<strong>Freezing</strong>" in page
    assert "<strong>Keeping</strong>" not in page
    assert "costs MNLI and SQuAD little, and dependency parsing more" in page


@pytest.mark.parametrize("provenance", [{}, PROVENANCE], ids=["bare", "full"])
def test_the_page_is_valid_and_asks_nothing_of_the_network(provenance):
    text = page_of(grid(), provenance)
    assert not re.search(r"https?:|\bsrc\b|<script|url\(|@import|<link|<iframe|javascript:", text)
    page = Page(text)
    assert [page.count(tag) for tag in ("title", "h1", "main", "svg")] == [1] * 4
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs}
    assert named <= set(ids)
    assert page.count("details") == bool(provenance)
    if provenance:
        for word in ("batch_size", "train.jsonl", "a, b", "2.9.0", "bertft ablate bert"):
            assert word in page.text["details"]
        assert "bertft 0.2.0, 2026-07-01" in page.text["footer"]


def test_every_name_is_escaped():
    table = build({("full", 12): [84.0], ("freeze", 8): [83.0]}, HOSTILE, HOSTILE, HOSTILE)
    hostile = {
        HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}],
        "versions": {"bertft": HOSTILE},
        "cells": {"done": HOSTILE, "total": HOSTILE + "!"},
        "tasks": {HOSTILE: {"recipe": {HOSTILE: HOSTILE}, "dev": [HOSTILE]}},
    }
    text = page_of(table.assign(model=HOSTILE), hostile)
    page = Page(text)
    assert page.count("script") == 0
    assert "<script" not in text
    assert page.text["main"].count(HOSTILE) > 8


def test_something_else_than_svg_is_refused():
    with pytest.raises(
        ValueError, match=r"\[render_ablation\] svg must hold an SVG element, got 'a.svg'"
    ):
        render_ablation(grid(), {}, "a.svg")
