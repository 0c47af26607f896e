"""Channel pruning: which channels can go, that exactly these go, and that they stay away."""

import keras
import numpy as np
import pytest
from networks import images

import rst_tf as rst
from rst_tf.channels import (
    check_pruned,
    kept_channels,
    prunable_channels,
    prune_channels,
    remove_channels,
)
from rst_tf.masks import count
from rst_tf.models import MLP, VGG, MobileNetV2, PreActResNet, ResNet, WideResNet, masked_parts
from rst_tf.objectives import Adversarial
from rst_tf.optimizers import SGD, Adam

layers = keras.layers
SHAPE = (32, 32, 3)


def plain():
    """Keras' own layers, biases, Flatten, a nested model."""
    tail = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(6, 3, name="inside"),
            layers.BatchNormalization(name="inside_norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5, name="last"),
        ]
    )
    image = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="first_norm")(x)
    x = layers.Activation("relu")(x)
    x = layers.Dropout(0.0)(layers.AveragePooling2D(4)(x))
    x = layers.Conv2D(4, 3, padding="same", name="second")(x)
    return rst.masked(keras.Model(image, tail(x)))


def built(architecture, **mask):
    return lambda: architecture.build(SHAPE, 5, masked_parts(**mask))


NETWORKS = {
    "resnet": built(ResNet(18, width=0.06)),
    "preact": built(PreActResNet(18, width=0.06)),
    "wide": built(WideResNet(10, 0.4)),
    "vgg": built(VGG(11, width=0.08)),
    "filters": built(VGG(11, width=0.08), granularity="filter"),
    "plain": plain,
}


def inner(*convolutions, stages=4, blocks=2):
    """The inner convolutions of all blocks."""
    return [
        f"stage_{stage}_block_{block}_conv_{conv}"
        for stage in range(1, stages + 1)
        for block in range(1, blocks + 1)
        for conv in convolutions
    ]


VGG11 = [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (5, 2)]
PRUNABLE = {
    "resnet": inner(1),
    "preact": inner(1),
    "wide": ["stem", *inner(1, stages=3, blocks=1)],  # shortcuts alone read this stem
    "vgg": [f"group_{group}_conv_{conv}" for group, conv in VGG11],
    "plain": ["first", "inside"],
}


def network(name, seed=0):
    """A network of the table whose normalisations are not as they begin."""
    found = NETWORKS[name]()
    rst.initialize(found, seed)
    rng = np.random.default_rng(seed)
    for variable in found.weights:
        if variable.name in ("gamma", "beta", "bias", "moving_mean"):
            variable.assign(rng.normal(size=variable.shape))
    return found


def outputs(model, training=False):
    return np.asarray(model(images(6, SHAPE), training=training))


every_network = pytest.mark.parametrize("name", NETWORKS)


# ---------------------------------------------------------------- which


@pytest.mark.parametrize("name", PRUNABLE)
def test_what_a_sum_reads_stays_and_the_rest_can_go(name):
    found = prunable_channels(NETWORKS[name]())
    assert [channels.kernel.layer.name for channels in found] == PRUNABLE[name]


@pytest.mark.parametrize("name", ["resnet", "preact", "vgg", "plain"])
def test_the_normalisation_and_the_readers_are_those_behind(name):
    following = {
        "resnet": ("stage_2_block_1_conv_1", "_norm", ["stage_2_block_1_conv_2"]),
        "preact": ("stage_2_block_1_conv_1", "", ["stage_2_block_1_conv_2"]),
        "vgg": ("group_5_conv_2", "_norm", ["output"]),
        "plain": ("first", "_norm", ["second"]),
    }
    own, ending, readers = following[name]
    norm = own + ending if ending else "stage_2_block_1_conv_2_norm"
    found = {each.kernel.layer.name: each for each in prunable_channels(NETWORKS[name]())}[own]
    assert found.normalization.name == norm
    assert [reader.layer.name for reader in found.readers] == readers


def ending(*between, norm=None, readers=1, leaves=False, before=()):
    """conv, normalisation, ReLU or what stands for them, then dense layers."""

    def build():
        image = x = keras.Input((8, 8, 3))
        for layer in before:
            x = layer()(x)
        x = layers.Conv2D(4, 3, padding="same")(x)
        x = (norm or layers.BatchNormalization)()(x)
        for layer in between:
            x = layer()(x)
        pooled = layers.GlobalAveragePooling2D()(x)
        ends = [layers.Dense(2)(pooled) for _ in range(readers)]
        return rst.masked(keras.Model(image, [*ends, pooled] if leaves else ends))

    return build


