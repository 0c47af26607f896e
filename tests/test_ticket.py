import dataclasses

import numpy as np
import pytest
from networks import NETWORKS, images, small

from rst_tf import masked, masked_kernels, models
from rst_tf.initializers import INITIALIZERS, Seed, initialize
from rst_tf.masks import CRITERIA
from rst_tf.ticket import Ticket

every_network = pytest.mark.parametrize("name", NETWORKS)


def ticket_of(name, density=None):
    ticket = Ticket.of(masked(NETWORKS[name]()))
    return ticket if density is None else ticket.prune(density)


@every_network
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_masks_shrink_by_the_rate_and_what_is_pruned_stays_pruned(name, criterion, rate):
    ticket = ticket_of(name)
    for n in range(1, 5):
        smaller = ticket.prune(rate=rate, criterion=criterion, seed=n)
        for before, after in zip(ticket.entries, smaller.entries, strict=True):
            assert not (after.mask & ~before.mask).any()
            expected = before.mask.size * (1 - rate) ** n
            assert abs(after.mask.sum() - expected) <= n
        ticket = smaller


@every_network
@pytest.mark.parametrize("density", [0.9, 0.3, 0.05])
def test_layerwise_density_is_exact_in_every_layer(name, density):
    for entry in ticket_of(name, density).entries:
        removed = round(round(1 - density, 12) * entry.mask.size)
        assert entry.mask.sum() == max(1, entry.mask.size - removed)


def test_global_magnitude_keeps_the_largest_of_the_network():
    ticket = ticket_of("nested").prune(0.2, allocation="global")
    kept = np.concatenate([np.abs(e.kernel[e.mask]) for e in ticket.entries])
    cut = np.concatenate([np.abs(e.kernel[~e.mask]) for e in ticket.entries])
    assert kept.min() >= cut.max()
    assert abs(ticket.density - 0.2) < 1e-3


def test_rates_by_layer():
    ticket = Ticket.of(small()).prune(rate=[0.5, 0.25])
    assert [int(e.mask.sum()) for e in ticket.entries] == [36 * 16 // 2, 48]


@every_network
def test_apply_gives_the_masks_and_with_weights_the_network(name):
    source, target = (masked(NETWORKS[name]()) for _ in range(2))
    x = images()
    ticket = Ticket.of(source).prune(0.4)
    ticket.apply(target)
    assert Ticket.of(target).mask_hash == ticket.mask_hash
    assert not np.allclose(target(x), source(x))
    ticket.apply(target, weights=True)
    ticket.apply(source)
    np.testing.assert_array_equal(target(x), source(x))


def some_tickets():
    network = small(search=True, density=0.3, granularity="filter")
    initialize(network, 4, "kaiming_normal")
    return {
        "stored": ticket_of("functional", 0.3),
        "none": Ticket.of(masked(NETWORKS["nested"]()), weights="none"),
        "seed": Ticket.of(network, weights=Seed(4, "kaiming_normal")),
        "described": Ticket.of(small(), description={"some": "thing"}).prune(rate=0.5),
    }


@pytest.mark.parametrize("kind", ["stored", "none", "seed", "described"])
def test_file_round_trip(kind, tmp_path):
    ticket = some_tickets()[kind]
    ticket.save(tmp_path / "t.npz")
    again = Ticket.load(tmp_path / "t.npz")
    assert again.mask_hash == ticket.mask_hash and again.seed == ticket.seed
    assert again.network == ticket.network and again.density == ticket.density
    for a, b in zip(again.entries, ticket.entries, strict=True):
        assert (a.name, a.shape) == (b.name, b.shape)
        assert (a.kernel is None) == (b.kernel is None)
        assert a.kernel is None or a.kernel.tobytes() == b.kernel.tobytes()
    for a, b in zip(again.leftovers, ticket.leftovers, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize("kind", ["stored", "seed"])
def test_one_wrong_byte_anywhere_is_refused(kind, tmp_path):
    file = tmp_path / "t.npz"
    ticket = some_tickets()[kind]
    ticket.save(file)
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(good), 40):
        bad = bytearray(good)
        bad[position] ^= 0xFF
        file.write_bytes(bytes(bad))
        try:
            again = Ticket.load(file)
        except ValueError as error:
            assert "not a ticket, or is damaged" in str(error)
        else:  # a byte of the archive's bookkeeping that nothing depends on
            assert again.mask_hash == ticket.mask_hash
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="damaged"):
        Ticket.load(file)


