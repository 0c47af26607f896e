"""Normalisations folded into the kernels before them: the same outputs, fewer layers at work."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, images
from test_models import SMALL, built, shape_for
from test_shrinking import stirred

import rst_tf as rst
from rst_tf.attacks.attacked import attacked
from rst_tf.normalization import Normalization
from rst_tf.traversal import walk

NORMS = (Normalization, keras.layers.BatchNormalization)


def norms(model):
    return [layer for layer in walk(model) if isinstance(layer, NORMS)]


def check_equal(model, copy, x):
    expected = np.asarray(model(x))
    assert np.ptp(expected) > 1e-3  # else it would be no test
    np.testing.assert_allclose(copy(x), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("architecture", SMALL, ids=lambda a: type(a).__name__)
def test_every_architecture_gives_the_same_logits(architecture):
    model = stirred(built(architecture))
    copy = rst.folded(model)
    check_equal(model, copy, images(4, shape_for(architecture)))
    for norm in norms(copy):  # what is left stands before its convolution
        before = norm.input._keras_history.operation
        assert not isinstance(before, keras.layers.Conv2D) or len(before._outbound_nodes) > 1
    assert not norms(model) or len(norms(copy)) < len(norms(model))
    assert (copy is model) == (not norms(model))


def convolution(x, norm=None, layer=None):
    x = (layer or keras.layers.Conv2D(4, 3))(x)
    return x, (norm or keras.layers.BatchNormalization())(x)


def half(x):
    return convolution(x, keras.layers.BatchNormalization(dtype="bfloat16"))[1]


def with_relu(x):
    return convolution(x, layer=keras.layers.Conv2D(4, 3, activation="relu"))[1]


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
    "nested": lambda x: keras.Sequential(
        [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()]
    )(x),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded(name):
    model = stirred(model_of(FOLDED[name]))
    copy = rst.folded(model)
    assert norms(model) and not norms(copy)
    check_equal(model, copy, images())


class Own(keras.layers.Layer):
    def call(self, x):
        return 2 * x


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
    "somebody's own layer": lambda x: Own()(convolution(x)[1]),
    "a lambda": lambda x: keras.layers.Lambda(lambda y: 2 * y)(convolution(x)[1]),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_as_it_is(name):
    model = model_of(LEFT[name])
    assert rst.folded(model) is model


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_table(name):
    model, x = NETWORKS[name](), images()
    check_equal(model, rst.folded(model), x)


def test_keras_applications():
    shape = (32, 32, 3)
    model = stirred(keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=5))
    copy = rst.folded(rst.with_logits(model))
    assert len(norms(model)) == 52 and not norms(copy)
    check_equal(model, keras.Sequential([copy, keras.layers.Softmax()]), images(4, shape))


def test_attacks_climb_the_folded_network_and_are_judged_by_the_other():
    model = stirred(model_of(lambda x: keras.layers.Flatten()(FOLDED["convolution"](x))))
    found, x = attacked(rst.masked(model)), images()
    check_equal(model, found.climbed, x)
    np.testing.assert_array_equal(found.logits(x), model(x))
    assert (np.asarray(found.climbed(x)) != np.asarray(found.logits(x))).any()
