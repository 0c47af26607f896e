"""Writes what workdirs say into a folder of reports, and prints the short of it."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis import (
    captions,
    figures,
    formats,
    page,
    panels,
    printing,
    records,
    runs,
    style,
    tables,
    tickets,
    weight_figures,
    words,
)
from rst_tf.analysis.groups import Group, groups_of, same_experiment
from rst_tf.files import write_bytes

TERMINAL = 100  # columns: what a table of several groups may take
LONGEST = 40  # characters of a label in a file's name

Pictures = dict[str, tuple[bytes, bytes]]


def write(workdir: str | Path, out: str | Path | None = None) -> None:
    """Reports on one run: tables, figures and report.html, and a summary on the terminal.

    Args:
        workdir: Folder with config.json, results.csv and perhaps tickets.
        out: Where the report goes; `workdir/report` if None.

    Raises:
        ValueError: A file is missing or damaged; names the file and the line.
    """
    write_seeds([workdir], Path(workdir, "report") if out is None else out)


def write_seeds(workdirs: Sequence[str | Path], out: str | Path) -> None:
    """Reports on runs of one experiment with different seeds: means and standard deviations.

    Args:
        workdirs: At least one, in the order in which their seeds are listed.
        out: Where the report goes.

    Raises:
        ValueError: A file is missing or damaged, or the runs differ in more than the seed.
    """
    loaded = runs.completed([runs.load(workdir) for workdir in workdirs])
    same_experiment(loaded)
    write_groups(groups_of(loaded), out)


def write_groups(
    groups: Sequence[Group],
    out: str | Path,
    rounds: Sequence[int] = (),
    sections: Sequence[str] = (),
) -> None:
    """Reports on groups of runs, side by side if there is more than one.

    Args:
        groups: At least one.
        out: Where the report goes.
        rounds: Drawn where not all can be; none chooses.
        sections: HTML for the page, from `page.section`.

    Raises:
        ValueError: A ticket is damaged, or no group has one of the rounds.
    """
    known = {line.round for group in groups for line in group.table.lines}
    if missing := set(rounds) - known:
        raise ValueError(
            f"rounds: there is no round {min(missing)}, but {', '.join(map(str, sorted(known)))}"
        )
    layers = _by_name("masks", groups, lambda group: tickets.first_layers(group.runs[0]))
    weights = _by_name("weights", groups, lambda group: _weights(group, rounds))
    pictures = _pictures(groups, rounds, layers, weights)
    files = _tables(groups)
    for name, (png, svg) in pictures.items():
        files |= {f"{name}.png": png, f"{name}.svg": svg}
    svgs = {name: svg for name, (_, svg) in pictures.items()}
    said = captions.captions(groups, layers, weights)
    owned = {
        group.label: [weight, layer]
        for group, weight, layer in zip(groups, weights, layers, strict=True)
        if len(groups) > 1
    }
    files["report.html"] = page.html(groups, svgs, said, owned, sections)
    write_files(out, files)
    print(_summary(groups, Path(out), list(pictures)))


def write_files(out: str | Path, files: dict[str, str | bytes]) -> None:
    """Writes files by name into a folder."""
    for name, content in files.items():
        write_bytes(Path(out, name), content if isinstance(content, bytes) else content.encode())


def _by_name(kind: str, groups: Sequence[Group], read: Callable[[Group], Any]) -> dict[str, Any]:
    """What is read of each group, by its figure's name: a label, or a number if those are long."""
    names = [re.sub(r"[^\w.-]+", "_", group.label).strip("_") for group in groups]
    if max(map(len, names)) > LONGEST or len(set(names)) < len(names):
        names = [str(number) for number in range(1, len(groups) + 1)]
    named = [f"{kind}_{name}" if len(groups) > 1 else kind for name in names]
    return {name: read(group) for name, group in zip(named, groups, strict=True)}


def _weights(group: Group, rounds: Sequence[int]) -> tuple[tickets.Weights, ...]:
    known = [line.round for line in group.table.lines]
    wanted = [round for round in rounds if round in known] or known
    drawn = panels.chosen_rounds(wanted, panels.PUBLISHED_WEIGHTS)
    return tickets.weights(group.runs[0], drawn)


