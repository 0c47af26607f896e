import keras
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.normalization import Normalization, statistics_held

SHAPES = {"fused, rank 4": (5, 4, 4, 3), "plain, rank 2": (12, 3), "plain, rank 3": (6, 7, 3)}
every_shape = pytest.mark.parametrize("name", SHAPES)


def data(name):
    return np.random.default_rng(0).normal(2, 3, SHAPES[name]).astype("float32")


def reference(x):
    """Output, running mean and running variance after one training step, as PyTorch does it."""
    axes = tuple(range(x.ndim - 1))
    n = x.size / x.shape[-1]
    mean, variance = x.mean(axes), x.var(axes)
    y = (x - mean) / np.sqrt(variance + 1e-5)
    return y, 0.1 * mean, 0.9 + 0.1 * variance * n / (n - 1)


@every_shape
@pytest.mark.parametrize("affine", [True, False])
def test_training_step_is_pytorchs(name, affine):
    x, layer = data(name), Normalization(affine=affine)
    y, mean, variance = reference(x)
    np.testing.assert_allclose(layer(x, training=True), y, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-4)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-4)
    assert len(layer.trainable_variables) == (2 if affine else 0)


ALONE = {"fused, rank 4": (1, 1, 1, 3), "plain, rank 2": (1, 3), "plain, rank 3": (1, 1, 3)}


@every_shape
def test_one_value_per_channel_leaves_finite_statistics(name):
    layer = Normalization()
    y = layer(np.full(ALONE[name], 2.0, "float32"), training=True)
    for value in (y, layer.moving_mean.numpy(), layer.moving_variance.numpy()):
        assert np.isfinite(value).all()


@every_shape
def test_a_constant_channel_becomes_zero(name):
    for level in (1000.1, 333.3, 77.7):
        x = np.full(SHAPES[name], level, "float32")
        layer = Normalization()
        assert np.isfinite(layer(x, training=True)).all()
        assert (layer.moving_variance.numpy() >= 0.9 - 1e-6).all()


@every_shape
def test_gradient_is_that_of_the_formula(name):
    x = tf.constant(data(name))
    weight = tf.constant(np.random.default_rng(1).normal(size=x.shape).astype("float32"))
    layer = Normalization()
    layer.build(x.shape)
    layer.gamma.assign([1.0, -2.0, 0.5])

    def plain(x):
        axes = list(range(len(x.shape) - 1))
        mean, variance = tf.nn.moments(x, axes)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5) * layer.gamma + layer.beta

    found, expected = [], []
    for out, f in ((found, lambda x: layer(x, training=True)), (expected, plain)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(f(x) * weight)
        out.extend(tape.gradient(loss, [x, layer.gamma.value, layer.beta.value]))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


@every_shape
def test_inference_uses_the_running_statistics_and_leaves_them(name):
    x, layer = data(name), Normalization()
    layer.build(x.shape)
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 0.25, 1.0])
    expected = (x - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 0.25, 1.0]) + 1e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, [1.0, 2.0, 3.0])


@every_shape
def test_held_statistics_do_not_move_but_the_output_is_the_batchs(name):
    x, layer = data(name), Normalization()
    with statistics_held():
        y = layer(x, training=True)
    np.testing.assert_allclose(y, reference(x)[0], atol=1e-4)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


@pytest.mark.parametrize("affine", [True, False])
def test_keras_round_trip(affine, tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), Normalization(affine, 0.8, 1e-3)])
    model(data("fused, rank 4"), training=True)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    x = data("fused, rank 4")
    np.testing.assert_array_equal(again(x), model(x))
    layer = again.layers[0]
    assert (layer.affine, layer.momentum, layer.epsilon) == (affine, 0.8, 1e-3)
    assert layer.get_config() == model.layers[0].get_config()


@every_shape
def test_two_replicas_share_their_statistics(name):
    x = data(name)
    layer = Normalization()
    layer.build(x.shape)
    alone = layer(x, training=True)
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    devices = _two_cpus()
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        twin = Normalization()
        twin.build(x.shape)
    parts = iter([x[: len(x) // 2], x[len(x) // 2 :]])
    values = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant(next(parts))
    )
    run = tf.function(lambda v: strategy.run(lambda z: twin(z, training=True), args=(v,)))
    found = np.concatenate([t.numpy() for t in strategy.experimental_local_results(run(values))])
    np.testing.assert_allclose(found, alone, atol=1e-4)
    np.testing.assert_allclose(twin.moving_mean, mean, atol=1e-5)
    np.testing.assert_allclose(twin.moving_variance, variance, rtol=1e-5)


def _two_cpus():
    devices = tf.config.list_logical_devices("CPU")
    if len(devices) < 2:
        pytest.skip("needs two logical devices, set before TensorFlow starts")
    return [d.name for d in devices]


REFUSED = {"momentum": {"momentum": 1.5}, "epsilon": {"epsilon": 0.0}}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be .*; received {name}="):
        Normalization(**REFUSED[name])
