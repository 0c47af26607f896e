import csv
import dataclasses
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from trainings import files
from workdirs import Case, make_run

import run_experiments
from experiments import _tuner, tuning
from experiments._search_space import Dimension, dimensions
from experiments.dense_training import DenseTraining
from experiments.experiment import Experiment, RunError
from experiments.interruption import Interrupted
from experiments.tuning import Tuning
from experiments.workdir import Workdir

ROOT = Path(__file__).parent.parent
RATE = "optimizer.learning_rate: log 1e-4..1"
BASE = {
    "experiment": "dense_training",
    "data": {"train_limit": 60},
    "network": {"name": "mlp", "hidden": [6]},
    "objective": {"name": "adversarial", "attack": {"name": "fgsm", "epsilon": 0.1}},
    "batch_size": 20,
    "train_steps": "3ep",
    "eval_every": "3ep",
    "eval_limit": 20,
    "jit": "off",
}


def configured(flags):
    return run_experiments.configured(["tests", *flags]).config


@pytest.fixture(autouse=True)
def reader(monkeypatch):
    monkeypatch.setattr(Experiment, "read", staticmethod(configured))


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return str(path)


# The texts.

SPACES = {  # a text, what it means, and the texts that a configuration has to accept
    "x: log 1e-4..1e-1": (Dimension("x", (), 1e-4, 0.1, True), ("0.0001", "0.1")),
    "x: 0.05..0.3": (Dimension("x", (), 0.05, 0.3), ("0.05", "0.3")),
    "x: 1..3": (Dimension("x", (), 1, 3), ("1", "3")),
    "x : log 4 .. 64": (Dimension("x", (), 4, 64, True), ("4", "64")),
    "x: 2/255..8/255": (Dimension("x", (), 2 / 255, 8 / 255), ("0.007843", "0.03137")),
    "x: -1..1.5": (Dimension("x", (), -1.0, 1.5), ("-1", "1.5")),
    "a.b: 32|64|128": (Dimension("a.b", ("32", "64", "128")), ("32", "64", "128")),
    "x: 0.5,0.5 | 0.2,0.2": (Dimension("x", ("0.5,0.5", "0.2,0.2")), ("0.5,0.5", "0.2,0.2")),
    "x: ../a|b": (Dimension("x", ("../a", "b")), ("../a", "b")),
}


@pytest.mark.parametrize("text", SPACES)
def test_texts_of_a_space(text):
    found, ends = SPACES[text]
    assert dimensions([text]) == [found] and found.ends == ends
    assert type(dimensions([text])[0].low) is type(found.low)


