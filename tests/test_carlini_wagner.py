"""Carlini & Wagner's attacks: against formulas, and against closed forms of linear networks."""

import digits
import numpy as np
import pytest
import tensorflow as tf

from rst_tf import APGD, PGD, CarliniWagner

CHANCE = np.random.default_rng(0)
WEIGHTS = CHANCE.normal(size=(12, 3)).astype("float32")
X = CHANCE.uniform(0.35, 0.65, (20, 12)).astype("float32")


def linear(x):
    return tf.convert_to_tensor(x) @ WEIGHTS


Y = np.argmax(X @ WEIGHTS, axis=1).astype("int32")


def distances():
    """From each image to the nearest boundary, which is a plane."""
    z = X @ WEIGHTS
    far = np.full(len(X), np.inf)
    for other in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = z[np.arange(20), Y] - z[:, other]
            way = gap / np.linalg.norm((WEIGHTS[:, Y] - WEIGHTS[:, [other]]).T, axis=1)
        far = np.where(other == Y, far, np.minimum(far, way))
    return far


EPSILON = float(np.median(distances()))


@pytest.fixture(scope="module")
def nearest():
    attack = CarliniWagner(EPSILON, "l2", steps=150, searches=5, constant=0.1)
    return tf.function(lambda x, y: attack(linear, x, y))(tf.constant(X), tf.constant(Y)).numpy()


def test_in_l2_it_finds_nearly_the_nearest_point_beyond_a_plane(nearest):
    found = np.linalg.norm(nearest - X, axis=1)
    hit = found > 0
    assert 3 < hit.sum() < 17
    assert (found[hit] >= distances()[hit] * 0.999).all()
    assert np.median(found[hit] / distances()[hit]) < 1.05


def test_in_l2_what_lies_beyond_epsilon_does_not_count(nearest):
    fooled = np.argmax(linear(nearest), axis=1) != Y
    np.testing.assert_array_equal(fooled, (nearest != X).any(1))
    assert not fooled[distances() > EPSILON].any()
    assert fooled[distances() < 0.85 * EPSILON].all()


@pytest.mark.parametrize("confidence", [0.0, 0.2])
def test_in_l2_the_margin_reaches_the_confidence(confidence):
    attack = CarliniWagner(2.0, "l2", steps=60, searches=3, constant=1, confidence=confidence)
    z = linear(attack(linear, X, Y)).numpy()
    own = z[np.arange(20), Y]
    z[np.arange(20), Y] = -np.inf
    margin = z.max(1) - own
    assert (margin >= confidence - 1e-5).all() and np.median(margin) < confidence + 0.15


def test_in_linf_it_climbs_the_margin_by_sign_steps_up_to_the_confidence():
    """Written out for a linear network, whose gradient is a difference of weights."""
    attack = CarliniWagner(0.2, steps=4, confidence=0.5)
    seen = []

    def spy(x):
        seen.append(np.asarray(x))
        return linear(x)

    last = attack(spy, X, Y).numpy()
    now = seen[0]
    assert (np.abs(now - X) <= 0.2 + 1e-6).all() and len(seen) == 4
    for step in range(4):
        np.testing.assert_allclose(seen[step], now, atol=1e-6)
        z = now @ WEIGHTS
        others = np.where(np.arange(3) == Y[:, None], -np.inf, z)
        best = others.argmax(1)
        going = others.max(1) - z[np.arange(20), Y] < 0.5
        way = np.sign(WEIGHTS.T[best] - WEIGHTS.T[Y]) * going[:, None]
        now = np.clip(np.clip(now + 0.125 * way, X - 0.2, X + 0.2), 0, 1)
    np.testing.assert_allclose(last, now, atol=1e-6)


def standing(attack):
    x, y = digits.attacked()
    run = tf.function(lambda x, y: attack(digits.network(), x, y))
    x_adv = run(tf.constant(x), tf.constant(y))
    return int((np.argmax(digits.network()(x_adv), axis=1) == y).sum())


def test_on_the_digits_it_is_as_strong_as_pgd():
    assert standing(CarliniWagner(0.15, steps=20)) <= standing(PGD(0.15, steps=20)) + 12


@pytest.mark.slow
def test_on_the_digits_in_l2_it_comes_near_apgd():
    found = standing(CarliniWagner(0.8, "l2", searches=6))
    assert abs(found - standing(APGD(0.8, "l2"))) <= 15


REFUSED = {
    "steps": (lambda: CarliniWagner(0.1, steps=0), "steps must be at least 1; received steps=0"),
    "step size": (lambda: CarliniWagner(0.1, step_size=-1.0), "step_size must be above 0"),
    "constant": (lambda: CarliniWagner(1, "l2", constant=0.0), "constant must be above 0"),
    "confidence": (lambda: CarliniWagner(0.1, confidence=-1.0), "confidence must be at least 0"),
    "idle": (lambda: CarliniWagner(0.1, searches=3), "searches has an effect only in norm='l2'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
