"""Laws of importing a result tree of the published 2019 code, over trees made by hand."""

import csv
import io
import json
import pickle
import shutil

import numpy as np
import pytest

from experiments.experiment import RunError
from experiments.export import Export
from experiments.import_published import ImportPublished
from experiments.iterative_pruning import IterativePruning
from rst_tf import Ticket
from rst_tf.analysis import report, runs

LAYERS = {"hidden_1": (784, 300), "hidden_2": (300, 100), "output": (100, 10)}
RATES = {"hidden_1": 0.2, "hidden_2": 0.2, "output": 0.1}
COUNTS = [(235200, 30000, 1000), (188159, 23999, 899), (150526, 19198, 808)]  # as published
ADVERSARIAL = "digits/dense-300-100/reinit_orig/fgsm/lr-0.0012_l1-0.0_advtrain-true/trial_00"
NATURAL = "fashion/dense-300-100/reinit_orig/pgd/lr-0.001_l1-1e-05_advtrain-false/trial_03"
LABELS = [0, 500, 1000, 1500, 2000]
STEPS = [1, 501, 835, 1335, 1669]  # updates behind these labels, 834 in an epoch


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(-0.1, 0.1, shape).astype(np.float32) for n, shape in LAYERS.items()}


def pruned(kernel, mask, rate):
    """The smallest go: the published number and one more."""
    alive = np.flatnonzero(mask)
    order = alive[np.argsort(np.abs(kernel.ravel()[alive]))]
    flat = mask.copy().ravel()
    flat[order[: round(rate * len(alive)) + 1]] = 0
    return flat.reshape(mask.shape)


def log(batches, shift):
    rows = [
        f"{batch},{2 - 0.1 * i + shift},{0.9 + 0.01 * i - shift},{0.1 * i + shift}"
        for i, batch in enumerate(batches)
    ]
    return "\n".join(["batch,loss,acc,adv_acc", *rows, ""])


def plant(root, place=ADVERSARIAL, start="trained", rounds=3, seed=0):
    """A trial as the published code leaves it; `start` says where later rounds start."""
    trial = root / place
    initial, masks = drawn(seed), {n: np.ones(s, np.float32) for n, s in LAYERS.items()}
    dense = final = None
    for number in range(rounds):
        here = initial
        if number:
            masks = {n: pruned(final[n], masks[n], RATES[n]) for n in LAYERS}
            here = {
                "trained": dense,
                "initial": initial,
                "masked": {n: initial[n] * masks[n] for n in LAYERS},
                "previous": final,
                "drawn": drawn(seed + 50 + number),
                "mixed": initial if number == 1 else drawn(1),
            }[start]
        step = drawn(seed + 10 + number)
        final = {n: here[n] + step[n] * masks[n] for n in LAYERS}
        dense = final if number == 0 else dense
        folder = trial / f"prune_iter_{number:02d}"
        for name, arrays in (("init_kernels", here), ("post_kernels", final), ("masks", masks)):
            (folder / name).mkdir(parents=True)
            for layer, array in arrays.items():
                np.save(folder / name / f"{layer}.npy", array)
        (folder / "train.csv").write_text(log([0, 500, 0, 500, 0], 0.03))
        (folder / "valid.csv").write_text(log(LABELS, 0.02 + 0.01 * number))
        (folder / "test.csv").write_text(log(LABELS, 0.01 + 0.01 * number))
    return trial


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    plant(root)
    plant(root, NATURAL, start="initial", seed=1)
    return root


def imported(trial, workdir, **options):
    ImportPublished(source=str(trial), **options).run(workdir)
    return workdir


@pytest.fixture(scope="module")
def workdir(tree, tmp_path_factory):
    return imported(tree / ADVERSARIAL, tmp_path_factory.mktemp("runs") / "imported")


def settings(workdir):
    return json.loads((workdir / "config.json").read_text())["experiment"]


def content(workdir):
    names = ("results.csv", "import.json", "tickets/initial.npz", "tickets/round_01.npz")
    return {name: (workdir / name).read_bytes() for name in names}