MISSPELT = {
    "no path": ([": 1|2"], "space must say PATH: LOW..HIGH"),
    "no values": (["x"], "space must say PATH: LOW..HIGH"),
    "an empty choice": (["x: 1|"], "space must say PATH: LOW..HIGH"),
    "a range of words": (["x: a..b"], "space must say PATH: LOW..HIGH"),
    "a log of choices": (["x: log 1|2"], "space must say PATH: LOW..HIGH"),
    "descending": (["x: 3..1"], "a range of x that does not ascend; received 'x: 3..1'"),
    "a log of zero": (["x: log 0..1"], "needs a range above 0 for log; received"),
    "a value twice": (["x: 1|1"], "space gives x a value twice"),
    "a path twice": (["x: 1|2", "x: 3"], "space sets x twice"),
    "nothing to search": (["x: 1", "y: 2"], "space has nothing to search"),
    "nothing": ([], "space has nothing to search"),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_texts_that_say_nothing_are_refused(name):
    space, message = MISSPELT[name]
    with pytest.raises(ValueError, match=message):
        Tuning(space=tuple(space))


# Searches whose trainings only pretend: the best learning rate is 0.01, longer is better.


def pretend(config, workdir):
    """The results of a training whose robust accuracy depends on settings alone."""
    epochs = int(config.train_steps.removesuffix("ep"))
    value = 0.8 - 0.2 * abs(math.log10(config.optimizer.learning_rate) + 2) + 0.01 * epochs
    shutil.rmtree(workdir, ignore_errors=True)
    make_run(workdir, Case(((1.0, ((0.01, 0.9), (value, 0.5), (value - 0.01, 0.9))),)))
    (workdir / "settings.json").write_text(json.dumps([value, repr(config)]))


class Calls:
    """Counts trainings, and raises an error in the place of some of them."""

    def __init__(self, errors=()):
        self.done, self.errors = 0, dict(errors)

    def __call__(self, config, workdir):
        self.done += 1
        if self.done in self.errors:
            raise self.errors[self.done]
        pretend(config, workdir)


@pytest.fixture
def trainings(monkeypatch):
    def replaced(errors=()):
        calls = Calls(errors)
        monkeypatch.setattr(DenseTraining, "run", lambda *given: calls(*given))
        return calls

    return replaced


SEARCHES = {
    "random": {"space": (RATE, "network.hidden: 4|5,6", "l1: 0.001"), "max_trials": 5},
    "bayesian": {"space": (RATE,), "max_trials": 4},
    "hyperband": {"space": (RATE, "batch_size: 16..32")},
    "capped": {"space": (RATE,), "tuner": "hyperband", "max_trials": 4},
}
NUMBERS = {"random": 5, "bayesian": 4, "hyperband": 6, "capped": 4}
every_search = pytest.mark.parametrize("name", SEARCHES)


def search(name, base, **changes):
    return Tuning(base=base, **{"tuner": name, **SEARCHES[name], **changes})


def table(workdir):
    with (workdir / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def said(workdir):
    return (workdir / "trials.csv").read_bytes(), (workdir / "best.yaml").read_bytes()


@every_search
def test_the_best_trial_becomes_a_preset(name, base, tmp_path, trainings):
    calls, workdir = trainings(), tmp_path / "w"
    search(name, base).run(workdir)
    rows = table(workdir)
    assert len(rows) == calls.done == NUMBERS[name]
    assert {row["trial"] for row in rows} == {path.name for path in (workdir / "trials").iterdir()}
    measures = [float(row["measure"]) for row in rows]
    assert measures == sorted(measures, reverse=True) and len(set(measures)) > 1
    for row in rows:
        value, config = json.loads(
            (workdir / "trials" / row["trial"] / "settings.json").read_text()
        )
        assert float(row["measure"]) == pytest.approx(value, abs=1e-4)
        assert f"learning_rate={float(row['optimizer.learning_rate'])!r}" in config
    best = configured([f"--preset={workdir / 'best.yaml'}"])
    assert (
        repr(best)
        == json.loads((workdir / "trials" / rows[0]["trial"] / "settings.json").read_text())[1]
    )
    assert best.l1 == (0.001 if name == "random" else 0) and best.eval_limit == 20


@every_search
def test_the_seed_decides_what_is_tried(name, base, tmp_path, trainings):
    trainings()
    for seed in (0, 1):
        search(name, base, seed=seed).run(tmp_path / str(seed))
    settings = [{row["optimizer.learning_rate"] for row in table(tmp_path / n)} for n in "01"]
    assert not settings[0] & settings[1]


@every_search
@pytest.mark.parametrize("at", [1, 4])
def test_an_interrupted_search_ends_as_if_it_had_not_been(name, at, base, tmp_path, trainings):
    trainings()
    search(name, base).run(tmp_path / "w")
    expected = said(tmp_path / "w")
    shutil.rmtree(tmp_path / "w")
    for error, calls in ((Interrupted(15, "step 0"), at), (KeyboardInterrupt(), 1)):
        trainings({calls: error})
        with pytest.raises(type(error)):
            search(name, base).run(tmp_path / "w")
    calls = trainings()
    search(name, base).run(tmp_path / "w")
    assert said(tmp_path / "w") == expected
    assert calls.done == NUMBERS[name] - at + 1
    search(name, base).run(tmp_path / "w")  # nothing is left to do
    assert calls.done == NUMBERS[name] - at + 1 and said(tmp_path / "w") == expected


@pytest.mark.parametrize("name", ["random", "bayesian", "capped"])
def test_a_search_can_grow(name, base, tmp_path, trainings):
    trainings()
    search(name, base).run(tmp_path / "w")
    expected = said(tmp_path / "w")
    shutil.rmtree(tmp_path / "w")
    for trials in (2, NUMBERS[name]):
        search(name, base, max_trials=trials).run(tmp_path / "w")
    assert said(tmp_path / "w") == expected
    with pytest.raises(RunError, match="made by another configuration"):
        search(name, base, seed=3).run(tmp_path / "w")


def test_hyperband_gives_the_best_of_many_short_trials_the_whole_length(base, tmp_path, trainings):
    trainings()
    workdir = tmp_path / "w"
    search("hyperband", base).run(workdir)
    lengths, settings, measures = {}, {}, {}
    for row in table(workdir):
        trial = row["trial"]
        config = json.loads((workdir / "trials" / trial / "settings.json").read_text())[1]
        lengths[trial] = config.partition("train_steps='")[2].partition("'")[0]
        settings[trial] = row["optimizer.learning_rate"], row["batch_size"]
        measures[trial] = float(row["measure"])
    assert sorted(lengths.values()) == ["1ep"] * 3 + ["3ep"] * 3
    short = [trial for trial, length in lengths.items() if length == "1ep"]
    promoted = max(short, key=measures.get)
    for trial in short:
        assert list(settings.values()).count(settings[trial]) == (2 if trial == promoted else 1)


@pytest.mark.parametrize(
    ("length", "units", "texts"),
    [("27ep", 27, ["1ep", "27ep"]), ("81", 27, ["3", "81"]), ("5", 5, ["1", "5"])],
)
def test_what_hyperband_divides(length, units, texts, tmp_path):
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(BASE | {"train_steps": length}))
    tuned = Tuning(base=str(tmp_path / "b.yaml"), space=(RATE,), tuner="hyperband")
    number, text = tuned._budget()
    assert number == units and [text(1), text(units)] == texts


def diverged():
    error = RunError("round 0: the loss is not finite")
    error.__cause__ = FloatingPointError()
    return error


@every_search
def test_a_training_that_diverges_counts_nothing(name, base, tmp_path, trainings):
    trainings({n: diverged() for n in (1, 2, 3)})
    search(name, base).run(tmp_path / "w")
    rows = table(tmp_path / "w")
    assert len(rows) == NUMBERS[name]
    assert [float(row["measure"]) for row in rows].count(0) == 3


@pytest.mark.parametrize("error", [RunError("no room"), ValueError("of data"), OSError("disk")])
def test_what_is_wrong_with_more_than_a_trial_ends_the_search(error, base, tmp_path, trainings):
    trainings({2: error})
    with pytest.raises(type(error), match=str(error)):
        search("random", base).run(tmp_path / "w")
    assert not (tmp_path / "w" / "trials.csv").exists()


def test_one_process_at_a_time_unless_a_chief_hands_out(base, tmp_path, trainings):
    trainings()
    workdir = tmp_path / "w"
    search("random", base, max_trials=1).run(workdir)
    config = json.loads((workdir / "config.json").read_text())["experiment"]
    held = Workdir(workdir, config, {})
    with pytest.raises(RunError, match="is in use by"):
        search("random", base, max_trials=1).run(workdir)
    held.close()


def test_a_damaged_state_is_one_line(base, tmp_path, trainings):
    trainings()
    workdir = tmp_path / "w"
    search("random", base).run(workdir)
    expected = said(workdir)
    (workdir / "search" / "oracle.json").write_text("{")
    with pytest.raises(RunError, match=r"search is damaged: .* without this folder"):
        search("random", base).run(workdir)
    shutil.rmtree(workdir / "search")
    search("random", base).run(workdir)
    assert said(workdir) == expected


# What is refused before anything is made.

WRONG = {
    "an unknown path": ({"space": ("optimizer.learning_rat: 1|2",)}, "unknown flag.*did you mean"),
    "a value of no choice": ({"space": ("optimizer: adam|sdg",)}, "did you mean sgd"),
    "an end out of range": ({"space": ("batch_size: 0..10",)}, "batch_size must be at least 1"),
    "a word for a number": ({"space": ("batch_size: few|many",)}, "expected a whole number"),
    "a field of another choice": (
        {"space": ("optimizer: adam|sgd", "optimizer.momentum: 0.5..0.9")},
        "in a trial of base=.*unknown flag --optimizer.momentum",
    ),
    "an unknown preset": ({"base": "quick_strat", "space": (RATE,)}, "did you mean quick_start"),
    "an experiment that trains nothing": (
        {"base": "export", "space": ("source: a|b",)},
        "base must be an experiment that trains; received export",
    ),
    "tuner": ({"tuner": "grid", "space": (RATE,)}, "tuner must be one of .* received 'grid'"),
    "trials": ({"max_trials": 0, "space": (RATE,)}, "max_trials must be at least 1; received 0"),
    "seed": ({"seed": -1, "space": (RATE,)}, "seed must be at least 0; received seed=-1"),
    "two lengths": (
        {"tuner": "hyperband", "space": (RATE, "train_steps: 1ep|2ep")},
        "may not set train_steps, which tuner='hyperband'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name, base, tmp_path, trainings):
    calls, (fields, message) = trainings(), WRONG[name]
    with pytest.raises(ValueError, match=message) as found:
        Tuning(**{"base": base, **fields}).run(tmp_path / "w")
    assert "\n" not in str(found.value)
    assert calls.done == 0 and not (tmp_path / "w").exists()


def test_a_search_of_searches_is_refused(tmp_path):
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"experiment": "tuning", "space": [RATE]}))
    with pytest.raises(ValueError, match="must be an experiment that trains; received tuning"):
        Tuning(base=str(tmp_path / "b.yaml"), space=("seed: 1|2",)).run(tmp_path / "w")


