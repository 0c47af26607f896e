"""Laws of --claims: a YAML list in, values with intervals and verdicts out."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from absl.testing import flagsaver
from workdirs import EVERY, Case, config_of, make_run

import run_analysis
from rst_tf.analysis import claims, claims_report, estimates, verdicts

CURVE = ((0.1, 0.1), (0.8, 0.7), (0.75, 0.72))
CHAIN = Case(((1.0, CURVE), (0.5, ((0.1, 0.1), (0.7, 0.6), (0.85, 0.78)))))
NATURAL = Case(((1.0, CURVE),), attack=None)
BASE = {"claim": "It is robust", "runs": "runs/a/seed_*", "expect": {"at_least": 60}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs: a and b of seeds 0 to 2, c of seed 1, natural, and one unfinished."""
    root = tmp_path_factory.mktemp("claims")
    for seed in (0, 1, 2):
        make_run(root / "runs" / "a" / f"seed_{seed}", CHAIN, seed)
        make_run(root / "runs" / "b" / f"seed_{seed}", Case((CHAIN.rounds[0],)), seed, rounds=0)
    make_run(root / "runs" / "c" / "seed_1", CHAIN, 1, rewind="reinit")
    make_run(root / "runs" / "d" / "seed_7", CHAIN, 7, rewind="continued")
    make_run(root / "runs" / "natural", NATURAL)
    make_run(root / "runs" / "strong", Case(CHAIN.rounds, attack="PGD(epsilon=0.3)"))
    make_run(root / "runs" / "unknown", Case(CHAIN.rounds, examples=None))
    waiting = root / "runs" / "waiting" / "seed_0"
    waiting.mkdir(parents=True)
    (waiting / "config.json").write_text(json.dumps(config_of(CHAIN, 0)))
    (root / "results").mkdir()
    return root


def judged(folder: Path, **changes) -> verdicts.Result:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump([{**BASE, **changes}]))
    (claim,) = claims.read(path)
    return verdicts.judge(claim, folder)


# Values


@pytest.mark.parametrize(
    ("changes", "values"),
    [  # or the two parts of one difference
        ({}, [0.78, 0.79, 0.80]),  # the last round, at its best step
        ({"round": 0}, [0.7, 0.71, 0.72]),
        ({"round": 0, "at": "last"}, [0.72, 0.73, 0.74]),
        ({"round": 0, "at": EVERY}, [0.7, 0.71, 0.72]),
        ({"round": 0, "split": "valid"}, [0.8, 0.81, 0.82]),
        ({"round": 0, "metric": "accuracy"}, [0.85, 0.855, 0.86]),
        ({"round": 0, "at": "lowest_loss"}, [0.1, 0.11, 0.12]),  # all the same: the first
        ({"round": 0, "minus": "runs/b"}, [0.0, 0.0, 0.0]),
        ({"round": 1, "minus": "runs/b", "minus_round": 0}, [0.08, 0.08, 0.08]),
        ({"minus": "runs/b", "at": "last"}, [0.06, 0.06, 0.06]),
        ({"minus": "runs/b", "at": "last", "minus_at": "best"}, [0.08, 0.08, 0.08]),
        ({"minus": "runs/c", "minus_round": 0}, (0.79, 0.71)),
        ({"runs": "runs/c/seed_1"}, [0.79]),
        ({"minus": "runs/natural", "round": 0, "metric": "accuracy"}, (0.85, 0.7)),
        ({"minus": "runs/strong", "metric": "accuracy"}, (0.89, 0.89)),  # no attack behind it
    ],
)
def test_values_are_means_in_percent_with_their_interval(folder, changes, values):
    result = judged(folder, **changes)
    parts = values
    values = [parts[0] - parts[1]] if isinstance(parts, tuple) else parts
    assert result.value == pytest.approx(100 * sum(values) / len(values))
    assert len(result.seeds) == len(values)
    if len(values) > 1:
        interval = estimates.student(values)
    elif "minus" in changes:
        interval = estimates.newcombe(*parts, (1000, 1000))
    else:
        interval = estimates.wilson(values[0], 1000)
    assert result.interval == pytest.approx([100 * bound for bound in interval])


def test_steps_are_in_updates_and_have_an_interval_over_seeds_only(folder):
    result = judged(folder, metric="step", round=1)
    assert (result.value, result.interval) == (2 * EVERY, (2 * EVERY, 2 * EVERY))
    single = judged(folder, metric="step", runs="runs/c", expect={"at_most": 9999})
    assert (single.value, single.interval, single.verdict) == (2 * EVERY, None, "undecided")


