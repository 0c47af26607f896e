"""Laws of the analysis, over a table of synthetic workdirs."""

import csv
import dataclasses
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from workdirs import (
    ATTACK,
    KEPT,
    Case,
    config_of,
    make_run,
    rows_of,
    save_ticket,
    short,
    write_results,
)

from rst_tf.analysis import (
    estimates,
    formats,
    groups,
    page,
    printing,
    records,
    report,
    results,
    runs,
    tables,
    tickets,
    words,
)

ROOT = Path(__file__).parents[1]
LONG_ATTACK = "PGD(epsilon=0.1, steps=100, step_size=0.0025, start=uniform, restarts=20)"

CASES = {
    "adversarial": Case(
        rounds=(
            (1.0, ((0.1, 0.1), (0.8, 0.7), (0.75, 0.9))),
            (0.5, ((0.1, 0.1), (0.7, 0.71), (0.85, 0.78))),
            (0.1, ((0.1, 0.2), (0.81, 0.69), (0.6, 0.99))),
            (0.012, ((0.1, 0.1), (0.2, 0.95), (0.3, 0.97))),
        ),
        best=(1, 2, 1, 2),
        headline=2,
    ),
    "natural": Case(
        rounds=((1.0, ((0.1, 0.1), (0.9, 0.8))), (0.8, ((0.91, 0.6), (0.9, 0.95)))),
        attack=None,
        best=(1, 0),
        headline=1,
    ),
    "one round": Case(rounds=((1.0, ((0.1, 0.1), (0.6, 0.5))),), best=(1,), examples=None),
    "ties": Case(
        rounds=(
            (1.0, ((0.1, 0.1), (0.8, 0.3), (0.8, 0.9), (0.8, 0.95))),
            (0.5, ((0.4, 0.1), (0.4, 0.9))),
        ),
        best=(1, 0),
        headline=1,
    ),
    "never as good as dense": Case(
        rounds=(
            (1.0, ((0.9, 0.8),)),
            (0.5, ((0.7, 0.9),)),
            (0.2, ((0.8, 0.7),)),
            (0.1, ((0.8, 0.99),)),
        ),
        best=(0, 0, 0, 0),
        headline=2,
    ),
    "no dense network": Case(
        rounds=((0.5, ((0.5, 0.4), (0.6, 0.2))), (0.005, ((0.5, 0.4), (0.2, 0.9)))),
        best=(1, 0),
        headline=0,
    ),
    "several seeds": Case(
        rounds=((1.0, ((0.1, 0.1), (0.8, 0.7))), (0.11, ((0.1, 0.1), (0.82, 0.72)))),
        attack=LONG_ATTACK,
        seeds=(3, 1, 2),
        best=(1, 1),
        headline=1,
    ),
}
MATCHED = {"adversarial", "natural", "several seeds"}  # a sparse network is as good as dense
CASE = pytest.mark.parametrize("name", CASES)


def make(folder: Path, name: str) -> list[Path]:
    """The workdirs of a case, one per seed."""
    case = CASES[name]
    return [make_run(folder / f"seed_{seed}", case, seed) for seed in case.seeds]


def group_of(workdirs: list[Path]) -> groups.Group:
    (group,) = groups.groups_of([runs.load(workdir) for workdir in workdirs])
    return group


def terminal(table: tables.Table) -> str:
    return printing.text(formats.columns(table, False), formats.notes(table, False))


def table_of(workdirs: list[Path]) -> tables.Table:
    return group_of(workdirs).table


# Choosing


@CASE
def test_best_is_the_first_highest_on_validation(tmp_path, name):
    for workdir in make(tmp_path, name):
        run = runs.load(workdir)
        for round, index in zip(run.rounds(), CASES[name].best, strict=True):
            best = run.best(round)
            assert best.step == best.test.step == 250 * index
            assert (best.valid.split, best.test.split) == ("valid", "test")
            assert best.valid.measure == max(row.measure for row in run.curve(round, "valid"))
            assert run.last(round).step == max(row.step for row in run.curve(round, "test"))


