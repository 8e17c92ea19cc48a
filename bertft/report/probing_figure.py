"""The figure of probes: a panel per task, with a line per model over the layers.

Sizes are fixed in inches, and the look is that of `figures`. Owns no number and no global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
from bertft.report.page import listed
from bertft.report.probing_table import averaged, base_of, checked, drawn_scores
from bertft.report.probing_vocabulary import (
    CHAIN,
    LEXICAL,
    METRICS,
    MIX,
    RANDOMIZED,
    SCORES,
    Metric,
    labels_of,
    title_of,
)

BASE_COLOR, RANDOM_COLOR, MUTED = COLORS["First-order"], "#8a8f98", "#5c6370"
# Darkest hues first, none of them near the base's or the randomized encoder's gray.
PALETTE = tuple(color for family, color in COLORS.items() if family != "First-order")
BASELINES = {MIX: (5, 3), LEXICAL: (1, 2), CHAIN: (5, 2, 1, 2)}
PANEL_WIDTHS, PANEL_HEIGHT = {1: 3.8, 2: 3.1, 3: 2.5}, 1.9
LEFT, RIGHT, TOP, BOTTOM, NOTE_LINE = 0.8, 0.1, 0.62, 0.62, 0.15
COLUMN_GAP, ROW_GAP, LEGEND_GAP, LEGEND_WIDTH = 0.72, 0.68, 0.2, 2.2
EDGE, SLOT_GAP, DODGE, WIDE_DODGE, LEAST_SPAN = 0.1, 0.12, 0.075, 0.22, 2.0


class _Look(NamedTuple):
    """How a model is drawn in every panel."""

    label: str
    color: str
    marker: str
    dashes: tuple[float, ...]


def probe_figure(table: pd.DataFrame) -> Figure:
    """Draws each task's score over the layers, a panel per task and a line per model.

    The score is micro-F1, or the first other that a task has; trees have a panel for each of their
    four. Learned mixtures of all layers stand right of the layers; the base's goes on as a dashed
    line, and a dotted one is its embedding layer alone, a dashed and dotted one the linear chain.
    Bands are those that `marks` tells. A missing value leaves a gap.

    Args:
        table: the tidy table of probes; its first model is the base.

    Returns:
        A figure of its own, known to no window system; save it with `figures.write_svg`.

    Raises:
        ValueError: the table is not what `probing_table.checked` expects.
    """
    rows = checked(table, "probe_figure")
    means, base = _drawn(averaged(rows)), base_of(rows)
    looks, kinds = _looks(list(dict.fromkeys(rows["model"])), base), set(means["probe"])
    panels = list(means.groupby(["task", "probe", "metric"], sort=False))
    metrics = [str(metric) for (*_, metric), _ in panels]
    with matplotlib.style.context(["default", STYLE]):
        note = marks(table)
        figure, axes = _canvas(len(panels), len(looks) + 2, note)
        for at, (((task, probe, _), of), ax) in enumerate(zip(panels, axes, strict=True)):
            _scale_layers(ax, of, len(looks))
            _draw_panel(ax, of, looks, base)
            _scale_values(ax, of, base, METRICS[metrics[at]])
            title = title_of(str(task), str(probe), kinds)
            ax.set_title(elide(title, room=int(width_of(ax) / 0.09)), loc="left", parse_math=False)
            beside = at % _columns(len(panels)) and metrics[at - 1] == metrics[at]
            ax.set_ylabel("" if beside else METRICS[metrics[at]].name)
            ax.yaxis.set_label_coords(-0.46 / width_of(ax), 0.5)
        _add_legend(figure, axes[_columns(len(panels)) - 1], looks, means, base)
        _annotate(figure, base, kinds)
    return figure


def marks(table: pd.DataFrame) -> list[str]:
    """What the marks of the figure stand for, in sentences.

    Raises:
        ValueError: the table is not what `probing_table.checked` expects.
    """
    means = _drawn(averaged(checked(table, "probe_figure")))
    means = means[~means["layer"].str.startswith("cumulative")]
    counts = sorted(set(means["seeds"]))
    if not counts:
        return []
    over = "1 seed" if counts == [1] else f"means over {listed([str(n) for n in counts])} seeds"
    banded = means[means["at"].notna() | (means["layer"] == MIX)]
    found = [f"Scores on dev, {over}.", *_band_marks(banded, counts)]
    if MIX in set(means["layer"]):
        found.append("mix: a learned mixture of all layers.")
    if RANDOMIZED in set(means["model"]):
        found.append("Gray: an encoder whose weights were redrawn.")
    return found


def _band_marks(means: pd.DataFrame, counts: Sequence[int]) -> list[str]:
    if counts == [1]:
        known = means[["low", "high"]].notna().all(axis=1).any()
        return ["Bands and bars: 95 % bootstrap interval over sentences."] if known else []
    kinds = [f"95 % t interval over {'3 or more ' if 2 in counts else ''}seeds"]
    kinds = kinds[: max(counts) > 2] + ["lowest to highest of 2 seeds"][: 2 in counts]
    same = (means["seeds"] > 1) & (means["seeds_low"] == means["seeds_high"])
    if same.any():
        kinds.append("95 % bootstrap interval over sentences where seeds do not differ")
    return [f"Bands and bars: {', '.join(kinds)}." + (" 1 seed has none." if 1 in counts else "")]


def _drawn(means: pd.DataFrame) -> pd.DataFrame:
    """The scores that are drawn of every task, times 100, with the ends of their bands."""
    groups = means[means["metric"].isin(SCORES)].groupby(["task", "probe"], sort=False)
    parts = [of[of["metric"].isin(drawn_scores(of))] for _, of in groups]
    found = pd.concat(parts, ignore_index=True)
    ends = ("low", "high") if (found["seeds"] == 1).all() else ("seeds_low", "seeds_high")
    # The t interval of a share or correlation can leave its range; the band ends there.
    # Seeds with one and the same value, as of probes that are solved, tell nothing.
    same = (found["seeds"] > 1) & (found["seeds_low"] == found["seeds_high"])
    least, most = (
        found["metric"].map({name: getattr(metric, end) for name, metric in METRICS.items()})
        for end in ("least", "most")
    )
    bottom, top = (
        100 * found[name].where(~same, found[of_sentences]).clip(least, most)
        for name, of_sentences in zip(ends, ("low", "high"), strict=True)
    )
    number = pd.to_numeric(found["layer"].where(found["layer"].str.isdecimal()))
    return found.assign(at=number, mean=100 * found["mean"], bottom=bottom, top=top)


def _looks(models: Sequence[str], base: str) -> dict[str, _Look]:
    """A color and a marker for each model; the base is near black, the randomized encoder gray."""
    labels, looks, at = labels_of(models), {}, 0
    for model in models:
        label = labels[model]
        if model == RANDOMIZED:
            looks[model] = _Look("randomized encoder", RANDOM_COLOR, "X", ())
        elif model == base:
            looks[model] = _Look(label, BASE_COLOR, MARKERS[0], ())
        else:
            marker = MARKERS[1 + at % (len(MARKERS) - 1)]
            dashes = DASHES[at // len(PALETTE) % len(DASHES)]
            looks[model] = _Look(label, PALETTE[at % len(PALETTE)], marker, dashes)
            at += 1
    return looks


def _columns(panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(panels, 3)


def _canvas(panels: int, lines: int, note: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, placed in inches from the upper left."""
    columns = _columns(panels)
    rows, across = math.ceil(panels / columns), PANEL_WIDTHS[columns]
    panel = max(PANEL_HEIGHT, (lines * LEGEND_LINE - ROW_GAP * (rows - 1)) / rows)
    width = LEFT + columns * (across + COLUMN_GAP) - COLUMN_GAP + LEGEND_GAP + LEGEND_WIDTH + RIGHT
    below = textwrap.wrap(" ".join(note), width=int((width - LEFT) * 16))
    bottom = BOTTOM + NOTE_LINE * len(below)
    height = TOP + rows * (panel + ROW_GAP) - ROW_GAP + bottom
    figure, axes = Figure(figsize=(width, height)), []
    for at in range(panels):
        left = LEFT + at % columns * (across + COLUMN_GAP)
        base = height - TOP - panel - at // columns * (panel + ROW_GAP)
        box = (left / width, base / height, across / width, panel / height)
        axes.append(figure.add_axes(box))
        axes[-1].set_xlabel("layer (0 = embeddings)" if at + columns >= panels else "")
    text = figure.text(LEFT / width, 0.1 / height, "\n".join(below))
    text.set(color=MUTED, verticalalignment="bottom")
    return figure, axes