@pytest.mark.parametrize(
    ("expect", "verdict"),
    [  # of 79, interval 76.52 to 81.48
        ({"at_least": 76}, "holds"),
        ({"at_least": 76.6}, "undecided"),
        ({"at_least": 81.4}, "undecided"),
        ({"at_least": 82}, "does not hold"),
        ({"at_most": 82}, "holds"),
        ({"at_most": 79}, "undecided"),
        ({"at_most": 76}, "does not hold"),
        ({"within": [76, 82]}, "holds"),
        ({"within": [78, 80]}, "undecided"),
        ({"within": [70, 77]}, "undecided"),
        ({"within": [70, 76]}, "does not hold"),
        ({"within": [82, 90]}, "does not hold"),
    ],
)
def test_verdicts_are_by_the_whole_interval(folder, expect, verdict):
    result = judged(folder, expect=expect)
    assert result.interval == pytest.approx((76.516, 81.484), abs=1e-3)
    assert result.verdict == verdict


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"runs": "runs/x_*"}, "no folder matches 'runs/x_*'"),
        ({"runs": "runs/waiting"}, "runs/waiting/seed_0/results.csv: no such file"),
        ({"round": 2}, "not all of runs/a/seed_* have finished round 2"),
        ({"at": 9}, "runs/a/seed_0: round 1 was not evaluated at step 9, but at 0, 250, 500"),
        ({"minus": "runs/x_*"}, "no folder matches 'runs/x_*'"),
        ({"minus": "runs/b"}, "not all of runs/b have finished round 1"),
        ({"minus": "runs/d"}, "no common seeds: 0 1 2 and 7"),
        ({"runs": "runs/natural"}, "runs/natural was evaluated without an attack"),
    ],
)
def test_what_is_missing_is_no_data_and_said(folder, changes, note):
    changes = {"round": 1, **changes} if "minus" in changes else changes
    result = judged(folder, **changes)
    assert (result.verdict, result.value, result.interval) == ("no data", None, None)
    assert note in result.note and str(folder) not in result.note