@CASE
def test_the_headline_is_the_sparsest_that_matches_the_dense_network(tmp_path, name):
    table = table_of(make(tmp_path, name))
    line, why = tables.highlight(table)
    assert line.round == CASES[name].headline
    assert ("not below the dense" in why) == (name in MATCHED)
    compared = len(CASES[name].rounds) > 1 and name != "no dense network"
    assert ("dense network" in formats.headline(table, line)) == compared


@CASE
def test_the_test_split_chooses_nothing(tmp_path, name):
    workdirs = make(tmp_path, name)
    before = table_of(workdirs)
    for seed, workdir in enumerate(workdirs):
        rng = np.random.default_rng(seed)
        rows = rows_of(CASES[name], CASES[name].seeds[seed])
        for row in rows:
            if row[2] == "test":
                row[7] = short(rng.random())
                row[9] = short(rng.random()) if CASES[name].attack else ""
        write_results(workdir, rows)
    after = table_of(workdirs)
    assert [line.chosen.steps for line in after.lines] == [
        line.chosen.steps for line in before.lines
    ]
    assert tables.highlight(after)[0].round == tables.highlight(before)[0].round


@CASE
def test_the_order_of_the_file_does_not_matter(tmp_path, name):
    workdirs = make(tmp_path, name)
    before = table_of(workdirs)
    for seed, workdir in zip(CASES[name].seeds, workdirs, strict=True):
        write_results(workdir, rows_of(CASES[name], seed)[::-1])
    assert table_of(workdirs) == before


# Numbers


def expected(name: str, round: int, index: int) -> tuple[list[float], list[float]]:
    """Test accuracy and test measure of each seed, straight from the rows."""
    found = [
        row
        for seed in CASES[name].seeds
        for row in rows_of(CASES[name], seed)
        if (row[0], row[1], row[2]) == (round, 250 * index, "test")
    ]
    return [row[7] for row in found], [row[9] or row[7] for row in found]


@CASE
def test_csv_agrees_with_results(tmp_path, name):
    case = CASES[name]
    text = printing.comma_separated(records.of_table(table_of(make(tmp_path, name))))
    lines = list(csv.DictReader(text.splitlines()))
    measure = "robust_accuracy" if case.attack else "accuracy"
    assert len(lines) == len(case.rounds)
    for round, (line, index) in enumerate(zip(lines, case.best, strict=True)):
        accuracy, values = expected(name, round, index)
        _, dense = expected(name, 0, case.best[0])
        _, last = expected(name, round, len(case.rounds[round][1]) - 1)
        assert float(line["density"]) == case.rounds[round][0]
        assert int(line["kept"]) == int(KEPT * case.rounds[round][0])
        assert float(line["accuracy"]) == statistics.mean(accuracy)
        assert float(line[measure]) == statistics.mean(values)
        assert float(line[f"last_{measure}"]) == statistics.mean(last)
        assert line["best_step"].split() == [str(250 * index)] * len(case.seeds)
        if case.rounds[0][0] == 1.0:
            difference = [a - b for a, b in zip(values, dense, strict=True)]
            assert float(line[f"{measure}_minus_dense"]) == statistics.mean(difference)
        else:
            assert line[f"{measure}_minus_dense"] == ""
        if len(case.seeds) > 1:
            assert float(line[f"{measure}_std"]) == statistics.stdev(values)
        assert (line["robust_accuracy"] == "") == (case.attack is None)