def _scale_layers(ax: Axes, means: pd.DataFrame, models: int) -> None:
    """Limits and ticks: the layers, and right of them a place of fixed width for mixtures."""
    layers = sorted({int(layer) for layer in means["at"].dropna()})
    slot = max(DODGE * (models - 1), 0.2) if MIX in set(means["layer"]) else 0.0
    if not layers:
        ax.set(xlim=(-width_of(ax) / 2, width_of(ax) / 2), xlabel="")
        ax.set_xticks([0] if slot else [], labels=["mix"] if slot else [])
        return
    beside = 2 * SLOT_GAP + slot if slot else 0.0
    room = width_of(ax) - 2 * EDGE - beside
    spread, middle = max(layers[-1] - layers[0], 1), (layers[0] + layers[-1]) / 2
    inch, first, last = spread / room, middle - spread / 2, middle + spread / 2
    ticks = layer_ticks(layers, room=max(1, int(room / 0.24)))
    ax.set_xlim(first - EDGE * inch, last + (EDGE + beside) * inch)
    if slot:
        edge = last + (EDGE + SLOT_GAP / 2) * inch
        ax.axvline(edge, color="#d3d6dc", linewidth=0.8, clip_on=False)
        place = edge + (SLOT_GAP + slot / 2) * inch
        ax.set_xticks([*ticks, place], labels=[*map(str, ticks), "mix"])
    else:
        ax.set_xticks(ticks, labels=list(map(str, ticks)))


