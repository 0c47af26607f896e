"""The two programs as a user meets them: processes, exit codes, one line of error."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import run_experiments
from flags import command_line

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--network.hidden=8",
    "--eval_every=2",
    "--eval_limit=20",
    "--batch_size=10",
    "--jit=off",
]


def process(program, *argv, cwd=ROOT, timeout=300):
    return subprocess.run(
        [sys.executable, str(ROOT / program), *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def call(capsys):
    """Runs run_experiments.py in this process, which has TensorFlow loaded already."""

    def run(*argv):
        capsys.readouterr()
        given = [run_experiments.PROGRAM, *argv]
        code = command_line.run(
            run_experiments.PROGRAM, run_experiments.main, given, run_experiments.run_errors
        )
        said = capsys.readouterr()
        return subprocess.CompletedProcess(given, code, said.out, said.err)

    return run


def npz(folder, **changes):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = rng.uniform(0, 1, (n, 8, 8)).astype("float32")
        arrays[f"y_{part}"] = np.arange(n) % 3
    arrays |= {name: change(arrays[name]) for name, change in changes.items()}
    np.savez(folder / "data.npz", **arrays)
    return f"--data=npz:{folder / 'data.npz'}"


DENSE = ["--experiment=dense_training", "--train_steps=4", *TINY]
WRONG = {
    "flag": (lambda t: ["--preset=quick_start", "--round=3"], "--round;", "did you mean rounds"),
    "preset": (lambda t: ["--preset=quick_strat"], "quick_strat", "quick_start"),
    "experiment": (lambda t: ["--experiment=pruning"], "pruning", "iterative_pruning"),
    "epsilon": (
        lambda t: ["--preset=quick_start", "--objective.attack.epsilon=8"],
        "--objective.attack.epsilon",
        "at most 1",
    ),
    "density": (
        lambda t: ["--preset=quick_start", "--density=1.5"],
        "--density",
        "(0, 1]; received density=1.5",
    ),
    "rate": (lambda t: ["--preset=quick_start", "--rate=1"], "--rate", "[0, 1)"),
    "labels": (
        lambda t: [*DENSE, npz(t, y_train=lambda y: y - 1)],
        "y_train",
        "-1",
    ),
    "images": (
        lambda t: [*DENSE, npz(t, x_test=lambda x: x * 255)],
        "x_test",
        "[0, 1]",
    ),
    "nan loss": (
        lambda t: [*DENSE, npz(t), "--optimizer=sgd", "--optimizer.learning_rate=1e38"],
        "loss is",
        "learning rate",
    ),
    "empty layer": (
        lambda t: (
            ["--experiment=iterative_pruning", "--train_steps=4", *TINY, npz(t)]
            + ["--rounds=1", "--allocation=global", "--density=0.003"]
        ),
        "would leave 0 of",
        "kernel",
    ),
    "missing file": (lambda t: [*DENSE, f"--data=npz:{t / 'no.npz'}"], "no.npz", "does not exist"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_one_line_and_exit_code_one(name, tmp_path, call):
    argv, *said = WRONG[name]
    result = call(*argv(tmp_path), f"--workdir={tmp_path / 'run'}")
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("run_experiments: error: "), result.stderr
    assert "Traceback" not in result.stderr
    for text in said:
        assert text in lines[0]


def test_a_wrong_input_is_all_that_a_process_says(tmp_path):
    argv = WRONG["images"][0](tmp_path)
    result = process("run_experiments.py", *argv, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("run_experiments: error: ") and "x_test" in result.stderr
    assert result.stderr.count("\n") == 1


def small(folder):
    flags = ["--preset=quick_start", "--train_steps=4", "--rounds=1", "--rate=0.5", *TINY[1:]]
    return [*flags, "--network.hidden=8,6", npz(folder), "--data.train_limit=45"]


def test_quick_start_in_small_from_command_to_report(tmp_path, call):
    argv = [*small(tmp_path), f"--workdir={tmp_path / 'run'}"]
    result = process("run_experiments.py", *argv, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for word in ("density", "robust", "report.html", "density.png", "tensorboard --logdir"):
        assert word in result.stdout
    head, *rounds = result.stderr.splitlines()
    assert head.endswith("45 images to train on, 4 steps a round")
    assert [line[:7] for line in rounds] == ["round 0", "round 1"]
    report = (tmp_path / "run" / "report" / "report.html").read_text()
    assert report.lower().startswith("<!doctype html>") and "robust accuracy" in report

    again = call(*argv)
    assert again.returncode == 0 and again.stderr == head + "\n" and again.stdout == result.stdout

    other = call(*argv, "--seed=1", "--l1=0.1")
    first, *differences = other.stderr.splitlines()
    assert other.returncode == 1 and other.stdout == ""
    assert first.startswith("run_experiments: error: workdir ") and "--force" in first
    assert sorted(differences) == ["  --l1: 0.0 there, 0.1 here", "  --seed: 0 there, 1 here"]


def test_trials_from_command_to_report_and_analysis(tmp_path, call):
    argv = [*small(tmp_path), f"--workdir={tmp_path / 'run'}"]
    assert call(*argv, "--trials=1").returncode == 0
    before = (tmp_path / "run" / "seed_0" / "results.csv").stat().st_mtime_ns
    result = call(*argv, "--trials=2")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "seed_0" / "results.csv").stat().st_mtime_ns == before
    analysed = process("run_analysis.py", f"--runs={tmp_path}/run/seed_*", f"--out={tmp_path}/out")
    assert analysed.returncode == 0, analysed.stderr
    for folder in (tmp_path / "run" / "report", tmp_path / "out"):
        with (folder / "table.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 2 and any(name.endswith("_std") for name in rows[0])


@pytest.mark.slow
def test_quick_start_keeps_what_its_preset_promises(tmp_path):
    result = process("run_experiments.py", cwd=tmp_path, timeout=1800)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "iterative_pruning" / "sample" / "quick_start"
    with (folder / "results.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    last = {row["round"]: float(row["robust_accuracy"]) for row in rows}
    assert list(last) == list("0123456") and last["3"] >= last["0"] - 0.02
