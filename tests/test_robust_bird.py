"""Robust Bird: a cheap round that an early bird ends, one pruning, a round of its own."""

import dataclasses
import json
import shutil
import signal
import types
from contextlib import nullcontext

import numpy as np
import pytest
from bird_presets import ROBUST
from test_interruption import Died, at, dying, signalled
from trainings import QUICK, files, read

import run_experiments
from experiments._watch import Watch
from experiments.distillation import Distillation
from experiments.experiment import RunError
from experiments.interruption import Interrupted
from experiments.robust_bird import RobustBird
from experiments.training import Session
from rst_tf import FGSM, Adversarial, RobustTrainer, Ticket, channels, masks
from rst_tf.channels import check_pruned, kept_channels, prunable_channels
from rst_tf.data import batches
from rst_tf.early_bird import EarlyBird, distance
from rst_tf.initializers import initialize
from rst_tf.models import Conv, masked_parts
from rst_tf.optimizers import SGD
from rst_tf.random import subseed
from rst_tf.schedules import Linear

EPOCH = 5  # steps
BIRD = {
    **QUICK,
    "train_steps": 6,
    "first_steps": "8ep",
    "first_optimizer": SGD(learning_rate=0.05, weight_decay=1e-3),
    "first_eval_every": "2ep",
    "early_bird": EarlyBird(window=3, threshold=0.09),
    "density": 0.3,
}
TABLE = {
    "natural": RobustBird(**BIRD),
    "fast": RobustBird(
        **{
            **BIRD,
            "first_objective": Adversarial(FGSM(0.1, start="uniform")),
            "first_optimizer": SGD(schedule=Linear(warmup="2ep")),
            "early_bird": EarlyBird(window=2, threshold=1.0),
            "allocation": "layerwise",
            "rewind": "reset",
            "rewind_step": 7,
        }
    ),
    "one-shot": RobustBird(
        **{**BIRD, "first_steps": 12, "early_bird": None, "rewind": "reinit", "eval_at": (5,)},
        allocation="global_floor",
    ),
    "channel": RobustBird(
        **{
            **BIRD,
            "network": Conv(2, 0.1, normalization="affine"),
            "first_eval_every": "1ep",
            "early_bird": EarlyBird("channel"),
            "first_steps": 12,
            "density": 0.5,
            "pruning": "channel",
            "rewind": "reset",
        }
    ),
}
every_run = pytest.mark.parametrize("name", TABLE)
with_a_test = pytest.mark.parametrize("name", [n for n, run in TABLE.items() if run.early_bird])