def summed():
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(rst.MaskedConv2D(4, 3, padding="same")(image))
    x = layers.ReLU()(x)
    y = rst.MaskedConv2D(4, 3, padding="same")(x)
    z = layers.Flatten()(x + y)  # no layer, but an operation of the graph
    return keras.Model(image, rst.MaskedDense(2)(z))


def shared():
    conv = layers.Conv2D(3, 3, padding="same")
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(conv(conv(image))))
    return rst.masked(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))


def no_offset():
    return layers.BatchNormalization(center=False)


def nothing():
    return layers.Dropout(0.1)


def leaky():
    return layers.ReLU(negative_slope=0.1)


def leaky_function(x):
    return keras.activations.relu(x, negative_slope=0.1)


class Relu(keras.Operation):
    """Not that of Keras."""

    def call(self, x):
        return keras.ops.relu(x) + 1

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


STAY = {
    "by an operation of one's own": ending(Relu),
    "read by a sum": summed,
    "of a layer called twice": shared,
    "without a ReLU": ending(),
    "leaky": ending(leaky),
    "leaky, by a function": ending(lambda: leaky_function),
    "a sigmoid": ending(lambda: layers.Activation("sigmoid")),
    "without an offset": ending(layers.ReLU, norm=no_offset),
    "without normalisation": ending(layers.ReLU, norm=nothing),
    "what the model gives": ending(layers.ReLU, leaves=True),
    "read by a depthwise layer": ending(layers.ReLU, lambda: layers.DepthwiseConv2D(3)),
    "read by a grouped layer": ending(layers.ReLU, lambda: layers.Conv2D(4, 3, groups=2)),
    "rescaled": ending(layers.ReLU, lambda: layers.Rescaling(2.0, 1.0)),
}


@pytest.mark.parametrize("name", STAY)
def test_channels_that_have_to_stay(name):
    assert not prunable_channels(STAY[name]())


GO = {
    "read twice": ending(layers.ReLU, readers=2),
    "activated": ending(layers.ReLU),
    "by an operation": ending(lambda: keras.ops.relu),
    "by a function": ending(lambda: keras.activations.relu),
}


@pytest.mark.parametrize("name", GO)
def test_the_same_without_the_obstacle_can_go(name):
    assert len(prunable_channels(GO[name]())) == 1


# ---------------------------------------------------------------- how many, and which of them

DENSITIES = (0.001, 0.4, 1.0)


@every_network
@pytest.mark.parametrize("density", DENSITIES)
def test_the_largest_scales_are_kept_and_one_of_every_layer(name, density):
    found = network(name)
    channels, kept = prunable_channels(found), kept_channels(found, density)
    scales = [np.abs(each.normalization.gamma.numpy()) for each in channels]
    largest = [scale == scale.max() for scale in scales]
    total = sum(keep.sum() for keep in kept)
    assert total == max(count(sum(map(len, scales)), density), len(channels))
    assert all((keep | ~top).all() for keep, top in zip(kept, largest, strict=True))
    pairs = list(zip(scales, kept, largest, strict=True))
    gone = max((s[~keep].max(initial=0) for s, keep, _ in pairs))
    assert gone <= min(s[keep & ~top].min(initial=np.inf) for s, keep, top in pairs)


@every_network
@pytest.mark.parametrize("density", DENSITIES)
def test_the_largest_filters_of_each_layer_are_kept(name, density):
    found = network(name)
    kept = kept_channels(found, density, "filter")
    for channels, keep in zip(prunable_channels(found), kept, strict=True):
        norms = np.abs(channels.kernel.kernel.numpy()).sum(axis=(0, 1, 2))
        assert keep.sum() == count(channels.number, density)
        assert norms[keep].min() >= norms[~keep].max(initial=0)


# ---------------------------------------------------------------- gone


