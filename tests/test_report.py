"""Robustness reports: files, tables, pages, comparisons and boards, and one report from a model."""

import csv
import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import easy_data, small

import rst_tf as rst
from rst_tf.attacks.outcome import Finding, Outcome
from rst_tf.robustness import facts, leaderboard
from rst_tf.robustness.battery import CHECKS, Battery
from rst_tf.robustness.checked import Checked
from rst_tf.robustness.record import RobustnessReport, Surface

ROOT = pathlib.Path(__file__).parent.parent
PRINT = "0" * 64


def made(broken_by=None, findings=(), checks=None, **changes):
    """A report of ten images, without an attack."""
    if broken_by is None:
        broken_by = [-2, 0, 0, 1, 3, -1, -1, -1, -1, -1]
    broken_by = np.asarray(broken_by)
    n = len(broken_by)
    outcome = Outcome(
        attacks=("apgd-ce", "apgd-t", "fab-t", "square"),
        described=tuple(f"{name}(epsilon=8/255)" for name in ("APGD", "APGD", "FAB", "Square")),
        broken_by=broken_by,
        labels=np.zeros(n, int),
        images=None,
        seconds=(1.0, 2.5, 0.25, 3.0),
        passes=((10, 1010), (90, 9090), (909, 900), (5001, 0)),
        findings=tuple(findings),
        largest=8 / 255,
        margins=np.where(np.arange(n) == 1, np.nan, np.linspace(-0.3, 4, n)).astype("float32"),
    )
    if checks is None:
        checks = (Checked("G1", "a stronger attack leaves less", "passed", "40 %", {"rise": 0.0}),)
    values = {
        "name": "narrow",
        "norm": "linf",
        "epsilon": 8 / 255,
        "version": "standard",
        "seed": 0,
        "outcome": outcome,
        "more_seeds": {},
        "alone": {"fgsm": broken_by != -2, "pgd-20": (broken_by == -1) | (broken_by == 3)},
        "checks": checks,
        "points": np.arange(0, n, 2),
        "curve": ([0.0, 4 / 255, 8 / 255, 16 / 255], [0.9, 0.7, 0.5, 0.0]),
        "minimum_norms": np.resize([0.0, 0.01, 0.04, math.inf, 0.06], len(range(0, n, 2))),
        "surface": Surface(np.array([-0.1, 0.0, 0.1]), np.arange(18.0).reshape(2, 3, 3)),
        "model": {"kind": "Functional", "parameters": 1000, "nonzero": 103, "density": 0.1},
        "data": {"count": n, "shape": [8, 8, 1], "fingerprint": PRINT},
        "machine": {"tensorflow": "2.21.0", "devices": ["CPU"]},
        "facts": {"dataset": "digits"},
        "deviations": (),
        "seconds": 12.5,
    }
    return RobustnessReport(**{**values, **changes})


ERROR = Finding("randomised", "error", "logits of the same images differ")
WARNING = Finding("zero gradient", "warning", "3 % of the gradients are 0")
SKIPPED = Checked("G6", "another network's images add nothing", "skipped", "no twin", {})
BAD_CHECK = Checked("G4", "an unbounded attack leaves nothing", "error", "12 % are left", {"a": 1})
KINDS = {
    "plain": {},
    "findings": {"findings": (ERROR, WARNING)},
    "check": {"checks": (BAD_CHECK,)},
    "seeds": {"more_seeds": {"1": 0.4, "2": 0.6}},
    "bare": {
        "checks": (),
        "curve": None,
        "minimum_norms": None,
        "surface": None,
        "points": np.arange(0),
        "alone": {},
    },
    "large": {"broken_by": [-2, 0, 1, -1] * 300},
    "all wrong": {"broken_by": [-2] * 4},
}


@pytest.fixture(params=KINDS)
def report(request):
    return made(**KINDS[request.param])


def test_a_file_says_what_the_report_says(report, tmp_path):
    report.save(tmp_path / "report.json")
    again = rst.RobustnessReport.load(tmp_path / "report.json")
    assert again.to_dict() == report.to_dict()
    assert str(again) == str(report) and again.verdict == report.verdict
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "report.json").read_bytes()


def test_a_file_of_an_older_version_has_no_margins(tmp_path):
    report = made()
    found = report.to_dict()
    assert found["margins"][:2] == [-0.3, None]  # as short as float32 allows; NaN is no JSON
    del found["margins"]
    (tmp_path / "report.json").write_text(json.dumps(found))
    again = RobustnessReport.load(tmp_path / "report.json")
    assert again.outcome.margins is None and str(again) == str(report)