def _draw_panel(ax: Axes, means: pd.DataFrame, looks: Mapping[str, _Look], base: str) -> None:
    # Nothing is clipped, as in `figures`: the limits hold whatever is drawn.
    ax.grid(axis="y", clip_on=False)
    for layer, dashes in BASELINES.items():
        for value in means.loc[(means["layer"] == layer) & (means["model"] == base), "mean"]:
            line = ax.axhline(value, color=BASE_COLOR, linewidth=0.9, clip_on=False)
            line.set_linestyle((0, dashes))
    # The randomized encoder comes first, and lies under the models.
    order = sorted(looks, key=lambda model: (model != RANDOMIZED, model == base))
    for model in order:
        of = means[means["model"] == model]
        _draw_layers(ax, of[of["at"].notna()], looks[model])
    for at, model in enumerate(looks):
        of = means[(means["model"] == model) & (means["layer"] == MIX)]
        _draw_mix(ax, of, looks[model], at - (len(looks) - 1) / 2)
    if not means["at"].notna().any() and MIX not in set(means["layer"]):
        text = ax.text(0.5, 0.5, "no layer by itself", transform=ax.transAxes, color=MUTED)
        text.set(horizontalalignment="center", verticalalignment="center")


def _draw_layers(ax: Axes, means: pd.DataFrame, look: _Look) -> None:
    """A model's line over its layers and the band around it, with a gap where a layer has NaN."""
    at, mean, bottom, top = (
        means[name].to_numpy(float) for name in ("at", "mean", "bottom", "top")
    )
    ax.fill_between(at, bottom, top, color=look.color, alpha=0.15, linewidth=0, clip_on=False)
    alone = _alone(mean)
    ax.vlines(at[alone], bottom[alone], top[alone], color=look.color, lw=1.2, clip_on=False)
    line = _line(look)
    line.set(xdata=at, ydata=mean, zorder=3)
    inches = width_of(ax) / float(np.ptp(ax.get_xlim()))
    if inches < 0.09:
        line.set_markevery(np.flatnonzero(alone | np.isin(at, ax.get_xticks())).tolist())
    ax.add_line(line)