def bytes_of(workdir):
    """`files` with the record of the tests."""
    record = workdir / "early_bird.jsonl"
    return files(workdir) | ({record.name: record.read_bytes()} if record.exists() else {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run of the table, done once; weights as each round starts, masks of all tests."""
    root = tmp_path_factory.mktemp("runs")
    starts, masks, train, mask = {}, {}, Session.train, EarlyBird.mask
    running = []

    def spying(session, number, *args, **options):
        starts[running[-1], number] = Ticket.of(session.network)
        return train(session, number, *args, **options)

    def recording(test, network, density):
        found = mask(test, network, density)
        masks.setdefault(running[-1], []).append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "train", spying)
        patch.setattr(EarlyBird, "mask", recording)
        for name, experiment in TABLE.items():
            running.append(name)
            experiment.run(root / name)
    return root, starts, masks


def ticket(root, name, number):
    kind = number if isinstance(number, str) else f"round_{number:02d}"
    return Ticket.load(root / name / "tickets" / f"{kind}.npz")


def record(workdir):
    return [json.loads(line) for line in (workdir / "early_bird.jsonl").read_text().splitlines()]


def steps(workdir, number, split="valid"):
    return [
        int(r["step"]) for r in read(workdir) if (r["round"], r["split"]) == (str(number), split)
    ]


def same(start, stored):
    kernels = zip(start.entries, stored.entries, strict=True)
    rest = zip(start.leftovers, stored.leftovers, strict=True)
    return all(a.kernel.tobytes() == b.kernel.tobytes() for a, b in kernels) and all(
        np.array_equal(a, b) for a, b in rest
    )


# ---------------------------------------------------------------- round 0


@with_a_test
def test_the_distances_are_those_of_the_masks_of_each_epoch(name, runs):
    root, _, masks = runs
    window = TABLE[name].early_bird.window
    found = masks[name][1:]  # the first tells how large a mask is
    for number, (mask, test) in enumerate(zip(found, record(root / name), strict=True)):
        older = found[max(0, number - window + 1) : number]
        assert test["distances"] == [distance(mask, other) for other in older]
        assert (test["epoch"], test["step"]) == (number + 1, EPOCH * (number + 1))


@with_a_test
def test_the_round_ends_with_the_first_early_bird(name, runs):
    root, test = runs[0], TABLE[name].early_bird
    lines = record(root / name)
    for line in lines:
        full = len(line["distances"]) == test.window - 1
        assert line["emerged"] == (full and max(line["distances"]) <= test.limit)
    emerged = [line["emerged"] for line in lines]
    assert emerged == [False] * (len(lines) - 1) + [name != "channel"]
    last = 12 if name == "channel" else lines[-1]["step"]
    assert steps(root / name, 0)[-1] == steps(root / name, 0, "test")[-1] == last


def test_the_table_has_tests_that_wait_and_one_that_does_not(runs):
    """Else nothing above would tell a threshold from a full window."""
    epochs = {name: len(record(runs[0] / name)) for name in ("natural", "fast")}
    assert epochs["natural"] > 3 and epochs["fast"] == 2


def test_without_a_test_the_round_is_as_long_as_it_may(runs):
    assert steps(runs[0] / "one-shot", 0) == [0, 10, 12]
    assert not (runs[0] / "one-shot" / "early_bird.jsonl").exists()


@every_run
def test_round_0_is_evaluated_at_its_own_steps(name, runs):
    *regular, last = steps(runs[0] / name, 0)
    every = EPOCH if name == "channel" else 2 * EPOCH
    assert regular == [*range(0, last, every)]
    assert steps(runs[0] / name, 1) == ([0, 4, 5, 6] if name == "one-shot" else [0, 4, 6])


@every_run
def test_both_rounds_are_judged_by_one_attack(name, runs):
    """What trains round 0 is another thing, and named in its rows."""
    rows, experiment = read(runs[0] / name), TABLE[name]
    trained = {"0": experiment.first_objective, "1": experiment.objective}
    for row in rows:
        attack = experiment.judged_by
        if row["split"] == "train":
            attack = trained[row["round"]].training_attack
        assert row["attack"] == ("" if attack is None else str(attack))
        assert (row["robust_accuracy"] == "") == (attack is None)


def test_what_is_for_round_1_alone_is_not_done_before():
    own = changed(
        l1=0.1, average_from="1ep", average_every=2, distillation=Distillation(("a run",))
    )
    first = {}
    with own._first(types.SimpleNamespace(changed=lambda **s: nullcontext(first.update(s)))):
        found = dataclasses.replace(own, **first)
    plain = changed()
    for name in ("l1", "average_from", "average_every", "distillation"):
        assert getattr(found, name) == getattr(plain, name) != getattr(own, name)


# ---------------------------------------------------------------- between the rounds


@pytest.mark.parametrize("name", [n for n, r in TABLE.items() if r.pruning == "unstructured"])
def test_masks_are_one_pruning_of_the_weights_that_round_0_ends_with(name, runs):
    root, starts, _ = runs
    experiment, first = TABLE[name], ticket(runs[0], name, 0)
    expected = first.prune(experiment.density, allocation=experiment.allocation)
    assert first.density == 1
    for later in (starts[name, 1], ticket(root, name, 1), ticket(root, name, "round_01_best")):
        assert later.mask_hash == expected.mask_hash
    if experiment.allocation == "global":
        total = sum(entry.mask.size for entry in first.entries)
        assert expected.kept == total - round((1 - experiment.density) * total)
        magnitudes = [np.abs(entry.kernel) for entry in first.entries]
        pairs = list(zip(magnitudes, (e.mask for e in expected.entries), strict=True))
        assert min(w[m].min() for w, m in pairs) >= max(w[~m].max() for w, m in pairs)


def test_channels_are_those_that_round_0_ends_with_and_stay_away(runs):
    """Weights go back to the initial ones, and yet scales and offsets of pruned channels are 0."""
    root, starts, _ = runs
    first, start = ticket(root, "channel", 0).build(), starts["channel", 1]
    kept, initial = kept_channels(first, 0.5), ticket(root, "channel", "initial")
    assert sum(map(len, kept)) == 12 and sum(keep.sum() for keep in kept) == 6
    for later in (ticket(root, "channel", 1), ticket(root, "channel", "round_01_best")):
        assert later.mask_hash == start.mask_hash
        network = later.build()
        check_pruned(network)
        found = prunable_channels(network)
        assert [(~each.pruned).tolist() for each in found] == [keep.tolist() for keep in kept]
        assert all(each.normalization.gamma.numpy()[~each.pruned].all() for each in found)
    assert all(
        np.array_equal(a.kernel, b.kernel)
        for a, b in zip(start.entries, initial.entries, strict=True)
    )


def test_a_channel_that_comes_alive_ends_the_run(runs, tmp_path, monkeypatch):
    """As the momentum of an optimiser would bring it about."""
    shutil.copytree(runs[0] / "channel", tmp_path / "run")
    (tmp_path / "run" / "tickets" / "round_01.npz").unlink()
    remove = channels.remove_channels

    def forgetful(network, kept):
        remove(network, kept)
        for each in prunable_channels(network):
            each.normalization.beta.assign(each.normalization.beta + 0.1)

    monkeypatch.setattr(channels, "remove_channels", forgetful)
    with pytest.raises(RunError, match=r"round 1: .*beta moved where its channel is pruned"):
        TABLE["channel"].run(tmp_path / "run")


def test_a_network_without_channels_is_refused_before_it_is_trained(tmp_path):
    with pytest.raises(ValueError, match="has no channels that can be pruned"):
        changed(pruning="channel").run(tmp_path)
    assert not (tmp_path / "tickets").exists()


STARTS = {"natural": "round_00", "fast": "rewind"}


@pytest.mark.parametrize("name", STARTS)
def test_round_1_starts_from_the_bits_it_says(name, runs):
    root, starts, _ = runs
    others = {"initial", "round_00"} | ({"rewind"} if name == "fast" else set())
    for kind in sorted(others):
        assert same(starts[name, 1], ticket(root, name, kind)) == (kind == STARTS[name])
    assert same(starts[name, 0], ticket(root, name, "initial"))


def test_reinit_draws_weights_of_its_own(runs):
    network = TABLE["one-shot"].network.build((28, 28, 1), 10, masked_parts())
    initialize(network, subseed(5, "reinit", 1)[0], "glorot_uniform")
    assert same(runs[1]["one-shot", 1], Ticket.of(network))


# ---------------------------------------------------------------- both rounds, by hand


def by_hand(experiment, start, masks, total, last):
    """A ticket after the first `last` of `total` steps, from the library's own parts."""
    splits = experiment.data.load()
    network = experiment.network.build(splits.shape, splits.classes, masked_parts())
    start.apply(network, weights=True)
    masks.apply(network)
    trainer = RobustTrainer(network, experiment.objective, seed=experiment.seed)
    trainer.compile(experiment.optimizer.build(total, EPOCH), jit_compile=False)
    train = batches(splits.train, experiment.batch_size, seed=experiment.seed, steps=last)
    trainer.fit(train, verbose=0, shuffle=False)
    return Ticket.of(network)


def test_a_round_is_a_training_by_its_own_settings(runs):
    """Objective, optimiser, schedule over the longest length, data order, a fresh beginning."""
    name, (root, starts, _) = "fast", runs
    own = TABLE[name]
    first = dataclasses.replace(own, objective=own.first_objective, optimizer=own.first_optimizer)
    for number, experiment, total in ((0, first, 8 * EPOCH), (1, own, 6)):
        start, last = starts[name, number], steps(root / name, number)[-1]
        found, expected = ticket(root, name, number), by_hand(experiment, start, start, total, last)
        for a, b in zip(found.entries, expected.entries, strict=True):
            np.testing.assert_allclose(a.kernel, b.kernel, atol=1e-6)


def test_an_early_bird_does_not_shorten_the_schedule(runs):
    """The rate rises over 2 of 8 epochs; the run that ends after 2 has seen no more than that."""
    rates = TABLE["fast"].first_optimizer.schedule.factors(8 * EPOCH, EPOCH)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert steps(runs[0] / "fast", 0)[-1] == 10


# ---------------------------------------------------------------- interrupted

DEATHS = {
    "after an early bird": ("natural", "_evaluate", at(0, 20), False),
    "in round 1": ("fast", "_save", at(1, 4), False),
}


@pytest.mark.parametrize("death", DEATHS)
def test_interrupted_equals_uninterrupted(death, runs, tmp_path, monkeypatch):
    name, method, dies, before = DEATHS[death]
    if death == "in round 1":  # round 0 need not be done again
        shutil.copytree(runs[0] / name, tmp_path, dirs_exist_ok=True)
        (tmp_path / "tickets" / "round_01.npz").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Watch, method, dying(getattr(Watch, method), dies, before))
        with pytest.raises(Died):
            TABLE[name].run(tmp_path)
    TABLE[name].run(tmp_path)
    assert bytes_of(tmp_path) == bytes_of(runs[0] / name)


def test_a_signal_between_two_tests_saves_the_window(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.STEPS_PER_CALL", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_train_batch_end", signalled(0, 17, signal.SIGTERM))
        with pytest.raises(Interrupted, match="saved at step 17 of 40 of round 0"):
            TABLE["natural"].run(tmp_path)
    assert [line["step"] for line in record(tmp_path)] == [5, 10, 15]
    TABLE["natural"].run(tmp_path)
    assert bytes_of(tmp_path) == bytes_of(runs[0] / "natural")


@every_run
def test_a_finished_run_is_not_trained_again(name, runs, monkeypatch):
    monkeypatch.setattr(Session, "train", lambda *_: pytest.fail("trained again"))
    before = bytes_of(runs[0] / name)
    TABLE[name].run(runs[0] / name)
    assert bytes_of(runs[0] / name) == before


def test_a_rewind_step_that_was_not_reached_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "train", lambda session, *_, **__: session.save_ticket("round_00"))
    late = dataclasses.replace(TABLE["fast"], rewind_step=39, early_bird=None)
    with pytest.raises(RunError, match=r"ended round 0 before rewind_step; .* rewind_step=39"):
        late.run(tmp_path)


