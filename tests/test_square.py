import digits
import numpy as np
import pytest
import tensorflow as tf

from rst_tf.attacks import _windows as windows
from rst_tf.attacks._windows import Bumps, Corners
from rst_tf.attacks.square import Square

NORMS = ("linf", "l2")
every_norm = pytest.mark.parametrize("norm", NORMS)
X, Y = digits.attacked()
NETWORK = digits.network()


def logits(x):
    return NETWORK(x, training=False)


def size(delta, norm):
    flat = np.reshape(delta, (len(delta), -1))
    return np.abs(flat).max(1) if norm == "linf" else np.linalg.norm(flat, axis=1)


def margins(z, y):
    """z_y minus the highest other logit."""
    other = np.array(z)
    other[np.arange(len(y)), y] = -np.inf
    return np.asarray(z)[np.arange(len(y)), y] - other.max(1)


SIDES = {  # height and width: first query of each side, and the side
    32: [(0, 29), (11, 20), (51, 14), (201, 10), (501, 7), (1001, 5), (2001, 4), (4001, 3)],
    28: [(0, 25), (11, 18), (51, 13), (201, 9), (501, 6), (1001, 4), (2001, 3), (4001, 2)],
    224: [(0, 200), (11, 142), (51, 100), (201, 71), (501, 50), (1001, 35), (2001, 25), (4001, 18)],
    8: [(0, 7), (11, 5), (51, 4), (201, 3), (501, 2), (1001, 1)],
}


@pytest.mark.parametrize("length", SIDES)
def test_windows_shrink_as_in_the_reference(length):
    found = windows.sides(windows.fractions(5000, 0.8, False), length, length)
    changes = np.flatnonzero(np.diff(found, prepend=-1))
    assert list(zip(changes, found[changes], strict=True)) == SIDES[length]


def test_windows_of_the_digits_are_those_that_were_recorded():
    found = windows.sides(windows.fractions(5000, 0.8, False), 8, 8)
    np.testing.assert_array_equal(found, digits.fixture()["square_side"])


FRACTIONS = {  # query of 10,000: share
    **{0: 0.8, 10: 0.8, 11: 0.4, 50: 0.4, 51: 0.2, 200: 0.2, 201: 0.1, 500: 0.1, 501: 0.05},
    **{1000: 0.05, 1001: 0.025, 2000: 0.025, 2001: 0.0125, 4000: 0.0125, 4001: 0.00625},
    **{6000: 0.00625, 6001: 0.003125, 8000: 0.003125, 8001: 0.0015625, 9999: 0.0015625},
}


def test_the_share_halves_on_time_and_can_be_rescaled():
    plain = windows.fractions(10000, 0.8, False)
    assert {query: plain[query] for query in FRACTIONS} == FRACTIONS
    np.testing.assert_array_equal(windows.fractions(5000, 0.8, True), plain[::2])
    np.testing.assert_array_equal(windows.fractions(700, 0.4, False), plain[:700] / 2)
    np.testing.assert_array_equal(
        windows.fractions(300, 0.8, True), [plain[int(i / 300 * 10000)] for i in range(300)]
    )


def test_halves_of_a_side_are_rounded_to_even_and_fit_the_shorter_edge():
    sides = {2.25: 2, 6.25: 2, 12.25: 4, 0.01: 1, 400: 8}  # squared lengths
    for area, side in sides.items():
        assert windows.sides(np.array([area / (8 * 16)]), 8, 16) == side
    odd = {0.01: 3, 9: 3, 12: 3, 16: 5, 64: 8}
    for area, side in odd.items():
        assert windows.sides(np.array([area / 64]), 8, 8, odd=True) == side


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 9, 3), (9, 6, 2)])
def test_no_square_reaches_the_last_row_or_column(shape):
    height, width, channels = shape
    shares = windows.fractions(4000, 0.8, False)
    moves = Corners.drawn(0.1, shares, shape, 0, tf.range(3))
    rows, columns = moves.rows.numpy(), moves.columns.numpy()
    for side in np.unique(moves.sides):
        here = moves.sides == side
        for places, length in ((rows, height), (columns, width)):
            last = max(length - side - 1, 0)
            assert places[here].min() == 0 and places[here].max() <= last
            if here.sum() > 1000:
                assert set(places[here]) == set(range(last + 1))
    for signs, shape_of in (
        (moves.colours, (4000, channels)),
        (moves.stripes, (3, 1, width, channels)),
    ):
        assert signs.shape == shape_of and set(np.unique(signs)) <= {-1, 1}
    assert abs(moves.colours.numpy().mean()) < 0.1
    small = moves.sides == 1
    assert abs(np.corrcoef(rows[small], columns[small])[0, 1]) < 0.1


