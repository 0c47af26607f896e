import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import images

from rst_tf import baked, initialize, masked_kernels, masks, models
from rst_tf.models import (
    MLP,
    VGG,
    Conv,
    ImageNetResNet,
    LeNet5,
    MobileNetV2,
    PreActResNet,
    ResNet,
    WideResNet,
)
from rst_tf.models._normalized import conv, depthwise_conv, max_pool_of_relu
from rst_tf.normalization import Normalization
from rst_tf.registry import to_dict
from rst_tf.traversal import trained_variables

# architecture, input shape: parameters (biases included) for 10 classes
COUNTS = [
    (MLP(), (28, 28, 1), 266_200),
    (MLP(use_bias=True), (28, 28, 1), 266_610),
    (LeNet5(), (28, 28, 1), 61_706),
    (Conv(depth=2), (32, 32, 3), 4_301_642),
    (Conv(depth=4), (32, 32, 3), 2_425_930),
    (Conv(depth=6), (32, 32, 3), 2_262_602),
    (Conv(depth=8), (32, 32, 3), 5_278_282),
    (PreActResNet(use_bias=True), (32, 32, 3), 11_172_170 + 2 * 3_904),  # Chen et al. (2022)
    (VGG(use_bias=True), (32, 32, 3), 14_715_584 + 5 * 4_224 + 10),
    (VGG(use_bias=True), (64, 64, 3), 14_715_584 + 5 * 4_224 + 10),
]
PLAIN = [MLP(hidden=(9,)), LeNet5(width=0.5), Conv(depth=2, width=0.05), Conv(4, 0.05, False)]
NORMALIZED = [
    ResNet(width=1 / 16),
    ResNet(50, 2.0, width=1 / 32, affine=False),
    ImageNetResNet(width=1 / 16, affine=False),
    PreActResNet(width=1 / 16),
    WideResNet(10, 1.5, width=1 / 4, affine=False),
    WideResNet(16, 1, width=1 / 16),  # one channel in two stages: equal numbers, but a stride
    VGG(11, width=1 / 16),
    VGG(11, width=1 / 16, use_bias=True),
    MobileNetV2(width=1 / 8, affine=False),
]
SMALL = PLAIN + NORMALIZED


def shape_for(architecture):
    return (32, 32, 2) if isinstance(architecture, VGG | ImageNetResNet) else (16, 16, 2)


def built(architecture, parts=None):
    return architecture.build(shape_for(architecture), 3, parts)


def pictures(architecture):
    return images(shape=shape_for(architecture))


def kernels_of(network):
    return [v for v in network.variables if v.name == "kernel"]


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