def test_a_plan_tells_of_both_rounds(monkeypatch):
    monkeypatch.setattr("experiments._planning._SECONDS", 0.01)
    text = TABLE["natural"].plan()
    first, second = text.split("\n\n")
    assert first.startswith("round 0, unless an early bird ends it:\nrounds    1 of 40 steps")
    assert second.startswith("round 1:\nrounds    1 of 6 steps")
    assert "5 evaluations" in first and "3 evaluations" in second


REFUSED = {
    "density": (lambda: changed(density=0.0), r"density must be in \(0, 1\]; received density=0.0"),
    "first_steps": (lambda: changed(first_steps="x"), "first_steps must be a number of steps"),
    "allocation": (lambda: changed(allocation="erk"), "allocation names an unknown"),
    "allocation of channels": (
        lambda: changed(allocation="layerwise", pruning="channel"),
        "allocation has an effect only with pruning=unstructured; received allocation='layerwise'",
    ),
    "importance of weights": (
        lambda: changed(channel_importance="filter"),
        "channel_importance has an effect only with pruning=channel; received",
    ),
    "pruning": (lambda: changed(pruning="rows"), "pruning names an unknown pruning 'rows'"),
    "rewind": (lambda: changed(rewind="back"), "rewind names an unknown rewind 'back'"),
    "rewind_step": (
        lambda: changed(rewind_step=3),
        "rewind_step has an effect only with rewind=reset, not continued",
    ),
}


