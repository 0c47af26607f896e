import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.keras_optimizers import CoupledAdam, CoupledSGD, StepTable, forget
from rst_tf.optimizers import OPTIMIZERS, SGD, Adam
from rst_tf.schedules import SCHEDULES, Constant, Cosine, Cycle, Steps, steps_of


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


def test_coupled_adam_is_the_published_recurrence():
    rate, wd, p, m, v = 0.1, 0.3, 1.0, 0.0, 0.0
    gradients = [0.5, -1.0, 2.0, 0.0]
    for step, g in enumerate(gradients, 1):
        g = g + wd * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)) ** 0.5 + 1e-8)
    assert stepped(CoupledAdam(rate, wd), gradients) == pytest.approx(p, rel=1e-5)
    decoupled = keras.optimizers.Adam(rate, weight_decay=wd)
    assert stepped(decoupled, gradients) != pytest.approx(p, abs=1e-3)


def test_adam_s_decay_is_chosen_and_serialises():
    built = Adam(0.5, Steps(), 1e-3, "coupled").build(8)
    assert built.coupled_decay == 1e-3 and not built.weight_decay
    again = CoupledAdam.from_config(built.get_config())
    assert again.get_config() == built.get_config()
    for wrong in ({"decay": "both", "weight_decay": 0.1}, {"decay": "coupled"}):
        with pytest.raises(ValueError, match="decay"):
            Adam(**wrong)


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
    values = SCHEDULES[name]().factors(20, 20)
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


