"""A small robust network on real digits, and what reference AutoAttack did to it.

`fixtures/aa_digits_fixture.npz` holds 360 images of scikit-learn's digits (8 x 8, one channel),
the weights of a network trained with PGD at epsilon 0.15, random numbers that the reference drew,
and its results. Names end in `_s0`, `_s1`, `_s2` after the reference's seed.
"""

import functools
import pathlib

import keras
import numpy as np
import tensorflow as tf

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "aa_digits_fixture.npz"


@functools.cache
def fixture() -> dict[str, np.ndarray]:
    """All arrays of the fixture, read-only."""
    with np.load(FIXTURE, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """360 test images in [0, 1], float32 [360, 8, 8, 1], and their labels, int32."""
    return fixture()["x"], fixture()["y"].astype("int32")


@functools.cache
def attacked() -> tuple[np.ndarray, np.ndarray]:
    """The 352 images that the network classifies right, and their labels."""
    x, y = data()
    index = fixture()["attacked_idx"]
    return x[index], y[index]


EPSILON = 0.15


@functools.cache
def network() -> keras.Model:
    """The network that the reference attacked; it returns logits."""
    with tf.init_scope():  # also where a graph is being traced
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
                keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        model.set_weights([fixture()[f"w{i}"] for i in range(8)])
    return model
