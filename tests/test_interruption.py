"""However a run ends, the same command goes on, and nothing tells that it was ever interrupted."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from trainings import QUICK, TABLE, files

from experiments import checkpoint
from experiments import workdir as workdirs
from experiments._watch import Watch
from experiments.experiment import RunError
from experiments.interruption import Interrupted
from experiments.iterative_pruning import IterativePruning
from experiments.workdir import Workdir

RUNS = {
    name: dataclasses.replace(TABLE[name], rounds=1)
    for name in ("reset", "rewound", "continued", "published")
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing interrupts, by name."""
    root = tmp_path_factory.mktemp("whole")
    for name, run in RUNS.items():
        run.run(root / name)
    return {name: files(root / name) for name in RUNS}


class Died(BaseException):
    """Stands for a death that no handler sees."""


def dying(original, dies, before):
    """`original`, which dies before or after its work where `dies` says so."""

    def method(self, *args, **options):
        if before and dies(self, *args):
            raise Died
        result = original(self, *args, **options)
        if not before and dies(self, *args):
            raise Died
        return result

    return method


def at(round_number, step):
    return lambda watch, *args: (watch.round, watch.step) == (round_number, step)


def signalled(round_number, step, number):
    """`on_train_batch_end` that gets a signal after a step; the signals of one run come once."""

    def method(watch, batch, logs=None, original=Watch.on_train_batch_end):
        if (watch.round, watch.step + watch.sizes[batch]) == (round_number, step):
            os.kill(os.getpid(), number)
        original(watch, batch, logs)

    return method


DEATHS = {
    "after an evaluation": ("reset", "_evaluate", at(0, 4), False),
    "before an evaluation": ("continued", "_evaluate", at(1, 4), True),
    "before a checkpoint": ("published", "_save", at(1, 3), True),
    "after a checkpoint": ("rewound", "_save", at(1, 4), False),
    "after the last evaluation": ("rewound", "_evaluate", at(0, 6), False),
}


@pytest.mark.parametrize("death", DEATHS)
def test_interrupted_equals_uninterrupted(death, whole, tmp_path, monkeypatch):
    name, method, dies, before = DEATHS[death]
    with monkeypatch.context() as patch:
        patch.setattr(Watch, method, dying(getattr(Watch, method), dies, before))
        with pytest.raises(Died):
            RUNS[name].run(tmp_path)
    assert files(tmp_path) != whole[name]
    RUNS[name].run(tmp_path)
    assert files(tmp_path) == whole[name]
    assert not (tmp_path / "checkpoint.npz").exists()


SIGNALS = {"reset": signal.SIGTERM, "rewound": signal.SIGINT, "published": signal.SIGTERM}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_saves_where_it_is(name, whole, tmp_path, monkeypatch):
    """Between two evaluations (step 2 of an interval that ends at 3 or 4), and at one."""
    monkeypatch.setattr("experiments.training.STEPS_PER_CALL", 1)
    number = SIGNALS[name]
    for place in ((0, 2), (1, 4)):
        handler = signal.getsignal(number)
        saved = rf"saved at step {place[1]} of 6 of round {place[0]}; the same command continues"
        with monkeypatch.context() as patch:
            patch.setattr(Watch, "on_train_batch_end", signalled(*place, number))
            with pytest.raises(Interrupted, match=saved) as found:
                RUNS[name].run(tmp_path)
        assert found.value.exit_code == 128 + number
        assert (tmp_path / "checkpoint.npz").exists()
        assert signal.getsignal(number) is handler
    RUNS[name].run(tmp_path)
    assert files(tmp_path) == whole[name]


def test_killed_at_random_times(whole, tmp_path):
    """SIGKILL at 3 random moments, inside the write of a checkpoint, and before a results row."""
    driver = Path(__file__).with_name("killed_run.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, driver, tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ends = done.stdout.split()
    assert ends == ["killed"] * 5 + ["finished"], done.stderr
    assert files(tmp_path) == whole["reset"]


# ---------------------------------------------------------------- checkpoints that are not ours


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped in round 1."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", signalled(1, 4, signal.SIGTERM))
        with pytest.raises(Interrupted):
            RUNS["reset"].run(folder)
    return folder


def arrays(file):
    with np.load(file, allow_pickle=True) as data:
        return {name: data[name] for name in data.files}


def rewrite(change):
    """Damage: the checkpoint's arrays, changed."""

    def damage(file):
        content = arrays(file)
        change(content)
        np.savez(file, **content)

    return damage


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def bumped(content):
    content["00000"] = content["00000"] + 1


def header(**values):
    def change(content):
        found = json.loads(content["header"].tobytes()) | values
        content["header"] = np.frombuffer(json.dumps(found).encode(), np.uint8)

    return change


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return os.abort, ()


DAMAGES = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "a flipped bit": flip,
    "text": lambda file: file.write_text("not a checkpoint"),
    "other values": rewrite(bumped),
    "other step": rewrite(header(step=2)),
    "another run": rewrite(header(run="somebody's")),
    "an array less": rewrite(lambda content: content.pop("00001")),
    "another shape": rewrite(lambda content: content.update({"00000": np.zeros(3, np.float32)})),
    "a huge array": rewrite(lambda content: content.update({"00000": np.zeros(10**7)})),
    "a pickle": rewrite(lambda content: content.update({"00000": np.array([Bomb()], object)})),
    "a pickled header": rewrite(lambda content: content.update(header=np.array([Bomb()], object))),
}


