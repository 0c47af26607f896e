"""Laws of reports on several groups of runs, and of choosing runs, rounds and steps."""

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from absl.testing import flagsaver
from workdirs import ATTACK, EVERY, Case, config_of, make_run, rows_of, save_ticket, write_results

import run_analysis
from rst_tf.analysis import (
    figures,
    groups,
    panels,
    report,
    runs,
    tables,
    tickets,
    weight_figures,
    words,
)
from rst_tf.analysis import workdirs as folders

ROOT = Path(__file__).parents[1]

CURVE = ((0.1, 0.1), (0.6, 0.5), (0.8, 0.7), (0.7, 0.75))
CHAIN = Case(tuple((0.5**round, CURVE) for round in range(4)))
DENSE = Case(((1.0, CURVE),))
LIKE_PAPER = Case(tuple((0.8**round, CURVE[:2]) for round in range(19)))


def loaded(folder: Path, table: dict[str, dict], case: Case = CHAIN, seeds=(0,)) -> list[runs.Run]:
    """Runs of some settings, a folder each."""
    return [
        runs.load(make_run(folder / f"{name}_s{seed}", case, seed, **settings))
        for name, settings in table.items()
        for seed in seeds
    ]


def grouped(folder: Path, table: dict[str, dict], **more) -> tuple[groups.Group, ...]:
    return groups.groups_of(loaded(folder, table, **more))


STRATEGIES = {
    "reset": {"rewind": "reset"},
    "reinit": {"rewind": "reinit"},
    "continued": {"rewind": "continued"},
}


# Labels

NATURAL = {"objective": {"name": "natural"}}
ADVERSARIAL = {"objective": {"name": "adversarial", "attack": {"name": "pgd", "epsilon": 0.1}}}
WEAKER = {"objective": {"name": "adversarial", "attack": {"name": "pgd", "epsilon": 0.05}}}
PLAIN = {"rewind": "reset", "rewind_step": 0, "masks_from": None, "count": "nearest"}

LABELS = {
    "one group": ([{}], [""]),
    "strategies": (
        [{"rewind": "reset"}, {"rewind": "reinit"}, {"rewind": "continued"}],
        ["rewind=reset", "rewind=reinit", "rewind=continued"],
    ),
    "a choice without its fields": (
        [NATURAL, ADVERSARIAL],
        ["objective=natural", "objective=adversarial"],
    ),
    "a choice whose fields differ, too": (
        [ADVERSARIAL, {"objective": {**WEAKER["objective"], "name": "mixed"}}],
        ["objective=adversarial", "objective=mixed"],
    ),
    "a field of a choice": (
        [ADVERSARIAL, WEAKER],
        ["objective.attack.epsilon=0.1", "objective.attack.epsilon=0.05"],
    ),
    "both": (
        [NATURAL, ADVERSARIAL, WEAKER],
        [
            "objective=natural",
            "objective=adversarial, objective.attack.epsilon=0.1",
            "objective=adversarial, objective.attack.epsilon=0.05",
        ],
    ),
    "a control": (
        [
            PLAIN,
            {**PLAIN, "rewind": "reinit"},
            {**PLAIN, "rewind": "reinit", "masks_from": "x/a_s0"},
        ],
        ["rewind=reset", "rewind=reinit", "rewind=reinit, masks_from=a_s*"],
    ),
    "a control on trials": (
        [PLAIN, {**PLAIN, "masks_from": "runs/a/seed_0"}],
        ["masks_from=none", "masks_from=a/seed_*"],
    ),
    "teachers": (
        [{"distillation": {"teachers": each}} for each in ([], ["runs/a", "runs/b/seed_7"])],
        ["distillation.teachers=none", "distillation.teachers=a,b/seed_7"],
    ),
    "what most share is not said": (
        [{**PLAIN, "rewind": r} for r in ("reset", "reinit", "continued")]
        + [{**PLAIN, "rewind_step": "end", "count": "plus_one"}],
        [
            "rewind=reset",
            "rewind=reinit",
            "rewind=continued",
            "rewind=reset, rewind_step=end, count=plus_one",
        ],
    ),
    "a setting that one has not": ([{}, {"momentum": 0.9}], ["momentum=none", "momentum=0.9"]),
    "text and number": (
        [{"rewind_step": 0}, {"rewind_step": "end"}],
        ["rewind_step=0", "rewind_step=end"],
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_groups_are_labelled_by_what_differs(tmp_path, name):
    settings, labels = LABELS[name]
    made = grouped(tmp_path, {f"run{place}": each for place, each in enumerate(settings)})
    assert [group.label for group in made] == labels


def test_runs_of_one_configuration_are_one_group(tmp_path):
    made = grouped(tmp_path, STRATEGIES, seeds=(3, 1))
    assert [[run.seed for run in group.runs] for group in made] == [[3, 1]] * 3
    assert all(group.table.seeds == (3, 1) for group in made)


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("masks_from", "runs/reset_s{:02d}"),
        ("weights_from", "runs/dense/seed_{}"),
        ("ticket", "runs/search_1/seed_{}/ticket.npz"),
        ("ticket", "runs/search_12/seed_{}/tickets/round_00_best.npz"),
    ],
)
def test_a_run_of_its_own_that_each_seed_takes_is_no_difference(tmp_path, setting, path):
    table = {f"control{seed}": {setting: path.format(seed)} for seed in (1, 12)}
    found = [
        runs.load(make_run(tmp_path / name, CHAIN, seed, **settings))
        for (name, settings), seed in zip(table.items(), (1, 12), strict=True)
    ]
    (group,) = groups.groups_of(found)
    assert group.table.seeds == (1, 12)


