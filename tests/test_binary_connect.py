"""Networks of signs: what their layers see, what a step does, and that they travel."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data
from trainings import QUICK, read

from experiments.dense_training import DenseTraining
from rst_tf import PGD, Adversarial, Natural, RobustTrainer, Ticket, baked, initialize, models
from rst_tf.artefacts import export
from rst_tf.binary_connect import (
    BinaryActivation,
    BinaryConv2D,
    BinaryDense,
    BinaryDepthwiseConv2D,
    clamp,
    drawn_signs,
    signs,
)
from rst_tf.data import Data
from rst_tf.layers import formed
from rst_tf.models import VGG, Conv, ResNet
from rst_tf.optimizers import SGD, Adam
from rst_tf.packed import PackedModel
from rst_tf.traversal import kernels_formed_once, masked_kernels

LAYERS = {
    "dense": (lambda **o: BinaryDense(5, **o), (7,)),
    "conv2d": (lambda **o: BinaryConv2D(5, 3, strides=2, **o), (9, 9, 4)),
    "depthwise": (lambda **o: BinaryDepthwiseConv2D(3, **o), (9, 9, 4)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
NETWORKS = {
    "resnet": ResNet(18, stage_channels=(2, 3, 3, 4), normalized_logits=True),
    "conv": Conv(2, width=0.05, use_bias=False, normalization="affine"),
}
KINDS = (("binary", "real"), ("stochastic", "real"), ("binary", "binary"), ("real", "binary"))


def built(name, **options):
    make, shape = LAYERS[name]
    layer = make(**options)
    layer.build((None, *shape))
    (masked,) = layer.masked.values()
    masked.kernel.assign(np.random.default_rng(1).uniform(-1, 1, masked.shape))
    masked.kernel.assign(masked.kernel * (np.abs(masked.kernel) > 0.3))  # some are 0
    return layer, np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")


def network(name="conv", weights="binary", activations="real"):
    parts = models.masked_parts(weights=weights, activations=activations)
    net = NETWORKS[name].build((16, 16, 1), 4, parts)
    initialize(net, 3, "kaiming_normal")
    clamp(net)
    return net


@contextlib.contextmanager
def seeing(layer, kernel):
    """Within this context a layer sees this kernel."""
    (masked,) = layer.masked.values()
    formed.kernels = {(id(layer), masked.attribute): tf.convert_to_tensor(kernel)}
    try:
        yield
    finally:
        formed.kernels = {}


@every_layer
def test_a_layer_sees_signs_with_zero_as_plus_and_they_pass_the_gradient_on(name):
    layer, x = built(name)
    (masked,) = layer.masked.values()
    seen = np.where(masked.kernel.numpy() < 0, -1, 1).astype("float32")
    np.testing.assert_array_equal(masked.effective(), seen)
    weights = tf.Variable(seen)
    with tf.GradientTape() as tape:
        own = tf.reduce_sum(layer(x) ** 2)
    with tf.GradientTape() as told, seeing(layer, weights):
        loss = tf.reduce_sum(layer(x) ** 2)
    wanted = told.gradient(loss, weights)
    np.testing.assert_array_equal(tape.gradient(own, masked.kernel.value), wanted)


@every_layer
def test_drawn_signs_are_for_training_alone(name):
    layer, x = built(name, stochastic=True)
    certain = layer(x, training=False)
    np.testing.assert_array_equal(layer(x, training=False), certain)
    assert np.any(layer(x, training=True) != layer(x, training=True))
    with kernels_formed_once(keras.Sequential([layer])):
        np.testing.assert_array_equal(layer(x, training=True), certain)


def test_signs_are_drawn_at_their_probability_with_its_gradient():
    x = tf.constant([-3.0, -1.0, -0.5, 0.0, 0.4, 1.0, 3.0])
    seed = keras.random.SeedGenerator(4)
    with tf.GradientTape() as tape:
        tape.watch(x)
        many = drawn_signs(tf.repeat(x[None], 4000, 0), seed)
        loss = tf.reduce_mean(tf.reduce_sum(many * tf.range(1.0, 8), 1))
    assert set(np.unique(many)) == {-1, 1}
    np.testing.assert_allclose(tf.reduce_mean(many, 0), np.clip(x, -1, 1), atol=0.05)
    inside = [0, 1, 1.5, 2, 2.5, 3, 0]  # half of the upstream gradient; 0 beyond
    np.testing.assert_allclose(tape.gradient(loss, x), inside, rtol=1e-4)


def test_activations_have_the_published_gradient():
    x = tf.constant([-2.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = BinaryActivation()(x)
    np.testing.assert_array_equal(y, [-1, -1, -1, 1, 1, 1, 1])
    np.testing.assert_allclose(tape.gradient(y, x), [0, 0, 1.5, 2, 1, 0, 0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = signs(x)
    np.testing.assert_array_equal(tape.gradient(y, x), np.ones(7))


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.05, weight_decay=1e-3)], ids=str)
@pytest.mark.parametrize("weights", ["binary", "stochastic"])
def test_latent_weights_move_stay_within_one_and_learn(weights, optimizer):
    keras.utils.set_random_seed(0)  # stochastic signs are drawn by Keras' own generator
    x, y = easy_data(64, shape=(16, 16, 1))
    net = network(weights=weights)
    before = [m.kernel.numpy() for m in masked_kernels(net)]
    trainer = RobustTrainer(net, Natural())
    trainer.compile(optimizer.build(20), jit_compile=False)
    losses = trainer.fit(x, y, batch_size=32, epochs=10, verbose=0).history["loss"]
    after = [m.kernel.numpy() for m in masked_kernels(net)]
    assert max(np.abs(k).max() for k in after) == 1
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))
    assert losses[-1] < (0.7 if weights == "binary" else 0.9) * losses[0]
    for masked in masked_kernels(net):
        assert set(np.unique(masked.effective())) <= {-1, 1}
        assert np.all(masked.mask.numpy() == 1)


@pytest.mark.parametrize("weights", ["real", "binary"])
def test_initial_weights_of_binary_layers_alone_are_clamped(weights):
    net = NETWORKS["conv"].build((16, 16, 1), 4, models.masked_parts(weights=weights))
    initialize(net, 3, "kaiming_normal")
    drawn = [m.kernel.numpy() for m in masked_kernels(net)]
    clamp(net)
    assert max(k.max() for k in drawn) > 1
    for before, masked in zip(drawn, masked_kernels(net), strict=True):
        wanted = before if weights == "real" else np.clip(before, -1, 1)
        np.testing.assert_array_equal(masked.kernel, wanted)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("conv", k) for k in KINDS), pytest.param("resnet", KINDS[0], marks=pytest.mark.slow)],
)
def test_every_copy_gives_the_same_logits(name, kind, tmp_path):
    net = network(name, *kind)
    x = np.random.default_rng(5).uniform(size=(6, 16, 16, 1)).astype("float32")
    net(x, training=True)
    logits = net(x, training=False)
    net.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "net.keras")(x), logits)
    np.testing.assert_allclose(baked(net)(x), logits, rtol=1e-5, atol=1e-5)
    options = dict(zip(("weights", "activations"), kind, strict=True))
    description = models.describe(NETWORKS[name], (16, 16, 1), 4, **options)
    ticket = Ticket.of(net, description=description)
    ticket.save(tmp_path / "ticket.npz")
    np.testing.assert_array_equal(Ticket.load(tmp_path / "ticket.npz").build()(x), logits)
    made = export(net, tmp_path / "plain.keras", latency_runs=1, sample=x)
    assert made.density == 1
    if kind[0] != "real":
        packed = PackedModel.of(net, description=description)
        packed.save(tmp_path / "net.rstb")
        found = PackedModel.load(tmp_path / "net.rstb").inference()(x)
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_a_fully_binary_network_goes_to_every_runtime(format, tmp_path):
    net = network("conv", "binary", "binary")
    x = np.random.default_rng(5).uniform(size=(6, 16, 16, 1)).astype("float32")
    net(x, training=True)  # or sums of signs would often be 0, which rounding can tip over
    suffix = {"litert": ".tflite", "onnx": ".onnx"}[format]
    assert export(net, tmp_path / f"net{suffix}", format, latency_runs=1).density == 1


RUNS = {
    "binary": {"weights": "binary", "activations": "binary"},
    "drawn": {"weights": "stochastic"},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_repeats_and_its_ticket_is_of_signs(name, tmp_path):
    settings = {
        **QUICK,
        "data": Data(train_limit=60),
        "objective": Adversarial(PGD(0.1, steps=1), norm_mode="batch"),
        "eval_every": 6,
        "network": NETWORKS["conv"] if name == "binary" else QUICK["network"],
    }
    folders = ("one", "two") if name == "drawn" else ("one",)
    for folder in folders:
        DenseTraining(**settings, **RUNS[name]).run(tmp_path / folder)
    assert all(read(tmp_path / folder) == read(tmp_path / "one") for folder in folders)
    ticket = Ticket.load(tmp_path / "one" / "tickets" / "round_00.npz")
    assert ticket.network["masks"] == RUNS[name]
    kernels = masked_kernels(ticket.build())
    assert {float(abs(w)) for m in kernels for w in np.ravel(m.effective())} == {1.0}
    assert all(np.abs(m.kernel).max() <= 1 for m in kernels)


REFUSED = {
    "a search": (lambda: models.masked_parts(weights="binary", search=True), "search=True"),
    "a gain": (lambda: models.masked_parts(weights="binary", gain="mean"), "gain='mean'"),
    "unknown weights": (lambda: models.masked_parts(weights="ternary"), "weights .*'ternary'"),
    "unknown run": (lambda: DenseTraining(activations="sign"), "activations .*'sign'"),
    "no layers of their own": (lambda: DenseTraining(activations="binary"), "network=mlp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        parts = make()
        if isinstance(parts, DenseTraining):
            parts.masked_network(parts.data.load())
        parts.dense(3).build((None, 4))


def test_the_other_networks_take_signs_too():
    parts = models.masked_parts(weights="binary", activations="binary")
    net = VGG(width=1 / 32).build((32, 32, 3), 4, parts)
    found = [type(layer) for layer in net.layers]
    assert keras.layers.ReLU not in found and BinaryActivation in found