KERAS = keras.optimizers
MEMORIES = {  # optimiser, and how many numbers it keeps for each weight
    "plain sgd": (lambda: KERAS.SGD(0.1), 0),
    "sgd": (lambda: KERAS.SGD(0.1, momentum=0.9), 1),
    "coupled sgd": (lambda: CoupledSGD(0.1, 0.9, 0.01), 1),
    "adam": (lambda: KERAS.Adam(0.1), 2),
    "coupled adam": (lambda: CoupledAdam(0.1, 0.01), 2),
    "amsgrad": (lambda: KERAS.Adam(0.1, amsgrad=True), 3),
    "rmsprop": (lambda: KERAS.RMSprop(0.1, momentum=0.9, centered=True), 3),
    "lion": (lambda: KERAS.Lion(0.1), 1),
    "adagrad": (lambda: KERAS.Adagrad(0.1), 1),
    "ftrl": (lambda: KERAS.Ftrl(0.1), 2),
    "adafactor": (lambda: KERAS.Adafactor(0.1), 1),
    "accumulating": (lambda: KERAS.Adam(0.1, gradient_accumulation_steps=2), 3),
    "loss scaled": (lambda: KERAS.LossScaleOptimizer(KERAS.Adam(0.1)), 2),
    "several": (lambda: KERAS.MultiOptimizer(KERAS.OptimizerMap(KERAS.Adam(0.1))), 2),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_what_is_remembered_of_pruned_weights_is_forgotten_and_nothing_else(name):
    make, slots = MEMORIES[name]
    optimizer, fresh = make(), make()
    kernels = [keras.Variable(np.full((3, 4), 0.5, "float32"), name="kernel") for _ in range(3)]
    optimizer.build(kernels)
    fresh.build(kernels)
    first = [v.numpy() for v in [*fresh.variables, *kernels]]
    rng = np.random.default_rng(0)
    for _ in range(3):
        optimizer.apply([tf.constant(rng.uniform(1, 2, (3, 4)), tf.float32) for _ in kernels])
    mask = keras.Variable(np.arange(12.0).reshape(3, 4) % 3 > 0, dtype="float32")
    before = [v.numpy() for v in [*optimizer.variables, *kernels]]
    forget(optimizer, [SimpleNamespace(kernel=kernels[2], mask=mask)])
    changed = 0
    variables = [*optimizer.variables, *kernels]
    for variable, old, new in zip(variables, before, first, strict=True):
        if not np.array_equal(variable, old):
            np.testing.assert_array_equal(variable, np.where(mask.numpy() > 0, old, new))
            changed += 1
    assert changed == slots


def test_the_average_of_a_pruned_weight_is_the_weight():
    optimizer = KERAS.SGD(0.1, use_ema=True)
    kernel = keras.Variable(np.ones((2, 3), "float32"))
    for _ in range(3):
        optimizer.apply([tf.ones((2, 3))], [kernel])
    mask = keras.Variable(np.array([[0.0, 1, 1]]))  # of a group
    forget(optimizer, [SimpleNamespace(kernel=kernel, mask=mask)])
    optimizer.finalize_variable_values([kernel])
    found = kernel.numpy()
    assert found[:, 0] == pytest.approx(0.7) and (found[:, 1:] > 0.8).all()


def test_cosine_is_half_a_cosine():
    values = [Cosine().value(t, 1, 1) for t in (0, 0.25, 0.5, 0.75, 1)]
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
    assert Cosine(0.2).value(0.5, 1, 1) == pytest.approx(0.6)
    assert Cosine(0.2).value(1, 1, 1) == 0.2


PUBLISHED = {  # section 6.2 of Fu et al. (2021)'s code: schedule, epochs, epoch: learning rate
    "cosine_lr with warm-up": (
        Cosine(warmup="5ep", each="epoch"),
        100,
        {0: 0.02, 4: 0.1, 9: 0.09956, 30: 0.08386, 50: 0.05413},
    ),
    "constant_lr with warm-up": (
        Constant(warmup="4ep", each="epoch"),
        9,
        {0: 0.025, 3: 0.1, 8: 0.1},
    ),
    "cifar_piecewise": (
        Steps(milestones=("80ep", "120ep"), each="epoch"),
        160,
        {0: 0.1, 79: 0.1, 80: 0.01, 119: 0.01, 120: 0.001, 159: 0.001},
    ),
    "cifar_piecewise of a longer training": (
        Steps(milestones=("80ep", "120ep"), each="epoch"),
        200,
        {79: 0.1, 80: 0.01, 120: 0.001},
    ),
    "cifar_piecewise_adv": (
        Steps(milestones=("50ep", "150ep"), each="epoch"),
        160,
        {49: 0.1, 50: 0.01, 150: 0.001},
    ),
    "multistep_lr_imagenet": (
        Steps(milestones=("30ep", "60ep"), each="epoch"),
        90,
        {29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001},
    ),
    "ssfd": (Cycle(), 23, {0: 0.1, 4: 0.5, 5: 0.25, 9: 0.015625, 10: 0.1, 22: 0.3}),
}


@pytest.mark.parametrize("per_epoch", [1, 7])
@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_give_the_published_rates_all_through_an_epoch(name, per_epoch):
    schedule, epochs, rates = PUBLISHED[name]
    factors = schedule.factors(epochs * per_epoch, per_epoch)
    assert len(factors) == epochs * per_epoch
    for epoch, rate in rates.items():
        found = np.array(factors[epoch * per_epoch : (epoch + 1) * per_epoch])
        np.testing.assert_allclose(0.1 * found, rate, rtol=1e-4)


def test_a_warm_up_by_steps_rises_at_every_step():
    found = Cosine(warmup=4).factors(12, 3)
    assert found[:5] == [0.25, 0.5, 0.75, 1, 1] and found[5] < 1


def test_the_last_epoch_of_a_schedule_may_be_cut():
    assert Steps(milestones=("1ep",), each="epoch").factors(5, 3) == pytest.approx(
        [1] * 3 + [0.1] * 2
    )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Constant(warmup="5ep").factors(10, 2), "warmup must be shorter than the training"),
        (lambda: Constant(warmup=3, each="epoch").factors(10, 2), "of whole epochs"),
        (lambda: Constant(each="week"), "each must be step or epoch; received each='week'"),
        (lambda: Constant(warmup="long"), "warmup must be a number of steps"),
        (lambda: Steps(milestones=("late",)), "milestones must be a number of steps"),
    ],
)
def test_a_wrong_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_table_holds_its_last_rate():
    assert float(StepTable([1, 2, 3])(tf.constant(9))) == 3


DURATIONS = {
    "0.126ep": 13,
    "0.124ep": 12,
    500: 500,
    "500": 500,
    "12ep": 1200,
    "0.5ep": 50,
    ".5ep": 50,
    1: 1,
}


@pytest.mark.parametrize("text", DURATIONS)
def test_durations(text):
    assert steps_of(text, 100) == DURATIONS[text]


@pytest.mark.parametrize("text", [0, -3, "12 epochs", "1.5", ".5", "", "0ep", ".ep"])
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
