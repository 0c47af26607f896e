"""Verdicts on claims as text, CSV, Markdown and a section of the page."""

from collections.abc import Sequence
from pathlib import Path

from rst_tf.analysis import claims, page, printing
from rst_tf.analysis.report import write_files
from rst_tf.analysis.verdicts import VERDICTS, Result, judge


def write(path: str | Path, out: str | Path) -> tuple[str, list[Result]]:
    """Tries the claims of a file, writes claims.csv and claims.md, and prints the verdicts.

    Args:
        path: YAML file, as `claims` describes it.
        out: Folder.

    Returns:
        The section for the page, and the results.

    Raises:
        ValueError: The file, or a workdir, is not what it should be.
    """
    results = [judge(claim, Path(path).parent) for claim in claims.read(path)]
    columns, notes = _columns(results), _notes(results)
    files: dict[str, str | bytes] = {
        "claims.csv": printing.comma_separated([result.record() for result in results]),
        "claims.md": printing.markdown(columns, notes),
    }
    write_files(out, files)
    lines = [f"{each.verdict:13}  {_value(each)}  {each.claim.claim}" for each in results]
    print("\n".join([*lines, "", *(f"claims   {Path(out, name)}" for name in files), ""]))
    shown = page.table(columns, notes, prose=("claim", "note"))
    return page.section("Claims", shown), results


def _columns(results: Sequence[Result]) -> tuple[printing.Column, ...]:
    heads = ("claim", "value", "95 % interval", "seeds", "expected", "verdict", "note")
    rows = [
        (
            each.claim.claim,
            "" if each.value is None else _number(each, each.value),
            _interval(each),
            ", ".join(map(str, each.seeds)),
            each.claim.expected,
            each.verdict,
            each.note,
        )
        for each in results
    ]
    made = zip(heads, zip(*rows, strict=True), strict=True)
    return tuple(printing.Column("", head, cells) for head, cells in made if any(cells))


def _notes(results: Sequence[Result]) -> list[str]:
    counts = [f"{name}: {sum(r.verdict == name for r in results)}" for name in VERDICTS]
    return [
        f"{len(results)} claims; {', '.join(counts)}.",
        "Accuracies in percent, their differences in points, steps in updates. A claim holds if "
        "the whole 95 % interval is within what is expected, and does not hold if all of it is "
        "outside: Student's t over seeds; for one seed Wilson's or Newcombe's, by the examples.",
    ]


def _number(result: Result, value: float) -> str:
    return f"{value:,.0f}" if result.claim.metric == "step" else f"{value:.2f}"


def _interval(result: Result) -> str:
    if result.interval is None:
        return ""
    return " to ".join(_number(result, bound) for bound in result.interval)


def _value(result: Result) -> str:
    if result.value is None:
        return f"({result.note})"
    interval = f" ({_interval(result)})" if result.interval else ""
    return f"{_number(result, result.value)}{interval}, expected {result.claim.expected};"