@CASE
def test_every_printed_table_has_the_same_cells(tmp_path, name):
    workdirs = make(tmp_path, name)
    group = group_of(workdirs)
    columns, notes = formats.columns(group.table, True), formats.notes(group.table, True)
    markdown, html = printing.markdown(columns, notes), page.html([group], {}, {})
    body = [line for line in markdown.splitlines() if line.startswith("|")][2:]
    marked = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    tree = ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>"))
    shown = [[cell.text for cell in row] for row in tree.findall(".//table")[0].find("tbody")]
    assert [[cell.replace("\u2212", "-") for cell in row] for row in shown] == marked
    printed = [line.split() for line in terminal(group.table).splitlines()]
    for round, (cells, index) in enumerate(zip(marked, CASES[name].best, strict=True)):
        accuracy, values = expected(name, round, index)
        assert cells[1] == f"{int(KEPT * CASES[name].rounds[round][0]):,}"
        assert cells[3].split()[0] == f"{100 * statistics.mean(accuracy):.1f}"
        assert f"{100 * statistics.mean(values):.1f}" in {cell.split()[0] for cell in cells[3:5]}
        assert any(line[:2] == cells[:2] for line in printed)


@CASE
def test_text_is_narrow_and_says_what_it_shows(tmp_path, name):
    table = table_of(make(tmp_path, name))
    text = terminal(table)
    assert max(map(len, text.splitlines())) < 90
    said = " ".join(text.split())
    assert "test split" in said and "validation" in said
    assert (CASES[name].attack or "no attack") in said
    if CASES[name].examples:
        assert f"({CASES[name].examples:,} examples)" in said
    if len(CASES[name].seeds) > 1:
        assert "3 runs (seeds 3, 1, 2)" in said
    assert ("robust" in said) == (CASES[name].attack is not None)


@pytest.mark.parametrize(
    ("fractions", "printed"),
    [
        ((1.0, 0.80036, 0.10822, 0.01187), ["100", "80.0", "10.8", "1.2"]),
        ((1.0, 0.5, 0.00922), ["100", "50.00", "0.92"]),
        ((1.0,), ["100"]),
        ((0.9999, 0.0999), ["100.0", "10.0"]),
    ],
)
def test_densities_keep_two_digits(fractions, printed):
    assert formats.percentages(fractions) == printed


@pytest.mark.parametrize(
    ("difference", "printed"),
    [(0.006, "+0.6"), (-0.006, "-0.6"), (0.0004, "0.0"), (-0.0004, "0.0"), (0.0, "0.0")],
)
def test_differences_have_a_sign_unless_they_round_to_nothing(difference, printed):
    assert formats.points(estimates.Estimate(difference)) == printed


@pytest.mark.parametrize(
    ("fraction", "count", "low", "high"),
    [(0.5, 10, 0.2366, 0.7634), (0.81, 10_000, 0.8022, 0.8176), (0.0, 10, 0.0, 0.2775)],
)
def test_wilson_interval(fraction, count, low, high):
    assert estimates.wilson(fraction, count) == pytest.approx((low, high), abs=1e-4)
    mirrored = estimates.wilson(1 - fraction, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-4)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            {"name": "pgd", "epsilon": 8 / 255, "norm_mode": "eval"},
            "pgd (epsilon 8/255, norm mode eval)",
        ),
        ({"name": "natural"}, "natural"),
        (
            {"name": "lenet", "hidden": [300, 100], "bias": False},
            "lenet (hidden 300,100, bias false)",
        ),
        ({"epsilon": 0.3, "step_size": None}, "epsilon 0.3"),
        (0.2, "0.2"),
    ],
)
def test_configured_values_in_words(value, said):
    assert words.phrase(value) == said


# Files


def write_all(workdirs: list[Path], out: Path) -> None:
    if len(workdirs) == 1:
        report.write(workdirs[0], out)
    else:
        report.write_seeds(workdirs, out)


@CASE
def test_report_twice_gives_the_same_bytes(tmp_path, name, capsys):
    workdirs = make(tmp_path, name)
    write_all(workdirs, tmp_path / "one")
    printed = capsys.readouterr().out
    write_all(workdirs, tmp_path / "two")
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert {"report.html", "table.csv", "table.md", "steps.png", "steps.svg"} <= set(written)
    assert ("density.png" in written) == (len(CASES[name].rounds) > 1)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
        assert str(path) in printed or path.suffix == ".svg"
    for workdir in workdirs:
        assert f"tensorboard --logdir {workdir}/tensorboard" in printed


