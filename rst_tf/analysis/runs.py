"""What one workdir holds, and which of its networks to speak of.

Networks are chosen on validation rows and judged on the test rows of the same step; nothing here
looks at a test row to choose anything.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis import results, settings
from rst_tf.analysis.results import Row
from rst_tf.published_2019 import published_label
from rst_tf.schedules import steps_of


class Unfinished(ValueError):
    """A workdir without the results of a whole round."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One evaluation step of a round: its validation row and the test row of the same step."""

    valid: Row
    test: Row

    @property
    def step(self) -> int:
        """Optimiser steps done within the round."""
        return self.valid.step


@dataclasses.dataclass(frozen=True)
class Run:
    """What one workdir holds.

    Args:
        workdir: The folder it was read from.
        config: config.json as written: "experiment", "environment", "command", ...
        rows: results.csv, in the file's order, of finished rounds only.
        unfinished: Rounds that have rows but no ticket yet.
    """

    workdir: Path
    config: dict[str, Any]
    rows: tuple[Row, ...]
    unfinished: tuple[int, ...] = ()

    @property
    def test_examples(self) -> int | None:
        """Number of test examples behind every test row, if config.json says it."""
        return self.examples("test")

    def examples(self, split: str) -> int | None:
        """Number of examples behind every row of `split`, if config.json says it."""
        return self.config.get("dataset", {}).get(f"{split}_examples")

    @property
    def seed(self) -> int | None:
        """The experiment's seed, if config.json says it."""
        return self.config["experiment"].get("seed")

    def attack(self, split: str) -> str | None:
        """The attack behind robust accuracy on `split`, in words."""
        return next((row.attack for row in self.rows if row.split == split), None)

    def rounds(self) -> tuple[int, ...]:
        """The rounds, ascending."""
        return tuple(sorted({round for round, _ in self._curves}))

    def curve(self, round: int, split: str) -> tuple[Row, ...]:
        """The rows of one round and split, by ascending step."""
        return self._curves.get((round, split), ())

    @functools.cached_property
    def _curves(self) -> dict[tuple[int, str], tuple[Row, ...]]:
        """The rows by round and split, which are asked for again and again."""
        found: dict[tuple[int, str], list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: row.step):
            found.setdefault((row.round, row.split), []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}

    def best(self, round: int) -> Choice:
        """The step with the highest validation robust accuracy, the first of them on a tie.

        Without an attack it is the highest validation accuracy.
        """
        return max(self._choices(round), key=lambda choice: choice.valid.measure)

    def last(self, round: int) -> Choice:
        """The last step of the round."""
        return self._choices(round)[-1]

    def at(self, round: int, step: int) -> Choice:
        """One exact step of the round.

        Raises:
            ValueError: The round was not evaluated there; names the steps it was evaluated at.
        """
        found = {choice.step: choice for choice in self._choices(round)}
        if step not in found:
            raise ValueError(
                f"{self.workdir}: round {round} was not evaluated at step {step}, "
                f"but at {some_steps(list(found), step)}"
            )
        return found[step]

    def lowest_loss(self, round: int) -> Choice | None:
        """The step with the lowest validation loss, the first on a tie: early stopping of 2019.

        The loss is the one trained on, as far as results.csv has it: clean for a natural
        objective, attacked for an adversarial one, else their mean with the objective's weights.
        None where no loss is recorded, or none is a finite number.
        """
        known = [(self._loss(choice.valid), choice) for choice in self._choices(round)]
        finite = [item for item in known if item[0] is not None and abs(item[0]) < float("inf")]
        return min(finite, key=lambda item: item[0])[1] if finite else None

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps in one pass over the training images, if config.json says it."""
        examples = self.config.get("dataset", {}).get("train_examples")
        experiment = self.config["experiment"]
        if experiment.get("steps_per_epoch"):
            return experiment["steps_per_epoch"]
        batch = experiment.get("batch_size")
        return -(-examples // batch) if examples and batch else None

    @property
    def imported(self) -> bool:
        """Whether it was trained by the code published in 2019."""
        return self.config["experiment"]["name"] == "import_published"

    def updates(self, round: int, step: int) -> int:
        """Optimiser steps spent on a network, those of earlier rounds included.

        Each earlier round counts to its end; a round that was rewound to step k starts there.
        Rounds of another run, whose masks this one took, are not counted.
        """
        earlier = [n for n in self.rounds() if n < round]
        spent = sum(self._length(n) - self._start(n) for n in earlier)
        return spent + step - self._start(round)

    def weight_updates(self, round: int, step: int) -> int:
        """Optimiser steps that a network's weights have seen since they were drawn.

        Weights that were reset have seen those up to the step they were reset to; continued ones
        have seen all.
        """
        experiment = self.config["experiment"]
        if round > 0 and experiment.get("rewind") == "continued":
            return self.updates(round, step)
        if round > 0 and (experiment.get("rewind"), experiment.get("rewind_step")) == (
            "reset",
            "end",
        ):
            return self._length(0) + step
        return step

    def published_label(self, step: int) -> int | None:
        """What the published code of 2019 would have called a step.

        None unless the run was evaluated on its schedule, or for a step that is not on it.
        """
        experiment = self.config["experiment"]
        epoch = self.steps_per_epoch
        on_schedule = self.imported or experiment.get("eval_schedule") == "published"
        if not on_schedule or epoch is None:
            return None
        try:
            return published_label(step, epoch, steps_of(experiment["eval_every"], epoch))
        except (KeyError, ValueError):
            return None

    def _choices(self, round: int) -> list[Choice]:
        pairs = zip(self.curve(round, "valid"), self.curve(round, "test"), strict=True)
        return [Choice(valid, test) for valid, test in pairs]

    def _loss(self, row: Row) -> float | None:
        objective = self.config["experiment"].get("objective")
        trained = objective if isinstance(objective, Mapping) else {}
        shares = {"natural": 1.0, "adversarial": 0.0}
        clean = shares.get(trained.get("name"), trained.get("clean_weight", 0.5))
        if row.robust_loss is None or row.loss is None or clean == 1.0:
            return row.loss
        return clean * row.loss + (1 - clean) * row.robust_loss

    def _start(self, round: int) -> int:
        """The step of the dense round at which a round starts."""
        experiment = self.config["experiment"]
        step = experiment.get("rewind_step") or 0
        if round == 0 or experiment.get("rewind") != "reset" or step in (0, "0", "end"):
            return 0
        return steps_of(step, self.steps_per_epoch or 1, "rewind_step")

    def _length(self, round: int) -> int:
        """The step at which a round ends, which need not be an evaluation's."""
        length, last = self.config["experiment"].get("train_steps"), self.last(round).step
        epoch = self.steps_per_epoch
        if length is None or epoch is None:
            return last
        return max(last, steps_of(length, epoch, "train_steps"))


