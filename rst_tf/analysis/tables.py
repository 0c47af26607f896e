"""One table per experiment: a line per density, over one seed or several.

The numbers are formed once, as a `Table`; `formats` and the report print it.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from rst_tf.analysis.estimates import Estimate, estimate
from rst_tf.analysis.results import Row
from rst_tf.analysis.runs import Choice, Run


@dataclasses.dataclass(frozen=True)
class Point:
    """The networks of one density at one evaluation step each.

    Args:
        steps: The step of each seed's network.
        valid_accuracy: On the validation split.
        valid_robust_accuracy: On the validation split, or None without an attack.
        accuracy: On the test split.
        robust_accuracy: On the test split, or None without an attack.
    """

    steps: tuple[int, ...]
    valid_accuracy: Estimate
    valid_robust_accuracy: Estimate | None
    accuracy: Estimate
    robust_accuracy: Estimate | None

    @property
    def step(self) -> Estimate:
        """Over the seeds."""
        return estimate(self.steps)

    @property
    def valid(self) -> Estimate:
        """What networks are chosen by (`Row.measure`), on the validation split."""
        return self.valid_robust_accuracy or self.valid_accuracy

    @property
    def measure(self) -> Estimate:
        """What networks are compared by: robust accuracy, or accuracy without an attack."""
        return self.robust_accuracy or self.accuracy


@dataclasses.dataclass(frozen=True)
class Line:
    """One density.

    Args:
        round: Train-prune cycle.
        density: Fraction of the masked weights kept.
        kept: Number of weights kept.
        chosen: At the step that the table speaks of: the best, or an exact one.
        best: At the step with the highest validation measure.
        lowest_loss: At the step with the lowest validation loss; None if a seed has no loss.
        last: At the last step.
        difference: Test measure at the chosen step, minus the dense network's at its own; None
            without a dense network.
    """

    round: int
    density: float
    kept: float
    chosen: Point
    best: Point
    lowest_loss: Point | None
    last: Point
    difference: Estimate | None


@dataclasses.dataclass(frozen=True)
class Table:
    """The runs of one experiment, by density.

    Args:
        lines: By round.
        seeds: Of the runs.
        attack: Behind the test split's robust accuracy, in words; None for natural accuracy only.
        valid_attack: The same of the validation split.
        test_examples: Behind every test number, or None if unknown.
        unfinished: Rounds that are left out because not every seed has finished them.
        step: The exact step of every chosen network; None for the best by validation.
    """

    lines: tuple[Line, ...]
    seeds: tuple[int | None, ...]
    attack: str | None
    valid_attack: str | None
    test_examples: int | None
    unfinished: tuple[int, ...] = ()
    step: int | None = None

    @property
    def measure(self) -> str:
        """The name of what networks are chosen and compared by."""
        return "accuracy" if self.attack is None else "robust accuracy"

    @property
    def dense(self) -> Line | None:
        """The dense network's line."""
        return self.lines[0] if self.lines[0].density == 1.0 else None


def table(runs: Sequence[Run], step: int | None = None) -> Table:
    """The table of one run, or of one experiment's runs with different seeds.

    Args:
        runs: At least one; the table has the rounds that all of them have finished.
        step: Speak of this exact step of every round, in place of the best by validation.

    Raises:
        ValueError: A round has no evaluation at `step`, or there is no common round.
    """
    every = {n for run in runs for n in (*run.rounds(), *run.unfinished)}
    rounds = sorted(set.intersection(*(set(run.rounds()) for run in runs)))
    if not rounds:
        names = ", ".join(str(run.workdir) for run in runs)
        raise ValueError(f"there is no round that all of these have finished: {names}")
    first = runs[0]
    dense = rounds[0] if first.last(rounds[0]).test.density == 1.0 else None
    return Table(
        lines=tuple(_line(runs, round, dense, step) for round in rounds),
        seeds=tuple(run.seed for run in runs),
        attack=first.attack("test"),
        valid_attack=first.attack("valid"),
        test_examples=first.test_examples,
        unfinished=tuple(sorted(every - set(rounds))),
        step=step,
    )


def _line(runs: Sequence[Run], round: int, dense: int | None, step: int | None) -> Line:
    def choices(number: int) -> list[Choice]:
        return [run.best(number) if step is None else run.at(number, step) for run in runs]

    chosen = choices(round)
    difference = None
    if dense is not None:
        difference = estimate(
            choice.test.measure - reference.test.measure
            for choice, reference in zip(chosen, choices(dense), strict=True)
        )
    lowest = [run.lowest_loss(round) for run in runs]
    return Line(
        round=round,
        density=statistics.mean(choice.test.density for choice in chosen),
        kept=statistics.fmean(choice.test.kept for choice in chosen),
        chosen=_point(chosen, runs[0]),
        best=_point([run.best(round) for run in runs], runs[0]),
        lowest_loss=None if None in lowest else _point(lowest, runs[0]),
        last=_point([run.last(round) for run in runs], runs[0]),
        difference=difference,
    )


def _point(choices: Sequence[Choice], run: Run) -> Point:
    valid, test = [c.valid for c in choices], [c.test for c in choices]
    return Point(
        steps=tuple(choice.step for choice in choices),
        valid_accuracy=estimate((row.accuracy for row in valid), run.examples("valid")),
        valid_robust_accuracy=_robust(valid, run.examples("valid")),
        accuracy=estimate((row.accuracy for row in test), run.examples("test")),
        robust_accuracy=_robust(test, run.examples("test")),
    )


def _robust(rows: Sequence[Row], examples: int | None) -> Estimate | None:
    if rows[0].robust_accuracy is None:
        return None
    return estimate((row.robust_accuracy for row in rows), examples)


def across(tables: Sequence[Table]) -> list[tuple[Line | None, ...]]:
    """The lines of several tables side by side, by falling density; None where one has no line.

    Lines stand together if their densities are within 1 % of each other, since ways to count
    differ by a weight per layer and round; first of all those of the same round.
    """
    rows: list[list[Line | None]] = []
    for column, each in enumerate(tables):
        for line in each.lines:
            alike = [row for row in rows if row[column] is None and _alike(row, line)]
            alike.sort(key=lambda row: line.round not in {other.round for other in row if other})
            if not alike:
                alike = [[None] * len(tables)]
                rows.append(alike[0])
            alike[0][column] = line
    return [tuple(row) for row in sorted(rows, key=lambda row: -_first(row).density)]


def _first(row: Sequence[Line | None]) -> Line:
    return next(line for line in row if line is not None)


def _alike(row: Sequence[Line | None], line: Line) -> bool:
    return math.isclose(_first(row).density, line.density, rel_tol=0.01)


def highlight(table: Table) -> tuple[Line, str]:
    """The network worth a headline, chosen on validation, and in words why this one.

    The sparsest network whose validation measure is not below the dense network's; if there is
    none, the sparse network with the highest; if no network is sparse, the first.
    """
    sparse = [line for line in table.lines if line.density < 1.0]
    if not sparse:
        return table.lines[0], "the dense network, which is the only one here"
    level = table.dense.chosen.valid.mean if table.dense else math.inf
    matching = [line for line in sparse if line.chosen.valid.mean >= level]
    if matching:
        why = f"the sparsest network whose validation {table.measure} is not below the dense one's"
        return min(matching, key=lambda line: line.density), why
    why = f"the sparse network with the highest validation {table.measure}"
    return max(sparse, key=lambda line: line.chosen.valid.mean), why
