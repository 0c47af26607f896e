import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import FGSM, PGD
from rst_tf.attacks import ATTACKS, Attack

X, Y = easy_data(12)


def model(scale=1.0):
    keras.utils.set_random_seed(1)
    network = small()
    last = network.layers[-1].masked["kernel"].kernel
    last.assign(last * scale)
    return network


NETWORK = model()
# Every registered attack, in both norms, in every mode it has.
TABLE = {
    "fgsm": FGSM(0.1),
    "fgsm-rs": FGSM(0.1, start="uniform"),
    "fgsm-l2": FGSM(0.5, "l2"),
    "fgsm-predicted": FGSM(0.1, label="predicted"),
    "pgd": PGD(0.1),
    "pgd-l2": PGD(0.5, "l2"),
    "pgd-clean": PGD(8 / 255, start="clean", steps=3),
    "pgd-gaussian": PGD(0.1, start="gaussian", loss="kl"),
    "pgd-restarts": PGD(0.1, steps=3, restarts=3),
    "pgd-best": PGD(0.3, steps=5, iterate="best", step_size=0.3),
    "pgd-best-l2-restarts": PGD(1.0, "l2", steps=3, iterate="best", restarts=2),
    "pgd-predicted": PGD(0.3, label="predicted"),
}
every_attack = pytest.mark.parametrize("name", TABLE)


def test_the_table_has_every_registered_attack():
    assert {type(a) for a in TABLE.values()} == set(ATTACKS.values())


def run(attack, x=X, y=Y, network=NETWORK, **options):
    return attack(network, x, y, **options).numpy()


def size(attack, delta):
    flat = delta.reshape(len(delta), -1)
    return np.abs(flat).max(1) if attack.norm == "linf" else np.linalg.norm(flat, axis=1)


def loss(x, y=Y, network=NETWORK):
    return keras.losses.sparse_categorical_crossentropy(y, network(x), from_logits=True).numpy()


@every_attack
def test_stays_in_the_ball_and_in_the_box_and_moves(name):
    attack = TABLE[name]
    x_adv = run(attack)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (size(attack, x_adv - X) <= attack.epsilon * (1 + 1e-5) + 1e-6).all()
    assert (size(attack, x_adv - X) > 0.2 * attack.epsilon).all()


@every_attack
def test_raises_the_loss(name):
    attack = TABLE[name]
    y = Y if attack.label == "true" else np.argmax(NETWORK(X), -1)
    assert loss(run(attack), y).mean() > loss(X, y).mean() + 0.01


@every_attack
def test_is_pure_in_its_seed(name):
    attack = TABLE[name]
    np.testing.assert_array_equal(run(attack, seed=3), run(attack, seed=3))
    drawn = attack.start != "clean"
    assert np.array_equal(run(attack, seed=3), run(attack, seed=4)) != drawn


@every_attack
def test_an_example_does_not_depend_on_its_batch(name):
    attack, index = TABLE[name], np.arange(100, 112)
    whole = run(attack, index=index)
    order = np.array([5, 0, 11, 3])
    part = run(attack, X[order], Y[order], index=index[order])
    np.testing.assert_allclose(part, whole[order], atol=2e-5)


@every_attack
def test_is_the_same_in_a_graph_with_and_without_xla(name):
    attack = TABLE[name]
    eager = run(attack, seed=7)
    for jit in (False, True):
        f = tf.function(lambda x, y, a=attack: a(NETWORK, x, y, seed=7), jit_compile=jit)
        found = f(tf.constant(X), tf.constant(Y)).numpy()
        assert np.mean(np.abs(found - eager) > 1e-4) < 0.02


@every_attack
def test_gives_no_gradient_and_takes_none_from_the_weights(name):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = TABLE[name](NETWORK, x, Y)
    assert tape.gradient(out, [x, *[v.value for v in NETWORK.trainable_variables]]) == [None] * 5


@every_attack
def test_scaled_logits_do_not_stop_it(name):
    """Saturated softmax must not hide the gradient: DEEPSEC and ART failed here."""
    attack, sharp = TABLE[name], model(scale=30)
    assert (size(attack, run(attack, network=sharp) - X) > 0.2 * attack.epsilon).mean() > 0.9


@every_attack
def test_prints_its_settings_and_is_replaced_not_changed(name):
    attack = TABLE[name]
    assert str(attack).startswith(type(attack).__name__ + "(epsilon=")
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.epsilon = 1
    assert dataclasses.replace(attack, epsilon=0.01).epsilon == 0.01


