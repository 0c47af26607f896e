"""The presets of the 2019 paper: what each one sets, that it runs, where it runs by default.

Those of the scratch tickets are in test_rst_presets.py, of the binary subnetworks in
test_binary_presets.py, of Robust Bird in test_robust_bird.py, of Flying Bird in
test_sparse_training.py; what every preset says is tried here.
"""

import dataclasses
import functools
import itertools
import re
import shlex

import binary_presets as binary
import bird_presets as birds
import flying_presets as flying
import numpy as np
import pytest
import rst_presets as rst

import run_experiments
from experiments.iterative_pruning import IterativePruning
from flags import command_line
from rst_tf.attacks import FGSM, PGD
from rst_tf.data import Data
from rst_tf.models import MLP
from rst_tf.objectives import Mixed, Natural
from rst_tf.optimizers import Adam

SOURCES = {"mnist": "mnist", "fashion": "fashion_mnist"}
ATTACKS = {"fgsm": FGSM(epsilon=0.3), "pgd": PGD(epsilon=0.3, steps=10, step_size=0.05)}
REWINDS = ("reset", "reinit", "continued")
PAPER = {"_".join(names): names for names in itertools.product(SOURCES, ATTACKS, REWINDS)}
OVERLAYS = ("legacy", "l1")
COMPLETE = ["quick_start", *PAPER]
OF_OTHERS = ("search", "tickets", "natural_tickets")  # what comes before a preset, or after it
SWEEP = [f"mnist_{attack}_{rewind}" for attack in ATTACKS for rewind in ("reset", "reinit")]


def bound(preset, *flags):
    return run_experiments.configured(["run_experiments", f"--preset={preset}", *flags])


def about(preset):
    return command_line.read_preset(preset).about


def test_the_presets_are_the_quick_start_and_those_of_four_papers():
    names = [*COMPLETE, *OVERLAYS, *rst.COMPLETE, *rst.OVERLAYS]
    names += [*binary.COMPLETE, *binary.OVERLAYS, *birds.COMPLETE]
    names += [*flying.COMPLETE, *flying.OVERLAYS]
    assert sorted(names) == command_line.preset_names()


@pytest.mark.parametrize("preset", PAPER)
def test_a_preset_of_the_paper_is_its_text(preset):
    source, attack, rewind = PAPER[preset]
    assert bound(preset).config == IterativePruning(
        data=Data(SOURCES[source], validation=10_000, validation_from="first"),
        network=MLP(hidden=(300, 100), use_bias=False),
        initializer="glorot_uniform",
        objective=Mixed(ATTACKS[attack], clean_weight=0.5, label_smoothing=0.1),
        evaluation_attack=ATTACKS[attack],
        optimizer=Adam(learning_rate=0.0012),
        batch_size=60,
        train_steps=50_000,
        eval_every=500,
        rounds=20,
        rate=(0.2, 0.2, 0.1),
        count="nearest",
        rewind=rewind,
        rewind_step=0,
    )


@pytest.mark.parametrize("preset", PAPER)
def test_natural_training_is_one_flag_and_keeps_the_attack_that_judges(preset):
    adversarial, natural = bound(preset).config, bound(preset, "--objective=natural")
    expected = dataclasses.replace(adversarial, objective=Natural(label_smoothing=0.1))
    assert natural.config == expected and natural.dropped == {}
    assert natural.config.judged_by == ATTACKS[PAPER[preset][1]]


@pytest.mark.parametrize("half", [[], ["--objective=natural"]], ids=["adversarial", "natural"])
@pytest.mark.parametrize("preset", PAPER)
def test_legacy_changes_what_the_published_code_did_otherwise(preset, half):
    paper, legacy = bound(preset, *half), bound(f"{preset},legacy", *half)
    rewind = PAPER[preset][2]
    attack = dataclasses.replace(ATTACKS[PAPER[preset][1]], label="predicted")
    objective = paper.config.objective
    if not half:
        objective = dataclasses.replace(objective, attack=attack)
    assert legacy.config == dataclasses.replace(
        paper.config,
        train_steps="60ep",
        rewind_step="end" if rewind == "reset" else 0,
        eval_schedule="published",
        count="plus_one",
        objective=objective,
        evaluation_attack=attack,
    )
    without_place = {"rewind_step"} if rewind != "reset" else set()
    without_place |= {"objective.attack"} if half else set()
    assert legacy.dropped == dict.fromkeys(without_place, "legacy.yaml")