CONFIGURATIONS = tuple({"name": name, "steps": 100} for name in ("apgd", "apgd", "fab", "square"))


def test_a_file_tells_every_hyper_parameter_and_an_older_one_is_read(tmp_path):
    report = made(configurations=CONFIGURATIONS)
    found = report.to_dict()
    assert [entry["configuration"] for entry in found["attacks"]] == list(CONFIGURATIONS)
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json").to_dict() == found
    for entry in found["attacks"]:
        del entry["configuration"]
    (tmp_path / "report.json").write_text(json.dumps(found))
    again = RobustnessReport.load(tmp_path / "report.json")
    assert again.configurations == () and again.to_dict() == found


def put(*path, value):
    def damage(found):
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return damage


def without(name):
    return lambda found: found.pop(name)


DAMAGES = (
    (put("schema_version", value=2), "schema_version: expected 1; received 2"),
    (without("labels"), "expected 'labels'; received nothing"),
    (put("extra", value=1), "unknown name 'extra'"),
    (put("broken_by", 0, value=9), "broken_by: expected whole numbers from -2 to 3"),
    (put("broken_by", 0, value=0.5), "broken_by: expected whole numbers"),
    (put("broken_by", 0, value=-1), "correct: expected what broken_by says"),
    (put("broken_by", 5, value=0), "robust_accuracy: expected 0.4, as of broken_by; received 0.5"),
    (put("broken_by", value=[]), "broken_by: expected an example at least"),
    (put("labels", value=[0]), "labels: expected 10 of them; received 1"),
    (put("alone", "fgsm", value=[1]), "alone.fgsm: expected 10 times 0 or 1"),
    (put("threat", "norm", value="l7"), "threat.norm: expected one of"),
    (put("threat", "epsilon", value=-1), "threat.epsilon: expected a number above 0; received -1"),
    (put("more_seeds", value={"1": None}), "more_seeds.1: expected a number; received None"),
    (put("seed", value="0"), "seed: expected a number; received '0'"),
    (put("attacks", value={}), "attacks: expected a list; received dict"),
    (put("attacks", 0, value=3), "attacks: expected objects; received 3"),
    (put("attacks", 0, "name", value=None), "attacks.name: expected text; received None"),
    (put("attacks", 0, "configuration", value={}), "attacks.configuration: expected objects"),
    (put("attacks", 0, "configuration", value=3), "attacks.configuration: expected objects"),
    (put("checks", 0, "level", value="fine"), "checks.level: expected one of"),
    (put("checks", 0, value={"check": "G1"}), "checks: expected the parts of one"),
    (put("fab_norm", value=[1.0]), "fab_norm: expected 5 numbers"),
    (put("margins", value=[1.0]), "margins: expected 10 numbers"),
    (put("margins", 0, value="a"), "margins: expected a number; received 'a'"),
    (put("curve", "accuracy", value=[0.1]), "curve: expected two equal lists"),
    (put("curve", "epsilon", value="a"), "curve: expected numbers"),
    (put("surface", "offsets", value=[0.0]), "surface.losses: expected grids of"),
    (put("data", "count", value=11), "data.count: expected 10, as of broken_by; received 11"),
)


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[said for _, said in DAMAGES])
def test_a_damaged_file_is_refused_in_one_line(damage, said, tmp_path):
    found = made().to_dict()
    damage(found)
    file = tmp_path / "report.json"
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError) as caught:
        RobustnessReport.load(file)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ("", "[]", "{", "\x00", '{"schema_version": 1}'))
