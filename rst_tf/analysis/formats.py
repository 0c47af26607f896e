"""A `Table` as text for a terminal, as Markdown and as CSV; and how numbers are printed.

Text and Markdown (and the report's HTML) print the same columns of strings, so they cannot
disagree; CSV has the unrounded numbers.
"""

import csv
import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence

from rst_tf.analysis.tables import Estimate, Line, Table

WIDTH = 80  # of printed prose; tables may be a little wider
GAP = 2
BEST, LAST = "best step, by validation", "last step"


@dataclasses.dataclass(frozen=True)
class Column:
    """A printed column: the group it stands under ("" for none), its header and its cells."""

    group: str
    header: str
    cells: tuple[str, ...]


def percent(estimate: Estimate | None) -> str:
    """A fraction in percent, with its standard deviation if there is one."""
    if estimate is None:
        return ""
    spread = "" if estimate.std is None else f" ±{100 * estimate.std:.1f}"
    return f"{100 * estimate.mean:.1f}{spread}"


def points(estimate: Estimate | None) -> str:
    """A signed difference of fractions in percentage points."""
    if estimate is None:
        return ""
    text = percent(estimate)
    # A difference that rounds to nothing has no sign worth printing.
    text = text.replace("-0.0", "0.0", 1) if text.startswith("-0.0") else text
    return text if text.startswith(("-", "0.0")) else f"+{text}"


def densities(lines: Sequence[Line]) -> list[str]:
    """The lines' densities in percent, with two significant digits for the sparsest."""
    return percentages([line.density for line in lines])


def percentages(fractions: Sequence[float]) -> list[str]:
    """Fractions in percent, with two significant digits for the smallest; 1 is always "100"."""
    decimals = 1
    while 100 * min(fractions) * 10**decimals < 9.5:
        decimals += 1
    return ["100" if value == 1.0 else f"{100 * value:.{decimals}f}" for value in fractions]


def interval(estimate: Estimate) -> str:
    """The 95 % interval of a fraction, in percent."""
    if estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def steps(values: Sequence[int]) -> str:
    """A step, or the range of several seeds' steps."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def columns(table: Table, intervals: bool) -> tuple[Column, ...]:
    """The printed columns, leaving out those that this table has nothing for."""
    dense = table.dense
    density = dict(zip(table.lines, densities(table.lines), strict=True))
    spec: list[tuple[str, str, Callable[[Line], str]]] = [
        ("", "density", lambda line: density[line]),
        ("", "kept", lambda line: f"{line.kept:,.0f}"),
        (BEST, "step", lambda line: steps(line.best.steps)),
        (BEST, "accuracy", lambda line: percent(line.best.accuracy)),
        (BEST, "robust accuracy", lambda line: percent(line.best.robust_accuracy)),
        (BEST, "95 % interval", lambda line: interval(line.best.measure) if intervals else ""),
        (BEST, "vs dense", lambda line: "dense" if line is dense else points(line.difference)),
        (LAST, "accuracy", lambda line: percent(line.last.accuracy)),
        (LAST, "robust accuracy", lambda line: percent(line.last.robust_accuracy)),
    ]
    made = (Column(group, head, tuple(map(cell, table.lines))) for group, head, cell in spec)
    return tuple(column for column in made if set(column.cells) - {"", "dense"})


def notes(table: Table, intervals: bool) -> list[str]:
    """What a reader must know to read the table: split, attack, choice, seeds, units."""
    examples = "" if table.test_examples is None else f" ({table.test_examples:,} examples)"
    attack = "no attack" if table.attack is None else f"attack {table.attack}"
    chosen = "" if table.valid_attack == table.attack else f" under {table.valid_attack}"
    said = [
        f"Percent, on the test split{examples}; {attack}.",
        f"Best step: the first with the highest {table.measure} on the validation split{chosen}.",
        f"Last step: {_last_steps(table)}.",
    ]
    if intervals and table.lines[0].best.measure.interval is not None:
        said.append(f"95 % interval: Wilson's for the {table.measure}, by the number of examples.")
    if table.dense is not None and len(table.lines) > 1:
        said.append(f"vs dense: {table.measure} minus the dense network's, in points.")
    if table.unfinished:
        left = ", ".join(map(str, table.unfinished))
        said.append(f"Unfinished: round {left} is left out; the same command continues the run.")
    if len(table.seeds) > 1:
        seeds = ", ".join(str(seed) for seed in table.seeds)
        said.append(f"Mean ± sample standard deviation of {len(table.seeds)} runs (seeds {seeds}).")
    return said


def _last_steps(table: Table) -> str:
    return steps([step for line in table.lines for step in line.last.steps])


def headline(table: Table, line: Line) -> str:
    """One sentence about one line of the table."""
    density = densities(table.lines)[table.lines.index(line)]
    said = f"At {density} % of the weights: accuracy {percent(line.best.accuracy)} %"
    if line.best.robust_accuracy is not None:
        said += f", robust accuracy {percent(line.best.robust_accuracy)} %"
    if table.dense is not None and table.dense is not line:
        said += f" (dense network {percent(table.dense.best.measure)} %)"
    return said


def text(table: Table) -> str:
    """For a terminal: aligned, under 90 columns, with its notes below."""
    shown = columns(table, intervals=False)
    heads = [_stacked(column.header) for column in shown]
    widths = _widths(shown, heads)
    rows = [*zip(*heads, strict=True), *zip(*(column.cells for column in shown), strict=True)]
    body = [
        (" " * GAP)
        .join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + GAP * (len(widths) - 1))
    prose = [line for note in notes(table, intervals=False) for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([_groups(shown, widths), *body[:2], rule, *body[2:], rule, *prose])


def _stacked(header: str) -> tuple[str, str]:
    above, _, below = header.rpartition(" ")
    return above, below


def _widths(shown: Sequence[Column], heads: Sequence[tuple[str, str]]) -> list[int]:
    """Column widths: for the widest cell, and for the group's name over its columns."""
    widths = [max(map(len, (*h, *c.cells))) for h, c in zip(heads, shown, strict=True)]
    for group, total in _spans(shown, widths).items():
        last = max(i for i, column in enumerate(shown) if column.group == group)
        widths[last] += max(0, len(group) - total)
    return widths


