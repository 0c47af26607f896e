"""Searches over +1 and -1: allocations, gains, scores, stages, normalised logits, tickets."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import QUICK, files, read

import rst_tf as rst
from experiments.fine_tuning import FineTuning
from experiments.scratch_tickets import ScratchTickets
from experiments.training import Session
from rst_tf import (
    PGD,
    Adversarial,
    Natural,
    Ticket,
    baked,
    initialize,
    masked_kernels,
    masks,
    models,
)
from rst_tf.data import Data
from rst_tf.layers import MaskedDense
from rst_tf.models import MLP, ImageNetResNet, ResNet
from rst_tf.normalization import Normalization
from rst_tf.optimizers import SGD
from rst_tf.schedules import Constant, Cosine, Steps
from rst_tf.traversal import refresh_masks, set_density

# ---------------------------------------------------------------- adaptive allocation

TOY = {  # power: densities, kept, of layers of 10, 100, 1000 at density .1
    0.0: ([1, 0.505, 0.051], [10, 51, 51]),
    0.1: ([1, 0.447115, 0.057], [10, 45, 57]),
    0.5: ([0.783772, 0.249863, 0.08], [8, 25, 80]),
    1.0: ([0.1, 0.1, 0.1], [1, 10, 100]),
}


@pytest.mark.parametrize("power", TOY)
def test_the_published_toy(power):
    sizes, (densities, kept) = [10, 100, 1000], TOY[power]
    found = masks.adaptive_densities(sizes, 0.1, power)
    np.testing.assert_allclose(found, densities, rtol=2e-6)
    assert [masks.count(n, d, "rst") for n, d in zip(sizes, found, strict=True)] == kept


ZEROS = models.Layers(
    functools.partial(keras.layers.Dense, kernel_initializer="zeros"),
    functools.partial(keras.layers.Conv2D, kernel_initializer="zeros"),
    keras.layers.DepthwiseConv2D,
    Normalization,
    keras.layers.ReLU,
)


def small(depth, *channels):
    return ResNet(depth, stage_channels=channels)


def small_imagenet(depth, *channels):
    return ImageNetResNet(depth, stage_channels=channels)


CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)
P1, P05, P01, P0 = (6, 13, 26, 51), (14, 20, 29, 40), (23, 25, 27, 29), (26,) * 4
P01_50, P1_50 = (23, 25, 27, 31), (7, 13, 26, 51)
NETWORKS = {  # network, image, classes: weights, layers, channels of normalisation
    (ResNet(34), CIFAR, 10): (21_265_088, 37, 8_512),
    (ResNet(34), CIFAR, 100): (21_311_168, 37, 8_512),
    (ResNet(50), CIFAR, 100): (23_652_032, 54, 26_560),
    (ImageNetResNet(18), IMAGENET, 100): (11_218_112, 21, 4_800),
    (ImageNetResNet(34), IMAGENET, 100): (21_318_848, 37, 8_512),
    (ImageNetResNet(50), IMAGENET, 100): (23_659_712, 54, 26_560),
    (small(34, *P1), CIFAR, 10): (214_652, 37, 854),
    (small(34, *P1), CIFAR, 100): (219_242, 37, 854),
    (small(34, *P05), CIFAR, 10): (212_021, 37, 935),
    (small(34, *P05), CIFAR, 100): (215_621, 37, 935),
    (small(34, *P01), CIFAR, 10): (199_198, 37, 940),
    (small(34, *P01), CIFAR, 100): (201_808, 37, 940),
    (small(34, *P0), CIFAR, 10): (197_678, 37, 936),
    (small(34, *P0), CIFAR, 100): (200_018, 37, 936),
    (small(18, *P01), CIFAR, 10): (99_550, 21, 520),
    (small(18, *P01), CIFAR, 100): (102_160, 21, 520),
    (small(18, *P1), CIFAR, 10): (112_430, 21, 480),
    (small(18, *P1), CIFAR, 100): (117_020, 21, 480),
    (small(50, *P01_50), CIFAR, 10): (227_718, 54, 2_991),
    (small(50, *P01_50), CIFAR, 100): (238_878, 54, 2_991),
    (small(50, *P1_50), CIFAR, 10): (239_188, 54, 2_687),
    (small(50, *P1_50), CIFAR, 100): (257_548, 54, 2_687),
    (small_imagenet(18, *P01), IMAGENET, 100): (104_920, 21, 520),
    (small_imagenet(34, *P01), IMAGENET, 100): (204_568, 37, 940),
    (small_imagenet(50, *P01_50), IMAGENET, 100): (241_638, 54, 2_991),
}
FAST = [  # of the large and of the small ones; test_models has ResNet-18, 50 and 101
    (ResNet(34), CIFAR, 10),
    (small(34, *P1), CIFAR, 10),
    (small(34, *P0), CIFAR, 100),
    (small(18, *P01), CIFAR, 10),
    (small(50, *P1_50), CIFAR, 10),
    (small_imagenet(50, *P01_50), IMAGENET, 100),
]
TOTALS = {  # power: kept of all at density .01
    (ResNet(34), CIFAR, 10): {0.0: 212_683, 0.1: 212_685, 1.0: 212_685},
    (ResNet(18), CIFAR, 10): {0.1: 111_662},
    (ResNet(50), CIFAR, 10): {0.1: 234_729},
    (ResNet(34), CIFAR, 100): {0.1: 213_146},
    (ImageNetResNet(34), IMAGENET, 100): {0.1: 213_224},
    (ImageNetResNet(50), IMAGENET, 100): {0.1: 236_650},
}


def rows(table):
    return [pytest.param(row, marks=[] if row in FAST else pytest.mark.slow) for row in table]


@functools.cache
def kernels_of(row):
    architecture, shape, classes = row
    network = architecture.build(shape, classes, ZEROS)
    normalisations = [la for la in network.layers if isinstance(la, Normalization)]
    channels = sum(la.moving_mean.shape[0] for la in normalisations)
    return [tuple(v.shape) for v in network.variables if v.name == "kernel"], channels


def sizes_of(row):
    return [int(np.prod(shape)) for shape in kernels_of(row)[0]]


@pytest.mark.parametrize("row", rows(NETWORKS), ids=str)
def test_published_sizes(row):
    sizes, channels = sizes_of(row), kernels_of(row)[1]
    assert (sum(sizes), len(sizes), channels) == NETWORKS[row]


@pytest.mark.parametrize("row", rows(TOTALS), ids=str)
def test_published_totals(row):
    sizes = sizes_of(row)
    for power, total in TOTALS[row].items():
        densities = masks.adaptive_densities(sizes, 0.01, power)
        kept = [masks.count(n, d, "rst") for n, d in zip(sizes, densities, strict=True)]
        assert sum(kept) == total


LAYERS = {  # shape of kernel: density and kept (least and most) at power 0, .1, .5, 1
    (3, 3, 3, 64): [(1, 1728), (1, 1728), (0.2262, 391), (0.01, 18)],
    (512, 10): [(1, 5120), (0.7746, 3966), (0.1314, 673), (0.01, 52)],
    (1, 1, 64, 128): [(0.7178, 5881), (0.5074, 4157), (0.1039, 852), (0.01, 82)],
    (3, 3, 64, 64): [(0.1595, 5881), (0.1311, 4832), (0.0490, 1806), (0.01, 369)],
    (3, 3, 128, 128): [(0.0399, 5881), (0.0376, 5551), (0.0245, 3611), (0.01, 1475)],
    (3, 3, 256, 256): [(0.00997, 5881), (0.01081, 6376), (0.01224, 7222, 7223), (0.01, 5899)],
    (3, 3, 512, 512): [(0.00249, 5881), (0.00310, 7325, 7326), (0.00612, 14_445), (0.01, 23_596)],
}


def test_the_published_table_of_layers():
    row = (ResNet(34), CIFAR, 10)
    shapes, sizes = kernels_of(row)[0], sizes_of(row)
    for place, power in enumerate((0.0, 0.1, 0.5, 1.0)):
        densities = masks.adaptive_densities(sizes, 0.01, power)
        for shape, n, density in zip(shapes, sizes, densities, strict=True):
            if shape in LAYERS:
                expected, *kept = LAYERS[shape][place]
                assert density == pytest.approx(expected, abs=6e-5)
                assert masks.count(n, density, "rst") in kept


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("density", [1e-6, 0.01, 0.3, 0.9, 1.0])
def test_no_layer_is_emptied_or_overfilled_and_the_sum_is_right(density, power):
    sizes = [500, 3, 20, 500, 7000, 20]
    found = masks.adaptive_densities(sizes, density, power)
    kept = [masks.count(n, d, "rst") for n, d in zip(sizes, found, strict=True)]
    assert all(0 < d <= 1 for d in found)
    assert all(1 <= k <= n for k, n in zip(kept, sizes, strict=True))
    assert 0 <= sum(kept) - int(density * sum(sizes)) <= len(sizes)


@pytest.mark.parametrize(
    ("density", "power", "message"),
    [
        (0.1, -0.1, r"power must be in \[0, 1\]; received power=-0.1"),
        (0.1, 1.5, r"power must be in \[0, 1\]; received power=1.5"),
        (0, 0.1, r"density must be in \(0, 1\]; received density=0"),
    ],
)
def test_an_allocation_that_cannot_be_is_refused(density, power, message):
    with pytest.raises(ValueError, match=message):
        masks.adaptive_densities([10, 20], density, power)


def searching(**options):
    """A small network of four layers that searches."""
    parts = models.masked_parts(**{"search": True, "density": 0.2, "count": "rst", **options})
    return MLP(hidden=(20, 6, 30)).build((5, 5, 1), 4, parts)


def test_a_network_gets_densities_of_its_own_by_layer_and_keeps_them_in_a_file(tmp_path):
    network = searching()
    set_density(network, 0.1, power=0.2)
    kernels = masked_kernels(network)
    expected = masks.adaptive_densities([m.size for m in kernels], 0.1, 0.2)
    assert [m.layer.density for m in kernels] == expected
    assert [m.kept for m in kernels] == [int(m.mask.numpy().sum()) for m in kernels]
    network.save(tmp_path / "n.keras")
    again = keras.models.load_model(tmp_path / "n.keras")
    assert [m.layer.density for m in masked_kernels(again)] == expected
    set_density(network, 0.5)
    assert {m.layer.density for m in kernels} == {0.5}


def test_ones_own_model_is_searched_in_the_same_ways():
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(9), keras.layers.Dense(2)])
    network = rst.masked(model, search=True, density=0.3, allocation="global", gain="mean")
    assert sum(m.kept for m in masked_kernels(network)) == masks.count(81, 0.3)
    assert {m.layer.gain for m in masked_kernels(network)} == {"mean"}
    network = rst.masked(model, search=True, count="rst")
    rst.set_density(network, 0.3, power=0.0)
    shares = masks.adaptive_densities([63, 18], 0.3, 0.0)
    assert [m.layer.density for m in masked_kernels(network)] == shares
    assert all(m.kept in (12, 13) for m in masked_kernels(network))


def test_layers_without_scores_take_no_part():
    network = searching(dense_first=True)
    set_density(network, 0.1, power=0.2)
    first, *rest = masked_kernels(network)
    assert first.mask.numpy().all()
    assert [m.layer.density for m in rest] == masks.adaptive_densities(
        [m.size for m in rest], 0.1, 0.2
    )


# ---------------------------------------------------------------- one threshold

GLOBAL = ("global", "global_floor")


def masks_of(network):
    return [m.mask.numpy() > 0 for m in masked_kernels(network)]


@pytest.mark.parametrize("way", ["histogram", "bisection", "bisection by XLA"])
@pytest.mark.parametrize("allocation", GLOBAL)
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_one_threshold_keeps_what_the_allocation_of_that_name_does(density, allocation, way):
    network = searching(allocation=allocation, density=density)
    kernels = masked_kernels(network)
    for number, m in enumerate(kernels):
        size = np.random.default_rng(number).normal(size=m.shape) * 10.0 ** -(number % 3)
        m.scores.assign(size.astype("float32"))
    static = way != "histogram"
    tf.function(lambda: refresh_masks(kernels, static=static), jit_compile="XLA" in way)()
    scores = [np.abs(m.scores.numpy()) for m in kernels]
    alive, sizes = [np.ones(s.shape, bool) for s in scores], [s.size for s in scores]
    counts = masks.ALLOCATIONS[allocation](scores, alive, sizes, [density] * len(sizes), "rst")
    assert [int(found.sum()) for found in masks_of(network)] == [m.kept for m in kernels] == counts
    for m, score, count, found in zip(kernels, scores, counts, masks_of(network), strict=True):
        np.testing.assert_array_equal(found, masks.select(score, count))
        m.check()


def test_a_mask_that_passes_over_a_larger_score_is_refused():
    network = searching(allocation="global")
    refresh_masks(masked_kernels(network))
    first = masked_kernels(network)[0]
    first.scores.assign(first.scores.numpy()[::-1])
    with pytest.raises(RuntimeError, match="differs from its scores"):
        first.check()


# ---------------------------------------------------------------- weights, scores, gains

PUBLISHED = {  # of a 3x3 convolution of 64 channels, fan 576, at density .01
    "signed_constant_correct+fan=0.01": (2 / 5.76) ** 0.5,
    "unsigned_constant_correct+fan=0.01": (2 / 5.76) ** 0.5,
    "signed_constant_correct": (2 / 576) ** 0.5,
    "binary": 1.0,
    "lottery_binary": 1.0,
}


def convolution(**options):
    parts = models.masked_parts(search=True, density=0.1, **options)
    image = keras.Input((6, 6, 64))
    x = keras.layers.Flatten()(parts.conv2d(64, 3, use_bias=False)(image))
    return keras.Model(image, parts.last.dense(3, use_bias=False)(x))


@pytest.mark.parametrize("rule", PUBLISHED)
def test_published_constants(rule):
    network = convolution()
    initialize(network, 3, rule)
    kernel = masked_kernels(network)[0].kernel.numpy()
    assert set(np.abs(kernel).ravel()) == {np.float32(PUBLISHED[rule])}
    assert (kernel < 0).mean() == pytest.approx(0 if "unsigned" in rule else 0.5, abs=0.01)


@pytest.mark.parametrize(
    ("rule", "deviation"),
    [
        ("uniform_pm1", 3**-0.5),
        ("kaiming_normal_correct", (2 / 576) ** 0.5),
        ("kaiming_normal_correct+fan=0.01", (2 / 5.76) ** 0.5),
    ],
)
def test_published_spreads(rule, deviation):
    network = convolution()
    initialize(network, 3, rule)
    kernel = masked_kernels(network)[0].kernel.numpy()
    assert kernel.std() == pytest.approx(deviation, rel=0.01)
    assert rule != "uniform_pm1" or 0.999 < np.abs(kernel).max() < 1


FANS = {  # bounds of the scores of the convolution (fan 576) and of the classifier (fan 1024)
    "all": (1 / 24, 1 / 32),
    "none": (1, 1),
    "except_last": (1 / 24, 1),
    "only_last": (1, 1 / 32),
}


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("fan", FANS)
def test_scores_begin_within_their_bounds(fan, scale):
    network = convolution()
    initialize(network, 3, "binary", score_scale=scale, score_fan=fan)
    for m, bound in zip(masked_kernels(network), FANS[fan], strict=True):
        found = np.abs(m.scores.numpy()).max()
        assert 0.999 * bound * scale < found <= np.float32(bound * scale)
        m.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_scale": 0.0}, "score_scale must be above 0; received score_scale=0.0"),
        ({"score_fan": "some"}, "score_fan names an unknown score_fan 'some'"),
    ],
)
def test_scores_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        initialize(convolution(), 3, "binary", **options)


@pytest.mark.parametrize("rule", ["binary", "kaiming_normal"])
def test_a_gain_is_the_mean_magnitude_of_what_is_kept(rule):
    network, plain = searching(gain="mean"), searching()
    for net in (network, plain):
        initialize(net, 3, rule)
    for m, other in zip(masked_kernels(network), masked_kernels(plain), strict=True):
        w, mask = m.kernel.numpy(), m.mask.numpy()
        gain = np.abs(w[mask > 0]).mean()
        found = m.effective().numpy()
        np.testing.assert_allclose(found, gain * np.sign(w) * mask, rtol=1e-5)
        assert len(np.unique(np.abs(found))) == 2
        if rule == "binary":
            np.testing.assert_array_equal(found, other.effective())
    x = np.random.default_rng(0).uniform(size=(4, 5, 5, 1)).astype("float32")
    np.testing.assert_allclose(baked(network)(x), network(x), atol=1e-6)


@pytest.mark.parametrize("gain", ["none", "mean"])
def test_scores_get_the_gradient_of_the_stored_weights_with_any_gain(gain):
    layer = MaskedDense(5, use_bias=False, search=True, density=0.4, gain=gain)
    layer.build((None, 7))
    m = layer.masked["kernel"]
    m.kernel.assign(np.random.default_rng(0).normal(size=(7, 5)).astype("float32"))
    upstream = np.random.default_rng(1).normal(size=(7, 5)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(m.effective() * upstream)
    expected = upstream * m.kernel.numpy() * np.sign(m.scores.numpy())
    np.testing.assert_allclose(tape.gradient(loss, m.scores.value), expected, rtol=1e-5)


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="gain names an unknown gain 'max'"):
        MaskedDense(3, gain="max")
    with pytest.raises(ValueError, match="allocation names an unknown allocation 'adaptive'"):
        MaskedDense(3, search=True, allocation="adaptive")


# ---------------------------------------------------------------- normalised logits


@pytest.mark.parametrize("network", [ResNet, ImageNetResNet])
def test_logits_are_normalised_by_class(network):
    architecture = network(stage_channels=(2, 3, 4, 5), affine=False, normalized_logits=True)
    found = architecture.build((32, 32, 3), 6, models.masked_parts(search=True, density=0.5))
    initialize(found, 0, "binary")
    x = np.random.default_rng(0).uniform(size=(40, 32, 32, 3)).astype("float32")
    logits = found(x, training=True).numpy()
    np.testing.assert_allclose(logits.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(logits.var(0), 1, atol=0.01)
    own = {id(m.scores) for m in masked_kernels(found)}
    assert {id(v) for v in found.trainable_variables} == own
    kernels = [tuple(m.shape) for m in masked_kernels(found)]
    assert kernels[0][-1] == 2 and kernels[-1] == (5, 6)


@pytest.mark.parametrize("channels", [(), (1, 2, 3), (1, 2, 3, 0)])
def test_stages_without_channels_are_refused(channels):
    with pytest.raises(ValueError, match="stage_channels must be four numbers above 0; received"):
        ResNet(stage_channels=channels)


# ---------------------------------------------------------------- searches

SIGNS = {
    **QUICK,
    "objective": Natural(),
    "network": MLP(hidden=(12, 8)),
    "optimizer": SGD(0.1, weight_decay=1e-3),
    "initializer": "binary",
    "score_scale": 0.01,
    "score_fan": "none",
    "count": "rst",
}
SEARCHES = {
    "adaptive": ScratchTickets(
        **{**SIGNS, "objective": Adversarial(PGD(0.1, steps=2, iterate="best"))},
        density=0.1,
        allocation="adaptive",
    ),
    "global": ScratchTickets(**SIGNS, density=0.1, allocation="global"),
    "ramp": ScratchTickets(
        **{**SIGNS, "train_steps": 12},
        density=0.1,
        allocation="global_floor",
        stage_ramp=8,
    ),
    "stages": ScratchTickets(
        **{**SIGNS, "optimizer": SGD(0.1, Cosine(restarts=2))},
        density=0.1,
        allocation="adaptive",
        power=0.0,
        stage_count=3,
    ),
    "gain": ScratchTickets(
        **{**SIGNS, "initializer": "kaiming_normal"}, density=0.1, gain="mean", granularity="row"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _data_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "load", functools.cache(Data.load))
        yield


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """Every search, done once, and the network that it leaves."""
    root, networks = tmp_path_factory.mktemp("searches"), {}
    train = Session.train

    def spying(session, *args, **options):
        train(session, *args, **options)
        networks[session.workdir.path.name] = session.network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "train", spying)
        for name, experiment in SEARCHES.items():
            experiment.run(root / name)
    return root, networks


def last(root, name):
    return Ticket.load(root / name / "tickets" / "round_00.npz")


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_moves_scores_and_no_weight(name, searches):
    experiment, network = SEARCHES[name], searches[1][name]
    fresh, _ = experiment.masked_network(experiment.data.load())
    scores = experiment.score_scale, experiment.score_fan
    initialize(fresh, experiment.seed, experiment.initializer, *scores)
    for old, new in zip(masked_kernels(fresh), masked_kernels(network), strict=True):
        np.testing.assert_array_equal(old.kernel, new.kernel)
        assert (old.scores.numpy() != new.scores.numpy()).any()
        new.check()
        if experiment.initializer == "binary":
            assert set(np.unique(new.kernel)) == {-1.0, 1.0}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_ticket_rebuilds_the_network_and_says_what_was_asked_for(name, searches):
    experiment, ticket = SEARCHES[name], last(searches[0], name)
    asked = ticket.network["search"]
    names = ("density", "allocation", "count")
    assert {n: asked[n] for n in names} == {n: getattr(experiment, n) for n in names}
    kept = [int(entry.mask.sum()) for entry in ticket.entries]
    if experiment.allocation in GLOBAL:
        assert "kept" not in asked
        assert sum(kept) == masks.count(sum(e.mask.size for e in ticket.entries), 0.1, "rst")
    else:
        assert asked["kept"] == kept
    x = np.random.default_rng(0).uniform(size=(5, 28, 28, 1)).astype("float32")
    np.testing.assert_array_equal(ticket.build()(x), searches[1][name](x))


@pytest.mark.parametrize("name", ["adaptive", "stages"])
def test_every_layer_has_its_share_in_the_end(name, searches):
    experiment, ticket = SEARCHES[name], last(searches[0], name)
    sizes = [entry.mask.size for entry in ticket.entries]
    densities = masks.adaptive_densities(sizes, experiment.density, experiment.power)
    expected = [masks.count(n, d, "rst") for n, d in zip(sizes, densities, strict=True)]
    assert list(ticket.kept_by_layer().values()) == expected


def test_a_ticket_whose_masks_are_not_what_its_search_was_asked_for_is_refused(searches, tmp_path):
    ticket = last(searches[0], "adaptive")
    other = {**ticket.network, "search": {**ticket.network["search"], "kept": [1, 2, 3]}}
    with pytest.raises(ValueError, match=r"asked for \[1, 2, 3\]: allocation=adaptive, count"):
        dataclasses.replace(ticket, network=other)
    stored = dataclasses.replace(ticket, seed=None, entries=tuple(
        dataclasses.replace(e, kernel=k)
        for e, k in zip(ticket.entries, ticket.seed.kernels(ticket.build()), strict=True)
    ))  # fmt: skip
    assert "search" not in stored.prune(rate=0.5).network


def test_a_ticket_of_signs_is_trained_on_with_all_weights(searches, tmp_path):
    settings = {k: v for k, v in QUICK.items() if k not in ("network", "objective")}
    settings |= {"objective": Natural(), "train_steps": 2}
    experiment = FineTuning(**settings, ticket=str(searches[0] / "adaptive"), weights="full")
    experiment.run(tmp_path)
    end = last(tmp_path.parent, tmp_path.name)
    assert end.density == 1 and "search" not in end.network


def test_a_ticket_of_an_earlier_version_is_still_of_its_network(searches, tmp_path):
    ticket, settings = last(searches[0], "adaptive"), {**QUICK, "objective": Natural()}
    bare = {"name": "mlp", "hidden": [12, 8]}  # fields that are not there have their defaults
    older = dataclasses.replace(ticket, network={**ticket.network, "architecture": bare})
    older.save(tmp_path / "older.npz")
    for hidden in ((12, 8), (12, 9)):
        settings |= {"network": MLP(hidden=hidden), "ticket": str(tmp_path / "older.npz")}
        if hidden == (12, 8):
            assert FineTuning(**settings).masked_network(settings["data"].load())
        else:
            with pytest.raises(ValueError, match="network must be none or that of the ticket"):
                FineTuning(**settings).masked_network(settings["data"].load())


def test_all_weights_of_a_network_that_sees_signs_are_not_trained(searches):
    settings = {**QUICK, "network": None, "ticket": str(searches[0] / "gain"), "weights": "full"}
    with pytest.raises(ValueError, match=r"weights=full has no place .* gain=mean; received"):
        FineTuning(**settings).masked_network(QUICK["data"].load())


def test_an_interrupted_search_ends_with_the_same_bytes(searches, tmp_path):
    class Stopping(Session):
        def fit(self, trainer, first, sizes, callbacks):
            callbacks[-1].sizes = sizes = [1] * sum(sizes)
            if first == 0:
                event = callbacks[-1].events.get(4)
                callbacks[-1].events = {**callbacks[-1].events, 4: self._stop(event)}
            super().fit(trainer, first, sizes, callbacks)

        def _stop(self, event):
            def act(trainer):
                if event:
                    event(trainer)
                self.wish.number = 15

            return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.scratch_tickets.Session", Stopping)
        with pytest.raises(BaseException, match="step 4 of 6"):
            SEARCHES["stages"].run(tmp_path)
    SEARCHES["stages"].run(tmp_path)
    assert files(tmp_path) == files(searches[0] / "stages")


# ---------------------------------------------------------------- stages


def fallen(**options):
    """Steps and densities of a training of 100 steps, 10 an epoch."""
    settings = {**SIGNS, "train_steps": "10ep", **options}
    return ScratchTickets(**settings).densities(10)


def test_equal_stages_fall_by_one_factor():
    found = fallen(density=0.01, stage_count=4)
    assert list(found) == [0, 25, 50, 75]
    np.testing.assert_allclose(list(found.values()), [10**-0.5, 0.1, 10**-1.5, 0.01])
    assert found[75] == 0.01


@pytest.mark.parametrize("count", [1, 3, 7])
def test_stages_that_do_not_divide_the_training_still_reach_the_density(count):
    found = fallen(density=0.013, stage_count=count)
    assert len(found) == count and list(found.values())[-1] == 0.013
    assert list(found) == [100 * s // count for s in range(count)]


def test_a_warm_up_belongs_to_the_first_stage():
    optimizer = SGD(0.1, Cosine(warmup="2ep", restarts=1))
    assert list(fallen(density=0.01, stage_count=2, optimizer=optimizer)) == [0, 60]


def test_a_ramp_is_the_published_cubic():
    found = fallen(density=0.1, stage_ramp="4ep")
    expected = {10 * t: 0.1 + 0.4 * (1 - t / 4) ** 3 for t in range(5)}
    assert list(found) == list(expected) and found[40] == 0.1
    np.testing.assert_allclose(list(found.values()), list(expected.values()))
    assert list(fallen(density=0.1, stage_ramp=25)) == [0, 10, 20, 25]


def test_the_ramp_of_a_search_is_in_its_results(searches):
    rows = {int(row["step"]): float(row["density"]) for row in read(searches[0] / "ramp")}
    assert rows[0] == pytest.approx(0.5, abs=1e-3) and rows[12] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("schedule", [Cosine, Steps, Constant])
@pytest.mark.parametrize("restarts", [1, 2])
def test_a_schedule_begins_again(schedule, restarts):
    parts = restarts + 1
    found = schedule(restarts=restarts, warmup=5).factors(5 + 20 * parts)
    assert found[:5] == schedule(warmup=5).factors(25)[:5]
    assert found[5:] == schedule().factors(20) * parts


def test_a_schedule_that_moves_with_epochs_restarts_with_one():
    found = Cosine(restarts=1, each="epoch").factors(60, steps_per_epoch=10)
    assert found == Cosine(each="epoch").factors(30, 10) * 2
    with pytest.raises(ValueError, match="restarts must be at least 0; received restarts=-1"):
        Cosine(restarts=-1)


REFUSED = [
    ({"allocation": "even"}, "allocation names an unknown allocation 'even'"),
    ({"allocation": "adaptive", "power": 2.0}, r"power must be in \[0, 1\]; received power=2.0"),
    ({"power": 0.5}, "power has an effect only with allocation=adaptive; received power=0.5"),
    ({"score_scale": -1.0}, "score_scale must be above 0; received score_scale=-1.0"),
    ({"score_fan": "last"}, "score_fan names an unknown score_fan 'last'"),
    ({"gain": "max"}, "gain names an unknown gain 'max'"),
    ({"stage_count": 0}, "stage_count must be at least 1; received stage_count=0"),
    ({"stage_count": 2, "stage_ramp": 3}, "received stage_count and stage_ramp"),
    ({"stage_ramp": 3, "density": 0.6}, "stage_ramp falls from 0.5; received density=0.6"),
    ({"discard_every": 2, "allocation": "global"}, "layerwise; received allocation='global'"),
    ({"stage_ramp": "-1ep"}, "stage_ramp must be a number of steps above 0"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=str)
def test_what_makes_no_sense_is_refused_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        ScratchTickets(**{**QUICK, "data": Data(), **values})


def test_a_ramp_longer_than_the_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"stage_ramp='3ep' reaches density .* by the end"):
        dataclasses.replace(SEARCHES["global"], stage_ramp="3ep").run(tmp_path)
