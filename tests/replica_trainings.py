"""Trainings whose results must not depend on the number of replicas.

As a program: `python replica_trainings.py STRATEGY FILE END KIND...` trains each kind; the first
worker stores what was left in FILE. Then END: `finish`; or the second worker dies (`die`) or gets
stuck (`stick`) in the middle of one more training.
"""

import os
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from networks import easy_data, small

import rst_tf as rst
from experiments._stepping import SteppingTrainer
from rst_tf import cluster, strategies

N, BATCH, SIZES = 63, 20, [7, 7, 6]  # the last batch of a pass has 3 images for 2 replicas


def plain():
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), dense])


def pruned():
    network = small()
    rst.initialize(network, 1)
    rst.Ticket.of(network).prune(0.4).apply(network)
    return network


def search():
    network = small(search=True, density=0.5)
    rst.initialize(network, 1)
    return network


def normalised():
    parts = rst.models.masked_parts()
    body = [parts.conv2d(4, 3), rst.Normalization(), keras.layers.ReLU()]
    head = [keras.layers.MaxPooling2D(), keras.layers.Flatten(), parts.dense(4)]
    network = keras.Sequential([keras.Input((6, 6, 1)), *body, *head])
    rst.initialize(network, 1)
    return network


KINDS = {
    "plain": plain,
    "pruned": pruned,
    "scaled": pruned,
    "grown": pruned,
    "search": search,
    "normalised": normalised,
}


def trained(kind, *callbacks):
    """Variables and measures, by name, after 20 steps under the current strategy."""
    x, y = easy_data(N)
    network, objective = KINDS[kind](), rst.Adversarial(rst.PGD(0.1, steps=3))
    inputs = x if kind == "plain" else {"image": x, "index": np.arange(N)}
    batches = tf.data.Dataset.from_tensor_slices((inputs, y)).batch(BATCH)
    if kind == "pruned":  # as an experiment does it
        trainer, steps, valid = SteppingTrainer(network, objective, seed=3), len(SIZES), None
        trainer.sizes = iter(SIZES)
    else:
        trainer, steps, valid = rst.RobustTrainer(network, objective, seed=3), sum(SIZES), batches
    optimizer = rst.optimizers.SGD(0.1, weight_decay=1e-3).build(100)
    if kind == "scaled":
        decayed = keras.optimizers.SGD(0.1, weight_decay=1e-3)
        optimizer = keras.optimizers.LossScaleOptimizer(decayed)
    if kind == "grown":
        bird = rst.FlyingBird(update_every=6, growth="momentum")
        callbacks = (*callbacks, rst.DynamicSparsity(bird, sum(SIZES)))
    trainer.compile(optimizer, jit_compile=False)  # compiling would take most of the time
    measures = trainer.fit(
        batches.repeat(5),
        steps_per_epoch=steps,
        validation_data=valid,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    ).history
    left = {f"{kind}/{i}": v.numpy() for i, v in enumerate(network.variables)}
    return left | {f"{kind}/{name}": np.array(values[-1]) for name, values in measures.items()}


class End(keras.callbacks.Callback):
    """Ends the second worker in the middle of a training."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1 and not strategies.is_chief():
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)


def main(strategy, file, end, *kinds):
    cluster.HEARTBEAT = 20.0 if end == "die" else cluster.HEARTBEAT
    with strategies.scope(strategy):
        left = {}
        for kind in kinds:
            left |= trained(kind)
        if strategies.is_chief():
            np.savez(file, **left)
        if end != "finish":
            cluster.PATIENCE = 3.0 if end == "stick" else cluster.PATIENCE
            trained("pruned", End(end))


if __name__ == "__main__":
    main(*sys.argv[1:])
