import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

from rst_tf import APGD, FGSM, PGD, CarliniWagner, Normalization, Transferred
from rst_tf.attacks import ATTACKS, Attack
from rst_tf.attacks._geometry import NORMS
from rst_tf.attacks._lanes import lanes
from rst_tf.attacks._losses import cross_entropy, divergence
from rst_tf.attacks.attack import logits_of
from rst_tf.attacks.fab import FAB
from rst_tf.attacks.square import Square
from rst_tf.models import MLP, LeNet5

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
    "pgd-scored": PGD(0.3, steps=5, iterate="scored", step_size=0.3),
    "pgd-predicted": PGD(0.3, label="predicted"),
    "pgd-early-stop": PGD(0.1, early_stop=True),
    "pgd-early-stop-l2-restarts": PGD(1.0, "l2", steps=3, restarts=2, early_stop=True),
    "apgd-best": APGD(0.1, steps=4, restarts=2, returns="best"),
    "apgd-best-l2": APGD(0.5, "l2", steps=4, loss="margin", returns="best"),
    "cw": CarliniWagner(0.1, steps=4),
    "transferred": Transferred(0.1, source=model()),
}
# Those that give the clean image back where they do not succeed, at the radius they need here.
HOMING = {
    "apgd": APGD(0.4, steps=4, restarts=2),
    "apgd-dlr-l2": APGD(1.6, "l2", steps=5, loss="dlr"),
    "apgd-t": APGD(0.4, steps=4, loss="dlr", targets=2, eot=2),
    "cw-l2": CarliniWagner(1.6, "l2", steps=12, step_size=0.15, searches=2, constant=1.0),
    "fab": FAB(0.4, steps=5),
    "fab-t-l2": FAB(1.6, "l2", steps=5, targets=2),
    "square": Square(0.4, queries=15),
    "square-l2": Square(2.5, "l2", queries=12, restarts=2),
}
EVERY = TABLE | HOMING
STILL = [name for name, a in TABLE.items() if getattr(a, "start", "uniform") == "clean"]
STILL += ["cw-l2", "fab", "fab-t-l2"]  # which draw nothing
STRAYING = ("cw-l2", "fab", "fab-t-l2")  # on their way they leave the ball
OWN_LABEL = [name for name, attack in TABLE.items() if hasattr(attack, "label")]
every_attack = pytest.mark.parametrize("name", EVERY)
every_moving = pytest.mark.parametrize("name", TABLE)
every_homing = pytest.mark.parametrize("name", HOMING)


def test_the_table_has_every_registered_attack():
    assert {type(a) for a in EVERY.values()} == set(ATTACKS.values())


def run(attack, x=X, y=Y, network=NETWORK, **options):
    return attack(network, x, y, **options).numpy()


def size(attack, delta):
    flat = delta.reshape(len(delta), -1)
    return np.abs(flat).max(1) if attack.norm == "linf" else np.linalg.norm(flat, axis=1)


def loss(x, y=Y, network=NETWORK):
    return keras.losses.sparse_categorical_crossentropy(y, network(x), from_logits=True).numpy()


RIGHT = np.argmax(NETWORK(X), axis=-1).astype("int32")


def labels(name):
    """Which the table's attacks are given; those that home in start from images that are right."""
    return RIGHT if name in HOMING else Y


@every_attack
def test_stays_in_the_ball_and_in_the_box(name):
    attack = EVERY[name]
    x_adv = run(attack, y=labels(name))
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (size(attack, x_adv - X) <= attack.epsilon * (1 + 1e-5) + 1e-6).all()


@every_moving
def test_moves(name):
    attack = TABLE[name]
    assert (size(attack, run(attack) - X) > 0.2 * attack.epsilon).all()


@every_homing
def test_moves_what_it_fools_and_nothing_else(name):
    for y in (RIGHT, Y):
        x_adv = run(HOMING[name], y=y)
        fooled = np.argmax(NETWORK(x_adv), axis=-1) != y
        moved = (x_adv != X).any((1, 2, 3))
        assert y is Y or fooled.sum() > 1
        np.testing.assert_array_equal(moved, fooled & (y == RIGHT))


EDGE = np.clip(2 * X - 0.4, 0, 1).astype("float32")  # a third of its pixels at the box