@pytest.mark.parametrize(
    ("paths", "number"),
    [
        (["runs/search/seed_1/ticket.npz"] * 3, 1),
        (["runs/density_0.1", "runs/density_0.2", "runs/density_0.3"], 3),
        (["runs/a/seed_1", "runs/a/seed_2", "runs/b/seed_3"], 2),
    ],
)
def test_one_ticket_for_all_seeds_is_no_difference_and_another_ticket_is(tmp_path, paths, number):
    made = [
        runs.load(make_run(tmp_path / f"r{seed}", CHAIN, seed, ticket=path))
        for seed, path in enumerate(paths, 1)
    ]
    assert len(groups.groups_of(made)) == number


OLD = {"optimizer": {"name": "sgd", "schedule": {"name": "cosine"}}}
NEW = {"optimizer": {"name": "sgd", "schedule": {"name": "cosine", "floor": 0.0}}, "smooth": [1]}
ADDED = ["smooth", "optimizer.schedule.floor"]
VERSIONS = {  # settings, of which those named are at their defaults, of two runs: groups
    "added settings at their defaults": ((OLD, []), (NEW, ADDED), 1),
    "the older one second": ((NEW, ADDED), (OLD, []), 1),
    "one of them changed": ((OLD, []), (NEW, ADDED[:1]), 2),
    "nobody knows the defaults": ((OLD, []), (NEW, []), 2),
    "a setting that is there stays": (({**OLD, "smooth": [2]}, []), (NEW, ADDED), 2),
    "below another choice": (
        ({"optimizer": {"name": "sgd", "schedule": {"name": "steps"}}}, []),
        (NEW, ADDED),
        2,
    ),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_settings_that_an_older_version_did_not_have(tmp_path, name):
    *sides, expected = VERSIONS[name]
    for seed, (settings, defaults) in enumerate(sides):
        file = make_run(tmp_path / f"seed_{seed}", CHAIN, seed, **settings) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "defaults": defaults}))
    found = folders.loaded([str(tmp_path)])[0][tmp_path]
    assert len(groups.groups_of(found)) == expected
    before = [runs.load(run.workdir).config["experiment"] for run in found]
    assert len({json.dumps(config) for config in before}) == 2  # the files are left alone


def test_settings_that_grew_over_three_versions(tmp_path):
    table = [
        ({}, []),
        ({"a": {"x": 1}}, ["a", "a.x"]),
        ({"a": {"x": 1, "b": 0}}, ["a", "a.x", "a.b"]),
    ]
    for seed, (settings, defaults) in enumerate(table):
        file = make_run(tmp_path / f"seed_{seed}", CHAIN, seed, **settings) / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "defaults": defaults}))
    (group,) = groups.groups_of(folders.loaded([str(tmp_path)])[0][tmp_path])
    assert [run.config["experiment"]["a"] for run in group.runs] == [{"x": 1, "b": 0}] * 3


@pytest.mark.parametrize(
    ("seeds", "density", "labels"),
    [
        ((0, 1), None, [""]),
        ((0, 0), None, ["rounds=3", "rounds=8"]),
        ((0, 1), 0.1, ["rounds=3", "rounds=8"]),
    ],
)
def test_the_number_of_rounds_splits_only_where_it_must(tmp_path, seeds, density, labels):
    found = [
        runs.load(make_run(tmp_path / f"r{rounds}", CHAIN, seed, rounds=rounds, density=density))
        for rounds, seed in zip((3, 8), seeds, strict=True)
    ]
    assert [group.label for group in groups.groups_of(found)] == labels


def test_the_same_seed_twice_is_an_error(tmp_path):
    found = loaded(tmp_path, {"a": {}, "b": {}})
    with pytest.raises(ValueError, match=r"b_s0 and .*a_s0 have the same seed \(0\)"):
        groups.groups_of(found)


def test_labels_of_the_users_own(tmp_path):
    found = loaded(tmp_path, STRATEGIES)
    assert [g.label for g in groups.groups_of(found, labels=["A", "B", "C"])] == ["A", "B", "C"]
    with pytest.raises(
        ValueError, match=r"one for each of 3 groups .*rewind=reset.*; received A, B"
    ):
        groups.groups_of(found, labels=["A", "B"])


@pytest.mark.parametrize("other", ["PGD(epsilon=0.3, steps=20)", None])
def test_attacks_do_not_share_a_column(tmp_path, other):
    weak = make_run(tmp_path / "weak", CHAIN, rewind="reset")
    strong = make_run(tmp_path / "strong", Case(CHAIN.rounds, attack=other), rewind="reinit")
    with pytest.raises(ValueError, match="share no column") as caught:
        groups.groups_of([runs.load(weak), runs.load(strong)])
    for said in (str(weak), str(strong), ATTACK, other or "no attack"):
        assert said in str(caught.value)


