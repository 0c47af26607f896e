"""Every check for masked gradients: a network on which it speaks, and one on which it is silent."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data

from rst_tf.attacks.fgsm import FGSM
from rst_tf.robustness import battery as batteries
from rst_tf.robustness import curves
from rst_tf.robustness.battery import CHECKS, Battery
from rst_tf.robustness.case import Case
from rst_tf.robustness.checked import above, level_of

EPSILON = {"linf": 0.25, "l2": 1.0}
FEW = Battery(points=40, steps=(10, 20), factors=(0.5, 1, 3), restarts=(1, 3), draws=30, grid=5)
LIST = ("apgd-ce", "apgd-t", "fab-t", "square")
GRID = 64


def points(n=40):
    """Images on a grid of colours, so that a network can tell them from attacked ones."""
    x, y = easy_data(n)
    return np.round(x * GRID).astype("float32") / GRID, y


X, Y = points()


def plain(x):
    """The mean of each quarter: its gradient leads, and its robust points are known exactly."""
    return 10 * tf.reduce_mean(tf.reshape(x, (-1, 4, 9)), -1)


def off_grid(x):
    """How far each image is from the grid of colours, [n, 1]."""
    return tf.reduce_mean(tf.abs(x * GRID - tf.round(x * GRID)), (1, 2, 3))[:, tf.newaxis]


def reversed_where(flags, x):
    """The plain network with its gradient turned round for some images."""
    z, way = plain(x), tf.where(flags, -1.0, 1.0)
    return tf.stop_gradient(z) + way * (z - tf.stop_gradient(z))


def misled(x):
    """Every gradient points the wrong way."""
    return reversed_where(tf.constant([[True]]), x)


def trap(x):
    """The gradient is right on the images themselves only."""
    return reversed_where(off_grid(x) > 1e-3, x)


def dazzled(x):
    """The gradient is right unless a quarter of the colours are black or white."""
    ends = tf.cast((x == 0) | (x == 1), tf.float32)
    return reversed_where(tf.reduce_mean(ends, (1, 2, 3))[:, tf.newaxis] > 0.25, x)


def stepped(x):
    """A staircase: no gradient at all."""
    return tf.stop_gradient(plain(x)) + 0 * plain(x)


def loud(x):
    """So sure of itself that the cross-entropy is flat."""
    return 1000 * plain(x)


def lucky(x):
    """No gradient, and one image in ten off the grid is misread."""
    dice = tf.math.floormod(1e3 * tf.reduce_sum(x * x, (1, 2, 3)), 1.0)[:, tf.newaxis]
    return tf.where((off_grid(x) > 1e-3) & (dice < 0.1), -stepped(x), stepped(x))


def undefined(x):
    """A gradient that is not a number."""
    return plain(x) + tf.sqrt(plain(x) - plain(x))


def random(x):
    """Other logits at every call, as dropout gives them."""
    return plain(x) + 0.3 * tf.random.normal((tf.shape(x)[0], 4))


def gregarious(x):
    """Logits that depend on the batch, as normalisation in training mode gives them."""
    return plain(x) - tf.reduce_mean(plain(x), 0)


def margins():
    """Of the plain network, per point."""
    z = plain(X).numpy() / 10
    own = z[np.arange(len(Y)), Y]
    z[np.arange(len(Y)), Y] = -1
    return own - z.max(1)


# A step of epsilon along the gradient of the margin, (1, -1) / 9 in the pixels of two quarters.
REACH = {"linf": 2 * EPSILON["linf"], "l2": EPSILON["l2"] * np.sqrt(18) / 9}
ROBUST = {norm: margins() > REACH[norm] for norm in EPSILON}
NONE = np.where(margins() < 0, -2, -1)
"""What attacks that break nothing leave."""


def case(network, broken_by=NONE, attacks=LIST, norm="linf", **options):
    return Case(network, X, Y, EPSILON[norm], norm, broken_by=broken_by, attacks=attacks, **options)


@functools.cache
def of_plain(norm="linf"):
    broken_by = np.where(margins() < 0, -2, np.where(ROBUST[norm], -1, 0))
    return case(plain, broken_by, norm=norm, twin=plain)


class Told(Case):
    """A case whose attacks leave what a function of them says."""

    def __init__(self, left):
        super().__init__(plain, X, Y, EPSILON["linf"], "linf", broken_by=NONE, attacks=LIST)
        self._left_by = left

    def withstands(self, attack, *, seed=None, scale=1.0, by_twin=False, among=None):
        left = self._left_by(attack)
        return self.correct & (np.arange(len(self)) < left * len(self))


def check(name, case, settings=FEW):
    (found,) = (c for c in CHECKS if c.name == name)
    return batteries._one(found, case, settings)


def by_square(count):
    """So many points that only Square broke."""
    broken_by = NONE.copy()
    broken_by[np.flatnonzero(NONE == -1)[:count]] = LIST.index("square")
    return broken_by


SPEAKS = (
    ("G1", lambda: case(trap), "warning"),
    ("G1", lambda: Told(lambda a: 0.5 if isinstance(a, FGSM) else 0.8), "warning"),
    ("G2", lambda: Told(lambda a: 0.2 if a.steps < 20 else 0.6), "warning"),
    ("G2", lambda: Told(lambda a: 0.8 if a.steps < 20 else 0.6), "warning"),
    ("G3", lambda: case(dazzled), "warning"),
    ("G3", lambda: Told(lambda a: 0.2 if a.epsilon < 0.5 else 0.6), "warning"),
    ("G4", lambda: case(misled), "error"),
    ("G4", lambda: case(stepped), "error"),
    ("G5", lambda: case(stepped, by_square(30)), "error"),
    ("G6", lambda: case(stepped, twin=plain), "error"),
    ("G7", lambda: case(lucky), "error"),
    ("G8", lambda: case(lucky), "warning"),
    ("G9", lambda: case(stepped), "warning"),
    ("G9", lambda: case(misled), "warning"),
    ("G9", lambda: case(loud), "warning"),
    ("G9", lambda: case(undefined), "error"),
    ("G10", lambda: case(loud), "warning"),
    ("G10", lambda: Told(lambda a: 0.5 if a.targets else 0.9), "warning"),
    ("G11", lambda: case(misled), "warning"),
    ("G12", lambda: case(random), "error"),
    ("G12", lambda: case(gregarious), "error"),
)


def named(row):
    return row if isinstance(row, str) else ""


@pytest.mark.parametrize(("name", "make", "level"), SPEAKS, ids=named)
def test_speaks_where_gradients_are_masked(name, make, level):
    found = check(name, make())
    assert found.level == level, found.text


def of_list(broken_by):
    return {"broken_by": np.where(margins() < 0, -2, broken_by)}


MISSED, FALLS = "withstood the whole list", "with more starts"
RESTARTS = (
    (plain, of_list(0), "passed", ()),
    (plain, of_list(-1), "warning", (MISSED,)),  # one start breaks what the list left
    (lucky, of_list(0), "warning", (FALLS,)),  # the list left nothing that starts could find
    (lucky, of_list(-1), "warning", (FALLS, MISSED)),
)


@pytest.mark.parametrize(("network", "of_list", "level", "said"), RESTARTS)
def test_restarts_are_told_from_what_the_list_missed(network, of_list, level, said):
    found = check("G8", case(network, **of_list))
    assert found.level == level, found.text
    if level != "passed":
        assert {part for part in (MISSED, FALLS) if part in found.text} == set(said), found.text
    values = list(found.numbers["accuracy"].values())
    assert found.numbers["fall"] == values[0] - values[-1]


NORMS = [(c.name, "linf") for c in CHECKS]
NORMS += [(name, "l2") for name in ("G4", "G7", "G9", "G11")]  # those with geometry of their own


@pytest.mark.parametrize(("name", "norm"), NORMS)
def test_is_silent_where_gradients_lead(name, norm):
    found = check(name, of_plain(norm))
    assert found.level == "passed", found.text


def test_every_check_has_both_rows():
    assert {name for name, *_ in SPEAKS} == {c.name for c in CHECKS}


@pytest.mark.parametrize("norm", EPSILON)
def test_the_attack_leaves_what_can_be_computed_by_hand(norm):
    left = of_plain(norm).withstands(of_plain(norm).apgd())
    clear = abs(margins() - REACH[norm]) > 0.05 * REACH[norm]
    assert 5 < ROBUST[norm][clear].sum() < clear.sum() - 5
    np.testing.assert_array_equal(left[clear], ROBUST[norm][clear])


@pytest.mark.parametrize("norm", EPSILON)
def test_the_minimum_norm_is_that_of_the_margin(norm):
    norms = curves.minimum_norms(of_plain(norm))
    np.testing.assert_allclose(norms, margins() * EPSILON[norm] / REACH[norm], rtol=0.02)


SKIPS = (
    ("G5", {"attacks": ("apgd-ce", "apgd-t", "fab-t", "pgd-20")}, "Square is not among"),
    ("G5", {"attacks": ("square", "apgd-t", "fab-t", "pgd-20")}, "Square is the first"),
    ("G6", {}, "twin"),
    ("G1", {"random": True}, "randomised"),
    ("G7", {"broken_by": np.zeros(40, int)}, "left no point"),
    ("G9", {"broken_by": np.full(40, -2)}, "no point is classified right"),
)


@pytest.mark.parametrize(("name", "options", "why"), SKIPS)
def test_what_cannot_be_checked_says_why(name, options, why):
    found = check(name, case(plain, **options))
    assert found.level == "skipped" and why in found.text


def random_and_misled(x):
    """Both."""
    return misled(x) + random(x) - plain(x)


RANDOM = (
    ("G12", random, "passed"),
    ("G4", random, "passed"),
    ("G4", random_and_misled, "error"),
)


@pytest.mark.parametrize(("name", "network", "level"), RANDOM)
def test_a_network_that_is_meant_to_be_random_may_be(name, network, level):
    assert check(name, case(network, random=True)).level == level


@pytest.mark.parametrize(
    ("share", "count", "level"),
    [(0.0, 100, "passed"), (0.01, 100, "passed"), (0.02, 100, "error"), (0.004, 1000, "warning")],
)
def test_one_point_is_no_sign(share, count, level):
    assert level_of(share, 0.002, 0.01, count) == level
    assert above(share, 0.002, count) == (level != "passed")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"points": 0}, "points must be at least 1; received 0"),
        ({"steps": (20, 10)}, r"steps must be above 0 and ascend; received \(20, 10\)"),
        ({"factors": (0, 1)}, "factors must be above 0"),
        ({"restarts": ()}, "restarts must be above 0"),
        ({"grid": 4}, "grid must be odd"),
    ],
)
def test_settings_without_sense_are_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        Battery(**setting)


def test_parts_of_a_case_know_what_was_tried_on_all():
    every = of_plain()
    attack = FGSM(EPSILON["linf"])
    rows = np.arange(0, 40, 3)
    part = every.at(rows)
    np.testing.assert_array_equal(part.withstands(attack), every.withstands(attack)[rows])
    np.testing.assert_array_equal(part.index, rows)