def test_what_is_no_report_is_refused(text, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: "):
        RobustnessReport.load(file)


def lines_of(report):
    """The table's lines by their first cell, single spaces between words."""
    found = map(str.strip, str(report).splitlines())
    return {line.split("  ")[0]: " ".join(line.split()) for line in found}


def test_the_table_keeps_single_attacks_and_the_sequence_apart():
    lines = lines_of(made())
    assert lines["FGSM"].split()[1] == "90.0" and lines["PGD-20"].split()[1] == "60.0"
    # The first of a sequence met all images, the next only those it left.
    assert lines["APGD-CE"] == "APGD-CE 70.0 39.7 to 89.2 2 70.0 39.7 to 89.2 1.0"
    assert lines["APGD-T"] == "APGD-T 1 60.0 31.3 to 83.2 2.5"
    assert lines["all, worst case"] == "all, worst case 4 50.0 23.7 to 76.3 6.8"
    text = str(made())
    assert "each alone" in text and "in sequence, cumulative" in text and "average" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "clean 90.0 % | AutoAttack 50.0 % (23.7 to 76.3) | flags: none"),
        ({"version": "custom"}, "clean 90.0 % | worst of 4 attacks 50.0 % (23.7 to 76.3) | flags"),
        ({"findings": (WARNING,)}, "(23.7 to 76.3) | flags: 1 warning (zero gradient)"),
        (
            {"findings": (ERROR, WARNING), "checks": (BAD_CHECK,)},
            "AutoAttack at most 50.0 % (upper bound, unreliable) | flags: 2 errors (randomised, G4)"
            ", 1 warning (zero gradient)",
        ),
        ({"checks": (SKIPPED,)}, "flags: none; 1 of 1 checks were skipped"),
        ({"checks": ()}, "flags: none; the checks for masked gradients were not made"),
    ],
)
def test_the_verdict_is_one_line(changes, said):
    report = made(**changes)
    assert said in report.verdict and "\n" not in report.verdict
    assert report.verdict in str(report)
    assert bool(report.errors) == ("upper bound" in said)


def test_few_images_are_called_indicative():
    assert "Indicative only" in str(made())
    assert "Indicative only" not in str(made([-1] * 1000))


def test_other_seeds_are_told_and_change_nothing():
    text = " ".join(str(made(more_seeds={"1": 0.4, "7": 0.6})).split())
    assert "seeds (1, 7): 40.0, 60.0; standard deviation over all 3: 10.00 points." in text
    assert made(more_seeds={"1": 0.4}).verdict == made().verdict


def test_best_known_is_the_worst_case_of_all_that_was_tried():
    alone = {"fgsm": np.array([False] * 6 + [True] * 4)}
    report = made(alone=alone)
    assert (report.robust_accuracy, report.best_known) == (0.5, 0.4)
    assert report.robustbench()["external"] == "40.00" and "Best known: 40.0" in str(report)


def test_an_entry_as_robustbench_has_it():
    told = {
        "dataset": "cifar10",
        "authors": "A",
        "architecture": "WRN-28-10",
        "mask_rule": "global",
    }
    entry = made(facts=told).robustbench()
    assert entry["eps"] == "8/255" and entry["dataset"] == "cifar10" and entry["authors"] == "A"
    assert (entry["clean_acc"], entry["autoattack_acc"], entry["reported"]) == (
        "90.00",
        "50.00",
        "50.00",
    )
    assert entry["architecture"] == "WRN-28-10" and entry["unreliable"] is False
    assert (entry["density"], entry["params_nonzero"], entry["params_total"]) == (0.1, 103, 1000)
    assert made(findings=(ERROR,)).robustbench()["unreliable"] is True
    json.dumps(entry)


def parsed(text):
    """The page as a tree; it references nothing outside it and runs nothing."""
    assert "<script" not in text and "http" not in text.replace("http://www.w3.org", "")
    tree = xml.etree.ElementTree.fromstring(text.partition("\n")[2])
    for element in tree.iter():
        source = element.get("src") or element.get("href") or "data:"
        assert source.startswith("data:image/svg+xml;base64,") or source == "data:"
    return tree


def test_the_page_is_one_file_and_shows_all(report, tmp_path):
    report.save_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    tree = parsed(text)
    said = " ".join("".join(tree.itertext()).split())
    assert report.verdict in said
    assert all(finding.text in said for finding in report.findings)
    pictures = {figure.get("id") for figure in tree.iter("figure")}
    whole = {"epsilon_curve", "minimum_norms", "loss_surface"}
    assert pictures == (set() if report.curve is None else whole)


def test_what_is_told_is_escaped(tmp_path):
    report = made(name="<b>&", facts={"dataset": "<i>", "note": "a & b"})
    report.save_html(tmp_path / "report.html")
    assert "<b>&amp;" not in (tmp_path / "report.html").read_text().replace("<b>9", "")
    assert "Robustness of <b>&" in "".join(
        parsed((tmp_path / "report.html").read_text()).itertext()
    )


def pair(only_first, only_second, both=20, neither=72):
    first = [-1] * (both + only_first) + [0] * (only_second + neither)
    second = [-1] * both + [0] * only_first + [-1] * only_second + [0] * neither
    return made(first, name="first"), made(second, name="second")


