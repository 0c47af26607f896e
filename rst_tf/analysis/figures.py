"""Figures over density and over steps, of one group of runs or of several side by side.

Each is a function that gives a matplotlib figure, or None where there is nothing to draw. Colour
is density in figures over steps, and group elsewhere; a group has the same line style everywhere.
"""

import math
import textwrap
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rst_tf.analysis import panels
from rst_tf.analysis.estimates import Estimate
from rst_tf.analysis.formats import densities
from rst_tf.analysis.groups import Group, shared_dense
from rst_tf.analysis.runs import Run
from rst_tf.analysis.style import GREY, SEQUENTIAL, WIDTH, Pen, pen
from rst_tf.analysis.tables import Line, Point, Table, across

PER_LINE = 3  # panels of groups side by side
LABEL = 30  # characters of a label in a legend before it is wrapped


def over_density(groups: Sequence[Group]) -> Figure | None:
    """Test accuracies of the chosen networks over density, a line per group.

    The grey dashed line is the dense network that all groups share; a dashed line in a group's
    colour is a group without sparse networks. None if there is one density only.
    """
    drawn = [line.density for group in groups for line in group.table.lines]
    if len(set(drawn)) < 2:
        return None
    names = _measures(groups[0].table)
    figure, every_axes = panels.side_by_side([f"{_title(name)}, test (%)" for name in names])
    for axes, name in zip(every_axes, names, strict=True):
        for index, group in enumerate(groups):
            lines = group.table.lines
            values = [getattr(line.chosen, name) for line in lines]
            estimate_curve(axes, lines, values, pen(index), 100.0)
            if len(groups) > 1 and len(lines) == 1 and lines[0].density == 1.0:
                axes.axhline(100 * values[0].mean, color=pen(index).colour, linestyle=(0, (4, 3)))
        if shared_dense(groups):
            _dense_level(axes, 100 * getattr(groups[0].table.dense.chosen, name).mean)
        panels.density_axis(axes, drawn)
    group_legend(figure, groups)
    return figure


def early_stopping(groups: Sequence[Group]) -> Figure | None:
    """Where training would have been stopped, over density: the step, and validation there.

    One row for the highest validation measure and, where losses are known, one for the lowest
    validation loss. None if no step is later than 0 or there is one density only.
    """
    drawn = [line.density for group in groups for line in group.table.lines]
    if len(set(drawn)) < 2:
        return None
    rows: dict[str, Callable[[Line], Point | None]] = {
        f"highest\nvalidation\n{groups[0].table.measure}": lambda line: line.best
    }
    if all(line.lowest_loss for group in groups for line in group.table.lines):
        rows["lowest\nvalidation\nloss"] = lambda line: line.lowest_loss
    names = ["step", *(f"valid_{name}" for name in _measures(groups[0].table))]
    figure = Figure(figsize=(WIDTH, 0.4 + 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey="col")
    for every_axes, (criterion, read) in zip(grid, rows.items(), strict=True):
        every_axes[0].set_ylabel(criterion)
        for axes, name in zip(every_axes, names, strict=True):
            scale = 1.0 if name == "step" else 100.0
            for index, group in enumerate(groups):
                values = [getattr(read(line), name) for line in group.table.lines]
                estimate_curve(axes, group.table.lines, values, pen(index), scale)
            panels.density_axis(axes, drawn, few=True)
            (panels.step_ticks if name == "step" else panels.percent_ticks)(axes)
            axes.set_xlabel("density (%)" if axes in grid[-1] else "")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title("Step" if name == "step" else f"{_title(name[6:])} (%)")
    group_legend(figure, groups)
    return figure


def over_steps(runs: Sequence[Run], table: Table) -> Figure:
    """Validation accuracies over the steps of each round, their mean over several seeds.

    Args:
        runs: Only steps that all of them have are drawn. The chosen step of a single run is a dot.
        table: Of these runs.
    """
    names = _measures(table)
    figure, every_axes = panels.side_by_side([f"{_title(name)}, validation (%)" for name in names])
    colours = _density_colours(len(table.lines))
    for axes, name in zip(every_axes, names, strict=True):
        late: list[float] = []
        for colour, line in zip(colours, table.lines, strict=True):
            steps, means, _ = _curve(runs, line.round, "valid", name)
            axes.plot(steps, means, color=colour, linewidth=1)
            if len(runs) == 1:
                chosen = line.chosen.steps[0]
                value = means[steps.index(chosen)]
                axes.plot(chosen, value, "o", color=colour, markersize=3.5, zorder=3)
            late += panels.late_part(steps, means)
        panels.limit(axes, late)
        panels.step_axis(axes)
    if len(table.lines) > 1:
        _density_bar(figure, every_axes, colours, densities(table.lines))
    return figure


def over_steps_by_group(
    groups: Sequence[Group], name: str, rounds: Sequence[int] = ()
) -> Figure | None:
    """A test accuracy over the steps: a panel per group, each beside the first group.

    As in the 2019 paper, only the first panel shows the dense network that the groups share.

    Args:
        groups: Colour is density, line style is group; bands are a standard deviation over seeds.
        name: "accuracy" or "robust_accuracy".
        rounds: The rounds to draw; none draws `panels.chosen_rounds`.

    None for one group, or if the accuracy was not measured.
    """
    if len(groups) < 2 or name not in _measures(groups[0].table):
        return None
    rows = _rows(groups, rounds)
    colours = _density_colours(len(rows))
    lines = math.ceil(len(groups) / PER_LINE)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.2 * lines), layout="constrained")
    grid = figure.subplots(lines, min(PER_LINE, len(groups)), squeeze=False, sharey=True)
    late: list[float] = []
    for index, axes in enumerate(grid.flat):
        if index >= len(groups):
            axes.set_axis_off()
            continue
        hide_dense = index > 0 and shared_dense([groups[0], groups[index]])
        for member in dict.fromkeys((0, index)):
            several = len(groups[member].table.lines) > 1
            for row, colour in zip(rows, colours, strict=True):
                line = row[member]
                if line is not None and not (hide_dense and several and line.density == 1.0):
                    runs, dash = groups[member].runs, pen(member).dash
                    late += _banded(axes, runs, line.round, name, colour, dash)
        axes.set_title(wrapped(groups[index].label, 26), fontsize=8.5)
        panels.percent_ticks(axes)
        panels.step_axis(axes, ticks=4)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{name.replace('_', ' ')}, test (%)")
    panels.limit(grid[0, 0], late)
    _density_legend(figure, groups, colours, [first_line(row) for row in rows])
    return figure


