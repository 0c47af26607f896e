import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import FGSM, PGD, Adversarial, Mixed, Natural, Normalization, RobustTrainer, Trades
from rst_tf.models import MLP, masked_parts
from rst_tf.objectives import OBJECTIVES, Fast, Free

X, Y = easy_data(16)
ATTACK = PGD(0.1, steps=3)
TABLE = {
    "natural": Natural(),
    "adversarial": Adversarial(ATTACK),
    "mixed": Mixed(ATTACK, 0.3),
    "trades": Trades(ATTACK, 6.0),
}
every_objective = pytest.mark.parametrize("name", TABLE)
keras.utils.set_random_seed(0)
NETWORK = small()


def test_the_table_has_every_registered_objective():
    own_step = {Free, Fast}  # tests/test_free.py, tests/test_fast.py
    assert {type(o) for o in TABLE.values()} | own_step == set(OBJECTIVES.values())


def outcome(objective, network=NETWORK):
    x_adv = objective.perturb(network, tf.constant(X), tf.constant(Y), 5, tf.range(16))
    return objective.loss(network, tf.constant(X), x_adv, tf.constant(Y)), x_adv


def logp(x):
    return np.asarray(keras.ops.log_softmax(NETWORK(x)))


def ce(x, smoothing=0.0):
    p = logp(x)
    return (1 - smoothing) * -p[np.arange(16), Y] - smoothing * p.mean(1)


@every_objective
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_published_formula(name, smoothing):
    objective = dataclasses.replace(TABLE[name], label_smoothing=smoothing)
    found, x_adv = outcome(objective)
    expected = {
        "natural": lambda: ce(X, smoothing),
        "adversarial": lambda: ce(x_adv, smoothing),
        "mixed": lambda: 0.3 * ce(X, smoothing) + 0.7 * ce(x_adv, smoothing),
        "trades": lambda: ce(X, smoothing) + 6 * (np.exp(logp(X)) * (logp(X) - logp(x_adv))).sum(1),
    }
    np.testing.assert_allclose(found.loss, expected[name](), rtol=1e-4, atol=1e-5)


