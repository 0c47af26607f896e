import json

import keras
import numpy as np
import pytest
from networks import NETWORKS, small

from rst_tf import Ticket, baked, mask_overlap, masked, masks, sparsity_report
from rst_tf.traversal import masked_kernels

every_network = pytest.mark.parametrize("name", NETWORKS)


def pruned(model, density, seed=0, **options):
    """A masked network with random masks."""
    network = masked(model, **options)
    for layer, m in enumerate(masked_kernels(network)):
        noise = np.random.default_rng([seed, layer]).normal(size=m.mask.shape)
        m.mask.assign(masks.select(noise, max(1, int(density * m.size))).astype("float32"))
    return network


@every_network
def test_a_report_counts_what_masks_keep_and_what_zeros_leave(name):
    network = pruned(NETWORKS[name](), 0.3)
    sparse, plain = sparsity_report(network), sparsity_report(baked(network))
    ticket = Ticket.of(network)
    assert [k.kept for k in sparse.kernels] == list(ticket.kept_by_layer().values())
    assert (sparse.kept, sparse.density) == (ticket.kept, ticket.density)
    assert sparse.masked_density == ticket.density and plain.masked_density is None
    sizes = [(k.shape, k.weights, k.kept, k.nonzero) for k in sparse.kernels]
    assert sizes == [(k.shape, k.weights, k.kept, k.nonzero) for k in plain.kernels]
    assert sparse.nonzero == sparse.kept  # no weight of a fresh network is exactly 0


@pytest.mark.parametrize("granularity", ["row", "kernel", "filter"])
def test_a_report_counts_weights_not_groups(granularity):
    network = pruned(NETWORKS["functional"](), 0.5, granularity=granularity)
    report = sparsity_report(network)
    assert report.kept == report.nonzero == Ticket.of(network).kept


def test_kept_and_not_zero_are_two_things():
    network = small()
    first = masked_kernels(network)[0]
    first.kernel.assign(np.zeros(first.shape))
    report = sparsity_report(network)
    assert (report.kernels[0].kept, report.kernels[0].nonzero) == (first.size, 0)
    assert (report.density, report.nonzero) == (1.0, report.weights - first.size)


def partly():
    layers = [keras.layers.Dense(6, name="open"), keras.layers.Dense(5, name="closed")]
    return pruned(keras.Sequential([keras.Input((4,)), *layers]), 0.5, dense=("open",))


def test_what_has_no_mask_counts_as_kept_and_is_marked():
    report = sparsity_report(partly())
    closed, left = report.kernels
    assert closed.masked and not left.masked and left.name.endswith("open/kernel")
    assert (report.kept, report.weights) == (15 + 24, 30 + 24) and report.masked_density == 0.5
    table = str(report)
    assert "open/kernel *" in table and "of the others 0.5000 are kept" in table
    assert "*" not in str(sparsity_report(baked(partly())))


@pytest.mark.parametrize("network", [partly(), baked(partly())], ids=["masked", "plain"])
def test_a_report_prints_its_own_numbers_and_is_plain_values(network):
    report = sparsity_report(network)
    lines = str(report).splitlines()
    total = next(line for line in lines if line.startswith("total"))
    assert total.split() == ["total", "54", "39", f"{39 / 54:.4f}", "39"]
    assert len({len(line) for line in lines[: 2 + len(report.kernels)]}) == 1
    values = json.loads(json.dumps(report.to_dict()))
    assert values["kept"] == sum(kernel["kept"] for kernel in values["kernels"])
    assert values["density"] == values["kept"] / values["weights"]


REFUSED = {
    "not built": (lambda: keras.Sequential([keras.layers.Dense(3)]), "is not built"),
    "no kernels": (
        lambda: keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()]),
        "has no kernels",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_model_without_kernels_is_refused(why):
    build, message = REFUSED[why]
    with pytest.raises(ValueError, match=message):
        sparsity_report(build())


# ---------------------------------------------------------------- overlap


def pair(granularity="element"):
    model = NETWORKS["functional"]()
    return [pruned(model, d, seed, granularity=granularity) for seed, d in enumerate((0.3, 0.6))]


@pytest.mark.parametrize("granularity", ["element", "filter"])
def test_an_overlap_is_symmetric_normalised_and_zero_to_itself(granularity):
    a, b = pair(granularity)
    there, back, itself = mask_overlap(a, b), mask_overlap(b, a), mask_overlap(a, a)
    for one, other, own in zip(
        (there, *there.kernels), (back, *back.kernels), (itself, *itself.kernels), strict=True
    ):
        assert one.distance == other.distance
        assert one.intersection_over_union == other.intersection_over_union
        assert 0 < one.distance < 1 and 0 <= one.intersection_over_union < 1
        assert (own.distance, own.intersection_over_union) == (0, 1)


def test_an_overlap_is_what_counting_weights_gives():
    a, b = pair("filter")
    whole = [
        [np.broadcast_to(m.mask.numpy() > 0, m.shape) for m in masked_kernels(network)]
        for network in (a, b)
    ]
    found = mask_overlap(a, b)
    for x, y, kernel in zip(*whole, found.kernels, strict=True):
        assert kernel.distance == (x != y).mean()
        assert kernel.intersection_over_union == (x & y).sum() / (x | y).sum()
    x, y = (np.concatenate([m.ravel() for m in own]) for own in whole)
    assert found.distance == (x != y).mean()
    assert found.intersection_over_union == (x & y).sum() / (x | y).sum()


def test_opposite_masks_are_one_apart():
    a, b = small(), small()
    for m, n in zip(masked_kernels(a), masked_kernels(b), strict=True):
        mask = np.random.default_rng(0).integers(0, 2, m.shape)
        m.mask.assign(mask)
        n.mask.assign(1 - mask)
    found = mask_overlap(a, b)
    assert (found.distance, found.intersection_over_union) == (1, 0)


def test_empty_masks_are_the_same():
    a, b = small(), small()
    for m in masked_kernels(a) + masked_kernels(b)[:1]:
        m.mask.assign(np.zeros(m.shape))
    assert mask_overlap(a, b).kernels[0].intersection_over_union == 1
    assert mask_overlap(a, a).intersection_over_union == 1


def test_networks_tickets_and_files_are_the_same_source(tmp_path):
    a, b = pair()
    Ticket.of(a).save(tmp_path / "a.npz")
    expected = mask_overlap(a, b).to_dict()
    for source in (Ticket.of(a), tmp_path / "a.npz", str(tmp_path / "a.npz")):
        assert mask_overlap(source, Ticket.of(b, weights="none")).to_dict() == expected
    json.dumps(expected)
    table = str(mask_overlap(a, b)).splitlines()
    assert len(table) == 2 + len(expected["kernels"]) and len({len(line) for line in table}) == 1
    assert table[-1].endswith(f"{expected['distance']:.4f}")


def test_other_networks_are_refused():
    with pytest.raises(
        ValueError, match=r"first ticket has [^ ]*/kernel of .*, the second [^ ]*/kernel"
    ):
        mask_overlap(small(), small(units=5))
    with pytest.raises(ValueError, match="no masked layers"):
        mask_overlap(NETWORKS["shared"](), small())
