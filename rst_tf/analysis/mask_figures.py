"""Figures of a ticket's masks: counts beside those of random masks, and the masks themselves."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rst_tf.analysis import mask_counts
from rst_tf.analysis.mask_counts import LayerMask, Pair
from rst_tf.analysis.style import BLUE, COLOURS, GREY, SEQUENTIAL, WIDTH

MOST_LAYERS = 6
PIXELS = 900  # of a mask's longer side, which a page's width can show
MOST_LINES = 40  # borders between kernels, beyond which they would hide what is in them
OWN, RANDOM = COLOURS[1], BLUE


def channels(layers: Sequence[LayerMask]) -> Figure:
    """Kept weights per channel in falling order, a row per layer, output and input channels."""
    figure = Figure(figsize=(WIDTH, 0.7 + 1.35 * len(layers)), layout="constrained")
    grid = figure.subplots(len(layers), 2, squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        for axes, side in zip(row, ("output", "input"), strict=True):
            own = -np.sort(-mask_counts.by_channel(layer, side))
            _filled(axes, mask_counts.random_by_channel(layer, side), RANDOM)
            _filled(axes, own, OWN)
            empty = int((own == 0).sum())
            axes.set_title(layer.name, fontsize=8)
            right = {"ha": "right", "va": "top", "transform": axes.transAxes}
            told = f"{empty:,} of {len(own):,} {side}s empty"
            axes.text(0.98, 0.94, told, **right, fontsize=7.5)
            axes.set_xlim(0, len(own))
            axes.set_ylim(0)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        row[0].set_ylabel("kept weights", fontsize=8)
    for axes, side in zip(grid[-1], ("output", "input"), strict=True):
        axes.set_xlabel(f"{side} channels, most kept first")
    _legend(figure)
    return figure


def kernels(layers: Sequence[LayerMask]) -> Figure | None:
    """How many kernels keep 0, 1, ... weights; None where no layer has kernels of several."""
    layers = [layer for layer in layers if layer.field > 1]
    if not layers:
        return None
    columns = min(3, len(layers))
    lines = math.ceil(len(layers) / columns)
    size = (max(WIDTH * columns / 3, 3.6), 0.8 + 1.75 * lines)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(layers) :]:
        axes.set_axis_off()
    for axes, layer in zip(grid.flat, layers, strict=False):
        places = np.arange(layer.field + 1)
        random, own = (
            mask_counts.random_kernel_histogram(layer),
            mask_counts.kernel_histogram(layer),
        )
        axes.bar(places - 0.2, own, 0.4, color=OWN)
        axes.bar(places + 0.2, random, 0.4, color=RANDOM)
        axes.set_yscale("log")
        axes.set_ylim(0.5, 2 * max(own.max(), random.max()))
        axes.set_title(layer.name, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(min(layer.field, 9), integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    figure.supxlabel("kept weights of a kernel", fontsize=9)
    figure.supylabel("kernels", fontsize=9)
    _legend(figure)
    return figure


def heat_map(layer: LayerMask) -> Figure:
    """A layer's mask, its kernels tiled: a row per output channel, a column per input channel.

    Bars at the top and at the right mark the channels that are in use. A mask that has more weights
    than a page has pixels is drawn by kernel, or by block of kernels.
    """
    picture, unit = _picture(layer)
    tall = min(1.2, max(0.35, picture.shape[0] / picture.shape[1]))
    figure = Figure(figsize=(WIDTH, 1.2 + 0.8 * WIDTH * tall), layout="constrained")
    grid = figure.subplots(
        2,
        2,
        sharex="col",
        sharey="row",
        gridspec_kw={"width_ratios": (40, 1), "height_ratios": (1, 40 * tall)},
    )
    (top, corner), (middle, right) = grid
    corner.set_axis_off()
    extent = (0, layer.inputs, layer.outputs, 0)
    shown = _draw(middle, picture, extent)
    _borders(middle, layer.inputs, layer.outputs)
    middle.set(xlabel="input channel", ylabel="output channel")
    used = [mask_counts.by_channel(layer, side) > 0 for side in ("input", "output")]
    _bar(top, used[0][None, :], (0, layer.inputs, 0, 1))
    _bar(right, used[1][:, None], (0, 1, layer.outputs, 0))
    share = 100 * layer.kept / layer.size
    top.set_title(
        f"{layer.name}\n{layer.kept:,} of {layer.size:,} weights ({share:.3g} %); in use "
        f"{used[0].sum():,} of {layer.inputs:,} inputs, {used[1].sum():,} of {layer.outputs:,} "
        "outputs",
        fontsize=8,
    )
    handles = [Patch(color=BLUE, label="channel in use"), Patch(color=COLOURS[4], label="empty")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    _colour_bar(figure, shown, grid, picture, unit)
    return figure


def two_layers(pair: Pair) -> Figure:
    """A layer's mask beside the next one's transpose: rows are the channels between them.

    The strip between them says by which of the two a channel is used.
    """
    left, unit = _picture(pair.first, by_kernel=True)
    right, _ = _picture(pair.second, by_kernel=True)
    if right.shape[1] != left.shape[0]:
        right = right.reshape(right.shape[0], -1, left.shape[0]).sum(axis=1)
    shared = len(pair.read)
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": (10, 1, 10)})
    most = max(left.max(), right.max(), 1)
    shown = _draw(axes[0], left, (0, pair.first.inputs, shared, 0), most)
    _draw(axes[2], right.T, (0, pair.second.outputs, shared, 0), most)
    strip = pair.written.astype(int) + 2 * pair.read
    colours = ("white", OWN, COLOURS[4], BLUE)
    axes[1].imshow(
        strip[:, None],
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=3.5,
        aspect="auto",
        interpolation="nearest",
        extent=(0, 1, shared, 0),
    )
    axes[1].set(xticks=[])
    for each in axes:
        each.grid(False)
        each.spines[:].set(visible=True, color=GREY, linewidth=0.6)
        each.tick_params(length=0)
    axes[0].set(xlabel="its input channels", ylabel="channels between the two")
    axes[2].set(xlabel="its output channels")
    axes[0].set_title(pair.first.name, fontsize=8)
    axes[2].set_title(pair.second.name, fontsize=8)
    names = ("used by neither", "by the first only", "by the second only", "by both")
    counts = np.bincount(strip, minlength=4)
    handles = [
        Patch(facecolor=colour, edgecolor=GREY, linewidth=0.6, label=f"{name}: {count:,}")
        for colour, name, count in zip(colours, names, counts, strict=True)
    ]
    handles[3].set_label(f"by both: {pair.both:,} ({pair.expected:,.1f} if independent)")
    look = {"ncols": 4, "frameon": False, "fontsize": 7.5, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="outside upper center", **look)
    _colour_bar(figure, shown, axes, left if left.max() == most else right, unit)
    return figure


def tiled(layer: LayerMask) -> np.ndarray:
    """The mask as a picture, bool [outputs * height, inputs * width] of kernels side by side."""
    spatial = layer.shape[:-2]
    height = spatial[0] if len(spatial) > 1 else 1
    mask = layer.full().reshape(height, -1, layer.inputs, layer.outputs)
    tiles = mask.transpose(3, 0, 2, 1)
    return tiles.reshape(layer.outputs * height, -1)


def _picture(layer: LayerMask, by_kernel: bool = False) -> tuple[np.ndarray, str]:
    """Counts to draw, [outputs, inputs] times what a kernel has, and what one of them is."""
    whole = tiled(layer).astype(int)
    if not by_kernel and max(whole.shape) <= PIXELS:
        return whole, "weight"
    counts = mask_counts.by_kernel(layer).T
    factors = [1 if by_kernel else math.ceil(side / PIXELS) for side in counts.shape]
    if factors == [1, 1]:
        return counts, "kernel" if layer.field > 1 else "weight"
    for axis, factor in enumerate(factors):
        starts = np.arange(0, counts.shape[axis], factor)
        counts = np.add.reduceat(counts, starts, axis=axis)
    what = "kernels" if layer.field > 1 else "weights"
    return counts, f"block of {factors[0]} x {factors[1]} {what}"


def _draw(axes: Axes, picture: np.ndarray, extent: tuple, most: int | None = None):
    most = int(picture.max() if most is None else most) or 1
    if most == 1:
        colours, norm = ListedColormap(["white", "black"]), BoundaryNorm([-0.5, 0.5, 1.5], 2)
    else:
        dark = matplotlib.colormaps[SEQUENTIAL](np.linspace(0.85, 0, most))  # to be seen on white
        colours = ListedColormap(dark).with_extremes(under="white")
        norm = BoundaryNorm(np.arange(0.5, most + 1), most)
    look = {"interpolation": "nearest", "aspect": "auto", "extent": extent}
    shown = axes.imshow(picture, cmap=colours, norm=norm, **look)
    axes.grid(False)
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    return shown


def _borders(axes: Axes, inputs: int, outputs: int) -> None:
    if inputs <= MOST_LINES:
        axes.vlines(np.arange(1, inputs), 0, outputs, color="#c9c9c9", linewidth=0.5)
    if outputs <= MOST_LINES:
        axes.hlines(np.arange(1, outputs), 0, inputs, color="#c9c9c9", linewidth=0.5)


def _bar(axes: Axes, used: np.ndarray, extent: tuple) -> None:
    colours = ListedColormap([COLOURS[4], BLUE])
    look = {"interpolation": "nearest", "aspect": "auto", "extent": extent}
    axes.imshow(used.astype(int), cmap=colours, vmin=0, vmax=1, **look)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelbottom=False, labelleft=False)


def _colour_bar(figure: Figure, shown, axes, picture: np.ndarray, unit: str) -> None:
    """None where a picture says kept or not."""
    if picture.max() > 1:
        bar = figure.colorbar(shown, ax=axes, pad=0.02, aspect=30, spacing="proportional")
        most = int(picture.max())
        bar.set_ticks(np.arange(1, most + 1, math.ceil(most / 10)))
        bar.ax.tick_params(length=0)
        bar.set_label(f"kept weights per\n{unit}", fontsize=8)
        bar.outline.set_visible(False)


def _filled(axes: Axes, counts: np.ndarray, colour: str) -> None:
    edges = np.arange(len(counts) + 1)
    axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
    axes.stairs(counts, edges, color=colour, linewidth=1.1)


def _legend(figure: Figure) -> None:
    handles = [
        Patch(color=OWN, label="this ticket"),
        Patch(color=RANDOM, label="mean of random masks of the same size"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