@every_objective
def test_gradient_is_that_of_the_published_formula(name):
    objective, crossentropy = TABLE[name], keras.losses.sparse_categorical_crossentropy
    x_adv = outcome(objective)[1]
    weights = [v.value for v in NETWORK.trainable_variables]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(objective.loss(NETWORK, X, x_adv, Y).loss)
    found = tape.gradient(loss, weights)
    with tf.GradientTape() as tape:
        clean = NETWORK(X)
        adversarial = clean if x_adv is None else NETWORK(x_adv)
        p, q = tf.nn.softmax(clean), tf.nn.softmax(adversarial)
        natural, robust = (crossentropy(Y, z, from_logits=True) for z in (clean, adversarial))
        divergence = tf.reduce_sum(p * (tf.math.log(p) - tf.math.log(q)), -1)
        expected = {
            "natural": natural,
            "adversarial": robust,
            "mixed": 0.3 * natural + 0.7 * robust,
            "trades": natural + 6 * divergence,
        }[name]
        expected = tf.reduce_sum(expected)
    for a, b in zip(found, tape.gradient(expected, weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@every_objective
def test_reports_the_logits_it_saw_as_what_they_are(name):
    found, x_adv = outcome(TABLE[name])
    for logits, x in ((found.clean, X), (found.adversarial, x_adv)):
        assert logits is None or np.allclose(logits, NETWORK(x), atol=1e-5)
    assert (found.clean is None) == (name == "adversarial")
    assert (found.adversarial is None) == (name == "natural")


@pytest.mark.parametrize("name", ["adversarial", "mixed", "trades"])
def test_random_starts_are_keyed_by_seed_and_index(name):
    def perturbed(order, seed=5, y=Y):
        found = TABLE[name].perturb(NETWORK, X[order], tf.constant(y[order]), seed, order)
        return np.asarray(found)

    straight, shuffled = np.arange(16), np.random.default_rng(0).permutation(16)
    whole = perturbed(straight)
    np.testing.assert_allclose(perturbed(shuffled), whole[shuffled], atol=2e-5)
    assert not np.allclose(perturbed(straight, seed=6), whole, atol=1e-3)
    same = np.array_equal(perturbed(straight, y=(Y + 1) % 4), whole)
    assert same == (name == "trades")  # a divergence needs no label


@pytest.mark.parametrize("name", ["adversarial", "mixed", "trades"])
def test_the_loop_of_the_attack_reads_no_kernel_and_no_mask(name):
    network = MLP(hidden=(5,)).build((6, 6, 1), 4, masked_parts())
    graph = (
        tf.function(
            lambda: TABLE[name].perturb(network, tf.constant(X), tf.constant(Y), 5, tf.range(16))
        )
        .get_concrete_function()
        .graph.as_graph_def()
    )
    bodies = [f for f in graph.library.function if "while_body" in f.signature.name]
    assert bodies
    for body in bodies:
        assert "ReadVariableOp" not in {node.op for node in body.node_def}


@pytest.mark.parametrize("limit", [Trades(ATTACK, 0.0), Mixed(ATTACK, 1.0)])
def test_without_its_second_term_it_is_natural(limit):
    np.testing.assert_allclose(outcome(limit)[0].loss, outcome(Natural())[0].loss, rtol=1e-5)


def test_mixed_without_clean_images_is_adversarial():
    adversarial = outcome(Adversarial(ATTACK))[0].loss
    np.testing.assert_allclose(outcome(Mixed(ATTACK, 0.0))[0].loss, adversarial, rtol=1e-5)


def test_trades_climbs_the_divergence_unless_told_otherwise():
    assert Trades(ATTACK).training_attack.loss == "kl"
    assert Trades(dataclasses.replace(ATTACK, loss="ce")).training_attack.loss == "ce"


def normalised():
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3)(image)
    x = keras.layers.Flatten()(Normalization(name="norm")(x))
    return keras.Model(image, keras.layers.Dense(4)(x))


@pytest.mark.parametrize(("mode", "updates"), [("eval", 0), ("batch", 0), ("update", 3)])
def test_norm_modes_update_statistics_as_they_say(mode, updates):
    network = normalised()
    layer = network.get_layer("norm")
    before = layer.moving_mean.numpy()
    objective = Adversarial(ATTACK, norm_mode=mode)
    objective.perturb(network, tf.constant(X), tf.constant(Y), 5, tf.range(16))
    moved = not np.array_equal(before, layer.moving_mean.numpy())
    assert moved == (updates > 0)


def test_parity_mode_updates_once_per_attack_step_and_once_for_the_loss():
    network = normalised()
    layer = network.get_layer("norm")
    layer.moving_mean.assign(np.full(4, 1e6))
    attack = PGD(1e-9, steps=7, start="clean")
    objective = Adversarial(attack, norm_mode="update")
    x_adv = objective.perturb(network, tf.constant(X), tf.constant(Y), 5, tf.range(16))
    objective.loss(network, X, x_adv, Y)
    np.testing.assert_allclose(layer.moving_mean, 1e6 * 0.9**8, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "passes"), [("natural", 1), ("adversarial", 1), ("mixed", 2), ("trades", 2)]
)
def test_the_loss_runs_the_network_in_training_mode(name, passes):
    network = normalised()
    layer = network.get_layer("norm")
    layer.moving_mean.assign(np.full(4, 1e6))
    TABLE[name].loss(network, tf.constant(X), tf.constant(X), tf.constant(Y))
    np.testing.assert_allclose(layer.moving_mean, 1e6 * 0.9**passes, rtol=1e-3)


def test_norm_modes_see_different_statistics():
    network = normalised()
    network.get_layer("norm").moving_mean.assign([5.0, -3.0, 2.0, 9.0])
    found = [
        Adversarial(ATTACK, norm_mode=mode).perturb(
            network, tf.constant(X), tf.constant(Y), 5, tf.range(16)
        )
        for mode in ("eval", "batch")
    ]
    assert not np.allclose(*found)


def with_keras_normalization():
    image = keras.Input((6, 6, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(image))
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.Flatten()(x)))


REFUSED = {
    "smoothing": (lambda: Natural(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\)"),
    "weight": (lambda: Mixed(ATTACK, 1.5), r"clean_weight must be in \[0, 1\]; received"),
    "beta": (lambda: Trades(ATTACK, -1), "beta must be at least 0; received beta=-1"),
    "norm_mode": (lambda: Adversarial(ATTACK, norm_mode="train"), "unknown norm_mode 'train'"),
    "trades from clean": (lambda: Trades(FGSM(0.1)), "no gradient at start='clean'"),
    "batch mode, Keras' layer": (
        lambda: RobustTrainer(with_keras_normalization(), Adversarial(ATTACK, norm_mode="batch")),
        "needs rst_tf.Normalization",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
