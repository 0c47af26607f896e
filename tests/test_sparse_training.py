"""Every way to begin times every way to change: laws of the experiment, interrupted or not."""

import dataclasses
import json
import os
import signal

import flying_presets as presets
import numpy as np
import pytest
from trainings import QUICK, files, read

import run_experiments
from experiments._watch import Watch
from experiments.companion import Companion
from experiments.experiment import RunError
from experiments.interruption import Interrupted
from experiments.sparse_training import Rewired, SparseTraining
from experiments.training import Session
from rst_tf import FGSM, Adversarial, Natural, Ticket
from rst_tf.analysis.topology import read as read_updates
from rst_tf.first_masks import SNIP, GraSP, Magnitude, RandomMasks, SynFlow
from rst_tf.flying_bird import FlyingBird, FlyingBirdPlus, Static
from rst_tf.models import Conv

SETTINGS = {**QUICK, "objective": Natural(), "train_steps": 12, "eval_every": 2, "eval_limit": 20}
ATTACKED = {**SETTINGS, "objective": Adversarial(FGSM(0.1))}
STARTS = {
    "igq": RandomMasks(),
    "erk": RandomMasks("erk"),
    "uniform": RandomMasks("uniform"),
    "magnitude": Magnitude(),
    "snip": SNIP(examples=20),
    "grasp": GraSP(examples=20, allocation="global_floor"),
    "synflow": SynFlow(rounds=3),
}
EAGER = {"adaptive_from": 1, "threshold": 0.25}
TOPOLOGIES = {
    "static": Static(),
    "random": FlyingBird(update_every=3),
    "gradient": FlyingBird(update_every=2, update_every_late=3, growth="gradient", stop_at=0.75),
    "plus": FlyingBirdPlus(update_every=3, growth="momentum", **EAGER),
}
PAIRS = [("igq", topology) for topology in TOPOLOGIES]
PAIRS += [(start, "random") for start in STARTS if start != "igq"]
TABLE = {
    f"{start} {topology}": SparseTraining(
        **(ATTACKED if topology == "plus" else SETTINGS | {"eval_every": 6}),
        start=STARTS[start],
        topology=TOPOLOGIES[topology],
        density=0.3,
    )
    for start, topology in PAIRS
}
TABLE["conv plus"] = SparseTraining(
    **SETTINGS | {"network": Conv(2, 0.05)}, topology=FlyingBirdPlus(update_every=3, **EAGER)
)
STEPS = {"static": [], "random": [3, 6, 9], "gradient": [2, 4, 6, 8], "plus": [3, 6, 9]}


def everything(workdir):
    log = workdir / "topology.jsonl"
    return files(workdir) | {"topology": log.read_bytes() if log.exists() else b""}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, experiment in TABLE.items():
        experiment.run(root / name)
    return root


def ticket(folder, name):
    return Ticket.load(folder / "tickets" / f"{name}.npz")


def updates(folder):
    log = folder / "topology.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


every_run = pytest.mark.parametrize("name", TABLE)


@every_run
def test_counts_and_zeros(name, runs):
    first, last = ticket(runs / name, "initial"), ticket(runs / name, "round_00")
    assert first.density == pytest.approx(TABLE[name].density, abs=1e-3)
    plus, static = name.endswith("plus"), name.endswith("static")
    for a, b in zip(first.entries, last.entries, strict=True):
        assert a.kernel[~a.mask].any() or a.mask.all()  # all initial weights are kept
        assert not b.kernel[~b.mask].any()
        if not plus:
            assert a.mask.sum() == b.mask.sum()
        assert a.mask.all() == b.mask.all()
    assert (first.mask_hash == last.mask_hash) == static


@every_run
def test_the_record_is_what_happened(name, runs):
    found, topology = updates(runs / name), name.split()[-1]
    assert [update["step"] for update in found] == STEPS[topology]
    density = ticket(runs / name, "initial").density
    ever = density
    for update in found:
        assert update["density_before"] == pytest.approx(density, abs=1e-12)
        density = update["density_after"]
        changed = update["prune_more"] or update["grow_more"]
        assert (density != update["density_before"]) == changed
        assert ever <= update["ever_active"] <= 1
        ever = update["ever_active"]
    assert ticket(runs / name, "round_00").density == pytest.approx(density, abs=1e-12)
    for row in read(runs / name):
        done = [u["density_after"] for u in found if u["step"] <= int(row["step"])]
        start = ticket(runs / name, "initial").density
        assert float(row["density"]) == pytest.approx([start, *done][-1], abs=1e-8)
    assert len(read_updates(runs / name)) == len(found)


def test_flying_bird_plus_did_something(runs):
    for name in ("igq plus", "conv plus"):
        assert any(update["prune_more"] or update["grow_more"] for update in updates(runs / name))


def test_flying_bird_plus_listens_to_the_rows(runs):
    """Its shares follow from results.csv: robust accuracy of train minus valid, robust loss."""
    rows = {(int(r["step"]), r["split"]): r for r in read(runs / "igq plus")}
    for update in updates(runs / "igq plus"):
        heard = [step for step in range(2, update["step"], 2)]
        gaps = [
            float(rows[step, "train"]["robust_accuracy"])
            - float(rows[step, "valid"]["robust_accuracy"])
            for step in heard
        ]
        losses = [float(rows[step, "valid"]["robust_loss"]) for step in heard]
        bird = TABLE["igq plus"].topology
        decision = bird.decision(gaps, losses)
        assert update["gap_share"] == decision.gap_share
        assert (update["prune_more"], update["grow_more"]) == decision[2:]