def test_names_epsilons_as_people_do():
    assert str(PGD(8 / 255, steps=20)) == "PGD(epsilon=8/255, steps=20)"
    assert str(FGSM(0.2, "l2")) == "FGSM(epsilon=0.2, norm=l2)"


def test_fgsm_is_the_published_formula():
    x, epsilon = tf.constant(X), 0.07
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = keras.losses.sparse_categorical_crossentropy(Y, NETWORK(x), from_logits=True)
    expected = np.clip(X + epsilon * np.sign(tape.gradient(value, x)), 0, 1)
    np.testing.assert_allclose(run(FGSM(epsilon)), expected, atol=1e-6)


def test_pgd_with_one_step_of_epsilon_is_fgsm():
    one = PGD(0.07, steps=1, step_size=0.07, start="clean")
    np.testing.assert_array_equal(run(one), run(FGSM(0.07)))


def test_pgd_is_the_published_loop():
    attack = PGD(0.1, steps=4, step_size=0.04, start="clean")
    now = X.copy()
    for _ in range(4):
        x = tf.constant(now)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = keras.losses.sparse_categorical_crossentropy(Y, NETWORK(x), from_logits=True)
        now = now + 0.04 * np.sign(tape.gradient(value, x))
        now = np.clip(np.clip(now, X - 0.1, X + 0.1), 0, 1).astype("float32")
    np.testing.assert_allclose(run(attack), now, atol=1e-6)


def test_best_iterate_and_restarts_never_do_worse():
    wild = PGD(0.3, steps=6, step_size=0.3)
    best = dataclasses.replace(wild, iterate="best")
    more = dataclasses.replace(best, restarts=4)
    values = [loss(run(a, seed=5)) for a in (wild, best, more)]
    assert (values[1] >= values[0] - 1e-5).all() and (values[2] >= values[1] - 1e-5).all()
    assert values[2].mean() > values[0].mean()


def test_predicted_label_ignores_the_given_one():
    attack = PGD(0.1, label="predicted")
    np.testing.assert_array_equal(run(attack, y=Y), run(attack, y=(Y + 1) % 4))


def test_the_trace_does_not_grow_with_the_steps():
    def nodes(steps):
        f = tf.function(lambda x, y: PGD(0.1, steps=steps)(NETWORK, x, y))
        return len(f.get_concrete_function(tf.constant(X), tf.constant(Y)).graph.get_operations())

    assert nodes(100) == nodes(2)


def test_l2_start_fills_the_ball_and_linf_the_cube():
    x = np.full((400, 6, 6, 1), 0.5, "float32")
    y = np.zeros(400, "int32")
    for norm, mean in (("l2", 36 / 37), ("linf", 0.5)):
        attack = PGD(0.2, norm, steps=1, step_size=1e-9)
        delta = np.asarray(attack(NETWORK, x, y)) - x
        flat = delta.reshape(400, -1)
        found = np.linalg.norm(flat, axis=1) if norm == "l2" else np.abs(flat).mean(1)
        assert found.mean() == pytest.approx(0.2 * mean, rel=0.02)
        assert np.abs(flat.mean(0)).max() < 0.05


REFUSED = {
    "epsilon 8": (lambda: PGD(8), "epsilon must be at most 1.*8/255, not 8.*received epsilon=8"),
    "epsilon 0": (lambda: FGSM(0), "epsilon must be above 0; received epsilon=0"),
    "norm": (lambda: PGD(0.1, "l1"), "norm must be linf or l2; received norm='l1'"),
    "steps": (lambda: PGD(0.1, steps=0), "steps must be at least 1; received 0"),
    "restarts": (lambda: PGD(0.1, restarts=2, start="clean"), "would all be the same"),
    "iterate": (lambda: PGD(0.1, iterate="first"), "iterate must be one of"),
    "one-hot": (lambda: run(PGD(0.1), y=np.eye(4)[Y]), "y must be integer labels"),
    "image range": (lambda: run(PGD(0.1), x=X * 255), r"images in \[0, 1\]; received values from"),
    "lengths": (lambda: run(PGD(0.1), y=Y[:3]), "of one length; received 12 and 3"),
    "model": (lambda: PGD(0.1)("model", X, Y), "model must be a Keras model or a callable"),
    "kl from clean": (lambda: FGSM(0.1, loss="kl"), "kl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_epsilon_has_no_default():
    with pytest.raises(TypeError, match="epsilon"):
        PGD()
    assert dataclasses.fields(Attack)[0].default is dataclasses.MISSING
