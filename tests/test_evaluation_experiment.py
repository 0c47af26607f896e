"""The experiment `evaluation`, and the flag that gives any training its report."""

import dataclasses
import json
import pathlib
import re

import digits
import numpy as np
import pytest

import rst_tf as rst
import run_experiments
from experiments.evaluation import Evaluation, data_of, facts_of, network_of
from experiments.experiment import RunError
from rst_tf import zoo
from rst_tf.data import Data
from rst_tf.registry import from_dict

ROOT = pathlib.Path(__file__).parent.parent
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


def test_leaves_an_entry_for_robustbench_with_what_is_known_of_the_training(tmp_path):
    experiment = Evaluation(source=(f"zoo:{ENTRY}",), **QUICK)
    experiment.run(tmp_path)
    made = rst.RobustnessReport.load(tmp_path / "report.json")
    entry = json.loads((tmp_path / "robustbench.json").read_text())
    assert entry == made.robustbench()
    assert entry["architecture"].startswith("conv(depth=4, width=0.25")
    assert entry["training"].startswith("adversarial(") and "steps=5" in entry["training"]
    assert entry["mask_rule"].startswith("scratch_tickets(") and entry["training_seeds"] == [1]
    assert entry["density"] == pytest.approx(0.1, abs=1e-3) and entry["dataset"] == "sample"
    # A report of an older version gets its entry when it is asked for again.
    (tmp_path / "robustbench.json").unlink()
    experiment.run(tmp_path)
    assert json.loads((tmp_path / "robustbench.json").read_text()) == entry


def test_tells_how_its_images_were_drawn_and_what_else_was_tried(tmp_path, capsys):
    settings = {**QUICK, "attacks": ("pgd:steps=1", "pgd:steps=2"), "limit": 10}
    Evaluation(source=(f"zoo:{ENTRY}",), **settings, alone=True, more_seeds=(3, 5)).run(tmp_path)
    made = rst.RobustnessReport.load(tmp_path / "report.json")
    assert {"pgd-1", "pgd-2"} <= set(made.alone) and list(made.more_seeds) == ["3", "5"]
    split = len(Data().load().test)
    assert made.data["subset"] == {
        "split": "test",
        "of": split,
        "limit": 10,
        "rule": "stratified",
        "seed": 0,
    }
    said = " ".join(capsys.readouterr().out.split())
    assert f"on 10 images of sample (stratified, of {split:,})" in said


def test_more_to_try_is_in_the_plan():
    def seconds(**more):
        text = Evaluation(source=(f"zoo:{ENTRY}",), **QUICK, **more).plan()
        return text.splitlines()[1], text

    assert "; the list 4 times" in seconds(alone=True, more_seeds=(1, 2))[1]
    assert "; the list" not in seconds()[1]


STORED = sorted(ROOT.glob("results/autoattack/runs/*/seed_1/config.json"))


@pytest.mark.parametrize("file", STORED, ids=lambda file: file.parent.parent.name)
def test_a_configuration_in_the_results_is_read(file):
    found = from_dict(Evaluation, json.loads(file.read_text())["experiment"])
    assert found.source and not found.alone and found.more_seeds == ()


def test_goes_on_in_the_folder_of_an_older_version(tmp_path):
    experiment, file = Evaluation(source=(f"zoo:{ENTRY}",), **QUICK), tmp_path / "config.json"
    experiment.run(tmp_path)
    config = json.loads(file.read_text())
    del config["experiment"]["alone"], config["experiment"]["more_seeds"]
    del config["experiment"]["data"]["classes"]
    file.write_text(json.dumps(config))
    experiment.run(tmp_path)
    assert json.loads(file.read_text()) == config
    with pytest.raises(RunError, match="another configuration"):
        dataclasses.replace(experiment, alone=True).run(tmp_path)


def beside(experiment):
    """A folder of a run of which no more is known than its configuration and a ticket."""

    def make(folder):
        (folder / "config.json").write_text(json.dumps({"experiment": experiment}))
        return (str(run_folder(folder)),)

    return make


DATA = {"source": "sample"}
PGD = {"name": "pgd", "epsilon": 8 / 255, "steps": 7}
PRUNED = {"name": "iterative_pruning", "data": DATA, "seed": 4, "rounds": 3, "rate": [0.2]}
PRUNED |= {"objective": {"name": "trades", "beta": 3.0, "attack": PGD}, "criterion": "magnitude"}
SPARSE = {"name": "sparse_training", "data": DATA, "seed": 2, "objective": {"name": "natural"}}
SPARSE |= {"start": {"name": "snip"}, "topology": {"name": "static"}}
OLD = {"name": "dense_training", "data": DATA, "objective": {"name": "natural", "gone": 3}}
OLD |= {"weights": "binary"}
CONV = "conv(depth=4, width=0.25, use_bias=false, normalization=plain)"
KNOWN = {
    "zoo": (
        lambda _: (f"zoo:{ENTRY}",),
        {"architecture": CONV, "training_seeds": [1], "density": 0.1},
    ),
    "ticket alone": (lambda _: (TICKET,), {"architecture": CONV, "density": 0.1}),
    "pruned": (
        beside(PRUNED),
        {
            "architecture": CONV,
            "training": "trades(attack=pgd, attack.epsilon=8/255, attack.steps=7, beta=3.0)",
            "mask_rule": "iterative_pruning(rounds=3, rate=0.2, criterion=magnitude)",
            "training_seeds": [4],
        },
    ),
    "sparse": (
        beside(SPARSE),
        {"training": "natural", "mask_rule": "sparse_training(start=snip, topology=static)"},
    ),
    "another version": (beside(OLD), {"training": "natural(gone=3), weights=binary"}),
    ".keras": (lambda folder: (str(keras_file(folder)),), {}),
    "switch": (
        lambda _: tuple(str(zoo.load(n).path) for n in zoo.names()[:1] * 2),
        {"architecture": f"{CONV}, 2 tickets"},
    ),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_what_is_known_of_a_source(kind, tmp_path):
    make, known = KNOWN[kind]
    found = facts_of(make(tmp_path))
    for name, value in known.items():
        right = pytest.approx(value, rel=0.01) if isinstance(value, float) else value
        assert found[name] == right
    if kind in (".keras", "ticket alone", "switch"):
        assert set(found) == set(known), "what cannot be known is not told"
    json.dumps(found)


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
    "a seed twice": (dict(more_seeds=(1, 0)), "more_seeds must differ from each other and from"),
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
