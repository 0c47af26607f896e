"""The pictures of a report: accuracy over epsilon, minimum norms, loss around some points."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rst_tf.analysis import panels
from rst_tf.analysis.style import COLOURS, GREY, SEQUENTIAL, WIDTH
from rst_tf.robustness import wording

_BINS = 30


def epsilon_curve(report) -> Figure | None:
    """Accuracy under APGD in balls of several radii, and the list's at the report's own."""
    if report.curve is None:
        return None
    radii, accuracy = (np.asarray(part) for part in report.curve)
    figure, (axes,) = panels.side_by_side(["Accuracy by the size of the ball"])
    axes.plot(radii, 100 * accuracy, "o-", color=COLOURS[0], label="APGD on cross-entropy")
    robust = 100 * report.robust_accuracy
    axes.plot([report.epsilon], [robust], "D", color=COLOURS[1], label=wording.listed(report))
    largest = _largest_class(report)
    if largest is not None:
        axes.axhline(100 * largest, color=GREY, lw=0.8, ls=(0, (4, 3)), label="largest class")
    axes.set_xscale("symlog", linthresh=radii[1], linscale=0.5)
    _radius_axis(axes, radii)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("accuracy (%)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def minimum_norms(report) -> Figure | None:
    """How far the nearest adversarial examples are, as FAB found them."""
    norms = report.minimum_norms
    if norms is None or not np.isfinite(norms).any():
        return None
    shown = norms[np.isfinite(norms)]
    figure, (axes,) = panels.side_by_side(["Distance to the nearest adversarial image"])
    top = max(float(np.quantile(shown, 0.99)), 1.5 * report.epsilon)
    bins = np.linspace(0, top, _BINS + 1)
    axes.hist(np.minimum(shown, top), bins=bins, color=COLOURS[0], alpha=0.85)
    radius, median = wording.radius(report.epsilon), float(np.median(norms))
    axes.axvline(report.epsilon, color=COLOURS[1], lw=1.5, label=f"epsilon {radius}")
    axes.axvline(median, color="black", lw=1, ls=(0, (4, 3)), label=f"median {median:.3g}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes.set_xlim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel(f"{'L-inf' if report.norm == 'linf' else 'L2'} norm found by FAB")
    axes.set_ylabel("images")
    return figure


def loss_surface(report) -> Figure | None:
    """The cross-entropy around some points, in the plane of the gradient and a random direction."""
    if report.surface is None or not np.isfinite(report.surface.losses).all():
        return None
    offsets, losses = report.surface.offsets, report.surface.losses
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    every = list(figure.subplots(1, len(losses), squeeze=False)[0])
    relative = offsets / report.epsilon
    edge = _edge(report.norm)
    figure.suptitle(
        f"Loss around {len(losses)} images", x=0.01, ha="left", fontsize=9.5, fontweight="bold"
    )
    for axes, loss in zip(every, losses, strict=True):
        picture = axes.pcolormesh(relative, relative, loss.T, cmap=SEQUENTIAL, shading="nearest")
        picture.set_rasterized(True)
        axes.plot(*edge, color="white", lw=1)
        axes.grid(False)
        axes.set_aspect("equal")
        axes.set_box_aspect(1)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator([-1, 0, 1]))
        bar = figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.9, pad=0.04)
        bar.ax.xaxis.set_major_locator(MaxNLocator(3))
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
    every[0].set_ylabel("random direction / epsilon", fontsize=8)
    figure.supxlabel("gradient's direction / epsilon; colour: cross-entropy", fontsize=8)
    return figure


def _edge(norm: str) -> tuple[np.ndarray, np.ndarray]:
    """The ball's edge in the plane, in units of epsilon."""
    angle = np.linspace(0, 2 * np.pi, 181)
    x, y = np.cos(angle), np.sin(angle)
    size = np.abs(x) + np.abs(y) if norm == "linf" else np.ones_like(x)
    return x / size, y / size


def _largest_class(report) -> float | None:
    """The share of the commonest class, where a check measured it."""
    for check in report.checks:
        if "largest_class" in check.numbers:
            return float(check.numbers["largest_class"])
    return None


def _radius_axis(axes, radii: np.ndarray) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(radii)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.radius(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(-0.15 * radii[1], radii[-1] * 1.15)
    axes.set_xlabel("epsilon")
