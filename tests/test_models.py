import dataclasses
import json

import numpy as np
import pytest
from networks import images

from rst_tf import baked, masked_kernels, models
from rst_tf.models import MLP, Conv, LeNet5
from rst_tf.registry import to_dict

# architecture, input shape: parameters (biases included) for 10 classes
COUNTS = [
    (MLP(), (28, 28, 1), 266_200),
    (MLP(use_bias=True), (28, 28, 1), 266_610),
    (LeNet5(), (28, 28, 1), 61_706),
    (Conv(depth=2), (32, 32, 3), 4_301_642),
    (Conv(depth=4), (32, 32, 3), 2_425_930),
    (Conv(depth=6), (32, 32, 3), 2_262_602),
    (Conv(depth=8), (32, 32, 3), 5_278_282),
]
SMALL = [MLP(hidden=(9,)), LeNet5(width=0.5), Conv(depth=2, width=0.05), Conv(4, 0.05, False)]


@pytest.mark.parametrize(("architecture", "shape", "count"), COUNTS, ids=lambda v: str(v)[:24])
def test_parameter_counts(architecture, shape, count):
    assert architecture.build(shape, 10).count_params() == count


# width 0.5: (kernel shapes by hand)
HALVES = {
    LeNet5(width=0.5): [(5, 5, 1, 3), (5, 5, 3, 8), (200, 60), (60, 42), (42, 10)],
    Conv(depth=2, width=0.5): [(3, 3, 1, 32), (3, 3, 32, 32), (6272, 128), (128, 128), (128, 10)],
    Conv(depth=4, width=0.01): [
        *[(3, 3, 1, 1), (3, 3, 1, 1), (3, 3, 1, 1), (3, 3, 1, 1)],
        *[(49, 3), (3, 3), (3, 10)],
    ],
}


@pytest.mark.parametrize("architecture", HALVES, ids=str)
def test_width_scales_every_layer_and_never_to_nothing(architecture):
    network = architecture.build((28, 28, 1), 10)
    kernels = [tuple(v.shape) for v in network.variables if v.name == "kernel"]
    assert kernels == HALVES[architecture]


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_every_layer_but_the_last_is_a_relu_and_biases_are_optional(architecture):
    network = architecture.build((16, 16, 2), 3)
    layers = [layer for layer in network.layers if layer.weights]
    names = [layer.activation.__name__ for layer in layers]
    assert names == ["relu"] * (len(layers) - 1) + ["linear"]
    wanted = to_dict(architecture).get("use_bias", True)
    assert {layer.use_bias for layer in layers} == {wanted}


def test_the_tables_have_every_registered_architecture():
    assert {type(a) for a in SMALL} == set(models.ARCHITECTURES.values())


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_masked_parts_give_the_same_network_with_masks(architecture):
    plain = architecture.build((16, 16, 2), 3)
    net = architecture.build((16, 16, 2), 3, models.masked_parts())
    assert len(masked_kernels(net)) == sum("kernel" in v.name for v in plain.variables)
    x = images(shape=(16, 16, 2))
    np.testing.assert_allclose(baked(net)(x), net(x), atol=1e-6)
    assert net(x).shape == (4, 3)


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_a_description_survives_json_and_builds_the_same(architecture):
    description = models.describe(architecture, (16, 16, 1), 3, granularity="filter")
    net = models.build(json.loads(json.dumps(description)))
    twin = architecture.build((16, 16, 1), 3, models.masked_parts(granularity="filter"))
    assert [(v.path, v.shape) for v in net.variables] == [(v.path, v.shape) for v in twin.variables]
    assert net.layers[1].get_config() == twin.layers[1].get_config()


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_every_field_is_a_plain_value(architecture):
    assert json.loads(json.dumps(to_dict(architecture)))["name"] in models.ARCHITECTURES
    assert dataclasses.replace(architecture) == architecture


REFUSED = {
    "too small for lenet": (lambda: LeNet5().build((8, 8, 1), 10), "at least 12x12; received"),
    "too small for conv": (lambda: Conv(8).build((8, 8, 1), 10), "halves the image 4 times"),
    "classes": (
        lambda: MLP().build((8, 8, 1), 1),
        "classes must be at least 2; received classes=1",
    ),
    "flat": (lambda: MLP().build((784,), 10), r"\(height, width, channels\); received"),
    "depth": (lambda: Conv(depth=3), "depth must be 2, 4, 6 or 8; received depth=3"),
    "width": (lambda: LeNet5(0).build((28, 28, 1), 10), "width must be above 0; received width=0"),
    "unknown": (
        lambda: models.build({"architecture": {"name": "lenet"}, "masks": {}}),
        "unknown network 'lenet'; did you mean 'lenet5'",
    ),
    "argument": (
        lambda: models.build({"architecture": {"name": "mlp", "depth": 3}, "masks": {}}),
        "network 'mlp' has no arguments .'depth'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
