"""Search over frozen weights, and training its tickets on."""

import dataclasses

import numpy as np
import pytest
from trainings import QUICK, files, read

from experiments.dense_training import DenseTraining
from experiments.experiment import RunError
from experiments.fine_tuning import FineTuning
from experiments.interruption import Interrupted
from experiments.scratch_tickets import ScratchTickets
from experiments.training import Session
from rst_tf import FGSM, PGD, Adversarial, Natural, Ticket, initialize
from rst_tf.data import Data
from rst_tf.masks import count
from rst_tf.models import MLP, Conv
from rst_tf.objectives import Free
from rst_tf.optimizers import SGD, Adam
from rst_tf.traversal import masked_kernels

COMMON = {**QUICK, "optimizer": SGD(0.1, weight_decay=1e-3)}
SMALL = Conv(2, 0.05, use_bias=False)
SEARCHES = {
    "element": ScratchTickets(**COMMON, density=0.2),
    "row": ScratchTickets(**{**COMMON, "network": SMALL}, density=0.3, granularity="row"),
    "kernel": ScratchTickets(
        **{**COMMON, "network": SMALL, "initializer": "kaiming_normal"},
        density=0.3,
        granularity="kernel",
    ),
    "filter": ScratchTickets(
        **{**COMMON, "network": SMALL, "initializer": "signed_constant+fan=0.5"},
        density=0.5,
        granularity="filter",
    ),
    "natural": ScratchTickets(
        **{**COMMON, "objective": Natural(), "optimizer": Adam()}, density=0.5, count="rst"
    ),
    "free": ScratchTickets(**{**COMMON, "objective": Free(0.1, repeats=3)}, density=0.5),
    "random start": ScratchTickets(
        **{**COMMON, "objective": Adversarial(FGSM(0.1, start="uniform"))}, density=0.5
    ),
    "dense ends": ScratchTickets(
        **{**COMMON, "network": MLP(hidden=(12, 8))}, density=0.1, dense_first=True, dense_last=True
    ),
    "stages": ScratchTickets(**COMMON, density=0.4, stage_every=2, stage_drop=0.3),
    "discarding": ScratchTickets(**COMMON, density=0.4, discard_every=1, discard_rate=0.25),
    "staged and discarding": ScratchTickets(
        **COMMON, density=0.3, stage_every=1, stage_drop=0.2, discard_every=2, discard_rate=0.3
    ),
}
every_search = pytest.mark.parametrize("name", SEARCHES)


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


@every_search
def test_a_search_leaves_the_weights_that_its_seed_gives(name, searches):
    root, networks = searches
    experiment, network = SEARCHES[name], networks[name]
    kernels = [m.kernel.numpy() for m in masked_kernels(network)]
    moving = [v.numpy() for v in network.variables if v.name == "bias"]
    fresh = last(root, name).build()
    initialize(fresh, experiment.seed, experiment.initializer)
    for found, m in zip(kernels, masked_kernels(fresh), strict=True):
        np.testing.assert_array_equal(found, m.kernel.numpy())
    assert all(not bias.any() for bias in moving)


@every_search
def test_a_ticket_holds_the_seed_and_rebuilds_the_network(name, searches):
    root, networks = searches
    ticket = last(root, name)
    assert all(entry.kernel is None for entry in ticket.entries) and ticket.seed is not None
    x = np.random.default_rng(0).uniform(size=(5, 28, 28, 1)).astype("float32")
    np.testing.assert_array_equal(ticket.build()(x), networks[name](x))


@every_search
def test_the_last_ticket_keeps_exactly_what_was_asked_for(name, searches):
    experiment, ticket = SEARCHES[name], last(searches[0], name)
    for position, entry in enumerate(ticket.entries):
        dense = experiment.dense_first and position == 0
        dense |= experiment.dense_last and position == len(ticket.entries) - 1
        wanted = count(entry.mask.size, experiment.density, experiment.count)
        assert entry.mask.sum() == (entry.mask.size if dense else wanted)


