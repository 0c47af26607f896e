import csv
import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
from trainings import QUICK, TABLE, files, read

from experiments.experiment import EXPERIMENTS, RunError
from experiments.iterative_pruning import IterativePruning
from experiments.training import Session, Training
from experiments.workdir import Workdir
from rst_tf import FGSM, RobustTrainer, Ticket, initialize
from rst_tf.data import batches
from rst_tf.models import masked_parts
from rst_tf.optimizers import SGD
from rst_tf.random import subseed
from rst_tf.registry import to_dict
from rst_tf.traversal import masked_kernels

every_run = pytest.mark.parametrize("name", TABLE)


def rounds_of(experiment):
    return experiment.rounds if isinstance(experiment, IterativePruning) else 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run of the table, done once; with the state of the network as each round starts."""
    root = tmp_path_factory.mktemp("runs")
    starts, train = {}, Session.train

    def spying(session, number, *args, **options):
        kernels = [m.kernel.numpy() for m in masked_kernels(session.network)]
        rest = [v.numpy() for v in session.network.variables if v.name == "bias"]
        starts[session.workdir.path.name, number] = kernels, rest
        train(session, number, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "train", spying)
        for name, experiment in TABLE.items():
            experiment.run(root / name)
    return root, starts


@every_run
def test_evaluates_at_exact_steps_first_and_last_included(name, runs):
    rows = read(runs[0] / name)
    expected = {"published": [1, 3, 5, 6], "regularised": [0, 3, 4, 6]}.get(name, [0, 4, 6])
    for number in range(rounds_of(TABLE[name]) + 1):
        first = 3 if name == "rewound" and number else 0
        due = [first, *expected[1:]] if name == "rewound" else expected
        for split in ("valid", "test"):
            steps = [
                int(r["step"]) for r in rows if (r["round"], r["split"]) == (str(number), split)
            ]
            assert steps == due
        steps = [int(r["step"]) for r in rows if (r["round"], r["split"]) == (str(number), "train")]
        assert steps == [step for step in due if step > first]


@every_run
def test_rows_are_fractions_and_attacks_are_named(name, runs):
    for row in read(runs[0] / name):
        attacked = name != "natural"
        assert (row["attack"] != "") == attacked
        if row["split"] != "train":
            assert 0 <= float(row["accuracy"]) <= 1
            assert (row["robust_accuracy"] != "") == attacked


@every_run
def test_masks_only_shrink_and_densities_are_those_asked_for(name, runs):
    experiment, workdir = TABLE[name], runs[0] / name
    tickets = [
        Ticket.load(workdir / "tickets" / f"round_{n:02d}.npz")
        for n in range(rounds_of(experiment) + 1)
    ]
    assert tickets[0].density == 1
    for before, after in itertools.pairwise(tickets):
        for a, b in zip(before.entries, after.entries, strict=True):
            assert not (b.mask & ~a.mask).any()
    if isinstance(experiment, IterativePruning) and experiment.density:
        assert tickets[-1].density == pytest.approx(experiment.density, abs=2e-3)
    elif len(tickets) > 1:
        rates = experiment.rate * (2 if len(experiment.rate) == 1 else 1)
        for entry, rate in zip(tickets[-1].entries, rates, strict=True):
            expected = entry.mask.size * (1 - rate) ** experiment.rounds
            most = 4 if experiment.count == "plus_one" else 2  # one more weight each round
            assert abs(entry.mask.sum() - expected) <= most
    for row in read(workdir):
        assert int(row["kept"]) == tickets[int(row["round"])].kept


def same(start, ticket):
    kernels, biases = start
    stored = [e.kernel for e in ticket.entries]
    return all(a.tobytes() == b.tobytes() for a, b in zip(kernels, stored, strict=True)) and all(
        any(np.array_equal(bias, other) for other in ticket.leftovers) for bias in biases
    )


REWINDS = {  # which ticket a later round's start has the bits of
    "reset": "initial",
    "one-shot": "initial",
    "density": "initial",
    "rewound": "rewind",
    "continued": "round_00",
    "published": "round_00",
}


@pytest.mark.parametrize("name", REWINDS)
def test_a_round_starts_from_the_bits_it_says(name, runs):
    root, starts = runs
    initial = Ticket.load(root / name / "tickets" / "initial.npz")
    assert same(starts[name, 0], initial)
    target = Ticket.load(root / name / "tickets" / f"{REWINDS[name]}.npz")
    assert same(starts[name, 1], target)
    assert REWINDS[name] == "initial" or not same(starts[name, 1], initial)


def test_the_published_rewind_goes_back_to_the_end_of_the_dense_round(runs):
    root, starts = runs
    end = Ticket.load(root / "published" / "tickets" / "round_00.npz")
    assert same(starts["published", 1], end) and same(starts["published", 2], end)
    continued = Ticket.load(root / "continued" / "tickets" / "round_00.npz")
    assert not same(starts["continued", 2], continued)


def test_the_l1_penalty_pulls_surviving_weights_to_zero(runs):
    def size(name):
        ticket = Ticket.load(runs[0] / name / "tickets" / "round_00.npz")
        return sum(np.abs(e.kernel).sum() for e in ticket.entries)

    assert size("regularised") < size("dense")


@every_run
def test_which_test_examples_were_right_is_kept(name, runs):
    """correct/ and results.csv are the same evaluation, example by example."""
    for number in range(rounds_of(TABLE[name]) + 1):
        found = np.load(runs[0] / name / "correct" / f"round_{number:02d}.npz")
        rows = [r for r in read(runs[0] / name) if r["round"] == str(number)]
        rows = [row for row in rows if row["split"] == "test"]
        assert list(found["steps"]) == [int(row["step"]) for row in rows]
        measures = {"clean": "accuracy", "robust": "robust_accuracy"}
        assert ("robust" in found) == (name != "natural")
        for bits, column in measures.items():
            for packed, row in zip(found[bits], rows, strict=True) if bits in found else ():
                right = np.unpackbits(packed, count=len(found["index"]))
                assert right.mean() == pytest.approx(float(row[column]))


def trained_by_hand(experiment, masks, weights, first):
    """The kernels after a round, from the library's own parts."""
    splits = experiment.data.load()
    parts = masked_parts()
    network = experiment.network.build(splits.shape, splits.classes, parts)
    weights.apply(network, weights=True)
    masks.apply(network)
    trainer = RobustTrainer(network, experiment.objective, seed=experiment.seed)
    trainer.compile(experiment.optimizer.build(6), jit_compile=False)
    trainer.optimizer.iterations.assign(first)
    train = batches(
        splits.train,
        experiment.batch_size,
        seed=experiment.seed,
        augment=experiment.data.augment,
        pad=experiment.data.pad,
        first_step=first,
        steps=6 - first,
    )
    trainer.fit(train, verbose=0, shuffle=False)
    return Ticket.of(network)


