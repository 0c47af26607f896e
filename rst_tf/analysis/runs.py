"""What one workdir holds, and which of its networks to speak of.

Networks are chosen on validation rows and judged on the test rows of the same step; nothing here
looks at a test row to choose anything.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.analysis import results
from rst_tf.analysis.results import Row
from rst_tf.ticket import Ticket


@dataclasses.dataclass(frozen=True)
class Choice:
    """One evaluation step of a round: its validation row and the test row of the same step."""

    valid: Row
    test: Row

    @property
    def step(self) -> int:
        """Optimiser steps done within the round."""
        return self.valid.step


@dataclasses.dataclass(frozen=True, eq=False)
class FirstLayer:
    """The mask of the layer nearest to the input, in one round.

    Args:
        round: Train-prune cycle.
        density: Of the whole network, fraction of weights kept.
        name: The layer's name, for people.
        mask: Bool array of the kernel's shape, `(inputs, units)` or `(height, width, in, out)`;
            True is kept.
        image: (height, width, channels) if the layer reads flattened images, else None.
    """

    round: int
    density: float
    name: str
    mask: np.ndarray
    image: tuple[int, int, int] | None


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
    def robust(self) -> bool:
        """Whether robust accuracy was measured."""
        return self.attack("test") is not None

    @property
    def test_examples(self) -> int | None:
        """Number of test examples behind every test row, if config.json says it."""
        return self.config.get("dataset", {}).get("test_examples")

    @property
    def seed(self) -> int | None:
        """The experiment's seed, if config.json says it."""
        return self.config["experiment"].get("seed")

    def attack(self, split: str) -> str | None:
        """The attack behind robust accuracy on `split`, in words."""
        return next((row.attack for row in self.rows if row.split == split), None)

    def rounds(self) -> tuple[int, ...]:
        """The rounds, ascending."""
        return tuple(sorted({row.round for row in self.rows}))

    def curve(self, round: int, split: str) -> tuple[Row, ...]:
        """The rows of one round and split, by ascending step."""
        rows = (row for row in self.rows if row.round == round and row.split == split)
        return tuple(sorted(rows, key=lambda row: row.step))

    def best(self, round: int) -> Choice:
        """The step with the highest validation robust accuracy, the first of them on a tie.

        Without an attack it is the highest validation accuracy.
        """
        return max(self._choices(round), key=lambda choice: choice.valid.measure)

    def last(self, round: int) -> Choice:
        """The last step of the round."""
        return self._choices(round)[-1]

    def first_layers(self) -> tuple[FirstLayer, ...]:
        """The first layer's mask of every round that has a ticket file.

        Raises:
            ValueError: A ticket file is damaged; names it.
        """
        tickets = self.workdir / "tickets"
        found = []
        for round in self.rounds():
            path = tickets / f"round_{round:02d}.npz"
            if path.is_file():
                ticket = Ticket.load(path)
                entry = ticket.entries[0]
                mask = np.broadcast_to(entry.mask, entry.shape)
                image = self._image(entry.shape)
                found.append(FirstLayer(round, ticket.density, entry.name, mask, image))
        return tuple(found)

    def _image(self, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
        """The images' shape, if a kernel of this shape reads them flattened."""
        shape = tuple(self.config.get("dataset", {}).get("shape", ()))
        flat = len(kernel) == 2 and len(shape) == 3 and math.prod(shape) == kernel[0]
        return shape if flat else None

    def _choices(self, round: int) -> list[Choice]:
        pairs = zip(self.curve(round, "valid"), self.curve(round, "test"), strict=True)
        return [Choice(valid, test) for valid, test in pairs]


def load(workdir: str | Path) -> Run:
    """Reads a workdir.

    Args:
        workdir: Folder with config.json and results.csv.

    Raises:
        ValueError: A file is missing, damaged, cut off or contradicts itself; names the line.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: no such workdir")
    config = _config(workdir / "config.json")
    rows = results.read(workdir / "results.csv")
    unfinished = _unfinished(workdir / "tickets", {row.round for row in rows})
    finished = tuple(row for row in rows if row.round not in unfinished)
    if not finished:
        raise ValueError(f"{workdir}: no round is finished yet")
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
    shape = parts.get("dataset", {}).get("shape", [])
    if not isinstance(shape, list) or any(type(side) is not int for side in shape):
        raise ValueError(f"{path}: dataset.shape must be a list of counts; received {shape!r}")
    examples = parts.get("dataset", {}).get("test_examples")
    if examples is not None and (type(examples) is not int or examples < 1):
        raise ValueError(
            f"{path}: dataset.test_examples must be a positive count; received {examples!r}"
        )
    return config


def same_experiment(runs: Sequence[Run]) -> None:
    """Checks that `runs` are one experiment with different seeds.

    Raises:
        ValueError: They differ in more than the seed, or not in the seed; names both workdirs.
    """
    first, *others = runs
    seen = {first.seed: first}
    for run in others:
        here, there = _identity(run), _identity(first)
        for what in here | there:
            if here.get(what) != there.get(what):
                raise ValueError(
                    f"{run.workdir} is not {first.workdir} with another seed: "
                    f"{what} is {here.get(what)!r} instead of {there.get(what)!r}"
                )
        if run.seed in seen:
            raise ValueError(
                f"{run.workdir} and {seen[run.seed].workdir} have the same seed ({run.seed})"
            )
        seen[run.seed] = run


def _identity(run: Run) -> dict[str, Any]:
    """What runs must share to be averaged."""
    experiment = {k: v for k, v in run.config["experiment"].items() if k != "seed"}
    return {
        **experiment,
        "dataset": run.config.get("dataset"),
        "attack on valid": run.attack("valid"),
        "attack on test": run.attack("test"),
        "rounds": run.rounds(),
    }
