"""Robust overfitting: what a training loses between its best and its last evaluation.

Rice et al. (2020). The best step is the first with the highest validation measure; every number
named best belongs to the network of that step, clean accuracy as well. The robust generalisation
gap is the measure on training images without augmentation minus that on test images.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from rst_tf.analysis import costs
from rst_tf.analysis.estimates import Estimate, estimate
from rst_tf.analysis.groups import Group
from rst_tf.analysis.runs import Choice, Run
from rst_tf.analysis.tables import Line, Point

UNAUGMENTED = "unaugmented"
COSTS = {
    "training": "spent",
    "training_of_dense": "spent_fraction",
    "inference_last": "inference_last",
    "inference_last_of_dense": "last_fraction",
    "inference_best": "inference_best",
    "inference_best_of_dense": "best_fraction",
}
"""What is told of costs, and the attribute of `costs.Cost` that it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decline:
    """One round of one group of runs.

    Args:
        label: Of the group; "" where there is no other.
        line: Best and last network of the round, and its number.
        density: Fraction of the masked weights kept at the last step.
        robust_accuracy: Best minus last on the test split, by seed; None without an attack.
        accuracy: The same of clean accuracy.
        best_gap: On unaugmented training images minus test, at the best step; None where a run
            did not evaluate them.
        last_gap: The same at the last step.
        costs: By the names of COSTS, without those that a run does not tell.
    """

    label: str
    line: Line
    density: float
    robust_accuracy: Estimate | None
    accuracy: Estimate
    best_gap: Estimate | None
    last_gap: Estimate | None
    costs: dict[str, Estimate]

    @property
    def best(self) -> Point:
        """The networks chosen by validation."""
        return self.line.best

    @property
    def last(self) -> Point:
        """The networks of the last step."""
        return self.line.last


def declines_of(groups: Sequence[Group]) -> tuple[Decline, ...]:
    """One per group and round, in the groups' order."""
    return tuple(_decline(group, line) for group in groups for line in group.table.lines)


def gap(run: Run, round: int, choice: Choice) -> float | None:
    """The generalisation gap of one network; None where training images were not evaluated."""
    rows = {row.step: row for row in run.curve(round, UNAUGMENTED)}
    row = rows.get(choice.step)
    return None if row is None else row.measure - choice.test.measure


def _decline(group: Group, line: Line) -> Decline:
    ends = [(run, run.best(line.round), run.last(line.round)) for run in group.runs]
    attacked = line.best.robust_accuracy is not None
    return Decline(
        label=group.label,
        line=line,
        density=sum(last.test.density for _, _, last in ends) / len(ends),
        robust_accuracy=_fallen(ends, "robust_accuracy") if attacked else None,
        accuracy=_fallen(ends, "accuracy"),
        best_gap=_known(gap(run, line.round, best) for run, best, _ in ends),
        last_gap=_known(gap(run, line.round, last) for run, _, last in ends),
        costs=_costs(group.runs, line.round),
    )


def _fallen(ends: Sequence[tuple[Run, Choice, Choice]], name: str) -> Estimate:
    return estimate(getattr(best.test, name) - getattr(last.test, name) for _, best, last in ends)


def _known(values: Iterable[float | None]) -> Estimate | None:
    values = list(values)
    return None if None in values else estimate(values)


def _costs(runs: Sequence[Run], round: int) -> dict[str, Estimate]:
    told = [(costs.read(run.workdir) or {}).get(round) for run in runs]
    if None in told:
        return {}
    found = {
        name: _known(getattr(cost, attribute) for cost in told) for name, attribute in COSTS.items()
    }
    return {name: value for name, value in found.items() if value is not None}