def test_a_comparison_by_hand():
    found = rst.compare(*pair(7, 1))
    assert (found.both, found.only_first, found.only_second) == (20, 7, 1)
    assert found.difference == pytest.approx(0.06)
    # Of 8 images 1 or fewer, or 7 or more, fall to one side: 2 (1 + 8) / 2^8.
    assert found.p_value == 18 / 256
    half = 1.959964 * math.sqrt(8 - 36 / 100) / 100
    assert found.interval == pytest.approx((0.06 - half, 0.06 + half), abs=1e-7)
    text = str(found)
    assert "+6.0" in text and "0.07" in text and "first" in text
    assert rst.compare(*pair(7, 1)[::-1]).difference == -found.difference


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm": "l2"}, "norm must be equal in both reports; received linf and l2"),
        ({"epsilon": 0.031}, "epsilon must be equal in both reports; received 0.0313725"),
        ({"data": {"count": 10, "fingerprint": "1" * 64}}, "the same images in the same order"),
    ],
)
def test_what_cannot_be_paired_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        rst.compare(made(), made(**changes))


def test_a_comparison_says_what_weakens_it():
    first, second = pair(7, 1)
    second = dataclasses.replace(second, seed=1, checks=(BAD_CHECK,))
    text = " ".join(str(rst.compare(first, second)).split())
    assert "other seeds" in text and "Of second the number is an upper bound" in text


def board_of(*reports):
    return leaderboard.boards_of(reports)


def test_two_epsilons_never_share_a_board():
    reports = [
        made(epsilon=e, norm=norm, facts={"dataset": d})
        for e in (8 / 255, 0.031)
        for norm in ("linf", "l2")
        for d in ("a", "b")
    ]
    boards = board_of(*reports, made([-1] * 4))
    assert [len(board.reports) for board in boards] == [1] * 9
    assert len({board.title for board in boards}) == 9


def test_a_board_is_ordered_and_flagged():
    low, high = made([0] * 9 + [-1], name="low"), made(name="high")
    unreliable = made([-1] * 10, name="masked", checks=(BAD_CHECK,), findings=(WARNING,))
    (board,) = board_of(low, unreliable, high)
    assert [report.name for report in board.reports] == ["high", "low", "masked"]
    cells = {(c.group, c.header): c.cells for c in leaderboard.columns(board)}
    assert cells["worst case of the list", "robust"] == ("50.0", "10.0", "<= 100.0")
    assert cells["", "flags"] == ("none", "none", "G4!, zero gradient")
    assert cells["each alone, on all images", "APGD-CE"] == ("70.0", "10.0", "100.0")
    assert any("masked: G4!: 12 % are left." in note for note in leaderboard.notes(board))


def cells_of(report):
    (board,) = board_of(report)
    return {column.header: column.cells[0] for column in leaderboard.columns(board)}


MOSTLY = (SKIPPED, SKIPPED, Checked("G1", "a stronger attack leaves less", "passed", "", {}))
FLAGS = (
    ({}, "none"),
    ({"checks": ()}, "not checked"),
    ({"checks": MOSTLY}, "2 of 3 skipped"),
    ({"checks": MOSTLY[1:]}, "none"),  # one check that cannot be made is no reason to doubt
    ({"checks": MOSTLY, "findings": (WARNING,)}, "zero gradient; 2 of 3 skipped"),
    ({"checks": (), "findings": (ERROR, WARNING)}, "randomised!, zero gradient; not checked"),
)


@pytest.mark.parametrize(("changes", "said"), FLAGS, ids=[said for _, said in FLAGS])
def test_a_board_does_not_say_none_of_what_was_not_looked_at(changes, said):
    report = made(**changes)
    assert cells_of(report)["flags"] == said
    (record,) = leaderboard.records(board_of(report))
    skipped = sum(check.level == "skipped" for check in report.checks)
    assert (record["checks"], record["skipped"]) == (len(report.checks), skipped)


RECIPE = "adversarial(attack=pgd, attack.epsilon=8/255, attack.steps=7)"
TOLD = {
    "dataset": "digits",
    "architecture": "WRN-28-10",
    "training": RECIPE,
    "training_seeds": [1, 3],
    "mask_rule": "global",
}
COLUMNS = (  # header, changes, cell, name of the record, its value
    ("architecture", {"facts": TOLD}, "WRN-28-10", "architecture", "WRN-28-10"),
    ("architecture", {"model": {"architecture": "conv"}}, "conv", "architecture", "conv"),
    ("training", {"facts": TOLD}, "adversarial", "training", RECIPE),
    ("masks", {"facts": TOLD}, "global", "mask_rule", "global"),
    ("training seeds", {"facts": TOLD}, "1, 3", "training_seeds", "1 3"),
    ("parameters", {}, "1,000", "parameters", 1000),
    ("seed spread", {"more_seeds": {"1": 0.4, "7": 0.6}}, "10.00", "seed_spread", 0.1),
    ("best known", {"alone": {"fgsm": np.arange(10) > 5}}, "40.0", "best_known", 0.4),
    ("seconds", {}, "12", "seconds", 12.5),
)


