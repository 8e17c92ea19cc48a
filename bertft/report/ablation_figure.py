"""The figure of an ablation: a row of panels per task, layers frozen left and layers kept right.

Sizes are fixed in inches, and the look is that of `figures`. Owns no number and no global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bertft.report.ablation_table import headline, name_of, scores, summarize
from bertft.report.figures import (
    COLORS,
    DASHES,
    LEGEND_LINE,
    MARKERS,
    STYLE,
    elide,
    layer_ticks,
    width_of,
)

XLABELS = {
    "freeze": "layers frozen, from the bottom (0 = full model)",
    "keep": "layers kept, from the bottom ({depth} = full model)",
}
PALETTE = tuple(COLORS.values())
MUTED = "#5c6370"
PANEL_WIDTH, PANEL_HEIGHT, LABEL_HEIGHT = 3.0, 1.8, 0.42
LEFT, RIGHT, TOP, BOTTOM = 0.8, 0.1, 0.62, 0.88
COLUMN_GAP, ROW_GAP, LABEL_GAP, LABEL_WIDTH = 0.3, 0.8, 0.12, 1.9
DODGE, BESIDE = 0.11, 0.05
LEAST_SPAN = 2.0


class _Series(NamedTuple):
    """What is drawn of one corpus by one measure; `full` is NaN where there is no full model."""

    corpus: str
    look: int
    dodge: float
    means: pd.DataFrame
    seeds: pd.DataFrame
    full: float


def ablation_figure(table: pd.DataFrame) -> Figure:
    """Draws each task's headline measure over the layers frozen, and over the layers kept.

    Both panels of a task share their limits. A corpus has its own color, dashes and marker; a thin
    line crosses both panels at its full model, whose value stands to the right. A filled marker is
    a mean over seeds, with its 95 % interval as a bar and each seed as a faint point; a hollow
    marker is a single seed.

    Args:
        table: the tidy table of an ablation, finished or not.

    Returns:
        A figure of its own, known to no window system; save it with `figures.write_svg`.

    Raises:
        ValueError: the table is not what `ablation_table.scores` expects.
    """
    rows, means = scores(table, "ablation_figure"), summarize(table)
    tasks = {str(task): of for task, of in means.groupby("task", sort=False)}
    columns = [name for name in XLABELS if name in set(means["ablation"])] or list(XLABELS)
    with matplotlib.style.context(["default", STYLE]):
        figure, grid = _canvas(len(columns), [of["corpus"].nunique() for of in tasks.values()])
        for (task, of_task), axes in zip(tasks.items(), grid, strict=True):
            series = _series(of_task, rows[rows["task"] == task])
            for column, ax in zip(columns, axes, strict=True):
                layers = means.loc[means["ablation"] == column, "layers"]
                _scale_layers(ax, column, sorted(set(layers)), int(rows["depth"].iloc[0]))
                _draw_panel(ax, column, series)
            _scale_values(axes, series)
            _label_corpora(figure, axes[-1], series)
            axes[0].set_title(name_of(task), loc="left", parse_math=False)
            axes[0].set_ylabel(f"{name_of(headline(of_task))} (%)", parse_math=False)
            axes[0].yaxis.set_label_coords(-0.46 / PANEL_WIDTH, 0.5)
        _annotate(figure, str(rows["model"].iloc[0]), set(means["seeds"]))
    return figure


def _canvas(columns: int, corpora: Sequence[int]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one row of axes per task, placed in inches from the upper left."""
    heights = [max(PANEL_HEIGHT, count * LABEL_HEIGHT) for count in corpora]
    width = LEFT + columns * (PANEL_WIDTH + COLUMN_GAP) - COLUMN_GAP
    width += LABEL_GAP + LABEL_WIDTH + RIGHT
    height = TOP + sum(heights) + ROW_GAP * (len(heights) - 1) + BOTTOM
    figure = Figure(figsize=(width, height))
    grid, edge = [], height - TOP
    for panel in heights:
        edge -= panel
        lefts = [LEFT + at * (PANEL_WIDTH + COLUMN_GAP) for at in range(columns)]
        boxes = [
            (left / width, edge / height, PANEL_WIDTH / width, panel / height) for left in lefts
        ]
        grid.append([figure.add_axes(box) for box in boxes])
        edge -= ROW_GAP
    return figure, grid


