"""The early-bird test: 11.5 of the specification, and masks against a sort."""

import itertools
import math

import keras
import numpy as np
import pytest
from networks import NETWORKS, easy_data, small

import rst_tf as rst
from rst_tf.callbacks import StopAtEarlyBird
from rst_tf.early_bird import EarlyBird, MaskWindow, distance, kept
from rst_tf.masks import count
from rst_tf.models import MLP, VGG, ResNet, WideResNet, masked_parts

SIZES = (1, 7, 8, 1000)
DENSITIES = (0.001, 0.1, 0.2, 0.5, 0.71, 0.9, 1.0)


def random_mask(size, seed):
    return np.random.default_rng(seed).uniform(size=size) < 0.3


def moved(mask, fraction):
    """The mask with this fraction of its entries changed."""
    other = mask.copy()
    other[: round(fraction * mask.size)] ^= True
    return other


def history(test, masks):
    """At each mask, whether it has emerged."""
    window = MaskWindow(test.window, masks[0].size)
    return [test.emerged(window.add(mask)) for mask in masks]


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seeds", [(0, 1), (2, 3), (4, 4)])
def test_the_distance_is_symmetric_and_the_fraction_that_differs(size, seeds):
    a, b = (random_mask(size, seed) for seed in seeds)
    assert distance(a, b) == distance(b, a) == np.mean(a != b)
    assert distance(a, a) == 0 and distance(a, ~a) == 1


def test_masks_of_two_shapes_have_no_distance():
    with pytest.raises(ValueError, match=r"must have one shape; received \(3,\) and \(4,\)"):
        distance(np.ones(3), np.ones(4))


@pytest.mark.parametrize("size", SIZES)
def test_a_window_gives_the_distances_to_the_last_masks(size):
    masks = [random_mask(size, seed) for seed in range(9)]
    window = MaskWindow(4, size)
    for place, mask in enumerate(masks):
        expected = [np.mean(mask != old) for old in masks[max(0, place - 3) : place]]
        assert window.add(mask) == expected


def test_a_window_goes_on_from_its_bits():
    masks = [random_mask(100, seed) for seed in range(8)]
    whole, first, second = (MaskWindow(3, 100) for _ in range(3))
    expected = [whole.add(mask) for mask in masks]
    assert [first.add(mask) for mask in masks[:4]] == expected[:4]
    second.bits, second.seen = first.bits, first.seen
    assert [second.add(mask) for mask in masks[4:]] == expected[4:]


# ---------------------------------------------------------------- emerging

TESTS = [EarlyBird(), EarlyBird("channel"), EarlyBird(window=3), EarlyBird(threshold=0.0)]


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_identical_masks_emerge_when_the_window_is_full(test):
    masks = [random_mask(1000, 0)] * (test.window + 2)
    assert history(test, masks) == [False] * (test.window - 1) + [True] * 3


@pytest.mark.parametrize("test", TESTS, ids=str)
def test_masks_that_change_never_emerge(test):
    assert not any(history(test, [random_mask(1000, seed) for seed in range(8)]))


LIMITS = {
    EarlyBird(): 0.08,
    EarlyBird("channel"): 0.1,
    EarlyBird(threshold=0.2): 0.2,
    EarlyBird("channel", threshold=0.03): 0.03,
}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("test", LIMITS, ids=str)
def test_one_distance_above_the_limit_blocks(test, place):
    mask = random_mask(1000, 0)
    for change, emerges in ((0.0, True), (0.001, False)):
        masks = [mask] * 5
        masks[place] = moved(mask, LIMITS[test] + change)
        assert history(test, masks) == [False] * 4 + [emerges]


def test_what_left_the_window_no_longer_blocks():
    mask = random_mask(1000, 0)
    far = moved(mask, 0.5)
    assert history(EarlyBird(), [far, *[mask] * 5]) == [False] * 5 + [True]


def test_the_newest_mask_is_compared_and_not_the_older_with_each_other():
    """Both ends lie .06 from the newest, and .12 from each other."""
    mask = random_mask(1000, 0)
    low, high = mask.copy(), mask.copy()
    low[:60] ^= True
    high[60:120] ^= True
    assert distance(low, high) == 0.12
    assert history(EarlyBird(), [low, high, mask, mask, mask])[-1]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", DENSITIES)
