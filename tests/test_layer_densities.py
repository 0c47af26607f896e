import numpy as np
import pytest

from rst_tf import masks
from rst_tf.layer_densities import (
    LAYER_DENSITIES,
    ideal_gas_factor,
    kept_counts,
    layer_densities,
    read_densities,
    sizes_of,
)


def residual_shapes():
    """The kernels of the pre-activation ResNet-18 for 10 classes."""
    shapes = [(3, 3, 3, 64), *[(3, 3, 64, 64)] * 4]
    for before, after in ((64, 128), (128, 256), (256, 512)):
        shapes += [(3, 3, before, after), *[(3, 3, after, after)] * 3, (1, 1, before, after)]
    return [*shapes, (512, 10)]


NETWORKS = {
    "resnet": residual_shapes(),
    "lenet": [(784, 300), (300, 100), (100, 10)],
    "depthwise": [(3, 3, 3, 8), (3, 3, 8, 1), (1, 1, 8, 16), (16, 5)],
    "one": [(40, 30)],
    "tiny": [(2, 1), (3, 3), (1, 7)],
}
DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)
every_rule = pytest.mark.parametrize("rule", sorted(LAYER_DENSITIES))
every_network = pytest.mark.parametrize("name", NETWORKS)

# weights of a kernel of residual_shapes(): igq and erk at density .2, to four decimals
AT_A_FIFTH = {
    1728: (0.9936, 1),
    36864: (0.8787, 1),
    73728: (0.7836, 0.7538),
    147456: (0.6442, 0.4988),
    8192: (0.9702, 1),
    294912: (0.4752, 0.3712),
    589824: (0.3116, 0.2465),
    32768: (0.8907, 1),
    1179648: (0.1846, 0.1842),
    2359296: (0.1017, 0.1225),
    131072: (0.6707, 1),
    5120: (0.9812, 1),
}


@pytest.mark.parametrize(("rule", "column"), [("igq", 0), ("erk", 1)])
def test_densities_are_those_of_the_published_rule(rule, column):
    shapes = NETWORKS["resnet"]
    found = layer_densities(rule, shapes, 0.2)
    for n, fraction in zip(sizes_of(shapes), found, strict=True):
        assert round(fraction, 4) == AT_A_FIFTH[n][column]


@pytest.mark.parametrize(
    ("density", "factor"), [(0.2, 3.74547e-6), (0.1, 1.02364e-5), (0.05, 2.52679e-5)]
)
def test_the_factor_of_ideal_gas_quotas(density, factor):
    found = ideal_gas_factor(sizes_of(NETWORKS["resnet"]), density)
    assert float(f"{found:.5e}") == factor


def test_the_published_count_keeps_at_most_one_more_per_layer():
    shapes = NETWORKS["resnet"]
    sizes = sizes_of(shapes)
    fractions = layer_densities("igq", shapes, 0.2)
    published = [masks.count(n, d, "rst") for n, d in zip(sizes, fractions, strict=True)]
    own = kept_counts(sizes, fractions, 0.2)
    assert sum(sizes) == 11_164_352 and sum(published) == 2_232_881
    assert sum(own) == 2_232_870
    assert {p - k for p, k in zip(published, own, strict=True)} == {0, 1}


@every_rule
@every_network
@pytest.mark.parametrize("density", DENSITIES)
def test_densities_make_the_density_of_the_network(rule, name, density):
    shapes = NETWORKS[name]
    found = np.array(layer_densities(rule, shapes, density))
    sizes = np.array(sizes_of(shapes))
    assert found.min() > 0 and found.max() <= 1
    np.testing.assert_allclose(found @ sizes, density * sizes.sum(), rtol=1e-9)


@every_rule
@every_network
@pytest.mark.parametrize("density", DENSITIES)
def test_counts_are_whole_exact_and_within_one_of_their_share(rule, name, density):
    shapes = NETWORKS[name]
    sizes, fractions = sizes_of(shapes), layer_densities(rule, shapes, density)
    kept = kept_counts(sizes, fractions, density)
    assert sum(kept) == max(masks.count(sum(sizes), density), len(sizes))
    for k, n, fraction in zip(kept, sizes, fractions, strict=True):
        assert type(k) is int and 1 <= k <= n
        assert abs(k - fraction * n) < 1 + 1e-6 or min(kept) == 1  # who may not lose, takes