def _pictures(groups: Sequence[Group], rounds: Sequence[int], layers, weights) -> Pictures:
    """PNG and SVG of every figure there is something for, by name."""
    first = groups[0]
    draw = {"density": lambda: figures.over_density(groups)}
    if len(groups) == 1:
        draw["steps"] = lambda: figures.over_steps(first.runs, first.table)
    else:
        draw["steps_accuracy"] = lambda: figures.over_steps_by_group(groups, "accuracy", rounds)
        draw["steps_robust_accuracy"] = lambda: figures.over_steps_by_group(
            groups, "robust_accuracy", rounds
        )
    draw["early_stopping"] = lambda: figures.early_stopping(groups)
    for name, each in weights.items():
        draw[name] = lambda each=each: weight_figures.distributions(each)
    for name, each in layers.items():
        draw[name] = lambda each=each: weight_figures.first_layer(each)
    drawn = {name: style.rendered(each) for name, each in draw.items()}
    return {name: both for name, both in drawn.items() if both is not None}


def _tables(groups: Sequence[Group]) -> dict[str, str]:
    """The tables as files."""
    labelled = len(groups) > 1
    return {
        "table.csv": _csv(groups, records.of_table, labelled),
        "early_stopping.csv": _csv(groups, records.of_stopping, labelled),
        "table.md": _markdown(groups),
        "table.tex": _latex(groups),
    }


def _csv(groups: Sequence[Group], read, labelled: bool) -> str:
    found = [
        {**({"group": group.label} if labelled else {}), **record}
        for group in groups
        for record in read(group.table)
    ]
    return printing.comma_separated(found)


def _markdown(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        table = groups[0].table
        columns, notes = formats.columns(table, True), formats.notes(table, True)
        return printing.markdown(columns, notes, formats.chosen(table))
    parts = [
        f"## {title}\n\n{printing.markdown(columns, notes)}"
        for title, columns, notes in _across(groups)
    ]
    return "\n".join(parts)


def _latex(groups: Sequence[Group]) -> str:
    if len(groups) == 1:
        table = groups[0].table
        columns, notes = formats.columns(table, False), formats.notes(table, False)
        return printing.latex(columns, notes, "tab:density")
    parts = []
    for number, (title, columns, notes) in enumerate(_across(groups)):
        label = "tab:density-last" if number else "tab:density"
        parts.append(printing.latex(columns, [f"{title}.", *notes], label))
    return "\n".join(parts)


def _across(groups: Sequence[Group]):
    """Title, columns and notes of the tables of several groups: chosen networks, last step."""
    labels, each = [group.label for group in groups], [group.table for group in groups]
    title = formats.chosen(each[0])
    for head, read, last in (
        (title[0].upper() + title[1:], lambda line: line.chosen, False),
        ("Last step", lambda line: line.last, True),
    ):
        columns = formats.across_columns(labels, each, read)
        yield head, columns, formats.across_notes(labels, each, last)


def _summary(groups: Sequence[Group], out: Path, names: Sequence[str]) -> str:
    paths = {
        "report": [out / "report.html"],
        "figures": [out / f"{name}.png" for name in names],
        "tables": [out / f"table.{kind}" for kind in ("csv", "md", "tex")],
    }
    paths["tables"].append(out / "early_stopping.csv")
    every = [run for group in groups for run in group.runs]
    lines = [f"{words.title(groups)}: {', '.join(str(run.workdir) for run in every)}", ""]
    lines += [_text(groups), ""]
    line, why = tables.highlight(groups[0].table)
    if len(groups) == 1:
        lines += [formats.headline(groups[0].table, line), f"({why})", ""]
    for kind, each in paths.items():
        lines += [f"{kind:8} {path}" for path in each]
    logs = [run.workdir / "tensorboard" for run in every]
    lines += [f"tensorboard --logdir {shlex.quote(str(path))}" for path in logs if path.is_dir()]
    return "\n".join(lines)


def _text(groups: Sequence[Group]) -> str:
    """The table for a terminal; of several groups with their labels as numbers if they are long."""
    if len(groups) == 1:
        table = groups[0].table
        return printing.text(formats.columns(table, False), formats.notes(table, False))
    labels, each = [group.label for group in groups], [group.table for group in groups]
    notes = formats.across_notes(labels, each, last=False)
    columns = formats.across_columns(labels, each, lambda line: line.chosen)
    said = printing.text(columns, notes)
    if max(map(len, said.splitlines())) > TERMINAL:
        numbers = [str(number) for number in range(1, len(labels) + 1)]
        columns = formats.across_columns(numbers, each, lambda line: line.chosen)
        measures = [c for c in columns if c.header in ("density", each[0].measure)]
        named = [f"{number}: {label}." for number, label in zip(numbers, labels, strict=True)]
        said = printing.text(measures, [*named, *notes])
    return said
