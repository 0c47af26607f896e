"""Parts that several figures share: panels, the axis of densities, the axis of steps, limits."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rst_tf.analysis.style import WIDTH

EARLY = 0.2  # the first part of a round, whose low accuracies do not set the axis
PUBLISHED_ROUNDS = (0, 3, 8, 11, 15, 18)  # of the 2019 paper's curves
PUBLISHED_WEIGHTS = (0, 3, 8, 15)  # of its weight distributions


def chosen_rounds(
    rounds: Sequence[int], preferred: tuple[int, ...] = PUBLISHED_ROUNDS
) -> tuple[int, ...]:
    """Rounds to draw: all if they are few, else the preferred ones, else as many evenly spaced.

    Args:
        rounds: Ascending.
        preferred: At least two.
    """
    if len(rounds) <= len(preferred):
        return tuple(rounds)
    if set(preferred) <= set(rounds):
        return preferred
    places = np.linspace(0, len(rounds) - 1, len(preferred)).round().astype(int)
    return tuple(rounds[place] for place in places)


def side_by_side(titles: Sequence[str], height: float = 2.8) -> tuple[Figure, list[Axes]]:
    """Axes side by side, with ticks for percentages."""
    width = WIDTH if len(titles) > 1 else 0.62 * WIDTH
    figure = Figure(figsize=(width, height), layout="constrained")
    every_axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(every_axes, titles, strict=True):
        axes.set_title(title)
        percent_ticks(axes)
    return figure, every_axes


def percent_ticks(axes: Axes) -> None:
    """Round numbers on the axis of percentages."""
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def density_axis(axes: Axes, densities: Sequence[float], few: bool = False) -> None:
    """A logarithmic axis of percentages kept, falling to the right.

    Args:
        axes: Their x axis is set.
        densities: Fractions in (0, 1] that are drawn.
        few: Where there is little room: the ends and what is far enough from them.
    """
    drawn = 100 * np.unique(densities)
    axes.set_xscale("log")
    axes.set_xlim(drawn.max() * 1.1, drawn.min() / 1.1)
    ticks = _density_ticks(drawn)
    axes.xaxis.set_major_locator(FixedLocator(_spaced(ticks, 4 if few else 8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("density (% of the weights kept)")


def step_axis(axes: Axes, ticks: int = 5) -> None:
    """A horizontal axis of optimiser steps."""
    axes.set_xlabel("steps within the round")
    _steps(axes.xaxis, ticks)


def step_ticks(axes: Axes) -> None:
    """A vertical axis of optimiser steps."""
    _steps(axes.yaxis, 5)


def _steps(axis, ticks: int) -> None:
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10], integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def limit(axes: Axes, late: Sequence[float]) -> None:
    """Sets the y axis by the values after the early part; untrained networks would take most."""
    margin = 0.06 * (max(late) - min(late)) + 0.2
    axes.set_ylim(min(late) - margin, max(late) + margin)


def late_part(steps: Sequence[int], values: Sequence[float]) -> list[float]:
    """The values after the early part of a round, or all if those are too few."""
    late = [value for step, value in zip(steps, values, strict=True) if step >= EARLY * steps[-1]]
    return late if len(late) > 2 else list(values)


def _density_ticks(density: np.ndarray) -> list[float]:
    """1, 2, 5 times powers of ten within the range; the densities themselves if those are few."""
    lowest = math.floor(math.log10(density.min()))
    ticks = [base * 10.0**power for power in range(lowest, 3) for base in (1, 2, 5)]
    ticks = [tick for tick in ticks if density.min() * 0.99 <= tick <= density.max() * 1.01]
    return ticks if len(ticks) > 3 or len(density) > 9 else [round(value, 1) for value in density]


def _spaced(ticks: Sequence[float], most: int) -> list[float]:
    """Every so many ticks, counted from the largest."""
    every = math.ceil(len(ticks) / most)
    return sorted(ticks)[::-1][::every]
