"""Attacks of a training whose radius follows a schedule."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import FGSM, PGD, Adversarial, Fast, Free, Mixed, Natural, RobustTrainer, Trades
from rst_tf.attacks import ATTACKS
from rst_tf.schedules import SCHEDULES, Constant, Cycle, Exponential, Jump, Linear

X, Y = easy_data(16)
RISING = Linear(0.0, 1.0)
TABLE = {
    "adversarial": Adversarial(PGD(0.2, steps=2)),
    "l2": Adversarial(PGD(1.0, "l2", steps=2, step_size=0.4, restarts=2)),
    "fgsm": Adversarial(FGSM(0.2, start="uniform")),
    "mixed": Mixed(PGD(0.2, steps=2, iterate="best")),
    "trades": Trades(PGD(0.2, steps=2, step_size=0.1)),
    "free": Free(0.2, repeats=2),
    "fast": Fast(0.2, step_size=0.15),
}
every_objective = pytest.mark.parametrize("name", TABLE)


def noise_of(objective):
    chance = np.random.default_rng(0)
    found = chance.uniform(-objective.training_attack.epsilon, 0.2, X.shape).astype("float32")
    return {"noise": tf.constant(found)} if objective.carries_noise else {}


@every_objective
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_a_scaled_objective_attacks_as_one_with_that_epsilon(name, factor):
    """A factor that is known only in the graph does what a number in the configuration does."""
    objective = TABLE[name]
    keras.utils.set_random_seed(0)
    network, x, y = small(), tf.constant(X), tf.constant(Y)

    @tf.function
    def perturbed(factor):
        scaled = objective.scaled(factor)
        return scaled.perturb(network, x, y, 5, tf.range(16), **noise_of(objective))

    found = perturbed(tf.constant(factor, tf.float32))
    if factor == 0:
        np.testing.assert_allclose(found, X, atol=1e-7)
        return
    epsilon = {"epsilon": factor * objective.training_attack.epsilon}
    attack = getattr(objective, "attack", None)
    own = objective if attack is None else attack
    if own.step_size is not None:
        epsilon["step_size"] = factor * own.step_size
    other = dataclasses.replace(own, **epsilon)
    other = other if attack is None else dataclasses.replace(objective, attack=other)
    noise = noise_of(objective)
    expected = other.perturb(network, x, y, 5, tf.range(16), **noise)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "fast"])  # needs a split
def test_a_training_uses_the_factor_of_its_step(name):
    """The radius that the network is trained under, read off the images it sees."""
    objective = dataclasses.replace(TABLE[name], epsilon_schedule=RISING)
    keras.utils.set_random_seed(0)
    trainer = RobustTrainer(small(), objective)
    trainer.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    trainer.schedule_epsilon(5, 1)
    seen = []

    class Watched(type(objective)):
        def loss(self, network, x, x_adv, y):
            delta = (x_adv - x).numpy().reshape(len(x), -1)
            l2 = objective.training_attack.norm == "l2"
            seen.append((np.linalg.norm(delta, axis=1) if l2 else np.abs(delta)).max())
            return super().loss(network, x, x_adv, y)

    own = {f.name: getattr(objective, f.name) for f in dataclasses.fields(objective)}
    trainer.objective = Watched(**own)
    trainer.fit(X, Y, batch_size=16, epochs=6, verbose=0, shuffle=False)
    radius = objective.training_attack.epsilon
    expected = np.repeat(radius * np.array([0, 0.2, 0.4, 0.6, 0.8, 0.8]), objective.repeats)
    assert (np.array(seen) <= expected + 1e-5).all()
    assert (np.array(seen)[objective.repeats :] > 0.8 * expected[objective.repeats :] - 0.05).all()
    assert trainer.evaluation_attack.epsilon == radius


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_an_attack_follows_or_is_refused(attack):
    if attack in ("pgd", "fgsm"):
        Adversarial(ATTACKS[attack](0.1), epsilon_schedule=RISING)
        return
    made = ATTACKS[attack](0.1, **({"source": small()} if attack == "transferred" else {}))
    with pytest.raises(ValueError, match="an epsilon schedule needs the attack pgd or fgsm"):
        Adversarial(made, epsilon_schedule=RISING)


def scheduled(schedule, call=True):
    trainer = RobustTrainer(small(), Adversarial(PGD(0.1), epsilon_schedule=schedule))
    trainer.compile(jit_compile=False)
    if call:
        trainer.schedule_epsilon(20, 4)
    trainer.fit(X, Y, verbose=0)


REFUSED = {
    "natural": (lambda: Natural(epsilon_schedule=RISING), "no effect without a training attack"),
    "above one": (lambda: scheduled(Cycle()), r"must stay in \[0, 1\].* from 2 to 5|from 1 to 5"),
    "never laid": (lambda: scheduled(RISING, call=False), "call schedule_epsilon"),
    "start": (lambda: Linear(-1.0), "start must be at least 0; received -1.0"),
    "factor": (lambda: Exponential(0.0), "factor must be above 0; received 0.0"),
    "interval": (lambda: Jump(interval="x"), "interval must be a number of steps"),
    "first": (lambda: Jump(first="0ep"), "first must be a number of steps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


SHAPES = {
    "constant": (Constant(), [1] * 8),
    "linear": (Linear(0.2, 1.0), [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
    "exponential": (Exponential(0.25, 4), [2 ** (-t / 2) for t in range(8)]),
    "rising": (Exponential(2, 1, 0.1, limit=0.5), [0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5]),
    "jump": (Jump(0.5, 2, 3), [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
    "jump up": (Jump(2, "1ep", start=0.25, limit=1), [0.25, 0.25, 0.5, 0.5, 1, 1, 1, 1]),
    "jump down": (Jump(0.5, 2, limit=0.3), [1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]),
    "warm": (Linear(1.0, 0.5, warmup=4), [0.25, 0.5, 0.75, 1, 1, 0.875, 0.75, 0.625]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_schedules_give_these_numbers(name):
    schedule, expected = SHAPES[name]
    assert type(schedule) in list(SCHEDULES.values())
    np.testing.assert_allclose(schedule.factors(8, 2), expected, rtol=1e-6)