# architecture, input shape, classes: weights, convolutions (dense layers too), normalisations and
# their channels, as the published networks have them (Fu et al. 2021)
CIFAR, IMAGENET = ((32, 32, 3), 10), ((224, 224, 3), 1000)
GOLDEN = [
    (ResNet(18), *CIFAR, (11_164_352, 21, 20, 4_800)),
    (ResNet(18), (32, 32, 3), 100, (11_210_432, 21, 20, 4_800)),
    (ResNet(50), *CIFAR, (23_467_712, 54, 53, 26_560)),
    (ResNet(101), *CIFAR, (42_407_616, 105, 104, 52_672)),
    (PreActResNet(18), *CIFAR, (11_164_352, 21, 17, 3_904)),
    (WideResNet(34, 10), *CIFAR, (46_138_032, 35, 31, 11_216)),
    (WideResNet(34, 10), (32, 32, 3), 100, (46_195_632, 35, 31, 11_216)),
    (VGG(16), *CIFAR, (14_715_584, 14, 13, 4_224)),
    (VGG(11), *CIFAR, (9_222_848, 9, 8, 2_752)),
    (MobileNetV2(), *CIFAR, (2_261_824, 58, 57, 17_544)),
    (Conv(2, use_bias=False), *CIFAR, (4_300_992, 5, 0, 0)),
    (Conv(4, use_bias=False), *CIFAR, (2_425_024, 7, 0, 0)),
    (Conv(6, use_bias=False), *CIFAR, (2_261_184, 9, 0, 0)),
    (Conv(8, use_bias=False), *CIFAR, (5_275_840, 11, 0, 0)),
    (MLP(), (28, 28, 1), 10, (266_200, 3, 0, 0)),
    (ImageNetResNet(18), *IMAGENET, (11_678_912, 21, 20, 4_800)),
    (ImageNetResNet(34), *IMAGENET, (21_779_648, 37, 36, 8_512)),
    (ImageNetResNet(50), *IMAGENET, (25_502_912, 54, 53, 26_560)),
    (ImageNetResNet(101), *IMAGENET, (44_442_816, 105, 104, 52_672)),
    (ImageNetResNet(50, 2.0), *IMAGENET, (68_814_016, 54, 53, 34_112)),
    (ImageNetResNet(101, 2.0), *IMAGENET, (126_747_840, 105, 104, 68_928)),
]
LARGE = 25_000_000


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "golden"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[3][0] > LARGE)) for row in GOLDEN],
    ids=str,
)
def test_published_sizes(architecture, shape, classes, golden):
    network = architecture.build(shape, classes)
    sizes = [int(np.prod(v.shape)) for v in kernels_of(network)]
    normalisations = [la for la in network.layers if isinstance(la, Normalization)]
    channels = sum(la.moving_mean.shape[0] for la in normalisations)
    assert (sum(sizes), len(sizes), len(normalisations), channels) == golden
    others = sum(int(np.prod(v.shape)) for v in network.variables) - sum(sizes)
    assert others == (4 if normalisations else 0) * channels  # no bias anywhere


# architecture: weights kept in the published count at each density
KEPT = [
    (
        ResNet(18),
        {
            **{0.01: 111_653, 0.03: 334_937, 0.05: 558_228, 0.07: 781_512, 0.1: 1_116_445},
            **{0.15: 1_674_663, 0.2: 2_232_880, 0.3: 3_349_316, 0.4: 4_465_751, 0.5: 5_582_176},
            **{0.6: 6_698_621, 0.7: 7_815_056, 0.8: 8_931_493, 0.9: 10_047_928},
        },
    ),
    (
        WideResNet(34, 10),
        {0.01: 461_382, 0.05: 2_306_902, 0.1: 4_613_804, 0.2: 9_227_607, 0.5: 23_069_016},
    ),
    (ImageNetResNet(50), {0.05: 1_275_174, 0.1: 2_550_318, 0.2: 5_100_607}),
]


@pytest.mark.parametrize(
    ("architecture", "kept"),
    [pytest.param(*KEPT[0]), *(pytest.param(*row, marks=pytest.mark.slow) for row in KEPT[1:])],
    ids=str,
)
def test_published_numbers_of_kept_weights(architecture, kept):
    shape, classes = IMAGENET if isinstance(architecture, ImageNetResNet) else CIFAR
    sizes = [int(np.prod(v.shape)) for v in kernels_of(architecture.build(shape, classes))]
    assert {k: sum(masks.count(n, k, "rst") for n in sizes) for k in kept} == kept


# architecture, height of the image: heights after each layer that changes it
HEIGHTS = [
    (ResNet(width=1 / 64), 32, [32, 16, 8, 4]),
    (ResNet(50, width=1 / 64), 33, [33, 17, 9, 5]),
    (ImageNetResNet(width=1 / 64), 224, [112, 56, 28, 14, 7]),
    (PreActResNet(width=1 / 64), 32, [32, 16, 8, 4]),
    (WideResNet(10, 0.25), 32, [32, 16, 8]),
    (VGG(16, width=1 / 64), 32, [32, 16, 8, 4, 2, 1]),
    (MobileNetV2(width=1 / 16), 32, [32, 16, 8, 4]),
]


