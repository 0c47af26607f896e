"""Laws of robust overfitting: what is measured on training images, and what is said of best and
last."""

import csv
import dataclasses
import functools
import json

import pytest
from absl.testing import flagsaver
from trainings import TABLE, files, read
from workdirs import EVERY, Case, make_run, rows_of, write_results

import run_analysis
from experiments.experiment import RunError
from experiments.training import Session
from rst_tf import Ticket
from rst_tf.analysis import claims, costs, groups, overfitting_report, runs, topology, verdicts
from rst_tf.analysis.overfitting import COSTS, declines_of
from rst_tf.data import Data
from rst_tf.evaluation import Evaluator


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Reading the images anew would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "load", functools.cache(Data.load))
        yield


# ---------------------------------------------------------------- the split `unaugmented`

MEASURED = 40
RUN = dataclasses.replace(TABLE["augmented"], eval_train=MEASURED)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run that evaluates training images, and the same without."""
    root = tmp_path_factory.mktemp("runs")
    RUN.run(root / "with")
    TABLE["augmented"].run(root / "without")
    return root / "with", root / "without"


def test_training_images_are_measured_at_every_evaluation(both):
    rows = read(both[0])
    for split in ("test", "unaugmented"):
        assert [int(row["step"]) for row in rows if row["split"] == split] == [0, 4, 6]


def test_they_are_training_images_as_they_are_under_the_attack_of_evaluations(both):
    network = Ticket.load(both[0] / "tickets" / "round_00.npz").build()
    splits = RUN.data.load()
    part = splits.train.limited(MEASURED)
    assert set(part.index) <= set(splits.train.index)
    found = Evaluator(network, RUN.judged_by, seed=RUN.seed)(part)
    row = next(r for r in read(both[0]) if (r["step"], r["split"]) == ("6", "unaugmented"))
    assert row["attack"] == str(RUN.evaluation_attack)
    assert float(row["accuracy"]) == pytest.approx(found.accuracy)
    assert float(row["robust_accuracy"]) == pytest.approx(found.robust_accuracy)


def test_measuring_them_changes_nothing_else(both):
    kept = [[row for row in read(run) if row["split"] != "unaugmented"] for run in both]
    assert kept[0] == kept[1]
    one, other = (files(run) for run in both)
    assert one.pop("results.csv") != other.pop("results.csv")
    assert one == other


def test_as_many_as_there_are():
    session = Session(dataclasses.replace(RUN, eval_train=10**6), None)
    assert len(session.evaluated["unaugmented"]) == len(session.splits.train)


NEW = ("eval_train", "distillation", "average_from", "average_every")


def test_a_folder_of_an_earlier_version_goes_on(tmp_path):
    """It knows none of the settings; at their defaults they change nothing."""
    plain = TABLE["augmented"]
    with Session(plain, tmp_path):
        pass
    config = json.loads((tmp_path / "config.json").read_text())
    for name in NEW:
        del config["experiment"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Session(plain, tmp_path):
        pass
    with pytest.raises(RunError, match="was made by another configuration"):
        Session(RUN, tmp_path)


def test_none_is_no_number():
    with pytest.raises(ValueError, match="eval_train must be at least 1; received eval_train=0"):
        dataclasses.replace(RUN, eval_train=0)


# ---------------------------------------------------------------- best and last

CURVES = {  # (validation, test) by step, then: on training images, expected best index
    "falls": (((0.1, 0.1), (0.5, 0.48), (0.4, 0.41)), (0.1, 0.6, 0.9), 1),
    "a tie takes the first": (((0.1, 0.1), (0.5, 0.4), (0.5, 0.6)), (0.2, 0.5, 0.7), 1),
    "never falls": (((0.1, 0.1), (0.3, 0.3), (0.5, 0.48)), (0.1, 0.4, 0.6), 2),
    "rises on test": (((0.5, 0.3), (0.4, 0.35)), (0.3, 0.3), 0),
    "training images not measured": (((0.2, 0.2), (0.5, 0.5), (0.4, 0.3)), None, 1),
}
every_curve = pytest.mark.parametrize("name", CURVES)


def workdir_of(folder, name, seed=0, attack=True, **settings):
    evaluations, training, _ = CURVES[name]
    case = Case(((1.0, evaluations),), **({} if attack else {"attack": None}))
    folder = make_run(folder, case, seed, **settings)
    rows = []
    for row in rows_of(case, seed):
        rows.append(row)
        if row[2] == "test" and training:
            measured = [*row[:2], "unaugmented", *row[3:]]
            measured[-1 if attack else 7] = training[row[1] // EVERY]
            rows.append(measured)
    write_results(folder, rows)
    return folder


def decline_of(*workdirs):
    (decline,) = declines_of(groups.groups_of([runs.load(folder) for folder in workdirs]))
    return decline


@every_curve
@pytest.mark.parametrize("attack", [True, False], ids=["attacked", "natural"])
def test_best_is_the_first_highest_on_validation_and_all_of_one_step(name, attack, tmp_path):
    evaluations, training, best = CURVES[name]
    found = decline_of(workdir_of(tmp_path / "run", name, attack=attack))
    assert found.best.steps == (EVERY * best,)
    assert found.last.steps == (EVERY * (len(evaluations) - 1),)
    test = [value for _, value in evaluations]
    clean = [(1 + value) / 2 if attack else value for value in test]
    assert found.accuracy.mean == pytest.approx(clean[best] - clean[-1])
    assert found.best.accuracy.mean == pytest.approx(clean[best])
    assert (found.robust_accuracy is None) == (not attack)
    if attack:
        assert found.robust_accuracy.mean == pytest.approx(test[best] - test[-1])
    if training is None:
        assert found.best_gap is None and found.last_gap is None
    else:
        assert found.best_gap.mean == pytest.approx(training[best] - test[best])
        assert found.last_gap.mean == pytest.approx(training[-1] - test[-1])


def test_seeds_are_averaged_after_each_was_subtracted(tmp_path):
    found = decline_of(*(workdir_of(tmp_path / f"s{n}", "falls", n) for n in range(3)))
    assert found.robust_accuracy.mean == pytest.approx(0.07)
    assert found.robust_accuracy.std == pytest.approx(0, abs=1e-9)
    assert found.best_gap.std == pytest.approx(0.01)  # training images do not rise with the seed


def test_a_gap_of_some_seeds_is_no_gap(tmp_path):
    folders = [workdir_of(tmp_path / f"s{n}", "falls", n) for n in range(2)]
    rows = [row for row in read(folders[1]) if row["split"] != "unaugmented"]
    write_results(folders[1], [list(row.values()) for row in rows])
    assert decline_of(*folders).last_gap is None


def called(*arguments):
    with flagsaver.flagsaver():
        run_analysis.main(run_analysis.parse(["run_analysis.py", *arguments]))


def write(folder):
    """A report on two runs, one of them with updates of its masks."""
    for name, density in (("falls", None), ("training images not measured", 0.2)):
        workdir_of(folder / name.split()[0], name, rewind=None, density=density)
    updates = [
        {"step": 300, "prune_more": True, "grow_more": False},
        {"step": 400, "prune_more": True, "grow_more": True},
        {"step": 450, "prune_more": False, "grow_more": False},
    ]
    lines = [json.dumps(u | {"density_before": 0.2, "density_after": 0.1}) for u in updates]
    (folder / "training" / "topology.jsonl").write_text("\n".join([*lines, ""]))
    called(f"--runs={folder / '*'}", f"--out={folder / 'out'}", "--overfitting")
    return folder / "out"


def test_the_table_is_printed_and_stands_in_every_file(tmp_path, capsys):
    out = write(tmp_path)
    said = capsys.readouterr().out
    with open(out / "overfitting.csv", newline="") as file:
        one, other = csv.DictReader(file)
    assert (one["best_step"], one["last_step"]) == ("250", "500")
    assert float(one["robust_accuracy_difference"]) == pytest.approx(0.07)
    assert float(one["last_gap"]) == pytest.approx(0.49)
    assert other["last_gap"] == "" and float(other["accuracy_difference"]) == pytest.approx(0.1)
    page, tex = (out / "report.html").read_text(), (out / "overfitting.tex").read_text()
    for text in (said, (out / "overfitting.md").read_text(), tex, page):
        assert "+7.0" in text and "+49.0" in text and "gap to training" in text
    assert "Robust overfitting" in page and 'id="overfitting"' in page
    rows = [line.split() for line in said.splitlines() if "+20.0" in line]
    assert rows[0][-2:] == ["-", "-"]


def test_seeds_with_teachers_of_their_own_are_one_group(tmp_path):
    found = []
    for seed in range(2):
        taught = {"teachers": [f"runs/natural_s{seed}"], "weight": 0.5}
        folder = workdir_of(tmp_path / f"s{seed}", "falls", seed, distillation=taught)
        config = json.loads((folder / "config.json").read_text())
        config["dataset"]["teachers"] = [f"digest {seed}"]
        (folder / "config.json").write_text(json.dumps(config))
        found.append(runs.load(folder))
    assert len(groups.groups_of(found)) == 1


def judged(folder, **keys):
    claim = {"claim": "It holds", "runs": "s*", "expect": {"at_least": 0}, **keys}
    (folder / "claims.yaml").write_text(json.dumps([claim]))  # JSON is YAML
    return verdicts.judge(claims.read(folder / "claims.yaml")[0], folder)


@pytest.mark.parametrize("seeds", [1, 3])
def test_claims_can_be_of_gaps_and_of_what_is_lost(seeds, tmp_path):
    """The numbers of the table; an interval only over seeds."""
    folders = [workdir_of(tmp_path / f"s{n}", "falls", n) for n in range(seeds)]
    found = decline_of(*folders)
    for keys, value in (
        ({"metric": "gap"}, found.best_gap.mean),
        ({"metric": "gap", "at": "last"}, found.last_gap.mean),
        ({"metric": "overfitting"}, found.robust_accuracy.mean),
        ({"metric": "gap", "at": "last", "minus": "s*", "minus_at": "best"}, 0.37),
    ):
        result = judged(tmp_path, **keys)
        assert result.value == pytest.approx(100 * value)
        assert (result.interval is None) == (seeds == 1)
        assert result.verdict == ("undecided" if seeds == 1 else "holds")


def test_claims_of_gaps_say_what_is_missing(tmp_path):
    workdir_of(tmp_path / "s0", "training images not measured")
    said = judged(tmp_path, metric="gap")
    assert said.verdict == "no data" and said.note.endswith("training images (eval_train)")
    with pytest.raises(ValueError, match="at has no effect on overfitting"):
        judged(tmp_path, metric="overfitting", at="last")


def test_costs_stand_beside_accuracies(tmp_path, capsys):
    """Of all rounds so far; what a run does not tell is a dash, and empty in the CSV file."""
    folders = [workdir_of(tmp_path / f"s{n}", "falls", density=1 - n) for n in range(2)]
    cost = costs.Cost(0, 5, 100, 0, 10, 1, 4 * 10**9, 10**10, 3 * 10**6, None, 10**7)
    (folders[0] / costs.FILE).write_text(costs.text({0: cost}))
    found = groups.groups_of([runs.load(folder) for folder in folders])
    overfitting_report.write(found, tmp_path / "out")
    with open(tmp_path / "out" / "overfitting.csv", newline="") as file:
        one, other = csv.DictReader(file)
    assert (float(one["training"]), float(one["training_of_dense"])) == (4e9, 0.4)
    assert float(one["inference_last_of_dense"]) == 0.3 and one["inference_best"] == ""
    assert not any(other[name] for name in COSTS)
    lines = [line for line in capsys.readouterr().out.splitlines() if "+49.0" in line]
    assert lines[0].endswith("4e+09 (40.0 %)  3e+06 (30.0 %)") and lines[1].split()[-1] == "-"


def test_the_figure_marks_what_updates_did(tmp_path):
    """The legend tells what was drawn: training batches where images were not measured."""
    svg = (write(tmp_path) / "overfitting.svg").read_text()
    for said in ("pruned more", "grew more", "training images", "as trained on", "best step"):
        assert said in svg, said


def test_runs_without_updates_have_no_marks(tmp_path):
    found = groups.groups_of([runs.load(workdir_of(tmp_path / "run", "falls"))])
    overfitting_report.write(found, tmp_path / "out")
    svg = (tmp_path / "out" / "overfitting.svg").read_text()
    assert "pruned more" not in svg and "as trained on" not in svg


@pytest.mark.parametrize("line", ['{"step": 3}', "[1, 2]", "{", "3"])
def test_damaged_updates_are_said_to_be(line, tmp_path):
    good = {"step": 1, "prune_more": False, "grow_more": False}
    good |= {"density_before": 0.2, "density_after": 0.2}
    (tmp_path / "topology.jsonl").write_text(f"{json.dumps(good)}\n{line}\n")
    with pytest.raises(ValueError, match=r"topology.jsonl line 2: not an update"):
        topology.read(tmp_path)


def test_without_runs_the_flag_has_no_effect():
    with pytest.raises(SystemExit, match="--overfitting has no effect without --runs"):
        called("--masks=somewhere", "--overfitting")