def _alone(value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values have no neighbor to be joined to by a line."""
    present = np.isfinite(np.pad(value, 1, constant_values=np.nan))
    alone: NDArray[np.bool_] = present[1:-1] & ~present[:-2] & ~present[2:]
    return alone


def _draw_mix(ax: Axes, means: pd.DataFrame, look: _Look, shift: float) -> None:
    """A model's mixture of all layers, beside those of the others."""
    inch = float(np.ptp(ax.get_xlim())) / width_of(ax)
    for mean, bottom, top in means[["mean", "bottom", "top"]].to_numpy(float):
        step = DODGE if len(ax.get_xticks()) > 1 else WIDE_DODGE
        at = ax.get_xticks()[-1] + shift * step * inch
        ax.vlines([at], [bottom], [top], color=look.color, lw=1.2, clip_on=False)
        line = _line(look)
        line.set(xdata=[at], ydata=[mean], linestyle="none", zorder=4)
        ax.add_line(line)


def _line(look: _Look) -> Line2D:
    """An empty line in the style of a model."""
    line = Line2D([], [], color=look.color, marker=look.marker, markersize=3.0, clip_on=False)
    line.set(markeredgewidth=0.6, linestyle=(0, look.dashes) if look.dashes else "-", linewidth=1.2)
    line.set_label(look.label)
    return line


def _scale_values(ax: Axes, means: pd.DataFrame, base: str, metric: Metric) -> None:
    """Limits that hold all that is drawn, and ticks inside them."""
    drawn = means["at"].notna() | (means["layer"] == MIX)
    drawn |= means["layer"].isin([LEXICAL, CHAIN]) & (means["model"] == base)
    seen = means.loc[drawn, ["mean", "bottom", "top"]].to_numpy(float)
    seen = seen[np.isfinite(seen)]
    lowest, highest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 100.0)
    # At least two points are shown, so that noise does not look like change.
    pad = max(0.0, LEAST_SPAN - (highest - lowest)) / 2
    margin = 0.06 * max(highest - lowest, LEAST_SPAN)
    ax.set_ylim(lowest - pad - margin, highest + pad + margin)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    # Ticks left to the moment of drawing would take the style in force then.
    low, high = ax.get_ylim()
    least, most = max(low, 100 * metric.least), min(high, 100 * metric.most)
    ax.set_yticks([tick for tick in ax.get_yticks() if least <= tick <= most])


def _add_legend(
    figure: Figure, beside: Axes, looks: Mapping[str, _Look], means: pd.DataFrame, base: str
) -> None:
    """Names the models and the base's two lines, right of the upper panels."""
    entries = [(_line(look), look.label) for look in looks.values()]
    of_base = set(means.loc[means["model"] == base, "layer"])
    words = {MIX: "base, all layers mixed", LEXICAL: "base, embeddings alone"}
    words[CHAIN] = "no model, linear chain"
    for layer, label in words.items():
        if layer in of_base:
            line = Line2D([], [], color=BASE_COLOR, lw=0.9, clip_on=False)
            line.set_linestyle((0, BASELINES[layer]))
            entries.append((line, label))
    panel, (width, height) = beside.get_position(), figure.get_size_inches()
    inches = len(entries) * LEGEND_LINE
    box = (panel.x1 + LEGEND_GAP / width, panel.y1 - inches / height)
    size = (LEGEND_WIDTH / width, inches / height)
    frame = figure.add_axes((*box, *size), xlim=(0, LEGEND_WIDTH), ylim=(inches, 0))
    frame.set_axis_off()
    for at, (line, label) in enumerate(entries):
        y = (at + 0.5) * LEGEND_LINE
        line.set_data([0, 0.2, 0.4], [y] * 3)
        line.set_markevery([1])
        frame.add_line(line)
        text = frame.text(0.48, y, elide(label, room=24), parse_math=False)
        text.set(verticalalignment="center_baseline")


def _annotate(figure: Figure, base: str, kinds: set[str]) -> None:
    """Names the base and the kind of probes above."""
    width, height = figure.get_size_inches()
    what = f" · {next(iter(kinds))} probes" if len(kinds) == 1 else ""
    name = elide(base, room=max(20, int((width - LEFT) / 0.08) - len(what)))
    title = figure.text(LEFT / width, 1 - 0.12 / height, name + what, parse_math=False)
    title.set(color=MUTED, verticalalignment="top")