@pytest.mark.parametrize(("architecture", "height", "expected"), HEIGHTS, ids=str)
def test_where_a_network_halves_its_image(architecture, height, expected):
    network = architecture.build((height, height, 3), 10)
    outputs = [la.output.shape for la in network.layers[1:] if not la.name.endswith("_pad")]
    heights = [shape[1] for shape in outputs if len(shape) == 4]
    assert list(dict.fromkeys(heights)) == expected
    assert outputs[-1] == (None, 10)


# a block that strides: its layers, what each reads (padding left out), and who strides
BLOCKS = [
    (
        ResNet(width=1 / 64),
        "stage_2_block_1",
        "conv_1 < stage_1_block_2_relu; conv_1_norm < conv_1; conv_1_relu < conv_1_norm; "
        "conv_2 < conv_1_relu; conv_2_norm < conv_2; "
        "shortcut < stage_1_block_2_relu; shortcut_norm < shortcut; "
        "sum < shortcut_norm conv_2_norm; relu < sum",
        "conv_1 shortcut",
    ),
    (
        ImageNetResNet(50, width=1 / 64),
        "stage_3_block_1",
        "conv_1 < stage_2_block_4_relu; conv_1_norm < conv_1; conv_1_relu < conv_1_norm; "
        "conv_2 < conv_1_relu; conv_2_norm < conv_2; conv_2_relu < conv_2_norm; "
        "conv_3 < conv_2_relu; conv_3_norm < conv_3; "
        "shortcut < stage_2_block_4_relu; shortcut_norm < shortcut; "
        "sum < shortcut_norm conv_3_norm; relu < sum",
        "conv_2 shortcut",
    ),
    (
        WideResNet(16, 1),
        "stage_2_block_1",
        "conv_1_norm < stage_1_block_2_sum; conv_1_relu < conv_1_norm; conv_1 < conv_1_relu; "
        "conv_2_norm < conv_1; conv_2_relu < conv_2_norm; conv_2 < conv_2_relu; "
        "shortcut < conv_1_relu; sum < shortcut conv_2",
        "conv_1 shortcut",
    ),
    (
        PreActResNet(width=1 / 64),
        "stage_1_block_1",
        "conv_1_norm < stem; conv_1_relu < conv_1_norm; conv_1 < conv_1_relu; "
        "conv_2_norm < conv_1; conv_2_relu < conv_2_norm; conv_2 < conv_2_relu; "
        "sum < stem conv_2",
        "",
    ),
    (
        MobileNetV2(width=1 / 8),
        "stage_5_block_1",
        "expand < stage_4_block_4_sum; expand_norm < expand; expand_relu < expand_norm; "
        "depthwise < expand_relu; depthwise_norm < depthwise; depthwise_relu < depthwise_norm; "
        "project < depthwise_relu; project_norm < project; "
        "shortcut < stage_4_block_4_sum; shortcut_norm < shortcut; "
        "sum < shortcut_norm project_norm",
        "",
    ),
    (
        MobileNetV2(width=1 / 8),
        "stage_6_block_1",
        "expand < stage_5_block_3_sum; expand_norm < expand; expand_relu < expand_norm; "
        "depthwise < expand_relu; depthwise_norm < depthwise; depthwise_relu < depthwise_norm; "
        "project < depthwise_relu; project_norm < project",
        "depthwise",
    ),
]


def read_by(network):
    """The names of the layers that each layer reads, through any padding."""
    config = network.get_config()["layers"]
    reads = {
        la["name"]: [t["config"]["keras_history"][0] for t in tensors(la["inbound_nodes"])]
        for la in config
    }
    padding = {name: reads[name][0] for name in reads if name.endswith("_pad")}
    return {n: [padding.get(r, r) for r in found] for n, found in reads.items() if n not in padding}


def tensors(nodes):
    if isinstance(nodes, dict) and nodes.get("class_name") == "__keras_tensor__":
        yield nodes
    elif isinstance(nodes, dict | list | tuple):
        for part in nodes.values() if isinstance(nodes, dict) else nodes:
            yield from tensors(part)


