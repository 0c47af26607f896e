"""Multiply-adds of one image: known networks, TensorFlow's own count, and what masks leave."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS
from tensorflow.python.profiler import model_analyzer, option_builder
from test_models import SMALL, built, shape_for

import rst_tf as rst
from rst_tf import models
from rst_tf.ticket import Ticket

GOLDEN = [  # the birds' specification, 6; its 64 pixels are those of 200 classes
    (models.ResNet(), 32, 10, 0.5554),
    (models.PreActResNet(), 32, 10, 0.5554),
    (models.PreActResNet(), 64, 200, 2.2218),
    (models.VGG(), 32, 10, 0.3132),
    pytest.param(models.WideResNet(), 32, 10, 6.659, marks=pytest.mark.slow),
]
BY_HAND = {  # of 12x12x3 images, layer by layer
    "functional": [25 * 27 * 8, 25 * 9 * 8, 25 * 8 * 8, 9 * 9 * 16, 9 * 16 * 5],
    "sequential": [34 * 3 * 12 * 6, 34 * 6 * 7, 34 * 7 * 5],
    "nested": [100 * 27 * 4, 400 * 6, 6 * 5],
    "shared": [2 * 144 * 27 * 3, 432 * 5],
    "preprocessed": [432 * 5],
}


def by_tensorflow(model, shape):
    """Floating-point operations of the products, as TensorFlow's profiler counts them."""
    run = tf.function(lambda x: model(x, training=False))
    graph = run.get_concrete_function(tf.TensorSpec((1, *shape))).graph
    options = option_builder.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    nodes = model_analyzer.profile(graph, options=options, cmd="op").children
    found = 0
    while nodes:
        for node in nodes:
            known = node.name in ("Conv2D", "DepthwiseConv2dNative", "MatMul")
            found += node.float_ops if known else 0
        nodes = [child for node in nodes for child in node.children]
    return found


class Subclassed(keras.Model):
    """Calls a dense layer at every place of the image, and another one twice."""

    def __init__(self):
        super().__init__()
        self.body, self.twice = keras.layers.Dense(4), keras.layers.Dense(4)

    def call(self, x):
        return keras.ops.mean(self.twice(self.twice(self.body(x))), axis=(1, 2))


@pytest.mark.parametrize("architecture, side, classes, giga", GOLDEN, ids=str)
def test_known_networks(architecture, side, classes, giga):
    found = rst.operations(architecture.build((side, side, 3), classes))
    assert round(found.dense / 1e9, 3 if giga > 6 else 4) == giga
    assert not found.uncounted


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_is_half_of_what_tensorflow_counts(architecture):
    model = built(architecture)
    assert 2 * rst.operations(model).dense == by_tensorflow(model, shape_for(architecture)) > 0


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("change", [lambda model: model, rst.masked], ids=["plain", "masked"])
def test_every_layer_and_every_call_counts(name, change):
    found = rst.operations(change(NETWORKS[name]()))
    assert [layer.dense for layer in found.layers] == BY_HAND[name]


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("granularity", ["element", "filter"])
def test_masked_and_baked_networks_keep_as_many(name, granularity):
    network = rst.masked(NETWORKS[name](), granularity=granularity)
    before = rst.operations(network)
    Ticket.of(network).prune(0.4).apply(network)
    found, baked = rst.operations(network), rst.operations(rst.baked(network))
    assert before.recounted(network) == found != before
    assert 0.2 < found.fraction < 0.6 and found.fraction == found.sparse / found.dense
    assert [e.kept for e in found.layers] == [e.kept for e in baked.layers]
    assert found.sparse == baked.sparse and found.dense == baked.dense
    assert sum(e.kept for e in found.layers) == Ticket.of(network).kept


def test_subclassed_models_say_nothing_of_their_images_but_count():
    model = Subclassed()
    with pytest.raises(ValueError, match="is not built"):
        rst.operations(model)
    model(np.zeros((1, 6, 5, 3)))
    found = rst.operations(model, (6, 5, 3))
    assert [layer.dense for layer in found.layers] == [30 * 12, 2 * 30 * 16]


def test_images_of_any_size_need_one():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3)(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError, match="image_shape is needed, for model"):
        rst.operations(model)
    assert rst.operations(model, (5, 7, 3)).dense == 3 * 5 * 54


def test_what_is_not_counted_is_said():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2DTranspose(2, 3, name="up")]
        + [keras.layers.Flatten(), keras.layers.Dense(2, name="head")]
    )
    found = rst.operations(model)
    assert [layer.kernel for layer in found.layers] == ["head/kernel"]
    assert str(found).endswith("/up/kernel") and "\nnot counted: " in str(found)


def test_the_model_is_left_as_it_was_and_the_table_sums_up():
    network = models.MLP(hidden=(7,)).build((4, 4, 1), 3, models.masked_parts())
    lines = str(rst.operations(network)).splitlines()
    assert lines[-2].split() == ["total", "133", "133"]
    assert lines[-1] == "multiply-adds of one image: 1.33e-07 G of 1.33e-07 G (1)"
    assert all("call" not in vars(layer) for layer in network.layers)
    assert rst.operations(network) == rst.operations(network)