@pytest.mark.parametrize("preset", SWEEP)
def test_l1_adds_the_penalty_alone(preset):
    plain = bound(preset).config
    assert bound(f"{preset},l1").config == dataclasses.replace(plain, l1=0.0001)
    assert bound(preset, "--l1=0.0001").config == bound(f"{preset},l1").config


@pytest.mark.parametrize("preset", command_line.preset_names())
def test_a_preset_says_what_it_is(preset):
    said = about(preset)
    assert {"paper", "command", "hours", "expected"} <= said.keys()
    commands = {name: text for name, text in said.items() if "python" in text}
    assert "command" in commands
    for name, text in commands.items():
        python, program, *flags = shlex.split(text)
        assert (python, program) == ("python", "run_experiments.py")
        found = run_experiments.configured([program, *flags])
        assert name in OF_OTHERS or preset in found.preset.split(",")


ROWS = [100.0, 51.3, 16.9, 8.7, 3.6, 1.8]  # the paper's labels of rounds 0, 3, 8, 11, 15, 18


@pytest.mark.parametrize("preset", PAPER)
def test_a_preset_of_the_paper_names_its_numbers(preset):
    source, attack, rewind = PAPER[preset]
    reset = about(f"{source}_{attack}_reset")["expected"]
    found = about(preset)["expected"]
    for half in ("adversarial", "natural"):
        assert list(reset[half]) == ROWS
        assert all(0 < number < 100 for pair in reset[half].values() for number in pair)
        if rewind != "reset":
            assert found[half] == {100.0: reset[half][100.0]}


# ---------------------------------------------------------------- every preset runs