@pytest.mark.parametrize(("architecture", "block", "wires", "strided"), BLOCKS, ids=str)
def test_blocks_are_wired_as_published(architecture, block, wires, strided):
    network = architecture.build((64, 64, 3), 10)
    found = {
        name.removeprefix(f"{block}_"): [r.removeprefix(f"{block}_") for r in reads]
        for name, reads in read_by(network).items()
        if name.startswith(f"{block}_")
    }
    rows = (row.split(" < ") for row in wires.split("; "))
    assert found == {name: reads.split() for name, reads in rows}
    layers = [network.get_layer(f"{block}_{name}") for name in found]
    strides = {la.name.removeprefix(f"{block}_") for la in layers if stride_of(la) == (2, 2)}
    assert strides == set(strided.split())


def stride_of(layer):
    return tuple(getattr(layer, "strides", (1, 1)))


RAMP = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)


PARTS = models.Layers(
    keras.layers.Dense,
    functools.partial(keras.layers.Conv2D, kernel_initializer="ones"),
    functools.partial(keras.layers.DepthwiseConv2D, depthwise_initializer="ones"),
    Normalization,
    keras.layers.ReLU,
)
# by hand on 0..15 in four rows, ones as kernel: PyTorch's padding of size // 2 on every side
PADDED = {
    "3x3": (lambda x: conv(x, PARTS, 1, 3, "c", 2), [[10, 24], [51, 90]]),
    "3x3, stride 1": (lambda x: conv(x, PARTS, 1, 3, "c")[:, ::3, ::3], [[10, 18], [42, 50]]),
    "1x1": (lambda x: conv(x, PARTS, 1, 1, "c", 2), [[0, 2], [8, 10]]),
    "7x7": (lambda x: conv(x, PARTS, 1, 7, "c", 2), [[120, 120], [120, 120]]),
    "depthwise": (lambda x: depthwise_conv(x, PARTS, 3, "c", 2), [[10, 24], [51, 90]]),
    "pooling": (lambda x: max_pool_of_relu(x, "p"), [[5, 7], [13, 15]]),
}


@pytest.mark.parametrize("name", PADDED)
def test_strides_pad_on_every_side_alike(name):
    call, expected = PADDED[name]
    np.testing.assert_array_equal(np.squeeze(call(RAMP)), expected)


@pytest.mark.parametrize("architecture", NORMALIZED, ids=str)
def test_a_search_reaches_every_layer_and_trains_no_other_weight(architecture):
    parts = models.masked_parts(search=True, density=0.5, count="rst")
    network = built(architecture, parts)
    initialize(network, 0, "signed_constant")
    x = pictures(architecture)
    with tf.GradientTape() as tape:
        logits = network(x, training=True)
        loss = keras.losses.sparse_categorical_crossentropy(
            np.array([0, 1, 2, 0]), logits, from_logits=True
        )
    scores = trained_variables(network)
    assert len(scores) == len(masked_kernels(network))
    for variable, gradient in zip(scores, tape.gradient(loss, scores), strict=True):
        assert np.isfinite(gradient).all() and np.any(gradient), variable.path
    own = {id(s) for s in scores}
    rest = {v.name for v in network.trainable_variables if id(v) not in own}
    assert rest == ({"gamma", "beta"} if architecture.affine else set())


# every architecture makes its own first layer; the classifier is made in fewer places
ENDS = [(a, "first") for a in SMALL] + [(a, "last") for a in SMALL[:5]]


@pytest.mark.parametrize(("architecture", "end"), ENDS, ids=str)
def test_the_first_or_the_last_layer_can_stay_dense(architecture, end):
    options = {"search": True, "density": 0.3, f"dense_{end}": True}
    network = built(architecture, models.masked_parts(**options))
    kernels = masked_kernels(network)
    left = kernels[0 if end == "first" else -1]
    assert kernels[-1].name == "output/kernel"
    assert [m.name for m in kernels if m.scores is None] == [left.name]
    assert np.all(left.mask == 1)