def test_large_spaces_are_checked_end_by_end(base, tmp_path, trainings, monkeypatch):
    trainings()
    monkeypatch.setattr(tuning, "_MOST_COMBINATIONS", 4)
    space = (RATE, "network.hidden: 4|5|6")
    Tuning(base=base, space=space, max_trials=1).run(tmp_path / "w")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Tuning(base=base, space=(*space, "batch_size: 4|3|0")).run(tmp_path / "v")


def test_without_the_program_nobody_reads_presets(monkeypatch):
    monkeypatch.setattr(Experiment, "read", None)
    with pytest.raises(RunError, match=r"start it with run_experiments\.py"):
        Tuning(space=(RATE,)).run("nowhere")


def test_an_experiment_can_be_the_base():
    tuned = Tuning(base="dense_training", space=(RATE, "seed: 4"))
    first = tuned._trial({"optimizer.learning_rate": 0.25})
    assert first == dataclasses.replace(
        DenseTraining(seed=4), optimizer=dataclasses.replace(first.optimizer, learning_rate=0.25)
    )


ROLES = {
    "alone": ({}, "alone"),
    "chief": ({"TUNER_ID": "chief", "ORACLE_IP": "localhost", "ORACLE_PORT": "8000"}, "chief"),
    "worker": ({"TUNER_ID": "w1", "ORACLE_IP": "localhost", "ORACLE_PORT": "8000"}, "worker"),
    "half": ({"TUNER_ID": "chief"}, "KERASTUNER_ORACLE_IP is not set; several workers need"),
}


