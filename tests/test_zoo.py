import dataclasses
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from trainings import QUICK
from workdirs import Case, make_run

from experiments.dense_training import DenseTraining
from experiments.iterative_pruning import IterativePruning
from rst_tf import Seed, Ticket, initialize, models, zoo
from rst_tf.data import Data
from rst_tf.entropy_coding import entropy
from rst_tf.objectives import Natural
from rst_tf.registry import to_dict
from rst_tf.zoo import __main__ as command_line
from rst_tf.zoo import add as adding
from rst_tf.zoo.shelf import Card, load, names

ROOT = Path(__file__).parent.parent
NAMES = tuple(zoo.names())


def largest(ticket):
    """1.10 times entropy and leftovers, stored kernels, archive and header, description."""
    masks = sum(entropy(e.mask.size, int(e.mask.sum())) for e in ticket.entries) / 8
    leftovers = sum(value.nbytes for value in ticket.leftovers)
    kernels = sum(e.kernel.nbytes for e in ticket.entries if e.kernel is not None)
    return 1.10 * (masks + leftovers) + kernels + 500 + 4 * len(ticket.entries)


def check(entry):
    """What holds for every entry: intact, small, buildable, its card complete."""
    card, ticket = entry.card, entry.ticket
    assert entry.path.stat().st_size == card.bytes <= largest(ticket)
    assert ticket.density == card.density and ticket.kept == card.kept
    network = entry.network()
    assert Ticket.of(network, weights="none").mask_hash == ticket.mask_hash
    images = np.zeros((2, *card.dataset["shape"]), np.float32)
    assert network(images).shape == (2, card.dataset["classes"])
    assert (card.attack is None) == (card.robust_accuracy is None) == (card.attack_words is None)
    assert card.attack is None or str(entry.attack) == card.attack_words
    assert 0 <= card.accuracy <= 1 and card.test_examples > 0
    assert card.command.startswith("python ") and f"{card.accuracy:.2%} clean" in str(card)
    text = entry.path.with_suffix(".json").read_text()
    assert not re.search(r"\"(/|[^\"]*[\s=:]/)", text), "an absolute path"


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_intact_small_and_complete(name):
    check(zoo.load(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_as_robust_as_its_card_says(name):
    """Here and now where the data are installed with us, else only where they lie in data/."""
    source = zoo.load(name).card.experiment["data"]["source"]
    if source.startswith("npz:") and not Path(source.removeprefix("npz:")).exists():
        with pytest.raises(ValueError, match=f"^data must be given: '{name}' .*--data=npz:PATH"):
            zoo.evaluate(name)
        return
    found, card = zoo.evaluate(name), zoo.load(name).card
    assert found.accuracy == pytest.approx(card.accuracy, abs=0.002)
    assert found.robust_accuracy == pytest.approx(card.robust_accuracy, abs=0.005)


def test_an_entry_can_be_evaluated_without_a_network_or_files():
    sources = [zoo.load(name).card.experiment["data"]["source"] for name in NAMES]
    assert "sample" in sources


RUNS = {
    "attacked": DenseTraining(**QUICK),
    "natural": DenseTraining(**{**QUICK, "objective": Natural()}),
    "pruned": IterativePruning(**QUICK, rounds=1, rate=(0.8,)),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder of entries, one of each run of the table."""
    root = tmp_path_factory.mktemp("zoo")
    for name, experiment in RUNS.items():
        experiment.run(root / "runs" / name)
        adding.add(root / "runs" / name, name, folder=root / "entries")
    return root / "entries"


@pytest.mark.parametrize("name", RUNS)
def test_an_entry_is_the_best_step_of_its_run(name, shelf):
    entry = load(name, shelf)
    check(entry)
    assert entry.card.round == (1 if name == "pruned" else 0)
    found = entry.evaluate()  # the numbers of results.csv, measured again
    assert len(found.correct) == entry.card.test_examples == 30
    assert found.accuracy == pytest.approx(entry.card.accuracy, abs=1e-6)
    assert found.robust_accuracy == pytest.approx(entry.card.robust_accuracy, abs=1e-6)
    x, y, _ = entry.test_images()
    np.testing.assert_array_equal(entry.evaluate(x, y).correct, found.correct)
    original = Ticket.load(shelf.parent / f"runs/{name}/tickets/round_0{entry.card.round}_best.npz")
    assert entry.ticket.mask_hash == original.mask_hash


def test_an_entry_of_a_seed_is_small(tmp_path):
    """A run made by hand: LeNet-300-100 at density 0.05 over weights that a seed gives."""
    description = models.describe(models.MLP(), (28, 28, 1), 10)
    network = models.build(description)
    initialize(network, 3, "signed_constant")
    Ticket.of(network).prune(0.05, criterion="random").apply(network)
    ticket = Ticket.of(network, weights=Seed(3, "signed_constant"), description=description)
    curve = ((0.1, 0.1), (0.6, 0.3), (0.4, 0.9))
    workdir = make_run(tmp_path / "run", Case(((1.0, curve), (0.05, curve))), seed=3)
    rows = (workdir / "results.csv").read_text().replace(',500,"', f',{ticket.kept},"')
    (workdir / "results.csv").write_text(rows)
    config = json.loads((workdir / "config.json").read_text())
    config["experiment"] |= to_dict(DenseTraining(**QUICK)) | {"seed": 3}
    config["experiment"]["evaluation_attack"] = {"name": "pgd", "epsilon": 0.1, "steps": 20}
    config["dataset"] |= {"shape": [28, 28, 1], "classes": 10, "fingerprint": "other"}
    config["command"] = ["somewhere/run_experiments.py", "--workdir=x", "--preset=a b"]
    (workdir / "config.json").write_text(json.dumps(config))
    for number in (0, 1):
        ticket.save(workdir / "tickets" / f"round_{number:02d}.npz")
        ticket.save(workdir / "tickets" / f"round_{number:02d}_best.npz")
    entry = adding.add(workdir, "by_hand", folder=tmp_path / "entries")
    assert (entry.card.step, entry.card.robust_accuracy) == (250, 0.33)
    assert entry.card.command == "python run_experiments.py '--preset=a b'"
    assert entry.card.bytes < 11_800
    assert (entry.attack.epsilon, entry.attack.steps, entry.card.seed) == (0.1, 20, 3)
    rebuilt = entry.network()
    for a, b in zip(network.variables, rebuilt.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="sample is not the data of 'by_hand'"):
        entry.evaluate()
    with pytest.raises(ValueError, match=r"no row of round 0 has kept=\d+, as the ticket"):
        adding.add(workdir, "dense", round=0, folder=tmp_path / "entries")


def as_npz(images, path, *, order=slice(None)):
    """A file of these images, and of the first 40, or some of them, to test on."""
    x, y = images
    np.savez(path, x_train=x, y_train=y, x_test=x[:40][order], y_test=y[:40][order])
    return f"npz:{path}"


@pytest.fixture(scope="module")
def from_a_file(tmp_path_factory):
    """A folder with an entry of a run on an npz file, and where that file is."""
    root = tmp_path_factory.mktemp("from_a_file")
    test = Data().load().test
    source = as_npz((test.images, test.labels), root / "data.npz")
    run = dataclasses.replace(RUNS["attacked"], data=Data(source))
    run.run(root / "run")
    adding.add(root / "run", "moved", folder=root)
    return root


def test_data_from_elsewhere_are_read_there_and_are_those_of_the_card(from_a_file, tmp_path):
    entry = load("moved", from_a_file)
    here = entry.evaluate()
    source = shutil.copy(from_a_file / "data.npz", tmp_path / "elsewhere.npz")
    assert entry.images(f"npz:{source}").of_the_card
    there = entry.evaluate(data=f"npz:{source}")
    np.testing.assert_array_equal(here.robust, there.robust)
    assert there.robust_accuracy == pytest.approx(entry.card.robust_accuracy, abs=1e-6)


def test_other_images_are_evaluated_where_they_were_asked_for_and_only_there(
    from_a_file, tmp_path, monkeypatch, capsys
):
    test = Data().load().test
    source = as_npz((test.images, test.labels), tmp_path / "other.npz", order=slice(10, 30))
    entry = load("moved", from_a_file)
    images = entry.images(source)
    assert not images.of_the_card and len(images.y) == 20
    assert entry.evaluate(data=source).accuracy == entry.evaluate(*images[:3]).accuracy
    monkeypatch.setattr("rst_tf.zoo.__main__.load", lambda name: load(name, from_a_file))
    for given, lines in (([f"--data={source}"], 2), ([], 1)):
        command_line.main(["moved", *given])
        said = capsys.readouterr().out.partition("moved, measured here: ")[2].splitlines()
        assert len(said) == lines
        assert lines == 1 or f"{source}, which are not those of the card" in said[1]


def test_data_that_are_not_here_are_asked_for(from_a_file):
    folder = from_a_file / "gone"
    folder.mkdir()
    for end in ("npz", "json"):
        shutil.copy(from_a_file / f"moved.{end}", folder / f"one.{end}")
    card = json.loads((folder / "one.json").read_text()) | {"name": "one"}
    card["experiment"]["data"]["source"] = "npz:data/gone.npz"
    (folder / "one.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"^data must be given: 'one' was tested on npz:data/gone"):
        load("one", folder).evaluate()
    assert load("one", folder).images(f"npz:{from_a_file / 'data.npz'}").of_the_card


PUBLISHED = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def test_the_lines_that_make_the_data_elsewhere_make_what_is_read(tmp_path, monkeypatch):
    """Those of results/README.md, on black images in the place of a download."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "results/README.md").read_text(), re.S)[1]
    signature = inspect.signature(tfds.load)

    def loaded(name, **options):
        signature.bind(name, **options)
        assert (options["batch_size"], options["as_supervised"]) == (-1, True)
        images = tf.zeros((40, *PUBLISHED[name]), tf.uint8)
        return dict.fromkeys(("train", "test"), (images, tf.range(40, dtype=tf.int64) % 10))

    monkeypatch.setattr(tfds, "load", loaded)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "results/README.md", "exec"), {})
    for name, shape in PUBLISHED.items():
        with np.load(tmp_path / "data" / f"{name}.npz") as file:
            assert {key: file[key].dtype for key in file} == dict.fromkeys(file, np.uint8)
        splits = Data(f"npz:data/{name}.npz").load()
        assert (splits.shape, splits.classes, len(splits.test)) == (shape, 10, 40)


REFUSED = {
    "an unknown name": (lambda s: load("attackd", s), "unknown zoo entry 'attackd'; did you mean"),
    "a path": (lambda s: load("../attacked", s), "unknown zoo entry"),
    "half an evaluation": (lambda s: load("natural", s).evaluate(np.zeros(1)), "received x"),
    "images and data": (
        lambda s: load("natural", s).evaluate(np.zeros(1), np.zeros(1), data="sample"),
        "give x and y, or data; received both, data='sample'",
    ),
    "data of another shape": (
        lambda s: load("natural", s).evaluate(data=f"npz:{coloured(s)}"),
        r"data must be images of shape \(28, 28, 1\), as 'natural' takes; received \(8, 8, 3\)",
    ),
    "data that are nowhere": (
        lambda s: load("natural", s).evaluate(data="npz:nowhere.npz"),
        r"nowhere\.npz does not exist",
    ),
    "a taken name": (lambda s: add(s, "natural"), "an entry name='natural' already"),
    "a name with a slash": (lambda s: add(s, "a/b"), "received name='a/b'"),
    "a round that is not there": (lambda s: add(s, "new", round=3), "round=3: there is no"),
    "no run": (lambda s: adding.add(s / "nowhere", "new", folder=s), "no such workdir"),
}


def coloured(folder):
    """A file of images of another shape."""
    x, y = np.zeros((40, 8, 8, 3), np.uint8), np.arange(40) % 4
    np.savez(folder.parent / "coloured.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return folder.parent / "coloured.npz"


def add(shelf, name, **options):
    return adding.add(shelf.parent / "runs" / "natural", name, folder=shelf, **options)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, shelf):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call(shelf)
    assert names(shelf) == sorted(RUNS)


def exchanged(folder):
    (folder / "one.npz").write_bytes((folder / "two.npz").read_bytes())


def card_of(**fields):
    def change(folder):
        card = json.loads((folder / "one.json").read_text()) | fields
        (folder / "one.json").write_text(json.dumps(card))

    return change


DAMAGE = {
    "another's ticket": (exchanged, "is not the file of the card of 'one'"),
    "a card cut short": (lambda f: (f / "one.json").write_text("{"), "is no card of the zoo"),
    "a card with a field more": (card_of(loss=3), "is no card of the zoo"),
    "an attack of a new kind": (card_of(attack={"name": "pgdd"}), "did you mean 'pgd'"),
    "an attack with a new field": (card_of(attack={"name": "pgd", "stepz": 3}), "mean 'steps'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_refused(name, shelf, tmp_path):
    for end in ("npz", "json"):
        (tmp_path / f"one.{end}").write_bytes((shelf / f"attacked.{end}").read_bytes())
        (tmp_path / f"two.{end}").write_bytes((shelf / f"natural.{end}").read_bytes())
    card_of(name="one")(tmp_path)
    change, message = DAMAGE[name]
    change(tmp_path)
    with pytest.raises(ValueError, match=message):
        entry = load("one", tmp_path)
        assert entry.ticket and entry.attack


def test_a_card_says_everything():
    assert {field.name for field in dataclasses.fields(Card)} >= {"experiment", "command", "sha256"}
    assert all(f.default is dataclasses.MISSING for f in dataclasses.fields(Card))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rst_tf.zoo"], 0, ""),
        (["rst_tf.zoo", "--data=mnist"], 1, "data has an effect only with a NAME; received data="),
        (["rst_tf.zoo", "nobody"], 1, "rst_tf.zoo: error: unknown zoo entry 'nobody'"),
        (["rst_tf.zoo.add", "--workdir=nowhere", "--name=a"], 1, "nowhere: no such workdir"),
    ],
)
def test_on_the_command_line(arguments, code, said):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (code, code), done.stderr
    assert said in done.stderr