def some_steps(steps: list[int], near: int) -> str:
    """Ascending steps in words, all of them or the ends and the neighbours of `near`."""
    shown = steps
    if len(steps) > 12:
        place = sum(step < near for step in steps)
        shown = sorted({*steps[:2], *steps[max(0, place - 2) : place + 2], steps[-1]})
    parts = []
    for step in shown:
        gap = parts and steps[steps.index(step) - 1] != parts[-1]
        parts += ["...", step] if gap else [step]
    return ", ".join(map(str, parts))


def completed(runs: Sequence[Run]) -> list[Run]:
    """Runs that are to stand side by side, with settings that older versions did not have yet."""
    configs = settings.completed([run.config for run in runs])
    pairs = zip(runs, configs, strict=True)
    return [dataclasses.replace(run, config=config) for run, config in pairs]


def load(workdir: str | Path) -> Run:
    """Reads a workdir.

    Args:
        workdir: Folder with config.json and results.csv.

    Raises:
        Unfinished: It has no results yet.
        ValueError: A file is missing, damaged, cut off or contradicts itself; names the line.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: no such workdir")
    config = _config(workdir / "config.json")
    if not (workdir / "results.csv").exists():
        raise Unfinished(f"{workdir / 'results.csv'}: no such file")
    rows = results.read(workdir / "results.csv")
    unfinished = _unfinished(workdir / "tickets", {row.round for row in rows})
    finished = tuple(row for row in rows if row.round not in unfinished)
    if not finished:
        raise Unfinished(f"{workdir}: no round is finished yet")
    return Run(workdir, config, finished, unfinished)


def _unfinished(tickets: Path, rounds: set[int]) -> tuple[int, ...]:
    """Rounds after the last one with a ticket, which is written last; none without tickets."""
    if not tickets.is_dir():
        return ()
    done = [n for n in rounds if (tickets / f"round_{n:02d}.npz").is_file()]
    return tuple(n for n in sorted(rounds) if n > max(done, default=-1))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(results.read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not JSON ({error.msg})") from error
    parts = config if isinstance(config, dict) else {}
    for name, default in (("experiment", None), ("dataset", {}), ("environment", {})):
        if not isinstance(parts.get(name, default), dict):
            raise ValueError(f"{path}: {name} must be a JSON object")
    if not isinstance(parts["experiment"].get("name"), str):
        raise ValueError(f"{path}: experiment.name must be text")
    defaults = parts.get("defaults", [])
    if not isinstance(defaults, list) or any(type(name) is not str for name in defaults):
        raise ValueError(f"{path}: defaults must be a list of names; received {defaults!r}")
    shape = parts.get("dataset", {}).get("shape", [])
    if not isinstance(shape, list) or any(type(side) is not int for side in shape):
        raise ValueError(f"{path}: dataset.shape must be a list of counts; received {shape!r}")
    for split in results.SPLITS:
        examples = parts.get("dataset", {}).get(f"{split}_examples")
        if examples is not None and (type(examples) is not int or examples < 1):
            raise ValueError(
                f"{path}: dataset.{split}_examples must be a positive count; received {examples!r}"
            )
    return config