def test_a_search_by_filter_keeps_every_class():
    parts = models.masked_parts(search=True, density=0.3, granularity="filter")
    hidden, last = masked_kernels(MLP(hidden=(9,)).build((4, 4, 1), 5, parts))
    assert (hidden.mask.shape, last.mask.shape) == ((1, 9), (9, 5))
    assert (hidden.kept, last.kept) == (3, 14)


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_channel_constants_are_part_of_the_network(architecture, tmp_path):
    mean, std = (0.25, 0.5), (0.5, 0.125)
    network = built(dataclasses.replace(architecture, mean=mean, std=std), models.masked_parts())
    initialize(network, 1, "kaiming_normal")
    x, channels = pictures(architecture), network.get_layer("channels")
    assert [name for name, reads in read_by(network).items() if "image" in reads] == ["channels"]
    expected = (x - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(channels(x), expected, atol=1e-6)
    network.save(tmp_path / "n.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "n.keras")(x), network(x))


@pytest.mark.parametrize("architecture", PLAIN, ids=str)
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
    plain, net = built(architecture), built(architecture, models.masked_parts())
    assert len(masked_kernels(net)) == len(kernels_of(plain))
    weights = {v.path: v for v in plain.variables}
    for variable in net.variables:
        if variable.name != "mask":
            variable.assign(weights.pop(variable.path))
    assert not weights
    x = pictures(architecture)
    np.testing.assert_array_equal(net(x), plain(x))
    np.testing.assert_allclose(baked(net)(x), net(x), atol=1e-6)
    assert net(x).shape == (4, 3)


@pytest.mark.parametrize("architecture", SMALL, ids=str)
def test_a_description_survives_json_and_builds_the_same(architecture):
    shape = shape_for(architecture)
    description = models.describe(architecture, shape, 3, granularity="filter")
    net = models.build(json.loads(json.dumps(description)))
    twin = built(architecture, models.masked_parts(granularity="filter"))
    assert [(v.path, v.shape) for v in net.variables] == [(v.path, v.shape) for v in twin.variables]
    configs = [[layer.get_config() for layer in n.layers] for n in (net, twin)]
    assert configs[0] == configs[1]


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
    "too small for resnet": (
        lambda: ResNet().build((7, 32, 3), 10),
        r"resnet halves the image 3 times; received \(7, 32\)",
    ),
    "too small for the ImageNet kind": (
        lambda: ImageNetResNet().build((31, 31, 3), 10),
        "imagenet_resnet halves the image 5 times; received",
    ),
    "resnet's depth": (
        lambda: ResNet(20),
        "depth must be 18, 34, 50, 101 or 152; received depth=20",
    ),
    "preact's depth": (lambda: PreActResNet(50), "depth must be 18 or 34; received depth=50"),
    "vgg's depth": (lambda: VGG(12), "depth must be 11, 13, 16 or 19; received depth=12"),
    "wide depth": (lambda: WideResNet(32), r"depth must be 6n \+ 4: .*; received depth=32"),
    "shallow": (lambda: WideResNet(4), r"depth must be 6n \+ 4: .*; received depth=4"),
    "widen": (lambda: WideResNet(widen=0), "widen must be above 0; received widen=0"),
    "no bottleneck": (
        lambda: ImageNetResNet(34, 2.0),
        "no effect at depth 34, which has no bottlenecks; received bottleneck_width=2.0",
    ),
    "bottleneck": (lambda: ResNet(50, -1), "must be above 0; received bottleneck_width=-1"),
    "mean alone": (lambda: MLP(mean=(0.5,)), r"given together.*mean=\(0.5,\) and std=\(\)"),
    "std": (lambda: VGG(mean=(0.5,), std=(0,)), r"std must be above 0; received std=\(0,\)"),
    "channels": (
        lambda: MLP(mean=(0.5, 0.5), std=(1, 1)).build((8, 8, 3), 10),
        r"one for each of 3 channels; received mean=\(0.5, 0.5\)",
    ),
    "dense first": (
        lambda: models.masked_parts(dense_first=True),
        "dense_first has an effect only with search=True; received dense_first=True",
    ),
    "width of resnet": (
        lambda: ResNet(width=0).build((8, 8, 3), 9),
        "width must be above 0; received width=0",
    ),
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