@every_search
def test_scores_move_and_masks_with_them(name, searches):
    experiment = SEARCHES[name]
    before, _ = experiment.masked_network(experiment.data.load())
    initialize(before, experiment.seed, experiment.initializer)
    after = searches[1][name]
    for old, new in zip(masked_kernels(before), masked_kernels(after), strict=True):
        assert (old.scores is None) == (new.scores is None)
        if old.scores is not None:
            assert (old.scores.numpy() != new.scores.numpy()).any()


def test_stages_go_down_and_only_the_last_can_be_best(searches):
    rows = {int(r["step"]): float(r["density"]) for r in read(searches[0] / "stages")}
    assert rows[0] == pytest.approx(0.9, abs=0.01)
    assert rows[4] == rows[6] == pytest.approx(0.4, abs=0.01)
    best = Ticket.load(searches[0] / "stages" / "tickets" / "round_00_best.npz")
    assert best.density == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("name", ["discarding", "staged and discarding"])
def test_what_was_discarded_stays_zero_and_is_never_kept(name, searches):
    experiment, network = SEARCHES[name], searches[1][name]
    times = 5 if name == "discarding" else 2
    fraction = min(times * experiment.discard_rate, 1 - experiment.density)
    for m in masked_kernels(network):
        zeros = m.scores.numpy() == 0
        assert zeros.sum() == int(fraction * zeros.size + 1e-9)
        assert not m.mask.numpy()[zeros].any()


@pytest.mark.parametrize("name, stop", [("free", 3), ("staged and discarding", 1), ("stages", 4)])
def test_an_interrupted_search_ends_with_the_same_bytes(name, stop, searches, tmp_path):
    experiment = SEARCHES[name]

    class Stopping(Session):
        def fit(self, trainer, first, sizes, callbacks):
            if first == 0:
                callbacks[-1].events = {
                    **callbacks[-1].events,
                    stop: self._stop(callbacks[-1].events.get(stop)),
                }
                callbacks[-1].sizes = sizes = [1] * sum(sizes)
            super().fit(trainer, first, sizes, callbacks)

        def _stop(self, event):
            def act(trainer):
                if event:
                    event(trainer)
                self.wish.number = 15

            return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.scratch_tickets.Session", Stopping)
        with pytest.raises(Interrupted):
            experiment.run(tmp_path)
    assert (tmp_path / "checkpoint.npz").exists()
    experiment.run(tmp_path)
    assert files(tmp_path) == files(searches[0] / name)