@pytest.mark.parametrize(("header", "changes", "cell", "name", "value"), COLUMNS)
def test_a_board_tells_what_is_known(header, changes, cell, name, value):
    report = made(**changes)
    assert cells_of(report)[header] == cell
    (record,) = leaderboard.records(board_of(report))
    assert record[name] == (pytest.approx(value) if isinstance(value, float) else value)


def test_a_board_has_no_column_of_what_nobody_knows():
    there = set(cells_of(made()))
    assert not there & {"training", "masks", "training seeds", "seed spread", "best known"}


def test_a_long_recipe_is_below_the_board():
    (board,) = board_of(made(facts=TOLD, name="one"), made(name="two"))
    assert leaderboard.notes(board)[-1] == f"one: training: {RECIPE}."


def test_boards_say_where_rows_are_not_paired():
    data = {"count": 10, "shape": [8, 8, 1], "fingerprint": "1" * 64}
    (board,) = board_of(made(), made(data=data))
    assert any("not paired" in note for note in leaderboard.notes(board))
    assert not any("not paired" in note for note in leaderboard.notes(board_of(made(), made())[0]))


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """What run_analysis.py --leaderboard makes of a folder of runs and a file."""
    folder = tmp_path_factory.mktemp("runs")
    made(name="one").save(folder / "evaluation" / "one" / "report.json")
    made([-1] * 10, name="two|", epsilon=0.3).save(folder / "evaluation" / "two" / "report.json")
    made(name="three").save(folder / "three.json")
    globs = f"{folder}/eval*,{folder}/*.json"
    command = [sys.executable, str(ROOT / "run_analysis.py"), f"--leaderboard={globs}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_reports_are_collected_from_the_command_line(collected):
    folder, said = collected
    with (folder / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["network"], float(row["epsilon"])) for row in rows] == [
        ("one", 8 / 255),
        ("three", 8 / 255),
        ("two|", 0.3),
    ]
    assert float(rows[0]["robust_accuracy"]) == 0.5 and rows[0]["reliable"] == "True"
    text = (folder / "leaderboard.txt").read_text()
    assert text.strip() in said and text.count("each alone") == 2
    assert "two\\|" in (folder / "leaderboard.md").read_text()
    tree = parsed((folder / "leaderboard.html").read_text())
    assert len(list(tree.iter("table"))) == 3


def test_a_glob_without_reports_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="matches no JSON file"):
        leaderboard.reports_of(str(tmp_path / "*"))


X, Y = easy_data(40)
EPSILON = 0.16
FEW = Battery(
    points=30, steps=(5, 10), factors=(0.5, 1), restarts=(1, 2), draws=5, surface_points=2, grid=3
)
QUICK = {"version": "custom", "attacks": ("apgd-ce", "square:queries=20"), "progress": False}


@pytest.fixture(scope="module")
def network():
    """Trained without shuffling and pruned to half: the same at every call."""
    keras.utils.set_random_seed(0)
    network = small()
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.optimizer.learning_rate = 0.03
    network.fit(*easy_data(256, seed=1), epochs=4, verbose=0, shuffle=False)
    rst.Ticket.of(network).prune(0.5).apply(network)
    return network


@pytest.fixture(scope="module")
def whole(network):
    lines = []
    options = {**QUICK, "progress": lines.append, "battery": FEW, "alone": True}
    options["more_seeds"] = (1,)
    told = {"dataset": "quarters", "name": "small", "facts": {"training": "natural"}}
    return rst.report(network, X, Y, EPSILON, **options, **told), lines


