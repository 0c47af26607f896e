"""What runs say of a claim: a value with its interval, and a verdict."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rst_tf.analysis import estimates
from rst_tf.analysis.claims import Claim
from rst_tf.analysis.estimates import Interval
from rst_tf.analysis.groups import check_attacks, same_experiment
from rst_tf.analysis.overfitting import UNAUGMENTED
from rst_tf.analysis.runs import Run
from rst_tf.analysis.workdirs import NoRuns, loaded

VERDICTS = ("holds", "does not hold", "undecided", "no data")


class NoData(ValueError):
    """What a claim speaks of is not there (yet)."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """The runs of one glob, and their metric by seed: a fraction, or steps."""

    runs: tuple[Run, ...]
    values: Mapping[int | None, float]


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out of one claim.

    Args:
        claim: The claim.
        verdict: One of VERDICTS.
        value: In percent, points or steps; None without data.
        interval: 95 %, in the same unit; None if unknown.
        seeds: Behind the value.
        note: What a reader must know besides; "" if nothing.
    """

    claim: Claim
    verdict: str
    value: float | None = None
    interval: Interval | None = None
    seeds: tuple[int | None, ...] = ()
    note: str = ""

    def record(self) -> dict[str, object]:
        """As a line of claims.csv."""
        low, high = (round(x, 6) for x in self.interval) if self.interval else ("", "")
        claim = self.claim
        return {
            "claim": claim.claim,
            "metric": claim.metric,
            "value": "" if self.value is None else round(self.value, 6),
            "low": low,
            "high": high,
            "seeds": " ".join(map(str, self.seeds)),
            "expected": claim.expected,
            "verdict": self.verdict,
            "source": claim.source,
            "split": claim.split,
            "runs": claim.runs,
            "round": "last" if claim.round is None else claim.round,
            "at": claim.at,
            "minus": claim.minus or "",
            "minus_round": _if(
                claim.minus, "last" if claim.minus_round is None else claim.minus_round
            ),
            "minus_at": _if(claim.minus, claim.minus_at),
            "note": self.note,
        }


def _if(there: object, value: object) -> object:
    return value if there else ""


def judge(claim: Claim, folder: Path) -> Result:
    """Tries a claim on the runs there are.

    Args:
        claim: To try.
        folder: What the globs are relative to.

    Raises:
        ValueError: A workdir is damaged, or the runs of one glob differ in more than the seed.
    """
    try:
        first, notes = _measured(claim, claim.runs, claim.round, claim.at, folder)
        parts = [first]
        if claim.minus is not None:
            second, more = _measured(claim, claim.minus, claim.minus_round, claim.minus_at, folder)
            if claim.metric in ("robust_accuracy", "gap", "overfitting"):
                check_attacks([*first.runs, *second.runs])
            parts, notes = [first, second], notes + more
        seeds = [seed for seed in first.values if all(seed in part.values for part in parts)]
        if not seeds:
            known = [" ".join(map(str, part.values)) for part in parts]
            raise NoData(f"no common seeds: {known[0]} and {known[1]}")
    except NoData as error:
        return Result(claim, "no data", note=_from_folder(str(error), folder))
    alone = sorted({seed for part in parts for seed in part.values} - set(seeds), key=str)
    notes += [f"seed {seed} is on one side only" for seed in alone]
    scale = 1.0 if claim.metric == "step" else 100.0
    values = [
        scale * (first.values[seed] - math.fsum(part.values[seed] for part in parts[1:]))
        for seed in seeds
    ]
    fractions = [part.values[seeds[0]] for part in parts]
    interval = _interval(claim, values, fractions, parts)
    note = _from_folder("; ".join(notes), folder)
    mean = math.fsum(values) / len(seeds)
    return Result(claim, _verdict(claim, interval), mean, interval, tuple(seeds), note)


def _verdict(claim: Claim, interval: Interval | None) -> str:
    if interval is None:
        return "undecided"
    (low, high), (least, most) = interval, claim.expect
    if least <= low and high <= most:
        return "holds"
    return "does not hold" if high < least or most < low else "undecided"


def _interval(
    claim: Claim, values: Sequence[float], fractions: Sequence[float], parts: Sequence[Measured]
) -> Interval | None:
    """The 95 % interval of the mean of `values`, in their unit; None if there is none."""
    if len(values) > 1:
        return estimates.student(values)
    counts = [part.runs[0].examples(claim.split) for part in parts]
    if claim.metric not in ("accuracy", "robust_accuracy") or None in counts:
        return None
    if len(parts) == 1:
        low, high = estimates.wilson(fractions[0], counts[0])
    else:
        low, high = estimates.newcombe(fractions[0], fractions[1], (counts[0], counts[1]))
    return 100 * low, 100 * high


def _measured(
    claim: Claim, pattern: str, round: int | None, at: str | int, folder: Path
) -> tuple[Measured, list[str]]:
    """The metric of the finished runs that a glob matches, and notes on those left out."""
    try:
        found, skipped = loaded([str(folder / pattern)], strict=False)
    except NoRuns as error:
        raise NoData(str(error)) from error
    runs = [run for each in found.values() for run in each]
    same_experiment(runs)
    common = set.intersection(*(set(run.rounds()) for run in runs))
    if not common or (round is not None and round not in common):
        what = "a common round" if round is None else f"round {round}"
        raise NoData(f"not all of {pattern} have finished {what}")
    number = max(common) if round is None else round
    return Measured(
        tuple(runs), {run.seed: _value(run, claim, number, at) for run in runs}
    ), skipped


def _value(run: Run, claim: Claim, round: int, at: str | int) -> float:
    """The metric, as a fraction or in steps."""
    if isinstance(at, int):
        try:
            choice = run.at(round, at)
        except ValueError as error:
            raise NoData(str(error)) from error
    else:
        choice = {"best": run.best, "last": run.last, "lowest_loss": run.lowest_loss}[at](round)
    if choice is None:
        raise NoData(f"{run.workdir} has no losses")
    if claim.metric == "step":
        return float(choice.step)
    if claim.metric == "accuracy":
        return getattr(choice, claim.split).accuracy
    if run.attack(claim.split) is None:
        raise NoData(f"{run.workdir} was evaluated without an attack")
    value = getattr(choice, claim.split).robust_accuracy
    if claim.metric == "overfitting":
        return value - getattr(run.last(round), claim.split).robust_accuracy
    if claim.metric == "gap":
        rows = {row.step: row for row in run.curve(round, UNAUGMENTED)}
        if choice.step not in rows:
            raise NoData(f"{run.workdir} did not evaluate training images (eval_train)")
        return rows[choice.step].robust_accuracy - value
    return value


def _from_folder(note: str, folder: Path) -> str:
    """Paths as the claims' file would write them."""
    return note.replace(f"{folder}/", "")
