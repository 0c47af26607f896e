"""Searching the settings of any experiment that trains, with Keras Tuner."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from experiments._search_space import Dimension, dimensions
from experiments.experiment import EXPERIMENTS, Experiment, RunError
from experiments.training import Training
from experiments.workdir import Workdir
from rst_tf.files import write_bytes
from rst_tf.registry import to_dict

LIMITS = {"random": 10, "bayesian": 10, "hyperband": 1000}  # trials, if nobody says how many
_MOST_COMBINATIONS = 256
_PATIENCE = 600  # seconds that a worker waits for the chief's folder
_PARTS = 27  # of a length in steps that Hyperband tells apart


@EXPERIMENTS.register("tuning")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Experiment):
    """Search the settings with the highest robust accuracy on the validation images.

    What counts is the best validation step of a trial's last round: robust accuracy, or accuracy
    if nothing attacks; a training that diverges counts 0. The test images choose nothing. Every
    trial is an ordinary run in `trials/`, and the best one becomes the preset `best.yaml`.

    Several processes on one folder share a search with Keras Tuner's own variables, given to each:
    KERASTUNER_TUNER_ID (chief, then any other names), KERASTUNER_ORACLE_IP and
    KERASTUNER_ORACLE_PORT; the chief hands out trials and runs none.

    Args:
        base: What trials start from: presets or YAML files as for `--preset`, or the name of an
            experiment.
        space: What is searched, as `optimizer.learning_rate: log 1e-4..1e-1`,
            `batch_size: 32|64|128`, `objective.attack.epsilon: 0.05..0.3`; whole numbers stay
            whole, and a path with one value has it in all trials.
        tuner: random; bayesian, a Gaussian process over earlier trials; or hyperband (Li et al.
            2018), which tries many settings for a short `train_steps` and the best ones, from
            the start again, for longer, up to the base's own.
        max_trials: Trials at most; more can be added later. None takes 10, or all that
            Hyperband asks for.
        seed: Of the proposals; the trials have the base's seed.
    """

    base: str = "quick_start"
    space: tuple[str, ...]
    tuner: Literal["random", "bayesian", "hyperband"] = "random"
    max_trials: int | None = None
    seed: int = 0

    def __post_init__(self):
        dimensions(self.space)
        if self.tuner not in LIMITS:
            raise ValueError(f"tuner must be one of {tuple(LIMITS)}; received {self.tuner!r}")
        if self.max_trials is not None and self.max_trials < 1:
            raise ValueError(f"max_trials must be at least 1; received {self.max_trials!r}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0; received seed={self.seed!r}")
        if self.tuner == "hyperband" and "train_steps" in self._paths():
            raise ValueError("space may not set train_steps, which tuner='hyperband' divides up")

    def plan(self, trials: int = 1) -> str:
        """What one trial would take, and how many there are at most."""
        limit = self.max_trials or LIMITS[self.tuner]
        first = self._trial({each.path: each.ends[0] for each in dimensions(self.space)})
        return f"{first.plan()}\n\nThat is one trial of at most {limit * trials:,}."

    def run(self, workdir):
        """The trials, `trials.csv` with all of them and `best.yaml`, the preset of the best."""
        from experiments import _tuner

        self._check()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # every trial is traced anew
        workdir, role = Path(workdir), _tuner.role()
        config = to_dict(self) | {"max_trials": self.max_trials or LIMITS[self.tuner]}
        with contextlib.ExitStack() as stack:
            if role == "worker":
                _join(workdir, config)
            else:
                stack.enter_context(
                    contextlib.closing(Workdir(workdir, config, {}, ["max_trials"]))
                )
            search = _tuner.Search(
                self._oracle(config["max_trials"]), self._measure(workdir), workdir
            )
            search.run()
            if role != "worker":
                self._report(workdir, search.trials())

    def _oracle(self, limit: int):
        import keras_tuner

        from experiments import _tuner

        space = keras_tuner.HyperParameters()
        for each in dimensions(self.space):
            each.declare(space)
        return _tuner.oracle(self.tuner, space, limit, self.seed, self._budget()[0])

    def _measure(self, workdir: Path):
        """What runs a trial and gives its measure."""

        def measure(trial: str, values: Mapping[str, Any], budget: int | None) -> float:
            from rst_tf.graphs import let_go

            config = self._trial(values, budget)
            folder = workdir / "trials" / trial
            print(f"trial {trial}: {self._in_words(values, budget)}", flush=True)
            try:
                with let_go():
                    config.run(folder)
            except RunError as error:
                if not isinstance(error.__cause__, FloatingPointError):
                    raise
                print(f"trial {trial}: counts 0, for {error}", flush=True)
                return 0.0
            return _best(folder)

        return measure

    def _trial(self, values: Mapping[str, Any], budget: int | None = None) -> Training:
        """The experiment of a trial."""
        if self.read is None:
            raise RunError("tuning reads presets: start it with run_experiments.py")
        source = "experiment" if self.base in EXPERIMENTS else "preset"
        flags = [each.flag(values) for each in dimensions(self.space)]
        if budget is not None:
            flags.append(f"--train_steps={self._budget()[1](budget)}")
        config = self.read([f"--{source}={self.base}", *flags])
        if not isinstance(config, Training):
            name = EXPERIMENTS.name_of(type(config))
            raise ValueError(f"base must be an experiment that trains; received {name}")
        return config

    def _budget(self) -> tuple[int, Callable[[int], str]]:
        """The base's length in Hyperband's units, and the flag's text of so many of them."""
        if self.tuner != "hyperband":
            return 1, str
        whole = self._trial({each.path: each.ends[0] for each in dimensions(self.space)})
        length = str(whole.train_steps)
        if length.endswith("ep"):
            return int(length.removesuffix("ep")), lambda units: f"{units}ep"
        units = min(_PARTS, int(length))
        return units, lambda part: str(max(1, int(length) * part // units))

    def _check(self) -> None:
        """Builds every combination of choices and ends, or those that differ from the first."""
        all_of = dimensions(self.space)
        combinations = itertools.product(*(each.ends for each in all_of))
        if math.prod(len(each.ends) for each in all_of) > _MOST_COMBINATIONS:
            first = [each.ends[0] for each in all_of]
            combinations = [
                [*first[:place], end, *first[place + 1 :]]
                for place, each in enumerate(all_of)
                for end in each.ends
            ]
        for ends in combinations:
            try:
                self._trial(dict(zip(self._paths(), ends, strict=True)))
            except ValueError as error:
                raise ValueError(f"in a trial of base={self.base}: {error}") from error

    def _paths(self) -> list[str]:
        return [each.path for each in dimensions(self.space)]

    def _searched(self) -> list[Dimension]:
        return [each for each in dimensions(self.space) if len(each.choices) != 1]

    def _in_words(self, values: Mapping[str, Any], budget: int | None) -> str:
        words = [each.flag(values).removeprefix("--") for each in self._searched()]
        if budget is not None:
            words.append(f"train_steps={self._budget()[1](budget)}")
        return ", ".join(words)

    def _report(self, workdir: Path, trials: list) -> None:
        if not trials:
            raise RunError(f"no trial of {workdir} has ended")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["trial", "measure", *(each.path for each in self._searched())])
        for trial in trials:
            values = trial.hyperparameters.values
            shown = [each.text(values[each.path]) for each in self._searched()]
            writer.writerow([trial.trial_id, repr(float(trial.score)), *shown])
        write_bytes(workdir / "trials.csv", text.getvalue().encode())
        best, file = trials[0], workdir / "best.yaml"
        values = best.hyperparameters.values
        budget = values.get("tuner/epochs")
        write_bytes(file, self._preset(best, self._trial(values, budget)).encode())
        print(f"best of {len(trials)}: trial {best.trial_id}, {self._in_words(values, budget)}")
        print(f"{best.score:.4f} on the validation images; as a preset: --preset={file}")

    def _preset(self, trial, config: Training) -> str:
        """The best trial's configuration as a preset."""
        import yaml

        values = json.loads(json.dumps(to_dict(config)))
        about = {
            "paper": f"none; the best of a search over {self.base} by --experiment=tuning",
            "expected": f"{trial.score:.4f} on the validation images of trial {trial.trial_id}",
        }
        preset = {"about": about, "experiment": values.pop("name"), **values}
        return yaml.safe_dump(preset, sort_keys=False, allow_unicode=True, width=100)


def _best(folder: Path) -> float:
    """The measure of the best validation step of a run's last round."""
    from rst_tf.analysis import runs

    run = runs.load(folder)
    return float(run.best(run.rounds()[-1]).valid.measure)


def _join(workdir: Path, config: Mapping[str, Any]) -> None:
    """Waits until the chief has made the folder, and checks that it is of this search."""
    file, deadline = workdir / "config.json", time.monotonic() + _PATIENCE
    if not file.exists():
        print(f"waiting for the chief to make {workdir}", file=sys.stderr, flush=True)
    while not file.exists():
        if time.monotonic() > deadline:
            raise RunError(f"no chief has made {workdir}; a search's processes share one folder")
        time.sleep(0.5)
    found = json.loads(file.read_text())["experiment"] | {"max_trials": config["max_trials"]}
    if found != json.loads(json.dumps(config)):
        raise RunError(f"workdir {workdir} is of another search; give every process one command")
