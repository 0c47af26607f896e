"""The presets of the binary subnetworks: the published tables, overlays, and that they run."""

import dataclasses

import numpy as np
import pytest
from binary_presets import CONNECT, DENSE, SEARCHES, SETS, SMALL, TUNED, network_of

import run_experiments
from experiments.dense_training import DenseTraining
from experiments.fine_tuning import FineTuning
from experiments.scratch_tickets import ScratchTickets
from flags import command_line
from rst_tf.attacks import PGD
from rst_tf.data import Data
from rst_tf.objectives import Adversarial, Trades
from rst_tf.optimizers import SGD, Adam
from rst_tf.schedules import Cosine, Steps

TICKET = "--ticket=runs/t"
COSINE = Cosine(each="epoch")


def config_of(presets, *flags):
    return run_experiments.configured(["run_experiments", f"--preset={presets}", *flags]).config


def training_of(source, schedule, batch, trades=False):
    """What the row and the documented command of its family say together."""
    known = SETS[source]
    climbed = PGD(known.epsilon / 255, steps=10, step_size=known.step / 255, iterate="scored")
    objective = Adversarial(climbed, norm_mode="update")
    if trades:
        from_noise = dataclasses.replace(climbed, start="gaussian", iterate="last")
        objective = Trades(from_noise, beta=6.0)
    return {
        "data": Data(source, validation=1000, augment="crop_flip"),
        "objective": objective,
        "evaluation_attack": climbed,
        "optimizer": SGD(0.1, schedule, 5e-4, 0.9, nesterov=False),
        "batch_size": batch,
        "train_steps": "400ep",
        "eval_every": "1ep",
    }


@pytest.mark.parametrize("preset", SEARCHES)
def test_a_search_is_its_row(preset):
    row = SEARCHES[preset]
    assert config_of(preset) == ScratchTickets(
        **training_of(row.source, COSINE, 256, row.trades),
        network=network_of(row.source, row.depth, affine=False),
        initializer=row.initializer,
        score_scale=row.score_scale,
        score_fan=row.score_fan,
        density=0.01,
        allocation="adaptive",
        power=0.1,
        count="rst",
    )


@pytest.mark.parametrize("preset", DENSE)
def test_a_dense_training_is_its_row(preset):
    row = DENSE[preset]
    schedule = Steps(("200ep", "300ep"), 0.1, each="epoch")
    assert config_of(preset) == DenseTraining(
        **training_of(row.source, schedule, 512, row.trades),
        network=network_of(row.source, row.depth, affine=True),
        initializer="kaiming_normal",
    )


@pytest.mark.parametrize("preset", TUNED)
def test_a_found_subnetwork_is_trained_on_as_its_row_says(preset):
    row = TUNED[preset]
    assert config_of(preset, TICKET) == FineTuning(
        **training_of(row.source, COSINE, 256),
        ticket="runs/t",
        network=None,
        weights=row.weights,
        initializer=row.initializer,
        statistics=row.statistics,
    )


@pytest.mark.parametrize("source", SETS)
@pytest.mark.parametrize("overlay", SMALL)
def test_a_small_network_changes_its_channels_and_its_row(overlay, source):
    row = SMALL[overlay]
    for kind in ("dense", "dense_trades") if row.depth == 34 else ("dense",):
        dense = config_of(f"binary_{source}_resnet{row.depth}_{kind}")
        schedule = Steps(row.milestones, 0.1, each="epoch")
        assert config_of(f"binary_{source}_resnet{row.depth}_{kind},{overlay}") == (
            dataclasses.replace(
                dense,
                network=dataclasses.replace(dense.network, stage_channels=row.channels),
                optimizer=dataclasses.replace(
                    dense.optimizer, learning_rate=row.rate, schedule=schedule
                ),
            )
        )


@pytest.mark.parametrize("small", [None, *SMALL])
def test_binary_weights_change_the_optimiser_alone(small):
    depth = SMALL[small].depth if small else 34
    for source in SETS:
        names = [f"binary_{source}_resnet{depth}_dense", *([small] if small else [])]
        assert config_of(",".join([*names, CONNECT])) == dataclasses.replace(
            config_of(",".join(names)),
            weights="binary",
            optimizer=Adam(5e-4, COSINE, 5e-4, decay="coupled"),
        )


PRINTED = {  # accuracy, AutoAttack accuracy in the paper's repository
    "binary_cifar10_resnet34": [77.30, 45.06],
    "binary_cifar10_resnet18": [72.35, 39.65],
    "binary_cifar10_resnet50": [76.66, 42.72],
    "binary_cifar100_resnet34": [60.16, 34.83],
}


def test_only_printed_numbers_are_expected():
    for preset in (*SEARCHES, *DENSE, *TUNED, CONNECT):
        expected = command_line.read_preset(preset).about["expected"]
        if preset in PRINTED:
            assert expected["origin"].startswith("printed")
            assert expected["autoattack"] == {1.0: PRINTED[preset]}
        else:
            assert expected.startswith("none")


# ---------------------------------------------------------------- every preset runs

QUICK = [
    *("--data.validation=4", "--eval_every=2", "--eval_limit=4", "--train_steps=2"),
    *("--batch_size=4", "--evaluation_attack.steps=1", "--objective.attack.steps=1"),
]
NARROW = ["--network.stage_channels=2,2,3,3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The flag of a data set of 16 and 8 random coloured images of two classes."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "data.npz"
    arrays = {}
    for part, n in (("train", 16), ("test", 8)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 32, 32, 3)).astype("uint8")
        arrays[f"y_{part}"] = np.arange(n) % 2
    np.savez(file, **arrays)
    return f"--data=npz:{file}"


def ran(folder, presets, *flags):
    run_experiments.run({folder: config_of(presets, *flags)})
    assert (folder / "tickets" / "round_00_best.npz").exists()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("preset", [*SEARCHES, *DENSE])
def test_every_preset_runs(preset, data, tmp_path):
    ran(tmp_path / "run", preset, *QUICK, *NARROW, data)


@pytest.mark.slow
@pytest.mark.parametrize("preset", TUNED)
def test_a_found_subnetwork_is_trained_on(preset, data, tmp_path):
    source = ran(tmp_path / "found", "binary_cifar10_resnet18", *QUICK, *NARROW, data)
    ran(tmp_path / "tuned", preset, f"--ticket={source}", *QUICK, data)
