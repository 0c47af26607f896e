"""Normalisations folded into the kernels before them: the same outputs, fewer layers at work."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, images
from test_models import SMALL, built, shape_for
from test_shrinking import stirred

import rst_tf as rst
from rst_tf.attacks.attacked import attacked
from rst_tf.folding import folded
from rst_tf.normalization import Normalization
from rst_tf.traversal import walk

NORMS = (Normalization, keras.layers.BatchNormalization)


def norms(model):
    """Normalisations that are at work on their own."""
    layers = list(walk(model))
    inside = {id(layer.norm) for layer in layers if hasattr(layer, "kernel_layer")}
    return [layer for layer in layers if isinstance(layer, NORMS) and id(layer) not in inside]


def check_equal(model, copy, x):
    expected = np.asarray(model(x))
    assert np.ptp(expected) > 1e-3  # else it would be no test
    np.testing.assert_allclose(copy(x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("architecture", SMALL, ids=lambda a: type(a).__name__)
def test_every_architecture_gives_the_same_logits(architecture):
    model = stirred(built(architecture))
    left = []
    for norm in norms(model):
        before = norm.input._keras_history.operation
        alone = len(before._outbound_nodes) == 1 and hasattr(before, "kernel")
        left += [] if alone else [norm.name]
    copy = folded(model)
    check_equal(model, copy, images(4, shape_for(architecture)))
    assert [norm.name for norm in norms(copy)] == left
    assert (copy is model) == (not norms(model))


class Own(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def relu(x):
    """Somebody's own function of a name that Keras knows."""
    return keras.ops.maximum(x, -1.0)


def convolution(x, norm=None, layer=None):
    x = (layer or keras.layers.Conv2D(4, 3))(x)
    return x, (norm or keras.layers.BatchNormalization())(x)


def half(x):
    return convolution(x, keras.layers.BatchNormalization(dtype="bfloat16"))[1]


def with_relu(x):
    return convolution(x, layer=keras.layers.Conv2D(4, 3, activation="relu"))[1]


def inner():
    return keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )


def model_of(make):
    image = keras.Input((12, 12, 3))
    return keras.Model(image, make(image))


FOLDED = {
    "convolution": lambda x: convolution(x)[1],
    "with a bias": lambda x: convolution(
        x, layer=keras.layers.Conv2D(4, 3, bias_initializer="normal")
    )[1],
    "depthwise": lambda x: convolution(
        x, layer=keras.layers.DepthwiseConv2D(3, depth_multiplier=2)
    )[1],
    "groups": lambda x: convolution(
        keras.layers.Concatenate()([x, x]), layer=keras.layers.Conv2D(4, 3, groups=2)
    )[1],
    "dense": lambda x: convolution(x, layer=keras.layers.Dense(5))[1],
    "one dimension": lambda x: convolution(
        keras.layers.Reshape((36, 12))(x), layer=keras.layers.Conv1D(4, 3)
    )[1],
    "no scale, no offset": lambda x: convolution(
        x, keras.layers.BatchNormalization(scale=False, center=False)
    )[1],
    "ours, not affine": lambda x: convolution(x, Normalization(affine=False))[1],
    "nested": lambda x: inner()(x),
    "before somebody's own layer": lambda x: Own()(convolution(x)[1]),
    "before a lambda": lambda x: keras.layers.Lambda(lambda y: 2 * y)(convolution(x)[1]),
    "before somebody's own relu": lambda x: keras.layers.Activation(relu)(convolution(x)[1]),
    "before a function of TensorFlow": lambda x: keras.layers.Activation(tf.nn.silu)(
        convolution(x)[1]
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded(name):
    model = stirred(model_of(FOLDED[name]))
    copy = folded(model)
    assert norms(model) and not norms(copy)
    check_equal(model, copy, images())


def shared_convolution(x):
    layer = keras.layers.Conv2D(3, 3, padding="same")
    return convolution(layer(x), layer=layer)[1]


def shared_norm(x):
    norm = keras.layers.BatchNormalization()
    return norm(keras.layers.Conv2D(3, 1)(norm(x)))


LEFT = {
    "read by others": lambda x: keras.layers.Add()(convolution(x)),
    "an output": lambda x: convolution(x),
    "shared convolution": shared_convolution,
    "shared normalisation": shared_norm,
    "an activation between": with_relu,
    "another axis": lambda x: convolution(x, keras.layers.BatchNormalization(axis=1))[1],
    "statistics of the batch": lambda x: keras.layers.BatchNormalization()(
        keras.layers.Conv2D(4, 3)(x), training=True
    ),
    "half precision": half,
    "a model inside that is told to train": lambda x: inner()(x, training=True),
    "a low-rank update": lambda x: convolution(x, layer=keras.layers.Dense(4, lora_rank=1))[1],
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_as_it_is(name):
    model = model_of(LEFT[name])
    assert folded(model) is model


def test_quantised_kernels_are_left():
    model = model_of(lambda x: convolution(x, layer=keras.layers.Dense(4))[1])
    model.quantize("int8")
    assert folded(model) is model


def test_the_policy_of_the_day_does_not_matter():
    model = stirred(model_of(FOLDED["convolution"]))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        check_equal(model, folded(model), images())
    finally:
        keras.config.set_dtype_policy("float32")


def test_weights_that_change_later_are_seen():
    model = stirred(model_of(FOLDED["convolution"]))
    copy = folded(model)
    stirred(model, seed=1)
    model.layers[1].kernel.assign(-model.layers[1].kernel)
    check_equal(model, copy, images())
    assert {id(v) for v in copy.variables} == {id(v) for v in model.variables}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_table(name):
    model, x = NETWORKS[name](), images()
    check_equal(model, folded(model), x)


def test_keras_applications():
    shape = (32, 32, 3)
    model = stirred(keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=5))
    copy = folded(rst.with_logits(model))
    assert len(norms(model)) == 52 and not norms(copy)
    check_equal(model, keras.Sequential([copy, keras.layers.Softmax()]), images(4, shape))


def test_attacks_climb_the_folded_network_and_are_judged_by_the_other():
    model = stirred(model_of(lambda x: keras.layers.Flatten()(FOLDED["convolution"](x))))
    found, x = attacked(rst.masked(model)), images()
    check_equal(model, found.climbed, x)
    np.testing.assert_array_equal(found.logits(x), model(x))
    assert (np.asarray(found.climbed(x)) != np.asarray(found.logits(x))).any()


def test_what_folding_gets_wrong_is_not_climbed(monkeypatch):
    """Whatever nobody thought of: the first images tell."""
    model = stirred(model_of(lambda x: keras.layers.Flatten()(FOLDED["convolution"](x))))
    auto = rst.AutoAttack(0.1, version="custom", attacks=("apgd-ce:steps=1",))
    attacker = auto.against(model, images())
    assert attacker.climbed is not attacker.logits
    other = stirred(model_of(lambda x: keras.layers.Flatten()(FOLDED["convolution"](x))), 1)
    monkeypatch.setattr("rst_tf.folding.folded", lambda model: other)
    attacker = auto.against(model, images())
    assert attacker.climbed is attacker.logits
