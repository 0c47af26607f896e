"""Networks without the channels that pruning left without effect: equal outputs, fewer weights."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, images
from test_models import SMALL, built, shape_for

import rst_tf as rst
from experiments.export import Export
from rst_tf import models
from rst_tf.artefact_formats import FORMATS
from rst_tf.channels import prune_channels
from rst_tf.models import MLP, VGG, Conv, PreActResNet, ResNet, WideResNet
from rst_tf.normalization import Normalization
from rst_tf.traversal import walk

every_architecture = pytest.mark.parametrize(
    "architecture", SMALL, ids=lambda architecture: type(architecture).__name__
)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def stirred(model, seed=0):
    """The model with statistics, gains and biases as after a training."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if len(variable.shape) == 1:
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.5
            variable.assign(rng.uniform(low, 1.5, variable.shape))
    return model


def prune(network, density=0.6, seed=1):
    """Zeros the masks of whole channels, but of the classifier, and what normalises these."""
    rng = np.random.default_rng(seed)
    following = after(network)
    for masked in rst.masked_kernels(network)[:-1]:
        mask = masked.mask.numpy()
        axis = 2 if len(masked.output_axes) == 2 else mask.ndim - 1  # depthwise: by its input
        gone = rng.random(mask.shape[axis]) > density
        gone[rng.integers(len(gone))] = False
        np.moveaxis(mask, axis, 0)[gone] = 0
        masked.mask.assign(mask)
        zero(following.get(masked.layer.name), gone)
        if masked.layer.use_bias:
            masked.layer.bias.assign(np.where(gone, 0, masked.layer.bias))
    return network


def after(network):
    """By a layer's name, the normalisation that alone reads it."""
    found = {}
    for layer in network.layers:
        if isinstance(layer, Normalization):
            before = layer.input._keras_history.operation
            found[before.name] = layer
    return found


def zero(norm, gone):
    if norm is not None and norm.affine:
        norm.gamma.assign(np.where(gone, 0, norm.gamma))
        norm.beta.assign(np.where(gone, 0, norm.beta))


def check_equal(network, small, x):
    expected = np.asarray(network(x))
    assert np.ptp(expected) > 1e-3  # else it would be no test
    np.testing.assert_allclose(small(x), expected, rtol=1e-5, atol=1e-5)


@every_architecture
def test_outputs_stay_and_weights_go(architecture):
    network = prune(stirred(built(architecture, models.masked_parts())))
    small = rst.shrunk(network)
    check_equal(network, small, images(4, shape_for(architecture)))
    assert not any(type(layer).__name__.startswith("Masked") for layer in walk(small))
    found, before = rst.operations(small), rst.operations(network)
    assert sum(e.weights for e in found.layers) < 0.9 * sum(e.weights for e in before.layers)
    assert found.dense < 0.9 * before.dense