def test_another_seed_changes_other_weights(runs, tmp_path):
    dataclasses.replace(TABLE["igq random"], seed=6).run(tmp_path)
    for name in ("initial", "round_00"):
        assert ticket(tmp_path, name).mask_hash != ticket(runs / "igq random", name).mask_hash


# ---------------------------------------------------------------- interrupted


class Died(BaseException):
    """Stands for a death that no handler sees."""


def signalled(at):
    """`on_train_batch_end` that gets a signal after a step."""

    def method(watch, batch, logs=None, original=Watch.on_train_batch_end):
        if watch.step + watch.sizes[batch] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        original(watch, batch, logs)

    return method


STOPS = {"igq plus": [5, 9], "igq gradient": [4]}
EVERY = range(1, 12)


def resumed(name, steps, folder, monkeypatch):
    """Stops at these steps, goes on each time, and gives all files."""
    monkeypatch.setattr("experiments.training.STEPS_PER_CALL", 1)
    for step in steps:
        with monkeypatch.context() as patch:
            patch.setattr(Watch, "on_train_batch_end", signalled(step))
            with pytest.raises(Interrupted, match=f"saved at step {step} of 12"):
                TABLE[name].run(folder)
    TABLE[name].run(folder)
    return everything(folder)


@pytest.mark.parametrize("name", STOPS)
def test_resumed_equals_uninterrupted(name, runs, tmp_path, monkeypatch):
    """Stopped between updates, at one, at an evaluation."""
    assert resumed(name, STOPS[name], tmp_path, monkeypatch) == everything(runs / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["igq random", "igq gradient", "igq plus"])
def test_resumed_at_any_step_equals_uninterrupted(name, runs, tmp_path, monkeypatch):
    assert resumed(name, EVERY, tmp_path, monkeypatch) == everything(runs / name)


@pytest.mark.parametrize("name", ["snip random"])
def test_died_after_an_update_equals_uninterrupted(name, runs, tmp_path, monkeypatch):
    """Its line is there, and no checkpoint has it: it is forgotten, and comes again."""
    acted = Rewired.at

    def dying(companion, step):
        acted(companion, step)
        if step == 9:
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Rewired, "at", dying)
        with pytest.raises(Died):
            TABLE[name].run(tmp_path)
    assert len(updates(tmp_path)) == 3
    TABLE[name].run(tmp_path)
    assert everything(tmp_path) == everything(runs / name)


def test_a_damaged_record_is_said_to_be(runs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", signalled(6))
        with pytest.raises(Interrupted):
            TABLE["igq random"].run(tmp_path)
    (tmp_path / "topology.jsonl").write_text("{half a line")
    with pytest.raises(RunError, match=r"topology.jsonl is damaged"):
        TABLE["igq random"].run(tmp_path)


class Moves(Companion):
    """Gives pruned weights a value between two updates."""

    name = "moves"

    def __init__(self, at):
        super().__init__()
        self._at = at

    def begin(self, session, trainer, round_number):
        super().begin(session, trainer, round_number)
        train_step = trainer.train_step

        def moving(data):
            import tensorflow as tf

            found = train_step(data)
            for masked in trainer._masks:
                late = tf.cast(trainer.optimizer.iterations >= self._at, "float32")
                masked.kernel.assign_add(late * (1 - masked.mask))
            return found

        trainer.train_step = moving


@pytest.mark.parametrize("name", ["igq random"])
def test_a_run_whose_pruned_weights_move_ends_with_an_error(name, tmp_path, monkeypatch):
    train = Session.train

    def also(session, *args, companions=(), **options):
        return train(session, *args, companions=[*companions, Moves(at=5)], **options)

    monkeypatch.setattr(Session, "train", also)
    with pytest.raises(RunError, match=r"pruned weights of .* moved in the training"):
        TABLE[name].run(tmp_path)
    assert [update["step"] for update in updates(tmp_path)] == STEPS[name.split()[-1]][:1]


def test_a_plan_tells_what_is_kept_at_the_start(runs):
    text = TABLE["igq random"].plan()
    kept = ticket(runs / "igq random", "initial").kept
    assert f"{kept:,}" in text and "1 of 12 steps" in text


def test_a_density_is_a_fraction():
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]; received density=2"):
        SparseTraining(**SETTINGS, density=2)


def test_a_training_too_short_to_change_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match="update_every must be below"):
        SparseTraining(**SETTINGS).run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_masks_are_not_the_same_twice(runs):
    """Different starts and topologies end with different masks."""
    hashes = [ticket(runs / name, "round_00").mask_hash for name in TABLE]
    assert len(set(hashes)) == len(hashes) and np.all(hashes)


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize("preset", [*presets.COMPLETE, *presets.OVER])
def test_a_preset_is_what_was_published(preset):
    found = run_experiments.configured(["run_experiments", f"--preset={preset}"])
    assert found.config == (presets.COMPLETE | presets.OVER)[preset]


EPOCH, TOTAL = 352, 70_400
UPDATES = {  # of a training of the presets: updates, the first, the last
    "bird_flying": (68, 900, 69_600),
    "bird_flying_plus": (68, 900, 69_600),
    "bird_flying,set": (199, 352, 70_048),
    "bird_flying,rigl": (527, 100, 52_700),
}


@pytest.mark.parametrize("preset", UPDATES)
def test_the_updates_of_a_preset(preset):
    topology = (presets.COMPLETE | presets.OVER)[preset].topology
    steps = list(topology.rates(TOTAL, EPOCH))
    assert (len(steps), steps[0], steps[-1]) == UPDATES[preset]
