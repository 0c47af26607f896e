"""Laws of --compare: the same test points, equal updates, a paired test."""

import csv
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from absl.testing import flagsaver
from workdirs import EVERY, Case, config_of, make_run, save_correct

import run_analysis
from rst_tf.analysis import comparison, comparison_report, correctness, estimates, runs

EXAMPLES = 200
GOOD = ((0.1, 0.1), (0.6, 0.5), (0.8, 0.7), (0.7, 0.75))
POOR = ((0.1, 0.1), (0.5, 0.45), (0.7, 0.6), (0.7, 0.65))
CHAIN = Case(((1.0, GOOD), (0.5, GOOD)), examples=EXAMPLES)
POORER = Case(((1.0, POOR), (0.5, POOR)), examples=EXAMPLES)
LONG = Case(((1.0, POOR[:1] + POOR * 2),), examples=EXAMPLES)
SHORT = Case(((1.0, POOR[:3]),), examples=EXAMPLES)


def side(folder: Path, case: Case, seeds=(0,), answers: bool = True, **settings) -> list[runs.Run]:
    """Runs of one configuration; with their answers by example."""
    made = []
    for seed in seeds:
        workdir = make_run(folder / f"seed_{seed}", case, seed, **settings)
        for round in range(len(case.rounds)) if answers else ():
            save_correct(workdir, round, EXAMPLES, 7 * seed + len(settings))
        made.append(runs.load(workdir))
    return made


def both(folder: Path, seeds=(0,), **more) -> tuple[list[runs.Run], list[runs.Run]]:
    first = side(folder / "a", CHAIN, seeds, **more, rewind="reset")
    return first, side(folder / "b", POORER, seeds, **more, rewind="reinit", extra=1)


# Answers by example


def test_answers_are_in_the_order_of_the_examples(tmp_path):
    workdir = make_run(tmp_path / "a", CHAIN)
    order = np.random.default_rng(0).permutation(EXAMPLES)
    known = save_correct(workdir, 1, EXAMPLES, seed=3, order=order)
    run = runs.load(workdir)
    for step in (0, 2 * EVERY):
        found = correctness.load(run, 1, step)
        np.testing.assert_array_equal(found.index, np.arange(EXAMPLES))
        for name, right in known.items():
            np.testing.assert_array_equal(getattr(found, name), right[step])
    assert correctness.load(run, 0, 0) is None


def without(name: str):
    return lambda arrays: {key: value for key, value in arrays.items() if key != name}


