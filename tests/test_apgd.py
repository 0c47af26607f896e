"""APGD: golden numbers, the reference's results on digits, and laws of its tries."""

import digits
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.attacks import _losses as losses
from rst_tf.attacks import _step_size
from rst_tf.attacks._average import Average
from rst_tf.attacks._geometry import NORMS
from rst_tf.attacks.apgd import APGD
from rst_tf.objectives import Adversarial
from rst_tf.trainer import evaluation_default

Z = np.array([[2, -1, 0.5, 3, 0], [5, 1, 4, -2, 0.25], [1, 1, 1, 1, 1]], "float32")
LABELS, TARGETS = np.array([0, 0, 2]), np.array([3, 2, 0])
GOLDEN = {  # loss: values, gradients of the first two rows where the specification has them
    "ce": (
        lambda z, y, t: losses.cross_entropy(z, y),
        [1.41743791, 0.33343819, 1.60943794],
        None,
    ),
    "dlr": (
        lambda z, y, t: losses.difference_of_logits_ratio(z, y),
        [0.4, -0.25, 0],
        [[-0.4, 0, 0.16, 0.24, 0], [-0.1875, -0.0625, 0.25, 0, 0]],
    ),
    "targeted dlr": (
        losses.targeted_difference_of_logits_ratio,
        [0.36363637, -0.22857143, 0],
        [
            [-0.3636364, 0, 0.0661157, 0.2314050, 0.0661157],
            [-0.1763265, -0.0261225, 0.2285714, 0, -0.0261225],
        ],
    ),
    "margin": (
        lambda z, y, t: losses.margin(z, y),
        [1, -1, 0],
        [[-1, 0, 0, 1, 0], [-1, 0, 1, 0, 0]],
    ),
}
every_loss = pytest.mark.parametrize("loss", GOLDEN)


@every_loss
def test_losses_and_their_gradients_are_the_golden_ones(loss):
    of, values, gradients = GOLDEN[loss]
    found, gradient, _ = losses.value_and_gradient(
        lambda z: z, lambda z: of(z, LABELS, TARGETS), tf.constant(Z)
    )
    np.testing.assert_allclose(found, values, atol=1e-6)
    if gradients is not None:
        np.testing.assert_allclose(gradient[:2], gradients, atol=1e-6)


def exact(loss, z, y, t):
    """The formulas in float64, sorting everything."""
    s, own = np.sort(z)[::-1], z[y]
    other = np.delete(z, y).max()
    return {
        "ce": np.log(np.exp(z - own).sum()),
        "dlr": -(own - other) / (s[0] - s[2]),
        "targeted dlr": -(own - z[t]) / (s[0] - (s[2] + s[3]) / 2),
        "margin": other - own,
    }[loss]


@every_loss
def test_gradients_are_central_differences(loss):
    chance = np.random.default_rng(3)
    inner, outer = chance.normal(size=(6, 8)), chance.normal(size=(8, 5))
    x = chance.uniform(size=(20, 6))
    y, t = chance.permuted(np.tile(np.arange(5), (20, 1)), axis=1)[:, :2].T
    third = np.argsort(-(np.tanh(x @ inner) @ outer), axis=1)[:, 2] == y
    x, y, t = x[~third], y[~third], t[~third]  # where the label ranks third, DLR has no gradient

    def value(x, i):
        return exact(loss, np.tanh(x @ inner) @ outer, y[i], t[i])

    step = 1e-6 * np.eye(6)
    expected = [
        [(value(x[i] + h, i) - value(x[i] - h, i)) / 2e-6 for h in step] for i in range(len(x))
    ]
    inner, outer = tf.constant(inner, tf.float32), tf.constant(outer, tf.float32)
    gradient = losses.value_and_gradient(
        lambda x: tf.tanh(x @ inner) @ outer,
        lambda z: GOLDEN[loss][0](z, y, t),
        tf.constant(x, tf.float32),
    )[1]
    far = np.linalg.norm(gradient - expected, axis=1)
    assert len(x) > 12 and (far <= 1e-4 * np.linalg.norm(expected, axis=1)).all()


@every_loss
def test_of_several_networks_losses_are_averaged(loss):
    of = GOLDEN[loss][0]
    other = np.random.default_rng(0).normal(size=Z.shape).astype("float32")
    one, two = of(Z, LABELS, TARGETS).numpy(), of(other, LABELS, TARGETS).numpy()
    named = {"ce": losses.cross_entropy, "dlr": losses.difference_of_logits_ratio}
    named |= {"margin": losses.margin, "targeted dlr": losses.targeted_difference_of_logits_ratio}
    labels = (LABELS, TARGETS) if loss == "targeted dlr" else (LABELS,)
    found = named[loss](np.stack([Z, other]), *labels, tf.constant([0.25, 0.75]))
    np.testing.assert_allclose(found, 0.25 * one + 0.75 * two, rtol=1e-5)