def variables():
    return [keras.Variable(np.arange(n, dtype="float32").reshape(2, -1)) for n in (6, 8, 2)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_before_anything_is_set(damage, tmp_path):
    file = tmp_path / "checkpoint.npz"
    checkpoint.save(file, variables(), {"run": "ours", "round": 1, "step": 4})
    DAMAGES[damage](file)
    now = [keras.Variable(0 * variable) for variable in variables()]
    with pytest.raises(RunError, match=r"checkpoint.npz is not a checkpoint of this run"):
        checkpoint.restore(file, now, "ours", 1)
    assert not any(variable.numpy().any() for variable in now)


def test_a_checkpoint_gives_back_what_it_took(tmp_path):
    file = tmp_path / "checkpoint.npz"
    checkpoint.save(file, variables(), {"run": "ours", "round": 1, "step": 4})
    now = [keras.Variable(0 * variable) for variable in variables()]
    assert checkpoint.restore(file, now, "ours", 2) is None
    assert not any(variable.numpy().any() for variable in now)
    assert checkpoint.restore(file, now, "ours", 1)["step"] == 4
    assert all(np.array_equal(a, b) for a, b in zip(now, variables(), strict=True))


def test_a_damaged_checkpoint_costs_a_round_at_most(stopped, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    flip(folder / "checkpoint.npz")
    before = files(folder)
    with pytest.raises(RunError, match="remove it to begin the round again"):
        RUNS["reset"].run(folder)
    assert files(folder) == before
    (folder / "checkpoint.npz").unlink()
    RUNS["reset"].run(folder)
    assert files(folder) == whole["reset"]


# ---------------------------------------------------------------- one folder, one process, room


def test_a_second_process_is_refused(tmp_path):
    held = Workdir(tmp_path, {"name": "x"}, {})
    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        Workdir(tmp_path, {"name": "x"}, {})
    held.close()
    Workdir(tmp_path, {"name": "x"}, {}).close()


@pytest.mark.parametrize("writes", [3, 16])
def test_a_full_disk_ends_a_run_that_goes_on_later(writes, whole, tmp_path, monkeypatch):
    room = iter(range(writes))

    def fsync(descriptor):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match=r"no room on the disk .* same command continues"):
            RUNS["reset"].run(tmp_path)
    assert not list(tmp_path.rglob(".*.tmp"))
    RUNS["reset"].run(tmp_path)
    assert files(tmp_path) == whole["reset"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    Workdir(tmp_path, {"name": "x"}, {}).close()
    (tmp_path / ".results.csv.1.tmp").write_text("half a row")
    Workdir(tmp_path, {"name": "x"}, {}).close()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_other_threads_are_warned_of(stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["environment"] |= {"intra_op_threads": 7, "XLA_FLAGS": "--xla_some"}
    (folder / "config.json").write_text(json.dumps(config))
    RUNS["reset"].run(folder)
    said = capsys.readouterr().err
    assert "warning: resumed under other settings" in said
    assert "intra_op_threads: 7 there, 0 here" in said and "XLA_FLAGS: --xla_some there" in said


def test_the_same_environment_is_not_warned_of(tmp_path):
    for _ in range(2):
        workdir = Workdir(tmp_path, {"name": "x"}, {})
        assert not workdir.moved
        workdir.close()


def test_a_refused_folder_says_what_differs(stopped):
    with pytest.raises(RunError, match="was made by another configuration") as found:
        dataclasses.replace(RUNS["reset"], seed=6, rate=(0.1,)).run(stopped)
    assert found.value.__notes__ == [
        "--seed: 5 there, 6 here",
        "--rate: [0.5, 0.25] there, [0.1] here",
    ]


def test_more_rounds_go_on_from_the_last(whole, tmp_path):
    dataclasses.replace(RUNS["reset"], rounds=0).run(tmp_path)
    RUNS["reset"].run(tmp_path)
    assert files(tmp_path) == whole["reset"]
    assert json.loads((tmp_path / "config.json").read_text())["experiment"]["rounds"] == 1
    dataclasses.replace(RUNS["reset"], rounds=0).run(tmp_path)  # all of it is there already
    assert files(tmp_path) == whole["reset"]
    assert json.loads((tmp_path / "config.json").read_text())["experiment"]["rounds"] == 1


def test_a_density_schedule_does_not_grow():
    run = IterativePruning(**QUICK, rounds=1, density=0.2)
    assert not run.may_grow() and RUNS["reset"].may_grow() == ("rounds",)


@pytest.mark.parametrize("file", ["results.csv", "timing.csv", "correct/round_01.npz"])
def test_damaged_records_are_said_to_be(file, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    (folder / file).write_text("round,step\nx,1\n")
    with pytest.raises(RunError, match=f"{Path(file).name} is damaged"):
        RUNS["reset"].run(folder)


def test_the_columns_are_those_that_are_read():
    from rst_tf.analysis.results import COLUMNS

    assert workdirs.COLUMNS == COLUMNS