def changed(**settings):
    return dataclasses.replace(TABLE["natural"], **settings)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name):
    act, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        act()


def test_a_rewind_step_beyond_round_0_is_refused_before_it(tmp_path):
    with pytest.raises(ValueError, match="rewind_step must be below first_steps=40; received 40"):
        dataclasses.replace(TABLE["fast"], rewind_step=40).run(tmp_path)
    assert not (tmp_path / "tickets").exists()


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize("preset", ROBUST)
def test_a_preset_is_what_was_published(preset):
    found = run_experiments.configured(["run_experiments", f"--preset={preset}"])
    assert found.config == ROBUST[preset] and found.dropped == {}


def test_fast_training_is_the_published_one():
    """A step of 1.25 radii from a uniform start, at running statistics; 0 to .2 to 0."""
    preset = ROBUST["bird_robust_fast"]
    attack = preset.first_objective.attack.as_pgd()
    assert (attack.steps, attack.start, attack.iterate) == (1, "uniform", "last")
    assert attack.step_size == 1.25 * attack.epsilon
    assert preset.first_objective.norm_mode == "eval"
    optimizer = preset.first_optimizer
    rates = [optimizer.learning_rate * f for f in optimizer.schedule.factors(200 * 352, 352)]
    expected = np.interp(np.arange(200 * 352) / 352, [0, 80, 200], [0, 0.2, 0])
    np.testing.assert_allclose(rates, expected, atol=1e-5)


SMALL = [
    "--data.validation=4",
    "--network.width=0.0625",
    "--batch_size=4",
    "--first_steps=2ep",
    "--train_steps=2",
    "--eval_every=2",
    "--eval_limit=4",
    "--first_optimizer.schedule.warmup=0",
    "--objective.attack.steps=1",
    "--evaluation_attack.steps=1",
]


@pytest.mark.parametrize("preset", ROBUST)
@pytest.mark.slow
def test_every_preset_runs(preset, tmp_path):
    rng, file = np.random.default_rng(0), tmp_path / "data.npz"
    arrays = {}
    for part, n in (("train", 12), ("test", 8)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (n, 32, 32, 3)).astype("uint8")
        arrays[f"y_{part}"] = np.arange(n) % 2
    np.savez(file, **arrays)
    flags = [f"--preset={preset}", f"--data=npz:{file}", *SMALL]
    config = run_experiments.configured(["run_experiments", *flags]).config
    run_experiments.run({tmp_path / "run": config})
    assert {row["round"] for row in read(tmp_path / "run")} == {"0", "1"}
    found = ticket(tmp_path, "run", 1)
    if config.pruning == "unstructured":
        assert found.density == pytest.approx(0.2, abs=1e-4)
        return
    network = config.network.build((32, 32, 3), 2, masked_parts())
    found.apply(network)
    pruned = np.concatenate([each.pruned for each in prunable_channels(network)])
    assert (~pruned).sum() == masks.count(len(pruned), 0.2)
