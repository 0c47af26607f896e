import dataclasses

import digits
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.attacks import _boundaries as boundaries
from rst_tf.attacks._projections import PROJECTIONS, dual
from rst_tf.attacks.fab import FAB

NORMS = ("linf", "l2")
every_norm = pytest.mark.parametrize("norm", NORMS)


def size(delta, norm):
    flat = np.reshape(delta, (len(delta), -1))
    return np.abs(flat).max(1) if norm == "linf" else np.linalg.norm(flat, axis=1)


GOLDEN = {  # t, w, b, and the steps in L-inf and in L2
    "inside": ([0.5, 0.2, 0.9], [1, -2, 0.5], -0.5, [-0.3, 0.3, -0.3], [-0.2, 0.4, -0.1]),
    "at the box": ([0.1, 0.9, 0.4], [3, 1, 0], 3.9, [13 / 15, 0.1, 0], [13 / 15, 0.1, 0]),
    "out of reach": ([0.5, 0.5, 0.5], [1, 1, 1], 4, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "on the plane": ([0.5, 0.5, 0.5], [1, -1, 2], 1, [0, 0, 0], [0, 0, 0]),
}


@pytest.mark.parametrize("name", GOLDEN)
@every_norm
def test_projections_of_the_specification(name, norm):
    t, w, b, *expected = GOLDEN[name]
    t, w, b = (tf.constant([v], tf.float32) for v in (t, w, b))
    found = PROJECTIONS[norm](t, w, b)[0]
    np.testing.assert_allclose(found, expected[NORMS.index(norm)], atol=1e-6)


def planes(count, d, seed=0):
    """Points with coordinates at the box, normals with zeros, planes near, far and out of reach."""
    chance = np.random.default_rng(seed)
    t = np.clip(chance.uniform(-0.3, 1.3, (count, d)), 0, 1).astype("f4")
    w = chance.normal(size=(count, d)) * 10 ** chance.uniform(-2, 2, (count, 1))
    w = (w * (chance.random((count, d)) > 0.1)).astype("f4")
    lowest = np.minimum(w, 0).sum(1) - (w * t).sum(1)
    highest = np.maximum(w, 0).sum(1) - (w * t).sum(1)
    shares = chance.choice([0.001, 0.03, 0.3, 0.9, 1.5], count)
    away = np.where(chance.random(count) < 0.5, lowest, highest) * shares
    return t, w, ((w * t).sum(1) + away).astype("f4")


def sorted_form(t, w, b, norm):
    """The level by sorting and cumulative sums, in float64; also whether the plane is in reach."""
    t, w, b = (v.astype("f8") for v in (t, w, b))
    excess = (w * t).sum(1) - b
    way = np.sign(w) * np.where(excess < 0, -1, 1)[:, None]
    room = np.where(way > 0, t, np.where(way < 0, 1 - t, 0))
    size = np.abs(w) if norm == "linf" else np.where(np.abs(w) > 1e-8, np.abs(w), 0)
    per = np.ones_like(size) if norm == "linf" else size
    ends = np.divide(room, per, out=np.zeros_like(room), where=per > 0)
    order = np.argsort(ends, axis=1)
    ends_in_order = np.take_along_axis(ends, order, 1)
    weight = np.take_along_axis(size * per, order, 1)
    before = np.cumsum(weight * ends_in_order, 1) - weight * ends_in_order
    rest = np.cumsum(weight[:, ::-1], 1)[:, ::-1]
    needed = np.abs(excess)[:, None]
    k = np.minimum((before + rest * ends_in_order < needed).sum(1), t.shape[1] - 1)[:, None]
    with np.errstate(all="ignore"):
        level = (needed - np.take_along_axis(before, k, 1)) / np.take_along_axis(rest, k, 1)
    reach = needed < (size * room).sum(1, keepdims=True)
    level = np.where(reach, np.maximum(level, 0), np.inf)
    with np.errstate(invalid="ignore"):
        step = np.where(per > 0, np.minimum(level * per, room), 0)
    return -way * step, reach[:, 0]


@pytest.mark.parametrize(("d", "count"), [(1, 3000), (3, 3000), (64, 3000), (3072, 1000)])
@every_norm
def test_a_projection_is_in_the_box_on_the_plane_and_the_shortest(norm, d, count):
    """T4, 10,000 cases of each norm."""
    t, w, b = planes(count, d)
    step = PROJECTIONS[norm](*map(tf.constant, (t, w, b))).numpy()
    expected, reach = sorted_form(t, w, b, norm)
    assert reach.mean() > 0.5 and (~reach).mean() > 0.1
    assert ((t + step >= 0) & (t + step <= 1)).all()
    off = np.abs((w.astype("f8") * (t + step)).sum(1) - b)
    assert (off <= 1e-4 * np.abs(w).sum(1))[reach].all()
    np.testing.assert_allclose(step, expected, atol=2e-5)
    with_zero = (w == 0) & (np.abs(t - 0.5) < 0.5)
    assert (step[with_zero] == 0).all()


@every_norm
def test_a_projection_moves_nothing_where_nothing_can(norm):
    t, still = tf.constant([[0.3, 0.6]]), tf.zeros((1, 2))
    assert (PROJECTIONS[norm](t, still, tf.constant([2.0])).numpy() == 0).all()
    with_little = tf.constant([[1e-9, 1.0]])
    step = PROJECTIONS[norm](t, with_little, tf.constant([3.0])).numpy()
    np.testing.assert_allclose(step, [[0.7 if norm == "linf" else 0, 0.4]], atol=1e-6)


def test_the_dual_norm_bounds_what_a_step_can_change():
    w = tf.constant(np.random.default_rng(0).normal(size=(5, 7)), tf.float32)
    np.testing.assert_allclose(dual(w, "linf"), np.abs(w).sum(1), rtol=1e-6)
    np.testing.assert_allclose(dual(w, "l2"), np.linalg.norm(w, axis=1), rtol=1e-6)


X, Y = digits.attacked()
NETWORK = digits.network()


def logits(x):
    return NETWORK(x, training=False)


def walker(attack):
    """`attack.walk` on the digits' network, traced once for batches of any size."""
    spec = tf.TensorSpec
    signature = [spec([None, 8, 8, 1]), spec([None], tf.int32), spec([None], tf.int32)]

    @tf.function(
        input_signature=[*signature, spec([], tf.int32), spec([], tf.int32)], autograph=False
    )
    def walk(x, y, index, trial, seed):
        return attack.walk(logits, x, y, seed, index, trial)

    def call(rows=slice(None), trial=0, seed=0):
        index = np.arange(len(X), dtype="int32")[rows]
        return [part.numpy() for part in walk(X[rows], Y[rows], index, trial, seed)]

    call.traces = lambda: walk.experimental_get_tracing_count()
    return call


TARGETED = walker(FAB(digits.EPSILON, targets=9))


def test_the_second_class_gives_the_distances_of_the_reference():
    found, norms = TARGETED()
    expected = digits.fixture()["fab_t2_linf"]
    away = np.abs(norms - expected)
    assert (away <= 1e-6).mean() >= 0.98 and away.max() <= 1e-3
    np.testing.assert_array_equal(norms > np.float32(0.15), expected > np.float32(0.15))
    images = np.abs(found - digits.fixture()["fab_t2_adv"]).reshape(352, -1).max(1)
    assert (images <= 1e-6).mean() >= 0.95
    quantiles = np.quantile(norms, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, [0.00485, 0.15974, 0.20879, 0.24958, 0.37443], atol=2e-5)


def survivors(call, attack):
    """Which of the digits withstand every trial, each tried only on those that are left."""
    left = np.arange(len(X))
    for trial in range(attack.trials):
        left = left[call(left, trial)[1] > np.float32(attack.epsilon)]
    return left


def test_nine_targets_leave_the_digits_that_the_reference_left():
    left = survivors(TARGETED, FAB(digits.EPSILON, targets=9))
    assert TARGETED.traces() == 1
    robust = np.zeros(360, bool)
    robust[digits.fixture()["attacked_idx"][left]] = True
    assert abs(robust.sum() - 273) <= 1
    assert (robust != digits.fixture()["fab_t_robust"]).sum() <= 1


def test_nine_targets_in_l2_leave_as_many_digits_as_the_reference():
    attack = FAB(0.8, "l2", targets=9)
    assert abs(len(survivors(walker(attack), attack)) - 100) <= 1


def test_a_call_gives_the_images_of_the_reference():
    x, y = X[:30], Y[:30]
    attack = FAB(digits.EPSILON, targets=9)
    found = tf.function(lambda: attack(NETWORK, x, y), autograph=False)().numpy()
    index = digits.fixture()["attacked_idx"][:30]
    away = np.abs(found - digits.fixture()["fab_t_adv"][index]).reshape(30, -1).max(1)
    assert (away <= 1e-6).mean() >= 0.9 and away.max() <= 1e-3
    assert (found != x).any() and (found == x).all((1, 2, 3)).any()


def linear(classes, d, seed=0, bias=0.0):
    """A linear model, images inside the box, labels, and the boundaries' gradients and values."""
    chance = np.random.default_rng(seed)
    w = chance.normal(size=(d, classes)).astype("f4")
    x = chance.uniform(0.4, 0.6, (6, d)).astype("f4")
    z = x @ w
    y = z.argmax(1).astype("int32")
    steps = w.T[None] - w.T[y][:, None]  # [n, classes, d]
    return w, x, y, steps, z - z[np.arange(6), y][:, None] + bias


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
@pytest.mark.parametrize("targets", [0, 9])
@every_norm
def test_on_a_linear_model_the_nearest_boundary_is_found(norm, targets, classes):
    w, x, y, steps, behind = linear(classes, 40)
    attack = FAB(0.01, norm, targets=targets, steps=30).fitted(classes)
    assert attack.targets == min(targets, classes - 1)
    closest = tf.function(lambda: attack.closest(lambda v: v @ w, x, y), autograph=False)
    norms = closest()[1].numpy()
    lengths = np.abs(steps).sum(2) if norm == "linf" else np.linalg.norm(steps, axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.nanmin(np.where(behind == 0, np.inf, -behind / lengths), 1)
    assert (norms >= distance * (1 - 1e-5)).all() and (norms <= distance * 1.01).all()


@every_norm
def test_the_nearest_boundary_is_chosen_by_distance_not_by_value(norm):
    """Against the full Jacobian."""
    x, y = tf.constant(X[:8]), tf.constant(Y[:8])
    value, normal = boundaries.nearest(logits, y, 10, norm)(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = logits(x)
    slopes = tape.batch_jacobian(z, x).numpy().reshape(8, 10, -1)
    rows = np.arange(8)
    behind = z.numpy() - z.numpy()[rows, Y[:8]][:, None]
    slopes = slopes - slopes[rows, Y[:8]][:, None]
    order = 1 if norm == "linf" else 2
    distances = np.abs(behind) / (1e-12 + np.linalg.norm(slopes, order, axis=2))
    distances[rows, Y[:8]] = np.inf
    k = distances.argmin(1)
    np.testing.assert_allclose(value, behind[rows, k], rtol=1e-5)
    np.testing.assert_allclose(np.reshape(normal, (8, -1)), slopes[rows, k], atol=1e-5)
    assert (k != np.where(behind == 0, -np.inf, behind).argmax(1)).any()


def test_untargeted_finds_about_what_all_targets_find():
    rows = np.arange(40)
    untargeted = walker(FAB(digits.EPSILON))(rows)[1]
    targeted = np.min([TARGETED(rows, trial)[1] for trial in range(9)], 0)
    assert abs((untargeted > 0.15).sum() - (targeted > 0.15).sum()) <= 2
    assert abs(untargeted.mean() / targeted.mean() - 1) < 0.03


LAWS = {
    "targeted": FAB(0.15, targets=2, steps=15),
    "untargeted": FAB(0.15, steps=15),
    "targeted-l2": FAB(0.8, "l2", targets=2, steps=15),
    "restarts": FAB(0.15, targets=2, restarts=2, steps=15),
    "restarts-l2": FAB(0.8, "l2", restarts=2, steps=15),
}
every_law = pytest.mark.parametrize("name", LAWS)
WALKS = {name: walker(attack) for name, attack in LAWS.items()}


@every_law
def test_what_is_found_is_misclassified_in_the_box_and_as_far_as_said(name):
    attack, last = LAWS[name], LAWS[name].trials - 1
    found, norms = WALKS[name](slice(80), last)
    hit = np.isfinite(norms)
    assert hit.mean() > 0.5 and not np.isnan(found).any()
    assert found.min() >= 0 and found.max() <= 1
    assert (np.argmax(logits(found), 1) != Y[:80])[hit].all()
    np.testing.assert_allclose(size(found - X[:80], attack.norm)[hit], norms[hit], atol=1e-6)
    assert (found == X[:80])[~hit].all()


@every_law
def test_an_example_does_not_depend_on_the_batch_around_it(name):
    last = LAWS[name].trials - 1
    whole = WALKS[name](slice(40), last, 3)
    pieces = np.array([7]), np.array([31, 2, 39, 5]), np.arange(8, 31)
    parts = [WALKS[name](rows, last, 3) for rows in pieces]
    images, norms = (np.concatenate(both) for both in zip(*parts, strict=True))
    rows = np.concatenate(pieces)
    away = size(images - whole[0][rows], "linf")
    assert (away <= 1e-5).mean() >= 0.8  # a last bit may decide which way a later step takes
    np.testing.assert_allclose(norms, whole[1][rows], rtol=0.02)
    assert WALKS[name].traces() == 1


@every_law
def test_only_later_restarts_draw(name):
    attack = LAWS[name]
    for trial in range(attack.trials):
        norms = [WALKS[name](slice(20), trial, seed)[1] for seed in (0, 0, 1)]
        np.testing.assert_array_equal(norms[0], norms[1])
        drawn = trial >= max(attack.targets, 1)
        assert np.array_equal(norms[0], norms[2]) != drawn
    if attack.restarts > 1 and attack.targets:
        targets = max(attack.targets, 1)
        near = [WALKS[name](slice(80), t)[1] for t in range(attack.trials)]
        same = np.nanmedian(np.abs(near[0] - near[targets]))  # the same class from elsewhere
        other = np.nanmedian(np.abs(near[0] - near[1]))
        assert same < other


@every_norm
def test_a_random_start_is_half_an_epsilon_away(norm):
    x = np.full((50, 4, 4, 1), 0.5, "f4")
    attack = FAB(0.2, norm, targets=3, restarts=2)
    index = np.arange(50)
    starts = [attack._start(tf.constant(x), 0, index, tf.constant(t)).numpy() for t in range(6)]
    for start in starts[:3]:
        np.testing.assert_array_equal(start, x)
    for start in starts[3:]:
        np.testing.assert_allclose(size(start - x, norm), 0.1, atol=1e-6)
    assert not np.array_equal(starts[3], starts[4])
    assert len(np.unique(starts[3].reshape(50, -1), axis=0)) == 50


@pytest.mark.parametrize("just", ["at", "below"])
def test_what_lies_exactly_on_the_ball_counts(just):
    one = tf.constant(X[1:2]), tf.constant(Y[1:2])
    found, norms = FAB(1, targets=9, steps=2).walk(logits, *one, 0, tf.constant([1]), 0)
    norm = norms.numpy()[0]
    assert np.isfinite(norm)
    epsilon = norm if just == "at" else np.nextafter(norm, np.float32(0))
    attack = FAB(float(epsilon), targets=9, steps=2)
    attempt = attack.attempt(logits, *one, 0, tf.constant([1]), 0)
    np.testing.assert_array_equal(attempt, found if just == "at" else one[0])


def test_distances_do_not_depend_on_epsilon_and_attempts_are_those_within():
    found, norms = TARGETED(slice(40))
    few = tf.constant(X[:40]), tf.constant(Y[:40])
    for epsilon in (0.05, 0.3):
        attempt = FAB(epsilon, targets=9).attempt
        in_graph = tf.function(attempt, autograph=False)(logits, *few, 0, tf.range(40), 0)
        expected = np.where((norms <= epsilon)[:, None, None, None], found, X[:40])
        np.testing.assert_allclose(in_graph, expected, atol=1e-3)


def test_an_image_that_is_wrong_already_is_at_distance_zero():
    x, y = digits.data()
    wrong = np.setdiff1d(np.arange(360), digits.fixture()["attacked_idx"])
    attack = FAB(0.15, targets=2, steps=3)
    found, norms = attack.closest(NETWORK, x[wrong], y[wrong])
    assert (norms.numpy() == 0).all()
    np.testing.assert_array_equal(found, x[wrong])
    np.testing.assert_array_equal(attack(NETWORK, x[wrong], y[wrong]), x[wrong])


FLAT = {  # models without a way: constant, and with gradients that are not numbers
    "constant": lambda x: tf.constant([[2.0, 1.0, 0.0]]) + 0 * tf.reduce_sum(x, 1, True),
    "nan gradient": lambda x: tf.constant([[2.0, 1, 0]]) + 0 * tf.sqrt(0 * x[:, :1]),
}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("targets", [0, 2])
@every_norm
def test_where_there_is_no_way_nothing_is_found(name, targets, norm):
    x, y = np.full((3, 5), 0.5, "f4"), np.zeros(3, "i4")
    attack = FAB(0.1, norm, targets=targets, steps=4)
    found, norms = attack.closest(FLAT[name], x, y)
    assert np.isinf(norms).all()
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(attack(FLAT[name], x, y), x)


SHAPES = ((5,), (4, 6, 1), (6, 4, 3), (2, 3, 2, 2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 5])
@every_norm
def test_any_shape_of_image(shape, n, norm):
    d = int(np.prod(shape))
    w, x, y, *_ = linear(3, d)
    x = x[:n].reshape(n, *shape)
    model = lambda v: tf.reshape(v, [-1, d]) @ w  # noqa: E731
    _, norms = FAB(0.5, norm, targets=2, steps=4).closest(model, x, y[:n])
    assert np.isfinite(norms).any()


def test_the_trace_does_not_grow_with_steps_or_targets():
    def nodes(**settings):
        f = tf.function(lambda x, y: FAB(0.1, **settings)(NETWORK, x, y))
        return len(f.get_concrete_function(X[:2], Y[:2]).graph.as_graph_def().library.function)

    assert nodes(steps=100, targets=9) == nodes(steps=2, targets=2)


def test_more_than_a_hundred_classes_need_targets():
    with pytest.raises(ValueError, match=r"targets must be above 0 for 101 classes.*targets=0"):
        FAB(0.1).fitted(101)
    assert FAB(0.1).fitted(100) == FAB(0.1)
    assert FAB(0.1, targets=9).fitted(1000) == FAB(0.1, targets=9)


REFUSED = {
    "steps": ({"steps": 0}, "steps must be at least 1; received 0"),
    "targets": ({"targets": -1}, "targets must be at least 0; received -1"),
    "restarts": ({"restarts": 0}, "restarts must be at least 1; received 0"),
    "overshoot": ({"overshoot": 0.9}, "overshoot must be at least 1; received 0.9"),
    "backward": ({"backward": 1.0}, r"backward must be in \(0, 1\); received 1.0"),
    "alpha_max": ({"alpha_max": 1.1}, r"alpha_max must be in \[0, 1\]; received 1.1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        FAB(0.1, **settings)


def test_several_networks_at_once_are_refused():
    with pytest.raises(ValueError, match=r"FAB needs logits \[n, classes\]; received shape"):
        several = lambda x: tf.stack([logits(x)] * 2)  # noqa: E731
        FAB(0.1, targets=2).walk(several, X[:2], Y[:2], 0, None, 0)


def test_is_replaced_not_changed():
    assert str(FAB(8 / 255, targets=9)) == "FAB(epsilon=8/255, steps=100, targets=9)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        FAB(0.1).steps = 2
