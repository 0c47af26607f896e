import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.keras_optimizers import CoupledSGD, StepTable
from rst_tf.optimizers import OPTIMIZERS, SGD, Adam
from rst_tf.schedules import SCHEDULES, Constant, Cosine, Steps, steps_of


def stepped(optimizer, gradients, start=1.0):
    p = keras.Variable(np.full((2,), start, "float32"))
    for g in gradients:
        optimizer.apply([tf.fill([2], float(g))], [p])
    return p.numpy()[0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_coupled_sgd_is_the_published_recurrence(nesterov):
    rate, m, wd, p, v = 0.1, 0.9, 0.01, 1.0, 0.0
    gradients = [0.5, -1.0, 2.0, 0.0]
    for g in gradients:
        g = g + wd * p
        v = m * v + g
        p -= rate * (g + m * v if nesterov else v)
    found = stepped(CoupledSGD(rate, m, wd, nesterov), gradients)
    assert found == pytest.approx(p, rel=1e-6)


def test_coupled_decay_differs_from_keras():
    gradients = [0.5] * 5
    keras_sgd = keras.optimizers.SGD(0.1, 0.9, weight_decay=0.1)
    assert stepped(CoupledSGD(0.1, 0.9, 0.1), gradients) != pytest.approx(
        stepped(keras_sgd, gradients), abs=1e-4
    )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimiser_builds_follows_its_schedule_and_serialises(name):
    optimizer = OPTIMIZERS[name](learning_rate=0.5, schedule=Steps(), weight_decay=1e-3).build(8)
    rates = []
    p = keras.Variable(np.ones(2, "float32"))
    for _ in range(8):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([tf.ones(2)], [p])
    np.testing.assert_allclose(rates, [0.5] * 4 + [0.05] * 2 + [0.005] * 2, rtol=1e-6)
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_start_at_one_and_do_not_grow(name):
    values = [SCHEDULES[name]().value(t / 20) for t in range(21)]
    assert values[0] == 1 and all(a >= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_configurations_reach_the_optimiser(nesterov, decay):
    built = SGD(learning_rate=0.3, momentum=0.7, nesterov=nesterov, weight_decay=decay).build(9)
    config = built.get_config()
    assert (config["momentum"], config["nesterov"], config["weight_decay"]) == (
        0.7,
        nesterov,
        decay,
    )
    assert float(built.learning_rate) == pytest.approx(0.3)
    assert Adam(weight_decay=decay).build(9).weight_decay == (decay or None)


def test_cosine_is_half_a_cosine():
    values = [Cosine().value(t) for t in (0, 0.25, 0.5, 0.75, 1)]
    np.testing.assert_allclose(values, [1, 0.85355, 0.5, 0.14645, 0], atol=1e-5)


def test_a_table_has_one_rate_per_step_of_the_training():
    built = Adam(learning_rate=1.0, schedule=Cosine()).build(4)
    found = [float(built.learning_rate)]
    p = keras.Variable(np.ones(1, "float32"))
    for _ in range(3):
        built.apply([tf.ones(1)], [p])
        found.append(float(built.learning_rate))
    np.testing.assert_allclose(found, [1, 0.85355, 0.5, 0.14645], atol=1e-5)


def test_cosine_passes_the_middle_and_ends_at_its_floor():
    assert Cosine(0.2).value(0.5) == pytest.approx(0.6) and Cosine(0.2).value(1) == 0.2


def test_a_table_holds_its_last_rate():
    assert float(StepTable([1, 2, 3])(tf.constant(9))) == 3


DURATIONS = {"0.126ep": 13, "0.124ep": 12, 500: 500, "500": 500, "12ep": 1200, "0.5ep": 50, 1: 1}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text):
    assert steps_of(text, 100) == DURATIONS[text]


@pytest.mark.parametrize("text", [0, -3, "12 epochs", "1.5", "", "0ep"])
def test_durations_that_are_none(text):
    with pytest.raises(ValueError, match="train_steps must be a number of steps above 0 such as"):
        steps_of(text, 100, "train_steps")


REFUSED = {
    "rate": (lambda: Adam(learning_rate=0), "learning_rate must be above 0; received"),
    "decay": (lambda: SGD(weight_decay=-1), "weight_decay must be at least 0; received"),
    "momentum": (lambda: CoupledSGD(momentum=1), r"momentum must be in \[0, 1\); received"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_default_schedule_is_constant():
    assert SGD().schedule == Constant() and SGD(0.3).build(5).get_config()["momentum"] == 0.9