@pytest.mark.parametrize("name", ROLES)
def test_roles(name, monkeypatch):
    given, expected = ROLES[name]
    for key in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT"):
        monkeypatch.delenv(f"KERASTUNER_{key}", raising=False)
    for key, value in given.items():
        monkeypatch.setenv(f"KERASTUNER_{key}", value)
    if name == "half":
        with pytest.raises(ValueError, match=expected):
            _tuner.role()
    else:
        assert _tuner.role() == expected


def test_a_worker_joins_its_own_search_only(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "_PATIENCE", 0)
    with pytest.raises(RunError, match="no chief has made"):
        tuning._join(tmp_path, {"seed": 1, "max_trials": 3})
    (tmp_path / "config.json").write_text(json.dumps({"experiment": {"seed": 1, "max_trials": 2}}))
    tuning._join(tmp_path, {"seed": 1, "max_trials": 3})
    with pytest.raises(RunError, match="is of another search"):
        tuning._join(tmp_path, {"seed": 2, "max_trials": 3})


# Real trainings.


def test_a_trial_is_an_ordinary_run(base, tmp_path, capsys):
    space = ("optimizer.learning_rate: 0.001|0.01", "train_steps: 4", "eval_every: 4")
    Tuning(base=base, space=space, max_trials=2).run(tmp_path / "w")
    assert "trial 1: optimizer.learning_rate=0.0" in capsys.readouterr().out
    best = table(tmp_path / "w")[0]
    configured([f"--preset={tmp_path / 'w' / 'best.yaml'}"]).run(tmp_path / "alone")
    assert files(tmp_path / "alone") == files(tmp_path / "w" / "trials" / best["trial"])


def command(base, workdir):
    space = f"{RATE},train_steps:40,eval_every:40"
    flags = ["--experiment=tuning", f"--base={base}", f"--space={space}", f"--workdir={workdir}"]
    return [sys.executable, "run_experiments.py", *flags, "--max_trials=4"]


@pytest.mark.slow
def test_a_chief_and_workers_share_one_search(base, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = {}
    for name in ("worker_1", "worker_2", "chief"):
        env = {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": "localhost"}
        started[name] = subprocess.Popen(
            command(base, tmp_path / "w"),
            env=os.environ | env | {"KERASTUNER_ORACLE_PORT": port},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    heard = {name: process.communicate(timeout=600)[0] for name, process in started.items()}
    assert [process.returncode for process in started.values()] == [0, 0, 0], heard
    rows = table(tmp_path / "w")
    assert len(rows) == 4 and "best of 4" in heard["chief"] and "trial 0:" not in heard["chief"]
    ran = [
        sum(f"trial {row['trial']}:" in heard[name] for row in rows)
        for name in ("worker_1", "worker_2")
    ]
    assert sum(ran) == 4 and min(ran) >= 1, heard
    configured([f"--preset={tmp_path / 'w' / 'best.yaml'}"])
