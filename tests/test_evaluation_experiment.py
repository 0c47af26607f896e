"""The experiment `evaluation`, and the flag that gives any training its report."""

import json
import re

import digits
import numpy as np
import pytest

import rst_tf as rst
import run_experiments
from experiments.evaluation import Evaluation, data_of, network_of
from rst_tf import zoo
from rst_tf.data import Data

ENTRY = zoo.names()[0]
TICKET = str(zoo.load(ENTRY).path)
QUICK = {"version": "custom", "attacks": ("pgd:steps=2",), "battery": False, "limit": 20}
QUICK |= {"epsilon": 0.1, "data": Data(), "batch_size": 20}


def test_leaves_a_report_and_does_not_make_it_twice(tmp_path, capsys):
    experiment = Evaluation(source=(f"zoo:{ENTRY}",), **QUICK)
    experiment.run(tmp_path)
    first, printed = (tmp_path / "report.json").read_bytes(), capsys.readouterr().out
    made = rst.RobustnessReport.load(tmp_path / "report.json")
    assert len(made) == 20 and made.name == ENTRY and made.facts["dataset"] == "sample"
    assert (tmp_path / "report.html").exists() and not (tmp_path / "state.npz").exists()
    assert made.verdict in printed
    experiment.run(tmp_path)
    assert (tmp_path / "report.json").read_bytes() == first
    assert made.verdict in capsys.readouterr().out


def keras_file(folder):
    digits.network().save(folder / "network.keras")
    return folder / "network.keras"


def saved_model(folder):
    digits.network().export(folder / "saved", verbose=False)
    return folder / "saved"


def run_folder(folder):
    (folder / "tickets").mkdir()
    rst.Ticket.load(TICKET).save(folder / "tickets" / "round_00.npz")
    rst.Ticket.load(TICKET).save(folder / "tickets" / "round_00_best.npz")
    return folder


SOURCES = {
    "zoo": (lambda _: (f"zoo:{ENTRY}",), (28, 28, 1)),
    "ticket": (lambda _: (TICKET,), (28, 28, 1)),
    "run": (lambda folder: (str(run_folder(folder)),), (28, 28, 1)),
    ".keras": (lambda folder: (str(keras_file(folder)),), (8, 8, 1)),
    "SavedModel": (lambda folder: (str(saved_model(folder)),), (8, 8, 1)),
    "switch": (lambda _: tuple(str(zoo.load(n).path) for n in zoo.names()[:1] * 2), (28, 28, 1)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_a_network(kind, tmp_path):
    source, shape = SOURCES[kind]
    model = network_of(source(tmp_path))
    logits = getattr(model, "serve", model)(np.zeros((2, *shape), np.float32))
    assert tuple(logits.shape) == (2, 10)


def test_a_switch_is_not_told_as_its_first_ticket(tmp_path):
    from rst_tf.robustness import facts

    found = facts.of_model(network_of(SOURCES["switch"][0](tmp_path)))
    assert found["kind"] == "Switch" and found["architecture"].endswith("2 tickets")
    assert not {"density", "nonzero", "parameters"} & set(found)


NAMES = {
    "zoo:fashion_conv_10": "fashion_conv_10",
    "runs/mine": "mine",
    "runs/mine/seed_2/tickets/round_03_best.npz": "mine/seed_2",
    "runs/mine/tickets/round_03.npz": "mine",
    "page/dense/seed_1/ticket.npz": "dense/seed_1",
    "somewhere/sparse.npz": "sparse",
    "somewhere/sparse.keras": "sparse",
    "somewhere/saved_model": "saved_model",
}


@pytest.mark.parametrize("source", NAMES)
def test_a_network_is_called_by_its_source(source):
    assert Evaluation(source=(source,), **QUICK)._title() == NAMES[source]


def test_the_data_of_a_run_are_those_that_it_names(tmp_path):
    config = {"experiment": {"data": {"source": "sample", "validation": 0.2}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert data_of(str(tmp_path)) == Data(validation=0.2)
    assert data_of(str(tmp_path / "tickets" / "round_00.npz")) == Data(validation=0.2)
    with pytest.raises(ValueError, match=r"trained on npz:data/fashion_mnist.npz, which is not"):
        data_of(f"zoo:{ENTRY}")
    with pytest.raises(ValueError, match="data must be given"):
        data_of(str(tmp_path.parent / "nothing"))


def test_the_plan_counts_passes():
    settings = QUICK | {"version": "standard", "attacks": ()}
    text = Evaluation(source=(f"zoo:{ENTRY}",), **settings).plan()
    assert "apgd-ce 0 + 101, apgd-t 9 + 909, fab-t 909 + 900, square 5,001 + 0" in text
    assert "20, 1 batches of up to 20" in text and "at most" in text


REFUSED = {
    "no source": (dict(source=()), "source must name a network"),
    "no such zoo entry": (dict(source=("zoo:nothing",)), "unknown zoo entry 'nothing'"),
    "no such folder": (dict(source=("no/where",)), "does not exist"),
    "epsilon": (dict(epsilon=8.0), "received epsilon=8.0"),
    "attack": (dict(attacks=("pgdd",)), "attacks holds 'pgdd': unknown attack 'pgdd'; did you"),
    "limit": (dict(limit=0), "limit must be at least 1"),
    "batch": (dict(batch_size=0), "batch_size must be at least 1"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refuses(why, tmp_path):
    changes, message = REFUSED[why]
    with pytest.raises(ValueError, match=re.escape(message)):
        Evaluation(**{"source": (f"zoo:{ENTRY}",), **QUICK, **changes}).run(tmp_path)


def bound(*flags):
    return run_experiments.configured(["run_experiments", *flags])


def test_one_flag_asks_for_a_report_of_any_training(tmp_path):
    flags = ["--preset=quick_start", "--autoattack=7"]
    found = bound(*flags)
    runs = {tmp_path / "seed_0": found.config, tmp_path / "seed_1": found.config}
    made = run_experiments.evaluations_of(found, runs)
    assert list(made) == [folder / "robustness" for folder in runs]
    one = made[tmp_path / "seed_1" / "robustness"]
    judge = found.config.judged_by
    assert (one.epsilon, one.norm, one.limit) == (judge.epsilon, judge.norm, 7)
    assert one.source == (str(tmp_path / "seed_1"),)
    assert run_experiments.evaluations_of(bound(*flags[:1]), runs) == {}


NO_ATTACK = {
    "natural": ["--experiment=dense_training"],
    "export": ["--experiment=export", "--source=runs/x"],
}


@pytest.mark.parametrize("why", NO_ATTACK)
def test_without_an_attack_the_flag_is_refused(why, tmp_path):
    found = bound(*NO_ATTACK[why], "--autoattack=7")
    with pytest.raises(ValueError, match="--autoattack needs"):
        run_experiments.evaluations_of(found, {tmp_path: found.config})


@pytest.mark.slow
def test_a_training_ends_with_its_report(tmp_path):
    flags = ["--preset=quick_start", "--rounds=0", "--train_steps=40", "--eval_every=40"]
    flags += ["--eval_at=", "--autoattack=30", f"--workdir={tmp_path / 'run'}"]
    run_experiments.main(["run_experiments", *flags])
    made = rst.RobustnessReport.load(tmp_path / "run" / "robustness" / "report.json")
    assert made.outcome.attacks == ("apgd-ce", "apgd-t", "fab-t", "square") and len(made.checks) > 9
