import csv
import dataclasses
import json

import numpy as np
import pytest
from ticket_tables import BUILDERS, DENSITIES, NETWORKS, OWN, TICKETS, X, Y, network

from experiments.experiment import RunError
from experiments.transfer import TransferAndSwitch
from rst_tf import (
    FGSM,
    PGD,
    Seed,
    Ticket,
    TransferMatrix,
    evaluate,
    initialize,
    transfer_matrix,
)
from rst_tf.attacks import Attack
from rst_tf.models import MLP, describe, describe_model, masked_parts
from rst_tf.ticket_set import TicketSet
from rst_tf.transfer import Transfer

every_network = pytest.mark.parametrize("name", BUILDERS)
ATTACKS = {
    "pgd": PGD(0.06, steps=4),
    "early stop": PGD(0.06, steps=4, early_stop=True),
    "l2 best": PGD(0.5, "l2", steps=2, iterate="best", restarts=2),
    "fgsm": FGSM(0.05),
}


def matrix(name, attack, **options):
    return transfer_matrix(NETWORKS[name], TICKETS[name], X, Y, attack, **options)


@pytest.mark.parametrize(
    ("name", "attack"), [("mlp", "pgd"), ("filters", "fgsm"), *(("conv", a) for a in ATTACKS)]
)
def test_the_diagonal_is_each_tickets_own_robust_accuracy(name, attack):
    attack = ATTACKS[attack]
    found = matrix(name, attack, seed=5, batch_size=25)
    for ticket, net in enumerate(OWN[name]):
        alone = evaluate(net, X, Y, attack, seed=5, batch_size=25)
        np.testing.assert_array_equal(found.robust[ticket, ticket], alone.robust)
        np.testing.assert_array_equal(found.correct[ticket], alone.correct)
        assert found.robust_accuracy[ticket, ticket] == alone.robust_accuracy
        assert found.accuracy[ticket] == alone.accuracy


@every_network
def test_rows_are_crafted_on_and_columns_tested_on(name):
    attack = PGD(0.1, steps=3)
    found = matrix(name, attack, seed=2)
    for crafted, attacked in enumerate(OWN[name]):
        x_adv = attack(attacked, X, Y, seed=2)
        for tested, net in enumerate(OWN[name]):
            right = np.argmax(net(x_adv), -1) == Y
            np.testing.assert_array_equal(found.robust[crafted, tested], right)
    assert not np.array_equal(found.robust_accuracy, found.robust_accuracy.T)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_early_stop_is_no_weaker_on_the_ticket_it_climbs_and_weaker_on_the_others(name):
    attack = PGD(0.06, steps=10)
    plain, stopped = (
        matrix(name, dataclasses.replace(attack, early_stop=stop)) for stop in (False, True)
    )
    for ticket in range(3):
        assert (stopped.robust[ticket, ticket] <= plain.robust[ticket, ticket]).all()
    others = ~np.eye(3, dtype=bool)
    assert stopped.robust_accuracy[others].mean() > plain.robust_accuracy[others].mean()


def test_the_batch_size_does_not_change_the_result():
    one, other = (matrix("conv", ATTACKS["pgd"], batch_size=size) for size in (7, 500))
    np.testing.assert_array_equal(one.robust, other.robust)
    np.testing.assert_array_equal(one.correct, other.correct)


TRACES = []


@dataclasses.dataclass(frozen=True)
class Counting(Attack):
    """Counts how often it is traced."""

    def run(self, logits, x, y, seed, index):
        TRACES.append(x.shape)
        return x + 0 * logits(x)[:, :1, None, None]


@dataclasses.dataclass(frozen=True)
class Broken(Attack):
    """Gives no images."""

    def run(self, logits, x, y, seed, index):
        return x * float("nan")


def test_is_compiled_once_and_not_once_per_ticket():
    found = matrix("mlp", Counting(0.1), batch_size=16)
    assert len(TRACES) == 1
    np.testing.assert_array_equal(found.robust, np.broadcast_to(found.correct, (3, 3, 40)))


