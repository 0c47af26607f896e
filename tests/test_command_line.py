"""The two programs as a user meets them: processes, exit codes, one line of error."""

import csv
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
TINY = [
    "--network.hidden=8",
    "--eval_every=2",
    "--eval_limit=20",
    "--batch_size=10",
    "--jit=off",
]


def run(program, *argv, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / program), *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


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
def test_a_wrong_input_is_one_line_and_exit_code_one(name, tmp_path):
    argv, *said = WRONG[name]
    result = run("run_experiments.py", *argv(tmp_path), f"--workdir={tmp_path / 'run'}")
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert result.returncode == 1, result.stderr
    assert len(lines) == 1 and lines[0].startswith("run_experiments: error: "), result.stderr
    assert "Traceback" not in result.stderr
    for text in said:
        assert text in lines[0]


def test_quick_start_in_small_from_command_to_report(tmp_path):
    small = [
        *TINY,
        "--preset=quick_start",
        "--train_steps=4",
        "--data.train_limit=54",
        "--rounds=1",
    ]
    argv = [*small, "--rate=0.5", "--network.hidden=8,6", f"--workdir={tmp_path / 'run'}"]
    argv.remove("--network.hidden=8")
    result = run("run_experiments.py", *argv, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for word in ("density", "robust", "report.html", "density.png", "tensorboard --logdir"):
        assert word in result.stdout
    head, *rounds = result.stderr.splitlines()
    assert head.endswith("54 images to train on, 4 steps a round")
    assert [line[:7] for line in rounds] == ["round 0", "round 1"]
    report = (tmp_path / "run" / "report" / "report.html").read_text()
    assert report.lower().startswith("<!doctype html>") and "robust accuracy" in report

    again = run("run_experiments.py", *argv, cwd=tmp_path)
    assert again.returncode == 0 and again.stderr == head + "\n" and again.stdout == result.stdout

    argv[-1] = f"--workdir={tmp_path / 'other'}"
    assert run("run_experiments.py", *argv, "--seed=1", cwd=tmp_path).returncode == 0
    both = f"--runs={tmp_path / 'run'},{tmp_path / 'other'}"
    analysed = run("run_analysis.py", both, f"--out={tmp_path / 'out'}")
    assert analysed.returncode == 0, analysed.stderr
    with (tmp_path / "out" / "table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 and any(name.endswith("_std") for name in rows[0])
