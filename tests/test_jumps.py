"""Masks and normalisation statistics around a jump in accuracy."""

import csv
import dataclasses
import signal

import keras
import numpy as np
import pytest
from trainings import QUICK

from experiments._jumps import Jumps, is_jump
from experiments._watch import Watch
from experiments.dense_training import DenseTraining
from experiments.interruption import Interrupted
from experiments.scratch_tickets import ScratchTickets
from rst_tf import Normalization
from rst_tf.analysis import jumps
from rst_tf.models import MLP, masked_parts
from rst_tf.ticket import Ticket
from rst_tf.traversal import masked_kernels

CASES = {
    "fall and rise": ((0.6, 0.5, 0.58), True),
    "small fall": ((0.54, 0.5, 0.7), False),
    "small rise": ((0.7, 0.5, 0.54), False),
    "rise and fall": ((0.5, 0.6, 0.5), False),
    "fall on": ((0.7, 0.6, 0.5), False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_jump_is_a_fall_and_a_rise_both_above_the_threshold(name):
    accuracies, expected = CASES[name]
    assert is_jump(accuracies, 0.05) == expected


def network():
    image = keras.Input((6, 6, 1))
    dense = MLP(hidden=(5,)).build((6, 6, 1), 4, masked_parts())
    return keras.Model(image, Normalization(name="last")(dense(image)))


def drawn(kernels, seed):
    chance = np.random.default_rng(seed)
    masks = [chance.random(k.mask.shape) < 0.5 for k in kernels]
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.mask.assign(mask.astype("float32"))
    return masks


ACCURACIES = (0.5, 0.6, 0.61, 0.4, 0.63, 0.64, 0.65, 0.5)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Eight evaluations of a network whose masks and statistics are drawn anew, with one jump."""
    folder, net = tmp_path_factory.mktemp("run") / "jumps", network()
    kept, masks, means = Jumps(folder, 0.1), [], []
    for number, accuracy in enumerate(ACCURACIES):
        masks.append(drawn(masked_kernels(net), number))
        means.append(np.full(4, float(number), "float32"))
        net.get_layer("last").moving_mean.assign(means[-1])
        kept.at(2, 10 * number, accuracy, net)
    return folder, masks, means


def test_what_is_kept_are_the_jumps_and_the_last_three(played):
    folder = played[0]
    found = [int(file.stem[5:]) for file in sorted((folder / "round_02").iterdir())]
    assert found == [20, 30, 40, 50, 60, 70]


def test_a_state_has_the_masks_and_statistics_of_its_evaluation(played):
    folder, masks, means = played
    for number in (2, 3, 4, 7):
        state = jumps.State.read(folder / "round_02" / f"step_{10 * number:08d}.npz")
        assert (state.step, state.accuracy) == (10 * number, ACCURACIES[number])
        for found, expected in zip(state.masks.values(), masks[number], strict=True):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(state.statistics["last"][0], means[number])
        np.testing.assert_array_equal(state.statistics["last"][1], np.ones(4))


def test_the_report_counts_what_changed(played):
    folder, masks, _ = played
    text = jumps.write(folder).read_text()
    assert "## Round 2, step 40" in text and "## The end of round 2" in text
    assert "| 2 | 20 | 30 | 40 | 61.0 | 40.0 | 63.0 |" in text
    for layer in range(2):
        a, b, c = (masks[number][layer] for number in (2, 3, 4))
        back = ((a != b) & (b != c)).sum()
        numbers = (a.size, a.sum(), (a != b).sum(), (b != c).sum(), back, (a != c).sum())
        assert " | ".join(f"{n}" for n in numbers) in text
    assert "| last | mean | 2 | 3 | 4 | 1 | 1 |" in text
    with (folder / "round_02_step_00000040.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    total = sum(((a != b) | (b != c)).sum() for a, b, c in zip(*masks[2:5], strict=True))
    assert len(rows) == total and all(row[2:] not in (["1"] * 3, ["0"] * 3) for row in rows)


def test_going_back_forgets_what_came_after(played, tmp_path):
    net, kept = network(), Jumps(tmp_path, 0.1)
    for step, accuracy in enumerate((0.6, 0.4, 0.6, 0.7)):
        kept.at(0, step, accuracy, net)
    kept.go_back(0, 2)
    assert (tmp_path / "jumps.json").read_text().count("steps") == 1
    kept.go_back(0, 1)
    assert (tmp_path / "jumps.json").read_text() == "[]"
    assert len(list((tmp_path / "round_00").iterdir())) == 2
    kept.go_back(0)
    assert not list((tmp_path / "round_00").iterdir())


def test_a_damaged_state_is_refused(tmp_path):
    file = tmp_path / "step_00000001.npz"
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"step_00000001.npz is damaged"):
        jumps.State.read(file)


RUN = ScratchTickets(
    **{
        **QUICK,
        "train_steps": 6,
        "eval_every": 1,
        "track_jumps": 0.05,
    },
    density=0.3,
)


def contents(folder):
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def test_an_interrupted_run_keeps_the_same_jumps(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments._jumps.is_jump", lambda found, threshold: True)
    RUN.run(tmp_path / "whole")
    assert "jumps in accuracy: " in capsys.readouterr().err

    def stop(watch, *args, original=Watch._save):
        if watch.step == 4 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise Interrupted(signal.SIGTERM, "before its checkpoint")
        original(watch, *args)

    monkeypatch.setattr(Watch, "_save", stop)
    with pytest.raises(Interrupted):
        RUN.run(tmp_path / "parts")
    RUN.run(tmp_path / "parts")
    found, whole = (contents(tmp_path / name / "jumps") for name in ("parts", "whole"))
    assert found == whole
    assert len([name for name in whole if name.endswith(".npz")]) == 7
    last = jumps.State.read(tmp_path / "whole/jumps/round_00/step_00000006.npz")
    ticket = Ticket.load(tmp_path / "whole/tickets/round_00.npz")
    for mask, entry in zip(last.masks.values(), ticket.entries, strict=True):
        np.testing.assert_array_equal(mask, entry.mask)


def test_nothing_is_kept_unless_asked(tmp_path):
    DenseTraining(**QUICK).run(tmp_path)
    assert not (tmp_path / "jumps").exists()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 5.0])
def test_a_threshold_is_a_fraction(threshold):
    with pytest.raises(ValueError, match=r"track_jumps must be in \(0, 1\); received"):
        dataclasses.replace(RUN, track_jumps=threshold)
