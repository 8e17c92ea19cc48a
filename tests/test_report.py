"""The figure, the report and its words: they follow the numbers and ask nothing of the network."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from importlib import resources

import matplotlib
import numpy as np
import pandas as pd
import pytest

from bertft import similarity
from bertft.report import figures, heatmaps, html, vocabulary
from bertft.report.vocabulary import COLUMNS, MEASURES

HOSTILE = "<script>alert('$x_1$ & \"1\"')</script>"
VOID = {"br", "col", "hr", "img", "input", "link", "meta", "wbr"}


def build(values, pretrained="base", finetuned="tuned", n=100):
    """A tidy table from {corpus: {measure: {layer: value}}} (or a list, for layers from 0)."""
    rows = []
    for corpus, measures in values.items():
        for measure, layers in measures.items():
            layers = layers if isinstance(layers, dict) else dict(enumerate(layers))
            rows += [
                (pretrained, finetuned, corpus, layer, layer, measure, value, np.nan, np.nan, n)
                for layer, value in layers.items()
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def falling(corpora=("ewt",), layers=4, measures=tuple(MEASURES)):
    """Every measure changes steadily towards the top layer."""
    change = np.linspace(0, 0.5, layers)
    return build(
        {
            corpus: {name: abs(MEASURES[name].unchanged - change) for name in measures}
            for corpus in corpora
        }
    )


def report(table, provenance=None):
    return html.render(table, provenance or {}, figures.svg_text(figures.layer_figure(table)))


class Page(HTMLParser):
    """Collects elements and text, and fails on a tag that is not closed where it must be."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag != "colgroup":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.text[tag] = self.text.get(tag, "") + data

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in (ax.title, ax.xaxis.label, *ax.texts)]


def test_summary_table_has_layers_as_rows_and_measures_in_canonical_order():
    table = falling(measures=("l2", "cka", "rsa"), layers=3).sample(frac=1, random_state=0)
    frame = html.summary_table(table, "ewt")
    assert list(frame.columns) == ["rsa", "cka", "l2"]
    assert list(frame.index) == [0, 1, 2]
    np.testing.assert_allclose(frame["rsa"], [1, 0.75, 0.5])
    np.testing.assert_allclose(frame["l2"], [0, 0.25, 0.5])


def test_summary_table_leaves_absent_cells_nan():
    frame = html.summary_table(build({"a": {"rsa": {0: 1.0, 2: 0.5}, "cka": {2: 0.4}}}), "a")
    assert list(frame.index) == [0, 2]
    assert np.isnan(frame["cka"][0])


def test_summary_table_shows_same_numbered_layers_only():
    table = build({"a": {"rsa": [1.0, 0.5]}})
    crossed = table.assign(finetuned_layer=1 - table["finetuned_layer"], value=0.1)
    frame = html.summary_table(pd.concat([table, crossed]), "a")
    assert list(frame["rsa"]) == [1.0, 0.5]


def test_corpora_keep_the_order_of_the_table_and_layers_ascend():
    table = build({"b": {"rsa": {5: 0.1, 3: 0.2}}, "a": {"rsa": {0: 0.3, 5: 0.4}}})
    rows = vocabulary.same_numbered(table, "test")
    assert list(zip(rows["corpus"], rows["layer"], rows["value"], strict=True)) == [
        ("b", 3, 0.2),
        ("b", 5, 0.1),
        ("a", 0, 0.3),
        ("a", 5, 0.4),
    ]


