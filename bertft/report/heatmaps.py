"""The figure of all pairs of layers: a heat map per measure and corpus.

Sizes are fixed in inches, as in `figures`, whose style it shares. Cells are drawn as vectors.
"""

from __future__ import annotations

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from bertft.report.figures import STYLE, elide, layer_ticks
from bertft.report.vocabulary import MEASURES, pairs_of_layers, tuned_from

SIZE = 1.9
LEFT, RIGHT, TOP, BOTTOM = 0.55, 0.15, 0.45, 0.15
BAR_GAP, BAR_WIDTH, ACROSS, DOWN = 0.08, 0.09, 1.05, 0.75
PER_ROW = 4


def heat_figure(table: pd.DataFrame) -> Figure:
    """Draws every measure over all pairs of layers, one heat map per measure and corpus.

    Layers of the fine-tuned model run to the right, those of the pretrained one upwards. The bright
    end of the scale is what equal representations have, for distances too; a measure has the same
    scale on every corpus. A missing value is left white, an inflated one has a dot.

    Args:
        table: the tidy table of a comparison of all pairs.

    Raises:
        ValueError: the table is not what `pairs_of_layers` expects.
    """
    rows = pairs_of_layers(table, "heat_figure")
    corpora = list(dict.fromkeys(rows["corpus"]))
    measures = [name for name in MEASURES if name in set(rows["measure"])]
    per_row = len(corpora) if len(corpora) > 1 else min(PER_ROW, len(measures))
    panels = [(measure, corpus) for measure in measures for corpus in corpora]
    with matplotlib.style.context(["default", STYLE, {"axes.grid": False}]):
        figure, boxes = _canvas(len(panels), per_row)
        for (measure, corpus), box in zip(panels, boxes, strict=True):
            of_measure = rows[rows["measure"] == measure]
            title = measure if len(corpora) == 1 else f"{measure}, {elide(corpus, 18)}"
            _draw(figure, box, of_measure[of_measure["corpus"] == corpus], of_measure, title)
        models = (elide(of, 40) for of in (str(rows["pretrained"].iloc[0]), tuned_from(rows)))
        text = figure.text(0.01, 1.0 - 0.08 / figure.get_size_inches()[1], " → ".join(models))
        text.set(color="#5c6370", verticalalignment="top", parse_math=False)
    return figure


def _canvas(count: int, per_row: int) -> tuple[Figure, list[tuple[float, float]]]:
    """A figure, and the lower left corners of its panels in inches."""
    rows = -(-count // per_row)
    width = LEFT + per_row * (SIZE + ACROSS) - ACROSS + BAR_GAP + BAR_WIDTH + 0.55 + RIGHT
    height = TOP + rows * (SIZE + DOWN) + BOTTOM
    figure = Figure(figsize=(max(width, 4.2), height))
    corners = [
        (LEFT + at % per_row * (SIZE + ACROSS), height - TOP - (at // per_row + 1) * (SIZE + DOWN))
        for at in range(count)
    ]
    return figure, [(left, bottom + DOWN - 0.3) for left, bottom in corners]


def _draw(
    figure: Figure,
    corner: tuple[float, float],
    rows: pd.DataFrame,
    of_measure: pd.DataFrame,
    title: str,
) -> None:
    width, height = figure.get_size_inches()
    left, bottom = corner
    ax = figure.add_axes((left / width, bottom / height, SIZE / width, SIZE / height))
    ax.set_title(title, loc="left", fontsize=8.0, parse_math=False)
    grid = rows.pivot(index="pretrained_layer", columns="finetuned_layer", values="value")
    grid = grid.astype(float)
    colors, scale = _colors(str(of_measure["measure"].iloc[0])), _scale(of_measure)
    layers, others = grid.columns.to_numpy(float), grid.index.to_numpy(float)
    mesh = ax.pcolormesh(
        layers, others, np.ma.masked_invalid(grid.to_numpy()), cmap=colors, norm=scale
    )
    if "note" in rows:
        inflated = rows[rows["note"].fillna("").str.contains("inflated")]
        dots = (inflated["finetuned_layer"].astype(float), inflated["pretrained_layer"])
        if len(inflated):
            ax.scatter(*dots, s=2.0, color="white", edgecolors="black", linewidths=0.3)
    for axis, numbers in ((ax.xaxis, grid.columns), (ax.yaxis, grid.index)):
        axis.set_ticks(layer_ticks([int(layer) for layer in numbers], room=8))
    ax.tick_params(length=2, labelsize=6.5, pad=1.5)
    ax.set_xlabel("fine-tuned layer", fontsize=6.5, labelpad=1)
    ax.set_ylabel("pretrained layer", fontsize=6.5, labelpad=2)
    box = ((left + SIZE + BAR_GAP) / width, bottom / height, BAR_WIDTH / width, SIZE / height)
    bar = figure.colorbar(mesh, cax=figure.add_axes(box))
    _label_bar(bar.ax, scale)


def _colors(measure: str) -> Colormap:
    return colormaps["viridis" if MEASURES[measure].unchanged else "viridis_r"]


def _scale(of_measure: pd.DataFrame) -> Normalize:
    """From the value farthest from unchanged to unchanged, or what lies beyond."""
    values = of_measure["value"].to_numpy(float)
    seen = values[np.isfinite(values)]
    seen = np.append(seen, of_measure["unchanged"].max())
    low, high = float(seen.min()), float(seen.max())
    return Normalize(low, high if high > low else low + 1e-6)


def _label_bar(ax: Axes, scale: Normalize) -> None:
    """Three numbers beside the scale, short enough for the gap between panels."""
    assert scale.vmin is not None
    assert scale.vmax is not None
    ticks = np.linspace(scale.vmin, scale.vmax, 3)
    ax.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.tick_params(length=2, labelsize=6.5, pad=1.5)
    for spine in ax.spines.values():
        spine.set_visible(False)
