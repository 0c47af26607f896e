import functools

import numpy as np
import pytest
import tensorflow as tf

from rst_tf import masks


def scores(n, kind, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=n),
        "signs": rng.choice([-1.0, 1.0], n),
        "zeros": np.zeros(n),
        "few values": rng.integers(0, 40, n) / 8.0,
        "few ties": rng.permutation(n) // 20,
        "one percent of ties": rng.permutation(n) // 30,  # of the 3000 below
        "tiny and huge": rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n),
    }
    return values[kind].astype("float32")


KINDS = ["normal", "signs", "zeros", "few values", "few ties", "one percent of ties"]
KINDS += ["tiny and huge"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 7, 1000, 5000])
def test_selection_keeps_exactly_the_largest(kind, n):
    s = scores(n, kind)
    for kept in sorted({1, n // 3, n - 1, n} - {0}):
        mask = masks.select(s, kept)
        assert mask.sum() == kept
        if 0 < kept < n:
            assert np.abs(s[mask]).min() >= np.abs(s[~mask]).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["histogram", "bisection", "bisection by XLA"])
def test_selection_in_a_graph_is_the_same_selection(kind, way):
    s = scores(3000, kind)
    select = functools.partial(masks.select_in_graph, static=way != "histogram")
    chosen = tf.function(select, jit_compile=way == "bisection by XLA")
    for kept in (1, 29, 1500, 2999, 3000):
        np.testing.assert_array_equal(chosen(tf.constant(s), kept) > 0, masks.select(s, kept))


def test_few_ties_go_to_the_later_position():
    s = np.arange(1000, dtype="float32")
    s[[10, 500, 600]] = 990.5
    assert masks.select(s, 10)[[10, 500, 600]].tolist() == [False, False, True]


def test_many_ties_favour_no_corner():
    mask = masks.select(np.ones((100, 100), "float32"), 5000)
    quarters = [mask[:50, :50], mask[:50, 50:], mask[50:, :50], mask[50:, 50:]]
    assert all(1100 < q.sum() < 1400 for q in quarters)


def test_selection_spares_only_the_living():
    s = np.arange(10, dtype="float32")
    alive = s < 6
    mask = masks.select(s, 3, alive)
    assert np.flatnonzero(mask).tolist() == [3, 4, 5]


@pytest.mark.parametrize("wrong", [-1, 7])
def test_selection_refuses_impossible_counts(wrong):
    with pytest.raises(ValueError, match=f"between 0 and 6; received kept={wrong}"):
        masks.select(np.ones(10), wrong, np.arange(10) < 6)


def test_selection_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        masks.select(np.array([1.0, np.nan]), 1)


# n: kept at .01 .05 .1 .2 .5 .8 .9, from the reference's own rule
RST = {
    10: (1, 1, 1, 2, 5, 9, 10),
    100: (1, 5, 10, 20, 50, 81, 91),
    1728: (18, 87, 173, 346, 864, 1383, 1556),
    5120: (52, 256, 512, 1024, 2560, 4097, 4609),
    589824: (5899, 29492, 58983, 117965, 294912, 471860, 530842),
}


@pytest.mark.parametrize("n", RST)
def test_count_rst_is_the_published_one(n):
    densities = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8, 0.9)
    assert tuple(masks.count(n, d, "rst") for d in densities) == RST[n]


CHAINS = {  # weights left in rounds 1, 3, 8, 11, 15, 18 of Cosentino et al. (2019)
    "plus_one": {1: 213057, 3: 136503, 8: 44909, 11: 23079, 15: 9518, 18: 4908},
    "nearest": {1: 213060, 12: 18506, 18: 4928},
}


@pytest.mark.parametrize("rule", CHAINS)
def test_count_gives_the_published_chain(rule):
    left, n = {}, [235200, 30000, 1000]
    for number in range(1, 19):
        n = [masks.count(a, d, rule) for a, d in zip(n, (0.8, 0.8, 0.9), strict=True)]
        left[number] = sum(n)
    assert {number: left[number] for number in CHAINS[rule]} == CHAINS[rule]