def estimate_curve(
    axes: Axes, lines: Sequence[Line], values: Sequence[Estimate], look: Pen, scale: float
) -> None:
    """Draws values over density, with a band where all of them have one."""
    density = np.array([100 * line.density for line in lines])
    bands = [value.band for value in values]
    if None not in bands:
        low, high = scale * np.array(bands).T
        axes.fill_between(density, low, high, color=look.colour, alpha=0.15, linewidth=0)
    means = [scale * value.mean for value in values]
    axes.plot(
        density, means, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=3.5
    )


def group_legend(figure: Figure, groups: Sequence[Group]) -> None:
    """The groups' lines and labels above the panels, if there is more than one group."""
    if len(groups) > 1:
        looks = [pen(index) for index in range(len(groups))]
        handles = [
            Line2D([], [], color=p.colour, linestyle=p.dash, marker=p.marker, markersize=3.5)
            for p in looks
        ]
        _legend(figure, handles, [group.label for group in groups])


def wrapped(label: str, width: int = LABEL) -> str:
    """A label on as many lines as it needs."""
    return "\n".join(textwrap.wrap(label, width, break_long_words=False)) or label


def first_line(row: Sequence[Line | None]) -> Line:
    """The first line there is in a row of several tables."""
    return next(line for line in row if line is not None)


def _measures(table: Table) -> list[str]:
    return ["accuracy"] if table.attack is None else ["accuracy", "robust_accuracy"]


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _dense_level(axes: Axes, level: float) -> None:
    axes.axhline(level, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1.5)
    place = {"xy": (1, level), "xycoords": ("axes fraction", "data"), "va": "center"}
    offset = {"xytext": (3, 0), "textcoords": "offset points"}
    axes.annotate("dense", **place, **offset, color=GREY, fontsize=8)


def _curve(
    runs: Sequence[Run], round: int, split: str, name: str
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The steps that all runs have, and mean and standard deviation there in percent."""
    curves = [
        {row.step: 100 * getattr(row, name) for row in run.curve(round, split)} for run in runs
    ]
    steps = sorted(set.intersection(*map(set, curves)))
    values = np.array([[curve[step] for step in steps] for curve in curves])
    spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(steps))
    return steps, values.mean(axis=0), spread


def _banded(axes: Axes, runs: Sequence[Run], round: int, name: str, colour, dash) -> list[float]:
    """Draws one round of one group; gives its values after the early part."""
    steps, means, spread = _curve(runs, round, "test", name)
    if len(runs) > 1:
        axes.fill_between(
            steps, means - spread, means + spread, color=colour, alpha=0.12, linewidth=0
        )
    axes.plot(steps, means, color=colour, linestyle=dash, linewidth=1.1)
    return panels.late_part(steps, means)


def _rows(groups: Sequence[Group], rounds: Sequence[int]) -> list[tuple[Line | None, ...]]:
    """The densities to draw, and each group's line there."""
    known = sorted({line.round for group in groups for line in group.table.lines})
    wanted = set(rounds or panels.chosen_rounds(known))
    rows = across([group.table for group in groups])
    return [row for row in rows if first_line(row).round in wanted]


def _density_colours(count: int) -> np.ndarray:
    return matplotlib.colormaps[SEQUENTIAL](np.linspace(0.0, 0.93, count))


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


def _density_legend(figure: Figure, groups, colours, lines: Sequence[Line]) -> None:
    """A coloured line per density, then a grey line in the style of each group."""
    handles = [Line2D([], [], color=colour, linewidth=2) for colour in colours]
    labels = [f"{name} %" for name in densities(lines)]
    _legend(figure, handles, labels, "outside upper center")
    looks = [pen(index) for index in range(len(groups))]
    handles = [Line2D([], [], color=GREY, linestyle=look.dash) for look in looks]
    _legend(figure, handles, [group.label for group in groups], "outside lower center")


def _legend(
    figure: Figure,
    handles: Sequence[Line2D],
    labels: Sequence[str],
    place: str = "outside upper center",
) -> None:
    labels = [wrapped(label) for label in labels]
    widest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), 100 // (widest + 8)))
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.15 * math.ceil(lines))
    figure.legend(
        handles,
        labels,
        loc=place,
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=2.4,
    )
