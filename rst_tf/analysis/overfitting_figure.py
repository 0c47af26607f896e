"""The figure of robust overfitting: training and test accuracy over epochs, a panel per run."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rst_tf.analysis import panels, topology
from rst_tf.analysis.figures import PER_LINE, wrapped
from rst_tf.analysis.formats import densities
from rst_tf.analysis.groups import Group
from rst_tf.analysis.overfitting import UNAUGMENTED
from rst_tf.analysis.runs import Run
from rst_tf.analysis.style import BLUE, COLOURS, GREY, WIDTH
from rst_tf.analysis.tables import Line

MOST = 12  # panels
ORANGE, PINK = COLOURS[1], COLOURS[3]
ON_THE_FLY = (0, (3, 1))
PRUNED, GREW = 0.1, 0.05  # heights of the strokes, fractions of the axes
TRAINING = {UNAUGMENTED: "training images", "train": "training batches, as trained on"}


def curves(groups: Sequence[Group]) -> Figure:
    """What networks are chosen by, on test and training images: a panel per group and round.

    Every seed is a line. The best step by validation is a dot; strokes at the foot are updates of
    the first seed's masks that pruned or grew more than usual.
    """
    drawn = [(group, line) for group in groups for line in group.table.lines]
    if len(drawn) > MOST:
        rounds = set(panels.chosen_rounds(sorted({line.round for _, line in drawn})))
        drawn = [(group, line) for group, line in drawn if line.round in rounds][:MOST]
    rows, columns = math.ceil(len(drawn) / PER_LINE), min(PER_LINE, len(drawn))
    size = (WIDTH if columns > 1 else 0.7 * WIDTH, 0.8 + 2.2 * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    handles: dict[str, Line2D] = {}
    for axes in grid.flat[len(drawn) :]:
        axes.set_axis_off()
    for axes, (group, line) in zip(grid.flat, drawn, strict=False):
        _panel(axes, group, line, handles)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"{groups[0].table.measure} (%)")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=min(len(handles), 3 if columns > 1 else 2),
        frameon=False,
        fontsize=8,
    )
    return figure


def _panel(axes: Axes, group: Group, line: Line, handles: dict[str, Line2D]) -> None:
    epoch = group.runs[0].steps_per_epoch
    for run in group.runs:
        _curves(axes, run, line.round, handles)
    for update in topology.read(group.runs[0].workdir):
        if update.round == line.round:
            _mark(axes, update, epoch or 1, handles)
    panels.percent_ticks(axes)
    panels.step_axis(axes, ticks=4)
    axes.set_xlabel("steps" if epoch is None else "epochs")
    axes.set_title(wrapped(_title(group, line), 26), fontsize=8.5)


def _title(group: Group, line: Line) -> str:
    if len(group.table.lines) == 1:
        return group.label
    density = densities(group.table.lines)[group.table.lines.index(line)]
    return f"{group.label}, {density} %" if group.label else f"{density} % of the weights"


def _curves(axes: Axes, run: Run, round: int, handles: dict[str, Line2D]) -> None:
    epoch = run.steps_per_epoch or 1
    split = UNAUGMENTED if run.curve(round, UNAUGMENTED) else "train"
    looks = {"test": (BLUE, "-"), UNAUGMENTED: (ORANGE, "-"), "train": (ORANGE, ON_THE_FLY)}
    for name, label in (("test", "test images"), (split, TRAINING[split])):
        rows = [row for row in run.curve(round, name) if row.measure is not None]
        if rows:
            at, values = zip(*((row.step / epoch, 100 * row.measure) for row in rows), strict=True)
            (handles[label],) = axes.plot(
                at, values, color=looks[name][0], linestyle=looks[name][1], linewidth=1.2
            )
    best = run.best(round)
    (handles["best step, by validation"],) = axes.plot(
        best.step / epoch,
        100 * best.test.measure,
        "o",
        color="black",
        markersize=4,
        zorder=3,
    )


def _mark(axes: Axes, update: topology.Update, epoch: int, handles: dict[str, Line2D]) -> None:
    """Short strokes in two rows at the foot of the axes: there may be dozens."""
    for fired, label, colour, foot in (
        (update.prune_more, "pruned more", GREY, PRUNED),
        (update.grow_more, "grew more", PINK, GREW),
    ):
        if fired:
            (handles[label],) = axes.plot(
                update.step / epoch,
                foot,
                marker="|",
                markersize=7,
                color=colour,
                linestyle="none",
                transform=axes.get_xaxis_transform(),
                zorder=1,
            )
