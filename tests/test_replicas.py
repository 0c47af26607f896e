"""One and two replicas train and test alike (two logical CPUs, batches of 11 and 10 examples)."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAM = """
import conftest
conftest.pytest_configure(None)
import keras, numpy as np, tensorflow as tf, rst_tf as rst
from networks import easy_data, small

x, y = easy_data(70)

def regularised():
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), dense])

def trained(strategy, kind):
    with strategy.scope():
        if kind == "plain batches":
            network = regularised()
        else:
            network = small(**({"search": True, "density": 0.5} if kind == "search" else {}))
            rst.initialize(network, 1)
        if kind == "pruned":
            rst.Ticket.of(network).prune(0.4).apply(network)
        trainer = rst.RobustTrainer(network, rst.Adversarial(rst.PGD(0.1, steps=3)), seed=3)
        decayed = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, weight_decay=1e-3))
        plain = rst.optimizers.SGD(0.1, weight_decay=1e-3).build(100)
        trainer.compile(decayed if kind == "pruned" else plain)
    data = ({"image": x, "index": np.arange(70)} if kind != "plain batches" else x, y)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(21)
    history = trainer.fit(batches.repeat(5), steps_per_epoch=20, verbose=0, shuffle=False).history
    tested = trainer.evaluate(batches, verbose=0)
    return [v.numpy() for v in network.variables], [*history.values(), tested]

alone, one = trained(tf.distribute.get_strategy(), KIND)
together, two = trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), KIND)
print(max(float(abs(a - b).max()) for a, b in zip(alone, together)))
print(max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(one, two)))
"""


@pytest.mark.parametrize("kind", ["pruned", "search", "plain batches"])
def test_two_replicas_agree_with_one_after_20_steps(kind):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("KIND", repr(kind))],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights, measures = map(float, done.stdout.split()[-2:])
    assert weights < 1e-5 and measures < 1e-5
