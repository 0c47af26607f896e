"""Keras Tuner at work: oracles that go on as if nothing had happened, and trials that are runs.

Importing this imports Keras Tuner, which takes seconds.
"""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.errors import FatalError

from experiments.experiment import RunError
from rst_tf.random import subseed

MEASURE = "measure"
FACTOR = 3  # Hyperband: a third of the trials goes on, three times as long
_BUDGET = "tuner/epochs"  # where Hyperband says how long
FOLDER = "search"


class Bayesian(keras_tuner.oracles.BayesianOptimizationOracle):
    """Its random numbers depend on the trial's number, so that a resumed search is the same."""

    def populate_space(self, trial_id):
        """As Keras Tuner's."""
        self._random_state = np.random.RandomState((self.seed, len(self.trials)))
        return super().populate_space(trial_id)


def oracle(tuner: str, space: keras_tuner.HyperParameters, limit: int, seed: int, budget: int):
    """What proposes the values of the next trial.

    Args:
        tuner: random, bayesian or hyperband.
        space: What it may choose.
        limit: Trials at most.
        seed: Of its draws.
        budget: Units of length of Hyperband's longest trials.
    """
    objective = keras_tuner.Objective(MEASURE, "max")
    common = {"objective": objective, "hyperparameters": space, "allow_new_entries": False}
    common["seed"] = 1 + subseed(seed, "tuning")[0]  # with 1 and 2 it draws much the same
    if tuner == "hyperband":
        made = keras_tuner.oracles.HyperbandOracle(max_epochs=budget, factor=FACTOR, **common)
    else:
        cls = {"random": keras_tuner.oracles.RandomSearchOracle, "bayesian": Bayesian}[tuner]
        made = cls(**common)
    made.max_trials, made.verbose = limit, 0
    return made


class Search(keras_tuner.Tuner):
    """Runs the oracle's trials.

    Args:
        oracle: What proposes trials.
        measure: Runs a trial: its number, its values and Hyperband's units of length or None;
            gives what is to be as large as possible.
        workdir: Folder of the search; Keras Tuner keeps its state in `search/`.

    Raises:
        RunError: The state there is damaged.
    """

    def __init__(
        self,
        oracle,
        measure: Callable[[str, Mapping[str, Any], int | None], float],
        workdir: Path,
    ):
        self._measure = measure
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it says that it reloads
                super().__init__(oracle=oracle, directory=str(workdir), project_name=FOLDER)
        except (ValueError, LookupError, RuntimeError) as error:
            raise RunError(
                f"{workdir / FOLDER} is damaged: {error}; without this folder the search begins "
                "anew, and trials of the same settings are not run again"
            ) from error
        self.save()

    def run_trial(self, trial):
        """One run; nothing that it raises counts as a trial's result."""
        values = trial.hyperparameters.values
        try:
            return {MEASURE: self._measure(trial.trial_id, values, values.get(_BUDGET))}
        except BaseException as error:
            raise FatalError(str(error)) from error

    def run(self) -> None:
        """Runs all trials, or, as a chief, serves the workers until there are no more."""
        try:
            self.search()
        except FatalError as error:
            raise (error.__cause__ or error) from None

    def trials(self) -> list:
        """All trials that have ended, the best one first."""
        done = [trial for trial in self.oracle.trials.values() if trial.score is not None]
        return sorted(done, key=lambda trial: (-trial.score, trial.trial_id))


def role() -> str:
    """What this process is by Keras Tuner's environment variables: alone, chief or worker.

    Raises:
        ValueError: Only some of the variables are set.
    """
    names = [f"KERASTUNER_{name}" for name in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT")]
    missing = [name for name in names if name not in os.environ]
    if len(missing) == len(names):
        return "alone"
    if missing:
        raise ValueError(f"{missing[0]} is not set; several workers need {', '.join(names)}")
    return "chief" if "chief" in os.environ[names[0]] else "worker"