SMALL = [
    "--network.hidden=4",
    "--batch_size=10",
    "--train_steps=2",
    "--eval_every=2",
    "--rounds=1",
    "--rate=0.5",
    "--jit=off",
]
WHOLE = [[preset, "--data.validation=10", *SMALL] for preset in COMPLETE]
OVER = ["mnist_pgd_reset,legacy", "mnist_fgsm_continued,legacy", "mnist_fgsm_reset,l1"]
LINES = [*WHOLE, *([presets, "--data.validation=10", *SMALL] for presets in OVER)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The flag of a data set of 60 and 20 random images."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "data.npz"
    arrays = {}
    for part, n in (("train", 60), ("test", 20)):
        arrays[f"x_{part}"] = rng.uniform(0, 1, (n, 8, 8)).astype("float32")
        arrays[f"y_{part}"] = np.arange(n) % 3
    np.savez(file, **arrays)
    return f"--data=npz:{file}"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a configuration that was run; equal ones run once."""

    @functools.cache
    def folder(config):
        path = tmp_path_factory.mktemp("runs") / "run"
        run_experiments.run({path: config})
        return path

    return folder


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_every_preset_runs(line, data, ran):
    folder = ran(bound(*line, data).config)
    rows = (folder / "results.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"0", "1"}
    assert (folder / "tickets" / "round_01.npz").exists()


def test_a_trial_is_the_run_of_its_seed_bit_for_bit(data, ran, tmp_path):
    line = ["--data.validation=10", *SMALL[:4], "--rounds=0", "--rate=0.5", "--jit=off", data]
    alone = bound("mnist_fgsm_reset", *line, "--seed=1")
    trials = bound("mnist_fgsm_reset", *line, "--trials=2")
    runs = run_experiments.runs_of(trials, tmp_path)
    assert list(runs) == [tmp_path / "seed_0", tmp_path / "seed_1"]
    run_experiments.run(runs)
    for file in ("results.csv", "tickets/initial.npz", "tickets/round_00.npz"):
        one, other = (folder / file for folder in (ran(alone.config), tmp_path / "seed_1"))
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes() != (tmp_path / "seed_0" / file).read_bytes()


# ---------------------------------------------------------------- where a run is by default

QUICK, EXPORT = "runs/iterative_pruning/sample/quick_start", "--experiment=export"
FOLDERS = [  # (flags, folder; ~ stands for a hash)
    ([], QUICK),
    (["--preset=quick_start", "--rounds=6", "--data=sample", "--trials=none"], QUICK),
    (["--rounds=3", "--seed=1"], f"{QUICK},rounds=3,seed=1"),
    (["--seed=1", "--rounds=3"], f"{QUICK},rounds=3,seed=1"),
    (["--rounds=3", "--trials=2"], f"{QUICK},rounds=3,seed=all"),
    (["--rounds=3", "--trials=4", "--seed=7"], f"{QUICK},rounds=3,seed=all"),
    (["--force", "--debug", "--dry_run"], QUICK),
    (["--workdir=a/b", "--seed=1"], "a/b"),
    (["--objective.attack.epsilon=1/10"], QUICK),
    (["--objective.attack.epsilon=0.2"], f"{QUICK},attack.epsilon=0.2"),
    (
        ["--evaluation_attack=none", "--objective.attack.epsilon=0.2"],
        f"{QUICK},epsilon=0.2,evaluation_attack=none",
    ),
    (["--data=mnist"], "runs/iterative_pruning/mnist/quick_start"),
    (["--data=npz:a/b/mnist.npz"], "runs/iterative_pruning/mnist/quick_start,source=mnist.npz~"),
    (["--data=folder:a/pets/"], "runs/iterative_pruning/pets/quick_start,source=pets~"),
    (["--data=imagenet_resized/8x8"], "runs/iterative_pruning/8x8~"),
    (["--preset=mnist_pgd_reset,legacy"], "runs/iterative_pruning/mnist/mnist_pgd_reset,legacy"),
    (
        ["--preset=mnist_pgd_reset", "--objective=natural"],
        "runs/iterative_pruning/mnist/mnist_pgd_reset,objective=natural",
    ),
    (["--experiment=dense_training"], "runs/dense_training/sample/default"),
    (
        ["--preset=quick_start", "--experiment=dense_training"],
        "runs/dense_training/sample/quick_start",
    ),
    ([EXPORT, "--source=runs/x"], "runs/export/default,source=x~"),
]


@pytest.mark.parametrize(("flags", "folder"), FOLDERS)
def test_without_a_workdir_the_settings_name_it(flags, folder):
    found = run_experiments.workdir_of(run_experiments.configured(["run_experiments", *flags]))
    if "~" in folder:
        assert re.fullmatch(rf"{re.escape(folder)}[0-9a-f]{{8}}(/.*)?", found.as_posix())
    else:
        assert found.as_posix() == folder


DIFFERENT = [
    "--seed=1",
    "--rounds=1",
    "--data=fashion_mnist",
    "--data=npz:a/fashion_mnist.npz",
    "--data=npz:b/fashion_mnist.npz",
    "--data=folder:fashion_mnist",
    "--data.validation=10",
    "--network.hidden=" + ",".join(["11"] * 60),
    "--network.hidden=" + ",".join(["11"] * 59) + ",12",
    "--masks_from=runs/" + "x" * 200,
    "--masks_from=run/" + "x" * 200,
    "--objective.attack.steps=1",
    "--evaluation_attack.steps=1",
    "--evaluation_attack=none",
]


@pytest.mark.parametrize("preset", ["quick_start", "mnist_fgsm_reset"])
def test_different_settings_have_different_folders(preset):
    configs = {}
    for flags in [*itertools.combinations(DIFFERENT, 1), *itertools.combinations(DIFFERENT, 2)]:
        try:
            found = bound(preset, *flags)
        except ValueError:  # one flag twice, or a flag of a choice that is not made
            continue
        folder = run_experiments.workdir_of(found)
        assert all(len(part) <= 150 for part in folder.parts)
        assert configs.setdefault(folder, found.config) == found.config
    assert len(configs) == len(set(configs.values())) > 50


def test_data_of_a_preset_and_of_a_flag_have_folders_of_their_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: iterative_pruning\ndata: npz:a/mnist.npz\n")
    given = [(), ("--data=mnist",), ("--data=npz:b/mnist.npz",)]
    folders = [run_experiments.workdir_of(bound(str(file), *flags)) for flags in given]
    assert {folder.parent.name for folder in folders} == {"mnist"} and len(set(folders)) == 3


def test_a_preset_of_ones_own_is_named_with_a_hash_of_what_it_says(tmp_path):
    folders = set()
    for number, rounds in enumerate((3, 4, 3)):
        file = tmp_path / str(number) / "mine.yaml"
        file.parent.mkdir()
        file.write_text(f"experiment: iterative_pruning\nrounds: {rounds}\n")
        folders.add(run_experiments.workdir_of(bound(str(file))).name)
    assert len(folders) == 2 and all(re.fullmatch("mine~[0-9a-f]{8}", name) for name in folders)