@pytest.mark.parametrize("name", ["dense", "natural", "augmented", "reset", "rewound", "continued"])
def test_a_round_is_what_the_library_does_by_hand(name, runs):
    """Seeds, data order, augmentation, schedule and first step reach the training."""
    tickets = runs[0] / name / "tickets"
    last = rounds_of(TABLE[name])
    target = {"rewound": "rewind", "continued": f"round_{last - 1:02d}"}.get(name, "initial")
    start = Ticket.load(tickets / f"{target}.npz")
    found = Ticket.load(tickets / f"round_{last:02d}.npz")
    first = 3 if name == "rewound" else 0
    expected = trained_by_hand(TABLE[name], found, start, first)
    for a, b in zip(found.entries, expected.entries, strict=True):
        np.testing.assert_allclose(a.kernel, b.kernel, atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "augmented", "reset"])
def test_initial_weights_are_those_of_the_seed_and_the_initialiser(name, runs):
    experiment = TABLE[name]
    network = experiment.network.build((28, 28, 1), 10, masked_parts())
    initialize(network, experiment.seed, experiment.initializer)
    stored = Ticket.load(runs[0] / name / "tickets" / "initial.npz")
    for a, b in zip(Ticket.of(network).entries, stored.entries, strict=True):
        assert a.kernel.tobytes() == b.kernel.tobytes()


PRUNED = {  # how each round's ticket follows from the last one's
    "reset": lambda n: {"rate": (0.5, 0.25)},
    "one-shot": lambda n: {"density": 0.1, "allocation": "global"},
    "density": lambda n: {"density": 0.09 ** (n / 2), "criterion": "random"},
    "counted": lambda n: {"rate": 0.3, "count": "floor", "criterion": "random"},
}


@pytest.mark.parametrize("name", PRUNED)
def test_masks_are_what_pruning_the_last_ticket_gives(name, runs):
    for number in range(1, rounds_of(TABLE[name]) + 1):
        before, after = (
            Ticket.load(runs[0] / name / "tickets" / f"round_{n:02d}.npz")
            for n in (number - 1, number)
        )
        seed = subseed(5, "prune", number)[0]
        assert before.prune(**PRUNED[name](number), seed=seed).mask_hash == after.mask_hash


