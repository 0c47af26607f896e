"""Two local workers agree with one process, and end clearly when one of them is gone."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import replica_trainings
import trainings
from networks import small

import rst_tf as rst
import run_experiments
from rst_tf import strategies
from rst_tf.cluster import Cluster, ClusterError
from rst_tf.ticket import Ticket

ROOT = pathlib.Path(__file__).parent.parent
GONE = "the same command on every worker goes on from the last checkpoint"


def addresses(n=2):
    """Local addresses with free ports."""
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("", 0))) for _ in range(n)]
        return [f"localhost:{place.getsockname()[1]}" for place in places]


def started(folder, *argv, differing=()):
    """Two workers at work; each writes to its own log."""
    places, workers = addresses(), []
    for i in range(2):
        task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": i}}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(task),
            "TF_NUM_INTRAOP_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        with (folder / f"log{i}").open("w") as log:
            command = [sys.executable, *map(str, argv), *(differing if i else ())]
            workers.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    return workers


def ended(folder, workers, timeout=400):
    """Exit codes and logs."""
    try:
        codes = [worker.wait(timeout) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return codes, [(folder / f"log{i}").read_text() for i in range(2)]


# ---------------------------------------------------------------- who the workers are

WRONG = {
    "": "needs TF_CONFIG, such as",
    "{": "must be like",
    "[]": "must be like",
    '{"cluster": {"worker": ["a:1", "b:2"]}}': "must be like",
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}': "at least two",
    '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}': "worker 2",
    '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 0}}': "received 'b'",
    '{"cluster": {"ps": ["a:1", "b:2"]}, "task": {"type": "ps", "index": 0}}': "received ps",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_tf_config_is_refused(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=WRONG[text]):
        Cluster.from_environment()


def test_the_chief_is_the_first_worker(monkeypatch):
    config = {
        "cluster": {"worker": ["b:2", "c:3"], "chief": ["a:1"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    cluster = Cluster.from_environment()
    assert cluster.workers == (("chief 0", "a:1"), ("worker 0", "b:2"), ("worker 1", "c:3"))
    assert cluster.own == 2 and cluster.jobs() == {"chief": 1, "worker": 2}


def clusters(n=2):
    workers = tuple((f"worker {i}", place) for i, place in enumerate(addresses(n)))
    return [Cluster(workers, i) for i in range(n)]


def test_workers_wait_for_the_last_one():
    late, *others = clusters(3)
    threads = [threading.Thread(target=c.meet, args=(60,)) for c in others]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert all(thread.is_alive() for thread in threads)
    late.meet(60)
    with socket.create_server(("", int(late.workers[0][1].split(":")[1]))):  # TensorFlow's server
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


def test_a_worker_that_does_not_start_is_named():
    here, there = clusters()
    with pytest.raises(ClusterError, match=rf"worker 1 \({there.workers[1][1]}\) did not start"):
        here.meet(0.1)


def test_a_port_that_is_taken_is_named():
    here, _ = clusters()
    port = int(here.workers[0][1].split(":")[1])
    with socket.create_server(("", port)), pytest.raises(ClusterError, match=f"{port} is taken"):
        here.meet(5)


MESSAGES = {
    "from remote target /job:worker/replica:0/task:1 while calling /tensorflow.X": "worker 1 (",
    "Error reported from /job:worker/task:2: they are unhealthy: /job:worker/replica:0/task:2": (
        "worker 2 ("
    ),
    "Socket closed": "worker 1 (",
    "this is /job:worker/replica:0/task:0, and it has timed out": "worker 1 (",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_lost_worker_is_named(message):
    """By TensorFlow's message, or because it does not answer: here only worker 2 does."""
    here, *_ = clusters(3)
    with socket.create_server(("", int(here.workers[2][1].split(":")[1]))):
        error = str(here.loss(message))
    assert error.startswith(MESSAGES[message]) and error.endswith(f"is gone; {GONE}")


def test_a_worker_that_answers_may_be_stuck():
    here, there = clusters()
    with socket.create_server(("", int(there.workers[1][1].split(":")[1]))):
        assert str(here.loss("")) == f"no word from worker 1 ({there.workers[1][1]}); {GONE}"


# ---------------------------------------------------------------- what one worker does, alone


@pytest.fixture
def several(monkeypatch):
    monkeypatch.setattr(strategies, "several_workers", lambda *strategy: True)


def test_the_first_workers_folder_reaches_the_others(several, tmp_path, monkeypatch):
    """What the first worker adds to the sums is what the others get from them."""
    here, there, sums = tmp_path / "run", tmp_path / "copy" / "run", []
    contents = {"config.json": b"{}", "tickets/initial.npz": bytes(range(13)), "empty": b""}
    for name, content in {**contents, "tensorboard/events": b"x", ".lock": b"x"}.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    monkeypatch.setattr(strategies, "_CHUNK", 1)
    monkeypatch.setattr(strategies, "_sum", lambda numbers: sums.append(numbers) or numbers)
    monkeypatch.setattr(strategies, "is_chief", lambda: True)
    with strategies.folder_of_worker(here) as folder:
        assert folder == here

    def received(numbers):
        assert not np.any(numbers)  # so that the sum is what the first worker has
        return np.asarray(sums.pop(0), np.int64)

    monkeypatch.setattr(strategies, "_sum", received)
    monkeypatch.setattr(strategies, "is_chief", lambda: False)
    with strategies.folder_of_worker(there) as folder:
        assert folder.name == "run" and folder != there and not sums
        found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.*")}
        assert found == {name: contents[name] for name in ("config.json", "tickets/initial.npz")}
        assert (folder / "empty").read_bytes() == b""
    assert not folder.exists() and not there.exists()