def test_a_report_of_a_model(whole, tmp_path):
    report, lines = whole
    assert len(report) == 40 and 0.1 < report.robust_accuracy < report.accuracy
    assert report.accuracy > 0.8
    assert [check.check for check in report.checks] == [check.name for check in CHECKS]
    assert set(report.alone) == {"fgsm", "pgd-20", "apgd-ce", "square"}
    # The first of the list meets all images, so alone it leaves the same.
    np.testing.assert_array_equal(
        report.alone["apgd-ce"], report.outcome.correct & (report.outcome.broken_by != 0)
    )
    assert len(report.points) == len(report.minimum_norms) == 30
    assert list(report.more_seeds) == ["1"]
    assert abs(report.more_seeds["1"] - report.robust_accuracy) <= 0.1
    assert report.curve[0] == [0.0, EPSILON / 2, EPSILON]
    assert report.surface.losses.shape == (2, 3, 3)
    assert report.model["density"] == 0.5 and report.facts["dataset"] == "quarters"
    assert any("custom" in line for line in report.deviations)
    assert any(line.startswith("G12") for line in lines)
    # All that an attack can be given, at its default or not.
    first, second = report.configurations
    assert (first["name"], first["loss"], first["steps"], first["eot"]) == ("apgd", "ce", 100, 1)
    assert (second["name"], second["queries"]) == ("square", 20)
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json").to_dict() == report.to_dict()
    report.save_html(tmp_path / "report.html")
    parsed((tmp_path / "report.html").read_text())


def test_a_report_comes_again(whole, network):
    again = rst.report(network, X, np.eye(4)[Y], EPSILON, **QUICK, battery=False)
    first = whole[0]
    np.testing.assert_array_equal(again.outcome.broken_by, first.outcome.broken_by)
    np.testing.assert_array_equal(again.alone["pgd-20"], first.alone["pgd-20"])
    assert again.data == first.data and again.model == first.model
    assert again.checks == () and again.curve is None and again.minimum_norms is None


def test_an_attack_made_on_a_model_in_memory_tells_what_it_is(network, tmp_path):
    attack = rst.Transferred(EPSILON, source=network)
    options = {**QUICK, "attacks": (attack,), "battery": False}
    report = rst.report(network, X, Y, EPSILON, **options, subset={"rule": "first"})
    (told,) = report.configurations
    assert (told["source"], told["attack"]["steps"]) == (network.name, 20)
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json").data["subset"] == {"rule": "first"}


def test_probabilities_are_told_of(network):
    softmax = keras.Sequential([keras.Input((6, 6, 1)), rst.baked(network), keras.layers.Softmax()])
    attacks = {**QUICK, "attacks": ("apgd-ce",), "battery": False}
    report = rst.report(softmax, X, Y, EPSILON, **attacks)
    same = rst.report(network, X, Y, EPSILON, **attacks)
    assert [f.check for f in report.findings] == ["probabilities"] and not report.errors
    assert report.robust_accuracy == same.robust_accuracy
    hidden = rst.report(
        lambda x: tf.nn.softmax(network(x, training=False)), X, Y, EPSILON, **attacks
    )
    assert [f.level for f in hidden.findings if f.check == "probabilities"] == ["warning"]


def test_facts_tell_networks_apart(network):
    plain = rst.baked(network)
    known = facts.of_model(plain)
    assert known["fingerprint"] == facts.of_model(rst.baked(network))["fingerprint"]
    assert known["nonzero"] == facts.of_model(network)["nonzero"] < known["parameters"]
    plain.variables[0].assign(plain.variables[0] + 1)
    assert facts.of_model(plain)["fingerprint"] != known["fingerprint"]
    assert facts.of_points(X, Y) != facts.of_points(X[::-1], Y)
    assert facts.of_points(X, Y) != facts.of_points(X, Y[::-1])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": 255 * X}, r"x must be images in \[0, 1\]"),
        ({"x": X[:3]}, "x and y must be of one length"),
        ({"x": X[:0], "y": Y[:0]}, "x and y must be of one length above 0; received 0 and 0"),
        ({"y": Y + 0.5}, "y must be integer labels"),
        ({"y": np.full((40, 4), 0.25)}, "y must be integer labels"),
        ({"y": Y + 9}, "y must be labels below 4"),
        ({"epsilon": 8}, "epsilon must be at most 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"attacks": ("apgd-cw",)}, "unknown attack 'apgd-cw'; did you mean"),
        ({"model": "nowhere.keras"}, "which does not exist"),
    ],
)
def test_what_cannot_be_attacked_is_refused_in_one_line(changes, said, network):
    given = {"model": network, "x": X, "y": Y, "epsilon": 0.1, **QUICK, "battery": False}
    with pytest.raises(ValueError, match=said) as caught:
        rst.report(**{**given, **changes})
    assert "\n" not in str(caught.value)