def test_tickets_hold_the_published_masks_and_weights(tree, workdir):
    for number, counts in enumerate(COUNTS):
        ticket = Ticket.load(workdir / "tickets" / f"round_{number:02d}.npz")
        assert tuple(ticket.kept_by_layer().values()) == counts
        for entry in ticket.entries:
            folder = tree / ADVERSARIAL / f"prune_iter_{number:02d}"
            assert np.array_equal(entry.mask, np.load(folder / f"masks/{entry.name}.npy"))
            assert np.array_equal(entry.kernel, np.load(folder / f"post_kernels/{entry.name}.npy"))
    initial = Ticket.load(workdir / "tickets/initial.npz")
    assert initial.density == 1
    for entry in initial.entries:
        assert np.array_equal(entry.kernel, drawn(0)[entry.name])


@pytest.mark.parametrize("number", range(3))
def test_networks_answer_as_the_published_ones(number, tree, workdir):
    folder = tree / ADVERSARIAL / f"prune_iter_{number:02d}"
    x = np.random.default_rng(9).uniform(size=(40, 28, 28, 1)).astype(np.float32)
    y = x.reshape(40, 784)
    for name in LAYERS:
        kernel, mask = (
            np.load(folder / what / f"{name}.npy") for what in ("post_kernels", "masks")
        )
        y = y @ (kernel * mask)
        y = y if name == "output" else np.maximum(y, 0)
    probabilities = np.exp(y - y.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    logits = Ticket.load(workdir / "tickets" / f"round_{number:02d}.npz").build()(x).numpy()
    assert np.array_equal(logits.argmax(-1), probabilities.argmax(-1))
    assert len(set(logits.argmax(-1))) > 1
    np.testing.assert_allclose(logits, y, atol=1e-4)


def test_rows_are_the_logs_at_true_updates(tree, workdir):
    run = runs.load(workdir)
    assert run.rounds() == (0, 1, 2) and run.test_examples == 10_000 and run.seed == 0
    for number in run.rounds():
        for split in ("train", "valid", "test"):
            text = (tree / ADVERSARIAL / f"prune_iter_{number:02d}" / f"{split}.csv").read_text()
            logged = list(csv.DictReader(io.StringIO(text)))
            curve = run.curve(number, split)
            assert [row.step for row in curve] == STEPS
            for row, line in zip(curve, logged, strict=True):
                assert row.loss == pytest.approx(float(line["loss"]))
                assert row.accuracy == pytest.approx(float(line["acc"]))
                assert row.robust_accuracy == pytest.approx(float(line["adv_acc"]))
                assert row.robust_loss is None and row.kept == sum(COUNTS[number])
                assert row.attack == "FGSM(epsilon=0.3, label=predicted)"


def test_rows_follow_the_settings(tmp_path):
    trial = plant(tmp_path, rounds=1)
    for split, batches in (("train", [0, 4, 8, 0]), ("valid", [0, 4, 8, 12]), ("test", None)):
        text = log(batches or [0, 4, 8, 12], 0)
        (trial / "prune_iter_00" / f"{split}.csv").write_text(text)
    run = runs.load(imported(trial, tmp_path / "run", steps_per_epoch=10, eval_every=4))
    assert [row.step for row in run.curve(0, "train")] == [1, 5, 9, 11]


def test_a_natural_trial(tree, tmp_path):
    run = runs.load(imported(tree / NATURAL, tmp_path / "run"))
    made = run.config["experiment"]
    assert made["objective"]["name"] == "natural" and made["objective"]["label_smoothing"] == 0.1
    assert made["optimizer"]["learning_rate"] == 0.001 and made["l1"] == 1e-05
    assert made["data"]["source"] == "fashion_mnist" and run.seed == 3
    assert run.attack("test") == "PGD(epsilon=0.3, steps=10, step_size=0.05, label=predicted)"
    assert run.attack("train") is None
    assert {row.robust_accuracy for row in run.curve(1, "train")} == {None}


AUDITS = {  # experiment, start: rewind, rewind_step, words
    ("reinit_orig", "trained"): ("reset", "end", "trained already: the published defect."),
    ("reinit_orig", "initial"): ("reset", 0, "the initial weights: a true rewind."),
    ("reinit_orig", "masked"): ("reset", 0, "the initial weights: a true rewind."),
    ("reinit_orig", "drawn"): ("reset", None, "weights of their own, drawn anew."),
    ("reinit_orig", "mixed"): ("reset", None, "weights of several kinds."),
    ("reinit_none", "previous"): ("continued", None, "round before: training continued."),
    ("reinit_none", "trained"): ("continued", None, "trained already: the published defect."),
    ("reinit_rand", "drawn"): ("reinit", None, "weights of their own, drawn anew."),
}


@pytest.mark.parametrize(("experiment", "start"), AUDITS)
def test_audit_of_the_rewind(experiment, start, tmp_path, capsys):
    trial = plant(tmp_path, ADVERSARIAL.replace("reinit_orig", experiment), start)
    made = settings(imported(trial, tmp_path / "run"))
    rewind, step, words = AUDITS[experiment, start]
    printed = capsys.readouterr().out
    assert (made["rewind"], made["rewind_step"]) == (rewind, step)
    assert f"{words}\n" in printed and f"Later rounds of {experiment} start from" in printed
    assert "Pruned weights that came back: none.\n" in printed
    assert "masks the published rule does not give: none.\n" in printed
    counts = [line.split()[1:6] for line in printed.splitlines() if "%" in line]
    texts = [[f"{n:,}" for n in (*layers, sum(layers))] for layers in COUNTS]
    shares = ["100.0", "80.0", "64.1"]
    assert counts == [[*text, share] for text, share in zip(texts, shares, strict=True)]


@pytest.mark.parametrize(
    ("experiment", "start", "words"),
    [("reinit_none", "previous", "training continued"), ("reinit_orig", "trained", "defect")],
)
def test_in_round_one_the_experiment_says_which(experiment, start, words, tmp_path, capsys):
    """There, the dense network's trained weights are those of the round before."""
    trial = plant(tmp_path, ADVERSARIAL.replace("reinit_orig", experiment), start, rounds=2)
    imported(trial, tmp_path / "run")
    assert f"{words}.\n" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", ["no_pruning", "reinit_orig"])
def test_one_round_has_no_rewind(experiment, tmp_path, capsys):
    place = ADVERSARIAL.replace("reinit_orig", experiment)
    made = settings(imported(plant(tmp_path, place, rounds=1), tmp_path / "run"))
    assert made["rounds"] == 0 and made["rewind_step"] is None
    assert "no rewind to audit" in capsys.readouterr().out


def test_audit_of_masks_that_do_not_follow(tree, tmp_path, capsys):
    trial = tmp_path / ADVERSARIAL
    shutil.copytree(tree / ADVERSARIAL, trial)
    file = trial / "prune_iter_02/masks/output.npy"
    mask, before = np.load(file), np.load(trial / "prune_iter_01/masks/output.npy")
    mask[tuple(np.argwhere(before == 0)[:3].T)] = 1
    np.save(file, mask)
    imported(trial, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "came back: 3 in round 2.\n" in printed and "does not give: 2.\n" in printed


def test_settings_are_named_as_those_of_iterative_pruning(workdir):
    made = settings(workdir)
    ours = {field for field in made if field in IterativePruning.__dataclass_fields__}
    theirs = {"name", "steps_per_epoch", "l1", "unknown", "trained_by"}
    assert set(made) == ours | theirs
    assert made["objective"]["name"] == "mixed" and made["objective"]["clean_weight"] == 0.5
    assert made["objective"]["attack"] == made["evaluation_attack"]
    assert made["evaluation_attack"]["epsilon"] == 0.3
    assert made["count"] == "plus_one" and made["rate"] == [0.2, 0.2, 0.1]


def test_it_is_reported_like_any_run_and_trials_are_seeds(workdir, tree, tmp_path, capsys):
    other = imported(plant(tmp_path, ADVERSARIAL.replace("_00", "_01"), seed=7), tmp_path / "run")
    report.write_seeds([workdir, other], tmp_path / "report")
    assert "64.1" in capsys.readouterr().out
    assert (tmp_path / "report/report.html").stat().st_size > 1000


def test_it_is_exported_like_any_run(workdir, tmp_path):
    Export(source=str(workdir), which="last", formats=("keras",), latency_runs=1).run(tmp_path)
    assert (tmp_path / "network.keras").exists()


def test_again_and_after_an_interruption_it_is_the_same(tree, workdir, tmp_path):
    here = tmp_path / "run"
    shutil.copytree(workdir, here)
    imported(tree / ADVERSARIAL, here)
    assert content(here) == content(workdir)
    (here / "results.csv").unlink()
    (here / "tickets/round_01.npz").unlink()
    imported(tree / ADVERSARIAL, here)
    assert content(here) == content(workdir)


def test_a_workdir_holds_one_import(tree, workdir, tmp_path):
    before = content(workdir)
    with pytest.raises(RunError, match=r"import.json is of other files"):
        imported(plant(tmp_path, seed=5), workdir)
    with pytest.raises(RunError, match="made by another configuration"):
        imported(tree / NATURAL, workdir)
    assert content(workdir) == before


FIRST, LAST = "prune_iter_00", "prune_iter_02"


def saved(path, change):
    np.save(path, change(np.load(path)))


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def set_first(value):
    def change(array):
        array.flat[0] = value
        return array

    return change


class Hostile:
    """Pickled, it would run a function on loading."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def archived(path):
    with path.open("wb") as stream:
        np.savez(stream, np.zeros(3))


DAMAGES = {  # what is wrong: file, how, what is said of it
    "no kernels": (f"{LAST}/init_kernels/output.npy", lambda p: p.unlink(), "no such file"),
    "no masks": (f"{LAST}/masks/hidden_1.npy", lambda p: p.unlink(), "no such file"),
    "no log": (f"{LAST}/test.csv", lambda p: p.unlink(), "no such file; was this round"),
    "no round": ("prune_iter_01", shutil.rmtree, "no such folder"),
    "no rounds": (
        FIRST,
        lambda p: [shutil.rmtree(q) for q in p.parent.iterdir()],
        "no such folder",
    ),
    "cut array": (
        f"{FIRST}/post_kernels/hidden_1.npy",
        lambda p: p.write_bytes(p.read_bytes()[:-4]),
        "is cut, pickled or no .npy file",
    ),
    "empty array": (f"{FIRST}/masks/output.npy", lambda p: p.write_bytes(b""), "is cut, pickled"),
    "objects": (
        f"{FIRST}/masks/output.npy",
        lambda p: np.save(p, np.array([Hostile()]), allow_pickle=True),
        "is cut, pickled",
    ),
    "pickle": (
        f"{FIRST}/masks/output.npy",
        lambda p: p.write_bytes(pickle.dumps(Hostile())),
        "is cut, pickled",
    ),
    "archive": (f"{FIRST}/masks/output.npy", archived, "is cut, pickled"),
    "huge": (
        f"{FIRST}/masks/output.npy",
        lambda p: p.write_bytes(p.read_bytes().replace(b"(100, 10)", b"(9999999999999,)", 1)),
        "is cut, pickled",
    ),
    "turned": (
        f"{LAST}/post_kernels/hidden_2.npy",
        lambda p: saved(p, np.transpose),
        r"expected numbers of shape \(300, 100\); received float32, \(100, 300\)",
    ),
    "text": (
        f"{LAST}/post_kernels/output.npy",
        lambda p: saved(p, lambda a: a.astype("U8")),
        "expected numbers",
    ),
    "not finite": (
        f"{LAST}/post_kernels/output.npy",
        lambda p: saved(p, set_first(np.nan)),
        "fini",
    ),
    "half a mask": (f"{LAST}/masks/output.npy", lambda p: saved(p, set_first(0.5)), "is no mask"),
    "NaN in a mask": (f"{LAST}/masks/output.npy", lambda p: saved(p, set_first(np.nan)), "no mask"),
    "empty mask": (f"{LAST}/masks/output.npy", lambda p: saved(p, np.zeros_like), "no weight"),
    "other layers": (
        f"{LAST}/masks",
        lambda p: shutil.copy(p / "output.npy", p / "hidden_3.npy"),
        "does not have.*hidden_3",
    ),
    "header": (f"{LAST}/test.csv", lambda p: edited(p, "adv_acc", "robust"), "line 1: expected"),
    "empty log": (f"{LAST}/test.csv", lambda p: p.write_text(""), "line 1: expected"),
    "no rows": (f"{LAST}/test.csv", lambda p: p.write_text("batch,loss,acc,adv_acc\n"), "no rows"),
    "cut log": (f"{LAST}/test.csv", lambda p: p.write_text(p.read_text()[:-1]), "is cut off"),
    "cells": (f"{LAST}/test.csv", lambda p: edited(p, "\n500,", "\n500,0,"), "line 3: expected 4"),
    "no number": (
        f"{LAST}/test.csv",
        lambda p: edited(p, "\n500,", "\nfive,"),
        "line 3: could not",
    ),
    "percent": (
        f"{FIRST}/test.csv",
        lambda p: edited(p, ",0.89,", ",89,"),
        r"line 2: acc.*\[0, 1\]",
    ),
    "no acc": (f"{FIRST}/test.csv", lambda p: edited(p, ",0.89,", ",,"), r"line 2: acc"),
    "label": (
        f"{LAST}/valid.csv",
        lambda p: edited(p, "\n500,", "\n834,"),
        "line 3: expected batch",
    ),
    "running train": (
        f"{LAST}/train.csv",
        lambda p: p.write_text(log(LABELS, 0)),
        "line 4: expected",
    ),
    "shorter": (f"{LAST}/train.csv", lambda p: p.write_text(log([0, 500], 0)), "2 rows, but valid"),
    "not text": (f"{LAST}/train.csv", lambda p: p.write_bytes(b"\xff\xfe"), "not UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_one_line_that_names_the_file(name, tree, tmp_path):
    file, damage, words = DAMAGES[name]
    trial = tmp_path / ADVERSARIAL
    shutil.copytree(tree / ADVERSARIAL, trial)
    damage(trial / file)
    with pytest.raises(ValueError, match=rf"{file}.* {words}|{file}:? {words}") as caught:
        imported(trial, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stays_so(tree, tmp_path):
    trial = tmp_path / ADVERSARIAL
    shutil.copytree(tree / ADVERSARIAL, trial)
    edited(trial / LAST / "valid.csv", "\n500,1.94,", "\n500,,")
    assert np.isnan(runs.load(imported(trial, tmp_path / "run")).curve(2, "valid")[1].loss)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (ADVERSARIAL.rsplit("/", 1)[0], "holds trials; import them one by one: trial_00"),
        (f"{ADVERSARIAL}/{FIRST}", "source must be a folder TREE/{dataset}"),
        ("digits", "source must be a folder TREE/{dataset}"),
        ("digits/nowhere", "is no folder"),
        (ADVERSARIAL.replace("digits", "letters"), "source must be a folder"),
        (ADVERSARIAL.replace("lr-0.0012", "lr-fast"), "learning_rate is no number in 'lr-fast"),
    ],
)
def test_sources_that_are_no_trial(place, message, tree, tmp_path):
    root = tree
    if not (tree / place).exists() and "nowhere" not in place:
        (tmp_path / place).mkdir(parents=True)
        root = tmp_path
    with pytest.raises(ValueError) as caught:
        imported(root / place, tmp_path / "run")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["steps_per_epoch", "eval_every"])
def test_settings_that_cannot_be(field):
    with pytest.raises(ValueError, match=r"must be at least 1; received 0"):
        ImportPublished(source="x", **{field: 0})