def test_unknown_corpus_is_refused():
    with pytest.raises(
        ValueError, match=r"\[summary_table\] corpus must .* got 'b'; use one of 'a'"
    ):
        html.summary_table(build({"a": {"rsa": [1.0]}}), "b")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda t: t.drop(columns="value"), "must have the columns .* got none named value"),
        (lambda t: t.assign(measure="foo"), "must hold known measures, got foo"),
        (lambda t: t.assign(finetuned_layer=9), "must compare same-numbered layers, got no such"),
        (lambda t: t.iloc[:0], "must compare same-numbered layers, got no such row"),
        (
            lambda t: pd.concat([t, t]),
            "must hold one row per .* got several for corpus 'a', layer 0, measure rsa",
        ),
        (
            lambda t: pd.concat([t, t.assign(pretrained="other")]),
            "must hold one pretrained model, got 2; filter it",
        ),
    ],
    ids=["column", "measure", "pairs", "empty", "repeated", "models"],
)
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("layer_figure", figures.layer_figure),
        ("render", lambda table: html.render(table, {}, "<svg></svg>")),
        ("summary_table", lambda table: html.summary_table(table, "a")),
        ("summary_sentences", html.summary_sentences),
    ],
    ids=["figure", "render", "table", "sentences"],
)
def test_a_table_that_cannot_be_shown_is_refused(name, call, broken, message):
    with pytest.raises(ValueError, match=rf"\[{name}\] table {message}"):
        call(broken(build({"a": {"rsa": [1.0, 0.5]}})))


def test_vocabulary_is_complete():
    assert set(MEASURES) == set(similarity.MEASURES) | set(similarity.SAMPLED)
    assert list(MEASURES)[:1] == ["rsa"]
    assert {measure.family for measure in MEASURES.values()} == set(figures.COLORS)
    families = [measure.family for measure in MEASURES.values()]
    assert max(map(families.count, families)) <= len(figures.MARKERS) == len(figures.DASHES)
    for measure in MEASURES.values():
        assert measure.direction == ("lower" if measure.unchanged == 1 else "higher")


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            [0.99, 0.9, 0.5],
            "layer 2 (the top) changed most: rsa is 0.5000 there (1 = unchanged), "
            "against 0.9900 at layer 0 (the embeddings).",
        ),
        (
            [0.5, 0.9, 0.99],
            "layer 0 (the embeddings) changed most: rsa is 0.5000 there (1 = unchanged), "
            "against 0.9900 at layer 2 (the top).",
        ),
        (
            [0.99, 0.5, 0.9],
            "layer 1 changed most: rsa is 0.5000 there (1 = unchanged), "
            "against 0.9900 at layer 0 (the embeddings) and 0.9000 at layer 2 (the top).",
        ),
        (
            [1.0, 0.5, 0.5, -0.25, -0.25],
            "layers 3 and 4 (the top) changed most: rsa is -0.2500 there (1 = unchanged), "
            "against 1.0000 at layer 0 (the embeddings).",
        ),
        ([1.0, 1.0, 0.99999], "no layer changed: rsa is 1.0000 in all of them."),
        ([0.7, 0.7, 0.7], "every layer changed equally: rsa is 0.7000 (1 = unchanged)."),
        ({6: 0.8}, "only layer 6 has a value: rsa is 0.8000 (1 = unchanged)."),
        ([np.nan, 0.8], "only layer 1 has a value: rsa is 0.8000 (1 = unchanged)."),
        (
            [np.nan, 0.6, 0.8],
            "of the 2 layers with a value, layer 1 changed most: rsa is 0.6000 there "
            "(1 = unchanged), against no value at layer 0 (the embeddings) and 0.8000 at layer 2 "
            "(the top).",
        ),
        (
            [np.nan, 1.0, 1.0],
            "of the 2 layers with a value, none changed: rsa is 1.0000 in all of them.",
        ),
    ],
    ids=["top", "first", "middle", "tie", "none", "all", "one", "one-nan", "nan", "none-nan"],
)
def test_summary_follows_the_numbers(layers, sentence):
    table = build({"a": {"rsa": layers, "cka": layers}})
    assert html.summary_sentences(table) == [f"On a, {sentence}"]


def test_summary_says_when_there_is_no_value():
    table = build({"a": {"rsa": [np.nan, np.nan]}})
    assert html.summary_sentences(table) == ["On a, rsa has no value in any layer."]


@pytest.mark.parametrize(
    ("measures", "spoken"),
    [
        ({"cosine": 0.5, "cka": 0.6, "rsa": 0.7}, "rsa is 0.7000"),
        ({"cosine": 0.5, "cka": 0.6, "rsa_dot": 0.7}, "cka is 0.6000"),
        ({"l2": 3.0, "cosine": 0.5, "svcca": 0.7}, "svcca is 0.7000"),
        ({"l2": 3.0, "procrustes": 0.5}, "procrustes is 0.5000 there (0 = unchanged)"),
    ],
    ids=["rsa", "cka", "similarity", "distance"],
)
def test_summary_speaks_of_the_preferred_measure(measures, spoken):
    values = {name: [MEASURES[name].unchanged, value] for name, value in measures.items()}
    (sentence,) = html.summary_sentences(build({"a": values}))
    assert "layer 1 (the top) changed most" in sentence
    assert spoken in sentence


