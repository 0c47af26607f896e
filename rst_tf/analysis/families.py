"""Runs that differ only in the density they were asked for, as one line over density.

A search makes one ticket per run, and a fine-tuning takes one: what iterative pruning has as rounds
of one run, these have as several runs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis import formats, printing, records, style
from rst_tf.analysis.figures import over_density
from rst_tf.analysis.groups import Group, settings_of
from rst_tf.analysis.report import write_files

ASIDE = ("density", "ticket", "experiment.density", "experiment.ticket")


def families_of(groups: Sequence[Group], names: Sequence[str]) -> tuple[Group, ...]:
    """One group per family, its lines by falling density.

    Args:
        groups: Of one density each.
        names: One per family, in the order of their first groups.

    Raises:
        ValueError: A group has several densities, two of a family have the same one or other
            seeds, or there are not as many families as names.
    """
    members: list[tuple[Mapping[str, Any], list[Group]]] = []
    for group in groups:
        if len(group.table.lines) != 1:
            raise ValueError(
                f"--families: {group.runs[0].workdir} has {len(group.table.lines)} densities; a "
                "family joins runs of one density each"
            )
        settings = _aside(group)
        known = next((each for other, each in members if other == settings), None)
        if known is None:
            members.append((settings, [group]))
        else:
            known.append(group)
    if len(members) != len(names):
        found = "; ".join(", ".join(g.label for g in each) for _, each in members)
        raise ValueError(
            f"--families: expected one name for each of {len(members)} families ({found}); "
            f"received {', '.join(names)}"
        )
    return tuple(_joined(name, each) for name, (_, each) in zip(names, members, strict=True))


def write(families: Sequence[Group], out: str | Path) -> None:
    """Writes families.csv, families.md, families.png and families.svg, and prints the table."""
    labels, tables = [f.label for f in families], [f.table for f in families]
    columns = formats.across_columns(labels, tables, lambda line: line.chosen)
    notes = formats.across_notes(labels, tables, last=False)
    rows = [
        {"family": family.label, **record}
        for family in families
        for record in records.of_table(family.table)
    ]
    files: dict[str, str | bytes] = {
        "families.csv": printing.comma_separated(rows),
        "families.md": printing.markdown(columns, notes),
    }
    picture = style.rendered(lambda: over_density(families))
    if picture is not None:
        files |= {"families.png": picture[0], "families.svg": picture[1]}
    write_files(out, files)
    print(printing.text(columns, notes))
    print("\n".join(["", *(f"families  {Path(out, name)}" for name in files), ""]))


def _aside(group: Group) -> dict[str, Any]:
    return {k: v for k, v in settings_of(group.runs[0]).items() if k not in ASIDE}


def _joined(name: str, members: Sequence[Group]) -> Group:
    first = members[0]
    lines = sorted((g.table.lines[0] for g in members), key=lambda line: -line.density)
    for group in members:
        if group.table.seeds != first.table.seeds:
            raise ValueError(
                f"--families: {group.runs[0].workdir} has the seeds {group.table.seeds}, "
                f"{first.runs[0].workdir} of the same family {first.table.seeds}"
            )
    if len({line.density for line in lines}) < len(lines):
        raise ValueError(f"--families: two runs of {name!r} have the same density")
    table = dataclasses.replace(first.table, lines=tuple(lines))
    return Group(name, tuple(run for group in members for run in group.runs), table)
