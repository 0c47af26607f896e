"""Laws of the published labels of the 2019 system."""

import pytest

from rst_tf.published_2019 import published_label, published_step

# (steps per epoch, every): (label, updates)
KNOWN = {
    (834, 500): [(0, 1), (500, 501), (1000, 835), (30_000, 25_021), (59_500, 49_707)],
    (834, 100): [(0, 1), (800, 801), (900, 835), (1000, 935)],
    (100, 50): [(0, 1), (50, 51), (100, 101)],  # an interval that divides the epoch
    (7, 20): [(0, 1), (20, 8), (40, 15)],  # one that is longer
    (5, 1): [(0, 1), (4, 5), (5, 6)],
}
SCHEDULE = pytest.mark.parametrize(("epoch", "every"), KNOWN)


@SCHEDULE
def test_known_labels(epoch, every):
    for label, step in KNOWN[epoch, every]:
        assert published_step(label, epoch, every) == step
        assert published_label(step, epoch, every) == label


@SCHEDULE
def test_labels_are_those_of_the_published_loop(epoch, every):
    """Every batch in turn: a row where its index within the epoch is a multiple of `every`."""
    label, logged = 0, {}
    for done in range(3 * epoch):
        if done % epoch % every == 0:
            logged[done + 1] = label
            label += every
    assert {published_step(label, epoch, every): label for label in logged.values()} == logged
    for step in range(-1, 3 * epoch + 1):
        if step in logged:
            assert published_label(step, epoch, every) == logged[step]
        else:
            with pytest.raises(ValueError, match=rf"step must be .*; received {step}$"):
                published_label(step, epoch, every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((750, 834, 500), "label must be a multiple of every=500; received 750"),
        ((-500, 834, 500), "label must be a multiple of every=500; received -500"),
        ((0, 0, 500), "steps_per_epoch must be at least 1; received 0"),
        ((0, 834, 0), "every must be at least 1; received 0"),
    ],
)
def test_labels_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        published_step(*arguments)