def test_a_round_that_one_seed_lacks_is_left_out(tmp_path):
    short = Case(CHAIN.rounds[:2])
    found = [
        runs.load(make_run(tmp_path / "a", CHAIN, 0)),
        runs.load(make_run(tmp_path / "b", short, 1)),
    ]
    table = tables.table(found)
    assert [line.round for line in table.lines] == [0, 1]
    assert table.unfinished == (2, 3)
    other = runs.load(make_run(tmp_path / "c", DENSE, 2))
    rows = tuple(row for row in found[0].rows if row.round > 0)
    with pytest.raises(ValueError, match="no round that all of these have finished"):
        tables.table([other, runs.Run(found[0].workdir, found[0].config, rows)])


# Side by side


@pytest.mark.parametrize(
    ("densities", "expected"),
    [
        (((1, 0.5), (1, 0.5)), [(1, 1), (0.5, 0.5)]),
        (((1, 0.0185), (1, 0.0184)), [(1, 1), (0.0185, 0.0184)]),
        (((1, 0.5, 0.25), (1, 0.25)), [(1, 1), (0.5, None), (0.25, 0.25)]),
        (((0.5,), (1, 0.8)), [(None, 1), (None, 0.8), (0.5, None)]),
        (((1, 0.999), (1, 0.999)), [(1, 1), (0.999, 0.999)]),
    ],
)
def test_densities_stand_side_by_side(tmp_path, densities, expected):
    found = [
        tables.table(
            [runs.load(make_run(tmp_path / str(place), Case(tuple((d, CURVE) for d in each))))]
        )
        for place, each in enumerate(densities)
    ]
    rows = tables.across(found)
    assert [tuple(line and line.density for line in row) for row in rows] == expected


def test_the_same_round_stands_side_by_side_first(tmp_path):
    close = Case(((1.0, CURVE), (0.995, CURVE)))
    whole = runs.load(make_run(tmp_path / "a", close))
    part = runs.Run(whole.workdir, whole.config, tuple(row for row in whole.rows if row.round))
    rows = tables.across([tables.table([whole]), tables.table([part])])
    assert [tuple(line and line.round for line in row) for row in rows] == [(0, None), (1, 1)]


@pytest.mark.parametrize(
    ("rounds", "preferred", "drawn"),
    [
        (range(3), panels.PUBLISHED_ROUNDS, (0, 1, 2)),
        (range(19), panels.PUBLISHED_ROUNDS, (0, 3, 8, 11, 15, 18)),
        (range(21), panels.PUBLISHED_ROUNDS, (0, 3, 8, 11, 15, 18)),
        (range(11), panels.PUBLISHED_ROUNDS, (0, 2, 4, 6, 8, 10)),
        (range(19), panels.PUBLISHED_WEIGHTS, (0, 3, 8, 15)),
        (range(5), panels.PUBLISHED_WEIGHTS, (0, 1, 3, 4)),
    ],
)
def test_few_rounds_are_drawn(rounds, preferred, drawn):
    assert panels.chosen_rounds(list(rounds), preferred) == drawn


def test_published_rounds_are_drawn_whatever_their_percentage(tmp_path):
    """0.8 ** 18 is 1.80 %, exact counts give 1.85 %: rounds are chosen by number."""
    for rate in (0.8, 0.8015):
        case = Case(tuple((rate**round, CURVE[:2]) for round in range(19)))
        made = grouped(
            tmp_path / str(rate), {"a": {"rewind": "reset"}, "b": {"rewind": "reinit"}}, case=case
        )
        figure = figures.over_steps_by_group(made, "accuracy")
        lines = figure.axes[0].get_lines()
        assert len(lines) == 6
        ends = [line.get_ydata()[-1] for line in lines]
        assert len(ends) == 6


def test_curves_have_the_colour_of_their_density_and_the_style_of_their_group(tmp_path):
    made = grouped(tmp_path, STRATEGIES, seeds=(0, 1))
    figure = figures.over_steps_by_group(made, "robust_accuracy")
    first, *others = figure.axes
    solid = {
        line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color())
        for line in first.get_lines()
    }
    assert len(first.get_lines()) == len(solid) == 4
    for axes in others:  # without the dense network, which all share
        lines = axes.get_lines()
        assert len(lines) == 6
        styles = [line.get_linestyle() for line in lines]
        assert styles[:3] == ["-"] * 3 and "-" not in styles[3:]
        colours = [tuple(line.get_color()) for line in lines]
        assert colours[:3] == colours[3:] and set(colours) < solid
    np.testing.assert_allclose(
        first.get_lines()[0].get_ydata(), [100 * (value + 0.005) for _, value in CURVE]
    )


def test_a_dense_network_of_its_own_is_drawn(tmp_path):
    found = [
        *loaded(tmp_path, {"chain": {"rewind": "reset"}}),
        runs.load(make_run(tmp_path / "dense", DENSE, 1, rewind="reset", rounds=0, width=2)),
    ]
    made = groups.groups_of(found)
    figure = figures.over_steps_by_group(made, "accuracy")
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 5]
    assert not groups.shared_dense(made)