@every_network
def test_the_network_is_left_as_it_was(name):
    before = [v.numpy() for v in NETWORKS[name].variables]
    matrix(name, ATTACKS["pgd"])
    for variable, value in zip(NETWORKS[name].variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


RIGHT = np.random.default_rng(0).random((3, 3, 8)) < 0.5
FOUND = TransferMatrix(RIGHT, RIGHT[0])


def test_a_matrix_prints_and_counts_as_an_array():
    m = RIGHT.mean(-1)
    np.testing.assert_array_equal(np.asarray(FOUND), m)
    np.testing.assert_array_equal(FOUND.round(1), m.round(1))
    np.testing.assert_array_equal(np.asarray(FOUND, "float32"), m.astype("float32"))
    assert str(FOUND) == str(m.round(3))
    np.testing.assert_array_equal(FOUND.accuracy, m[0])


@pytest.mark.parametrize("p", [None, (1, 0, 0), (0.5, 0.2, 0.3)])
def test_expectations_are_the_sums_they_stand_for(p):
    m, q = RIGHT.mean(-1), [1 / 3] * 3 if p is None else p
    pairs = sum(q[a] * q[b] * m[a, b] for a in range(3) for b in range(3))
    assert FOUND.expected(p) == pytest.approx(pairs, abs=1e-12)
    assert FOUND.expected_if_known(p) == pytest.approx(sum(q[a] * m[a, a] for a in range(3)))
    if p is None:
        assert FOUND.expected() == pytest.approx(m.mean(), abs=1e-12)


# The published matrix (crafted on rows, tested on columns) and what it says of the switch.
PUBLISHED = np.array(
    [
        [45.8, 69.3, 70.2, 66.0, 72.6, 72.2],
        [62.5, 47.0, 68.0, 64.1, 70.1, 70.0],
        [62.6, 67.2, 47.0, 63.4, 69.7, 69.7],
        [63.9, 68.9, 68.8, 47.2, 71.2, 70.7],
        [63.3, 66.9, 66.8, 63.5, 47.8, 68.3],
        [62.9, 66.7, 67.1, 63.6, 69.2, 46.8],
    ]
)


def test_the_published_switch_is_the_mean_of_its_matrix():
    right = np.arange(1000) < 10 * PUBLISHED[..., None]
    found = TransferMatrix(right, right[0])
    assert 100 * found.expected() == pytest.approx(63.92, abs=0.01)  # published: 63.93


REFUSED = {
    "batch size": (lambda: matrix("mlp", FGSM(0.1), batch_size=0), "batch_size must be at least 1"),
    "images": (
        lambda: transfer_matrix(NETWORKS["mlp"], TICKETS["mlp"], X * 2, Y, FGSM(0.1)),
        r"images in \[0, 1\]; received",
    ),
    "weights": (
        lambda: transfer_matrix(network("mlp", 4), TICKETS["mlp"], X, Y, FGSM(0.1)),
        r"tickets\[0\] does not fit: its weights differ",
    ),
    "labels": (
        lambda: transfer_matrix(NETWORKS["mlp"], TICKETS["mlp"], X, Y + 1, FGSM(0.1)),
        "y must be labels below 4, the number of logits; received 4",
    ),
    "probabilities": (lambda: FOUND.expected((0.5, 0.5)), "probabilities must be 3 numbers"),
    "nan": (lambda: matrix("mlp", Broken(0.1)), "images or logits that are not finite for 40"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder of a run, a ticket file, and a ticket of other weights, for the sample's digits."""
    folder = tmp_path_factory.mktemp("tickets")
    architecture = MLP(hidden=(12,))
    description = describe(architecture, (28, 28, 1), 10)
    for seed in (3, 4):
        net = architecture.build((28, 28, 1), 10, masked_parts())
        initialize(net, seed, "signed_constant")
        for number, density in enumerate(DENSITIES):
            whole = Ticket.of(net)
            ticket = whole.prune(density, criterion="random", seed=number)
            drawn = Ticket.of(net, weights=Seed(seed, "signed_constant"), description=description)
            entries = tuple(dataclasses.replace(entry, kernel=None) for entry in ticket.entries)
            place = folder / f"seed{seed}_{number}/tickets"
            for name in ("round_00", "round_00_best"):
                dataclasses.replace(drawn, entries=entries).save(place / f"{name}.npz")
    return folder


def experiment(folder, **fields):
    names = ("seed3_0", "seed3_1/tickets/round_00_best.npz", "seed3_2")
    settings = {
        "tickets": tuple(str(folder / name) for name in names),
        "attack": PGD(0.02, steps=2),
        "limit": 60,
        "batch_size": 30,
        "repetitions": 2,
        "seed": 1,
        **fields,
    }
    return TransferAndSwitch(**settings)


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    experiment(sources).run(folder)
    return folder


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("config.json", ".lock")
    }


def test_the_experiment_leaves_the_matrix_of_the_library(finished, sources):
    settings = experiment(sources)
    test = settings.data.load().test.limited(60)
    x, y = test.pixels() / np.float32(255), test.labels
    tickets = [Ticket.load(sources / f"seed3_{n}/tickets/round_00_best.npz") for n in range(3)]
    net = tickets[0].build()
    found = rows(finished / "transfer.csv")
    assert len(found) == 18
    for stop in (False, True):
        attack = dataclasses.replace(settings.attack, early_stop=stop)
        transfer = Transfer(TicketSet(net, tickets), attack, seed=1, batch_size=30)
        expected = np.stack([transfer.row(t, x, y, test.index) for t in range(3)]).mean(-1)
        part = [row for row in found if row["early_stop"] == str(stop)]
        values = np.array([float(row["robust_accuracy"]) for row in part]).reshape(3, 3)
        np.testing.assert_array_equal(values, expected)
        assert [row["crafted_on"] for row in part[:3]] == [settings.tickets[0]] * 3
        assert [row["tested_on"] for row in part[:3]] == list(settings.tickets)
        assert {row["n"] for row in part} == {"60"}
        assert [float(row["tested_density"]) for row in part[:3]] == [t.density for t in tickets]


def test_the_experiment_reports_the_switch(finished, sources):
    found = {(r["attacker"], r["early_stop"]): r for r in rows(finished / "switch.csv")}
    matrix = [float(r["robust_accuracy"]) for r in rows(finished / "transfer.csv")]
    for stop, part in (("False", matrix[:9]), ("True", matrix[9:])):
        draws, knows = (float(found[a, stop]["robust_accuracy"]) for a in ("draws", "knows"))
        assert draws == pytest.approx(np.mean(part)) and knows == pytest.approx(np.mean(part[::4]))
    repeated = found["repeated", "False"]
    assert float(repeated["low"]) <= float(repeated["robust_accuracy"]) <= float(repeated["high"])
    assert repeated["repetitions"] == "2"
    worst = float(found["repeated_worst", "False"]["robust_accuracy"])
    assert worst <= float(repeated["robust_accuracy"])
    assert 0 <= float(found["adaptive", "False"]["robust_accuracy"]) <= 1
    report = json.loads((finished / "transfer.json").read_text())
    assert [t["density"] for t in report["tickets"]] == pytest.approx(DENSITIES, abs=1e-3)
    assert (
        report["n"] == 60 and len(report["matrices"]) == 2 and len(report["switch"]) == len(found)
    )
    assert (finished / "transfer.png").read_bytes().startswith(b"\x89PNG")
    svg = (finished / "transfer.svg").read_text()
    assert "crafted on" in svg or svg.count("<path") > 20


def test_a_run_goes_on_where_it_stopped_and_ends_with_the_same_bytes(finished, sources, capsys):
    before = files(finished)
    for name in ("crafted_01", "early_stop_02", "repetition_001", "adaptive"):
        (finished / f"right/{name}.npz").unlink()
    (finished / "transfer.csv").unlink()
    experiment(sources).run(finished)
    made = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert made == ["crafted_01", "early_stop_02", "adaptive", "repetition_001"]
    assert files(finished) == before


def test_prints_the_tables_and_tells_of_tickets_from_a_run_on_other_images(
    finished, sources, capsys
):
    configs = [sources / f"seed3_{number}/config.json" for number in (0, 2)]
    right = json.loads((finished / "config.json").read_text())["dataset"]["fingerprint"]
    for config, fingerprint in zip(configs, (right, "0"), strict=True):
        run = {"dataset": {"fingerprint": fingerprint}, "experiment": {"data": {"source": "mnist"}}}
        config.write_text(json.dumps(run))
    experiment(sources).run(finished)
    shown, told = capsys.readouterr()
    assert told == f"ticket {sources / 'seed3_2'} is from a run on other images: --data=mnist\n"
    for text in ("crafted", "tested on", "20", "80", "All steps", "knows the draw"):
        assert text in shown
    assert str(finished / "transfer.png") in shown
    for config in configs:
        config.unlink()


def test_an_attack_without_early_stop_gives_one_matrix(sources, tmp_path):
    experiment(sources, attack=FGSM(0.02), per="example", repetitions=1).run(tmp_path)
    assert {row["early_stop"] for row in rows(tmp_path / "transfer.csv")} == {"False"}
    found = {row["attacker"]: row for row in rows(tmp_path / "switch.csv")}
    assert len(found) == 5 and found["repeated"]["low"] == ""


WRONG = [
    ({"tickets": ("seed3_0",)}, "tickets must be at least two"),
    ({"tickets": ("seed3_0", "nowhere")}, "tickets='nowhere' does not exist"),
    (
        {"tickets": ("seed3_0", "seed4_1")},
        "ticket seed4_1 does not fit: seed 4 with .*did not draw",
    ),
    ({"attack": PGD(0.1, early_stop=True)}, "early_stop=True has no effect"),
    ({"per": "image"}, "per must be batch or example"),
    ({"probabilities": (0.5, 0.5)}, "probabilities must be 3 numbers"),
    ({"repetitions": 0}, "repetitions must be at least 1"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"limit": 501}, r"limit must be in 1\.\.500"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_the_experiment_says_what_is_wrong(sources, fields, message, monkeypatch, tmp_path):
    monkeypatch.chdir(sources)
    with pytest.raises(ValueError, match=message):
        experiment(sources, **fields).run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tickets_of_other_images_are_refused(sources, tmp_path):
    net = NETWORKS["conv"]
    for ticket, name in zip(TICKETS["conv"][:2], "ab", strict=True):
        described = dataclasses.replace(ticket, network=describe_model(net))
        described.save(tmp_path / f"{name}.npz")
    names = tuple(str(tmp_path / f"{name}.npz") for name in "ab")
    with pytest.raises(
        ValueError, match=r"data of shape \(28, 28, 1\) and 10 classes are not what"
    ):
        experiment(sources, tickets=names).run(tmp_path / "out")


def test_a_folder_of_other_tickets_or_a_damaged_stage_is_refused(finished, sources):
    with pytest.raises(RunError, match="made by another configuration"):
        experiment(sources, seed=2).run(finished)
    stage = finished / "right/clean.npz"
    whole = stage.read_bytes()
    stage.write_bytes(whole[:40])
    with pytest.raises(RunError, match=r"clean\.npz is damaged"):
        experiment(sources).run(finished)
    stage.write_bytes(whole)
