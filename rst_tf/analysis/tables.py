"""One table per experiment: a line per density, over one seed or several.

The numbers are formed once, as a `Table`; `formats` and the report print it.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

from rst_tf.analysis.runs import Choice, Run

NORMAL_95 = 1.959963984540054  # standard normal quantile at 0.975


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Args:
        mean: Mean over the seeds; the number itself if there is one seed.
        std: Sample standard deviation (n - 1), or None for one seed.
        interval: 95 % Wilson interval of one seed's test fraction, or None for several seeds or
            an unknown number of test examples.
    """

    mean: float
    std: float | None = None
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """The networks of one density at one evaluation step each.

    Args:
        steps: The step of each seed's network.
        valid: What networks are chosen by (`Row.measure`), on the validation split.
        accuracy: On the test split.
        robust_accuracy: On the test split, or None without an attack.
    """

    steps: tuple[int, ...]
    valid: Estimate
    accuracy: Estimate
    robust_accuracy: Estimate | None

    @property
    def measure(self) -> Estimate:
        """What networks are compared by: robust accuracy, or accuracy without an attack."""
        return self.accuracy if self.robust_accuracy is None else self.robust_accuracy


@dataclasses.dataclass(frozen=True)
class Line:
    """One density.

    Args:
        round: Train-prune cycle.
        density: Fraction of the masked weights kept.
        kept: Number of weights kept.
        best: At the step chosen on validation.
        last: At the last step.
        difference: Test measure at best, minus the dense network's; None without a dense network.
    """

    round: int
    density: float
    kept: float
    best: Point
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
        unfinished: Rounds that are left out because they were not finished.
    """

    lines: tuple[Line, ...]
    seeds: tuple[int | None, ...]
    attack: str | None
    valid_attack: str | None
    test_examples: int | None
    unfinished: tuple[int, ...] = ()

    @property
    def measure(self) -> str:
        """The name of what networks are chosen and compared by."""
        return "accuracy" if self.attack is None else "robust accuracy"

    @property
    def dense(self) -> Line | None:
        """The dense network's line."""
        return self.lines[0] if self.lines[0].density == 1.0 else None


def estimate(values: Iterable[float], examples: int | None = None) -> Estimate:
    """Mean and sample standard deviation, or one value and its interval.

    Args:
        values: One per seed.
        examples: Number of examples that each value is a fraction of, if known.
    """
    values = tuple(values)
    if len(values) > 1:
        return Estimate(statistics.mean(values), statistics.stdev(values))
    return Estimate(values[0], None, None if examples is None else wilson(values[0], examples))


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a fraction observed on `count` examples.

    Args:
        fraction: Observed, in [0, 1].
        count: Number of examples, at least 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    square = NORMAL_95**2 / count
    centre = fraction + square / 2
    half = NORMAL_95 * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def table(runs: Sequence[Run]) -> Table:
    """The table of one run, or of one experiment's runs with different seeds."""
    first = runs[0]
    dense = first.rounds()[0] if first.best(first.rounds()[0]).test.density == 1.0 else None
    return Table(
        lines=tuple(_line(runs, round, dense) for round in first.rounds()),
        seeds=tuple(run.seed for run in runs),
        attack=first.attack("test"),
        valid_attack=first.attack("valid"),
        test_examples=first.test_examples,
        unfinished=tuple(sorted({n for run in runs for n in run.unfinished})),
    )


def _line(runs: Sequence[Run], round: int, dense: int | None) -> Line:
    best = [run.best(round) for run in runs]
    difference = None
    if dense is not None:
        difference = estimate(
            choice.test.measure - run.best(dense).test.measure
            for choice, run in zip(best, runs, strict=True)
        )
    return Line(
        round=round,
        density=statistics.mean(choice.test.density for choice in best),
        kept=statistics.fmean(choice.test.kept for choice in best),
        best=_point(best, runs[0].test_examples),
        last=_point([run.last(round) for run in runs], runs[0].test_examples),
        difference=difference,
    )


def _point(choices: Sequence[Choice], examples: int | None) -> Point:
    robust = [c.test.robust_accuracy for c in choices if c.test.robust_accuracy is not None]
    return Point(
        steps=tuple(choice.step for choice in choices),
        valid=estimate(choice.valid.measure for choice in choices),
        accuracy=estimate((choice.test.accuracy for choice in choices), examples),
        robust_accuracy=estimate(robust, examples) if robust else None,
    )


def highlight(table: Table) -> tuple[Line, str]:
    """The network worth a headline, chosen on validation, and in words why this one.

    The sparsest network whose validation measure is not below the dense network's; if there is
    none, the sparse network with the highest; if no network is sparse, the first.
    """
    sparse = [line for line in table.lines if line.density < 1.0]
    if not sparse:
        return table.lines[0], "the dense network, which is the only one here"
    level = table.dense.best.valid.mean if table.dense else math.inf
    matching = [line for line in sparse if line.best.valid.mean >= level]
    if matching:
        why = f"the sparsest network whose validation {table.measure} is not below the dense one's"
        return min(matching, key=lambda line: line.density), why
    why = f"the sparse network with the highest validation {table.measure}"
    return max(sparse, key=lambda line: line.best.valid.mean), why