def test_rows_are_the_evaluators(runs):
    """The evaluation attack, its seed and the examples' identities reach results.csv."""
    from rst_tf import evaluate

    experiment, workdir = TABLE["augmented"], runs[0] / "augmented"
    split = experiment.data.load().test.limited(30)
    network = Ticket.load(workdir / "tickets" / "round_00.npz").build()
    found = evaluate(network, *split.arrays(), FGSM(0.3), seed=5)
    row = [r for r in read(workdir) if r["split"] == "test"][-1]
    assert row["attack"] == "FGSM(epsilon=0.3)"
    assert float(row["accuracy"]) == pytest.approx(found.accuracy)
    assert float(row["robust_accuracy"]) == pytest.approx(found.robust_accuracy)
    assert float(row["robust_loss"]) == pytest.approx(found.robust_loss.mean(), rel=1e-4)


def test_times_are_of_the_evaluated_steps(runs):
    with (runs[0] / "reset" / "timing.csv").open() as stream:
        times = [(row["round"], row["step"]) for row in csv.DictReader(stream)]
    assert times == [(str(n), s) for n in range(3) for s in ("0", "4", "6")]


def test_reinit_draws_new_weights_each_round(runs):
    _, starts = runs
    first = [starts["reinit", n][0][0] for n in range(3)]
    assert len({a.tobytes() for a in first}) == 3


def test_trials_are_paired(runs):
    """The same seed gives the same initial weights and the same batches in every method."""
    root, starts = runs
    assert starts["reset", 0][0][0].tobytes() == starts["reinit", 0][0][0].tobytes()
    rows = [[r for r in read(root / name) if r["round"] == "0"] for name in ("reset", "reinit")]
    assert rows[0] == rows[1]


def test_the_best_ticket_is_that_of_the_first_best_validation_step(runs):
    root, _ = runs
    for name in ("reset", "natural"):
        measure = "accuracy" if name == "natural" else "robust_accuracy"
        rows = [r for r in read(root / name) if (r["round"], r["split"]) == ("0", "valid")]
        best = max(rows, key=lambda r: float(r[measure]))
        ticket = Ticket.load(root / name / "tickets" / "round_00_best.npz")
        last = Ticket.load(root / name / "tickets" / "round_00.npz")
        initial = Ticket.load(root / name / "tickets" / "initial.npz")
        kernel = ticket.entries[0].kernel
        assert np.array_equal(kernel, last.entries[0].kernel) == (best["step"] == "6")
        assert np.array_equal(kernel, initial.entries[0].kernel) == (best["step"] == "0")


@pytest.mark.parametrize("name", ["reset", "rewound", "conv"])
def test_the_same_run_again_gives_the_same_bytes(name, runs, tmp_path):
    TABLE[name].run(tmp_path / "again")
    assert files(tmp_path / "again") == files(runs[0] / name)


@every_run
def test_a_finished_run_is_not_trained_again(name, runs, monkeypatch):
    monkeypatch.setattr(Session, "train", lambda *_: pytest.fail("trained again"))
    before = files(runs[0] / name)
    TABLE[name].run(runs[0] / name)
    assert files(runs[0] / name) == before


def test_the_control_takes_its_masks_from_another_run(runs, tmp_path):
    root, _ = runs
    control = IterativePruning(**QUICK, rounds=2, rewind="reinit", masks_from=str(root / "reset"))
    control.run(tmp_path / "control")
    for number in (1, 2):
        ours, theirs = (
            Ticket.load(folder / "tickets" / f"round_{number:02d}.npz")
            for folder in (tmp_path / "control", root / "reset")
        )
        assert ours.mask_hash == theirs.mask_hash
        assert not np.array_equal(ours.entries[0].kernel, theirs.entries[0].kernel)


def test_every_ticket_rebuilds_its_network(runs):
    for name in TABLE:
        network = Ticket.load(runs[0] / name / "tickets" / "round_00.npz").build()
        assert network.output_shape == (None, 10)


def test_tensorboard_files_by_round_and_split(runs):
    folder = runs[0] / "reset" / "tensorboard"
    for part in ("round_00/valid", "round_02/test", "round_01/train", "masks", "settings"):
        assert list((folder / part).glob("events*"))


def changed(name, **changes):
    return dataclasses.replace(TABLE[name], **changes)


def not_ours(path):
    path.mkdir()
    (path / "thesis.tex").write_text("all of it")


