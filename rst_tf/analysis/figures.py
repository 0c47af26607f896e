"""Figures of one experiment: over density, over steps, and the masks of the first layer.

Each is a function that gives a matplotlib figure, or None where there is nothing to draw.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rst_tf.analysis.formats import densities, percentages
from rst_tf.analysis.results import Row
from rst_tf.analysis.runs import FirstLayer, Run
from rst_tf.analysis.style import BLUE, GREY, SEQUENTIAL, WIDTH
from rst_tf.analysis.tables import Estimate, Line, Table

EARLY = 0.1  # the first part of a round, whose low accuracies do not set the axis
PER_LINE = 7  # mask pictures side by side


def over_density(table: Table) -> Figure | None:
    """Test accuracies at the best step over density, with the dense network as a reference.

    None if there is one density only.
    """
    if len(table.lines) < 2:
        return None
    panels: dict[str, Callable[[Line], Estimate]] = {"Accuracy": lambda line: line.best.accuracy}
    if table.attack is not None:
        panels["Robust accuracy"] = lambda line: line.best.robust_accuracy
    figure, every_axes = _panels(panels, "test")
    for axes, read in zip(every_axes, panels.values(), strict=True):
        _density_curve(axes, table, [read(line) for line in table.lines])
    return figure


def over_steps(runs: Sequence[Run], table: Table) -> Figure:
    """Validation accuracies over the steps of each round, their mean over several seeds.

    Args:
        runs: Only steps that all of them have are drawn. The best step of a single run is a dot.
        table: Of these runs.
    """
    panels: dict[str, Callable[[Row], float]] = {"Accuracy": lambda row: row.accuracy}
    if table.attack is not None:
        panels["Robust accuracy"] = lambda row: row.robust_accuracy
    figure, every_axes = _panels(panels, "validation")
    colours = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.0, 0.93, len(table.lines)))
    for axes, read in zip(every_axes, panels.values(), strict=True):
        late: list[float] = []
        for colour, line in zip(colours, table.lines, strict=True):
            late += _step_curve(axes, runs, line.round, read, colour)
        # Untrained networks would take most of the axis.
        margin = 0.06 * (max(late) - min(late)) + 0.2
        axes.set_ylim(min(late) - margin, max(late) + margin)
        axes.set_xlabel("steps within the round")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if len(table.lines) > 1:
        _density_bar(figure, every_axes, colours, densities(table.lines))
    return figure


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


def _panels(names: Iterable[str], split: str) -> tuple[Figure, list[Axes]]:
    names = list(names)
    width = WIDTH if len(names) > 1 else 0.62 * WIDTH
    figure = Figure(figsize=(width, 2.8), layout="constrained")
    every_axes = list(figure.subplots(1, len(names), squeeze=False)[0])
    for axes, name in zip(every_axes, names, strict=True):
        axes.set_title(f"{name}, {split} (%)")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure, every_axes


def _density_curve(axes: Axes, table: Table, values: Sequence[Estimate]) -> None:
    density = np.array([100 * line.density for line in table.lines])
    means = [100 * value.mean for value in values]
    bands = [_band(value) for value in values]
    if None not in bands:
        low, high = 100 * np.array(bands).T
        axes.fill_between(density, low, high, color=BLUE, alpha=0.15, linewidth=0)
    if table.dense is not None:
        axes.axhline(means[0], color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1.5)
        place = {"xy": (1, means[0]), "xycoords": ("axes fraction", "data"), "va": "center"}
        offset = {"xytext": (3, 0), "textcoords": "offset points"}
        axes.annotate("dense", **place, **offset, color=GREY, fontsize=8)
    axes.plot(density, means, color=BLUE, marker="o", markersize=3.5)
    axes.set_xscale("log")
    axes.set_xlim(density.max() * 1.1, density.min() / 1.1)
    axes.xaxis.set_major_locator(FixedLocator(_density_ticks(density)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("density (% of the weights kept)")


def _band(value: Estimate) -> tuple[float, float] | None:
    """One standard deviation about the mean over seeds, or one network's interval."""
    if value.std is None:
        return value.interval
    return value.mean - value.std, value.mean + value.std


def _density_ticks(density: np.ndarray) -> list[float]:
    """1, 2, 5 times powers of ten within the range; the densities themselves if those are few."""
    lowest = math.floor(math.log10(density.min()))
    ticks = [base * 10.0**power for power in range(lowest, 3) for base in (1, 2, 5)]
    ticks = [tick for tick in ticks if density.min() * 0.99 <= tick <= density.max() * 1.01]
    return ticks if len(ticks) > 3 or len(density) > 9 else [round(value, 1) for value in density]


def _step_curve(axes: Axes, runs: Sequence[Run], round: int, read, colour) -> list[float]:
    """Draws one round; gives its values after the early part."""
    curves = [{row.step: 100 * read(row) for row in run.curve(round, "valid")} for run in runs]
    steps = sorted(set.intersection(*map(set, curves)))
    values = [float(np.mean([curve[step] for curve in curves])) for step in steps]
    axes.plot(steps, values, color=colour, linewidth=1)
    if len(runs) == 1:
        best = runs[0].best(round).step
        axes.plot(best, curves[0][best], "o", color=colour, markersize=3.5, zorder=3)
    late = [value for step, value in zip(steps, values, strict=True) if step >= EARLY * steps[-1]]
    return late if len(late) > 2 else values


def _density_bar(figure: Figure, axes: list[Axes], colours, names: Sequence[str]) -> None:
    """A colour bar with one band per density, the dense network on top."""
    count = len(names)
    norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
    mappable = ScalarMappable(norm, ListedColormap(colours))
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=28)
    every = math.ceil(count / 12)
    bar.set_ticks(range(0, count, every), labels=names[::every])
    bar.minorticks_off()
    bar.ax.invert_yaxis()
    bar.ax.tick_params(length=0, labelsize=8)
    bar.outline.set_visible(False)
    bar.set_label("density (%)")


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
