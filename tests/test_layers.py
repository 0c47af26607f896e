import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from rst_tf import layers, masks, traversal

# name: (layer from options, input shape)
LAYERS = {
    "dense": (lambda **o: layers.MaskedDense(5, **o), (7,)),
    "conv1d": (lambda **o: layers.MaskedConv1D(5, 3, **o), (9, 4)),
    "conv2d": (lambda **o: layers.MaskedConv2D(5, 3, strides=2, **o), (9, 9, 4)),
    "depthwise": (
        lambda **o: layers.MaskedDepthwiseConv2D(3, depth_multiplier=2, **o),
        (9, 9, 4),
    ),
    "separable": (lambda **o: layers.MaskedSeparableConv2D(5, 3, **o), (9, 9, 4)),
    "einsum": (lambda **o: layers.MaskedEinsumDense("abc,cde->abde", (None, 2, 5), **o), (6, 4)),
}
GRANULARITIES = ("element", "row", "kernel", "filter")
every_layer = pytest.mark.parametrize("name", LAYERS)


def built(name, **options):
    make, shape = LAYERS[name]
    layer = make(**options)
    layer.build((None, *shape))
    return layer, np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")


def halved(layer, seed=0):
    for i, m in enumerate(layer.masked.values()):
        n = int(np.prod(m.mask.shape))
        noise = np.random.default_rng(seed + i).normal(size=m.mask.shape)
        m.mask.assign(masks.select(noise, max(1, n // 2)).astype("float32"))
    return layer


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def plain_twin(layer, x):
    """The Keras layer with zeros written into its kernels."""
    base = {v: k for k, v in layers.MASKED_CLASS.items()}[type(layer)]
    own = ("granularity", "search", "density", "count", "allocation", "gain")
    twin = base.from_config({k: v for k, v in layer.get_config().items() if k not in own})
    twin.build((None, *x.shape[1:]))
    values = {m.kernel.name: m.kernel.numpy() * m.mask.numpy() for m in layer.masked.values()}
    for variable in twin.variables:
        source = {v.name: v for v in layer.variables}[variable.name]
        variable.assign(values.get(variable.name, source))
    return twin


@every_layer
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_output_is_that_of_a_plain_layer_with_zeros(name, granularity):
    layer, x = built(name, granularity=granularity)
    halved(layer)
    np.testing.assert_allclose(layer(x), plain_twin(layer, x)(x), atol=1e-6)


MASK_SHAPES = {  # of each kernel: element, row, kernel, filter
    "dense": [((7, 5), (7, 5), (7, 5), (1, 5))],
    "conv1d": [((3, 4, 5), (1, 4, 5), (1, 4, 5), (1, 1, 5))],
    "conv2d": [((3, 3, 4, 5), (3, 1, 4, 5), (1, 1, 4, 5), (1, 1, 1, 5))],
    "depthwise": [((3, 3, 4, 2), (3, 1, 4, 2), (1, 1, 4, 2), (1, 1, 4, 2))],
    "separable": [
        ((3, 3, 4, 1), (3, 1, 4, 1), (1, 1, 4, 1), (1, 1, 4, 1)),
        ((1, 1, 4, 5), (1, 1, 4, 5), (1, 1, 4, 5), (1, 1, 1, 5)),
    ],
    "einsum": [((4, 2, 5), (4, 2, 5), (4, 2, 5), (1, 2, 5))],
}


@every_layer
@pytest.mark.parametrize("search", [False, True])
def test_masks_have_the_shape_of_their_groups_and_are_not_trained(name, search):
    options = {"search": True, "density": 0.5} if search else {}
    for i, granularity in enumerate(GRANULARITIES):
        layer, _ = built(name, granularity=granularity, **options)
        found = [tuple(m.mask.shape) for m in layer.masked.values()]
        assert found == [shapes[i] for shapes in MASK_SHAPES[name]]
        for m in layer.masked.values():
            assert not m.mask.trainable and m.name == f"{layer.name}/{m.attribute}"
            if search:
                outputs = np.prod([m.mask.shape[axis] for axis in m.output_axes])
                bound = 1 / np.sqrt(np.prod(m.mask.shape) / outputs)
                assert 0.3 * bound < np.abs(m.scores.numpy()).max() <= bound


OPTIONS = [
    {"granularity": "filter"},
    {"granularity": "row", "search": True, "density": 0.4, "count": "floor", "gain": "mean"},
    {"search": True, "density": 0.4, "allocation": "global_floor"},
]


@every_layer
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_configuration_keeps_every_option(name, options):
    layer, _ = built(name, **options)
    again = type(layer).from_config(layer.get_config())
    assert {option: getattr(again, option) for option in options} == options


@pytest.mark.parametrize("rule", ["nearest", "rst", "plus_one", "floor"])
@pytest.mark.parametrize("density", [0.325, 0.33])
def test_a_search_counts_by_its_rule(rule, density):
    layer, _ = built("dense", search=True, density=density, count=rule)
    assert layer.masked["kernel"].mask.numpy().sum() == masks.count(35, density, rule)


@every_layer
def test_pruned_weights_get_no_gradient_and_keep_their_value(name):
    layer, x = built(name)
    halved(layer)
    kernels = [m.kernel.value for m in layer.masked.values()]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    for m, gradient in zip(layer.masked.values(), tape.gradient(loss, kernels), strict=True):
        pruned = np.broadcast_to(m.mask.numpy() == 0, m.shape)
        assert (gradient.numpy()[pruned] == 0).all() and (gradient.numpy()[~pruned] != 0).any()
        assert (m.kernel.numpy()[pruned] != 0).all()


@every_layer
def test_search_trains_scores_through_the_published_gradient(name):
    layer, x = built(name, search=True, density=0.4)
    ms = list(layer.masked.values())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    found = tape.gradient(loss, [m.scores.value for m in ms])
    for m, got in zip(ms, found, strict=True):
        twin = plain_twin(layer, x)
        variable = next(v for v in twin.variables if v.name == m.kernel.name)
        with tf.GradientTape() as tape:
            twin_loss = tf.reduce_sum(twin(x) ** 2)
        dw = tape.gradient(twin_loss, variable.value).numpy()
        expected = dw * m.kernel.numpy() * np.sign(m.scores.numpy())
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


@every_layer
def test_search_keeps_the_count_and_frozen_weights_stay_frozen(name):
    layer, _ = built(name, search=True, density=0.3)
    assert {v.name.endswith("scores") for v in layer.trainable_variables} == {True}
    layer.trainable = False
    layer.trainable = True
    assert {v.name.endswith("scores") for v in layer.trainable_variables} == {True}
    for m in layer.masked.values():
        assert m.mask.numpy().sum() == m.kept == masks.count(int(np.prod(m.mask.shape)), 0.3)
        m.check()


@every_layer
@pytest.mark.parametrize("granularity", ["row", "kernel", "filter"])
def test_group_scores_get_the_sum_of_their_groups_gradient(name, granularity):
    layer, x = built(name, search=True, density=0.5, granularity=granularity)
    m = next(iter(layer.masked.values()))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    gradient = tape.gradient(loss, m.scores.value)
    assert gradient.shape == m.mask.shape and np.any(gradient.numpy() != 0)


def test_a_stale_mask_is_refused_at_saving(tmp_path):
    network = keras.Sequential([keras.Input((7,)), layers.MaskedDense(5, search=True, density=0.4)])
    network.layers[0].masked["kernel"].scores.assign(np.arange(35.0).reshape(7, 5)[::-1])
    with pytest.raises(RuntimeError, match="differs from its scores"):
        network.save(tmp_path / "x.keras")


@every_layer
@pytest.mark.parametrize("search", [False, True])
def test_keras_round_trip(name, search, tmp_path):
    options = {"search": True, "density": 0.4} if search else {}
    make, shape = LAYERS[name]
    network = keras.Sequential([keras.Input(shape), make(granularity="element", **options)])
    layer, x = network.layers[0], built(name)[1]
    if not search:
        halved(layer)
    network.save(tmp_path / "x.keras")
    again = keras.models.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(again(x), network(x))
    assert again.layers[0].get_config() == layer.get_config()
    for m, n in zip(layer.masked.values(), again.layers[0].masked.values(), strict=True):
        np.testing.assert_array_equal(m.mask.numpy(), n.mask.numpy())


@every_layer
def test_kernels_formed_once_change_nothing_but_the_gradient(name):
    make, shape = LAYERS[name]
    network = keras.Sequential([keras.Input(shape), make()])
    halved(network.layers[0])
    x = tf.constant(built(name)[1])
    outside = network(x)
    with traversal.kernels_formed_once(network):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            inside = network(x)
        kernels = [m.kernel.value for m in traversal.masked_kernels(network)]
        assert tape.gradient(inside, kernels) == [None] * len(kernels)
    np.testing.assert_array_equal(inside, outside)
    assert (tape.gradient(inside, x).numpy() != 0).any()


@every_layer
def test_kernels_formed_once_take_no_gradient_even_from_an_open_tape(name):
    make, shape = LAYERS[name]
    network = keras.Sequential([keras.Input(shape), make()])
    x = tf.constant(built(name)[1])
    kernels = [m.kernel.value for m in traversal.masked_kernels(network)]
    with tf.GradientTape() as tape, traversal.kernels_formed_once(network):
        inside = network(x)
    assert tape.gradient(inside, kernels) == [None] * len(kernels)


@every_layer
@pytest.mark.parametrize("fails", [False, True])
def test_formed_kernels_are_forgotten_afterwards(name, fails):
    make, shape = LAYERS[name]
    network = keras.Sequential([keras.Input(shape), make()])
    x = built(name)[1]
    with contextlib.suppress(ZeroDivisionError), traversal.kernels_formed_once(network):
        assert np.any(network(x) != 0)
        if fails:
            raise ZeroDivisionError
    for m in traversal.masked_kernels(network):
        m.kernel.assign(np.zeros(m.shape))
    assert np.all(network(x) == 0)


def test_kernels_formed_once_hold_beside_those_of_another_network():
    first, second = (keras.Sequential([keras.Input((7,)), layers.MaskedDense(5)]) for _ in "ab")
    kernels = [m.kernel.value for n in (first, second) for m in traversal.masked_kernels(n)]
    x = tf.ones((2, 7))
    with traversal.kernels_formed_once(first):
        with traversal.kernels_formed_once(second), tf.GradientTape() as inner:
            both = first(x) + second(x)
        with tf.GradientTape(persistent=True) as outer:
            one, other = first(x), second(x)
    assert inner.gradient(both, kernels) == [None, None]
    assert outer.gradient(one, kernels[0]) is None
    assert outer.gradient(other, kernels[1]) is not None


@every_layer
def test_dense_gradients_are_those_of_a_dense_layer_with_zeros_in_it(name):
    make, shape = LAYERS[name]
    network = keras.Sequential([keras.Input(shape), make()])
    halved(network.layers[0])
    x = tf.constant(built(name)[1])

    def loss():
        return tf.reduce_sum(tf.sin(network(x)))

    found = traversal.dense_gradients(network, loss)
    kernels = traversal.masked_kernels(network)
    with tf.GradientTape() as tape:
        value = loss()
    stored = tape.gradient(value, [m.kernel.value for m in kernels])
    for masked in kernels:
        masked.kernel.assign(masked.kernel * masked.mask)
    pruned = [masked.mask.numpy() == 0 for masked in kernels]
    for masked in kernels:
        masked.mask.assign(np.ones(masked.mask.shape))
    with tf.GradientTape() as tape:
        value = loss()
    dense = tape.gradient(value, [m.kernel.value for m in kernels])
    for mine, own, whole, where in zip(found, stored, dense, pruned, strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mine * ~where, own, rtol=1e-4, atol=1e-5)
        assert (mine.numpy()[where] != 0).mean() > 0.9


def test_dense_gradients_of_a_kernel_that_nothing_reaches_are_zero():
    network = keras.Sequential([keras.Input((7,)), layers.MaskedDense(5), layers.MaskedDense(3)])
    first = network.layers[0]
    found = traversal.dense_gradients(network, lambda: tf.reduce_sum(first(tf.ones((2, 7)))))
    assert [g.shape for g in found] == [(7, 5), (5, 3)]
    assert (found[0].numpy() == 2).all() and (found[1].numpy() == 0).all()


def test_a_layer_shared_by_two_models_is_found_once():
    shared = layers.MaskedDense(5)
    first, second = (keras.Sequential([keras.Input((5,)), shared]) for _ in range(2))
    image = keras.Input((5,))
    network = keras.Model(image, layers.MaskedDense(2)(second(first(image))))
    assert [m.shape for m in traversal.masked_kernels(network)] == [(5, 5), (5, 2)]
    assert len(list(traversal.walk(network))) == len(
        {id(layer) for layer in traversal.walk(network)}
    )


def test_a_search_trains_scores_alone_whatever_else_could_be_trained():
    network = keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            layers.MaskedConv2D(5, 3, search=True, density=0.4),
            keras.layers.BatchNormalization(),
        ]
    )
    scores = traversal.masked_kernels(network)[0].scores
    assert len(network.trainable_variables) == 3
    assert [id(v) for v in traversal.trained_variables(network)] == [id(scores)]


@every_layer
def test_mixed_precision(name):
    with policy("mixed_bfloat16"):
        make, shape = LAYERS[name]
        network = keras.Sequential([keras.Input(shape), make()])
    x = built(name)[1]
    assert network(x).dtype == tf.bfloat16
    with traversal.kernels_formed_once(network):
        assert network(x).dtype == tf.bfloat16


def test_options_without_effect_are_refused():
    with pytest.raises(ValueError, match="only with search=True"):
        layers.MaskedDense(3, density=0.5)
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        layers.MaskedDense(3, density=1.5, search=True)
    with pytest.raises(NotImplementedError, match="bypasses the mask"):
        built("dense")[0].enable_lora(2)
    with pytest.raises(NotImplementedError, match="quantise the baked network"):
        built("dense")[0].quantize("int8")