def recorded():
    """What the reference drew, and for which images."""
    f = digits.fixture()
    draws = (f[f"square_{name}_s0"] for name in ("vh", "vw"))
    return Corners(
        digits.EPSILON,
        f["square_side"].astype("int32"),
        *(tf.constant(d, tf.int32) for d in draws),
        tf.constant(f["square_sign_s0"]),
        tf.constant(f["square_stripes_s0"].transpose(0, 1, 3, 2).reshape(352, 1, 8, 1)),
    )


def searcher(attack, moves):
    x, y = tf.constant(X), tf.constant(Y)
    run = tf.function(lambda: attack.search(logits, x, y, tf.range(352), moves), autograph=False)
    return [part.numpy() for part in run()]


def test_the_recorded_squares_leave_the_digits_that_the_reference_left():
    found, _ = searcher(Square(digits.EPSILON), recorded())
    robust = np.zeros(360, bool)
    robust[digits.fixture()["attacked_idx"]] = np.argmax(logits(found), 1) == Y
    np.testing.assert_array_equal(robust, digits.fixture()["square_robust_s0"])


def test_the_search_is_the_published_loop():
    """Fifteen lines of NumPy that follow the published description word by word."""
    moves, epsilon, queries = recorded(), np.float32(digits.EPSILON), 300
    answer = tf.function(logits, input_signature=[tf.TensorSpec([None, 8, 8, 1])])
    best = np.clip(X + epsilon * moves.stripes.numpy(), 0, 1)
    margin = margins(answer(best), Y)
    for i in range(queries):
        left = np.flatnonzero(margin > 0)
        side, row, column = moves.sides[i], moves.rows[i].numpy(), moves.columns[i].numpy()
        delta = np.zeros((8, 8, 1), "f4")
        delta[row : row + side, column : column + side] = 2 * epsilon * moves.colours[i].numpy()
        inside = np.minimum(np.maximum(best[left] + delta, X[left] - epsilon), X[left] + epsilon)
        tried = np.clip(inside, 0, 1)
        new = margins(answer(tried), Y[left])
        better = (new < margin[left]) | (new <= 0)
        best[left[better]], margin[left[better]] = tried[better], new[better]
    found, found_margins = searcher(Square(digits.EPSILON, queries=queries), moves)
    np.testing.assert_array_equal(found_margins > 0, margin > 0)
    away = np.abs(found - best).reshape(352, -1).max(1)
    assert (away <= 1e-6).mean() >= 0.99
    assert 0.1 < (margin <= 0).mean() < 0.9


