import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import FGSM, PGD, accuracy, evaluate, robust_accuracy
from rst_tf.data import from_arrays
from rst_tf.evaluation import Evaluator

X, Y = easy_data(70)
keras.utils.set_random_seed(0)
NETWORK = small()
MODELS = {
    "keras model": NETWORK,
    "callable": lambda x: NETWORK(x, training=False),
    "constant": lambda x: tf.tile([[3.0, 1.0, 0.0, 0.0]], [tf.shape(x)[0], 1]) + 0 * x[:, 0, 0],
}


@pytest.mark.parametrize("name", MODELS)
def test_accuracy_is_the_share_of_right_answers(name):
    expected = (np.argmax(MODELS[name](tf.constant(X)), -1) == Y).mean()
    assert accuracy(MODELS[name], X, Y) == pytest.approx(expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("attack", [None, FGSM(0.1), PGD(0.1, steps=3)])
def test_the_batch_size_does_not_change_the_result(name, attack):
    one, other = (
        evaluate(MODELS[name], X, Y, attack, seed=2, batch_size=size) for size in (7, 500)
    )
    np.testing.assert_array_equal(one.correct, other.correct)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
    if attack is not None:
        np.testing.assert_array_equal(one.robust, other.robust)
    assert (attack is None) == (one.robust_accuracy is None)


def test_order_does_not_change_the_result_where_the_index_goes_along():
    order = np.random.default_rng(0).permutation(70)
    evaluator = Evaluator(NETWORK, PGD(0.1, steps=2), batch_size=32)
    straight = evaluator(X, Y, np.arange(70))
    shuffled = evaluator(X[order], Y[order], order)
    np.testing.assert_array_equal(shuffled.robust, straight.robust[order])
    np.testing.assert_allclose(shuffled.robust_loss, straight.robust_loss[order], rtol=1e-4)


def test_a_split_is_evaluated_as_its_arrays_are():
    split = from_arrays(X, Y, X[::2], Y[::2]).test
    evaluator = Evaluator(NETWORK, PGD(0.1, steps=2), batch_size=16)
    found, expected = evaluator(split), evaluator(*split.arrays(), split.index)
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))
    with pytest.raises(ValueError, match="received them beside a split"):
        evaluator(split, Y)


def test_robust_accuracy_falls_with_epsilon():
    network = small()
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(X, Y, epochs=60, verbose=0)
    found = [robust_accuracy(network, X, Y, PGD(e)) for e in (1e-4, 0.1, 0.2, 0.5)]
    assert found == sorted(found, reverse=True) and found[0] > 0.9 and found[-1] == 0


def test_is_what_the_attack_and_the_network_say_by_hand():
    attack = PGD(0.15, steps=3)
    found = evaluate(NETWORK, X, Y, attack, seed=8)
    x_adv = attack(NETWORK, X, Y, seed=8)
    entropy = keras.losses.sparse_categorical_crossentropy
    for images, loss, right in (
        (X, found.loss, found.correct),
        (x_adv, found.robust_loss, found.robust),
    ):
        logits = NETWORK(images)
        np.testing.assert_allclose(loss, entropy(Y, logits, from_logits=True), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(right, np.argmax(logits, -1) == Y)
    other = evaluate(NETWORK, X, Y, attack, seed=9)
    assert not np.array_equal(other.robust_loss, found.robust_loss)


def test_is_traced_once_whatever_the_number_of_images():
    traces = []

    def model(x):
        traces.append(x.shape)
        return NETWORK(x)

    evaluator = Evaluator(model, batch_size=32)
    for n in (70, 32, 5):
        evaluator(X[:n], Y[:n])
    assert len(traces) == 1


def without_gradient(x):
    return NETWORK(x) + tf.sqrt(0 * tf.reduce_sum(x, (1, 2, 3)))[:, None]


def blind_to_nan(x):
    return without_gradient(tf.where(tf.math.is_nan(x), 0.0, x))


REFUSED = {
    "range": (lambda: accuracy(NETWORK, X * 2, Y), r"images in \[0, 1\]; received"),
    "nan": (lambda: accuracy(NETWORK, X * np.nan, Y), r"images in \[0, 1\]; received nan"),
    "lengths": (lambda: accuracy(NETWORK, X, Y[:3]), "received 70 and 3"),
    "empty": (lambda: accuracy(NETWORK, X[:0], Y[:0]), "length above 0"),
    "one-hot": (lambda: accuracy(NETWORK, X, np.eye(4)[Y]), "integer labels"),
    "negative": (lambda: accuracy(NETWORK, X, Y - 1), "labels from 0; received -1"),
    "beyond": (
        lambda: accuracy(NETWORK, X, Y + 1),
        "labels below 4, the number of logits; received 4",
    ),
    "nan logits": (lambda: accuracy(lambda x: NETWORK(x) * np.nan, X, Y), "not finite for 70"),
    "nan gradients": (
        lambda: evaluate(without_gradient, X, Y, PGD(0.1, steps=3)),
        r"PGD\(epsilon=0.1, steps=3\) gave images or logits that are not finite for \d+ images; "
        "the model's gradients are NaN",
    ),
    "nan images that the model passes over": (
        lambda: robust_accuracy(blind_to_nan, X, Y, PGD(0.1, "l2", steps=2)),
        r"gave images or logits that are not finite for \d+ images",
    ),
    "batch size": (lambda: accuracy(NETWORK, X, Y, batch_size=0), "batch_size must be at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
