"""The unrounded numbers of tables, for CSV: fractions in [0, 1], steps as they are.

With several seeds a number is a mean, with a `_std` next to it; with one it has its interval,
`_low` and `_high`, where the number of examples is known. Steps are one per seed, separated by
spaces. What was not measured is empty.
"""

from collections.abc import Sequence

from rst_tf.analysis.estimates import Estimate
from rst_tf.analysis.tables import Line, Table


def of_table(table: Table) -> list[dict[str, object]]:
    """One record per density: the chosen networks, and those of the last step."""
    return [_record(table, line) for line in table.lines]


def _record(table: Table, line: Line) -> dict[str, object]:
    measure = table.measure.replace(" ", "_")
    return {
        **_head(line),
        "runs": len(table.seeds),
        "best_step" if table.step is None else "step": joined(line.chosen.steps),
        **cells(f"valid_{measure}", line.chosen.valid),
        **cells("accuracy", line.chosen.accuracy),
        **cells("robust_accuracy", line.chosen.robust_accuracy),
        **cells(f"{measure}_minus_dense", line.difference),
        "last_step": joined(line.last.steps),
        **cells("last_accuracy", line.last.accuracy),
        **cells("last_robust_accuracy", line.last.robust_accuracy),
    }


def of_stopping(table: Table) -> list[dict[str, object]]:
    """Early stopping: per density and criterion the step, and validation and test there."""
    found = []
    for line in table.lines:
        for criterion, point in (
            (f"highest validation {table.measure}", line.best),
            ("lowest validation loss", line.lowest_loss),
        ):
            if point is not None:
                found.append(
                    {
                        **_head(line),
                        "runs": len(table.seeds),
                        "criterion": criterion,
                        "steps": joined(point.steps),
                        **cells("step", point.step),
                        **cells("valid_accuracy", point.valid_accuracy),
                        **cells("valid_robust_accuracy", point.valid_robust_accuracy),
                        **cells("accuracy", point.accuracy),
                        **cells("robust_accuracy", point.robust_accuracy),
                    }
                )
    return found


def _head(line: Line) -> dict[str, object]:
    kept = int(line.kept) if line.kept.is_integer() else line.kept
    return {"round": line.round, "density": line.density, "kept": kept}


def joined(values: Sequence[int]) -> str:
    """Steps of several seeds, separated by spaces."""
    return " ".join(map(str, values))


def cells(name: str, estimate: Estimate | None) -> dict[str, object]:
    """A number with its deviation or interval; empty for None."""
    if estimate is None:
        return {name: ""}
    made: dict[str, object] = {name: estimate.mean}
    if estimate.std is not None:
        made[f"{name}_std"] = estimate.std
    if estimate.interval is not None:
        made[f"{name}_low"], made[f"{name}_high"] = estimate.interval
    return made
