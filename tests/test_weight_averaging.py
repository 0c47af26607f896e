"""Laws of weight averaging: what is shown is the mean, and the training does not notice."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from networks import images, small
from trainings import QUICK, files, read

from experiments._watch import Watch
from experiments.companion import Companion
from experiments.dense_training import DenseTraining
from experiments.iterative_pruning import IterativePruning
from experiments.scratch_tickets import ScratchTickets
from experiments.training import Session
from rst_tf import Ticket, initialize, masked_kernels
from rst_tf.data import Data
from rst_tf.evaluation import Evaluator
from rst_tf.models import Conv, ResNet, masked_parts
from rst_tf.normalization import Normalization
from rst_tf.traversal import trained_variables, walk
from rst_tf.weight_averaging import Statistics, WeightAverage


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Reading the images anew would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "load", functools.cache(Data.load))
        yield


# ---------------------------------------------------------------- the mean and its statistics


def normalised():
    network = ResNet(stage_channels=(2, 3, 4, 4)).build((8, 8, 1), 4, masked_parts())
    initialize(network, 0, "kaiming_normal")
    return network


NETWORKS = {"dense": small, "normalised": normalised}
every_network = pytest.mark.parametrize("name", NETWORKS)


def values(network):
    return [variable.numpy() for variable in network.variables]


def move(network, seed):
    rng = np.random.default_rng(seed)
    for variable in trained_variables(network):
        variable.assign(rng.normal(size=variable.shape))


def pictures(network, batches=3):
    return [images(5, network.input_shape[1:], seed) for seed in range(batches)]


@every_network
def test_what_is_shown_is_the_mean_and_pruned_weights_stay(name):
    network = NETWORKS[name]()
    average, seen = WeightAverage(network), []
    for seed in range(4):
        move(network, seed)
        average.add()
        seen.append([v.numpy() for v in trained_variables(network)])
    for masked in masked_kernels(network):
        masked.mask.assign(np.random.default_rng(7).random(masked.mask.shape) < 0.5)
    before, masks = values(network), {id(m.kernel): m.mask.numpy() for m in masked_kernels(network)}
    with average.shown(pictures(network)):
        for variable, *moments in zip(trained_variables(network), *seen, strict=True):
            mean, mask = np.mean(moments, axis=0), masks.get(id(variable), np.ones(1))
            expected = np.where(mask > 0, mean, moments[-1])
            np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)
            pruned = np.broadcast_to(mask == 0, variable.shape)
            assert np.array_equal(variable.numpy()[pruned], moments[-1][pruned])
    assert all(map(np.array_equal, before, values(network)))


@every_network
def test_everything_is_put_back_even_after_an_error(name):
    network = NETWORKS[name]()
    average = WeightAverage(network)
    average.add()
    move(network, 1)
    before = values(network)
    with pytest.raises(KeyError), average.shown(pictures(network)):
        raise KeyError
    assert all(map(np.array_equal, before, values(network)))


def test_one_moment_is_the_network_itself():
    network = normalised()
    average = WeightAverage(network)
    move(network, 3)
    average.add()
    before = [v.numpy() for v in trained_variables(network)]
    with average.shown(pictures(network)):
        assert all(map(np.array_equal, before, [v.numpy() for v in trained_variables(network)]))


@pytest.mark.parametrize("layer", [Normalization, keras.layers.BatchNormalization])
def test_statistics_are_the_plain_mean_over_batches(layer):
    """Of unequal size too; nothing of the old ones is left, and the momentum is what it was."""
    image = keras.Input((4, 4, 2))
    first = layer(name="norm")
    x = first(keras.layers.Conv2D(3, 1, name="conv")(image))
    network = keras.Model(image, keras.layers.Flatten()(x))
    momentum = first.momentum
    first.moving_mean.assign(7 + first.moving_mean)
    batches = [images(n, (4, 4, 2), n) for n in (5, 5, 3)]
    Statistics(network).estimate(batches)
    assert first.momentum == momentum
    outputs = [np.asarray(network.get_layer("conv")(batch)).reshape(-1, 3) for batch in batches]
    unbiased = int(layer is Normalization)
    means = np.mean([output.mean(0) for output in outputs], axis=0)
    variances = np.mean([output.var(0, ddof=unbiased) for output in outputs], axis=0)
    np.testing.assert_allclose(first.moving_mean, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(first.moving_variance, variances, rtol=1e-4)


def test_scores_are_not_averaged():
    with pytest.raises(
        ValueError, match=r"averaged where weights are trained; network .* searches"
    ):
        WeightAverage(small(search=True, density=0.5))


# ---------------------------------------------------------------- as an option of a training

TINY = {**QUICK, "network": Conv(2, 0.03, normalization="affine"), "train_steps": 8}
PLAIN = IterativePruning(**TINY, rounds=1, rewind="continued")
RUN = dataclasses.replace(PLAIN, average_from=3, average_every=2)  # 3, 5, 7; evaluated at 4, 8
COUNTED = {4: [3], 8: [3, 5, 7]}


class Recorder(Companion):
    """Takes down the weights after every step, as they are trained."""

    name = "recorder"

    def __init__(self):
        super().__init__()
        self.seen = {}

    def stops(self):
        return set(range(1, self.session.total + 1))

    def at(self, step):
        self.seen[step] = values(self.session.network)


def recorded(run, workdir):
    """A first round, with the weights of every step and after it."""
    recorder = Recorder()
    with Session(run, workdir, 1) as session:
        initialize(session.network, run.seed, run.initializer)
        session.train(0, companions=[recorder])
        recorder.seen["after"] = values(session.network)
    return recorder.seen


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("rounds")
    runs = {"plain": PLAIN, "averaged": RUN}
    return root, {name: recorded(run, root / name) for name, run in runs.items()}


def test_the_training_does_not_notice(rounds):
    plain, averaged = (rounds[1][name] for name in ("plain", "averaged"))
    assert plain.keys() == averaged.keys() == {*range(1, 9), "after"}
    for step, weights in plain.items():
        assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, averaged[step], strict=True))


def test_until_then_nothing_is_averaged_and_training_rows_never_are(rounds):
    rows = [read(rounds[0] / name) for name in ("plain", "averaged")]
    for one, other in zip(*rows, strict=True):
        alike = one["step"] == "0" or one["split"] == "train"
        assert (one == other) == alike, one


def test_tickets_and_evaluations_are_of_the_mean(rounds):
    folder, seen = rounds[0] / "averaged", rounds[1]["averaged"]
    ticket = Ticket.load(folder / "tickets" / "round_00.npz")
    network = ticket.build()
    moved = {id(variable) for variable in trained_variables(network)}
    places = [i for i, variable in enumerate(network.variables) if id(variable) in moved]
    for place in places:
        expected = np.mean([seen[step][place] for step in COUNTED[8]], axis=0)
        np.testing.assert_allclose(network.variables[place], expected, atol=1e-6)
        assert not np.array_equal(seen[8][place], expected)
    splits = RUN.data.load()
    found = Evaluator(network, RUN.judged_by, seed=RUN.seed)(splits.valid.limited(30))
    row = next(r for r in read(folder) if (r["step"], r["split"]) == ("8", "valid"))
    assert float(row["loss"]) == pytest.approx(found.loss.mean(), rel=1e-4)


def test_statistics_of_tickets_come_from_training_batches(rounds):
    """As they are augmented but not attacked, over an epoch of the data."""
    network = Ticket.load(rounds[0] / "averaged" / "tickets" / "round_00.npz").build()
    stored = values(network)
    batches = [x["image"] for x, _ in Session(RUN, None).batches(0, 5)]
    Statistics(network).estimate(batches)
    norms = [la for la in walk(network) if isinstance(la, Normalization)]
    assert norms
    for was, now in zip(stored, values(network), strict=True):
        np.testing.assert_allclose(was, now, rtol=1e-3, atol=1e-5)


MLP_RUN = DenseTraining(**{**QUICK, "train_steps": 8}, average_from=2, average_every=3)


DEATHS = [("_save", 4), pytest.param("_evaluate", 8, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("method", "step"), DEATHS)
def test_interrupted_equals_uninterrupted(method, step, tmp_path, monkeypatch):
    """Killed after a checkpoint with a mean in it, or after the last evaluation."""
    MLP_RUN.run(tmp_path / "whole")
    original = getattr(Watch, method)

    def dying(watch, *args):
        original(watch, *args)
        if watch.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Watch, method, dying)
        MLP_RUN.run(tmp_path / "killed")
    assert files(tmp_path / "killed") != files(tmp_path / "whole")
    MLP_RUN.run(tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


REFUSED = {
    "too late": ({"average_from": 9}, "average_from must be at most train_steps=8; received 9"),
    "nothing": ({"average_from": 0}, "average_from must be a number of steps above 0"),
    "every alone": ({"average_every": 5}, "average_every has no effect without average_from"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_settings_are_refused_before_a_run(name):
    settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Session(DenseTraining(**TINY, **settings), None)


@pytest.mark.slow
def test_a_search_is_refused(tmp_path):
    run = ScratchTickets(**{**QUICK, "train_steps": 2}, density=0.5, average_from=1)
    with pytest.raises(ValueError, match="averaged where weights are trained"):
        run.run(tmp_path)


def test_a_short_round_goes_without():
    session = Session(RUN, None)
    with session.changed(train_steps=2):
        assert not session._averaging()
    assert session._averaging()
