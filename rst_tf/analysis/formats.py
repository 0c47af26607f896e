"""What is printed of tables: numbers as text, columns, notes.

Every table of strings is made of the same columns, so text, Markdown, LaTeX and the report cannot
disagree.
"""

from collections.abc import Callable, Iterable, Sequence

from rst_tf.analysis.estimates import Estimate
from rst_tf.analysis.printing import Column
from rst_tf.analysis.tables import Line, Point, Table, across

BEST, LAST = "best step, by validation", "last step"
FINE = 10_000  # examples from which on a second decimal is worth printing


def decimals(table: Table) -> int:
    """Of percentages: two where the test split is large enough for them."""
    return 2 if (table.test_examples or 0) >= FINE else 1


def percent(estimate: Estimate | None, digits: int = 1) -> str:
    """A fraction in percent, with its standard deviation if there is one."""
    if estimate is None:
        return ""
    spread = "" if estimate.std is None else f" ±{100 * estimate.std:.{digits}f}"
    return f"{100 * estimate.mean:.{digits}f}{spread}"


def points(estimate: Estimate | None, digits: int = 1) -> str:
    """A signed difference of fractions in percentage points."""
    if estimate is None:
        return ""
    text, zero = percent(estimate, digits), f"{0:.{digits}f}"
    # A difference that rounds to nothing has no sign worth printing.
    text = text.removeprefix("-") if text.startswith(f"-{zero}") else text
    return text if text.startswith(("-", zero)) else f"+{text}"


def densities(lines: Sequence[Line]) -> list[str]:
    """The lines' densities in percent, with two significant digits for the sparsest."""
    return percentages([line.density for line in lines])


def percentages(fractions: Sequence[float]) -> list[str]:
    """Fractions in percent, with two significant digits for the smallest; 1 is always "100"."""
    decimals = 1
    while 100 * min(fractions) * 10**decimals < 9.5:
        decimals += 1
    return ["100" if value == 1.0 else f"{100 * value:.{decimals}f}" for value in fractions]


