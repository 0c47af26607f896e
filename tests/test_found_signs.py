"""A found subnetwork of signs trained on in full precision: what is drawn anew, kept and reset."""

import dataclasses

import numpy as np
import pytest
from trainings import QUICK

from experiments.fine_tuning import FineTuning
from rst_tf import Natural, Seed, Ticket, initialize, models
from rst_tf.data import Data
from rst_tf.models import ResNet
from rst_tf.optimizers import SGD
from rst_tf.traversal import masked_kernels

NETWORK = ResNet(18, stage_channels=(2, 3, 3, 4), affine=False, normalized_logits=True)
ROWS = {  # as the presets have them
    "retrain": {"weights": "reinit", "initializer": "lottery_binary", "statistics": "reset"},
    "finetune": {"weights": "inherited", "statistics": "kept"},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A ticket of +1 and -1 by its seed, a third kept, statistics moved; and its file."""
    net = NETWORK.build((28, 28, 1), 10, models.masked_parts())
    initialize(net, 3, "binary")
    Ticket.of(net).prune(1 / 3, criterion="random").apply(net)
    net(np.random.default_rng(0).uniform(size=(8, 28, 28, 1)).astype("float32"), training=True)
    ticket = Ticket.of(
        net, weights=Seed(3, "binary"), description=models.describe(NETWORK, (28, 28, 1), 10)
    )
    file = tmp_path_factory.mktemp("found") / "ticket.npz"
    ticket.save(file)
    return ticket, file


@pytest.fixture(
    scope="module", params=["retrain", pytest.param("finetune", marks=pytest.mark.slow)]
)
def trained(request, found, tmp_path_factory):
    """The name of a row, where it started from, and where it came to in two steps."""
    ticket, file = found
    folder = tmp_path_factory.mktemp(request.param)
    settings = {k: v for k, v in QUICK.items() if k != "network"}
    settings |= {"data": Data(train_limit=40), "objective": Natural(), "optimizer": SGD(0.01)}
    settings |= {"train_steps": 2, "eval_every": 2, "eval_limit": 10}
    FineTuning(**settings, ticket=str(file), **ROWS[request.param]).run(folder)
    load = [Ticket.load(folder / "tickets" / f"{name}.npz") for name in ("initial", "round_00")]
    return request.param, ticket, *load


def test_signs_of_every_kernel_are_drawn_anew_or_none(trained):
    name, ticket, start, _ = trained
    before = [masked.kernel.numpy() for masked in masked_kernels(ticket.build())]
    shortcuts = [entry for entry in start.entries if "shortcut" in entry.name]
    assert len(start.entries) == 21 and len(shortcuts) == 3
    for old, entry in zip(before, start.entries, strict=True):
        assert set(np.unique(entry.kernel)) == {-1, 1}, entry.name
        if name == "retrain":
            assert (old != entry.kernel).any(), entry.name
        else:
            np.testing.assert_array_equal(entry.kernel, old)
    changed = np.concatenate(
        [(a != b.kernel).ravel() for a, b in zip(before, start.entries, strict=True)]
    )
    assert changed.mean() == pytest.approx(0.5 if name == "retrain" else 0, abs=0.05)


def test_all_statistics_are_reset_or_all_are_kept(trained):
    name, ticket, start, _ = trained
    assert len(start.leftovers) == 2 * 21  # a mean and a variance behind every kernel
    pairs = list(zip(ticket.leftovers, start.leftovers, strict=True))
    for place, (old, new) in enumerate(pairs):
        if name == "retrain":
            assert np.all(new == place % 2) and np.any(old != place % 2)
        else:
            np.testing.assert_array_equal(new, old)


def test_kept_weights_become_real_and_masks_stay(trained):
    _, ticket, start, end = trained
    assert end.mask_hash == start.mask_hash == ticket.mask_hash
    for a, z in zip(start.entries, end.entries, strict=True):
        np.testing.assert_array_equal(z.kernel[~z.mask], a.kernel[~a.mask])
    moved = np.concatenate([z.kernel[z.mask] for z in end.entries])
    assert len(np.unique(moved)) > 0.5 * len(moved)


@pytest.mark.parametrize("mask", [{"gain": "mean"}, {"weights": "binary"}], ids=str)
def test_a_ticket_whose_layers_see_signs_is_trained_on_in_signs(mask, found, tmp_path):
    ticket, _ = found
    description = models.describe(NETWORK, (28, 28, 1), 10, **mask)
    file = tmp_path / "ticket.npz"
    dataclasses.replace(ticket, network=description).save(file)
    tuned = FineTuning(ticket=str(file), weights="reinit", initializer="standard")
    network, _ = tuned.masked_network(Data(train_limit=40).load())
    initialize(network, 1, "uniform_pm1")
    for masked in masked_kernels(network):
        assert len(np.unique(np.abs(masked.effective()))) <= 2 < len(np.unique(masked.kernel))
