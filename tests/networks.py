"""The table of networks that laws are tried on."""

import keras
import numpy as np


def functional():
    x = image = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    y = keras.layers.SeparableConv2D(8, 3, padding="same")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(5)(x))


def sequential():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            keras.layers.Reshape((36, 12)),
            keras.layers.Conv1D(6, 3, activation="relu"),
            keras.layers.EinsumDense("abc,cd->abd", (34, 7), bias_axes="d"),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )


def nested():
    body = keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()], name="body"
    )
    head = keras.Sequential(
        [keras.Input((400,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(5)], name="head"
    )
    image = keras.Input((12, 12, 3))
    return keras.Model(image, head(body(image)))


def shared():
    layer = keras.layers.Conv2D(3, 3, padding="same", activation="relu")
    image = keras.Input((12, 12, 3))
    x = keras.layers.Flatten()(layer(layer(image)))
    return keras.Model(image, keras.layers.Dense(5)(x))


def preprocessed():
    scale = keras.layers.Normalization()
    scale.adapt(np.linspace(0, 3, 600, dtype="float32").reshape(-1, 3))
    image = keras.Input((12, 12, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(2.0)(scale(image)))
    return keras.Model(image, keras.layers.Dense(5)(x))


def operations():
    """Keras operations between the layers, which are no layers themselves."""
    inputs = keras.Input((12, 12, 3))
    x, y = (keras.layers.Conv2D(4, 3, name=name)(inputs) for name in ("left", "right"))
    pooled = keras.ops.mean(keras.ops.relu(x + 2 * y), axis=(1, 2))
    return keras.Model(inputs, keras.layers.Dense(5)(pooled))


NETWORKS = {
    f.__name__: f for f in (functional, sequential, nested, shared, preprocessed, operations)
}


def images(n=4, shape=(12, 12, 3), seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (n, *shape)).astype("float32")


def small(units=16, inputs=(6, 6, 1), classes=4, **mask):
    """A masked two-layer network for laws about training."""
    from rst_tf import models

    return models.MLP(hidden=(units,), use_bias=True).build(
        inputs, classes, models.masked_parts(**mask)
    )


def easy_data(n=64, shape=(6, 6, 1), classes=4, seed=0):
    """Images whose class is their brightest quarter: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n).astype("int32")
    x = rng.uniform(0, 0.4, (n, *shape)).astype("float32")
    rows = np.array_split(np.arange(shape[0] * shape[1]), classes)
    flat = x.reshape(n, -1)
    for i, label in enumerate(y):
        flat[i, rows[label]] += 0.5
    return flat.reshape(n, *shape), y
