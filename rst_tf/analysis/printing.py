"""Columns of strings as text for a terminal, as Markdown, as LaTeX; records as CSV."""

import csv
import dataclasses
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby

WIDTH = 80  # of printed prose; tables may be a little wider
GAP = 2
ESCAPES = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """A printed column: the group it stands under ("" for none), its header and its cells."""

    group: str
    header: str
    cells: tuple[str, ...]


def text(columns: Sequence[Column], notes: Sequence[str]) -> str:
    """For a terminal: aligned, with the notes below."""
    heads = [_stacked(column.header) for column in columns]
    widths = _widths(columns, heads)
    rows = [*zip(*heads, strict=True), *zip(*(column.cells for column in columns), strict=True)]
    body = [
        (" " * GAP)
        .join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + GAP * (len(widths) - 1))
    prose = [line for note in notes for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([_groups(columns, widths), *body[:2], rule, *body[2:], rule, *prose])


def _stacked(header: str) -> tuple[str, str]:
    above, _, below = header.rpartition(" ")
    return above, below


def _widths(columns: Sequence[Column], heads: Sequence[tuple[str, str]]) -> list[int]:
    """Column widths: for the widest cell, and for the group's name over its columns."""
    widths = [max(map(len, (*h, *c.cells))) for h, c in zip(heads, columns, strict=True)]
    for group, total in _spans(columns, widths).items():
        last = max(i for i, column in enumerate(columns) if column.group == group)
        widths[last] += max(0, len(group) - total)
    return widths


def _spans(columns: Sequence[Column], widths: Sequence[int]) -> dict[str, int]:
    """The width of each group, its columns and the gaps between them."""
    spans: dict[str, int] = {}
    for column, width in zip(columns, widths, strict=True):
        spans[column.group] = spans.get(column.group, -GAP) + width + GAP
    return spans


def _groups(columns: Sequence[Column], widths: Sequence[int]) -> str:
    """The line that names the groups, each between dashes over its columns."""
    spans = _spans(columns, widths).items()
    named = [f" {name} ".center(n, "-") if n > len(name) + 1 else name for name, n in spans if name]
    return " " * (_spans(columns, widths)[""] + GAP) + (" " * GAP).join(named)


def markdown(columns: Sequence[Column], notes: Sequence[str], plain: str = "") -> str:
    """A Markdown table with its notes below.

    Args:
        columns: What to print.
        notes: One sentence or more each.
        plain: The group whose name is left out, since Markdown has no second line of headers.
    """
    titles = [
        f"{column.header} ({column.group})" if column.group not in ("", plain) else column.header
        for column in columns
    ]
    rows = zip(*(column.cells for column in columns), strict=True)
    lines = [titles, ["---:"] * len(titles), *rows]
    body = "\n".join(f"| {' | '.join(map(_unbarred, line))} |" for line in lines)
    return f"{body}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _unbarred(cell: str) -> str:
    return cell.replace("|", "\\|")


def latex(columns: Sequence[Column], caption: Sequence[str], label: str) -> str:
    """A floating LaTeX table, for the package booktabs.

    Args:
        columns: What to print; groups are put over their columns.
        caption: Sentences.
        label: For `\\ref`.
    """
    spans = [
        (group, len(list(members)))
        for group, members in groupby(columns, key=lambda column: column.group)
    ]
    above, rules, place = [], [], 1
    for group, width in spans:
        over = f"\\multicolumn{{{width}}}{{c}}{{{_escaped(group)}}}"
        above.append(over if group else " & ".join([""] * width))
        rules += [f"\\cmidrule(lr){{{place}-{place + width - 1}}}"] if group else []
        place += width
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{' '.join(map(_escaped, caption))}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{{'r' * len(columns)}}}",
        r"\toprule",
        *([f"{' & '.join(above)} \\\\", " ".join(rules)] if rules else []),
        f"{' & '.join(_escaped(column.header) for column in columns)} \\\\",
        r"\midrule",
    ]
    for row in zip(*(column.cells for column in columns), strict=True):
        lines.append(f"{' & '.join(map(_escaped, row))} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(cell: str) -> str:
    sign = "$-$" if re.match(r"-\d", cell) else ""
    rest = cell[1:] if sign else cell
    return sign + "".join(ESCAPES.get(character, character) for character in rest)


def comma_separated(records: Sequence[Mapping[str, object]]) -> str:
    """Records with the same names as CSV; names that only some have are empty in the others."""
    names = dict.fromkeys(name for record in records for name in record)
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