def literal_bump(side):
    def pyramid(h, w):
        top = max(h // 2, w // 2)
        q = np.zeros((h, w))
        for i in range(h):
            for j in range(w):
                m = max(abs(i - h // 2), abs(j - w // 2))
                q[i, j] = sum((k + 1) ** -2 for k in range(m, top + 1))
        return q / np.sqrt((q**2).sum())

    eta = np.zeros((side, side))
    eta[: side // 2] = pyramid(side // 2, side)
    eta[side // 2 :] = -pyramid(side - side // 2, side)
    return eta / np.sqrt((eta**2).sum())


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 7, 11, 12])
def test_bumps_are_the_published_ones(side):
    np.testing.assert_allclose(windows.bump(side), literal_bump(side), atol=1e-6)


def test_a_bump_of_one_pixel():
    np.testing.assert_array_equal(windows.bump(1), [[-1]])


def test_bumps_of_the_start_stand_in_a_grid_around_the_middle():
    number, standing, lying = windows.tiles(28, 28)  # five by five tiles of 5, one pixel from edges
    inside = np.zeros((28, 28), bool)
    inside[1:26, 1:26] = True
    np.testing.assert_array_equal(standing != 0, inside)
    assert len(np.unique(number[inside])) == 25
    for tile in range(25):
        rows, columns = np.nonzero(inside & (number == tile))
        window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        np.testing.assert_array_equal(standing[window], windows.bump(5))
        np.testing.assert_array_equal(lying[window], windows.bump(5).T)


@pytest.mark.parametrize("shape", [(4, 4, 1), (5, 9, 3), (14, 8, 1), (8, 14, 2), (32, 20, 3)])
def test_a_start_in_l2_has_the_radius_of_the_ball_whatever_the_shape(shape):
    moves = Bumps.drawn(0.3, windows.fractions(3, 0.8, False), shape, 0, tf.range(6))
    start = moves.start(tf.fill((6, *shape), 0.5))
    np.testing.assert_allclose(size(start - 0.5, "l2"), 0.3, atol=1e-5)
    assert len(np.unique(np.reshape(start, (6, -1)), axis=0)) == 6


@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 14, 3)])
@pytest.mark.parametrize("radius", [0.7, 20.0])
def test_a_query_in_l2_is_the_published_one(shape, radius):
    """Against masks over whole images, as the description has them."""
    chance = np.random.default_rng(0)
    height, width, channels = shape
    x = chance.uniform(0, 1, (5, *shape)).astype("f4")
    queries = 300
    moves = Bumps.drawn(radius, windows.fractions(queries, 0.8, False), shape, 3, tf.range(5))
    delta = chance.normal(size=x.shape).astype("f4")
    delta *= 0.5 * radius / size(delta, "l2")[:, None, None, None]
    best = np.clip(x + delta, 0, 1)
    for query in (0, 5, 11, 60, 61, 62, 250, 299):
        side, place = int(moves.sides[query]), moves.places[query].numpy()
        row, column = int(place[0] * (height - side)), int(place[1] * (width - side))
        row_2, column_2 = int(place[2] * (height - side)), int(place[3] * (width - side))
        one, two = np.zeros((2, 1, height, width, 1), bool)
        one[:, row : row + side, column : column + side] = True
        two[:, row_2 : row_2 + side, column_2 : column_2 + side] = True
        now = (best - x).astype("f8")
        unused = np.maximum(radius**2 - (now**2).sum((1, 2, 3), keepdims=True), 0) / channels
        budget = np.sqrt(unused + (now**2 * (one | two)).sum((1, 2), keepdims=True))
        old = now[:, row : row + side, column : column + side]
        old = old / (1e-12 + np.sqrt((old**2).sum((1, 2), keepdims=True)))
        shape_of = literal_bump(side)
        shape_of = shape_of.T if place[4] > 0.5 else shape_of
        tried = moves.change(tf.constant(query), tf.constant(best), tf.constant(x), tf.range(5))
        candidates = []
        for sign in (-1, 1):
            new = sign * shape_of[None, :, :, None] + old
            new = new / (1e-12 + np.sqrt((new**2).sum((1, 2), keepdims=True))) * budget
            full = now * ~two
            full[:, row : row + side, column : column + side] = new
            candidates.append(full)
        signs = []
        for i in range(5):
            fits = []
            for code in range(2**channels):
                pick = [(code >> c) & 1 for c in range(channels)]
                full = np.stack([candidates[p][i, ..., c] for c, p in enumerate(pick)], -1)
                full = full / (1e-12 + np.linalg.norm(full)) * radius
                fits.append(np.abs(np.clip(x[i] + full, 0, 1) - tried[i]).max())
            assert min(fits) < 1e-5
            signs.append(int(np.argmin(fits)))
        assert size(tried - x, "l2").max() <= radius * (1 + 1e-5)
    assert len(set(signs)) > 1  # of the last query: each example its own


ATTEMPTS = {
    "linf": Square(digits.EPSILON, queries=120),
    "l2": Square(0.8, "l2", queries=120),
    "ce": Square(digits.EPSILON, queries=120, loss="ce"),
    "rescaled": Square(digits.EPSILON, queries=120, rescale=True, p_init=0.5),
    "restarts": Square(digits.EPSILON, queries=60, restarts=2),
}
every_attempt = pytest.mark.parametrize("name", ATTEMPTS)