def test_what_several_workers_cannot_do_is_refused(several):
    with pytest.raises(ValueError, match=r"the same on each of them; received ndarray"):
        strategies.split(np.zeros(3))
    trainer = rst.RobustTrainer(small(), rst.Natural())
    with pytest.raises(ValueError, match=r"with several workers; received steps_per_execution=2"):
        trainer.compile(steps_per_execution=2)


# ---------------------------------------------------------------- the same training


def test_two_workers_agree_with_one_process_and_notice_a_death(tmp_path):
    """Fixed masks, scores, uneven batches; then worker 1 dies and worker 0 says so."""
    kinds = ["plain", "pruned", "search"]
    program = ROOT / "tests" / "replica_trainings.py"
    workers = started(tmp_path, program, "multiworker", tmp_path / "left.npz", "die", *kinds)
    alone = {}
    for kind in kinds:
        alone |= replica_trainings.trained(kind)
    codes, logs = ended(tmp_path, workers)
    assert codes == [1, -signal.SIGKILL], logs[0]
    assert logs[0].strip().splitlines()[-1].endswith(f"is gone; {GONE}")
    together = np.load(tmp_path / "left.npz")
    assert set(together) == set(alone) and len(alone) > 20
    for name, value in alone.items():
        assert np.abs(value.astype(float) - together[name]).max() < 1e-5, name


# ---------------------------------------------------------------- whole runs, by the command line

RUN = [
    "--experiment=iterative_pruning",
    "--data.train_limit=100",
    "--network.hidden=12",
    "--objective=adversarial",
    "--objective.attack=pgd",
    "--objective.attack.epsilon=0.1",
    "--objective.attack.steps=2",
    "--batch_size=20",
    "--train_steps=100",
    "--eval_every=20",
    "--eval_limit=30",
    "--rounds=1",
    "--rewind_step=20",
    "--jit=off",
    "--seed=5",
]


def run(folder, *argv, **changes):
    """Two workers started on a run in `folder`/run."""
    program = [ROOT / "run_experiments.py", *RUN, f"--workdir={folder / 'run'}", *argv]
    return started(folder, *program, "--strategy=multiworker", **changes)


def run_to_a_checkpoint(folder):
    """Two workers that have just stored one more checkpoint."""
    file = folder / "run" / "checkpoint.npz"
    before = file.stat().st_mtime_ns if file.exists() else None
    workers = run(folder)
    while not file.exists() or file.stat().st_mtime_ns == before:
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.05)
    return workers


@pytest.mark.slow
def test_a_run_goes_on_after_the_death_of_either_worker(tmp_path):
    """And after SIGTERM to one; with the bits of a run that was left alone, near to one process."""
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    codes, logs = ended(whole, run(whole))
    assert codes == [0, 0], logs
    assert "report" in logs[0] and "report" not in logs[1]

    for victim in (1, 0):
        workers = run_to_a_checkpoint(broken)
        workers[victim].kill()
        codes, logs = ended(broken, workers)
        assert codes[1 - victim] == 1 and codes[victim] == -signal.SIGKILL
        last = logs[1 - victim].strip().splitlines()[-1]
        assert last.startswith(f"run_experiments: error: worker {victim} (localhost:"), logs
        assert last.endswith(f"is gone; {GONE}")
        assert "Traceback" not in logs[1 - victim]

    workers = run_to_a_checkpoint(broken)
    workers[1].send_signal(signal.SIGTERM)
    codes, logs = ended(broken, workers)
    assert codes == [128 + signal.SIGTERM] * 2, logs
    assert all("the same command continues" in log for log in logs)

    codes, logs = ended(broken, run(broken))
    assert codes == [0, 0], logs
    assert trainings.files(broken / "run") == trainings.files(whole / "run")

    alone = tmp_path / "alone" / "run"
    assert run_experiments.main(["run_experiments", *RUN, f"--workdir={alone}"]) is None
    one, two = (Ticket.load(path / "tickets" / "rewind.npz") for path in (alone, whole / "run"))
    for a, b in zip(one.entries, two.entries, strict=True):
        assert np.abs(a.kernel - b.kernel).max() < 1e-5


@pytest.mark.slow
def test_workers_with_different_commands_are_refused(tmp_path):
    codes, logs = ended(tmp_path, run(tmp_path, differing=["--optimizer=sgd"]))
    assert codes == [1, 1]
    assert "another worker was given another command" in logs[0]
    assert "--optimizer=sgd here, adam there" in logs[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_worker_that_is_stuck_does_not_hold_the_others(tmp_path):
    program = ROOT / "tests" / "replica_trainings.py"
    chief, stuck = started(tmp_path, program, "multiworker", tmp_path / "left.npz", "stick")
    assert chief.wait(300) == 1
    stuck.kill()
    line = (tmp_path / "log0").read_text().strip().splitlines()[-1]
    assert line.startswith("error: no word from worker 1 (localhost:") and line.endswith(GONE)
