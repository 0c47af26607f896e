"""The heat map of a transfer matrix: what was crafted on one ticket, tested on the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rst_tf.analysis.style import SEQUENTIAL, WIDTH


def heat_maps(matrices: Mapping[str, np.ndarray], labels: Sequence[str]) -> Figure:
    """Robust accuracies in percent, a panel per matrix on one scale of colours.

    Each number stands in its cell; the diagonal, where the attacker has the ticket, is framed.

    Args:
        matrices: By title; [crafted on, tested on], in [0, 1].
        labels: One per ticket: its density in percent.
    """
    number = len(matrices)
    side = WIDTH / 2 if number == 1 else WIDTH / number
    size = (max(side * number, 4.2), (side if number > 1 else 3.6) - 0.05)
    figure = Figure(figsize=size, layout="constrained")
    every_axes = list(figure.subplots(1, number, squeeze=False, sharey=True)[0])
    every = 100 * np.concatenate([matrix.ravel() for matrix in matrices.values()])
    colours = ScalarMappable(Normalize(every.min(), max(every.max(), every.min() + 1)), SEQUENTIAL)
    for axes, (title, matrix) in zip(every_axes, matrices.items(), strict=True):
        _panel(axes, 100 * matrix, colours, labels)
        axes.set_title(f"{title}: mean {100 * matrix.mean():.1f}")
        axes.set_xlabel("tested on: density (%)")
    every_axes[0].set_ylabel("crafted on: density (%)")
    bar = figure.colorbar(colours, ax=every_axes, fraction=0.045, pad=0.02, shrink=0.93)
    bar.set_label("robust accuracy, test (%)")
    bar.outline.set_visible(False)
    return figure


def _panel(axes: Axes, percent: np.ndarray, colours: ScalarMappable, labels: Sequence[str]) -> None:
    tickets = range(len(labels))
    axes.imshow(percent, cmap=colours.cmap, norm=colours.norm)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(tickets, labels)
    axes.set_yticks(tickets, labels)
    axes.tick_params(length=0)
    size = min(9.0, 46 / len(labels))
    for row in tickets:
        for column in tickets:
            value = percent[row, column]
            axes.text(
                column,
                row,
                f"{value:.1f}",
                ha="center",
                va="center",
                fontsize=size,
                color="black" if _light(colours.to_rgba(value)) else "white",
            )
        corner = (row - 0.5 + 0.03, row - 0.5 + 0.03)
        axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2))


def _light(colour: Sequence[float]) -> bool:
    """Whether black can be read on it (relative luminance, ITU-R BT.709)."""
    red, green, blue, _ = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
