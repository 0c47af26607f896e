"""Laws of families: runs of one density each, joined to a line over density."""

import csv

import pytest
from absl.testing import flagsaver
from workdirs import Case, make_run

import run_analysis
from rst_tf.analysis import groups, runs
from rst_tf.analysis.families import families_of, write


def case(density, level):
    return Case(((density, ((0.1, 0.1), (level, level))),))


SEARCH = {"name": "scratch_tickets", "rewind": None}
TUNED = {"name": "fine_tuning", "rewind": None}
RUNS = {  # name: density, level, settings
    "search_10": (0.1, 0.5, {**SEARCH, "density": 0.1}),
    "search_30": (0.3, 0.7, {**SEARCH, "density": 0.3}),
    "dense": (1.0, 0.9, {"name": "dense_training", "rewind": None}),
    "tuned_10": (0.1, 0.6, {**TUNED, "ticket": "runs/search_10"}),
    "tuned_30": (0.3, 0.8, {**TUNED, "ticket": "runs/search_30"}),
}
NAMES = ("search", "dense", "tuned")


def grouped(folder, names=tuple(RUNS), seeds=(0,)):
    found = []
    for name in names:
        density, level, settings = RUNS[name]
        for seed in seeds:
            path = make_run(folder / f"{name}_s{seed}", case(density, level), seed, **settings)
            found.append(runs.load(path))
    return groups.groups_of(found)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=str)
def test_runs_that_differ_in_density_are_one_line_by_falling_density(seeds, tmp_path):
    search, dense, tuned = families_of(grouped(tmp_path, seeds=seeds), NAMES)
    assert [line.density for line in search.table.lines] == [0.3, 0.1]
    levels = [line.chosen.robust_accuracy.mean for line in search.table.lines]
    shift = sum(0.01 * seed for seed in seeds) / len(seeds)
    assert levels == pytest.approx([0.7 + shift, 0.5 + shift])
    assert [line.density for line in dense.table.lines] == [1.0]
    assert [line.density for line in tuned.table.lines] == [0.3, 0.1]
    assert [family.label for family in (search, dense, tuned)] == list(NAMES)


def test_the_files_say_what_the_lines_are(tmp_path, capsys):
    write(families_of(grouped(tmp_path), NAMES), tmp_path / "out")
    with open(tmp_path / "out" / "families.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["family"], row["density"]): float(row["robust_accuracy"]) for row in rows}
    assert found == pytest.approx(
        {
            ("search", "0.3"): 0.7,
            ("search", "0.1"): 0.5,
            ("dense", "1.0"): 0.9,
            ("tuned", "0.3"): 0.8,
            ("tuned", "0.1"): 0.6,
        }
    )
    printed = capsys.readouterr().out
    assert "- search -" in printed and "30.0" in printed
    assert (tmp_path / "out" / "families.png").read_bytes().startswith(b"\x89PNG")
    assert "| density | accuracy (search)" in (tmp_path / "out" / "families.md").read_text()


def several(folder):
    make_run(folder / "chain", Case(((1.0, ((0.1, 0.1),)), (0.5, ((0.1, 0.1),)))), **SEARCH)
    return groups.groups_of([runs.load(folder / "chain")])


def other_seed(folder):
    first = runs.load(make_run(folder / "a", case(0.1, 0.5), 0, **RUNS["search_10"][2]))
    second = runs.load(make_run(folder / "b", case(0.3, 0.5), 1, **RUNS["search_30"][2]))
    return groups.groups_of([first, second])


def twice(folder):
    paths = (
        make_run(folder / name, case(0.1, 0.5), **{**SEARCH, "density": asked})
        for name, asked in (("a", 0.1), ("b", 0.1001))
    )
    return groups.groups_of([runs.load(path) for path in paths])


REFUSED = {
    "too few names": (grouped, ("search", "dense"), "expected one name for each of 3 families"),
    "several densities": (several, ("search",), "has 2 densities"),
    "other seeds": (other_seed, ("search",), "of the same family"),
    "one density twice": (twice, ("search",), "two runs of 'search' have the same density"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_family_is_refused(name, tmp_path):
    make, names, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        families_of(make(tmp_path), names)


def test_the_flag_writes_beside_the_report(tmp_path):
    grouped(tmp_path / "runs")
    patterns = [str(tmp_path / "runs" / f"{name}_*") for name in NAMES]
    command = [f"--runs={','.join(patterns)}", f"--out={tmp_path / 'out'}"]
    with flagsaver.flagsaver():
        arguments = ["run_analysis.py", *command, f"--families={','.join(NAMES)}"]
        run_analysis.main(run_analysis.parse(arguments))
    assert (tmp_path / "out" / "families.svg").exists()
    assert (tmp_path / "out" / "report.html").exists()