DAMAGE = {
    "no clean": (without("clean"), "is damaged: no examples"),
    "no index": (without("index"), "is damaged"),
    "no robust": (without("robust"), "robust and results.csv's robust_accuracy must be both"),
    "too few bits": (lambda a: {**a, "clean": a["clean"][:, 1:]}, "is damaged: clean is uint8"),
    "no packed bits": (
        lambda a: {**a, "clean": a["clean"].astype(int)},
        "is damaged: clean is int64",
    ),
    "twice": (lambda a: {**a, "index": a["index"] * 0}, "an example occurs twice"),
    "other steps": (lambda a: {**a, "steps": a["steps"] + 1}, "no step 250, but 1, 251, 501, 751"),
    "other answers": (
        lambda a: {**a, "clean": a["clean"][::-1]},
        "step 250 has accuracy 0.85, results.csv 0.75",
    ),
    "empty": (lambda a: {**a, "index": a["index"][:0], "clean": a["clean"][:, :0]}, "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_answers_name_the_file(tmp_path, damage):
    workdir = make_run(tmp_path / "a", CHAIN)
    save_correct(workdir, 0, EXAMPLES, 1)
    path = workdir / "correct" / "round_00.npz"
    change, message = DAMAGE[damage]
    arrays = change(dict(np.load(path)))
    np.savez(path, **arrays)
    with pytest.raises(ValueError) as caught:
        correctness.load(runs.load(workdir), 0, EVERY)
    assert str(path) in str(caught.value) and message in str(caught.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        correctness.load(runs.load(workdir), 0, EVERY)


# Numbers


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (2, 0, 1)])
def test_pairs_by_hand(tmp_path, seeds):
    first, second = both(tmp_path, seeds)
    found = comparison.compare(first, second)
    assert (found.first.step, found.second.step) == (3 * EVERY,) * 2
    assert (found.first.round, found.second.round) == (1, 1)
    for name in ("accuracy", "robust_accuracy"):
        pairs = found.of(name)
        assert [pair.seeds for pair in pairs] == [(seed, seed) for seed in seeds]
        for pair, one, other in zip(pairs, first, second, strict=True):
            here = getattr(correctness.load(one, 1, 3 * EVERY), name)
            there = getattr(correctness.load(other, 1, 3 * EVERY), name)
            only = [(here & ~there).sum(), (there & ~here).sum()]
            assert [pair.only_first, pair.only_second] == only
            assert pair.p_value == estimates.mcnemar(*map(int, only))
            assert pair.difference == pytest.approx(here.mean() - there.mean())
            assert pair.interval == estimates.paired(*only, EXAMPLES)
        differences = [pair.difference for pair in pairs]
        expected = pairs[0].interval if len(seeds) == 1 else estimates.student(differences)
        assert found.interval(name) == expected


def test_turned_around_it_is_the_same_with_the_other_sign(tmp_path):
    first, second = both(tmp_path, (0, 1))
    one, other = comparison.compare(first, second), comparison.compare(second, first)
    for here, there in zip(one.pairs, other.pairs, strict=True):
        assert here.difference == pytest.approx(-there.difference)
        assert here.p_value == there.p_value
        assert (here.only_first, here.only_second) == (there.only_second, there.only_first)


def test_the_order_of_the_examples_in_the_files_does_not_matter(tmp_path):
    first, second = both(tmp_path)
    before = comparison.compare(first, second)
    path = second[0].workdir / "correct" / "round_01.npz"
    arrays = dict(np.load(path))
    order = np.random.default_rng(0).permutation(EXAMPLES)
    for name in ("clean", "robust"):
        bits = np.unpackbits(arrays[name], axis=1, count=EXAMPLES)
        arrays[name] = np.packbits(bits[:, order], axis=1)
    np.savez(path, **{**arrays, "index": arrays["index"][order]})
    assert comparison.compare(first, second) == before


def test_a_run_with_itself_shows_no_difference(tmp_path):
    run = side(tmp_path / "a", CHAIN)
    found = comparison.compare(run, run, rounds=(1, 1))
    assert {(pair.difference, pair.p_value) for pair in found.pairs} == {(0.0, 1.0)}
    rounds = comparison.compare(run, run, rounds=(1, 0))
    assert [rounds.first.label, rounds.second.label] == ["seed_0, round 1", "seed_0, round 0"]


# Equal updates


@pytest.mark.parametrize(
    ("case", "rounds", "equal", "steps", "updates"),
    [
        (SHORT, None, "round", (500, 500), (1250, 500)),  # the last that both have
        (SHORT, (0, 0), "round", (500, 500), (500, 500)),
        (LONG, None, "round", (750, 750), (1500, 750)),
        (LONG, None, "total", (750, 1500), (1500, 1500)),  # 750 of round 0, and 750 of round 1
        (LONG, (0, 0), "total", (750, 750), (750, 750)),
        (LONG, None, "weights", (750, 750), (1500, 750)),
    ],
)
def test_updates_are_equal(tmp_path, case, rounds, equal, steps, updates):
    first = side(tmp_path / "a", CHAIN)
    second = side(tmp_path / "b", case, rounds=0)
    found = comparison.compare(first, second, rounds, equal)
    assert (found.first.step, found.second.step) == steps
    assert (found.first.updates, found.second.updates) == updates
    assert len(set(updates if equal == "total" else steps)) == 1


def test_updates_of_the_weights_are_equal(tmp_path):
    first = side(tmp_path / "a", CHAIN, rewind="reset", rewind_step="end")
    found = comparison.compare(first, side(tmp_path / "b", LONG, rounds=0), equal="weights")
    assert (found.first.step, found.second.step) == (750, 1500)
    assert found.first.weight_updates == found.second.weight_updates == 1500


def test_a_step_that_was_asked_for_is_compared(tmp_path):
    found = comparison.compare(*both(tmp_path, (0, 1)), step=EVERY)
    assert (found.first.step, found.second.step) == (EVERY, EVERY)
    assert found.of("robust_accuracy")[0].first == 0.5


def test_steps_are_those_that_every_seed_has(tmp_path):
    first = side(tmp_path / "a", CHAIN, (0, 1))
    shorter = Case((POORER.rounds[0], (0.5, POOR[:2])), examples=EXAMPLES)
    second = [*side(tmp_path / "b", POORER, (0,), x=1), *side(tmp_path / "b", shorter, (1,), x=1)]
    assert comparison.compare(first, second).first.step == EVERY


# What cannot be compared


def broken(change: str, folder: Path):
    """Two sides that do not belong together."""
    first, second = both(folder, (0, 1))
    workdir = second[0].workdir
    if change == "fingerprint":
        for run, print_ in ((first[0], "abc"), (second[0], "xyz")):
            config = config_of(CHAIN, 0, rewind="x")
            config["dataset"] = {"fingerprint": print_, "test_examples": EXAMPLES}
            (run.workdir / "config.json").write_text(json.dumps(config))
        first, second = first[:1], second[:1]
    if change == "examples":
        path = workdir / "correct" / "round_01.npz"
        arrays = dict(np.load(path))
        np.savez(path, **{**arrays, "index": arrays["index"] + 1})
    if change == "attack":
        text = (workdir / "results.csv").read_text()
        (workdir / "results.csv").write_text(text.replace("epsilon=0.1", "epsilon=0.3"))
        first, second = first[:1], second[:1]
    if change == "seeds":
        shutil.rmtree(folder / "b")
        second = side(folder / "b", POORER, (4, 5), x=1)
    if change == "side":
        second = [*second, *side(folder / "c", CHAIN, (9,), y=1)]
    if change == "steps":
        shutil.rmtree(folder / "b")
        second = side(folder / "b", POORER, (0, 1), x=1)
        for run in second:
            text = re.sub(
                r"^(\d),(\d+)",
                lambda m: f"{m[1]},{int(m[2]) + 3}",
                run.workdir.joinpath("results.csv").read_text(),
                flags=re.M,
            )
            (run.workdir / "results.csv").write_text(text)
    return [[runs.load(run.workdir) for run in side_] for side_ in (first, second)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fingerprint", "have not the same data: dataset.fingerprint is abc and xyz"),
        ("examples", "were not evaluated on the same test examples"),
        ("attack", "share no column"),
        ("seeds", "no common seeds: .* have 0, 1, .* 4, 5"),
        ("side", "is not .* with another seed: "),
        ("steps", r"equally many updates within the round: 0, 250, 500, 750 against 3, 253"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(*broken(change, tmp_path))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"step": 9}, "a/seed_0: round 1 was not evaluated at step 9, but at 0, 250, 500, 750"),
        ({"step": 0, "equal": "total"}, "step=0 must be None with equal='total'"),
        ({"rounds": (0, 7)}, "b/seed_0: no finished round 7, but 0, 1"),
        ({"equal": "both"}, "equal must be round, weights, total; received 'both'"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(*both(tmp_path), **more)


# What is said


def test_seeds_of_one_side_are_left_out_and_said(tmp_path):
    first = side(tmp_path / "a", CHAIN, (0, 1, 2))
    second = side(tmp_path / "b", POORER, (1, 2, 3), x=1)
    found = comparison.compare(first, second)
    assert [pair.seeds for pair in found.of("accuracy")] == [(1, 1), (2, 2)]
    (said,) = found.remarks
    assert "a/seed_0" in said and "b/seed_3" in said
    (said,) = comparison.compare(first[:1], second[:1]).remarks
    assert said == "The seeds differ: 0 and 1."


def test_without_answers_intervals_are_unpaired_and_it_is_said(tmp_path):
    first = side(tmp_path / "a", CHAIN)
    second = side(tmp_path / "b", POORER, answers=False, x=1, masks_from="runs/a_s0")
    found = comparison.compare(first, second)
    pair = found.of("robust_accuracy")[0]
    assert (pair.p_value, pair.only_first, pair.examples) == (None, None, EXAMPLES)
    assert pair.interval == estimates.newcombe(0.75, 0.65, (EXAMPLES, EXAMPLES))
    said = " ".join(found.remarks)
    assert f"No answers by example in {second[0].workdir}: no paired test" in said
    assert str(first[0].workdir) not in said
    assert "has its masks from another run" in said
    comparison_report.write(found, tmp_path / "out")
    assert "McNemar" not in (tmp_path / "out" / "compare.md").read_text()


def test_without_an_attack_accuracy_is_compared(tmp_path):
    made = []
    for name, curve in (("a", GOOD), ("b", POOR)):
        case = Case(((1.0, curve),), attack=None, examples=EXAMPLES)
        made.append(side(tmp_path / name, case, answers=True, kind=name))
    found = comparison.compare(*made)
    assert found.measures == ("accuracy",)
    assert found.pairs[0].difference == pytest.approx(0.1)
    assert found.pairs[0].p_value is not None


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_text_csv_markdown_and_page_say_the_same(tmp_path, seeds, capsys):
    found = comparison.compare(*both(tmp_path, seeds))
    section = comparison_report.write(found, tmp_path / "out")
    printed = capsys.readouterr().out
    records = list(csv.DictReader((tmp_path / "out" / "compare.csv").read_text().splitlines()))
    rows = len(seeds) + (len(seeds) > 1)
    assert [record["measure"] for record in records] == ["accuracy"] * rows + [
        "robust_accuracy"
    ] * rows
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (tmp_path / "out" / "compare.md").read_text().splitlines()
        if line.startswith(("| accuracy", "| robust accuracy"))
    ]
    tree = ElementTree.fromstring(f"<main>{section}</main>")
    shown = [[cell.text or "" for cell in row] for row in tree.find(".//tbody")]
    assert [[cell.replace("\u2212", "-") for cell in row] for row in shown] == lines
    for record, line in zip(records, lines, strict=True):
        assert line[1] == record["seed"]
        assert line[2:5] == [
            f"{100 * float(record['first']):.2f}",
            f"{100 * float(record['second']):.2f}",
            f"{100 * float(record['difference']):+.2f}",
        ]
        assert line[5] == f"{100 * float(record['low']):+.2f} to {100 * float(record['high']):+.2f}"
        assert line[6:8] == [record["only_first"], record["only_second"]]
        assert (record["first_updates"], record["second_step"]) == ("1500", "750")
    difference = float(records[-1]["difference"])
    assert f"a difference of {100 * difference:+.2f} points" in printed
    for sentence in comparison_report.sentences(found):
        assert sentence in printed and sentence in "".join(tree.itertext())
    assert (
        "round 1, 50.0 % of the weights, step 750 "
        "(750 updates of its weights, 1,500 with all rounds)" in printed
    )
    assert printed.count("McNemar's exact p") == 2 * len(seeds)


def test_the_picture_has_every_round_at_its_density_and_cost(tmp_path):
    first, second = both(tmp_path)
    figure = comparison_report.density_and_cost(comparison.compare(first, second))
    left, right = figure.axes
    for axes, across in ((left, [100, 50]), (right, [750, 1500])):
        places = [tuple(dots.get_offsets()[0]) for dots in axes.collections]
        assert [x for x, _ in places] == pytest.approx(across * 2)
        assert [y for _, y in places] == pytest.approx([75, 75, 65, 65])
    sizes = [dots.get_sizes()[0] for dots in left.collections]
    assert sizes[0] < sizes[1] and sizes[:2] == sizes[2:]
    edges = [tuple(dots.get_edgecolors()[0][:3]) for dots in left.collections]
    assert [edge == (0, 0, 0) for edge in edges] == [False, True, False, True]


# Program


def program(*arguments: str) -> None:
    with flagsaver.flagsaver():
        run_analysis.main(run_analysis.parse(["run_analysis.py", *arguments]))


def test_program_compares_with_a_comma_or_a_space(tmp_path):
    both(tmp_path, (0, 1))
    a, b = f"{tmp_path}/a", f"{tmp_path}/b/seed_*"
    program(f"--compare={a},{b}", f"--out={tmp_path}/out", "--compare_rounds=0,1")
    (line, *_) = csv.DictReader((tmp_path / "out" / "compare.csv").read_text().splitlines())
    assert (line["first_round"], line["second_round"]) == ("0", "1")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Comparison</h2>" in page and "2 groups compared" in page
    program("--compare", a, b)
    assert (tmp_path / "a_vs_b" / "compare.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare_rounds=1",), "--compare_rounds: expected two rounds; received 1"),
        (
            ("--compare_rounds=1,x",),
            "--compare_rounds: expected the numbers of rounds; received 'x'",
        ),
        (("--compare_updates=some",), "flag --compare_updates=some"),
    ],
)
def test_program_refuses_in_one_line(tmp_path, arguments, message):
    both(tmp_path)
    with pytest.raises(SystemExit) as caught:
        program(f"--compare={tmp_path}/a,{tmp_path}/b", *arguments)
    assert str(caught.value).startswith(f"run_analysis: error: {message}")
    assert "\n" not in str(caught.value)