@pytest.mark.parametrize(
    ("tops", "sentence"),
    [
        ({"a": 0.7, "b": 0.6}, "b changed more than a: rsa is 0.6000 against 0.7000."),
        ({"a": 0.5, "b": 0.6}, "a changed more than b: rsa is 0.5000 against 0.6000."),
        ({"a": 0.6, "b": 0.6}, "a and b changed equally: rsa is 0.6000."),
        (
            {"a": 0.7, "b": -0.1, "c": 0.6},
            "from most to least changed by rsa: b -0.1000, c 0.6000, a 0.7000.",
        ),
        (
            {"a": 0.7, "b": np.nan, "c": 0.6},
            "c changed more than a: rsa is 0.6000 against 0.7000; no value there on b.",
        ),
    ],
    ids=["second", "first", "equal", "three", "nan"],
)
def test_summary_compares_corpora_at_the_top(tops, sentence):
    table = build({corpus: {"rsa": [1.0, 0.1, top]} for corpus, top in tops.items()})
    sentences = html.summary_sentences(table)
    assert len(sentences) == len(tops) + 1
    assert sentences[-1] == f"At the top layer, 2, {sentence}"


def test_summary_of_distances_turns_the_comparison_around():
    table = build({"a": {"procrustes": [0.0, 0.2]}, "b": {"procrustes": [0.0, 0.9]}})
    assert "b changed more than a" in html.summary_sentences(table)[-1]


def test_summary_gives_intervals_where_there_are_any():
    table = build({"a": {"rsa": [1.0, 0.5]}}).assign(low=[0.99, 0.4], high=[1.0, 0.6])
    assert "0.5000 [0.400, 0.600] there" in html.summary_sentences(table)[0]


def check_text(figure):
    """Every text lies inside the figure, and none on another."""
    figure.draw_without_rendering()
    shown = list(figure.texts)
    for ax in figure.axes:
        shown += [ax.get_title(loc="left") and ax._left_title, ax.xaxis.label, ax.yaxis.label]
        shown += ax.texts
        if ax.axison:
            shown += [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.yaxis.get_offset_text()]
    shown = [text for text in shown if text and text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in shown]
    inside = figure.bbox
    for at, box in enumerate(boxes):
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1, shown[at]
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1, shown[at]
        for other, beside in zip(shown, boxes[:at], strict=False):
            across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            along = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert across < 1 or along < 1, (shown[at], other)


@pytest.mark.parametrize("corpora", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 2, 13, 49])
@pytest.mark.parametrize("count", [1, 5, len(MEASURES)])
def test_figure_keeps_its_text_inside_and_apart(corpora, layers, count):
    names = [f"{at}/A/WIDE/PATH/TO/A/CORPUS.CONLLU" for at in range(corpora)]
    table = falling(names, layers, tuple(MEASURES)[:count])
    check_text(figures.layer_figure(table.assign(pretrained="WIDE/" * 30, finetuned="M" * 99)))


@pytest.mark.parametrize("lowest", [-0.3, 0.2, 0.98])
@pytest.mark.parametrize("farthest", [0.0, 1e-6, 0.0125, 0.3, 12.0, 4321.0, 1e7])
def test_figure_has_room_for_numbers_of_any_size(lowest, farthest):
    table = build({"a": {"l2": [0.0, farthest], "procrustes": [0.0, 0.0125], "rsa": [1.0, lowest]}})
    check_text(figures.layer_figure(table))
    check_text(figures.layer_figure(table[table["measure"] == "l2"]))


def test_titles_stay_level_beside_a_power_of_ten():
    table = build({corpus: {"l2": [0.0, 1e7]} for corpus in ("a", "b")})
    figure = figures.layer_figure(table)
    figure.draw_without_rendering()
    assert figure.axes[0].yaxis.get_offset_text().get_text()
    assert len({ax._left_title.get_window_extent().y0 for ax in figure.axes[:2]}) == 1