def test_over_density_has_a_line_and_a_band_per_group(tmp_path):
    made = grouped(tmp_path, STRATEGIES, seeds=(0, 2))
    figure = figures.over_density(made)
    for axes, name in zip(figure.axes, ("accuracy", "robust_accuracy"), strict=True):
        curves = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
        assert len({line.get_color() for line in curves}) == len(axes.collections) == 3
        for line, group in zip(curves, made, strict=True):
            values = [100 * getattr(each.chosen, name).mean for each in group.table.lines]
            np.testing.assert_allclose(line.get_ydata(), values)
        low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
        spread = [getattr(each.chosen, name) for each in made[0].table.lines]
        assert low == pytest.approx(100 * min(each.mean - each.std for each in spread))
        assert high == pytest.approx(100 * max(each.mean + each.std for each in spread))


def test_early_stopping_is_drawn_at_either_criterion(tmp_path):
    workdir = make_run(tmp_path / "a", CHAIN)
    rows = rows_of(CHAIN, 0)
    for row in rows:
        row[8] = 0.1 if row[1] == EVERY else 0.5
    write_results(workdir, rows)
    made = groups.groups_of([runs.load(workdir)])
    steps, accuracy, robust, steps_loss, _, robust_loss = figures.early_stopping(made).axes
    assert list(steps.get_lines()[0].get_ydata()) == [2 * EVERY] * 4
    assert list(steps_loss.get_lines()[0].get_ydata()) == [EVERY] * 4
    np.testing.assert_allclose(robust.get_lines()[0].get_ydata(), [80.0] * 4)
    np.testing.assert_allclose(robust_loss.get_lines()[0].get_ydata(), [60.0] * 4)
    np.testing.assert_allclose(accuracy.get_lines()[0].get_ydata(), [90.0] * 4)


LOSSES = {  # objective: the step of the lowest loss, of (clean, attacked) = LOSS
    "natural": ({"name": "natural"}, 3),
    "adversarial": ({"name": "adversarial"}, 1),
    "mixed": ({"name": "mixed", "clean_weight": 0.5}, 2),
    "mixed, mostly clean": ({"name": "mixed", "clean_weight": 0.9}, 3),
    "trades": ({"name": "trades"}, 2),
    "none": (None, 2),
}
LOSS = (("nan", "nan"), (0.9, 0.1), (0.4, 0.3), (0.2, 0.7))