def test_the_threshold_is_an_element_of_the_sorted_magnitudes(size, density):
    values = np.random.default_rng(size).normal(size=size)
    place = min(math.floor(round((1 - density) * size, 6)), size - 1)
    threshold = sorted(abs(value) for value in values)[place]
    expected = [abs(value) > threshold for value in values]
    assert kept(values, density).tolist() == expected
    assert kept(values, density).sum() == size - place - 1


def test_ties_with_the_threshold_drop():
    values = np.array([1, -2, 2, 2, 3, -3])
    assert kept(values, 0.5).tolist() == [False] * 4 + [True] * 2
    assert not kept(np.ones(10), 0.2).any()


def affine(network):
    return [w for w in network.weights if w.name == "gamma"]


NARROW = {
    "resnet": ResNet(18, width=0.07),
    "wide": WideResNet(10, 0.3),
    "vgg": VGG(11, width=0.05),
}


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("density", [0.2, 0.5])
def test_masks_are_of_convolutions_or_of_scales_alone(name, density):
    """The classifier is pruned, but not looked at; what ranks is magnitude, over all layers."""
    network = NARROW[name].build((32, 32, 3), 10, masked_parts())
    rng = np.random.default_rng(0)
    for variable in affine(network):
        variable.assign(rng.normal(size=variable.shape))
    kernels = [m.kernel.numpy() for m in rst.masked_kernels(network) if m.kernel.ndim == 4]
    parts = {"unstructured": kernels, "channel": [v.numpy() for v in affine(network)]}
    for criterion, values in parts.items():
        found = EarlyBird(criterion).mask(network, density)
        flat = np.concatenate([value.ravel() for value in values])
        assert np.array_equal(found, kept(flat, density))
        assert abs(found.sum() - count(flat.size, density)) <= 1


def test_without_convolutions_all_kernels_count():
    network = MLP(hidden=(12,)).build((5, 5, 1), 3, masked_parts())
    assert EarlyBird().mask(network, 0.2).size == 25 * 12 + 12 * 3


@pytest.mark.parametrize("name", NETWORKS)
def test_a_users_own_network_has_masks(name):
    network = rst.masked(NETWORKS[name]())
    assert 0 < EarlyBird().mask(network, 0.3).sum() < EarlyBird().mask(network, 0.6).sum()


REFUSED = {
    "criterion": (lambda: EarlyBird("filter"), "criterion names an unknown criterion 'filter'"),
    "window": (lambda: EarlyBird(window=1), "window must be at least 2; received window=1"),
    "threshold": (
        lambda: EarlyBird(threshold=1.5),
        r"threshold must be in \[0, 1\]; received threshold=1.5",
    ),
    "density": (lambda: kept(np.ones(3), 0.0), r"density must be in \(0, 1\]; received"),
    "no scales": (
        lambda: EarlyBird("channel").mask(MLP().build((5, 5, 1), 3, masked_parts()), 0.5),
        "criterion='channel' needs batch normalisation with a scale",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as found:
        act()
    assert "\n" not in str(found.value)


ENDS = [(EarlyBird(window=3, threshold=1.0), 3), (EarlyBird(threshold=0.0), 6)]


@pytest.mark.parametrize(("test", "epochs"), ENDS)
def test_a_training_of_ones_own_ends_with_it(test, epochs):
    """One of 640 weights is enough against a threshold of 0; 1 takes any full window."""
    trainer = rst.RobustTrainer(small(), rst.Natural())
    trainer.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    stop = StopAtEarlyBird(0.2, test)
    for _ in range(2):  # a second training begins with an empty window
        history = trainer.fit(*easy_data(), batch_size=8, epochs=6, callbacks=[stop], verbose=0)
        assert len(history.epoch) == epochs
        assert [len(each) for each in stop.distances] == [0, 1, 2, 3, 4, 4][:epochs]


def test_a_mask_of_a_part_of_training_is_stable_where_weights_hardly_move():
    """Weights that move by less and less give distances that fall."""
    rng = np.random.default_rng(0)
    weights, masks = rng.normal(size=5000), []
    for step in range(10):
        weights = weights + rng.normal(size=5000) * 0.5 / (step + 1) ** 2
        masks.append(kept(weights, 0.2))
    gaps = [distance(a, b) for a, b in itertools.pairwise(masks)]
    assert gaps[0] > 5 * gaps[-1] > 0