def _spans(shown: Sequence[Column], widths: Sequence[int]) -> dict[str, int]:
    """The width of each group, its columns and the gaps between them."""
    spans: dict[str, int] = {}
    for column, width in zip(shown, widths, strict=True):
        spans[column.group] = spans.get(column.group, -GAP) + width + GAP
    return spans


def _groups(shown: Sequence[Column], widths: Sequence[int]) -> str:
    """The line that names the groups, each between dashes over its columns."""
    spans = _spans(shown, widths).items()
    named = [f" {name} ".center(n, "-") if n > len(name) + 1 else name for name, n in spans if name]
    return " " * (_spans(shown, widths)[""] + GAP) + (" " * GAP).join(named)


def markdown(table: Table) -> str:
    """A Markdown table with its notes below."""
    shown = columns(table, intervals=True)
    titles = [f"{c.header} (last)" if c.group == LAST else c.header for c in shown]
    rows = zip(*(column.cells for column in shown), strict=True)
    lines = [titles, ["---:"] * len(titles), *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n" + "\n".join(f"- {note}" for note in notes(table, intervals=True)) + "\n"


def comma_separated(table: Table) -> str:
    """The unrounded numbers: fractions in [0, 1], one line per density.

    With several seeds the numbers are means, each with a `_std` column, and steps are one per
    seed, separated by spaces. Cells of what was not measured are empty.
    """
    records = [_record(table, line) for line in table.lines]
    out = io.StringIO()
    writer = csv.DictWriter(out, records[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _record(table: Table, line: Line) -> dict[str, object]:
    measure = table.measure.replace(" ", "_")
    kept = int(line.kept) if line.kept.is_integer() else line.kept
    return {
        "round": line.round,
        "density": line.density,
        "kept": kept,
        "runs": len(table.seeds),
        "best_step": " ".join(map(str, line.best.steps)),
        **_cells(f"valid_{measure}", line.best.valid),
        **_cells("accuracy", line.best.accuracy),
        **_cells("robust_accuracy", line.best.robust_accuracy),
        **_cells(f"{measure}_minus_dense", line.difference),
        "last_step": " ".join(map(str, line.last.steps)),
        **_cells("last_accuracy", line.last.accuracy),
        **_cells("last_robust_accuracy", line.last.robust_accuracy),
    }


def _cells(name: str, estimate: Estimate | None) -> dict[str, object]:
    if estimate is None:
        return {name: ""}
    cells: dict[str, object] = {name: estimate.mean}
    if estimate.std is not None:
        cells[f"{name}_std"] = estimate.std
    if estimate.interval is not None:
        cells[f"{name}_low"], cells[f"{name}_high"] = estimate.interval
    return cells