def attempter(attack):
    spec = tf.TensorSpec
    signature = [spec([None, 8, 8, 1]), spec([None], tf.int32), spec([None], tf.int64)]

    @tf.function(input_signature=[*signature, *[spec([], tf.int32)] * 2], autograph=False)
    def attempt(x, y, index, trial, seed):
        return attack.attempt(logits, x, y, seed, index, trial)

    def call(rows=slice(None), trial=0, seed=0):
        index = np.arange(len(X))[rows]
        return attempt(X[rows], Y[rows], index, trial, seed).numpy()

    call.traces = lambda: attempt.experimental_get_tracing_count()
    return call


CALLS = {name: attempter(attack) for name, attack in ATTEMPTS.items()}


@every_attempt
def test_what_breaks_an_image_is_in_the_ball_and_the_box(name):
    attack, found = ATTEMPTS[name], CALLS[name]()
    wrong = np.argmax(logits(found), 1) != Y
    assert found.min() >= 0 and found.max() <= 1 and not np.isnan(found).any()
    assert (size(found - X, attack.norm) <= attack.epsilon * (1 + 1e-5) + 1e-6).all()
    assert 0.05 < wrong.mean() < 0.6
    assert (found[~wrong] == X[~wrong]).all()
    assert (size(found - X, attack.norm) > 0.5 * attack.epsilon)[wrong].all()


@every_attempt
def test_an_example_does_not_depend_on_the_batch_around_it(name):
    whole = CALLS[name](slice(80))
    for rows in (np.array([9]), np.array([70, 3, 41, 2, 77]), np.arange(20, 60)):
        part = CALLS[name](rows)
        same = (np.abs(part - whole[rows]) <= 1e-6).all((1, 2, 3))
        assert same.sum() >= len(rows) - 1
    assert CALLS[name].traces() == 1


@every_attempt
def test_is_a_function_of_its_seed_and_of_the_restart(name):
    few = slice(60)
    np.testing.assert_array_equal(CALLS[name](few, 0, 5), CALLS[name](few, 0, 5))
    assert not np.array_equal(CALLS[name](few, 0, 5), CALLS[name](few, 0, 6))
    assert not np.array_equal(CALLS[name](few, 0, 5), CALLS[name](few, 1, 5))


def test_equal_images_start_from_stripes_of_their_own():
    attack, x = Square(0.1, queries=1), np.full((9, 6, 7, 3), 0.5, "f4")
    moves = Corners.drawn(0.1, windows.fractions(1, 0.8, False), (6, 7, 3), 0, tf.range(9))
    start = moves.start(tf.constant(x)).numpy()
    np.testing.assert_allclose(np.abs(start - 0.5), attack.epsilon, atol=1e-6)
    assert (start == start[:, :1]).all()
    assert len(np.unique(start[:, 0].reshape(9, -1), axis=0)) == 9
    assert (start[:, :, :, 0] != start[:, :, :, 1]).any()


def counted(model):
    """The model, and the batches it saw."""
    seen = []

    def count(x):
        seen.append(np.asarray(x))
        return model(x)

    return count, seen


@every_norm
def test_the_model_is_asked_only_about_images_that_are_still_right(norm):
    attack = Square({"linf": 0.25, "l2": 1.2}[norm], norm, queries=40)
    model, seen = counted(logits)
    y = tf.constant(Y[:48])
    attack.attempt(model, tf.constant(X[:48]), y, 0, tf.range(48), 0)
    sizes = [len(x) for x in seen]
    assert len(sizes) == 1 + attack.queries and sizes[0] == 48
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 40
    right = (np.argmax(logits(attack(NETWORK, X[:48], Y[:48])), 1) == Y[:48]).sum()
    assert right <= sizes[-1] <= np.ceil(right * 16 / 15)
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("margin", [-1.0, 0.0])
def test_nothing_more_is_asked_once_all_are_broken(norm, margin):
    """A tie counts as broken while searching; whether the argmax agrees is for others to say."""
    model, seen = counted(lambda x: tf.tile([[margin, 0.0, -5.0]], [len(x), 1]))
    x = np.full((3, 6, 6, 1), 0.5, "f4")
    found = Square(0.1, norm, queries=50).attempt(
        model, tf.constant(x), tf.zeros(3, tf.int32), 0, tf.range(3), 0
    )
    assert len(seen) == 1
    np.testing.assert_array_equal(found, seen[0])