def _series(means: pd.DataFrame, rows: pd.DataFrame) -> list[_Series]:
    """The headline measure of a task on each of its corpora."""
    means, rows = (of[of["measure"] == headline(means)] for of in (means, rows))
    corpora = list(dict.fromkeys(means["corpus"]))
    found = []
    for look, corpus in enumerate(corpora):
        of_corpus = means[means["corpus"] == corpus]
        full = of_corpus.loc[of_corpus["ablation"] == "full", "mean"]
        found.append(
            _Series(
                corpus=str(corpus),
                look=look,
                dodge=DODGE * (look - (len(corpora) - 1) / 2),
                means=of_corpus,
                seeds=rows[rows["corpus"] == corpus],
                full=float(full.iloc[0]) if len(full) else math.nan,
            )
        )
    return found


def _line(look: int) -> Line2D:
    """An empty line in the style of a task's first, second, ... corpus."""
    color, dashes = PALETTE[look % len(PALETTE)], DASHES[look % len(DASHES)]
    marker = MARKERS[look % len(MARKERS)]
    line = Line2D([], [], color=color, marker=marker, markersize=4.0, clip_on=False)
    line.set(markeredgewidth=0.9, linestyle=(0, dashes) if dashes else "-")
    return line


def _scale_layers(ax: Axes, column: str, layers: Sequence[int], depth: int) -> None:
    margin = 0.3 + 0.04 * depth
    shown = layers or [0, depth]
    ticks = layer_ticks(shown, room=int(width_of(ax) / 0.24))
    ax.set(xlim=(-margin, depth + margin), xticks=ticks)
    ax.set_xlabel(XLABELS[column].format(depth=depth))


def _draw_panel(ax: Axes, column: str, series: Sequence[_Series]) -> None:
    # Nothing is clipped, as in `figures`: the limits hold whatever is drawn.
    inch = np.ptp(ax.get_xlim()) / width_of(ax)
    ax.grid(axis="y", clip_on=False)
    for one in series:
        line, shift = _line(one.look), one.dodge * inch
        color = line.get_color()
        if not math.isnan(one.full):
            ax.axhline(one.full, color=color, linewidth=0.8, alpha=0.75, clip_on=False)
        means = one.means[one.means["ablation"] == column]
        at = means["layers"].to_numpy(float) + shift
        mean, low, high = (means[name].to_numpy(float) for name in ("mean", "low", "high"))
        line.set(xdata=at, ydata=mean, label=one.corpus, zorder=3)
        line.set_markevery(np.flatnonzero(means["seeds"] > 1).tolist())
        ax.add_line(line)
        # The t interval of a percentage can leave its range; the bar ends there.
        low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        ax.vlines(at, low, high, color=color, linewidth=1.2, clip_on=False)
        alone = means["seeds"].to_numpy() == 1
        hollow = _line(one.look)
        hollow.set(xdata=at[alone], ydata=mean[alone], linestyle="none", zorder=4)
        hollow.set_markerfacecolor("white")
        ax.add_line(hollow)
        several = one.seeds[one.seeds["ablation"] == column]
        several = several[several["layers"].isin(means.loc[~alone, "layers"])]
        # Beside the bar, where no marker hides them.
        points = Line2D(several["layers"] + shift + BESIDE * inch, several["value"], color=color)
        points.set(
            linestyle="none",
            clip_on=False,
            marker="o",
            markersize=2.8,
            markeredgewidth=0,
            alpha=0.5,
        )
        ax.add_line(points)
    if not any((one.means["ablation"] == column).any() for one in series):
        text = ax.text(0.5, 0.5, "no cell yet", transform=ax.transAxes, color=MUTED)
        text.set(horizontalalignment="center", verticalalignment="center")