@every_network
def test_pruned_channels_are_zero_and_nothing_else_is(name):
    found = network(name)
    kept = kept_channels(found, 0.5)
    remove_channels(found, kept)
    masked = {id(m): np.ones(m.mask.shape, bool) for m in rst.masked_kernels(found)}
    for channels, keep in zip(prunable_channels(found), kept, strict=True):
        assert np.array_equal(channels.pruned, ~keep)
        for variable in channels.zeroed:
            assert np.array_equal(variable.numpy() != 0, keep)
    for channels, keep in zip(prunable_channels(found), kept, strict=True):
        by_name = {id(m.mask): m for m in rst.masked_kernels(found)}
        masked[id(by_name[id(channels.kernel.mask)])] &= keep
        for reader in channels.readers:
            if (
                name != "filters" or reader.layer.name == "output"
            ):  # whose mask is element by element
                rows = np.tile(keep, reader.shape[-2] // channels.number)
                masked[id(by_name[id(reader.mask)])] &= rows[:, None]
    for m in rst.masked_kernels(found):
        assert np.array_equal(m.mask.numpy() > 0, masked[id(m)])


def other_weights(found):
    """In the filters of pruned channels, and in all that reads them."""
    for masked in rst.masked_kernels(found):
        masked.kernel.assign(np.where(masked.mask.numpy() > 0, masked.kernel.numpy(), 7.0))


def no_masks(found):
    """Only the zeros of normalisation are left."""
    for masked in rst.masked_kernels(found):
        masked.mask.assign(np.ones(masked.mask.shape))


@every_network
@pytest.mark.parametrize("change", [other_weights, no_masks])
@pytest.mark.parametrize("training", [False, True])
def test_a_pruned_channel_says_nothing_and_nobody_listens(name, change, training):
    """The same outputs, bit by bit."""
    found = network(name)
    prune_channels(found, 0.5)
    before = outputs(found, training)
    change(found)
    assert before.std() > 0 and np.array_equal(outputs(found, training), before)


@every_network
@pytest.mark.parametrize("density", [0.001, 0.5])
def test_what_is_left_is_a_smaller_dense_network(name, density):
    """Its kernels have just the weights that the masks keep: no mask is needed any more."""
    found = network(name)
    prune_channels(found, density)
    small = rst.shrunk(found)
    np.testing.assert_allclose(outputs(small), outputs(found), rtol=1e-5, atol=1e-5)
    weights = sum(int(np.prod(v.shape)) for v in small.weights if len(v.shape) > 1)
    dense = sum(int(np.prod(m.shape)) for m in rst.masked_kernels(found))
    assert weights < dense
    if name not in ("filters", "plain"):  # a mask of filters, a nested model that stays as it is
        assert weights == rst.Ticket.of(found).kept


OPTIMIZERS = [
    SGD(0.05, weight_decay=0.1, nesterov=True),
    Adam(0.01, weight_decay=0.1),
    Adam(0.01, weight_decay=0.1, decay="coupled"),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", ["filters", "plain"])
def test_pruned_channels_stay_exactly_zero_in_training(name, optimizer):
    found = network(name)
    prune_channels(found, 0.5)
    rest = {v.path: v.numpy() for v in found.trainable_variables}
    trainer = rst.RobustTrainer(found, Adversarial(rst.PGD(0.03, steps=1), norm_mode="update"))
    trainer.compile(optimizer.build(3), jit_compile=False)
    trainer.fit(images(12, SHAPE), np.arange(12) % 5, batch_size=4, verbose=0)
    check_pruned(found)
    for channels in prunable_channels(found):
        for variable in channels.zeroed:
            assert not variable.numpy()[channels.pruned].any()
            moved = variable.numpy() != rest[variable.path]
            assert moved[~channels.pruned].any() and not moved[channels.pruned].any()


@pytest.mark.parametrize("kind", ["gamma", "beta", "bias"])
def test_one_that_came_alive_is_said(kind):
    found = network("plain")
    prune_channels(found, 0.5)
    (first, _) = prunable_channels(found)
    place = np.flatnonzero(first.pruned)[0]
    variable = {v.name: v for v in first.zeroed}[kind]
    value = variable.numpy()
    value[place] = 1e-30
    variable.assign(value)
    with pytest.raises(FloatingPointError, match=f"{variable.path} moved where its channel"):
        check_pruned(found)


REFUSED = {
    "no convolutions": (
        lambda: prune_channels(MLP().build((5, 5, 1), 3, masked_parts()), 0.5),
        "has no channels that can be pruned",
    ),
    "no scales": (
        lambda: prune_channels(
            VGG(11, width=0.05, affine=False).build(SHAPE, 3, masked_parts()), 1
        ),
        "has no channels that can be pruned",
    ),
    "a search": (
        lambda: prune_channels(built(VGG(11, width=0.05), search=True)(), 0.5),
        "has no channels that can be pruned",
    ),
    "density": (lambda: prune_channels(plain(), 0.0), r"density must be in \(0, 1\]; received"),
    "importance": (
        lambda: prune_channels(plain(), 0.5, "loss"),
        "importance names an unknown importance 'loss'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as found:
        act()
    assert "\n" not in str(found.value)


OTHERS = {
    "bottlenecks": (ResNet(50, width=0.04), 1 + 2 * 16, "stage_4_block_3_conv_2"),
    "depthwise": (MobileNetV2(width=0.1), 2, "last"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_bottlenecks_two_convolutions_and_of_depthwise_blocks_none(name):
    architecture, number, last = OTHERS[name]
    found = prunable_channels(built(architecture)())
    assert (len(found), found[0].kernel.layer.name) == (number, "stem")
    assert found[-1].kernel.layer.name == last