@CASE
def test_html_is_well_formed_and_refers_to_nothing_outside(tmp_path, name):
    workdirs = make(tmp_path, name)
    write_all(workdirs, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    tree = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert {"script", "link", "iframe", "object"}.isdisjoint(node.tag for node in tree.iter())
    for node in tree.iter():
        for attribute in ("src", "href", "srcset", "data", "action"):
            assert node.get(attribute, "data:").startswith("data:")
    assert "url(" not in text and "@import" not in text
    assert str(tmp_path) not in text
    images = tree.findall(".//img")
    assert len(images) == len(list((tmp_path / "out").glob("*.svg")))
    assert all(image.get("alt") for image in images)


def test_html_escapes_what_comes_from_files(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    evil = "</title><script>alert(1)</script>&\"'"
    config = config_of(CASES["adversarial"], 0)
    config["experiment"]["network"] = {"name": evil, evil: evil}
    config["environment"][evil] = evil
    config["command"].append(evil)
    (workdir / "config.json").write_text(json.dumps(config))
    rows = rows_of(CASES["adversarial"], 0)
    for row in rows:
        row[5] = evil
    write_results(workdir, rows)
    report.write(workdir)
    text = (workdir / "report" / "report.html").read_text()
    tree = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert "<script" not in text
    assert evil in tree.find(".//h1").text


def test_report_goes_into_the_workdir_and_leaves_no_temporary_file(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    report.write(workdir)
    written = {path.name for path in (workdir / "report").iterdir()}
    names = ("density", "steps", "early_stopping")
    pictures = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    texts = {"report.html", "table.csv", "table.md", "table.tex", "early_stopping.csv"}
    assert written == texts | pictures


def test_html_states_its_evidence(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    report.write(workdir)
    text = re.sub(r"<[^>]+>", "", (workdir / "report" / "report.html").read_text())
    low, high = (100 * bound for bound in estimates.wilson(0.69, 1000))
    for said in (
        "At 10.0 % of the weights: accuracy 84.5 %, robust accuracy 69.0 % (dense network 70.0 %)",
        f"{low:.1f} to {high:.1f}",
        "upper bound",
        "AutoAttack",
        "chosen on the validation split",
        "Trained on attacked images, the attack being PGD(epsilon=0.1, steps=7), for 500 steps",
        "objective.attack.epsilon8/255",
        "run_experiments.py &#x27;--preset=a b&#x27;",
    ):
        assert said in text


# Tickets


@dataclasses.dataclass(frozen=True)
class Masks:
    """A first layer: its kernel's shape, its mask's, the images', and what it is drawn as."""

    kernel: tuple[int, ...]
    mask: tuple[int, ...]
    images: tuple[int, ...]
    drawn: str


MASKS = {
    "pixels": Masks((8, 5), (8, 5), (4, 2, 1), "input pixel"),
    "colour pixels": Masks((12, 5), (12, 5), (2, 2, 3), "input pixel"),
    "other images": Masks((10, 5), (10, 5), (4, 2, 1), "output channel"),
    "no images": Masks((10, 5), (10, 5), (), "output channel"),
    "kernel": Masks((3, 3, 2, 8), (3, 3, 2, 8), (2, 2, 2), "output channel"),
    "filters": Masks((3, 3, 2, 8), (1, 1, 1, 8), (3, 1, 1), "output channel"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_first_layers_are_those_of_the_tickets(tmp_path, kind):
    (workdir,) = make(tmp_path, "adversarial")
    case = MASKS[kind]
    config = config_of(CASES["adversarial"], 0)
    config["dataset"]["shape"] = case.images
    (workdir / "config.json").write_text(json.dumps(config))
    for round in (0, 2):
        mask = np.random.default_rng(round).random(case.mask) < (1.0 if round == 0 else 0.5)
        save_ticket(workdir, round, case.kernel, mask)
    layers = tickets.first_layers(runs.load(workdir))
    assert [layer.round for layer in layers] == [0, 2]
    np.testing.assert_array_equal(layers[1].mask, np.broadcast_to(mask, case.kernel))
    assert layers[1].density == (layers[1].mask.sum() + 4) / (layers[1].mask.size + 4)
    report.write(workdir)
    assert (workdir / "report" / "masks.svg").is_file()
    html = (workdir / "report" / "report.html").read_text()
    assert f"weights kept per {case.drawn}" in html
    assert "No ticket file for round" in html and "round 3 is left out" in html


def test_dense_masks_are_not_drawn(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    save_ticket(workdir, 0, (8, 5), np.ones((8, 5), bool))
    report.write(workdir)
    assert not (workdir / "report" / "masks.svg").exists()


def test_a_damaged_ticket_is_an_error(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    save_ticket(workdir, 1, (16, 5), np.eye(16, 5, dtype=bool))
    path = workdir / "tickets" / "round_01.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"round_01\.npz is not a ticket"):
        report.write(workdir)


# Damage

HEAD = ",".join(results.COLUMNS)
LINE = f'0,0,valid,1.0,9,"{ATTACK}",0.5,0.9,0.7,0.5'
TEST = LINE.replace("valid", "test")
TRAIN = LINE.replace("valid", "train")
DAMAGE = {
    "empty": ("", "line 1: no line end"),
    "no rows": (f"{HEAD}\n", "line 1: a header and no rows"),
    "header": (f"{HEAD},x\n{LINE}\n", "line 1: expected the header"),
    "cut off": (f"{HEAD}\n{LINE}\n{TEST}", "line 3: no line end"),
    "cells": (f"{HEAD}\n{LINE}\n{TEST},1\n", "line 3: expected 10 cells; received 11"),
    "blank line": (f"{HEAD}\n{LINE}\n\n{TEST}\n", "line 3: expected 10 cells; received 0"),
    "quote": (f"{HEAD}\n{LINE}\n{TEST.replace('20)', '20)~')}\n".replace('~"', '"x'), "line 3: "),
    "round": (f"{HEAD}\n{LINE.replace('0,0,', '-1,0,', 1)}\n", "line 2: round must be an integer"),
    "step": (f"{HEAD}\n{LINE.replace('0,0,', '0,1.5,', 1)}\n", "line 2: step must be an integer"),
    "split": (f"{HEAD}\n{LINE.replace('valid', 'dev')}\n", "line 2: split must be one of"),
    "density": (f"{HEAD}\n{LINE.replace('1.0,9', '1.1,9')}\n", "line 2: density must be in"),
    "density 0": (f"{HEAD}\n{LINE.replace('1.0,9', '0.0,9')}\n", "line 2: density must be in"),
    "kept": (f"{HEAD}\n{LINE.replace('1.0,9', '1.0,0')}\n", "line 2: kept must be an integer"),
    "percent": (f"{HEAD}\n{LINE.replace('0.9', '90.0')}\n", "line 2: accuracy must be in"),
    "no accuracy": (f"{HEAD}\n{LINE.replace('0.9', '')}\n", "line 2: accuracy must not be empty"),
    "nan": (f"{HEAD}\n{LINE.replace('0.9', 'nan')}\n", "line 2: accuracy must be in"),
    "text": (f"{HEAD}\n{LINE.replace('0.7', 'low')}\n", "line 2: robust_loss must be a number"),
    "no attack": (f"{HEAD}\n{LINE.replace(ATTACK, '')}\n", "line 2: attack and robust_accuracy"),
    "no robust": (f"{HEAD}\n{LINE[:-3]}\n", "line 2: attack and robust_accuracy"),
    "no test": (f"{HEAD}\n{LINE}\n", "line 2: round 0, step 0 has a valid row but no test row"),
    "no valid": (f"{HEAD}\n{TEST}\n", "line 2: round 0, step 0 has a test row but no valid row"),
    "twice": (
        f"{HEAD}\n{LINE}\n{TEST}\n{TEST}\n",
        "line 4: round 0, step 0, test is already on line 3",
    ),
    "two epsilons": (
        f"{HEAD}\n{LINE}\n{TEST}\n"
        + f"{LINE}\n{TEST}\n".replace("0,0,", "1,0,").replace("epsilon=0.1", "epsilon=0.3"),
        "line 4: attack is PGD(epsilon=0.3",
    ),
    "two attacks of one round": (
        f"{HEAD}\n{TRAIN}\n{LINE}\n{TEST}\n"
        + f"{TRAIN}\n{LINE}\n{TEST}\n".replace("0,0,", "0,1,").replace(
            'train,1.0,9,"PGD(epsilon=0.1', 'train,1.0,9,"PGD(epsilon=0.3'
        ),
        "line 5: attack is PGD(epsilon=0.3",
    ),
    "two kept": (f"{HEAD}\n{LINE}\n{TEST.replace(',9,', ',8,')}\n", "line 2: density or kept"),
    "half attacked": (
        f"{HEAD}\n{LINE}\n{TEST.replace(ATTACK, '')[:-7]},\n",
        "line 3: an attack on only one of valid and test",
    ),
}


def test_rounds_may_be_trained_on_attacks_of_their_own(tmp_path):
    """As a cheap search before an adversarial training is."""
    later = f"{TRAIN}\n{LINE}\n{TEST}\n".replace("0,0,", "1,0,")
    natural = TRAIN.replace(f'"{ATTACK}"', "").replace(",0.7,0.5", ",,")
    (tmp_path / "results.csv").write_text(f"{HEAD}\n{natural}\n{LINE}\n{TEST}\n{later}")
    rows = results.read(tmp_path / "results.csv")
    assert [row.attack for row in rows if row.split == "train"] == [None, ATTACK]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_results_name_the_file_and_line(tmp_path, damage):
    (workdir,) = make(tmp_path, "one round")
    text, message = DAMAGE[damage]
    (workdir / "results.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        report.write(workdir)
    assert str(caught.value).startswith(f"{workdir / 'results.csv'} {message}")
    assert "\n" not in str(caught.value)
    assert not (workdir / "report").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"experiment":\n', r"config\.json line 2: not JSON"),
        ("[]", "experiment must be a JSON object"),
        ('{"experiment": {}}', r"experiment\.name must be text"),
        ('{"experiment": {"name": "x"}, "dataset": []}', "dataset must be a JSON object"),
        (
            '{"experiment": {"name": "x"}, "dataset": {"test_examples": 0}}',
            r"dataset\.test_examples must be a positive count; received 0",
        ),
        (
            '{"experiment": {"name": "x"}, "dataset": {"shape": 3}}',
            r"dataset\.shape must be a list of counts; received 3",
        ),
        (b"\n\xff", r"config\.json line 2: not UTF-8"),
    ],
)
def test_damaged_config_names_the_file(tmp_path, text, message):
    (workdir,) = make(tmp_path, "one round")
    (workdir / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        runs.load(workdir)


@pytest.mark.parametrize("name", ["config.json", "results.csv"])
def test_missing_files_are_named(tmp_path, name):
    (workdir,) = make(tmp_path, "one round")
    (workdir / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: no such file"):
        runs.load(workdir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewind": "reinit"}, "rewind is 'reinit' instead of 'reset'"),
        ({"rate": 0.2}, "rate is 0.2 instead of None"),
        ({"objective": None, "network": None}, "network is None instead of {"),
        ({"seed": 3}, r"have the same seed \(3\)"),
    ],
)
def test_only_seeds_are_averaged(tmp_path, change, message):
    workdirs = make(tmp_path, "several seeds")
    config = config_of(CASES["several seeds"], 2)
    config["experiment"] |= change
    (workdirs[2] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        report.write_seeds(workdirs, tmp_path / "out")


def test_a_setting_of_the_first_run_only_is_a_difference(tmp_path):
    workdirs = make(tmp_path, "several seeds")
    config = config_of(CASES["several seeds"], 2)
    del config["experiment"]["rewind"]
    (workdirs[2] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rewind is None instead of 'reset'"):
        report.write_seeds(workdirs, tmp_path / "out")


def test_only_one_attack_is_averaged(tmp_path):
    workdirs = make(tmp_path, "several seeds")
    path = workdirs[1] / "results.csv"
    path.write_text(path.read_text().replace("epsilon=0.1", "epsilon=0.3"))
    with pytest.raises(ValueError, match="attack on valid is 'PGD"):
        report.write_seeds(workdirs, tmp_path / "out")


@pytest.mark.parametrize("loss", ["nan", "inf", ""])
def test_a_loss_may_be_anything(tmp_path, loss):
    (workdir,) = make(tmp_path, "one round")
    rows = rows_of(CASES["one round"], 0)
    for row in rows:
        row[6] = loss
    write_results(workdir, rows)
    assert len(runs.load(workdir).rows) == len(rows)


# Program


def program(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "run_analysis.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--runs: expected the glob of a workdir; received nothing"),
        (("--runs=/nowhere/*",), "--runs: no folder matches '/nowhere/*'"),
        (("--runs=.", "more"), "unexpected argument 'more'"),
        (("--rums=.",), "Unknown command line flag 'rums'"),
        ((f"--runs={ROOT / 'tests'}",), f"{ROOT / 'tests' / 'config.json'}: no such file"),
    ],
)
def test_program_errors_are_one_line(arguments, message):
    done = program(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"run_analysis: error: {message}")
    assert done.stderr.count("\n") == 1


def test_program_reports_on_seeds(tmp_path):
    make(tmp_path, "several seeds")
    done = program(f"--runs={tmp_path}/seed_[13],{tmp_path}/seed_*", f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 runs (seeds 1, 3, 2)" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "seed_1" / "report").exists()


def test_program_loads_neither_tensorflow_nor_an_experiment(tmp_path):
    (workdir,) = make(tmp_path, "adversarial")
    save_ticket(workdir, 1, (16, 5), np.eye(16, 5, dtype=bool))
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run_analysis.py', '--runs={workdir}']\n"
        "try:\n"
        "    runpy.run_path('run_analysis.py', run_name='__main__')\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'experiments', 'pandas'} & set(sys.modules)\n"
        "    print('loaded:', sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("loaded: []\n")
    assert (workdir / "report" / "masks.png").is_file()


def test_an_unfinished_round_is_left_out_and_said(tmp_path):
    from rst_tf.analysis import formats, runs, tables

    header = "round,step,split,density,kept,attack,loss,accuracy,robust_loss,robust_accuracy\n"
    rows = [
        f"{n},{step},{split},{1 if n == 0 else 0.5},{100 if n == 0 else 50},,1.0,0.{5 + n},,"
        for n in (0, 1)
        for step in (0, 9)
        for split in ("valid", "test")
    ]
    (tmp_path / "results.csv").write_text(header + "\n".join(rows) + "\n")
    (tmp_path / "config.json").write_text('{"experiment": {"name": "toy", "seed": 0}}')
    (tmp_path / "tickets").mkdir()
    with pytest.raises(ValueError, match="no round is finished yet"):
        runs.load(tmp_path)
    (tmp_path / "tickets" / "round_00.npz").touch()
    table = tables.table([runs.load(tmp_path)])
    assert [line.round for line in table.lines] == [0]
    assert any("round 1 is left out" in note for note in formats.notes(table, intervals=False))
