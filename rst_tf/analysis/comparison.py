"""Two sets of runs on the same test points after equally many updates, example by example.

Per seed: the difference of the fractions right, its interval, and McNemar's exact test on the
examples about which only one of the two networks is right. Over seeds: the mean difference, with
its t-interval.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from rst_tf.analysis import correctness, estimates
from rst_tf.analysis.estimates import Interval
from rst_tf.analysis.groups import check_attacks, labels_of, same_experiment
from rst_tf.analysis.runs import Run, some_steps

MEASURES = ("accuracy", "robust_accuracy")
Equal = Literal["round", "weights", "total"]
UPDATES = {
    "round": "updates within the round",
    "weights": "updates of the weights since they were drawn",
    "total": "updates over all rounds",
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two.

    Args:
        label: What sets it apart from the other.
        runs: One per seed, in the order of the pairs.
        round: Compared.
        step: Compared, within the round.
    """

    label: str
    runs: tuple[Run, ...]
    round: int
    step: int

    @property
    def density(self) -> float:
        """Fraction of the masked weights kept, mean over the seeds."""
        rows = [run.at(self.round, self.step).test for run in self.runs]
        return statistics.mean(row.density for row in rows)

    @property
    def updates(self) -> int:
        """Optimiser steps spent up to the compared step, those of earlier rounds included."""
        return self.runs[0].updates(self.round, self.step)

    @property
    def weight_updates(self) -> int:
        """Optimiser steps that the compared weights have seen since they were drawn."""
        return self.runs[0].weight_updates(self.round, self.step)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One measure of two networks.

    Args:
        measure: "accuracy" or "robust_accuracy", on the test split.
        seeds: Of the first and of the second network.
        first: Fraction right.
        second: Fraction right.
        interval: 95 % interval of `first - second`, or None if not even the number of examples is
            known.
        examples: Number of test examples, if known.
        only_first: Examples on which only the first is right; None without answers by example.
        only_second: Examples on which only the second is right; None without answers by example.
        p_value: McNemar's exact two-sided p-value; None without answers by example.
    """

    measure: str
    seeds: tuple[int | None, int | None]
    first: float
    second: float
    interval: Interval | None
    examples: int | None
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sides and what came out.

    Args:
        first: The first side.
        second: The second side.
        pairs: By measure and seed.
        equal: Which updates are equally many, as `compare` takes it.
        remarks: What a reader must know besides, a sentence each.
    """

    first: Side
    second: Side
    pairs: tuple[Pair, ...]
    equal: Equal
    remarks: tuple[str, ...]

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(dict.fromkeys(pair.measure for pair in self.pairs))

    def of(self, measure: str) -> tuple[Pair, ...]:
        """The pairs of one measure."""
        return tuple(pair for pair in self.pairs if pair.measure == measure)

    def interval(self, measure: str) -> Interval | None:
        """The 95 % interval of the difference: t over at least two seeds, else the pair's own."""
        pairs = self.of(measure)
        if len(pairs) == 1:
            return pairs[0].interval
        return estimates.student([pair.difference for pair in pairs])


def compare(
    first: Sequence[Run],
    second: Sequence[Run],
    rounds: tuple[int, int] | None = None,
    equal: Equal = "round",
    step: int | None = None,
) -> Comparison:
    """Compares the networks of two rounds after equally many updates, as many as there can be.

    Args:
        first: Runs of one configuration with different seeds.
        second: The same; paired with `first` by seed, or as they are if there is one of each.
        rounds: Of the first and of the second; each side's last finished round if None.
        equal: Which updates: those of the round; those that the weights have seen since they were
            drawn; or the total spent, earlier rounds included.
        step: Compare at this step of both rounds, and no other; only with `equal="round"`.

    Raises:
        ValueError: A side is not one configuration, the sides have not the same test points, attack
            or seeds, a round is missing, or there is no step to compare at.
    """
    if equal not in get_args(Equal):
        raise ValueError(f"equal must be {', '.join(get_args(Equal))}; received {equal!r}")
    if step is not None and equal != "round":
        raise ValueError(f"step={step} must be None with equal={equal!r}, which chooses the steps")
    for runs in (first, second):
        same_experiment(runs)
    check_attacks([*first, *second])
    _check_data(first[0], second[0])
    pairs, remarks = _paired(first, second)
    sides = _sides([run for run, _ in pairs], [run for _, run in pairs], rounds, equal, step)
    measured = [name for name in MEASURES if name == "accuracy" or pairs[0][0].attack("test")]
    answers = [
        [_answers(side, run) for side, run in zip(sides, pair, strict=True)] for pair in pairs
    ]
    without = sorted(
        {
            str(run.workdir)
            for pair, each in zip(pairs, answers, strict=True)
            for run, answer in zip(pair, each, strict=True)
            if answer is None
        }
    )
    if without:
        remarks.append(
            f"No answers by example in {', '.join(without)}: no paired test, and intervals that "
            "take the two sets of examples as independent."
        )
    for run in (sides[0].runs[0], sides[1].runs[0]):
        if run.config["experiment"].get("masks_from"):
            remarks.append(
                f"{run.workdir.name} has its masks from another run, whose updates are not counted."
            )
    found = [
        _pair(name, pair, sides, each)
        for name in measured
        for pair, each in zip(pairs, answers, strict=True)
    ]
    return Comparison(*sides, tuple(found), equal, tuple(remarks))


