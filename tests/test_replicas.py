"""One and two replicas (logical CPUs of one process) train and test alike.

They have a process of their own: in one that has had several strategies, exchanges get mixed up.
"""

import contextlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import replica_trainings
import tensorflow as tf
from networks import easy_data, small

import rst_tf as rst
import run_experiments
from rst_tf import strategies

TESTS = pathlib.Path(__file__).parent
RUN = [
    "--experiment=iterative_pruning",
    "--data.train_limit=63",
    "--network.hidden=12",
    "--objective=adversarial",
    "--objective.attack=pgd",
    "--objective.attack.epsilon=0.1",
    "--objective.attack.steps=2",
    "--batch_size=20",
    "--train_steps=20",
    "--eval_every=10",
    "--eval_limit=30",
    "--rounds=1",
    "--rate=0.5",
    "--jit=off",
]
PROGRAM = """
import sys, conftest
conftest.pytest_configure(None)
import replica_trainings, run_experiments
run_experiments.report = lambda *where: None
replica_trainings.main("mirrored", sys.argv[1], "finish", *replica_trainings.KINDS)
run_experiments.main(["run_experiments", "--strategy=mirrored", *sys.argv[2:]])
"""


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """What two replicas left: variables and measures by name, and the folder of a run."""
    folder = tmp_path_factory.mktemp("mirrored")
    argv = [sys.executable, "-c", PROGRAM, folder / "left.npz", *RUN, f"--workdir={folder / 'run'}"]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / "left.npz"), folder / "run"


@pytest.mark.parametrize("kind", replica_trainings.KINDS)
def test_two_replicas_agree_with_one_after_20_steps(kind, mirrored):
    alone, (together, _) = replica_trainings.trained(kind), mirrored
    assert {name for name in together if name.startswith(f"{kind}/")} == alone.keys()
    for name, value in alone.items():
        assert np.abs(value.astype(float) - together[name]).max() < 1e-5, name


def test_a_mirrored_run_of_the_command_line_agrees(mirrored, tmp_path, monkeypatch):
    """Weights after 20 steps, and the masks that come of them."""
    monkeypatch.setattr(run_experiments, "report", lambda *where: None)
    run_experiments.main(["run_experiments", *RUN, f"--workdir={tmp_path / 'run'}"])
    folders = (tmp_path / "run" / "tickets", mirrored[1] / "tickets")
    for name in ("round_00", "round_01"):
        one, two = (rst.Ticket.load(folder / f"{name}.npz") for folder in folders)
        for a, b in zip(one.entries, two.entries, strict=True):
            assert np.abs(a.kernel - b.kernel).max() < 1e-5
    dense = rst.Ticket.load(folders[0] / "round_00.npz")
    for kernel, a, b in zip(dense.entries, one.entries, two.entries, strict=True):
        size = np.abs(kernel.kernel)
        moved = size[a.mask != b.mask]
        assert np.abs(moved - size[a.mask].min()).max(initial=0) < 1e-6


def taken(dataset, first, count):
    parts = strategies.parts(dataset, 3, first, count)
    return [part.numpy().tolist() for part in parts]


def test_a_batch_is_split_in_order():
    batches = tf.data.Dataset.range(11).batch(7)
    assert taken(batches, 0, 1) == [[0, 1], [7]]
    assert taken(batches, 1, 2) == [[2, 3], [4, 5, 6], [8], [9, 10]]
    pairs = tf.data.Dataset.from_tensor_slices(({"a": [[1], [2], [3]]}, [4, 5, 6])).batch(3)
    (found,) = strategies.parts(pairs, 3, 1, 1)
    assert found[0]["a"].numpy().tolist() == [[2]] and found[1].numpy().tolist() == [5]


def test_a_batch_too_small_for_the_replicas_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="an example for each of the 3 rep"):
        taken(tf.data.Dataset.range(9).batch(7), 1, 1)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        strategies.check_batches(62, 20)
        with pytest.raises(ValueError, match="batch_size=20 makes a batch of 1 of 61 images"):
            strategies.check_batches(61, 20)
    strategies.check_batches(61, 20)


def test_xla_on_several_devices_is_refused():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        trainer = rst.RobustTrainer(small(), rst.Natural())
        with pytest.raises(ValueError, match="XLA cannot compile"):
            trainer.compile(jit_compile=True)


def test_one_device_is_not_several(monkeypatch):
    one = tf.distribute.MirroredStrategy(["CPU:0"])
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: one)
    with pytest.raises(ValueError, match=r"needs several devices; there is .*CPU:0"):
        strategies.scope("mirrored").__enter__()
    with pytest.raises(ValueError, match="received 'all'"):
        strategies.scope("all").__enter__()


def test_one_process_is_in_charge_and_shares_nothing(tmp_path):
    assert strategies.is_chief() and not strategies.several_workers()
    assert strategies.any_worker(True) is True and strategies.any_worker(False) is False
    strategies.check_same({"seed": 1})
    with strategies.folder_of_worker(tmp_path) as folder, strategies.exchange():
        assert folder == tmp_path


def test_a_strategy_of_one_device_gives_the_same_bits():
    """Momentum SGD then steps by one fused operation on the strategy's variables."""
    x, y = easy_data(16)
    found = []
    for scope in (contextlib.nullcontext(), tf.distribute.MirroredStrategy(["CPU:0"]).scope()):
        with scope:
            network = small()
            rst.initialize(network, 3)
            trainer = rst.RobustTrainer(network, rst.Natural())
            sgd = rst.optimizers.SGD(0.1, weight_decay=1e-3, nesterov=True).build(10)
            trainer.compile(sgd, jit_compile=False)
        before = network.variables[0].numpy()
        trainer.fit(x, y, batch_size=16, epochs=3, verbose=0, shuffle=False)
        assert (before != network.variables[0].numpy()).any()
        found.append([variable.numpy() for variable in network.variables])
    for alone, mirrored in zip(*found, strict=True):
        np.testing.assert_array_equal(alone, mirrored)