def test_a_search_over_trained_weights_keeps_them(searches, tmp_path):
    DenseTraining(**COMMON).run(tmp_path / "dense")
    experiment = ScratchTickets(**COMMON, density=0.2, weights_from=str(tmp_path / "dense"))
    experiment.run(tmp_path / "found")
    trained = Ticket.load(tmp_path / "dense" / "tickets" / "round_00_best.npz")
    found = last(tmp_path, "found")
    for one, other in zip(trained.entries, found.entries, strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(trained.leftovers[0], found.leftovers[0])
    assert found.density == pytest.approx(0.2, abs=0.01)


TUNED = {
    "inherited": {"weights": "inherited"},
    "reinit": {"weights": "reinit", "initializer": "signed_constant"},
    "full": {"weights": "full"},
    "reset": {"weights": "inherited", "statistics": "reset"},
}


@pytest.mark.parametrize("name", TUNED)
def test_fine_tuning_trains_the_weights_and_leaves_the_masks(name, searches, tmp_path):
    """The golden value "scores bit-identical after fine-tuning", compared as masks.

    A ticket holds masks and no scores, and a network that is tuned has none that could move. What
    the scores of the published code decide there is which weights are kept, and that is compared
    to the bit, with the pruned weights, which nothing may move either. Where all weights are
    trained (`full`), it is the start that has to be the ticket's.
    """
    source = searches[0] / "row"
    settings = {k: v for k, v in COMMON.items() if k != "network"}
    FineTuning(**settings, ticket=str(source), **TUNED[name]).run(tmp_path)
    ticket = Ticket.load(source / "tickets" / "round_00_best.npz")
    start = Ticket.load(tmp_path / "tickets" / "initial.npz")
    end = last(tmp_path.parent, tmp_path.name)
    assert all(masked.scores is None for masked in masked_kernels(end.build()))
    drawn = ticket.seed.kernels(ticket.build())
    for given, kernel, a, z in zip(ticket.entries, drawn, start.entries, end.entries, strict=True):
        if name == "full":
            assert z.mask.all()
            np.testing.assert_array_equal(a.kernel, kernel * given.mask)
        else:
            np.testing.assert_array_equal(z.mask, given.mask)
            pruned = np.broadcast_to(~given.mask, kernel.shape)
            np.testing.assert_array_equal(z.kernel[pruned], a.kernel[pruned])
        if name == "reinit":
            assert (np.sign(a.kernel) != np.sign(kernel)).mean() > 0.3
            assert np.abs(a.kernel) == pytest.approx(np.abs(kernel))
        elif name != "full":
            np.testing.assert_array_equal(a.kernel, kernel)
        assert (z.kernel != a.kernel).any()


def changed(**values):
    return lambda: dataclasses.replace(SEARCHES["element"], **values)


@pytest.mark.parametrize(
    "make, message",
    [
        (changed(density=0.0), r"density must be in \(0, 1\]; received density=0.0"),
        (changed(stage_drop=0.2), "stage_drop has an effect only with stage_every; that is none"),
        (changed(discard_rate=0.3), "discard_rate has an effect only with discard_every"),
        (changed(stage_every=2, stage_start=0.2), "stage_start must be above density=0.2"),
        (changed(stage_every=2, stage_drop=1.5), r"stage_drop must be in \(0, 1\); received 1.5"),
        (changed(l1=0.1), "l1 has no effect in a search"),
        (changed(initializer="signed"), "initializer names an unknown initializer 'signed'"),
        (changed(initializer="standard+fan_out"), "initializer can be followed by"),
        (lambda: FineTuning(**COMMON, ticket="x", weights="some"), "weights must be one of"),
        (lambda: Free(0.1, repeats=0), "repeats must be at least 1; received repeats=0"),
        (lambda: Free(8), "epsilon must be at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stages_that_do_not_reach_the_density_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"reaches density 0\.7 by the end"):
        changed(stage_every=2)().run(tmp_path)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"network": MLP(hidden=(12,))}, "network must be none or that of the ticket"),
        ({"ticket": "nowhere"}, "ticket='nowhere' does not exist"),
        ({"data": Data("npz:{root}/data.npz")}, r"made for images \(\(28, 28, 1\), 10\)|made for"),
    ],
)
def test_a_ticket_of_another_network_or_other_images_is_refused(
    values, message, searches, tmp_path
):
    settings = {k: v for k, v in COMMON.items() if k != "network"}
    settings |= {"ticket": str(searches[0] / "row"), **values}
    if "data" in values:
        x, y = np.zeros((40, 9, 9, 1), np.uint8), np.arange(40) % 4
        np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        settings["data"] = Data(f"npz:{tmp_path}/data.npz")
    with pytest.raises((ValueError, RunError), match=message):
        FineTuning(**settings).run(tmp_path / "run")


def test_a_search_finds_what_random_masks_do_not(tmp_path):
    """On real digits: scores that are trained beat those that were drawn."""
    experiment = ScratchTickets(
        data=Data(train_limit=1000),
        network=MLP(hidden=(100,)),
        objective=Adversarial(PGD(0.05, steps=2)),
        optimizer=SGD(0.5),
        density=0.3,
        train_steps="4ep",
        eval_every="4ep",
        eval_limit=200,
    )
    experiment.run(tmp_path)
    found = {(r["step"], r["split"]): float(r["robust_accuracy"]) for r in read(tmp_path)}
    assert found["80", "test"] > found["0", "test"] + 0.3