@pytest.mark.parametrize("name", LOSSES)
def test_the_lowest_loss_is_of_what_was_trained_on(tmp_path, name):
    objective, place = LOSSES[name]
    workdir = make_run(tmp_path / "a", DENSE, objective=objective)
    rows = rows_of(DENSE, 0)
    for row in rows:
        row[6], row[8] = LOSS[row[1] // EVERY]
    write_results(workdir, rows)
    assert runs.load(workdir).lowest_loss(0).step == place * EVERY


# The report


def texts_of(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text()
        for path in folder.iterdir()
        if path.suffix in (".md", ".tex", ".csv", ".html")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report on three groups of two seeds: its folder, the groups."""
    folder = tmp_path_factory.mktemp("groups")
    found = loaded(folder, STRATEGIES, seeds=(0, 1))
    for place, run in enumerate(found):
        rng = np.random.default_rng(place)
        save_ticket(
            run.workdir, "initial", (6, 4), np.ones((6, 4), bool), rng.random((6, 4), np.float32)
        )
        for round in range(4):
            kernel = rng.random((6, 4)).astype(np.float32)
            save_ticket(run.workdir, round, (6, 4), kernel > 1 - 0.5**round, kernel)
    shown = groups.groups_of(found)
    report.write_groups(shown, folder / "out")
    return folder / "out", shown


def test_every_table_of_groups_has_the_same_cells(made):
    folder, shown = made
    texts = texts_of(folder)
    marked = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in texts["table.md"].splitlines()
        if re.match(r"\| [\d.]+ \|", line)
    ]
    assert len(marked) == 8  # the best steps, and the last
    for place, group in enumerate(shown):
        for line, cells in zip(group.table.lines, marked[:4], strict=True):
            robust = line.chosen.robust_accuracy
            assert cells[2 + 2 * place] == f"{100 * robust.mean:.1f} ±{100 * robust.std:.1f}"
        for line, cells in zip(group.table.lines, marked[4:], strict=True):
            assert cells[1 + 2 * place].startswith(f"{100 * line.last.accuracy.mean:.1f} ±")
    set_ = [
        line.removesuffix(r" \\").replace(r"$\pm$", "±").split(" & ")
        for line in texts["table.tex"].splitlines()
        if re.match(r"[\d.]+ &", line)
    ]
    assert set_ == marked
    tree = ElementTree.fromstring(texts["report.html"].removeprefix("<!DOCTYPE html>"))
    body = tree.findall(".//table")[0].find("tbody")
    assert [[cell.text for cell in row] for row in body] == marked[:4]
    records = list(csv.DictReader(texts["table.csv"].splitlines()))
    assert [record["group"] for record in records[::4]] == [group.label for group in shown]
    for record, cells in zip(records, marked[:4], strict=False):
        value, spread = float(record["robust_accuracy"]), float(record["robust_accuracy_std"])
        assert cells[2] == f"{100 * value:.1f} ±{100 * spread:.1f}"


def test_latex_is_made_of_whole_tables(made):
    text = texts_of(made[0])["table.tex"]
    for name in ("table", "tabular"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 2
    columns = [len(spec) for spec in re.findall(r"\\begin\{tabular\}\{(r+)\}", text)]
    assert columns == [7, 7]
    for line in text.splitlines():
        if line.endswith(r" \\"):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d)\}", line)]
            assert len(re.split(r"(?<!\\)&", line)) + sum(spans) - len(spans) == 7
        assert not re.search(r"(?<!\\)[%_#]", line)
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 2
    assert "rewind=reset" in text and "2 runs (seeds 0, 1)" in text
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 2


@pytest.mark.parametrize(
    ("cell", "escaped"),
    [
        ("-1.5 ±0.2", r"$-$1.5 $\pm$0.2"),
        ("dense-300-100", "dense-300-100"),
        ("masks_from=a & b", r"masks\_from=a \& b"),
        ("50 % {x} #1 $", r"50 \% \{x\} \#1 \$"),
        ("\\x~^", r"\textbackslash{}x\textasciitilde{}\textasciicircum{}"),
        ("< 0.1", "$<$ 0.1"),
    ],
)
def test_latex_escapes(cell, escaped):
    from rst_tf.analysis.printing import Column, latex

    assert f"\n{escaped} \\\\\n" in latex([Column("", "x", (cell,))], [], "tab:x")


def test_the_page_of_groups_shows_each_and_refers_to_nothing_outside(made):
    folder, shown = made
    text = (folder / "report.html").read_text()
    tree = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    assert tree.find(".//h1").text == "Iterative pruning of lenet on mnist, 3 groups compared"
    for node in tree.iter():
        for attribute in ("src", "href"):
            assert node.get(attribute, "data:").startswith("data:")
    images = tree.findall(".//img")
    assert len(images) == len(list(folder.glob("*.svg"))) == 4 + 3 + 3
    assert all(image.get("alt") for image in images)
    inside = [d for d in tree.findall(".//details") if d.findall(".//img")]
    assert [d.find("summary").text for d in inside] == [f"{g.label} on its own" for g in shown]
    said = " ".join("".join(tree.itertext()).split())
    for sentence in (
        "again from the initial weights",
        "from newly drawn weights",
        "went on with the weights",
        "rewind=reinit",
        "What differs",
        "A dense network shared with rewind=reset is in the first panel only",
        "Band: one sample standard deviation over the seeds",
    ):
        assert sentence in said
    assert said.count("The data set is mnist") == 1


def test_reports_of_groups_repeat_byte_by_byte(made, tmp_path):
    folder, shown = made
    report.write_groups(shown, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_early_stopping_csv(made):
    folder, _ = made
    lines = list(csv.DictReader((folder / "early_stopping.csv").read_text().splitlines()))
    assert len(lines) == 3 * 4 * 2
    best = [line for line in lines if line["criterion"] == "highest validation robust accuracy"]
    assert [line["steps"] for line in best] == [f"{2 * EVERY} {2 * EVERY}"] * 12
    assert float(best[0]["valid_robust_accuracy"]) == pytest.approx(0.805)
    assert float(best[0]["robust_accuracy"]) == pytest.approx(0.705)
    assert float(best[0]["valid_accuracy"]) == pytest.approx(0.9025)
    loss = [line for line in lines if line["criterion"] == "lowest validation loss"]
    assert {line["step"] for line in loss} == {"0"}  # the losses are all the same


def test_long_labels_are_numbers_on_the_terminal_and_in_file_names(tmp_path, capsys):
    table = {f"run{n}": {"rewind": "reset", "folder": "x" * 40 + str(n)} for n in range(4)}
    found = loaded(tmp_path, table)
    for run in found:
        save_ticket(run.workdir, 0, (6, 4), np.eye(6, 4, dtype=bool))
    report.write_groups(groups.groups_of(found), tmp_path / "out")
    printed = capsys.readouterr().out.split("report   ")[0].splitlines()[1:]
    assert max(map(len, printed)) <= 100
    assert any(line.startswith("4: folder=xxx") for line in printed)
    assert (tmp_path / "out" / "masks_4.png").is_file()


def test_rounds_to_draw_must_be_there(tmp_path):
    made = grouped(tmp_path, STRATEGIES)
    assert len(figures.over_steps_by_group(made, "accuracy", [0, 3]).axes[0].get_lines()) == 2
    with pytest.raises(ValueError, match="rounds: there is no round 7, but 0, 1, 2, 3"):
        report.write_groups(made, tmp_path / "out", rounds=[0, 7])


# One exact step


def test_an_exact_step_is_that_row_in_every_table(tmp_path):
    (group,) = groups.groups_of(loaded(tmp_path, {"a": {}}, seeds=(0, 1)), step=EVERY)
    assert [line.chosen.steps for line in group.table.lines] == [(EVERY, EVERY)] * 4
    assert group.table.lines[1].chosen.robust_accuracy.mean == pytest.approx(0.505)
    assert group.table.lines[1].difference.mean == 0
    report.write_groups([group], tmp_path / "out")
    texts = texts_of(tmp_path / "out")
    for name in ("table.md", "table.tex", "report.html"):
        assert f"step {EVERY:,}" in texts[name] and "best step" not in texts[name].lower(), name
    (line, *_) = csv.DictReader(texts["table.csv"].splitlines())
    assert line["step"] == f"{EVERY} {EVERY}" and float(line["robust_accuracy"]) == 0.505


@pytest.mark.parametrize(
    ("count", "step", "said"),
    [
        (4, 25_021, "a_s0: round 0 was not evaluated at step 25021, but at 0, 250, 500, 750"),
        (40, 5_001, "at 0, 250, ..., 4750, 5000, 5250, 5500, ..., 9750"),
        (40, 99_999, "at 0, 250, ..., 9500, 9750"),
    ],
)
def test_a_step_that_is_not_there_names_those_that_are(tmp_path, count, step, said):
    case = Case(((1.0, ((0.1, 0.1),) * count),))
    with pytest.raises(ValueError) as caught:
        groups.groups_of(loaded(tmp_path, {"a": {}}, case=case), step=step)
    assert said in str(caught.value)


# Words

WORDS = {
    "reset": (PLAIN, "Iterative pruning (reset) of", "again from the initial weights"),
    "reinit": ({"rewind": "reinit"}, "(reinit)", "from newly drawn weights"),
    "continued": ({"rewind": "continued"}, "(continued)", "the round before had ended with"),
    "rewound": ({"rewind_step": 500}, "(reset to step 500)", "the weights of step 500"),
    "legacy": ({"rewind_step": "end"}, "(reset to trained weights)", "code published in 2019"),
    "unknown": ({"rewind_step": None}, "(reset to unknown weights)", "The files do not tell"),
    "control": (
        {"rewind": "reinit", "masks_from": "runs/reset_s0"},
        "(control: reinit under the masks of reset_s0)",
        "The masks are not the run's own but those of reset_s0",
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_rounds_start_from_is_in_title_and_paragraph(tmp_path, name):
    settings, title, sentence = WORDS[name]
    made = grouped(tmp_path, {"a": settings})
    assert title in words.title(made)
    assert sentence in words.description(made)[0]
    others = [other for key, (_, _, other) in WORDS.items() if key != name]
    said = words.description(made)[0]
    assert sum(other in said for other in others) == (name == "control")  # it draws weights, too


def test_an_imported_run_is_told_apart(tmp_path):
    rows = [row for row in rows_of(Case(((1.0, CURVE[:2]),)), 0) if row[2] != "train"]
    for row in rows:
        row[1] = 25_021 if row[1] else 1
    settings = {"steps_per_epoch": 834, "eval_every": 500, "rewind_step": "end"}
    workdir = make_run(tmp_path / "a", DENSE, name="import_published", **settings)
    write_results(workdir, rows)
    made = groups.groups_of([runs.load(workdir)])
    assert words.title(made).startswith("Imported iterative pruning (reset to trained weights) of")
    said = words.description(made)[0]
    assert "trained and evaluated by the code published in 2019" in said
    assert "its 30,000 is step 25,021" in said


def test_different_experiments_share_a_title(tmp_path):
    made = grouped(tmp_path, {"a": {}, "b": {"name": "dense_training"}})
    assert (
        words.title(made)
        == "Iterative pruning and dense training of lenet on mnist, 2 groups compared"
    )


def test_a_sentence_of_most_groups_is_said_once(tmp_path):
    found = [
        *loaded(tmp_path, STRATEGIES, seeds=(0, 1)),
        runs.load(make_run(tmp_path / "dense", DENSE, 0, rewind="reset", rounds=0)),
    ]
    shared, own = words.description(groups.groups_of(found))
    assert shared.startswith("Unless something else is said below: A dense network, then 3 sparse")
    assert "repeated with 2 seeds" in shared
    assert "One dense network" in own["rewind=reset, rounds=0"]
    assert "one seed" in own["rewind=reset, rounds=0"] and "sparse" not in own["rewind=reinit"]


PUBLISHED = {"eval_schedule": "published", "eval_every": 500, "batch_size": 60}


@pytest.mark.parametrize(
    ("step", "label"), [(None, "59,500 is step 49,707"), (25_021, "30,000 is step 25,021")]
)
def test_published_labels_are_explained(tmp_path, step, label):
    steps = [0, 1, 25_021, 49_707, 50_040]
    rows = [row for row in rows_of(Case(((1.0, CURVE[:1] * 5),)), 0) if row[2] != "train"]
    for row in rows:
        row[1] = steps[row[1] // EVERY]
    workdir = make_run(tmp_path / "a", DENSE, **PUBLISHED)
    config = config_of(DENSE, 0, **PUBLISHED)
    config["dataset"]["train_examples"] = 50_000
    (workdir / "config.json").write_text(json.dumps(config))
    write_results(workdir, rows)
    run = runs.load(workdir)
    said = words.description(groups.groups_of([run], step=step))[0]
    assert f"labels are inflated: its {label}" in said
    assert (run.published_label(50_040), run.published_label(501)) == (None, 500)
    config["experiment"]["eval_schedule"] = "exact"
    (workdir / "config.json").write_text(json.dumps(config))
    assert "inflated" not in words.description(groups.groups_of([runs.load(workdir)]))[0]


# Updates spent


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({}, [500, 1250, 2000]),
        ({"rewind_step": 250}, [500, 1000, 1500]),
        ({"rewind_step": "10ep"}, [500, 1150, 1800]),
        ({"rewind_step": "end"}, [500, 1250, 2000]),
        ({"rewind": "continued", "rewind_step": 250}, [500, 1250, 2000]),
        ({"train_steps": 800}, [500, 1300, 2100]),
        ({"train_steps": "80ep"}, [500, 1300, 2100]),
    ],
)
def test_updates_count_earlier_rounds_to_their_end(tmp_path, settings, updates):
    workdir = make_run(tmp_path / "a", CHAIN, batch_size=100, **settings)
    config = config_of(CHAIN, 0, batch_size=100, **settings)
    config["dataset"]["train_examples"] = 999
    (workdir / "config.json").write_text(json.dumps(config))
    run = runs.load(workdir)
    assert run.steps_per_epoch == 10
    assert [run.updates(round, 500) for round in range(3)] == updates


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({"rewind": "reset", "rewind_step": 0}, [500, 500, 500]),
        ({"rewind": "reset", "rewind_step": 250}, [500, 500, 500]),
        ({"rewind": "reinit"}, [500, 500, 500]),
        ({"rewind": "reset", "rewind_step": "end"}, [500, 1250, 1250]),
        ({"rewind": "continued"}, [500, 1250, 2000]),
    ],
)
def test_updates_that_the_weights_have_seen(tmp_path, settings, updates):
    run = runs.load(make_run(tmp_path / "a", CHAIN, **settings))
    assert [run.weight_updates(round, 500) for round in range(3)] == updates


# Weights


def weights_of(workdir: Path, **settings) -> dict[int, tickets.Weights]:
    make_run(workdir, CHAIN, **settings)
    kept = np.eye(6, 4, dtype=bool)
    for place, name in enumerate(("initial", "rewind", 0, 1, 2)):
        mask = kept if isinstance(name, int) and name else np.ones((6, 4), bool)
        save_ticket(workdir, name, (6, 4), mask, np.full((6, 4), place, np.float32))
    found = tickets.weights(runs.load(workdir), [0, 1, 2, 3])
    return {each.round: each for each in found}


@pytest.mark.parametrize(
    ("settings", "starts"),  # of rounds 0, 1, 2: initial 0, rewind 1, round_00 2, round_01 3
    [
        ({}, (0, 0, 0)),
        ({"rewind_step": "0"}, (0, 0, 0)),
        ({"rewind_step": 250}, (0, 1, 1)),
        ({"rewind_step": "end"}, (0, 2, 2)),
        ({"rewind": "continued"}, (0, 2, 3)),
        ({"rewind": "reinit"}, (0, None, None)),
        ({"rewind_step": None}, (0, None, None)),
    ],
)
def test_weights_before_training_are_what_the_round_started_from(tmp_path, settings, starts):
    found = weights_of(tmp_path / "a", **settings)
    assert list(found) == [0, 1, 2]  # round 3 has no ticket
    for (round, weights), start in zip(found.items(), starts, strict=True):
        assert [len(layer) for layer in weights.end] == [4 if round else 24, 4]
        assert set(weights.end[0]) == {2.0 + round}
        if start is None:
            assert weights.start is None
        else:
            assert set(weights.start[0]) == {start} and len(weights.start[0]) == len(weights.end[0])


def test_distributions_are_shares_of_each_layer(tmp_path):
    rng = np.random.default_rng(0)
    layers = (rng.uniform(-0.1, 0.1, 5000), rng.uniform(-1, 1, 100))
    weights = [tickets.Weights(n, 0.5**n, ("a", "b"), layers, layers) for n in range(3)]
    figure = weight_figures.distributions(weights)
    assert len(figure.axes) == 6
    for axes in figure.axes:
        shares = [patch.get_data().values for patch in axes.patches]
        assert [pytest.approx(100, abs=1.1)] * 2 == [values.sum() for values in shares]
        assert (shares[0] > 0).sum() < (shares[1] > 0).sum()
    assert weight_figures.distributions([]) is None


@pytest.mark.parametrize(
    ("count", "drawn"), [(2, [0, 1]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 6, 7, 8])]
)
def test_of_many_layers_the_outermost_are_drawn(count, drawn):
    layers = tuple(np.linspace(-1, 1, 50) for _ in range(count))
    names = tuple(f"layer{n}" for n in range(count))
    figure = weight_figures.distributions([tickets.Weights(0, 1.0, names, None, layers)])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [names[n] for n in drawn]
    assert len(figure.axes) == 1


# Which folders


def unfinished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(CHAIN, 9)))
    return folder


def test_a_folder_of_trials_stands_for_its_trials(tmp_path):
    for seed in (0, 2, 10):
        make_run(tmp_path / "a" / f"seed_{seed}", CHAIN, seed)
    unfinished(tmp_path / "a" / "seed_11")
    (tmp_path / "a" / "report").mkdir()
    found, skipped = folders.loaded([str(tmp_path / "a")])
    assert [run.seed for run in found[tmp_path / "a"]] == [0, 2, 10]
    assert skipped == [f"{tmp_path / 'a' / 'seed_11' / 'results.csv'}: no such file"]


def test_what_is_unfinished_is_left_out_of_a_glob_and_said(tmp_path):
    make_run(tmp_path / "run_a", CHAIN)
    unfinished(tmp_path / "run_b")
    (tmp_path / "run_c").mkdir()
    training = make_run(tmp_path / "run_d", CHAIN)
    (training / "tickets").mkdir()  # made at the start; the first round has no ticket yet
    found, skipped = folders.loaded([str(tmp_path / "run_*"), str(tmp_path / "run_a")])
    assert [len(each) for each in found.values()] == [1]
    assert len(skipped) == 3
    assert "run_c: no config.json" in skipped[1] and "no round is finished yet" in skipped[2]
    with pytest.raises(folders.NoRuns, match=r"no run has results: .*run_b.*; .*run_c"):
        folders.loaded([str(tmp_path / "run_[bc]")])


@pytest.mark.parametrize("name", ["run_b", "run_c"])
def test_what_is_named_must_be_there(tmp_path, name):
    unfinished(tmp_path / "run_b")
    (tmp_path / "run_c").mkdir()
    with pytest.raises(ValueError, match=rf"{name}/\w+\.\w+: no such file"):
        folders.loaded([str(tmp_path / name)])


def test_damage_in_a_glob_is_an_error(tmp_path):
    make_run(tmp_path / "run_a", CHAIN)
    damaged = make_run(tmp_path / "run_b", CHAIN)
    (damaged / "results.csv").write_text("round,step\n")
    with pytest.raises(ValueError, match=r"results\.csv line 1: expected the header"):
        folders.loaded([str(tmp_path / "run_*")])


# Program


def program(*arguments: str) -> None:
    """The program in this process; SystemExit with a message where it ends with an error."""
    with flagsaver.flagsaver():
        run_analysis.main(run_analysis.parse(["run_analysis.py", *arguments]))


def test_program_reports_on_groups_and_on_trials(tmp_path, capsys):
    for rewind in ("reset", "reinit"):
        for seed in (0, 1):
            make_run(tmp_path / rewind / f"seed_{seed}", CHAIN, seed, rewind=rewind)
    unfinished(tmp_path / "reset" / "seed_2")
    given = f"--runs={tmp_path}/reset,{tmp_path}/reinit"
    program(given, f"--out={tmp_path}/out", f"--step={EVERY}", "--labels=A,B", "--rounds=0,2")
    said = capsys.readouterr()
    left_out = f"run_analysis: left out {tmp_path}/reset/seed_2/results.csv: no such file\n"
    assert said.err == left_out
    assert re.search(r"-- A --+  -+ B --", said.out)
    assert f"that of step {EVERY}" in said.out
    assert "A on its own" in (tmp_path / "out" / "report.html").read_text()
    program(given)  # one report beside each
    for name in ("reset", "reinit"):
        page = (tmp_path / name / "report" / "report.html").read_text()
        assert "Iterative pruning (" + name in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step=3",), "--runs: expected the glob of a workdir; received nothing"),
        (("--runs=x", "--compare_rounds=1,2"), "--compare_rounds has no effect without --compare"),
        (("--runs=x", "--strict"), "--strict has no effect without --claims"),
        (("--claims=x", "--labels=a"), "--labels has no effect without --runs or --compare"),
        (("--runs=x", "--claims=y"), "--out: --runs with --compare or --claims needs a folder"),
        (("--compare=a",), "--compare: expected two workdirs or quoted globs; received 1: a"),
        (("--compare=a", "b", "c"), "--compare: expected two workdirs or quoted globs; received 3"),
        (("--runs=x", "b"), "unexpected argument 'b'"),
        (("--runs=/nowhere/*",), "--runs: no folder matches '/nowhere/*'"),
        (("--runs=tests", "--rounds=0,last"), "tests/config.json: no such file"),
        (("--runs=x", "--step=-1"), "flag --step=-1"),
    ],
)
def test_program_refuses_in_one_line(arguments, message):
    with pytest.raises(SystemExit) as caught:
        program(*arguments)
    assert str(caught.value).startswith(f"run_analysis: error: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("density", [None, 0.1])
def test_seeds_of_an_experiment_may_have_more_rounds_unless_these_set_the_rate(density, tmp_path):
    found = [
        runs.load(make_run(tmp_path / f"s{seed}", CHAIN, seed, rounds=rounds, density=density))
        for seed, rounds in ((0, 3), (1, 18))
    ]
    if density is None:
        groups.same_experiment(found)
    else:
        with pytest.raises(ValueError, match="rounds is 18 instead of 3"):
            groups.same_experiment(found)
