"""The presets of the binary subnetworks: the published tables, overlays, and that they run."""

import dataclasses

import numpy as np
import pytest
from binary_presets import (
    CONNECT,
    DENSE,
    IMAGENET,
    SEARCHES,
    SETS,
    SMALL,
    SMALL_IMAGENET,
    TUNED,
    network_of,
)
from PIL import Image

import run_experiments
from experiments.dense_training import DenseTraining
from experiments.fine_tuning import FineTuning
from experiments.scratch_tickets import ScratchTickets
from flags import command_line
from rst_tf.attacks import PGD
from rst_tf.data import Data
from rst_tf.models import ImageNetResNet
from rst_tf.objectives import Adversarial, Fast, Trades
from rst_tf.optimizers import SGD, Adam
from rst_tf.schedules import Cosine, Steps

TICKET = "--ticket=runs/t"
COSINE = Cosine(each="epoch")


def config_of(presets, *flags):
    return run_experiments.configured(["run_experiments", f"--preset={presets}", *flags]).config


def training_of(source, schedule, batch, trained="adversarial", epochs=400):
    """What the row and the documented command of its family say together."""
    known = SETS[source]
    climbed = PGD(known.epsilon / 255, steps=10, step_size=known.step / 255, iterate="scored")
    objective = Adversarial(climbed, norm_mode="update")
    if trained == "fast":
        epsilon = known.epsilon / 255
        objective = Fast(epsilon, step_size=epsilon / 2, norm_mode="update")
    if trained == "trades":
        from_noise = dataclasses.replace(climbed, start="gaussian", iterate="last")
        objective = Trades(from_noise, beta=6.0)
    return {
        "data": Data(source, validation=1000, augment="crop_flip"),
        "objective": objective,
        "evaluation_attack": climbed,
        "optimizer": SGD(0.1, schedule, 5e-4, 0.9, nesterov=False),
        "batch_size": batch,
        "train_steps": f"{epochs}ep",
        "eval_every": "1ep",
    }


@pytest.mark.parametrize("preset", SEARCHES)
def test_a_search_is_its_row(preset):
    row = SEARCHES[preset]
    assert config_of(preset) == ScratchTickets(
        **training_of(row.source, COSINE, 256, row.trained, row.epochs),
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
        **training_of(row.source, schedule, 512, row.trained, row.epochs),
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


@pytest.mark.parametrize("preset", IMAGENET)
def test_imagenet100_is_the_row_of_cifar_on_large_images(preset):
    small, found, search = config_of(IMAGENET[preset]), config_of(preset), "dense" not in preset
    optimizer = SGD(0.1, Steps(("50ep", "75ep"), 0.1, each="epoch"), 5e-4, 0.9)
    if search:
        optimizer = SGD(0.1, dataclasses.replace(COSINE, warmup="5ep"), 2**-15, 0.875)
    constants = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    smoothing = 0.1 if search else 0.0
    assert found == dataclasses.replace(
        small,
        data=Data(
            "folder:imagenet",
            validation=0.02,
            augment="crop_flip",
            image_size=224,
            center_fraction=0.875,
            classes="first:100",
        ),
        network=ImageNetResNet(**{**dataclasses.asdict(small.network), **constants}),
        objective=Fast(
            2 / 255, step_size=1 / 255, block=8, norm_mode="update", label_smoothing=smoothing
        ),
        evaluation_attack=dataclasses.replace(
            small.evaluation_attack, epsilon=2 / 255, step_size=0.5 / 255
        ),
        optimizer=optimizer,
        train_steps="100ep",
    )


def test_the_small_network_of_imagenet100_is_its_row():
    over = "binary_imagenet100_resnet34_dense"
    dense, names = config_of(over), f"{over},{SMALL_IMAGENET}"
    channels = SMALL["binary_small_resnet34_p01"].channels
    small = dataclasses.replace(
        dense,
        network=dataclasses.replace(dense.network, stage_channels=channels),
        objective=dataclasses.replace(dense.objective, label_smoothing=0.1),
        optimizer=dataclasses.replace(dense.optimizer, momentum=0.875, weight_decay=2**-15),
        batch_size=256,
    )
    assert config_of(names) == small
    flags = "--batch_size=512", "--objective.label_smoothing=0"
    assert config_of(f"{names},{CONNECT}", *flags) == dataclasses.replace(
        small,
        weights="binary",
        objective=dense.objective,
        optimizer=Adam(5e-4, COSINE, 5e-4, decay="coupled"),
        batch_size=512,
    )


PRINTED = {  # accuracy, AutoAttack accuracy in the paper's repository
    "binary_cifar10_resnet34": [77.30, 45.06],
    "binary_cifar10_resnet18": [72.35, 39.65],
    "binary_cifar10_resnet50": [76.66, 42.72],
    "binary_cifar100_resnet34": [60.16, 34.83],
    "binary_cifar10_resnet34_fast": [81.63, 40.77],
    "binary_cifar100_resnet34_fast": [63.73, 34.45],
    "binary_imagenet100_resnet34": [58.94, 33.04],
    "binary_cifar10_resnet18_fast": [66.12, 30.86],
    "binary_cifar10_resnet50_fast": [78.24, 37.93],
}


def test_only_printed_numbers_are_expected():
    for preset in (*SEARCHES, *DENSE, *TUNED, *IMAGENET, CONNECT, SMALL_IMAGENET):
        expected = command_line.read_preset(preset).about["expected"]
        if preset in PRINTED:
            assert expected["origin"].startswith("printed")
            assert expected["autoattack"] == {1.0: PRINTED[preset]}
        else:
            assert expected.startswith("none")


# ---------------------------------------------------------------- every preset runs

QUICK = [
    *("--data.validation=4", "--eval_every=2", "--eval_limit=4", "--train_steps=2"),
    *("--batch_size=4", "--evaluation_attack.steps=1"),
]
ONE_STEP = "--objective.attack.steps=1"
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
    quick = QUICK if preset.endswith("fast") else [*QUICK, ONE_STEP]
    ran(tmp_path / "run", preset, *quick, *NARROW, data)


@pytest.mark.slow
@pytest.mark.parametrize("preset", IMAGENET)
def test_imagenet100_runs_on_a_folder(preset, tmp_path):
    for part in ("train", "val"):
        for k in range(32):
            folder = tmp_path / "images" / part / f"n{k % 4}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 36), 9 * k).convert("RGB").save(folder / f"{k}.png")
    given = [f"--data=folder:{tmp_path}/images", "--data.image_size=64", "--data.classes=first:3"]
    given += ["--optimizer.schedule.warmup=0", "--optimizer.learning_rate=0.001"]
    ran(tmp_path / "run", preset, *QUICK, *NARROW, *given)


@pytest.mark.slow
@pytest.mark.parametrize("preset", [p for p in DENSE if "resnet34" in p])
def test_binary_weights_run(preset, data, tmp_path):
    quick = QUICK if preset.endswith("fast") else [*QUICK, ONE_STEP]
    ran(tmp_path / "run", f"{preset},{CONNECT}", *quick, *NARROW, data)


@pytest.mark.slow
@pytest.mark.parametrize("preset", TUNED)
def test_a_found_subnetwork_is_trained_on(preset, data, tmp_path):
    quick = [*QUICK, ONE_STEP, data]
    source = ran(tmp_path / "found", "binary_cifar10_resnet18", *quick, *NARROW)
    ran(tmp_path / "tuned", preset, f"--ticket={source}", *quick)