def test_names_are_not_taken_for_mathematics():
    table = build({"$x_1$": {"rsa": [1.0, 0.5]}}, pretrained="$y_2$")
    svg = figures.svg_text(figures.layer_figure(table))
    assert ">$x_1$</text>" in svg
    assert ">$y_2$ → tuned</text>" in svg


@pytest.mark.parametrize(
    ("measures", "rows"),
    [(("rsa",), 1), (("l2",), 1), (("rsa", "procrustes"), 2), (("rsa", "procrustes", "l2"), 3)],
    ids=["similarity", "l2", "two", "three"],
)
def test_figure_has_only_the_panels_it_needs(measures, rows):
    figure = figures.layer_figure(falling(("a", "b"), 3, measures))
    assert len(figure.axes) == rows * 3
    assert [label for label in measures if label in texts(figure)] == list(measures)


def test_figure_draws_the_values_of_each_corpus_on_shared_axes():
    table = build({"a": {"rsa": [1.0, 0.9]}, "b": {"rsa": [0.8, -0.3]}})
    left, right, _ = figures.layer_figure(table).axes
    assert [list(ax.lines[-1].get_ydata()) for ax in (left, right)] == [[1.0, 0.9], [0.8, -0.3]]
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] < -0.3 < 1.0 < left.get_ylim()[1]


def test_figure_does_not_blow_up_noise_near_unchanged():
    low, high = figures.layer_figure(build({"a": {"rsa": [1.0, 0.9999]}})).axes[0].get_ylim()
    assert high - low >= 0.1


@pytest.mark.parametrize("layers", [[0], [0, 1], range(13), range(49), [0, 6, 12], range(200)])
def test_layer_ticks_are_layers(layers):
    table = build({"a": {"rsa": dict.fromkeys(layers, 0.5)}})
    ticks = figures.layer_figure(table).axes[0].get_xticks()
    assert set(ticks) <= set(layers)
    assert 1 <= len(ticks) <= 25


def test_a_measure_looks_the_same_whatever_stands_beside_it():
    def style(measures):
        ax = figures.layer_figure(falling(measures=measures)).axes[0]
        return ax.lines[-1].get_color(), ax.lines[-1].get_marker()

    assert style(("pwcca",)) == style(("rsa", "cca", "pwcca"))
    every = [figures._line(name) for name in MEASURES]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in every}
    assert len(looks) == len(MEASURES)


def test_intervals_are_shaded_where_present():
    table = build({"a": {"rsa": [1.0, 0.8, 0.6]}})
    assert not figures.layer_figure(table).axes[0].collections
    table = table.assign(low=table["value"] - 0.1, high=table["value"] + 0.1)
    ax = figures.layer_figure(table).axes[0]
    assert ax.collections
    assert ax.get_ylim()[0] < 0.5 < 1.1 < ax.get_ylim()[1]


def test_a_value_between_gaps_is_marked():
    table = build({"a": {"rsa": {layer: 0.5 if layer == 31 else np.nan for layer in range(49)}}})
    assert 31 in figures.layer_figure(table).axes[0].lines[-1].get_markevery()


def test_figure_without_any_value_can_be_drawn():
    assert "rsa" in figures.svg_text(figures.layer_figure(build({"a": {"rsa": [np.nan] * 3}})))


def test_figure_changes_no_global_state():
    before = dict(matplotlib.rcParams)
    figures.svg_text(figures.layer_figure(falling()))
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys; from bertft.report import figures, html; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figure_does_not_depend_on_the_style_in_force():
    table = falling()
    plain = figures.svg_text(figures.layer_figure(table))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20, "lines.marker": "x"}):
        assert figures.svg_text(figures.layer_figure(table)) == plain