KEPT = {  # of 10, at .05 .14 .25 .55 .99 1
    "nearest": (1, 1, 2, 6, 10, 10),
    "rst": (1, 2, 3, 6, 10, 10),
    "plus_one": (1, 1, 1, 5, 9, 9),
    "floor": (1, 1, 2, 5, 9, 10),
}


@pytest.mark.parametrize("rule", KEPT)
def test_count_of_every_rule(rule):
    densities = (0.05, 0.14, 0.25, 0.55, 0.99, 1)
    assert tuple(masks.count(10, d, rule) for d in densities) == KEPT[rule]


@pytest.mark.parametrize("n", [1, 50, 100, 266200, 5 * 10**8])
def test_floor_loses_nothing_to_floating_point(n):
    for percent in range(1, 101):
        expected = max(1, n * percent // 100)
        assert masks.count(n, percent / 100, "floor") == expected
        assert masks.count(n, 1 - (100 - percent) / 100, "floor") == expected


@pytest.mark.parametrize("rule", KEPT)
@pytest.mark.parametrize("n", [1, 10, 999])
def test_count_is_never_below_one_and_grows_with_density(rule, n):
    kept = [masks.count(n, d, rule) for d in (1e-9, 0.1, 0.5, 0.9, 1.0)]
    assert kept[0] >= 1 and kept == sorted(kept) and kept[-1] <= n
    assert rule == "plus_one" or kept[-1] == n


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan")])
def test_density_outside_its_range_is_refused(density):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]; received density="):
        masks.count(10, density)


GROUPS = {  # kernel shape, spatial axes, output axes: element, row, kernel, filter
    (3, 5, 4, 6): ((0, 1), (3,), (3, 5, 4, 6), (3, 1, 4, 6), (1, 1, 4, 6), (1, 1, 1, 6)),
    (7, 8): ((), (1,), (7, 8), (7, 8), (7, 8), (1, 8)),
    (3, 4, 6): ((0,), (2,), (3, 4, 6), (1, 4, 6), (1, 4, 6), (1, 1, 6)),
    (3, 3, 4, 2): ((0, 1), (2, 3), (3, 3, 4, 2), (3, 1, 4, 2), (1, 1, 4, 2), (1, 1, 4, 2)),
}


@pytest.mark.parametrize("shape", GROUPS)
def test_group_shapes(shape):
    spatial, outputs, *expected = GROUPS[shape]
    names = ("element", "row", "kernel", "filter")
    assert [masks.group_shape(shape, g, spatial, outputs) for g in names] == expected


def test_grouped_importance_is_the_sum_over_the_group():
    w = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(masks.grouped(w, (1, 3, 4)), w.sum(0, keepdims=True))
    assert masks.grouped(w, (2, 3, 4)) is w


def test_magnitude_is_the_l1_norm_of_a_group():
    w = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    found = masks.grouped(masks.CRITERIA["magnitude"](w, seed=0, layer=0), (1, 1, 4, 5))
    np.testing.assert_allclose(found, np.abs(w).sum((0, 1), keepdims=True), rtol=1e-6)


# what a fraction refers to
COUNTED = {"layerwise": (50, 400), "global": (450,), "global_floor": (450,)}


@pytest.mark.parametrize("rule", KEPT)
@pytest.mark.parametrize("name", sorted(masks.ALLOCATIONS))
def test_every_allocation_counts_by_its_rule(name, rule):
    layers = [np.arange(1, n + 1, dtype="float32") for n in (50, 400)]
    alive = [np.ones(w.shape, bool) for w in layers]
    for fraction in (0.33, 0.333):
        kept = masks.ALLOCATIONS[name](layers, alive, [50, 400], [fraction] * 2, rule)
        assert sum(kept) == sum(masks.count(n, fraction, rule) for n in COUNTED[name])