def test_what_is_left_out_is_said(folder):
    result = judged(folder, runs="runs/[a]*", minus="runs/c", expect={"at_most": 0})
    assert result.seeds == (1,)
    assert result.note == "seed 0 is on one side only; seed 2 is on one side only"
    assert judged(folder, runs="runs/unknown").verdict == "undecided"  # no interval


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": "runs/[ac]/seed_*"}, "is not .* with another seed: rewind is 'reinit'"),
        ({"minus": "runs/strong"}, "share no column"),
    ],
)
def test_runs_that_do_not_belong_together_are_an_error(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        judged(folder, **changes)


# Reading


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clain": "x"}, "claim 1: unknown key 'clain'; did you mean 'claim'?"),
        ({"expected": "x"}, "claim 1: unknown key 'expected'"),
        ({"runs": None}, "claim 1: runs must be text; received None"),
        (
            {"metric": "robust_acc"},
            "claim 1: unknown metric 'robust_acc'; did you mean 'robust_accuracy'?",
        ),
        ({"split": "train"}, "claim 1: unknown split 'train'"),
        ({"round": -1}, "claim 1: round must be a round's number; received -1"),
        ({"round": True}, "claim 1: round must be a round's number; received True"),
        ({"at": "end"}, "claim 1: at must be best, last, lowest_loss or a step; received 'end'"),
        ({"minus_at": 3}, "claim 1: minus_at has no effect without minus"),
        ({"minus_round": 3}, "claim 1: minus_round has no effect without minus"),
        ({"expect": 60}, "claim 1: expect must be {at_least: X}, {at_most: X} or"),
        ({"expect": {"at_least": "60 %"}}, "received {'at_least': '60 %'}"),
        ({"expect": {"at_least": 1, "at_most": 2}}, "received {'at_least': 1, 'at_most': 2}"),
        ({"expect": {"within": [3, 2]}}, "received {'within': [3, 2]}"),
        ({"expect": {"about": 3}}, "received {'about': 3}"),
    ],
)
def test_a_claim_that_cannot_be_read_names_what_is_wrong(tmp_path, changes, message):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**BASE, **changes}]))
    with pytest.raises(ValueError) as caught:
        claims.read(path)
    assert str(caught.value).startswith(f"{path}: claim 1: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["claim", "runs", "expect"])
def test_what_a_claim_needs(tmp_path, name):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{key: value for key, value in BASE.items() if key != name}]))
    with pytest.raises(ValueError, match=f"claim 1: {name} is missing"):
        claims.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a: [1\n", "line 2: not YAML"),
        ("a: 1\n", "expected a list of claims; received dict"),
        ("", "expected a list of claims; received NoneType"),
        ("- 3\n", "claim 1: expected a mapping; received 3"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_list_of_claims(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as caught:
        claims.read(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_the_example_in_the_documentation_is_a_claim(tmp_path):
    text = claims.__doc__
    example = text[text.index("    - claim") : text.index("`runs` must")]
    (tmp_path / "claims.yaml").write_text(example)
    (claim,) = claims.read(tmp_path / "claims.yaml")
    assert (claim.round, claim.at, claim.minus_round, claim.minus_at) == (3, 25021, 0, 25021)
    assert set(yaml.safe_load(example)[0]) == {*claims.Claim.__dataclass_fields__} - {"expected"}


# Writing

FILE = [
    {**BASE, "runs": "../runs/a", "source": "Somewhere 2019, <Table 1>"},
    {**BASE, "claim": "It is | better", "runs": "../runs/a", "minus": "../runs/b", "minus_round": 0,
     "expect": {"at_most": 0}},
    {**BASE, "claim": "Not yet", "runs": "../runs/soon", "expect": {"within": [1, 2]}},
    {**BASE, "claim": "Early", "runs": "../runs/a", "metric": "step", "expect": {"at_most": 600}},
]  # fmt: skip


def test_claims_csv_markdown_page_and_terminal(folder, capsys):
    path = folder / "results" / "claims.yaml"
    path.write_text(yaml.safe_dump(FILE))
    section, results = claims_report.write(path, folder / "out")
    assert [r.verdict for r in results] == ["holds", "does not hold", "no data", "holds"]
    text = (folder / "out" / "claims.csv").read_text()
    lines = list(csv.DictReader(text.splitlines()))
    head = "claim,metric,value,low,high,seeds,expected,verdict,"
    assert text.startswith(head)
    assert float(lines[0]["value"]) == pytest.approx(79)
    assert lines[0]["low"] == "76.515862" and lines[0]["seeds"] == "0 1 2"
    assert lines[1]["expected"] == "at most 0" and float(lines[1]["value"]) == 8
    assert (lines[2]["value"], lines[2]["low"], lines[2]["seeds"]) == ("", "", "")
    assert lines[2]["note"] == "no folder matches '../runs/soon'"
    assert lines[3]["value"] == "500.0"
    tree = ElementTree.fromstring(f"<main>{section}</main>")
    shown = [[cell.text or "" for cell in row] for row in tree.find(".//tbody")]
    marked = (folder / "out" / "claims.md").read_text().splitlines()[2:6]
    cells = [[c.strip() for c in line.strip("|").replace("\\|", "¦").split("|")] for line in marked]
    assert [[c.replace("¦", "|") for c in row] for row in cells] == shown
    assert shown[0][1:4] == ["79.00", "76.52 to 81.48", "0, 1, 2"]
    assert shown[3][1:3] == ["500", "500 to 500"]
    printed = capsys.readouterr().out
    for result in results:
        assert f"{result.verdict:13}" in printed and result.claim.claim in printed
    assert "holds: 2, does not hold: 1, undecided: 0, no data: 1" in "".join(tree.itertext())


def test_program_writes_claims_beside_the_file(folder):
    path = folder / "results" / "claims.yaml"
    path.write_text(yaml.safe_dump(FILE))
    with flagsaver.flagsaver():
        run_analysis.main(run_analysis.parse(["run_analysis.py", f"--claims={path}"]))
    assert (folder / "results" / "claims.csv").is_file()
    assert not (folder / "results" / "report.html").exists()
    with flagsaver.flagsaver(), pytest.raises(SystemExit, match="no data for 1 of 4: 'Not yet'"):
        run_analysis.main(run_analysis.parse(["x", f"--claims={path}", "--strict"]))


def test_program_puts_claims_on_the_page(folder):
    path = folder / "results" / "claims.yaml"
    path.write_text(yaml.safe_dump(FILE))
    given = [f"--claims={path}", f"--runs={folder}/runs/b", f"--out={folder}/page"]
    with flagsaver.flagsaver():
        run_analysis.main(run_analysis.parse(["x", *given]))
    text = (folder / "page" / "report.html").read_text()
    assert "<h2>Claims</h2>" in text and 'class="fails">does not hold' in text
