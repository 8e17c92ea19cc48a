"""The figure of a comparison: every measure over the layers, one column of panels per corpus.

Sizes are fixed in inches instead of solved for, so that nothing overlaps at any number of layers,
corpora and measures. Owns no words (`vocabulary`) and no global state: pyplot is never imported.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bertft.files import write_text
from bertft.report.vocabulary import MEASURES, is_shrunken, same_numbered, tuned_from

STYLE = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.limits": (-2, 4),
    "axes.formatter.useoffset": False,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.6,
    "xtick.color": "#8a8f98",
    "xtick.labelcolor": "#33373d",
    "ytick.color": "#8a8f98",
    "ytick.labelcolor": "#33373d",
    "lines.linewidth": 1.5,
}

# Okabe and Ito's colorblind-safe hues, the pale ones darkened to 3:1 contrast on white.
COLORS = {
    "RSA": "#0072b2",
    "CKA": "#d55e00",
    "Neighbors": "#7a5af5",
    "CCA": "#009e73",
    "Regression": "#b04a8f",
    "First-order": "#3a3a3a",
    "Shape": "#8c6d00",
}
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 1.6),
    (1.2, 1.4),
    (6, 1.6, 1.2, 1.6),
    (9, 3),
    (3, 1, 1, 1, 1, 1),
)
MARKERS = ("o", "s", "^", "D", "v", "P")

YLABELS = {
    "similarity": "similarity\n(1 = unchanged)",
    "distance": "distance\n(0 = unchanged)",
    "l2": "mean L2 distance\n(0 = unchanged)",
}
SHRUNKEN_YLABEL = "similarity\n(1 or dotted = unchanged)"
HEIGHTS = {"similarity": 3.0, "distance": 1.35, "l2": 1.35}
LEFT, RIGHT, TOP, BOTTOM = 0.8, 0.1, 0.62, 0.48
COLUMN_GAP, ROW_GAP, LEGEND_GAP, LEGEND_WIDTH = 0.25, 0.25, 0.2, 1.75
LEGEND_LINE, FAMILY_GAP = 0.165, 0.06


def layer_figure(table: pd.DataFrame) -> Figure:
    """Draws every measure over same-numbered layers.

    Similarities share the upper panel, Procrustes distances the one below; mean L2 has its own,
    since it has no upper bound. Only the panels that the table needs are drawn. A family of
    measures has one color, a measure its own dashes and marker, the same in every figure. Where
    `low` and `high` are present the interval is shaded. A missing value leaves a gap. Where a ridge
    keeps unchanged layers from 1, a dotted line says what they give.

    Args:
        table: the tidy table of a comparison.

    Returns:
        A figure of its own, known to no window system; save it with `write_svg` or `savefig`.

    Raises:
        ValueError: the table is not what `same_numbered` expects.
    """
    rows = same_numbered(table, "layer_figure")
    corpora = [corpus for _, corpus in rows.groupby("corpus", sort=False)]
    present = [name for name in MEASURES if name in set(rows["measure"])]
    panels = {
        panel: [name for name in present if MEASURES[name].panel == panel] for panel in HEIGHTS
    }
    panels = {panel: measures for panel, measures in panels.items() if measures}
    with matplotlib.style.context(["default", STYLE]):
        figure, grid = _canvas(len(corpora), panels)
        ticks = layer_ticks(sorted(set(rows["layer"])), room=int(width_of(grid[0][0]) / 0.24))
        for (panel, measures), axes in zip(panels.items(), grid, strict=True):
            for of_corpus, ax in zip(corpora, axes, strict=True):
                _draw_panel(ax, of_corpus, measures, ticks)
            _scale(axes, rows[rows["measure"].isin(measures)], panel)
            _add_legend(figure, axes[-1], measures)
        _label(figure, grid, corpora, ticks)
    return figure


def svg_text(figure: Figure) -> str:
    """The figure as SVG; the same figure gives the same text, with no date and no random id.

    Text stays text, so it can be selected and searched, and scales with the page.
    """
    buffer = io.StringIO()
    with (
        matplotlib.rc_context({"svg.hashsalt": "bertft", "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        # The reader's browser picks the font, so a glyph that is missing here is not lost.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=metadata)
    return buffer.getvalue()


def write_svg(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure as SVG, atomically; the same figure gives the same bytes."""
    write_text(Path(path), svg_text(figure))