def test_the_global_allocation_gives_nothing_to_the_dead():
    layers = [np.full(50, 9.0, "float32"), np.arange(900, dtype="float32") / 900]
    alive = [np.arange(50) < 5, np.ones(900, bool)]
    kept = masks.ALLOCATIONS["global"](layers, alive, [5, 900], [0.2, 0.2], "nearest")
    assert kept == [5, 176]


@pytest.mark.parametrize("name", sorted(masks.ALLOCATIONS))
def test_every_allocation_meets_the_density(name):
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=n).astype("float32") ** 2 for n in (50, 400, 3000)]
    alive = [np.ones(w.shape, bool) for w in layers]
    for density in (0.05, 0.3, 1.0):
        kept = masks.ALLOCATIONS[name](layers, alive, [50, 400, 3000], [density] * 3, "nearest")
        assert abs(sum(kept) - density * 3450) <= 2
        assert all(0 <= k <= w.size for k, w in zip(kept, layers, strict=True))


def test_the_global_allocation_has_one_threshold():
    rng = np.random.default_rng(0)
    layers = [np.abs(rng.normal(size=n)).astype("float32") * s for n, s in ((50, 3), (900, 1))]
    alive = [np.ones(w.shape, bool) for w in layers]
    kept = masks.ALLOCATIONS["global"](layers, alive, [50, 900], [0.2, 0.2], "nearest")
    chosen = [masks.select(w, k) for w, k in zip(layers, kept, strict=True)]
    smallest = min(w[m].min() for w, m in zip(layers, chosen, strict=True))
    largest = max(w[~m].max() for w, m in zip(layers, chosen, strict=True))
    assert sum(kept) == 190 and smallest >= largest


def test_a_floor_leaves_every_layer_a_tenth_of_its_share():
    layers = [np.full(1000, 1e-6, "float32"), np.arange(1, 1001, dtype="float32")]
    alive = [np.ones(1000, bool), np.ones(1000, bool)]
    plain, floored = (
        masks.ALLOCATIONS[name](layers, alive, [1000, 1000], [0.2, 0.2], "nearest")
        for name in ("global", "global_floor")
    )
    assert plain == [0, 400] and floored == [20, 380]


@pytest.mark.parametrize("name", sorted(masks.CRITERIA))
def test_every_criterion_is_pure_and_not_negative(name):
    w = np.random.default_rng(0).normal(size=(30, 20)).astype("float32")
    first, second = (masks.CRITERIA[name](w, seed=1, layer=2) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == w.shape and (first >= 0).all()
    other = masks.CRITERIA["random"](w, seed=1, layer=3)
    assert not np.array_equal(other, masks.CRITERIA["random"](w, seed=1, layer=2))


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (4, 1)], ids=str)
def test_straight_through_is_the_masked_kernel_with_the_gradient_of_the_scores_size(shape):
    rng = np.random.default_rng(0)
    w, upstream = (tf.constant(rng.normal(size=(4, 3)), tf.float32) for _ in range(2))
    s = tf.constant(rng.normal(size=shape) * (rng.uniform(size=shape) > 0.2), tf.float32)
    mask = tf.constant(rng.integers(0, 2, shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch((w, s))
        out = masks.straight_through(w, mask, s)
        loss = tf.reduce_sum(out * upstream)
    of_weights, of_scores = tape.gradient(loss, (w, s))
    np.testing.assert_array_equal(out, w * mask)
    np.testing.assert_array_equal(of_weights, upstream * mask)
    axes = [axis for axis in (0, 1) if shape[axis] == 1]
    expected = np.sum(w * upstream, axis=tuple(axes), keepdims=True) if axes else w * upstream
    np.testing.assert_allclose(of_scores, expected * np.sign(s), rtol=1e-6)
