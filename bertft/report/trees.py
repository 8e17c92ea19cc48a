"""Pictures of what structural probes see of one sentence: its trees as arcs, and its distances.

Owns the drawing. Which sentence it is, and what the probes say of it, is told by the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc

from bertft.report.figures import COLORS, STYLE, elide, on_one_line
from bertft.report.probing_vocabulary import LEXICAL, labels_of

FIELDS = ("model", "layer", "words", "kept", "gold", "predicted", "gold_edges", "predicted_edges")
RIGHT, WRONG, MUTED = COLORS["RSA"], COLORS["CKA"], "#5c6370"
INCH_PER_LETTER, WORD_GAP, MARGIN, TITLE = 0.066, 0.2, 0.3, 0.3
ARC_HEIGHT, LINE = 0.22, 0.3
CELL, MATRIX_GAP = 0.2, 0.3


def tree_figure(sentences: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws a sentence's tree above its words, and below them the one that each probe finds.

    Arcs have no direction. Those that both trees have are blue, the others orange and dashed. Words
    that are left out, as punctuation is, are pale.

    Args:
        sentences: one for each model, with `FIELDS`: the words, whether each is `kept`, and the
            edges of both trees as pairs of numbers from 0.

    Raises:
        ValueError: no sentence, one that lacks a field, or several with other words.
    """
    _check(sentences, "tree_figure")
    words = [on_one_line(str(word)) for word in sentences[0]["words"]]
    widths = [INCH_PER_LETTER * max(len(word), 2) + WORD_GAP for word in words]
    centers = MARGIN + np.cumsum(widths) - np.array(widths) / 2
    across = max(float(np.sum(widths)), 3.0) + 2 * MARGIN
    above = [_levels(own["gold_edges"]) for own in sentences]
    below = [_levels(own["predicted_edges"]) for own in sentences]
    heights = [
        TITLE + LINE + ARC_HEIGHT * (_deepest(up) + _deepest(down) + 1)
        for up, down in zip(above, below, strict=True)
    ]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(across, sum(heights) + 0.1))
        top = sum(heights)
        for own, up, down, height in zip(sentences, above, below, heights, strict=True):
            top -= height
            box = (0, (top + 0.05) / (sum(heights) + 0.1), 1, height / (sum(heights) + 0.1))
            ax = figure.add_axes(box, xlim=(0, across), ylim=(0, height))
            ax.set_axis_off()
            middle = ARC_HEIGHT * (_deepest(down) + 0.5) + LINE / 2
            _draw_words(ax, words, own["kept"], centers, middle)
            _draw_arcs(ax, up, centers, middle + LINE / 2, set(down))
            _draw_arcs(ax, down, centers, middle - LINE / 2, set(up), below=True)
            title = ax.text(MARGIN, height - 0.06, _title(own, sentences), parse_math=False)
            title.set(verticalalignment="top", color=MUTED)
    return figure


def distance_figure(sentences: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the distances between the words of a sentence: in its tree, and by each probe.

    All tables have one scale, from 0 to the largest distance in the tree; what is further is as
    dark as that.

    Args:
        sentences: one for each model, with `FIELDS`: `gold` and `predicted` hold a table each.

    Raises:
        ValueError: no sentence, one that lacks a field, or several with other words.
    """
    _check(sentences, "distance_figure")
    words = [elide(str(word), room=12) for word in sentences[0]["words"]]
    size, text = max(CELL * len(words), 1.2), INCH_PER_LETTER * max(map(len, words)) + 0.15
    tables = {"the tree": np.asarray(sentences[0]["gold"], float)}
    for own in sentences:
        tables[_title(own, sentences)] = np.asarray(own["predicted"], float)
    most = float(tables["the tree"].max()) or 1.0
    width = text + len(tables) * (size + MATRIX_GAP) + 0.75
    height = TITLE + size + text + 0.1
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height))
        for at, (title, table) in enumerate(tables.items()):
            left = text + at * (size + MATRIX_GAP)
            box = (left / width, (text + 0.1) / height, size / width, size / height)
            ax = figure.add_axes(box)
            image = ax.imshow(table, cmap="Blues", vmin=0, vmax=most, aspect="auto")
            ax.grid(visible=False)
            ax.set_title(elide(title, room=max(8, int(size / 0.075))), loc="left", parse_math=False)
            ax.set_xticks(range(len(words)), labels=words, rotation=90)
            ax.set_yticks(range(len(words)), labels=words if at == 0 else [""] * len(words))
            ax.tick_params(length=0)
            for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
                label.set_parse_math(False)
        left = text + len(tables) * (size + MATRIX_GAP)
        bar = figure.add_axes((left / width, (text + 0.1) / height, 0.1 / width, size / height))
        figure.colorbar(image, cax=bar)
        bar.set_ylabel("arcs")
    return figure


def _check(sentences: Sequence[Mapping[str, Any]], function: str) -> None:
    missing = [name for own in sentences for name in FIELDS if name not in own]
    if missing or not sentences:
        raise ValueError(
            f"[{function}] sentences must be at least one, each with {', '.join(FIELDS)}, got "
            f"{len(sentences)} without {', '.join(dict.fromkeys(missing)) or 'any field'}; pass "
            "those of a run of structural probes."
        )
    if len(different := {tuple(own["words"]): own["model"] for own in sentences}) > 1:
        raise ValueError(
            f"[{function}] sentences must be one and the same for all models, got others for "
            f"{' and '.join(map(str, different.values()))}; draw them one by one."
        )


def _title(own: Mapping[str, Any], sentences: Sequence[Mapping[str, Any]]) -> str:
    labels = labels_of([str(other["model"]) for other in sentences])
    layer = "embeddings" if own["layer"] == LEXICAL else f"layer {own['layer']}"
    return on_one_line(f"{labels[str(own['model'])]}, {layer}")


def _levels(edges: Sequence[Sequence[int]]) -> dict[tuple[int, int], int]:
    """How high each arc stands: above all arcs between its ends."""
    levels: dict[tuple[int, int], int] = {}
    ordered = sorted(((min(edge), max(edge)) for edge in edges), key=lambda e: (e[1] - e[0], e))
    for first, last in ordered:
        inside = [level for (a, b), level in levels.items() if first <= a and b <= last]
        levels[first, last] = 1 + max(inside, default=0)
    return levels


def _deepest(levels: Mapping[tuple[int, int], int]) -> int:
    return max(levels.values(), default=0)


def _draw_words(
    ax: Axes, words: Sequence[str], kept: Sequence[bool], centers: Any, y: float
) -> None:
    for word, is_kept, x in zip(words, kept, centers, strict=True):
        color = "#33373d" if is_kept else "#a4a9b1"
        text = ax.text(x, y, word, parse_math=False, color=color)
        text.set(horizontalalignment="center", verticalalignment="center")


def _draw_arcs(
    ax: Axes,
    levels: Mapping[tuple[int, int], int],
    centers: Any,
    y: float,
    other: set[tuple[int, int]],
    *,
    below: bool = False,
) -> None:
    for edge, level in levels.items():
        left, right = (centers[i] for i in edge)
        size = (right - left, 2 * ARC_HEIGHT * level)
        angles = {"theta1": 180, "theta2": 360} if below else {"theta1": 0, "theta2": 180}
        arc = Arc(((left + right) / 2, y), *size, **angles)
        arc.set(edgecolor=RIGHT if edge in other else WRONG, linewidth=1.1)
        arc.set_linestyle("-" if edge in other else (0, (3, 1.5)))
        ax.add_patch(arc)