def _canvas(columns: int, panels: dict[str, list[str]]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one row of axes per panel, placed in inches from the upper left."""
    width = max(2.4, 5.6 / columns**0.6)
    heights = [_panel_height(panel, panels) for panel in panels]
    total_width = LEFT + columns * (width + COLUMN_GAP) - COLUMN_GAP
    total_width += LEGEND_GAP + LEGEND_WIDTH + RIGHT
    total_height = TOP + sum(heights) + ROW_GAP * (len(heights) - 1) + BOTTOM
    figure = Figure(figsize=(total_width, total_height))
    grid, edge = [], total_height - TOP
    for height in heights:
        edge -= height
        lefts = [LEFT + at * (width + COLUMN_GAP) for at in range(columns)]
        boxes = [
            (left / total_width, edge / total_height, width / total_width, height / total_height)
            for left in lefts
        ]
        grid.append([figure.add_axes(box) for box in boxes])
        edge -= ROW_GAP
    return figure, grid


def _panel_height(panel: str, panels: dict[str, list[str]]) -> float:
    """Room for the lines and for the legend beside them, in inches."""
    smallest = HEIGHTS["similarity"] if len(panels) == 1 else HEIGHTS[panel]
    families = len({MEASURES[name].family for name in panels[panel]})
    legend = (len(panels[panel]) + families) * LEGEND_LINE + (families - 1) * FAMILY_GAP
    return max(smallest, legend)


def _line(measure: str) -> Line2D:
    """An empty line in the style that the measure has in every figure."""
    family = MEASURES[measure].family
    at = [name for name in MEASURES if MEASURES[name].family == family].index(measure)
    color = COLORS[family]
    line = Line2D([], [], color=color, marker=MARKERS[at], markersize=3.6, clip_on=False)
    line.set(markerfacecolor="white" if at else color, markeredgewidth=0.9)
    line.set_linestyle((0, DASHES[at]) if DASHES[at] else "-")
    return line


def _draw_panel(
    ax: Axes, rows: pd.DataFrame, measures: Sequence[str], ticks: Sequence[int]
) -> None:
    # Nothing is clipped: the limits hold every point, and a line at 1 keeps its full width.
    ax.grid(axis="y", clip_on=False)
    ax.axhline(MEASURES[measures[0]].unchanged, color="#8a8f98", linewidth=0.8, clip_on=False)
    for measure in measures:
        of_measure = rows[rows["measure"] == measure]
        layers = of_measure["layer"].to_numpy()
        value, low, high = (of_measure[name].to_numpy(float) for name in ("value", "low", "high"))
        line, alone = _line(measure), _alone(value)
        if is_shrunken(of_measure):
            unchanged = of_measure["unchanged"].to_numpy(float)
            ax.plot(layers, unchanged, color=line.get_color(), lw=0.8, ls=":", clip_on=False)
        if (low <= high).any():
            color = line.get_color()
            ax.fill_between(layers, low, high, color=color, alpha=0.15, lw=0, clip_on=False)
            ax.vlines(layers[alone], low[alone], high[alone], color=color, lw=1, clip_on=False)
        line.set_data(layers, value)
        line.set_markevery(np.flatnonzero(alone | np.isin(layers, ticks)).tolist())
        ax.add_line(line)


def _alone(value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values have no neighbor to be joined to by a line."""
    present = np.isfinite(np.pad(value, 1, constant_values=np.nan))
    alone: NDArray[np.bool_] = present[1:-1] & ~present[:-2] & ~present[2:]
    return alone


def _scale(axes: Sequence[Axes], rows: pd.DataFrame, panel: str) -> None:
    """Gives a row of panels the same limits, with the unchanged value inside."""
    drawn = rows[["value", "low", "high"]].to_numpy(float)
    seen = np.append(drawn[np.isfinite(drawn)], 1.0 if panel == "similarity" else 0.0)
    lowest, highest = float(seen.min()), float(seen.max())
    if panel == "similarity":
        # At least a tenth is shown, so that noise near 1 does not look like change.
        lowest = min(lowest, 0.9)
    elif highest == 0:
        highest = 1.0
    margin = 0.03 * (highest - lowest)
    for at, ax in enumerate(axes):
        ax.set_ylim(lowest - margin, highest + margin)
        # Ticks left to the moment of drawing would take the style in force then.
        ax.set_yticks([tick for tick in ax.get_yticks() if lowest <= tick <= highest + margin])
        ax.tick_params(labelleft=at == 0)
        # A power of ten stays left of the axis, clear of the title.
        power = ax.yaxis.get_offset_text()
        power.set(x=-0.08 / width_of(ax), horizontalalignment="right", visible=at == 0)
    shrunken = any(is_shrunken(of) for _, of in rows.groupby("measure"))
    axes[0].set_ylabel(SHRUNKEN_YLABEL if shrunken else YLABELS[panel])
    axes[0].yaxis.set_label_coords(-0.46 / width_of(axes[0]), 0.5)


def _add_legend(figure: Figure, beside: Axes, measures: Sequence[str]) -> None:
    """Lists the measures under their families, right of a panel, in a frame ruled in inches."""
    panel, (width, height) = beside.get_position(), figure.get_size_inches()
    inches = panel.height * height
    box = (panel.x1 + LEGEND_GAP / width, panel.y0, LEGEND_WIDTH / width, panel.height)
    frame = figure.add_axes(box, xlim=(0, LEGEND_WIDTH), ylim=(inches, 0))
    frame.set_axis_off()
    y, family = LEGEND_LINE / 2, ""
    for measure in measures:
        if MEASURES[measure].family != family:
            y += FAMILY_GAP if family else 0
            family = MEASURES[measure].family
            frame.text(0, y, family, color=COLORS[family], weight="bold", va="center_baseline")
            y += LEGEND_LINE
        line = _line(measure)
        line.set_data([0, 0.2, 0.4], [y] * 3)
        line.set_markevery([1])
        frame.add_line(line)
        unit = " (rad)" if measure == "procrustes_angle" else ""
        frame.text(0.48, y, measure + unit, va="center_baseline")
        y += LEGEND_LINE


def _label(
    figure: Figure,
    grid: Sequence[Sequence[Axes]],
    corpora: Sequence[pd.DataFrame],
    ticks: Sequence[int],
) -> None:
    """Names the models, the corpora and the layers."""
    width, height = figure.get_size_inches()
    rows = pd.concat(corpora)
    models = (elide(of, room=44) for of in (str(rows["pretrained"].iloc[0]), tuned_from(rows)))
    title = figure.text(LEFT / width, 1 - 0.12 / height, " → ".join(models), parse_math=False)
    title.set(color="#5c6370", verticalalignment="top")
    layers = rows["layer"]
    for axes in grid:
        for ax in axes:
            ax.set(xlim=(layers.min() - 0.35, layers.max() + 0.35), xticks=ticks)
            ax.tick_params(labelbottom=axes is grid[-1])
    for corpus, upper, lower in zip(corpora, grid[0], grid[-1], strict=True):
        name = elide(str(corpus["corpus"].iloc[0]), room=int(width_of(upper) / 0.09))
        upper.set_title(name, loc="left", y=1.0, parse_math=False)
        lower.set_xlabel("layer (0 = embeddings)")


def width_of(ax: Axes) -> float:
    """Width in inches."""
    return float(ax.bbox.width / ax.figure.dpi)


def layer_ticks(layers: Sequence[int], room: int) -> list[int]:
    """At most `room` layers to label: all of them, or the multiples of a round step."""
    if len(layers) <= room:
        return list(layers)
    step = next(
        step
        for step in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, layers[-1] + 1)
        if layers[-1] // step - layers[0] // step + 1 <= room
    )
    return [layer for layer in range(layers[0], layers[-1] + 1) if layer % step == 0]


def on_one_line(text: str) -> str:
    """The text with a space for each character that has no glyph: XML forbids some of these."""
    return "".join(char if char.isprintable() else " " for char in text)


def elide(text: str, room: int) -> str:
    """At most `room` characters on one line; the middle goes first, the end of a path stays."""
    line = on_one_line(text)
    if len(line) <= room:
        return line
    tail = (room - 1) * 2 // 3
    return f"{line[: room - 1 - tail]}…{line[-tail:]}"