def interval(estimate: Estimate, digits: int = 1) -> str:
    """The 95 % interval of a fraction, in percent."""
    if estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def steps(values: Sequence[int]) -> str:
    """A step, or the range of several seeds' steps."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def chosen(table: Table) -> str:
    """Which networks a table speaks of."""
    return BEST if table.step is None else f"step {table.step:,}"


def columns(table: Table, intervals: bool) -> tuple[Column, ...]:
    """The printed columns of one group, leaving out those that this table has nothing for."""
    best, digits, dense = chosen(table), decimals(table), table.dense
    density = dict(zip(table.lines, densities(table.lines), strict=True))
    step = (lambda line: steps(line.chosen.steps)) if table.step is None else (lambda line: "")
    spec: list[tuple[str, str, Callable[[Line], str]]] = [
        ("", "density", lambda line: density[line]),
        ("", "kept", lambda line: f"{line.kept:,.0f}"),
        (best, "step", step),
        (best, "accuracy", lambda line: percent(line.chosen.accuracy, digits)),
        (best, "robust accuracy", lambda line: percent(line.chosen.robust_accuracy, digits)),
        (
            best,
            "95 % interval",
            lambda line: interval(line.chosen.measure, digits) if intervals else "",
        ),
        (
            best,
            "vs dense",
            lambda line: "dense" if line is dense else points(line.difference, digits),
        ),
        (LAST, "accuracy", lambda line: percent(line.last.accuracy, digits)),
        (LAST, "robust accuracy", lambda line: percent(line.last.robust_accuracy, digits)),
    ]
    made = (Column(group, head, tuple(map(cell, table.lines))) for group, head, cell in spec)
    return tuple(column for column in made if set(column.cells) - {"", "dense"})


def across_columns(
    labels: Sequence[str], tables: Sequence[Table], read: Callable[[Line], Point]
) -> tuple[Column, ...]:
    """The columns of several groups: accuracy and robust accuracy of each, by density.

    Args:
        labels: Of the groups.
        tables: Of the groups.
        read: Which networks of a line to speak of.
    """
    rows = across(tables)
    first = [next(line for line in row if line is not None) for row in rows]
    made = [Column("", "density", tuple(densities(first)))]
    for index, (label, table) in enumerate(zip(labels, tables, strict=True)):
        points_ = [read(row[index]) if row[index] is not None else None for row in rows]
        digits = decimals(table)
        for name in ("accuracy", "robust_accuracy"):
            cells = [percent(point and getattr(point, name), digits) for point in points_]
            made.append(Column(label, name.replace("_", " "), tuple(cells)))
    return tuple(column for column in made if any(column.cells))


def notes(table: Table, intervals: bool) -> list[str]:
    """What a reader must know to read the table: split, attack, choice, seeds, units."""
    said = [measured(table), _chosen(table), f"Last step: {last_steps([table])}."]
    if intervals and table.lines[0].chosen.measure.interval is not None:
        said.append(f"95 % interval: Wilson's for the {table.measure}, by the number of examples.")
    if table.dense is not None and len(table.lines) > 1:
        said.append(f"vs dense: {table.measure} minus the dense network's, in points.")
    said += unfinished([table])
    if len(table.seeds) > 1:
        said.append(f"Mean ± sample standard deviation of {seeds(table)}.")
    return said


def across_notes(labels: Sequence[str], tables: Sequence[Table], last: bool) -> list[str]:
    """What a reader must know to read columns of several groups.

    Args:
        labels: Of the groups.
        tables: Of the groups.
        last: Whether the columns are those of the last step.
    """
    pairs = list(zip(labels, tables, strict=True))
    said = [measured(tables[0])]
    said.append(f"Last step: {last_steps(tables)}." if last else _chosen(tables[0]))
    each = [f"{label}: {seeds(table)}" for label, table in pairs]
    if len({table.seeds for table in tables}) == 1:
        each = [f"Each group: {seeds(tables[0])}"]
    spread = any(len(table.seeds) > 1 for table in tables)
    said.append(f"{'Mean ± sample standard deviation. ' if spread else ''}{'; '.join(each)}.")
    return said + unfinished(tables)


def measured(table: Table) -> str:
    """Split, number of examples and attack, as a sentence."""
    examples = "" if table.test_examples is None else f" ({table.test_examples:,} examples)"
    attack = "no attack" if table.attack is None else f"attack {table.attack}"
    return f"Percent, on the test split{examples}; {attack}."


def _chosen(table: Table) -> str:
    if table.step is not None:
        return f"Every network is that of step {table.step:,} of its round."
    under = "" if table.valid_attack == table.attack else f" under {table.valid_attack}"
    return f"Best step: the first with the highest {table.measure} on the validation split{under}."


def seeds(table: Table) -> str:
    """How many runs, of which seeds."""
    if len(table.seeds) == 1:
        return "1 run" if table.seeds[0] is None else f"1 run (seed {table.seeds[0]})"
    return f"{len(table.seeds)} runs (seeds {', '.join(map(str, table.seeds))})"


def unfinished(tables: Iterable[Table]) -> list[str]:
    """A sentence about rounds that are left out, if there are any."""
    left = sorted({round for table in tables for round in table.unfinished})
    if not left:
        return []
    rounds = ", ".join(map(str, left))
    return [f"Unfinished: round {rounds} is left out; the same command continues the run."]


def last_steps(tables: Iterable[Table]) -> str:
    """The last step, or the range of several."""
    return steps([n for table in tables for line in table.lines for n in line.last.steps])


def headline(table: Table, line: Line) -> str:
    """One sentence about one line of the table."""
    density = densities(table.lines)[table.lines.index(line)]
    said = f"At {density} % of the weights: accuracy {percent(line.chosen.accuracy)} %"
    if line.chosen.robust_accuracy is not None:
        said += f", robust accuracy {percent(line.chosen.robust_accuracy)} %"
    if table.dense is not None and table.dense is not line:
        said += f" (dense network {percent(table.dense.chosen.measure)} %)"
    return said


def across_headline(labels: Sequence[str], table: Table, row: Sequence[Line | None]) -> str:
    """One sentence about one density of several groups.

    Args:
        labels: Of the groups.
        table: Of the first group, which has a line there.
        row: Each group's line there, None where it has none.
    """
    density = densities(table.lines)[table.lines.index(row[0])]
    each = [
        f"{label} {percent(line.chosen.measure)} %"
        for label, line in zip(labels, row, strict=True)
        if line is not None
    ]
    said = f"At {density} % of the weights, {table.measure} is: {'; '.join(each)}"
    if table.dense is not None and table.dense is not row[0]:
        said += f" (dense network of {labels[0]}: {percent(table.dense.chosen.measure)} %)"
    return said
