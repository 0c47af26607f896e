"""Synthetic workdirs for the tests of the analysis: files as the experiments write them."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np

from rst_tf.analysis import results

ATTACK = "PGD(epsilon=0.1, steps=20)"
TRAIN_ATTACK = "PGD(epsilon=0.1, steps=7)"
EVERY = 250
KEPT = 10_000


@dataclasses.dataclass(frozen=True)
class Case:
    """A run: per round its density and its (valid, test) robust accuracies by step.

    Without an attack they are accuracies. The numbers rise by 0.01 with the seed.
    """

    rounds: tuple[tuple[float, tuple[tuple[float, float], ...]], ...]
    attack: str | None = ATTACK
    seeds: tuple[int, ...] = (0,)
    examples: int | None = 1000
    best: tuple[int, ...] = ()  # expected index of the best step, by round
    headline: int = 0  # expected round of the headline


def short(value: float) -> float:
    return float(f"{value:.4f}")


def rows_of(case: Case, seed: int) -> list[list]:
    rows = []
    for round, (density, evaluations) in enumerate(case.rounds):
        for index, pair in enumerate(evaluations):
            head = [round, EVERY * index, "train", density, int(KEPT * density)]
            if index and case.attack:
                rows.append([*head, TRAIN_ATTACK, 0.6, "", "", 0.4 if index > 1 else ""])
            for split, value in zip(("valid", "test"), pair, strict=True):
                value = short(value + 0.01 * seed)
                clean = short((1 + value) / 2) if case.attack else value
                robust = [0.7, value] if case.attack else ["", ""]
                head = [round, EVERY * index, split, density, int(KEPT * density)]
                rows.append([*head, case.attack or "", 0.5, clean, *robust])
    return rows


def write_results(workdir: Path, rows: list[list]) -> None:
    with open(workdir / "results.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([results.COLUMNS, *rows])


def config_of(case: Case, seed: int, **settings) -> dict:
    attack = {"name": "pgd", "epsilon": 8 / 255, "step_size": None}
    config = {
        "experiment": {
            "name": "iterative_pruning",
            "network": {"name": "lenet", "hidden": [300, 100]},
            "data": {"source": "mnist", "validation": 0.1},
            "objective": {"name": "adversarial", "attack": attack},
            "rewind": "reset",
            "seed": seed,
            **settings,
        },
        "environment": {"python": "3.11", "threads": 2, "jit": False},
        "command": ["run_experiments.py", "--preset=a b"],
    }
    return config | ({"dataset": {"test_examples": case.examples}} if case.examples else {})


def make_run(workdir: Path, case: Case, seed: int = 0, **settings) -> Path:
    """One workdir with config.json, results.csv and an empty TensorBoard folder."""
    (workdir / "tensorboard").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config_of(case, seed, **settings)))
    write_results(workdir, rows_of(case, seed))
    return workdir


def save_ticket(
    workdir: Path, name: int | str, shape: tuple[int, ...], mask: np.ndarray, kernel=None
) -> None:
    """A ticket of two kernels, the first with this mask."""
    from rst_tf.ticket import Entry, Ticket

    other = None if kernel is None else np.ones((2, 2), np.float32)
    entries = (
        Entry("first", shape, mask, kernel),
        Entry("second", (2, 2), np.ones((2, 2), bool), other),
    )
    file = name if isinstance(name, str) else f"round_{name:02d}"
    Ticket(entries).save(workdir / "tickets" / f"{file}.npz")


def save_correct(workdir: Path, round: int, examples: int, seed: int, order=None) -> dict:
    """correct/round_NN.npz whose fractions are those of results.csv; gives the answers by step.

    Args:
        workdir: With a results.csv.
        round: The round.
        examples: Number of test examples.
        seed: Which of them are right.
        order: Identities in the file's order; ascending if None.
    """
    index = np.arange(examples) if order is None else np.asarray(order)
    rng, steps, answers = np.random.default_rng(seed), [], {"accuracy": [], "robust_accuracy": []}
    for row in results.read(workdir / "results.csv"):
        if (row.round, row.split) == (round, "test"):
            steps.append(row.step)
            for name, right in answers.items():
                number = round_half(examples * (getattr(row, name) or 0))
                right.append(rng.permutation(examples) < number)
    arrays = {"index": index.astype(np.int64), "steps": np.array(steps, np.int64)}
    arrays["clean"] = np.packbits(np.array(answers["accuracy"])[:, index], axis=1)
    if row.attack is not None:
        arrays["robust"] = np.packbits(np.array(answers["robust_accuracy"])[:, index], axis=1)
    (workdir / "correct").mkdir(exist_ok=True)
    np.savez_compressed(workdir / "correct" / f"round_{round:02d}.npz", **arrays)
    return {name: dict(zip(steps, right, strict=True)) for name, right in answers.items()}


def round_half(value: float) -> int:
    return int(np.rint(value))


def long_case(rounds: int, level: float, steps: int = 100, rate: float = 0.2, **more) -> Case:
    """A chain of rounds whose curves rise to a level that falls with density, for pictures."""
    rng = np.random.default_rng(int(1000 * level))
    made = []
    for round in range(rounds):
        end = level + 0.05 * np.sin(round / 5) - 0.002 * round**1.5
        curve = end * (1 - np.exp(-np.arange(steps) / 8)) + rng.normal(0, 0.004, (2, steps))
        values = [(short(a), short(b)) for a, b in np.clip(curve, 0.01, 0.99).T]
        made.append(((1 - rate) ** round, tuple(values)))
    return Case(tuple(made), **{"examples": 10_000, **more})
