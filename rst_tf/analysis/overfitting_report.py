"""Robust overfitting as a table, a picture and a section of the page."""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path

from rst_tf.analysis import formats, page, printing, records, style
from rst_tf.analysis.estimates import Estimate
from rst_tf.analysis.groups import Group
from rst_tf.analysis.overfitting import COSTS, Decline, declines_of
from rst_tf.analysis.overfitting_figure import MOST, curves
from rst_tf.analysis.printing import Column
from rst_tf.analysis.report import TERMINAL, write_files

NONE = "-"
GAP = "gap to training"
COST = "multiply-adds (of dense)"


def write(groups: Sequence[Group], out: str | Path) -> str:
    """Writes overfitting.csv, .md, .tex, .png and .svg, and prints the table.

    Args:
        groups: At least one.
        out: Folder.

    Returns:
        The section for the page.

    Raises:
        ValueError: A file of a run is damaged; names the line.
    """
    declines = declines_of(groups)
    made, said = columns(declines, groups), notes(declines, groups)
    png, svg = style.rendered(lambda: curves(groups))
    files: dict[str, str | bytes] = {
        "overfitting.csv": printing.comma_separated([record(decline) for decline in declines]),
        "overfitting.md": printing.markdown(made, said),
        "overfitting.tex": printing.latex(made, said, "tab:overfitting"),
        "overfitting.png": png,
        "overfitting.svg": svg,
    }
    write_files(out, files)
    print(_text(declines, groups, said))
    print("\n".join(["", *(f"overfitting  {Path(out, name)}" for name in files), ""]))
    return page.section(
        "Robust overfitting",
        page.table(made, said, prose=["network"]),
        page.figure(svg, _caption(groups), "overfitting"),
    )


def columns(declines: Sequence[Decline], groups: Sequence[Group]) -> tuple[Column, ...]:
    """The printed columns: a row per group and round.

    Columns that no row has anything for are left out; a gap that was not measured is a dash.
    """
    digits = formats.decimals(groups[0].table)
    density = formats.percentages([decline.density for decline in declines])
    shares = dict(zip(declines, density, strict=True))

    def percent(read: Callable[[Decline], Estimate | None]):
        return lambda decline: formats.percent(read(decline), digits)

    def points(read: Callable[[Decline], Estimate | None]):
        return lambda decline: formats.points(read(decline), digits)

    spec: list[tuple[str, str, Callable[[Decline], str]]] = [
        ("", "network", lambda decline: decline.label),
        ("", "density", shares.__getitem__),
        ("", "best step", lambda decline: formats.steps(decline.best.steps)),
    ]
    for name in ("robust_accuracy", "accuracy"):
        head = name.replace("_", " ")
        spec += [
            (head, "best", percent(lambda decline, name=name: getattr(decline.best, name))),
            (head, "last", percent(lambda decline, name=name: getattr(decline.last, name))),
            (head, "diff", points(operator.attrgetter(name))),
        ]
    for name in ("best", "last"):
        read = points(operator.attrgetter(f"{name}_gap"))
        spec.append((GAP, name, lambda decline, read=read: read(decline) or NONE))
    if any(decline.costs for decline in declines):
        spec.append((COST, "training", lambda decline: _cost(decline, "training")))
        spec.append((COST, "inference", lambda decline: _cost(decline, "inference_last")))
    made = (Column(group, head, tuple(map(cell, declines))) for group, head, cell in spec)
    return tuple(column for column in made if any(column.cells))


def notes(declines: Sequence[Decline], groups: Sequence[Group]) -> list[str]:
    """What a reader must know to read the table."""
    tables = [group.table for group in groups]
    table = tables[0]
    under = "" if table.valid_attack == table.attack else f" under {table.valid_attack}"
    said = [
        formats.measured(table),
        f"Best: the first step with the highest validation {table.measure}{under}; all numbers of "
        "best are that network's. Diff: best minus last, in points.",
        f"Last step: {formats.last_steps(tables)}.",
    ]
    if any(decline.best_gap is not None for decline in declines):
        said.append(
            f"Gap to training: {table.measure} on training images without augmentation minus that "
            "on test images, in points."
        )
    if any(decline.costs for decline in declines):
        said.append(
            "Multiply-adds of all that was trained up to the last step, and of one image through "
            "the last network; a pass forward and back counts as three forward."
        )
    if any(len(table.seeds) > 1 for table in tables):
        each = [f"{group.label}: {formats.seeds(group.table)}".lstrip(": ") for group in groups]
        said.append(f"Mean ± sample standard deviation. {'; '.join(each)}.")
    if any(decline.best_gap is None for decline in declines):
        said.append("There is no gap where a run did not evaluate training images (eval_train).")
    return said + formats.unfinished(tables)


def record(decline: Decline) -> dict[str, object]:
    """The unrounded numbers of one row."""
    cells = records.cells
    made = {
        **({"group": decline.label} if decline.label else {}),
        "round": decline.line.round,
        "density": decline.density,
        "runs": len(decline.best.steps),
        "best_step": records.joined(decline.best.steps),
        "last_step": records.joined(decline.last.steps),
    }
    for name in ("robust_accuracy", "accuracy"):
        made |= cells(f"best_{name}", getattr(decline.best, name))
        made |= cells(f"last_{name}", getattr(decline.last, name))
        made |= cells(f"{name}_difference", getattr(decline, name))
    made |= cells("best_gap", decline.best_gap) | cells("last_gap", decline.last_gap)
    for name in COSTS:
        made |= cells(name, decline.costs.get(name))
    return made


def _cost(decline: Decline, name: str) -> str:
    """A number of multiply-adds, and its share of a dense network's."""
    if name not in decline.costs:
        return NONE
    share = decline.costs.get(f"{name}_of_dense")
    said = f"{decline.costs[name].mean:.4g}"
    return said if share is None else f"{said} ({100 * share.mean:.1f} %)"


def _text(declines: Sequence[Decline], groups: Sequence[Group], said: Sequence[str]) -> str:
    """The table for a terminal, with the groups' labels as numbers if they are long."""
    made = columns(declines, groups)
    shown = printing.text(made, said)
    if len(groups) > 1 and max(map(len, shown.splitlines())) > TERMINAL:
        labels = [group.label for group in groups]
        numbers = [str(labels.index(decline.label) + 1) for decline in declines]
        made = (Column("", "network", tuple(numbers)), *made[1:])
        named = [f"{number}: {label}." for number, label in enumerate(labels, start=1)]
        shown = printing.text(made, [*named, *said])
    return shown


def _caption(groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    said = (
        f"{groups[0].table.measure.capitalize()} on test and on training images over a training, "
        f"{'a line per seed' if several else 'a panel per network'}. Dots: the best step by "
        "validation, on the test curve. Strokes at the foot: updates of the masks"
        f"{' (first seed)' if several else ''} that pruned or grew more than usual."
    )
    panels = sum(len(group.table.lines) for group in groups)
    return said if panels <= MOST else f"{said} {MOST} panels of {panels}."
