"""How every figure looks, and how it becomes bytes; matplotlib's global state stays untouched.

Colours can be told apart by the colour-blind and in grey.
"""

import dataclasses
import io
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

BLUE, GREY = "#0072B2", "#606060"
SEQUENTIAL = "viridis"
COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's
DASHES = ("-", (0, (1, 1)), (0, (4, 1.5)), (0, (5, 1, 1, 1)), (0, (9, 2)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = "osD^vP"
WIDTH = 7.2  # inches: the text width of a page
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "svg.hashsalt": "rst_tf",  # else every SVG has its own random ids
}


@dataclasses.dataclass(frozen=True)
class Pen:
    """How a group's lines look; the seventh group looks like the first in colour only."""

    colour: str
    dash: object
    marker: str


def pen(index: int) -> Pen:
    """The look of the group with this number, from 0."""
    return Pen(
        COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]
    )


def rendered(draw: Callable[[], Figure | None]) -> tuple[bytes, bytes] | None:
    """A figure as PNG (160 dpi) and SVG: the same bytes for the same figure.

    Args:
        draw: Makes the figure, or None for no figure; called under this module's style.
    """
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return None
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png.getvalue(), svg.getvalue()