def test_svg_is_deterministic_and_well_formed(tmp_path):
    table = falling(("ewt", HOSTILE, "語料庫"), 13)
    for name in ("one.svg", "two.svg"):
        figures.write_svg(figures.layer_figure(table), tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]
    assert b"date" not in one
    assert "語料庫" in "".join(ElementTree.fromstring(one).itertext())
    figure = figures.layer_figure(table)
    assert figures.svg_text(figure) == figures.svg_text(figure) == one.decode()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(OSError, match="taken"):
        figures.write_svg(figures.layer_figure(falling()), tmp_path / "taken.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["taken.svg"]


PROVENANCE = {
    "bertft": "0.1.0",
    "created": "2026-01-02T03:04:05",
    "models": {"pretrained": {"name": "base", "fingerprint": "f00d"}},
    "corpora": [{"name": "ewt", "rows": 25094}, {"name": "wiki", "texts": 7}],
    "options": {"ridge": None, "measures": ["rsa", "cka"], "empty": {}, "nothing": []},
    "diagnostics": [
        {"corpus": "ewt", "layer": 3, "rank_pretrained": 767, "condition_pretrained": 12.345678901}
    ],
    "notes": ["left out: cca, because n <= d"],
}


def test_template_is_package_data():
    assert resources.files("bertft.report").joinpath("template.html").is_file()


@pytest.mark.parametrize("provenance", [{}, PROVENANCE], ids=["bare", "full"])
def test_page_asks_nothing_of_the_network(provenance):
    page = report(falling(("ewt", "wiki"), 7), provenance)
    assert not re.search(r"https?:|\bsrc\b|<script|url\(|@import|<link|<iframe|javascript:", page)
    links = [attrs[key] for _, attrs in Page(page).elements for key in attrs if "href" in key]
    assert links
    assert all(link.startswith("#") for link in links)


def test_page_is_valid_and_accessible():
    page = Page(report(falling(("ewt", "wiki"), 5), PROVENANCE))
    assert page.elements[0] == ("html", {"lang": "en"})
    assert [page.count(tag) for tag in ("title", "h1", "main", "header", "svg")] == [1] * 5
    assert all(attrs.get("scope") for tag, attrs in page.elements if tag == "th")
    values = [attrs for tag, attrs in page.elements if tag == "table"]
    assert len(values) == 2 + 1 + 1 + 1
    assert page.count("caption") == 4
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    referred = {
        attrs["aria-labelledby"] for _, attrs in page.elements if "aria-labelledby" in attrs
    }
    assert referred <= set(ids)


def test_page_keeps_its_order():
    page = report(falling(), PROVENANCE)
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == [
        "Summary",
        "Every measure over the layers",
        "Layer by layer",
        "How to read the numbers",
        "Diagnostics",
        "Notes",
        "Provenance",
    ]


def test_page_without_provenance_leaves_the_empty_sections_out():
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", report(falling()))
    assert headings[-1] == "How to read the numbers"


def test_page_renders_any_provenance():
    page = Page(report(falling(), PROVENANCE | {"surprise": {"deep": [{"a": [1, {"b": 2}]}, 3.5]}}))
    text = page.text["main"]
    for word in ("f00d", "25094", "767", "left out: cca", "rsa, cka", "surprise", "3.5", "none"):
        assert word in text
    assert "0.1.0, 2026-01-02T03:04:05" in page.text["footer"]


@pytest.mark.parametrize(
    "provenance",
    [
        {"notes": "a lone note"},
        {"notes": None, "diagnostics": None},
        {"diagnostics": []},
        {"diagnostics": {"ewt": {"rank": 3}}},
        {"diagnostics": ["a", {"b": 1}]},
        {"diagnostics": "rank 3"},
        {"corpora": [{"name": "ewt"}, "wiki"]},
    ],
    ids=["note", "none", "empty", "mapping", "mixed", "text", "corpora"],
)
def test_page_takes_provenance_of_other_shapes(provenance):
    Page(report(falling(), provenance))


def test_every_name_is_escaped():
    table = build({HOSTILE: {"rsa": [1.0, 0.5]}}, pretrained=HOSTILE, finetuned=HOSTILE)
    hostile = {
        HOSTILE: HOSTILE,
        "nested": {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
        "bertft": HOSTILE,
        "created": HOSTILE,
        "diagnostics": [{HOSTILE: HOSTILE}],
        "notes": [HOSTILE],
    }
    text = report(table, hostile)
    page = Page(text)
    assert page.count("script") == 0
    assert "<script" not in text
    assert page.text["h1"].count(HOSTILE) == 2
    assert page.text["main"].count(HOSTILE) > 8


def test_values_stand_in_their_cells_and_change_is_shaded():
    table = build({"a": {"rsa": [1.0, 0.75, np.nan], "l2": [-1e-9, 0.5, 12345.678]}})
    page = report(table)
    assert '<th scope="row">1</th>' in page
    assert '<td class="heat" style="--change: 0.50">0.7500</td>' in page
    for cell in (
        "<td>1.0000</td>",
        "<td>0.0000</td>",
        "<td>0.5000</td>",
        "<td>—</td>",
        "<td>12,345.7</td>",
    ):
        assert cell in page


def test_a_table_says_how_many_rows_it_rests_on():
    table = build({"a": {"rsa": [1.0, 0.5]}}, n=25094)
    assert "n = 25,094 rows" in report(table)
    assert "n = 90 to 25,094 rows" in report(table.assign(n=[90, 25094]))
    assert "n = " not in report(table.assign(n=np.nan))


def test_how_to_read_lists_the_measures_present():
    text = Page(report(falling(measures=("rsa", "procrustes_angle")))).text["main"]
    assert MEASURES["rsa"].question in text
    assert "0 to π/2 rad" in text
    assert MEASURES["cka"].question not in text


def test_page_says_when_pairs_of_layers_are_left_out():
    table = build({"a": {"rsa": [1.0, 0.5]}})
    crossed = table.assign(finetuned_layer=1 - table["finetuned_layer"])
    assert "2 rows of the table compare differently numbered layers" in report(
        pd.concat([table, crossed])
    )


@pytest.mark.parametrize("layers", [1, 2, 49])
@pytest.mark.parametrize("corpora", [1, 4])
def test_page_takes_any_size(layers, corpora):
    page = Page(report(falling([f"corpus {at}" for at in range(corpora)], layers)))
    assert page.count("h3") == corpora
    assert sum(attrs.get("scope") == "row" for _, attrs in page.elements) == (
        corpora * layers + len(MEASURES)
    )


def test_the_figure_loses_its_prolog():
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "x" "http://example.org/svg.dtd">\n'
        '<svg xmlns:xlink="http://x" width="720pt" viewBox="0 0 1 1" xmlns="http://y">'
        "<metadata>http://z</metadata><g/></svg>"
    )
    page = html.render(falling(), {}, svg)
    figure = page[page.index("<svg") : page.index("</svg>")]
    assert figure.endswith('width="720pt" viewBox="0 0 1 1"><g/>')
    assert 'style="--least: 576pt; --most: 792pt"' in figure


def test_something_else_than_svg_is_refused():
    with pytest.raises(
        ValueError, match=r"\[render\] svg must hold an SVG element, got 'layers.svg'"
    ):
        html.render(falling(), {}, "layers.svg")


def test_vocabulary_has_no_measure_that_needs_another_to_be_understood():
    assert not [m for m in vocabulary.MEASURES.values() if "same" in m.question.split(" ")[:2]]


def shrunken(values, unchanged):
    """A table of CCA with a ridge."""
    return build({"ewt": {"cca": values}}).assign(unchanged=unchanged)


def test_with_a_ridge_change_is_measured_from_what_unchanged_layers_give():
    table = shrunken([0.9, 0.6, 0.65], [0.9, 0.7, 0.8])
    [sentence] = html.summary_sentences(table)
    assert "layer 2 (the top) changed most: cca is 0.6500 there (0.8000 = unchanged)" in sentence
    [same] = html.summary_sentences(shrunken([0.9, 0.7], [0.9, 0.7]))
    assert same == "On ewt, no layer changed: cca is what unchanged layers give in all of them."
    page = report(table, {})
    assert "What to hold the values against" in page
    assert "<td>0.7000 to 0.9000</td><td>lower</td>" in page
    [dotted] = [line for line in figures.layer_figure(table).axes[0].lines if line._dash_pattern[1]]
    np.testing.assert_array_equal(dotted.get_ydata(), [0.9, 0.7, 0.8])
    assert heatmaps.heat_figure(table).axes[0].collections[0].norm.vmax == 0.9


def test_numbers_of_a_record_have_six_digits():
    page = report(falling(), PROVENANCE)
    assert "12.3457" in page
    assert "12.34567" not in page