@every_norm
def test_a_model_that_does_not_answer_leaves_the_clean_image(norm):
    x = np.full((3, 6, 6, 1), 0.5, "f4")
    for answer in ([[2.0, 1.0, 0.0]], [[np.nan] * 3]):
        model, seen = counted(lambda x, a=answer: tf.tile(tf.constant(a), [len(x), 1]))
        attack = Square(0.1, norm, queries=7)
        found = attack.attempt(model, tf.constant(x), tf.zeros(3, tf.int32), 0, tf.range(3), 0)
        assert np.isfinite(found).all()
        if answer[0][0] == 2:
            assert len(seen) == 8
            np.testing.assert_array_equal(found, x)


def linear(classes, shape, seed=0):
    chance = np.random.default_rng(seed)
    w = tf.constant(chance.normal(size=(int(np.prod(shape)), classes)), tf.float32)
    x = chance.uniform(0.3, 0.7, (6, *shape)).astype("f4")
    model = lambda v: tf.reshape(v - 0.5, [-1, w.shape[0]]) @ w  # noqa: E731
    return model, x, np.argmax(model(x), 1).astype("int32")


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (12, 6, 3)])
@pytest.mark.parametrize("classes", [2, 5])
@every_norm
def test_any_number_of_classes_and_any_shape(norm, classes, shape):
    model, x, y = linear(classes, shape)
    attack = Square({"linf": 0.3, "l2": 3.0}[norm], norm, queries=15).fitted(classes)
    found = attack(model, x, y)
    assert (np.argmax(model(found), 1) != y).any()
    one = attack(model, x[2:3], y[2:3], index=[2])
    np.testing.assert_allclose(one, found[2:3], atol=1e-6)
    wrong = (y + 1) % classes
    np.testing.assert_array_equal(attack(model, x, wrong), x)


@pytest.mark.parametrize(("norm", "loss"), [("linf", "margin"), ("linf", "ce"), ("l2", "margin")])
def test_more_queries_and_more_restarts_break_more(norm, loss):
    epsilon = {"linf": 0.15, "l2": 0.8}[norm]
    left = []
    for settings in ({"queries": 10}, {"queries": 80}, {"queries": 80, "restarts": 2}):
        attack = Square(epsilon, norm, loss=loss, **settings)
        run = tf.function(lambda x, y, a=attack: a(NETWORK, x, y), autograph=False)
        left.append((np.argmax(logits(run(X[:100], Y[:100])), 1) == Y[:100]).sum())
    assert left[0] > left[1] >= left[2]


def robust(attack, seed):
    return int((np.argmax(logits(attempter(attack)(seed=seed)), 1) == Y).sum())


def test_a_thousand_queries_in_l2_leave_as_many_digits_as_the_reference():
    assert abs(robust(Square(0.8, "l2", queries=1000), 0) - 187) <= 12


@pytest.mark.slow
def test_own_draws_leave_as_many_digits_as_the_reference():
    call = attempter(Square(digits.EPSILON))
    left = [int((np.argmax(logits(call(seed=seed)), 1) == Y).sum()) for seed in range(10)]
    assert abs(np.mean(left) - 277) <= 3 and np.abs(np.subtract(left, 277)).max() <= 12


def test_a_thousand_queries_leave_a_few_more_than_five_thousand():
    assert 265 <= robust(Square(digits.EPSILON, queries=1000), 0) <= 289


@every_norm
def test_the_trace_does_not_grow_with_the_queries(norm):
    def nodes(queries):
        attack = Square(0.1, norm, queries=queries, p_init=0.1)
        f = tf.function(lambda x, y: attack(NETWORK, x, y), autograph=False)
        return len(f.get_concrete_function(X[:2], Y[:2]).graph.as_graph_def().library.function)

    assert nodes(5000) == nodes(60)


REFUSED = {
    "queries": ({"queries": 0}, "queries must be at least 1; received 0"),
    "restarts": ({"restarts": 0}, "restarts must be at least 1; received 0"),
    "p_init": ({"p_init": 1.5}, r"p_init must be in \(0, 1\]; received 1.5"),
    "loss": ({"loss": "dlr"}, "loss must be margin or ce; received 'dlr'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Square(0.1, **settings)


def test_only_images_have_windows():
    with pytest.raises(ValueError, match=r"Square needs images \[n, height, width, channels\]"):
        Square(0.1)(lambda x: x, np.zeros((2, 5), "f4"), np.zeros(2, "i4"))