def test_where_the_label_ranks_third_the_ratio_is_one_without_a_gradient():
    z = tf.constant([[4.1, 0.2, 3.3, 5.7]])
    value, gradient, _ = losses.value_and_gradient(
        lambda z: z, lambda z: losses.difference_of_logits_ratio(z, [2]), z
    )
    np.testing.assert_array_equal(value, [1])
    np.testing.assert_array_equal(gradient, [[0, 0, 0, 0]])


CHECKPOINTS = {
    10: list(range(2, 11)),
    20: [4, 7, *range(9, 21)],
    50: [11, 21, 30, 38, 45],
    100: [22, 41, 57, 70, 80, 87, 93, 99],
    200: [44, 82, 114, 140, 160, 174, 186, 198],
}


@pytest.mark.parametrize("steps", CHECKPOINTS)
def test_checkpoints_are_the_golden_ones(steps):
    assert _step_size.checkpoints(steps) == CHECKPOINTS[steps]


def loss_histories(steps, n, seed):
    """Losses of a start and of the steps after it, [steps + 1, n], of every sort."""
    chance = np.random.default_rng(seed)
    drift = chance.normal(0, 0.4, (1, n))
    walk = np.cumsum(chance.normal(drift, 1, (steps + 1, n)), axis=0) + chance.normal(0, 9, n)
    walk[:, : n // 4] = np.round(walk[:, : n // 4] / 4)  # plateaus, and ties at both conditions
    walk[:, n // 4 : n // 3] = np.minimum.accumulate(walk[:, n // 4 : n // 3])  # never better
    walk[:, n // 3 : n // 2] = -np.abs(walk[:, n // 3 : n // 2])
    walk[chance.random(walk.shape) < 0.01] = np.nan
    return walk.astype("float32")


def literal_halvings(history, ends):
    """Conditions 1 and 2 as they are written, on the whole history."""
    start, rows = history[0], history[1:]
    before = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])  # quirk A: 0, not the start
    halved, first = [], 0
    last_halved, mark = np.ones(len(start), bool), start
    for end in ends:
        window = end - first
        rises = sum((rows[j] > before[j]).astype(int) for j in range(first, end))
        best = start.copy()
        for row in rows[:end]:
            best = np.where(row > best, row, best)
        now = (rises <= 0.75 * window) | (~last_halved & (mark >= best))
        halved.append(now)
        last_halved, mark, first = now, best, end
    return np.array(halved)


@pytest.mark.parametrize("steps", [1, 5, 10, 20, 50, 100, 137])
def test_the_controller_halves_exactly_where_the_written_formula_does(steps):
    history = loss_histories(steps, 1000, steps)
    ends = _step_size.checkpoints(steps)
    pace = _step_size.begin(tf.constant(history[0]), 0.5)
    found, first = [], 0
    for i in range(steps):
        pace, better = _step_size.observe(pace, tf.constant(history[i + 1]))
        highest = np.fmax.reduce(history[1 : i + 1], axis=0, initial=-np.inf)
        higher = (history[i + 1] > history[0]) & (history[i + 1] > highest)
        np.testing.assert_array_equal(better, higher)
        if i + 1 in ends:
            pace, halved = _step_size.control(pace, i + 1 - first)
            found.append(halved.numpy())
            first = i + 1
    expected = literal_halvings(history, ends)
    assert steps < 10 or 0.02 < expected.mean() < 0.98
    np.testing.assert_array_equal(np.array(found), expected)
    np.testing.assert_array_equal(pace.size, np.float32(1) * 0.5 ** expected.sum(0))


def logits(x):
    return digits.network()(x, training=False)


def in_graph(method, *like, **options):
    """A method of an attack on the digits' network, traced once for batches of every size."""
    signature = [tf.TensorSpec([None, *a.shape[1:]], tf.as_dtype(a.dtype)) for a in like]
    return tf.function(lambda *args: method(logits, *args, **options), input_signature=signature)


@pytest.fixture(scope="module", params=["ce", "dlr"])
def climbed(request):
    """The loss, and what came of the reference's own noise with and without leaving."""
    (x, y), noise = digits.attacked(), digits.fixture()["apgd_noise_s0"]
    attack = APGD(digits.EPSILON, loss=request.param)
    runs = (in_graph(attack.climb, x, y, noise, leave=leave)(x, y, noise) for leave in (0, 1))
    return request.param, *runs


def test_the_references_noise_gives_the_references_images(climbed):
    """To the bit with ce.

    With dlr, the reference's optimised graph leaves rounding where the label ranks third and the
    gradient is 0, and a few images go another way.
    """
    loss, found, _ = climbed
    x_best, highest, withstood = (
        digits.fixture()[f"apgd_{loss}_{name}"] for name in ("xbest", "lossbest", "acc")
    )
    np.testing.assert_array_equal(found.withstood, withstood)
    same = np.abs(found.best - x_best).max((1, 2, 3)) <= 1e-6
    same &= np.abs(found.loss - highest) <= 1e-6 * np.maximum(1, np.abs(highest))
    assert same.mean() >= {"ce": 1, "dlr": 0.98}[loss]


def test_an_adversarial_image_is_misclassified_and_any_other_is_the_clean_one(climbed):
    (x, y), (_, *runs) = digits.attacked(), climbed
    for found in runs:
        right = np.argmax(logits(found.adversarial), axis=-1) == y
        still = found.adversarial.numpy() == x
        np.testing.assert_array_equal(right, runs[0].withstood)
        np.testing.assert_array_equal(still.all((1, 2, 3)), runs[0].withstood)


def test_the_last_misclassified_image_counts_and_the_best_is_that_of_highest_loss():
    """On a network that at times is right again on every other image."""
    (x, y), noise = digits.attacked(), digits.fixture()["apgd_noise_s0"]
    saved = 50 * tf.one_hot(y, 10) * (np.arange(len(y)) % 2)[:, None]
    shown, answers = [], []

    def moody(now):
        answers.append(logits(now) + (saved if len(shown) in (3, 7, 9) else 0))
        shown.append(now)
        return answers[-1]

    found = APGD(0.15, steps=9).climb(moody, tf.constant(x), tf.constant(y), tf.constant(noise))
    shown, wrong = np.array(shown), np.argmax(answers, axis=-1) != y
    value = np.array([losses.cross_entropy(z, y) for z in answers])
    last = 9 - wrong[::-1].argmax(0)
    expected = np.where(wrong.any(0)[:, None, None, None], shown[last, range(len(y))], x)
    assert len(shown) == 10 and (wrong.any(0) & ~wrong[-1]).sum() > 9
    np.testing.assert_array_equal(found.adversarial, expected)
    np.testing.assert_array_equal(found.best, shown[value.argmax(0), range(len(y))])


COUNTS = {"ce": (APGD(0.15), 269.8), "dlr": (APGD(0.15, loss="dlr"), 272.8)}
COUNTS["t"] = (APGD(0.15, loss="dlr", targets=9), 266.3)


def standing(attack, seeds):
    """How many of the digits withstand, per seed; each try is made on those who still stand."""
    x, y = digits.attacked()
    index = np.arange(len(x))
    signature = [tf.TensorSpec([None, 8, 8, 1]), *[tf.TensorSpec([None], tf.int32)] * 2]
    signature += [tf.TensorSpec([], tf.int32)] * 2

    @tf.function(input_signature=signature)
    def withstand(x, y, index, seed, trial):
        return ~losses.defeated(logits(attack.attempt(logits, x, y, seed, index, trial)), y)

    for seed in seeds:
        left = index
        for trial in range(attack.trials):
            left = left[withstand(x[left], y[left], left, seed, trial).numpy()]
        yield len(left)


def check_counts(name, seeds):
    attack, mean = COUNTS[name]
    counts = np.array(list(standing(attack, seeds)))
    assert abs(counts.mean() - mean) <= 3 and (np.abs(counts - mean) <= 8).all(), counts


@pytest.mark.parametrize("name", COUNTS)
def test_its_own_noise_leaves_as_many_standing_as_the_references(name):
    check_counts(name, range(1 if name == "t" else 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_ten_seeds_leave_as_many_standing_as_the_references(name):
    check_counts(name, range(10))


L2_COUNTS = {"ce": (110, 114, 105), "dlr": (131, 125, 130)}


@pytest.mark.slow
@pytest.mark.parametrize("loss", L2_COUNTS)
def test_in_l2_as_many_stand_as_with_the_reference(loss):
    found = np.mean(list(standing(APGD(0.8, "l2", loss=loss), range(3))))
    assert abs(found - np.mean(L2_COUNTS[loss])) <= 6


PARTS = {"order": [np.random.default_rng(0).permutation(60)], "sevens": np.split(np.arange(60), 10)}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("parts", PARTS)
def test_an_image_does_not_depend_on_the_batch_around_it(norm, parts):
    x, y = (a[:60] for a in digits.attacked())
    index = np.arange(60, dtype=np.int32)
    attack = APGD({"linf": 0.15, "l2": 0.8}[norm], norm, steps=20, loss="dlr", targets=2)

    def second_try(logits, x, y, index):
        return attack.attempt(logits, x, y, 5, index, tf.constant(1))

    run = in_graph(second_try, x, y, index)
    whole, split = run(x, y, index).numpy(), np.empty_like(x)
    for part in PARTS[parts]:
        split[part] = run(x[part], y[part], index[part])
    np.testing.assert_array_equal((split == x).all((1, 2, 3)), (whole == x).all((1, 2, 3)))
    assert (np.abs(split - whole).max((1, 2, 3)) <= 1e-5).mean() > 0.95


SHAPES = {"image": (5, 5, 1), "colours": (4, 6, 3), "tall": (7, 3, 1), "row": (9,)}
CASES = [
    APGD(0.3, "linf", steps=9),
    APGD(0.3, "linf", steps=9, loss="dlr", targets=9),
    APGD(0.3, "l2", steps=6, returns="best", loss="dlr", targets=2, restarts=2),
]


def straight(shape, classes, seed=0):
    """A linear network's logits."""
    chance = np.random.default_rng(seed)
    weights = tf.constant(chance.normal(size=(int(np.prod(shape)), classes)), tf.float32)
    return lambda x: tf.reshape(x, [-1, len(weights)]) @ weights


@pytest.mark.parametrize("attack", CASES, ids=str)
@pytest.mark.parametrize(
    ("shape", "classes"), [("row", 2), ("image", 3), ("colours", 4), ("tall", 5), ("row", 5)]
)
def test_attacks_any_shape_with_any_number_of_classes(attack, shape, classes):
    shape = SHAPES[shape]
    chance, network = np.random.default_rng(classes), straight(shape, classes)
    x = np.clip(chance.normal(0.5, 0.4, (6, *shape)), 0, 1).astype("float32")
    signature = [tf.TensorSpec([None, *shape]), tf.TensorSpec([None], tf.int32)]
    run = tf.function(lambda x, y: attack(network, x, y), input_signature=signature)
    right = tf.argmax(network(x), -1, tf.int32).numpy()
    for n, y in ((6, right), (1, right), (6, (right + 1) % classes)):  # all, one, all wrong
        found = run(x[:n], y[:n]).numpy()
        size = NORMS[attack.norm].size(tf.constant(found - x[:n])).numpy()
        assert found.shape == x[:n].shape and np.isfinite(found).all()
        assert (size <= attack.epsilon * (1 + 1e-5) + 1e-6).all()
        assert found.min() >= 0 and found.max() <= 1
        if attack.returns == "adversarial":
            fooled = np.argmax(network(found), -1) != y[:n]
            still = (found == x[:n]).reshape(n, -1).all(1)
            np.testing.assert_array_equal(still, ~fooled | (y != right)[:n])


FITTED = {  # attack, classes: what is run
    (APGD(0.1, loss="dlr", targets=9), 10): APGD(0.1, loss="dlr", targets=9),
    (APGD(0.1, loss="dlr", targets=9), 5): APGD(0.1, loss="dlr", targets=4),
    (APGD(0.1, loss="dlr", targets=9), 4): APGD(0.1, loss="dlr", targets=3),
    (APGD(0.1, loss="dlr", targets=9), 3): APGD(0.1, loss="dlr"),
    (APGD(0.1, loss="dlr", targets=9), 2): APGD(0.1, loss="margin"),
    (APGD(0.1, loss="dlr"), 3): APGD(0.1, loss="dlr"),
    (APGD(0.1, loss="dlr"), 2): APGD(0.1, loss="margin"),
    (APGD(0.1, restarts=5), 2): APGD(0.1, restarts=5),
}


@pytest.mark.parametrize(("attack", "classes"), FITTED, ids=str)
def test_what_so_few_classes_do_not_allow_is_replaced(attack, classes):
    assert attack.fitted(classes) == FITTED[attack, classes]


def test_a_try_is_a_restart_and_the_rank_of_its_target(monkeypatch):
    seen = []

    def spy(z, labels, targets, weights):
        seen.append(targets.numpy())
        return true(z, labels, targets, weights)

    true = losses.targeted_difference_of_logits_ratio
    monkeypatch.setattr(losses, "targeted_difference_of_logits_ratio", spy)
    x, y = (a[:20] for a in digits.attacked())
    attack = APGD(0.1, steps=1, loss="dlr", targets=3, restarts=2)
    assert attack.trials == 6
    order = np.argsort(-logits(x).numpy(), axis=1)
    for trial in range(6):
        seen.clear()
        attack.attempt(logits, tf.constant(x), tf.constant(y), 0, tf.range(20), tf.constant(trial))
        assert len(seen) == 2
        for targets in seen:
            np.testing.assert_array_equal(targets, order[:, 1 + trial % 3])


def test_best_of_restarts_has_the_highest_loss_of_all():
    x, y = (a[:40] for a in digits.attacked())
    attack = APGD(0.15, steps=5, restarts=3, returns="best")
    alone = [
        attack.attempt(logits, tf.constant(x), tf.constant(y), 7, tf.range(40), trial)
        for trial in range(3)
    ]
    values = np.array([losses.cross_entropy(logits(found), y) for found in alone])
    together = losses.cross_entropy(logits(attack(digits.network(), x, y, seed=7)), y)
    np.testing.assert_allclose(together, values.max(0), rtol=1e-5)
    assert len(np.unique(values.argmax(0))) == 3


def test_a_network_trained_on_images_of_highest_loss_is_judged_by_misclassified_ones():
    objective = Adversarial(APGD(0.1, steps=7, returns="best"))
    assert evaluation_default(objective) == APGD(0.1, steps=7)


def test_gradients_of_random_draws_are_averaged():
    """Draws of opposite gradients: of two the mean is 0, and an image stays where it starts."""
    calls = []

    def flickering(x):
        calls.append(x)
        z = (-1.0) ** len(calls) * tf.reduce_sum(x, (1, 2, 3))
        return tf.stack([z, -z], -1)

    x, y = np.full((3, 4, 4, 1), 0.5, "float32"), np.zeros(3, "int32")
    for eot, moves in ((1, True), (2, False), (4, False)):
        calls.clear()
        APGD(0.1, steps=3, eot=eot, loss="margin").climb(
            flickering, tf.constant(x), tf.constant(y), tf.random.stateless_uniform(x.shape, (0, 1))
        )
        assert len(calls) == 4 * eot
        assert moves != np.array_equal(calls[-1], calls[0])


@pytest.mark.parametrize("attack", [APGD(0.2, steps=9), APGD(0.2, steps=9, loss="dlr", targets=3)])
def test_twins_are_attacked_as_one_and_a_network_of_no_weight_not_at_all(attack):
    x, y = (tf.constant(a[:30]) for a in digits.attacked())
    noise = tf.constant(digits.fixture()["apgd_noise_s0"][:30])
    one = attack.climb(logits, x, y, noise, 1)
    twins = attack.climb(Average(lambda x: tf.stack([logits(x)] * 2)), x, y, noise, 1)
    np.testing.assert_allclose(twins.adversarial, one.adversarial, atol=1e-6)
    other = straight((8, 8, 1), 10)
    weighed = Average(lambda x: tf.stack([logits(x), other(x)]), tf.constant([1.0, 0.0]))
    best = attack.climb(weighed, x, y, noise, 1).best
    assert (np.abs(best - one.best).max((1, 2, 3)) < 1e-5).mean() > 0.9


@pytest.mark.parametrize("leave", [False, True])
def test_a_try_holds_eight_images_per_example_however_many_steps_it_makes(leave):
    x, y = digits.attacked()

    def graph(steps):
        run = in_graph(APGD(0.15, steps=steps).climb, x, y, x, leave=leave)
        return run.get_concrete_function().graph

    operations = graph(100).get_operations()
    assert len(operations) == len(graph(10).get_operations())
    (loop,) = (op for op in operations if op.type in ("While", "StatelessWhile"))
    assert sum(t.shape.rank == 4 and t.shape[0] is None for t in loop.outputs) <= 8


REFUSED = {
    "steps": (lambda: APGD(0.1, steps=0), "steps must be at least 1; received steps=0"),
    "restarts": (lambda: APGD(0.1, restarts=0), "restarts must be at least 1"),
    "eot": (lambda: APGD(0.1, eot=0), "eot must be at least 1; received eot=0"),
    "targets": (lambda: APGD(0.1, loss="dlr", targets=-1), "targets must be at least 0"),
    "loss": (lambda: APGD(0.1, loss="kl"), "loss must be one of .*; received loss='kl'"),
    "returns": (lambda: APGD(0.1, returns="last"), "returns must be one of .*received returns="),
    "targets of ce": (lambda: APGD(0.1, targets=9), "targets need loss='dlr'; received targets=9"),
    "one class": (lambda: APGD(0.1).fitted(1), "classes must be at least 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()