def test_a_seed_gives_the_same_weights_again_and_a_wrong_one_is_refused(tmp_path):
    description = models.describe(models.LeNet5(width=0.5), (28, 28, 1), 10)
    network = models.build(description)
    initialize(network, 11, "signed_constant")
    ticket = Ticket.of(network, weights=Seed(11, "signed_constant"), description=description)
    ticket.save(tmp_path / "t.npz")
    again = Ticket.load(tmp_path / "t.npz").build()
    for a, b in zip(network.variables, again.variables, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    wrong = dataclasses.replace(ticket, seed=dataclasses.replace(ticket.seed, seed=12))
    with pytest.raises(ValueError, match="gives other weights"):
        wrong.build()
    network.variables[0].assign(network.variables[0] + 1)
    with pytest.raises(ValueError, match="is not what seed 11"):
        Ticket.of(network, weights=Seed(11, "signed_constant"))


@every_network
def test_any_functional_network_can_describe_itself(name, tmp_path):
    network, x = masked(NETWORKS[name]()), images()
    ticket = Ticket.of(network, description=models.describe_model(network)).prune(0.5)
    ticket.save(tmp_path / "t.npz")
    ticket.apply(network)
    np.testing.assert_allclose(Ticket.load(tmp_path / "t.npz").build()(x), network(x), atol=1e-6)


def test_overlap_is_jaccard():
    ticket = Ticket.of(small())
    half = ticket.prune(0.5)
    assert ticket.overlap(ticket) == 1 and half.overlap(ticket) == pytest.approx(half.density)
    first, second = (ticket.prune(0.2, criterion="random", seed=s) for s in (1, 2))
    assert 0.05 < first.overlap(second) < 0.2


@pytest.mark.parametrize("rule", sorted(INITIALIZERS))
def test_initialisers_have_their_published_scale(rule):
    from rst_tf.initializers import Stream, fans_of

    shape = (3, 3, 64, 128)
    value = INITIALIZERS[rule](shape, fans_of(shape, (3,), (0, 1)), Stream(0, "kernel", 0))
    expected = {  # largest |w| for uniform and constant, deviation for normal
        "signed_constant": (np.abs(value).max(), 0.05893),
        "unsigned_constant": (value.max(), 0.05893),
        "kaiming_uniform": (np.abs(value).max(), 0.10206),
        "kaiming_normal": (value.std(), 0.05893),
        "xavier_normal": (value.std(), 0.03402),
        "xavier_constant": (np.abs(value).max(), 0.03402),
        "standard": (np.abs(value).max(), 0.04167),
        "glorot_uniform": (np.abs(value).max(), 0.05893),
    }
    found, published = expected[rule]
    assert found == pytest.approx(published, rel=0.01)
    assert rule == "unsigned_constant" or abs(value.mean()) < 0.001


def test_depthwise_fan_in_is_the_kernel_alone():
    from rst_tf.initializers import Stream, fans_of

    fans = fans_of((3, 3, 16, 1), (2, 3), (0, 1))
    value = INITIALIZERS["signed_constant"]((3, 3, 16, 1), fans, Stream(0, "kernel", 0))
    assert np.abs(value).max() == pytest.approx(0.4714, abs=1e-4)


def test_initialize_sets_everything_and_only_depends_on_the_seed():
    first, second, other = (masked(NETWORKS["functional"]()) for _ in range(3))
    initialize(first, 1)
    initialize(second, 1)
    initialize(other, 2)
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(masked_kernels(first), masked_kernels(other), strict=True):
        assert not np.allclose(a.kernel, b.kernel)


REFUSED = {
    "another network": (
        lambda: ticket_of("functional").apply(masked(NETWORKS["nested"]())),
        "the network has 3 kernels or variables where the ticket has 5",
    ),
    "another width": (
        lambda: Ticket.of(small(8)).apply(small(9)),
        r"position 0 differs: the network has hidden_1/kernel of shape \(36, 9\)",
    ),
    "another granularity": (
        lambda: Ticket.of(small(granularity="filter")).apply(small()),
        "position 0 differs.*mask",
    ),
    "a search": (
        lambda: Ticket.of(small()).apply(small(search=True, density=0.5)),
        "takes its mask from scores",
    ),
    "no weights": (
        lambda: Ticket.of(small(), weights="none").apply(small(), weights=True),
        "holds masks only|where the ticket has 0",
    ),
    "nothing to rank": (
        lambda: Ticket.of(small(), weights="none").prune(0.5),
        "needs weights; this ticket holds none",
    ),
    "density": (lambda: Ticket.of(small()).prune(0.0), r"density must be in \(0, 1\]; received"),
    "rate": (lambda: Ticket.of(small()).prune(rate=1.0), r"rate must be in \[0, 1\); received"),
    "rates": (lambda: Ticket.of(small()).prune(rate=[0.1] * 3), "one number or 2"),
    "both": (lambda: Ticket.of(small()).prune(0.5, rate=0.5), "either density or rate"),
    "growing": (lambda: Ticket.of(small()).prune(0.1).prune(0.5), "would leave 288 of 58"),
    "criterion": (
        lambda: Ticket.of(small()).prune(0.1, criterion="magnitud"),
        "unknown criterion 'magnitud'; did you mean 'magnitude'",
    ),
    "no description": (lambda: Ticket.of(small()).build(), "does not describe its network"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_that_would_empty_a_layer_is_refused():
    network = small()
    kernels = masked_kernels(network)
    kernels[1].kernel.assign(kernels[1].kernel * 1e-6)
    with pytest.raises(ValueError, match="would leave 0 of 64 kept entries in layer 'output"):
        Ticket.of(network).prune(0.1, allocation="global")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        Ticket.load(tmp_path / "nowhere.npz")