def _check_data(first: Run, second: Run) -> None:
    here, there = (run.config.get("dataset", {}).get("fingerprint") for run in (first, second))
    if here is not None and there is not None and here != there:
        raise ValueError(
            f"{first.workdir} and {second.workdir} have not the same data: dataset.fingerprint is "
            f"{here} and {there}"
        )


def _paired(first: Sequence[Run], second: Sequence[Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
    if len(first) == len(second) == 1:
        one, other = first[0], second[0]
        said = f"The seeds differ: {one.seed} and {other.seed}."
        return [(one, other)], [] if one.seed == other.seed else [said]
    here, there = ({run.seed: run for run in runs} for runs in (first, second))
    common = [seed for seed in here if seed in there]
    if not common:
        raise ValueError(
            f"no common seeds: {first[0].workdir} and others have {', '.join(map(str, here))}, "
            f"{second[0].workdir} and others {', '.join(map(str, there))}"
        )
    alone = [run for run in [*first, *second] if run.seed not in common]
    said = (
        f"Left out, their seed being on one side only: {', '.join(str(r.workdir) for r in alone)}."
    )
    return [(here[seed], there[seed]) for seed in common], [said] if alone else []


def _sides(
    first: Sequence[Run],
    second: Sequence[Run],
    rounds: tuple[int, int] | None,
    equal: Equal,
    step: int | None,
) -> tuple[Side, Side]:
    groups = (tuple(first), tuple(second))
    if rounds is None:
        rounds = tuple(min(max(run.rounds()) for run in runs) for runs in groups)
    counted = []
    for runs, round in zip(groups, rounds, strict=True):
        if step is not None:
            for run in runs:
                run.at(round, step)
        steps = set.intersection(*(_steps(run, round) for run in runs))
        wanted = sorted(steps) if step is None else [step]
        counted.append({_count(runs[0], round, each, equal): each for each in wanted})
    common = counted[0].keys() & counted[1].keys()
    if not common:
        known = [some_steps(sorted(each), max(counted[0], default=0)) for each in counted]
        raise ValueError(
            f"round {rounds[0]} of {first[0].workdir} and round {rounds[1]} of {second[0].workdir} "
            f"were never evaluated after equally many {UPDATES[equal]}: "
            f"{known[0]} against {known[1]}"
        )
    labels = labels_of([first[0], second[0]])
    if labels[0] == labels[1]:
        labels = [
            f"{runs[0].workdir.resolve().name}, round {round}"
            for runs, round in zip(groups, rounds, strict=True)
        ]
    return tuple(
        Side(label, runs, round, steps[max(common)])
        for label, runs, round, steps in zip(labels, groups, rounds, counted, strict=True)
    )


def _count(run: Run, round: int, step: int, equal: Equal) -> int:
    if equal == "round":
        return step
    return (run.weight_updates if equal == "weights" else run.updates)(round, step)


def _steps(run: Run, round: int) -> set[int]:
    if round not in run.rounds():
        known = ", ".join(map(str, run.rounds()))
        raise ValueError(f"{run.workdir}: no finished round {round}, but {known}")
    return {row.step for row in run.curve(round, "test")}


def _answers(side: Side, run: Run) -> correctness.Correct | None:
    return correctness.load(run, side.round, side.step)


def _pair(
    name: str,
    pair: tuple[Run, Run],
    sides: tuple[Side, Side],
    answers: Sequence[correctness.Correct | None],
) -> Pair:
    values = [
        getattr(run.at(side.round, side.step).test, name)
        for run, side in zip(pair, sides, strict=True)
    ]
    seeds = (pair[0].seed, pair[1].seed)
    one, other = answers
    if one is None or other is None:
        counts = tuple(run.test_examples for run in pair)
        known = None not in counts
        interval = estimates.newcombe(*values, counts) if known else None
        examples = counts[0] if counts[0] == counts[1] else None
        return Pair(name, seeds, *values, interval, examples)
    if not np.array_equal(one.index, other.index):
        raise ValueError(
            f"{pair[0].workdir} and {pair[1].workdir} were not evaluated on the same test examples"
        )
    here, there = getattr(one, name), getattr(other, name)
    only = int((here & ~there).sum()), int((there & ~here).sum())
    return Pair(
        name,
        seeds,
        *values,
        estimates.paired(*only, len(here)),
        len(here),
        *only,
        estimates.mcnemar(*only),
    )