REFUSED = {
    "eval_at": (
        lambda root, tmp: changed("dense", eval_at=("2ep", 4)).run(tmp / "x"),
        ValueError,
        r"eval_at must be at most train_steps=6; received \('2ep', 4\)",
    ),
    "eval_schedule": (
        lambda root, tmp: changed("dense", eval_schedule="daily"),
        ValueError,
        "eval_schedule must be exact or published; received 'daily'",
    ),
    "l1": (lambda root, tmp: changed("dense", l1=-1.0), ValueError, "l1 must be at least 0"),
    "another configuration": (
        lambda root, tmp: changed("dense", train_steps=7).run(root / "dense"),
        RunError,
        "was made by another configuration",
    ),
    "a foreign folder": (
        lambda root, tmp: (not_ours(tmp / "x"), TABLE["dense"].run(tmp / "x")),
        RunError,
        "is not empty and has no config.json",
    ),
    "a nan loss": (
        lambda root, tmp: changed("natural", optimizer=SGD(learning_rate=1e30), train_steps=40).run(
            tmp / "x"
        ),
        RunError,
        "round 0: loss is .* at step",
    ),
    "rates": (
        lambda root, tmp: changed("reset", rate=(0.1, 0.1, 0.1)).run(tmp / "x"),
        ValueError,
        "rate needs 1 number or 2",
    ),
    "rewind_step": (
        lambda root, tmp: changed("rewound", rewind_step=6).run(tmp / "x"),
        ValueError,
        "rewind_step must be below train_steps=6; received 6",
    ),
    "masks_from": (
        lambda root, tmp: changed("reset", masks_from=str(tmp)).run(tmp / "x"),
        ValueError,
        "masks_from: there is no",
    ),
    "rewind_step without reset": (
        lambda root, tmp: changed("rewound", rewind="reinit"),
        ValueError,
        "has an effect only with rewind=reset",
    ),
    "rewind": (lambda root, tmp: changed("reset", rewind="again"), ValueError, "received 'again'"),
    "rounds": (lambda root, tmp: changed("reset", rounds=-1), ValueError, "rounds must be at"),
    "density": (lambda root, tmp: changed("density", density=1.1), ValueError, r"in \(0, 1\]"),
    "batch": (lambda root, tmp: changed("dense", batch_size=0), ValueError, "batch_size must be"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, runs, tmp_path):
    call, kind, message = REFUSED[name]
    before = files(runs[0] / "dense")
    with pytest.raises(kind, match=message):
        call(runs[0], tmp_path)
    assert files(runs[0] / "dense") == before


def test_the_table_has_every_experiment_that_trains():
    training = {e for e in EXPERIMENTS.values() if issubclass(e, Training)}
    own_tables = {  # test_scratch_tickets, test_sparse_training, test_robust_bird
        "ScratchTickets",
        "FineTuning",
        "SparseTraining",
        "RobustBird",
    }
    assert {type(e).__name__ for e in TABLE.values()} | own_tables == {e.__name__ for e in training}


def older(config):
    """As a version wrote it that had no early stop and no label smoothing."""
    config = json.loads(json.dumps(config))
    del config["objective"]["attack"]["early_stop"], config["objective"]["label_smoothing"]
    return config


def test_a_folder_of_an_earlier_version_goes_on_where_new_settings_have_their_defaults(tmp_path):
    config = to_dict(TABLE["reset"])
    Workdir(tmp_path, older(config), {}).close()
    before = (tmp_path / "config.json").read_bytes()
    taken_up = Workdir(tmp_path, config, {}, ("rounds",))
    taken_up.close()
    first = Workdir(tmp_path / "new", older(config), {}, ("rounds",))
    first.close()
    assert taken_up.identity == first.identity  # so that its checkpoint is still its own
    assert (tmp_path / "config.json").read_bytes() == before
    grown = Workdir(tmp_path, {**config, "rounds": 5}, {}, ("rounds",))
    grown.close()
    found = json.loads((tmp_path / "config.json").read_text())["experiment"]
    assert found == {**older(config), "rounds": 5} and grown.identity == first.identity
    assert "rounds" not in json.loads((tmp_path / "config.json").read_text())["defaults"]
    config["objective"]["attack"]["early_stop"] = True
    with pytest.raises(RunError, match="made by another configuration") as caught:
        Workdir(tmp_path, {**config, "rounds": 5}, {}, ("rounds",))
    assert caught.value.__notes__ == ["--objective.attack.early_stop: False there, True here"]


def test_a_damaged_config_is_said_to_be(runs, tmp_path):
    shutil.copytree(runs[0] / "dense", tmp_path / "dense")
    (tmp_path / "dense" / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json is damaged"):
        TABLE["dense"].run(tmp_path / "dense")