@pytest.mark.parametrize("architecture", [SMALL[1], SMALL[3], SMALL[7], SMALL[-2]], ids=str)
def test_with_nothing_to_leave_out_it_is_the_same_network(architecture):
    network = stirred(built(architecture, models.masked_parts()))
    small, baked = rst.shrunk(network), rst.baked(network)
    assert small.to_json() == baked.to_json()
    for one, other in zip(small.variables, baked.variables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_understood_is_kept(name):
    """Separable convolutions, shared layers and nested models among plain ones."""
    model, x = NETWORKS[name](), images()
    for variable in model.variables:
        if len(variable.shape) == 4:
            variable.assign(variable * (np.arange(variable.shape[-1]) > 0))
    check_equal(model, rst.shrunk(model), x)


@pytest.mark.parametrize("architecture", [MLP(hidden=(9, 8)), Conv(2, 0.1), ResNet(width=1 / 16)])
def test_every_layer_keeps_a_channel(architecture):
    network = built(architecture, models.masked_parts())
    for masked in rst.masked_kernels(network)[:-1]:
        masked.mask.assign(0 * masked.mask)
    small = rst.shrunk(network)
    found = [kernel.shape for kernel in small.weights if len(kernel.shape) > 1]
    assert all(min(shape) >= 1 for shape in found) and {shape[-1] for shape in found[:-1]} == {1}
    x = images(2, shape_for(architecture))
    np.testing.assert_array_equal(small(x), network(x))


def chain(bias=(0.0, 0.0, 0.0, 0.0), activation="relu"):
    """Four units, of which the last two are 0 but for their bias."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation=activation, name="hidden"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(np.abs(hidden.kernel) * [1, 1, 0, 0])  # so that ReLU lets them pass
    hidden.bias.assign(np.array(bias, "float32"))
    return model


UNITS = {  # bias of four units, activation: how many are left
    "zeros go": ((0.5, 0.5, 0, 0), "relu", 2),
    "constants stay": ((0, 0, 0.5, 0), "relu", 3),
    "what ReLU makes 0 goes": ((0, 0, -0.5, -1), "relu", 2),
    "and without it stays": ((0, 0, -0.5, 0), "linear", 3),
    "sigmoids are never 0": ((0, 0, 0, 0), "sigmoid", 4),
    "classes of a softmax stay": ((0, 0, 0, 0), "softmax", 4),
}


@pytest.mark.parametrize("name", UNITS)
def test_units_go_if_they_are_always_zero(name):
    bias, activation, left = UNITS[name]
    model, x = chain(bias, activation), images(4, (3,))
    small = rst.shrunk(model)
    check_equal(model, small, x)
    assert small.get_layer("hidden").units == left


CHANNELS = {  # filter, gamma, beta, mean of the last of two channels: whether it goes
    "gamma and beta 0": (1, 0, 0, 0.3, True),
    "gamma 0, beta above": (1, 0, 0.2, 0.3, False),
    "gamma 0, beta below": (1, 0, -0.2, 0.3, True),
    "only gamma": (1, 1, 0, 0.3, False),
    "filter 0, constant above": (0, 1, 0.2, 0.0, False),
    "filter 0, constant below": (0, 1, 0.2, 0.9, True),
    "filter 0, constant 0": (0, 1, 0, 0.0, True),
}


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("kind", [Normalization, keras.layers.BatchNormalization])
def test_normalised_channels_go_if_relu_finds_them_0(name, kind):
    weight, gamma, beta, mean, goes = CHANNELS[name]
    conv, norm = keras.layers.Conv2D(2, 3, use_bias=False, name="conv"), kind()
    model = keras.Sequential([keras.Input((6, 6, 3)), conv, norm, keras.layers.ReLU()])
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(2))
    conv.kernel.assign(np.ones((3, 3, 3, 2)) * [1, weight])
    for variable, value in ((norm.gamma, gamma), (norm.beta, beta), (norm.moving_mean, mean)):
        variable.assign([0.5, value])
    small = rst.shrunk(model)
    check_equal(model, small, images(4, (6, 6, 3)))
    assert small.get_layer("conv").filters == (1 if goes else 2)


def test_what_nobody_reads_goes_and_so_does_what_only_that_reads():
    model, x = chain((0.1, 0.2, 0.3, 0.4)), images(4, (3,))
    output = model.get_layer("output")
    output.kernel.assign(np.asarray(output.kernel) * [[1], [0], [0], [1]])
    small = rst.shrunk(model)
    check_equal(model, small, x)
    assert small.get_layer("hidden").units == 2


def by_layers(one, other, norm):
    return keras.layers.ReLU()(norm(keras.layers.Add()([one, other])))


def by_operations(one, other, norm):
    return keras.ops.relu(norm(one + other))


def residual(zeroed, summed):
    """A sum of two convolutions, some channels of which are 0."""
    image = keras.Input((6, 6, 3))
    ways = []
    for number, gone in enumerate(zeroed):
        conv = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"conv_{number}")
        ways.append(conv(image))
        conv.kernel.assign(conv.kernel * (np.isin(range(4), gone, invert=True)))
    x = summed(*ways, keras.layers.BatchNormalization(center=False))
    x = keras.layers.Concatenate()([x, keras.layers.DepthwiseConv2D(3, padding="same")(x)])
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(x))
    return keras.Model(image, keras.layers.Dense(2)(x))


@pytest.mark.parametrize("summed", [by_layers, by_operations])
@pytest.mark.parametrize("zeroed, left", [(([0, 1], [1, 2]), 3), (([0, 1], [0, 1]), 2)])
def test_a_sum_keeps_what_any_of_its_inputs_has(zeroed, left, summed):
    model, x = residual(zeroed, summed), images(4, (6, 6, 3))
    small = rst.shrunk(model)
    check_equal(model, small, x)
    assert {small.get_layer(f"conv_{i}").filters for i in (0, 1)} == {left}


def with_a_constant(x, last):
    return last(keras.layers.Concatenate()([x, np.ones((1, 6, 6, 4), "float32")]))


def with_the_batchs_statistics(x, last):
    norm = keras.layers.BatchNormalization()
    x = norm(x, training=True)
    norm.beta.assign([0, 0, 1, 1])
    norm.moving_mean.assign([0, 0, 2, 2])
    return last(keras.layers.ReLU()(x))


def twice_once_inside_a_model(x, last):
    layer = keras.layers.Conv2D(4, 1, use_bias=False)
    inside = keras.Input((6, 6, 4))
    model = keras.Model(inside, layer(inside))
    x = layer(model(x))
    layer.kernel.assign(layer.kernel * [1, 1, 0, 0])
    return last(x)


@pytest.mark.parametrize(
    "way", [with_a_constant, with_the_batchs_statistics, twice_once_inside_a_model]
)
def test_unusual_calls_are_left_alone(way):
    image = keras.Input((6, 6, 3))
    conv = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    x = conv(image)
    conv.kernel.assign(conv.kernel * [1, 1, 0, 0])
    model = keras.Model(image, way(x, keras.layers.Conv2D(2, 3)))
    check_equal(model, rst.shrunk(model), images(1, (6, 6, 3)))


def test_only_channels_inside_blocks_go_where_a_sum_needs_all():
    """Channel pruning of the first convolution of every block, as it is usually done."""
    network = stirred(built(PreActResNet(width=1 / 8), models.masked_parts()))
    for masked in rst.masked_kernels(network):
        if masked.name.endswith("block_2_conv_1/kernel"):
            mask = masked.mask.numpy()
            mask[..., ::2] = 0
            masked.mask.assign(mask)
            zero(after(network)[masked.layer.name], np.arange(mask.shape[-1]) % 2 == 0)
    small = rst.shrunk(network)
    check_equal(network, small, images(4, (16, 16, 2)))
    halved = {k.path.split("/")[-2] for k in small.weights if "conv_1/kernel" in k.path}
    for layer in network.layers:
        if layer.name in halved:
            half = 2 if "block_2" in layer.name else 1
            assert small.get_layer(layer.name).filters == layer.filters // half


@pytest.mark.parametrize("architecture", [VGG(11, width=1 / 16), WideResNet(10, 1.5, width=1 / 4)])
@pytest.mark.parametrize("importance", ["gamma", "filter"])
def test_pruned_channels_leave_a_network_of_as_many_weights_as_the_masks_keep(
    architecture, importance
):
    network = stirred(built(architecture, models.masked_parts()))
    prune_channels(network, 0.5, importance)
    small = rst.shrunk(network)
    check_equal(network, small, images(4, shape_for(architecture)))
    assert rst.operations(small).dense == rst.operations(network).sparse
    kernels = [int(np.prod(v.shape)) for v in small.weights if len(v.shape) > 1]
    assert sum(kernels) == rst.Ticket.of(network).kept


def test_subclassed_models_are_refused_in_a_line():
    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match=r"shrunk\(\) copies Sequential and functional models"):
        rst.shrunk(Own())


# ---------------------------------------------------------------- export


def pruned():
    architecture = Conv(2, 0.2, normalization="affine", mean=(0.4, 0.5), std=(0.2, 0.3))
    network = prune(stirred(built(architecture, models.masked_parts())))
    return network, models.describe(architecture, (16, 16, 2), 3)


@pytest.mark.parametrize("format", [name for name, kind in FORMATS.items() if not kind.masked])
def test_every_format_holds_the_smaller_network(format, tmp_path):
    network, _ = pruned()
    suffix = FORMATS[format].suffix
    options = {"latency_runs": 1, "sample": images(3, (16, 16, 2))}
    made = rst.export(network, tmp_path / f"small{suffix}", format, shrink=True, **options)
    kernels = [v for v in rst.shrunk(network).weights if len(v.shape) > 1]
    assert made.weights == sum(int(np.prod(kernel.shape)) for kernel in kernels)
    assert made.weights < 0.7 * sum(m.size for m in rst.masked_kernels(network))


def test_the_experiment_exports_the_smaller_network(tmp_path, capfd):
    network, description = pruned()
    file = tmp_path / "ticket.npz"
    rst.Ticket.of(network, description=description).save(file)
    settings = {"source": str(file), "formats": ("keras",), "latency_runs": 1}
    Export(**settings, shrink=True).run(tmp_path / "export")
    model = keras.models.load_model(tmp_path / "export" / "network.keras")
    check_equal(network, model, images(3, (16, 16, 2)))
    assert model.count_params() < network.count_params()
    assert "left out, which makes an image faster" in capfd.readouterr().out


def packed(path):
    rst.export(pruned()[0], path / "network.rstb", "packed", shrink=True)


def nothing_pruned(path):
    network = built(Conv(2, 0.1), models.masked_parts())
    rst.Ticket.of(network).prune(0.9).apply(network)  # weights here and there
    rst.export(network, path / "network.keras", shrink=True)


REFUSED = {
    "packed": (packed, "shrink is not for format='packed', which holds masks"),
    "nothing": (nothing_pruned, "shrink has no effect, for no channel of the network is zero"),
    "packed among others": (
        lambda path: Export(source="x", formats=("keras", "packed"), shrink=True),
        "shrink is not for the format packed, .* received formats=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_shrinking_where_it_has_no_effect_is_refused(name, tmp_path):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        act(tmp_path)
    assert not list(tmp_path.iterdir())