@every_rule
@every_network
def test_more_density_is_more_in_every_layer(rule, name):
    found = np.array([layer_densities(rule, NETWORKS[name], d) for d in DENSITIES])
    assert (np.diff(found, axis=0) >= 0).all()


@every_network
@pytest.mark.parametrize("density", (0.05, 0.2, 0.5))
def test_quotas_fall_with_size(name, density):
    shapes = sorted(NETWORKS[name], key=np.prod)
    found = layer_densities("igq", shapes, density)
    sizes = sizes_of(shapes)
    assert [found[i] > found[i + 1] for i in range(len(shapes) - 1)] == [
        sizes[i] < sizes[i + 1] for i in range(len(shapes) - 1)
    ]


def test_the_power_softens_erk():
    shapes = NETWORKS["lenet"]
    found = {p: layer_densities("erk", shapes, 0.2, power=p) for p in (0.0, 0.5)}
    found[1.0] = layer_densities("erk", shapes, 0.2)
    np.testing.assert_allclose(found[0.0], 0.2)
    spread = [max(f) / min(f) for f in found.values()]
    assert spread == sorted(spread) and spread[0] < spread[1] < spread[2]
    a, b = (sum(shape) / np.prod(shape) for shape in shapes[:2])
    np.testing.assert_allclose(found[0.5][0] / found[0.5][1], (a / b) ** 0.5)


NAMES = ("conv/kernel", "block/depthwise_kernel", "block/pointwise_kernel", "output/kernel")
GIVEN = {"conv": 1.0, "block": 0.5, "block/pointwise_kernel": 0.25, "output": 0.5}


@pytest.mark.parametrize(
    "given", [GIVEN, "conv=1, block=.5, block/pointwise_kernel=.25, output=.5"], ids=type
)
def test_given_densities_are_taken_by_kernel_and_by_layer(given):
    shapes = NETWORKS["depthwise"]
    total = float(np.dot([1, 0.5, 0.25, 0.5], sizes_of(shapes)) / sum(sizes_of(shapes)))
    assert layer_densities(given, shapes, total, names=NAMES) == [1, 0.5, 0.25, 0.5]


def given(**changes):
    return {k: v for k, v in (GIVEN | changes).items() if v is not None}


REFUSED = {
    "unknown rule": ({"densities": "ikq"}, "did you mean 'igq'"),
    "unknown layer": ({"densities": given(con=0.1)}, "names 'con', which no masked layer"),
    "layer left out": ({"densities": given(output=None)}, "leaves out output/kernel$"),
    "fraction above 1": ({"densities": given(conv=1.5)}, r"of 'conv' must be in \(0, 1\]"),
    "another density": ({"densities": GIVEN, "density": 0.2}, "make, 0.65.*density=0.2"),
    "power without erk": ({"densities": "igq", "power": 0.5}, "power has an effect with"),
    "power below 0": ({"densities": "erk", "power": -1.0}, "at least 0; received power=-1.0"),
    "density 0": ({"densities": "uniform", "density": 0}, "received density=0"),
    "density above 1": ({"densities": "igq", "density": 1.2}, "received density=1.2"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_wrong_arguments_are_named(why):
    arguments, message = REFUSED[why]
    options = {"density": 0.5, **arguments}
    with pytest.raises(ValueError, match=message):
        layer_densities(shapes=NETWORKS["depthwise"], names=NAMES, **options)


@pytest.mark.parametrize("text", ["a=.5,b", "a=.5,a=.2", "a==1", "a=half"])
def test_a_text_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"^densities must be .*received"):
        read_densities(text)


def test_counts_need_fractions_that_add_up():
    with pytest.raises(ValueError, match=r"fractions must add up to the 40 weights.*of 60 weights"):
        kept_counts([100, 100], [0.3, 0.3], 0.2)


def test_without_a_density_counts_take_the_fractions_own():
    assert kept_counts([10, 10, 10], [0.14, 0.25, 0.28]) == [1, 3, 3]
    assert kept_counts([10, 10], [0.01, 1.0]) == [1, 9]