def _scale_values(axes: Sequence[Axes], series: Sequence[_Series]) -> None:
    """Gives both panels of a task the same limits, which hold all that is drawn."""
    drawn = [one.means[name].to_numpy(float) for one in series for name in ("mean", "low", "high")]
    seen = np.concatenate([*drawn, *(one.seeds["value"].to_numpy(float) for one in series)])
    seen = np.clip(seen, 0, 100)
    lowest, highest = float(np.nanmin(seen)), float(np.nanmax(seen))
    # At least two points are shown, so that noise does not look like loss.
    pad = max(0.0, LEAST_SPAN - (highest - lowest)) / 2
    margin = 0.06 * max(highest - lowest, LEAST_SPAN)
    for at, ax in enumerate(axes):
        ax.set_ylim(lowest - pad - margin, highest + pad + margin)
        ax.yaxis.set_major_locator(MaxNLocator(5))
        # Ticks left to the moment of drawing would take the style in force then.
        low, high = ax.get_ylim()
        ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= min(high, 100)])
        ax.tick_params(labelleft=at == 0)


def _label_corpora(figure: Figure, beside: Axes, series: Sequence[_Series]) -> None:
    """Names each corpus right of its full model's line, as near to it as the others allow."""
    panel, (width, height) = beside.get_position(), figure.get_size_inches()
    inches = panel.height * height
    box = (panel.x1 + LABEL_GAP / width, panel.y0, LABEL_WIDTH / width, panel.height)
    frame = figure.add_axes(box, xlim=(0, LABEL_WIDTH), ylim=(0, inches))
    frame.set_axis_off()
    bottom, top = beside.get_ylim()
    last = np.array([one.means["mean"].to_numpy(float)[-1] for one in series])
    full = np.array([one.full for one in series])
    heights = (np.where(np.isnan(full), last, full) - bottom) / (top - bottom) * inches
    for one, y in zip(series, _spread(heights, inches), strict=True):
        line = _line(one.look)
        line.set_data([0, 0.2, 0.4], [y + LEGEND_LINE / 2] * 3)
        line.set_markevery([1])
        frame.add_line(line)
        name = frame.text(0.48, y + LEGEND_LINE / 2, elide(one.corpus, room=21), parse_math=False)
        name.set(color=line.get_color(), verticalalignment="center_baseline")
        value = ": no cell yet" if math.isnan(one.full) else f" {one.full:.2f}"
        frame.text(0.48, y - LEGEND_LINE / 2, f"full model{value}", va="center_baseline")


def _spread(heights: NDArray[np.float64], room: float) -> NDArray[np.float64]:
    """Centers of labels near these heights, none on another and all between 0 and `room`."""
    order = np.argsort(-heights, kind="stable")
    steps = LABEL_HEIGHT * np.arange(len(heights))
    lowered = np.minimum.accumulate(heights[order] + steps) - steps
    floor = LABEL_HEIGHT / 2 + steps[::-1]
    ceiling = room - LABEL_HEIGHT / 2 - steps
    spread = np.empty_like(heights)
    spread[order] = np.clip(lowered, floor, ceiling)
    return spread


def _annotate(figure: Figure, model: str, seeds: set[int]) -> None:
    """Names the model above, and tells below what the marks stand for."""
    width, height = figure.get_size_inches()
    name = elide(model, room=int((width - LEFT) / 0.08))
    title = figure.text(LEFT / width, 1 - 0.12 / height, name, parse_math=False)
    title.set(color=MUTED, verticalalignment="top")
    marks = ["Thin line: full model."]
    if max(seeds) > 1:
        marks.append(
            "Filled marker, bar: mean over seeds, 95 % interval. Faint points: single seeds."
        )
    if 1 in seeds:
        marks.append("Hollow marker: one seed only.")
    note = figure.text(LEFT / width, 0.1 / height, _wrapped(marks, room=int(width * 15.5)))
    note.set(color=MUTED, verticalalignment="bottom")


def _wrapped(sentences: Sequence[str], room: int) -> str:
    return "\n".join(textwrap.wrap(" ".join(sentences), width=room))