def watched(attack, x=X, **options):
    """The adversarial images, and all images that the model was shown on the way."""
    seen = []

    def model(now):
        seen.append(np.asarray(now))
        return NETWORK(now, training=False)

    return run(attack, x, network=model, **options), seen


@pytest.mark.parametrize("name", [*EVERY, "narrow"])
def test_the_model_is_shown_only_images_in_the_ball_and_in_the_box(name):
    attack = {**EVERY, "narrow": PGD(5e-4, start="gaussian")}[name]
    for now in watched(attack, EDGE)[1]:
        assert now.min() >= 0 and now.max() <= 1
        if name not in STRAYING and len(now) == len(EDGE):
            assert (size(attack, now - EDGE) <= attack.epsilon * (1 + 1e-5) + 1e-6).all()


@every_attack
def test_raises_the_loss(name):
    attack = EVERY[name]
    y = RIGHT if getattr(attack, "label", "true") == "predicted" else labels(name)
    assert loss(run(attack, y=labels(name)), y).mean() > loss(X, y).mean() + 0.01


@every_attack
def test_is_pure_in_its_seed(name):
    attack, y = EVERY[name], labels(name)
    first, again, other = (run(attack, y=y, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (name in STILL)


@every_attack
def test_an_example_does_not_depend_on_its_batch(name):
    attack, y, index = EVERY[name], labels(name), np.arange(100, 112)
    whole = run(attack, y=y, index=index)
    order = np.array([5, 0, 11, 3])
    part = run(attack, X[order], y[order], index=index[order])
    np.testing.assert_allclose(part, whole[order], atol=2e-5)


COMPILED = ("fgsm-rs", "pgd", "pgd-best-l2-restarts", "cw", "apgd-t", "fab", "square")


@pytest.mark.parametrize(
    "name", [n if n in COMPILED else pytest.param(n, marks=pytest.mark.slow) for n in EVERY]
)
def test_is_the_same_in_a_graph_with_and_without_xla(name):
    attack, y = EVERY[name], labels(name)
    eager = run(attack, y=y, seed=7)
    for jit in (False, True)[: 1 if isinstance(attack, Square) else 2]:
        f = tf.function(lambda x, y, a=attack: a(NETWORK, x, y, seed=7), jit_compile=jit)
        found = f(tf.constant(X), tf.constant(y)).numpy()
        assert np.mean(np.abs(found - eager) > 1e-4) < 0.02


@every_attack
def test_gives_no_gradient_and_takes_none_from_the_weights(name):
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = EVERY[name](NETWORK, x, labels(name))
    assert tape.gradient(out, [x, *[v.value for v in NETWORK.trainable_variables]]) == [None] * 5


@every_homing
def test_scaled_logits_do_not_save_a_network(name):
    attack, sharp = HOMING[name], model(scale=30)
    y = np.argmax(sharp(X), axis=-1)
    plain, scaled = run(attack, y=RIGHT), run(attack, y=y, network=sharp)
    fooled = (np.argmax(sharp(scaled), axis=-1) != y).sum()
    assert fooled >= 0.7 * (np.argmax(NETWORK(plain), axis=-1) != RIGHT).sum()


@every_moving
def test_scaled_logits_do_not_stop_it(name):
    """Saturated softmax must not hide the gradient: DEEPSEC and ART failed here."""
    attack, sharp = TABLE[name], model(scale=30)
    assert (size(attack, run(attack, network=sharp) - X) > 0.2 * attack.epsilon).mean() > 0.9


@every_attack
def test_prints_its_settings_and_is_replaced_not_changed(name):
    attack = EVERY[name]
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


LOOPS = {  # attack, images shown before its loop, steps, length of a step
    "step size": (PGD(0.1, steps=4, step_size=0.04, start="clean"), 0, 4, 0.04),
    "default step size": (PGD(0.1, steps=4), 0, 4, 0.0625),
    "l2": (PGD(0.6, "l2", steps=3), 0, 3, 0.5),
    "divergence": (PGD(0.1, steps=3, loss="kl"), 1, 3, 0.25 / 3),
    "gaussian": (PGD(0.1, steps=3, start="gaussian", loss="kl"), 1, 3, 0.25 / 3),
    "fgsm": (FGSM(0.1), 0, 1, 0.1),
    "fgsm from a uniform start": (FGSM(0.1, start="uniform"), 0, 1, 0.125),
    "fgsm with a step size": (FGSM(0.1, start="uniform", step_size=0.05), 0, 1, 0.05),
    "fgsm, divergence": (FGSM(0.1, start="uniform", loss="kl"), 1, 1, 0.125),
}


@pytest.mark.parametrize("name", LOOPS)
def test_pgd_is_the_published_loop(name):
    attack, before, steps, length = LOOPS[name]
    found, seen = watched(attack, EDGE)
    now, p = seen[before], tf.nn.softmax(NETWORK(EDGE))
    for _ in range(steps):
        x = tf.constant(now)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = NETWORK(x)
            value = keras.losses.sparse_categorical_crossentropy(Y, logits, from_logits=True)
            if attack.loss == "kl":
                value = keras.losses.kl_divergence(p, tf.nn.softmax(logits))
        gradient = tape.gradient(value, x).numpy()
        if attack.norm == "linf":
            moved = now + length * np.sign(gradient)
            now = np.clip(np.clip(moved, EDGE - attack.epsilon, EDGE + attack.epsilon), 0, 1)
        else:
            up = gradient / np.linalg.norm(gradient.reshape(12, -1), axis=1)[:, None, None, None]
            delta = np.clip(now + length * up, 0, 1) - EDGE
            far = np.linalg.norm(delta.reshape(12, -1), axis=1)[:, None, None, None]
            now = EDGE + delta * np.minimum(1, attack.epsilon / far)
        now = now.astype("float32")
    np.testing.assert_allclose(found, now, atol=1e-5)


@pytest.mark.parametrize("iterate", ["last", "best", "scored"])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_visited_image_with_the_highest_loss_is_returned(norm, restarts, iterate):
    attack = PGD(0.5, norm, steps=4, step_size=0.7, restarts=restarts, iterate=iterate)
    found, seen = watched(attack)
    if iterate == "last" and restarts == 1:
        assert len(seen) == 4
        return
    length = 4 if iterate == "scored" else 5
    assert len(seen) == length * restarts
    starts = [now.tobytes() for now in seen[::length]]
    assert len(set(starts)) == restarts
    candidates = np.stack(seen[4::5] if iterate == "last" else seen)
    values = np.stack([loss(now) for now in candidates])
    np.testing.assert_array_equal(found, candidates[values.argmax(0), np.arange(12)])


STOPPING = {
    "uniform": PGD(0.3, steps=6),
    "clean": PGD(0.3, steps=6, start="clean"),
    "l2": PGD(2.0, "l2", steps=6, start="clean"),
    "predicted": PGD(0.3, steps=6, label="predicted", step_size=0.3),
    "divergence": PGD(0.3, steps=6, loss="kl"),
    "fixed point": PGD(0.3, steps=40, start="clean"),
}
every_stopping = pytest.mark.parametrize("name", STOPPING)


def wrong(x, y=Y):
    return np.argmax(NETWORK(x), -1) != y


@every_stopping
def test_early_stop_follows_the_same_way_to_the_first_misclassified_image(name):
    attack = STOPPING[name]
    y = Y if attack.label == "true" else np.argmax(NETWORK(X), -1)
    _, way = watched(attack)
    stopped, _ = watched(dataclasses.replace(attack, early_stop=True))
    way = way[-attack.steps :]  # the images of its loop
    last, _ = watched(attack)
    fooled = np.stack([wrong(now, y) for now in way])
    for i in range(len(X)):
        expected = way[fooled[:, i].argmax()][i] if fooled[:, i].any() else last[i]
        np.testing.assert_array_equal(stopped[i], expected)


@every_stopping
def test_early_stop_fools_the_network_that_it_climbs_wherever_the_last_iterate_does(name):
    attack = STOPPING[name]
    y = Y if attack.label == "true" else np.argmax(NETWORK(X), -1)
    plain, stopped = (run(dataclasses.replace(attack, early_stop=s)) for s in (False, True))
    assert wrong(plain, y).any() and (wrong(stopped, y) >= wrong(plain, y)).all()
    assert (loss(stopped, y) <= loss(plain, y) + 1e-5).mean() > 0.5
    assert not np.array_equal(plain, stopped)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_early_stop_leaves_misclassified_clean_images_as_they_are(norm):
    attack = PGD(0.3, norm, steps=5, start="clean", early_stop=True)
    labels = np.where(np.arange(12) % 2, np.argmax(NETWORK(X), -1), Y + 1) % 4
    x_adv, there = run(attack, y=labels), wrong(X, labels)
    assert there.any() and not there.all()
    np.testing.assert_array_equal(x_adv[there], X[there])
    assert (size(attack, x_adv - X)[~there] > 0.05).all()


def test_early_stop_moves_an_image_again_that_is_right_again():
    """A model that is wrong at every second call alone: half of the steps are made."""
    calls = []

    def model(x):
        calls.append(x)
        right = tf.reduce_sum(x, (1, 2, 3))
        shift = 8.0 * (-1) ** len(calls)
        return tf.stack([shift - right, right], -1)

    attack = PGD(1, steps=5, step_size=0.01, start="clean", early_stop=True)
    x = np.full((3, 2, 2, 1), 0.5, "float32")
    for labels, moves in (([0, 0, 0], 2), ([1, 1, 1], 3)):
        calls.clear()
        delta = run(attack, x, np.array(labels), network=model) - x
        np.testing.assert_allclose(np.abs(delta), 0.01 * moves, atol=1e-5)


def test_best_iterate_and_restarts_never_do_worse():
    wild = PGD(0.3, steps=6, step_size=0.3)
    best = dataclasses.replace(wild, iterate="best")
    more = dataclasses.replace(best, restarts=4)
    values = [loss(run(a, seed=5)) for a in (wild, best, more)]
    assert (values[1] >= values[0] - 1e-5).all() and (values[2] >= values[1] - 1e-5).all()
    assert values[2].mean() > values[0].mean()


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("iterate", ["last", "best", "scored"])
@pytest.mark.parametrize("broken", ["loss", "gradient", "gradient, logits finite"])
def test_a_nan_on_the_way_is_not_hidden(broken, iterate, restarts):
    """Of the loss it is seen in the logits of what comes back, of the gradient in the image."""

    @tf.custom_gradient
    def without_slope(x):
        return x, lambda up: up * float("nan")

    def model(x):
        if broken == "loss":
            return NETWORK(x) + float("nan")
        if broken == "gradient":
            return NETWORK(without_slope(x))
        return NETWORK(tf.where(tf.math.is_nan(x), 0.0, without_slope(x)))

    attack = PGD(0.1, steps=2, iterate=iterate, restarts=restarts)
    found = run(attack, network=model)
    assert (
        np.isnan(model(found) if broken == "loss" else found).reshape(len(found), -1).any(1).all()
    )


@pytest.mark.parametrize("name", OWN_LABEL)
def test_predicted_label_is_that_of_the_clean_image_whatever_is_given(name):
    attack = dataclasses.replace(TABLE[name], label="predicted")
    predicted = np.argmax(NETWORK(X), -1)
    expected = run(dataclasses.replace(attack, label="true"), y=predicted)
    np.testing.assert_array_equal(run(attack, y=(predicted + 1) % 4), expected)


def test_the_divergence_needs_no_label():
    attack = TABLE["pgd-gaussian"]
    np.testing.assert_array_equal(run(attack, y=Y), run(attack, y=(Y + 1) % 4))


@every_attack
def test_where_there_is_no_gradient_images_stay_images(name):
    attack = EVERY[name]
    x_adv = run(attack, network=lambda x: [[3.0, 1.0, 0.0, 0.0]] + 0 * x[:, 0, 0])
    assert np.isfinite(x_adv).all() and (size(attack, x_adv - X) <= attack.epsilon + 1e-6).all()
    stays = name in HOMING or name in STILL
    assert not stays or np.array_equal(x_adv, X)


@every_attack
def test_a_keras_model_is_attacked_in_inference_mode_and_left_as_it_was(name):
    network = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3),
            Normalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    before = [v.numpy() for v in network.variables]
    y = np.argmax(network(X), axis=-1) if name in HOMING else Y
    found = run(EVERY[name], y=y, network=network)
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    expected = run(EVERY[name], y=y, network=lambda x: network(x, training=False))
    np.testing.assert_array_equal(found, expected)


def test_losses_are_float32_under_mixed_precision():
    logits = tf.constant(np.random.default_rng(0).normal(size=(12, 4)), tf.bfloat16)
    exact = tf.cast(logits, tf.float32)
    for found, expected in (
        (cross_entropy(logits, Y), cross_entropy(exact, Y)),
        (divergence(logits[::-1], logits), divergence(exact[::-1], exact)),
    ):
        assert found.dtype == tf.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("early_stop", [False, True])
def test_the_trace_does_not_grow_with_the_steps(early_stop):
    def nodes(steps):
        f = tf.function(lambda x, y: PGD(0.1, steps=steps, early_stop=early_stop)(NETWORK, x, y))
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
        assert np.abs(flat.mean(0)).max() < 0.025
        assert abs(np.corrcoef(found, flat[:, 0])[0, 1]) < 0.15  # how far tells not whereto
    noise = np.asarray(PGD(0.2, start="gaussian", steps=1, step_size=1e-9)(NETWORK, x, y)) - x
    assert noise.std() == pytest.approx(0.001, rel=0.03) and abs(noise.mean()) < 5e-5


def test_what_lies_in_the_ball_once_in_the_box_is_left_there():
    x, moved = tf.constant([[1.0, 0.5]]), tf.constant([[2.0, 0.6]])
    np.testing.assert_allclose(NORMS["l2"].project(moved, x, 0.5), [[1.0, 0.6]], atol=1e-6)


@pytest.mark.parametrize("attack", [PGD, FGSM])
@pytest.mark.parametrize(("epsilon", "norm"), [(1.0, "linf"), (1, "linf"), (20.0, "l2")])
def test_the_largest_epsilons_are_accepted(attack, epsilon, norm):
    assert attack(epsilon, norm).epsilon == epsilon


PROBABILITIES = keras.Sequential(
    [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
)
REFUSED = {
    "probabilities": (
        lambda: run(PGD(0.1), network=PROBABILITIES),
        "returns probabilities.*pass rst_tf.with_logits",
    ),
    "epsilon nan": (lambda: PGD(float("nan")), "epsilon must be above 0; received epsilon=nan"),
    "step size": (lambda: PGD(0.1, step_size=0.0), "step_size must be above 0; received 0.0"),
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


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("n", "early_stop"), [(1, False), (2, True), (7, False), (7, True)])
def test_two_lanes_give_what_the_whole_batch_gives(n, early_stop, jit):
    network = MLP(hidden=(20,)).build((6, 6, 1), 4)
    chance = np.random.default_rng(n)
    x = tf.constant(chance.random((n, 6, 6, 1)), tf.float32)
    y = tf.constant(chance.integers(0, 4, n), tf.int32)
    attack = PGD(0.2, steps=3, restarts=2, iterate="best", early_stop=early_stop)
    in_lanes = tf.function(lambda x, y: attack(network, x, y), jit_compile=jit)
    at_once = attack(lambda z: network(z, training=False), x, y)
    np.testing.assert_allclose(in_lanes(x, y), at_once, atol=1e-6)


def test_only_dense_networks_in_inference_mode_are_attacked_in_lanes():
    dense, convolutional = (a.build((28, 28, 1), 4) for a in (MLP(hidden=(5,)), LeNet5()))
    found = []

    @tf.function
    def count(x):
        calls = (logits_of(dense), lambda z: dense(z, training=True), logits_of(convolutional))
        found.extend(len(lanes(call, x)) for call in calls)

    count(tf.zeros((4, 28, 28, 1)))
    assert found == [2, 1, 1]


@every_attack
def test_a_try_costs_the_passes_that_it_tells(name):
    attack, asked = EVERY[name].fitted(3), []

    def model(x):
        asked.append(len(x))
        return NETWORK(x, training=False)

    x, y = tf.constant(X), tf.constant(labels(name), tf.int32)
    attack.attempt(model, x, y, 0, tf.range(len(x)), tf.constant(0))
    forward, back = attack.passes(3)
    if name == "fab":  # the gradients of all classes share a pass forward
        back //= 3
    assert len(asked) == forward + back
