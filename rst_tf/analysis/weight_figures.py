"""Figures of weights: which of the first layer are kept, and how those that are kept spread."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from rst_tf.analysis.formats import percentages
from rst_tf.analysis.style import COLOURS, SEQUENTIAL, WIDTH
from rst_tf.analysis.tickets import FirstLayer, Weights

PER_LINE = 7  # mask pictures side by side
BINS = 60
MOST_LAYERS = len(COLOURS)


def first_layer(layers: Sequence[FirstLayer]) -> Figure | None:
    """The masks of the first layer, round by round.

    A layer that reads flattened images gives kept weights per pixel; any other layer gives the
    kept fraction of each output channel. None without tickets, or if nothing is pruned.
    """
    if all(layer.mask.all() for layer in layers):
        return None
    names = percentages([layer.density for layer in layers])
    image = layers[0].image
    if image is None:
        return _channels(layers, names)
    return _pixels([layer.mask.sum(axis=1).reshape(image).sum(axis=2) for layer in layers], names)


def distributions(weights: Sequence[Weights]) -> Figure | None:
    """How the values of the surviving weights spread: a column per round, a colour per layer.

    The upper row is before the round's training, the lower row after it; without stored weights
    before training there is no upper row. At most six layers are drawn: the first three, the last
    three. None without weights.
    """
    if not weights:
        return None
    rows = {"after training": [each.end for each in weights]}
    if any(each.start is not None for each in weights):
        rows = {"before training": [each.start for each in weights], **rows}
    layers = _layers(len(weights[0].names))
    width = min(WIDTH, 1.1 + 2.1 * len(weights))
    figure = Figure(figsize=(width, 0.7 + 1.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(weights), squeeze=False, sharex="row", sharey="row")
    for every_axes, (name, columns) in zip(grid, rows.items(), strict=True):
        every_axes[0].set_ylabel(f"% of the layer,\n{name}")
        _distribution_row(every_axes, columns, layers)
    for axes, name in zip(grid[0], percentages([each.density for each in weights]), strict=True):
        axes.set_title(f"{name} % kept")
    handles = [Line2D([], [], color=COLOURS[place]) for place in range(len(layers))]
    labels = [weights[0].names[layer] for layer in layers]
    figure.supxlabel("weight", fontsize=9)
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8
    )
    return figure


def _layers(count: int) -> list[int]:
    """The layers to draw: all, or the outermost."""
    if count <= MOST_LAYERS:
        return list(range(count))
    half = MOST_LAYERS // 2
    return [*range(half), *range(count - half, count)]


def _distribution_row(
    every_axes: Sequence[Axes],
    columns: Sequence[tuple[np.ndarray, ...] | None],
    layers: Sequence[int],
) -> None:
    """One row of panels over the same values; the tallest peaks may be cut."""
    known = [column[layer] for column in columns if column is not None for layer in layers]
    # The few weights far out would leave the others in a needle.
    reach = max(np.quantile(np.abs(values), 0.999) for values in known) or 1.0
    edges = np.linspace(-reach, reach, BINS + 1)
    for axes, column in zip(every_axes, columns, strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        if column is None:
            middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
            axes.text(0.5, 0.5, "drawn anew,\nnot stored", **middle, fontsize=8)
            continue
        for place, layer in enumerate(layers):
            counts, _ = np.histogram(column[layer], edges)
            share = 100 * counts / len(column[layer])
            axes.stairs(share, edges, color=COLOURS[place], linewidth=1.1)


def _pixels(counts: Sequence[np.ndarray], names: Sequence[str]) -> Figure:
    lines = math.ceil(len(counts) / PER_LINE)
    figure = Figure(figsize=(WIDTH, 0.15 + 1.03 * lines), layout="constrained")
    grid = figure.subplots(lines, PER_LINE, squeeze=False)
    colours = matplotlib.colormaps[SEQUENTIAL].with_extremes(under="white", bad="white")
    norm = LogNorm(1, max(count.max() for count in counts))
    for axes in grid.flat[len(counts) :]:
        axes.set_axis_off()
    for axes, count, name in zip(grid.flat, counts, names, strict=False):
        picture = axes.imshow(count, cmap=colours, norm=norm, interpolation="nearest")
        axes.set_title(f"{name} %", fontsize=8, fontweight="normal", loc="center", pad=2)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.5)
    bar = figure.colorbar(picture, ax=list(grid.flat), pad=0.02, aspect=11 * lines)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("kept weights\nper pixel")
    bar.outline.set_visible(False)
    return figure


def _channels(layers: Sequence[FirstLayer], names: Sequence[str]) -> Figure:
    kept = np.array([layer.mask.reshape(-1, layer.mask.shape[-1]).mean(axis=0) for layer in layers])
    figure = Figure(figsize=(WIDTH, 1 + 0.16 * len(layers)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(
        100 * kept, cmap=SEQUENTIAL, vmin=0, vmax=100, aspect="auto", interpolation="nearest"
    )
    axes.grid(False)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("output channel")
    axes.set_ylabel("density (%)")
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, pad=0.02)
    bar.set_label("kept (%)")
    bar.outline.set_visible(False)
    return figure
