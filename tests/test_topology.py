"""Laws of one update of a layer: what is pruned, what grows, what stays."""

import numpy as np
import pytest

from rst_tf import topology

#                  0     1    2    3    4     5    6     7
WEIGHTS = np.array([0.5, 0.0, -0.1, 0.3, 0.0, -0.4, 0.0, 0.0], np.float32)
GRADIENT = np.array([0.1, 0.3, -0.9, 0.2, -0.5, 0.0, 0.4, 0.05], np.float32)
LIVE = WEIGHTS != 0
HAND = {  # death rate: pruned, live afterwards with growth by gradient, begin anew
    0.0: (0, [0, 2, 3, 5], []),
    0.25: (1, [0, 2, 3, 5], []),  # the smallest goes, and has the largest gradient of all zeros
    0.5: (2, [0, 2, 4, 5], [4]),
    1.0: (4, [1, 2, 4, 6], [1, 4, 6]),
}


def places(array):
    return list(np.flatnonzero(array))


@pytest.mark.parametrize("rate", HAND)
def test_a_layer_of_eight_weights(rate):
    pruned, live, fresh = HAND[rate]
    assert topology.share(4, rate) == pruned
    promise = topology.promise("gradient", (8,), GRADIENT)
    found = topology.rewired(np.abs(WEIGHTS), LIVE, promise, pruned, pruned)
    assert places(found.mask) == live and places(found.fresh) == fresh
    anew = topology.rewired(np.abs(WEIGHTS), LIVE, promise, pruned, pruned, "zero")
    assert places(anew.mask) == live
    assert set(places(anew.fresh)) == set(fresh) | ({2} if pruned else set())


def layer(name):
    """Importance, mask and gradient of a layer."""
    rng = np.random.default_rng(len(name))
    shape = {"kernel": (3, 3, 8, 16), "matrix": (40, 10), "groups": (3, 3, 1, 16)}.get(name, (60,))
    importance = rng.uniform(0.1, 1, shape).astype("float32")
    gradient = rng.normal(size=shape).astype("float32")
    mask = rng.uniform(size=shape) < 0.3
    if name == "ties":
        importance[:], gradient[:] = 0.5, 0
    if name == "nearly dense":
        mask[:] = True
        mask[7] = False
    if name == "nearly empty":
        mask[:] = False
        mask[7] = True
    return np.where(mask, importance, 0), mask, gradient


LAYERS = ["kernel", "matrix", "groups", "ties", "nearly dense", "nearly empty"]
RATES = [0.0, 0.005, 0.31, 1.0]
every_layer = pytest.mark.parametrize("name", LAYERS)
every_rate = pytest.mark.parametrize("rate", RATES)
every_growth = pytest.mark.parametrize("growth", ["random", "gradient", "momentum"])
every_regrown = pytest.mark.parametrize("regrown", ["keep", "zero"])


def updated(name, rate, growth, regrown="keep", key=(1, 2, 3)):
    importance, mask, gradient = layer(name)
    pruned = topology.share(int(mask.sum()), rate)
    promise = topology.promise(growth, mask.shape, gradient, *key)
    found = topology.rewired(importance, mask, promise, pruned, pruned, regrown)
    return importance, mask, promise, pruned, found


@every_layer
@every_rate
@every_growth
@every_regrown
def test_live_counts_are_conserved_and_the_new_are_among_them(name, rate, growth, regrown):
    _, mask, _, pruned, found = updated(name, rate, growth, regrown)
    assert found.mask.sum() == mask.sum() and found.mask.shape == mask.shape
    assert not (found.fresh & ~found.mask).any()
    assert found.fresh.sum() <= pruned
    assert not (found.mask & ~mask & ~found.fresh).any()  # what was dead begins anew
    if regrown == "zero":
        assert found.fresh.sum() == pruned
    else:
        assert not (found.fresh & mask).any()
    if rate == 0:
        assert np.array_equal(found.mask, mask) and not found.fresh.any()


@every_layer
@every_rate
def test_the_smallest_live_weights_go(name, rate):
    importance, mask, promise, pruned, _ = updated(name, rate, "random")
    alone = topology.rewired(importance, mask, promise, pruned, 0).mask
    gone = mask & ~alone
    assert gone.sum() == pruned and not (alone & ~mask).any()
    if gone.any() and alone.any():
        assert importance[gone].max() <= importance[alone].min()


@every_layer
@every_rate
@every_growth
def test_the_most_promising_zeros_grow(name, rate, growth):
    importance, mask, promise, pruned, found = updated(name, rate, growth)
    zeros = ~topology.rewired(importance, mask, promise, pruned, 0).mask
    grown, passed = zeros & found.mask, zeros & ~found.mask
    assert grown.sum() == pruned
    if grown.any() and passed.any():
        assert np.abs(promise[grown]).min() >= np.abs(promise[passed]).max()


@pytest.mark.parametrize("change", [0, 1, 2])
def test_random_growth_is_a_function_of_seed_layer_and_step(change):
    key = [1, 2, 3]
    first, again = (updated("kernel", 0.31, "random", key=key)[-1].mask for _ in range(2))
    key[change] += 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, updated("kernel", 0.31, "random", key=key)[-1].mask)


def test_random_growth_favours_no_place():
    """Each of 50 zeros grows in a tenth of 2,000 updates."""
    mask = np.arange(60) < 10
    counts = np.zeros(60)
    for step in range(2000):
        promise = topology.promise("random", mask.shape, None, 0, 0, step)
        counts += topology.rewired(mask * 1.0, mask, promise, 0, 5).mask
    assert (counts[:10] == 2000).all()
    assert abs(counts[10:] - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)


def test_gradients_of_a_group_add_up():
    gradient = np.array([[1.0, -3.0], [-2.0, 0.5]], np.float32)
    assert topology.promise("momentum", (1, 2), gradient).tolist() == [[3.0, 3.5]]


SHARES = {(100, 0.07): 7, (4, 0.5): 2, (5, 0.5): 3, (1, 0.005): 1, (9, 0.0): 0, (9, 1.0): 9}


@pytest.mark.parametrize("case", SHARES, ids=str)
def test_a_share_is_rounded_up(case):
    """Whatever a float makes of .07 * 100."""
    assert topology.share(*case) == SHARES[case]


@pytest.mark.parametrize("case, expected", [((20, 0.05), 21), ((19, 0.05), 19), ((0, 0.5), 0)])
def test_more_is_rounded_down(case, expected):
    assert topology.enlarged(*case) == expected


@pytest.mark.parametrize(("pruned", "grown"), [(5, 0), (0, 5), (-1, 0)])
def test_impossible_counts_are_refused(pruned, grown):
    with pytest.raises(ValueError, match="kept must be between 0 and"):
        topology.rewired(np.abs(WEIGHTS), LIVE, np.abs(GRADIENT), pruned, grown)
