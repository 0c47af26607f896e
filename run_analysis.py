"""Tables, figures, comparisons and an HTML report from workdirs.

python run_analysis.py --runs=runs/iterative_pruning/sample/quick_start   writes its report
python run_analysis.py --runs='runs/reset_s*' --out=report  one report: mean and spread over seeds
python run_analysis.py --runs='runs/reset_s*,runs/reinit_s*' --out=report
    runs of several settings side by side, named by what differs: rewind=reset, rewind=reinit
python run_analysis.py --runs=runs/mnist --step=25021 --out=report   the numbers of one exact step
python run_analysis.py --runs='runs/dense_s*,runs/search_*,runs/tuned_*' --out=report \
    --families=dense,search,tuned       runs that differ only in density are one line of a figure
python run_analysis.py --runs='runs/dense_s*,runs/flying_s*' --out=report --overfitting
    best and last network of every training, what is lost in between, and the gap to training images
python run_analysis.py --compare 'runs/reset_s*' 'runs/dense_s*' --compare_rounds=3,0
    the two on the same test points after equally many updates, with a paired test per seed;
    --compare=A,B is the same; globs are quoted, and runs are paired by seed
python run_analysis.py --claims=results/claims.yaml        writes results/claims.csv
    the file's format is described in rst_tf/analysis/claims.py
python run_analysis.py --leaderboard='runs/evaluation/*' --out=board
    robustness reports (report.json, or folders that hold some) in one table per data set, norm,
    epsilon and number of images: leaderboard.txt, .md, .csv and .html
python run_analysis.py --masks=runs/searched --out=masks
    what the masks of a run's last ticket, or of a ticket file, keep by channel and by kernel,
    beside random masks of the same size; the masks as pictures; an estimate of the operations

A folder of trials (runs/mnist with runs/mnist/seed_0, ...) stands for its trials.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

PROGRAM = "run_analysis"
RUNS = flags.DEFINE_list("runs", [], "Workdirs: a glob or several, separated by commas.")
OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder of the one report over all runs. If none: <folder>/report for each folder of --runs, "
    "<A>_vs_<B> beside A for --compare, the file's folder for --claims, the folder above the "
    "first wildcard for --leaderboard, masks in the run's folder for --masks.",
)
STEP = flags.DEFINE_integer(
    "step",
    None,
    "Speak of this exact step of every round, not of the best by validation, and compare there.",
    0,
)
LABELS = flags.DEFINE_list(
    "labels", [], "Names of the groups, in their order; if none, the settings that differ."
)
ROUNDS = flags.DEFINE_list(
    "rounds", [], "Rounds to draw in figures that have no room for all; if none, six at most."
)
FAMILIES = flags.DEFINE_list(
    "families",
    [],
    "Names of the families, in their order: runs that differ only in density, or in the ticket "
    "they started from, are one line in families.csv, .md, .png and .svg.",
)
OVERFITTING = flags.DEFINE_bool(
    "overfitting",
    False,
    "Robust overfitting: the best network by validation beside the last one, the robust "
    "generalisation gap, and both curves, in overfitting.csv, .md, .tex, .png and .svg.",
)
COMPARE = flags.DEFINE_list("compare", [], "Two workdirs, or two globs of paired seeds.")
COMPARE_ROUNDS = flags.DEFINE_list(
    "compare_rounds", [], "The round of either side of --compare; if none, its last finished one."
)
COMPARE_UPDATES = flags.DEFINE_enum(
    "compare_updates",
    "round",
    ["round", "weights", "total"],
    "Which updates are equally many: those within the compared rounds, those that the compared "
    "weights have seen since they were drawn, or all that were spent, earlier rounds included.",
)
CLAIMS = flags.DEFINE_string("claims", None, "YAML file of claims to try on runs.")
LEADERBOARD = flags.DEFINE_list(
    "leaderboard", [], "Robustness reports: a glob of files or folders, or several."
)
MASKS = flags.DEFINE_string("masks", None, "A run's folder or a ticket file, for its masks.")
MASK_LAYERS = flags.DEFINE_list(
    "mask_layers", [], "Positions of the layers that --masks draws; if none, six at most."
)
STRICT = flags.DEFINE_bool("strict", False, "A claim without data is an error.")


def main(argv: list[str]) -> None:
    """Writes what was asked for; an error is one line."""
    try:
        analyse(sides(argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")


def analyse(compared: Sequence[str]) -> None:
    """Comparison, claims and reports; `compared` are the globs of both sides, or nothing."""
    from rst_tf.analysis import claims_report, families, groups, overfitting_report, report

    check_flags(bool(compared))
    found = found_runs("runs", RUNS.value) if RUNS.value else {}
    out, sections, results = OUT.value, [], []
    if LEADERBOARD.value:
        from rst_tf.robustness import leaderboard

        leaderboard.write(LEADERBOARD.value, out or above_wildcard(LEADERBOARD.value[0]))
    if MASKS.value is not None:
        from rst_tf.analysis import masks_report

        masks_report.write(MASKS.value, out, numbers(MASK_LAYERS))
    if compared:
        out = out or beside(*compared)
        section, every = compare(compared, out)
        found = found or every
        sections.append(section)
    if CLAIMS.value is not None:
        section, results = claims_report.write(CLAIMS.value, out or Path(CLAIMS.value).parent)
        sections.append(section)
    pages = {folder / "report": runs for folder, runs in found.items()}
    if out is not None and found:
        pages = {
            Path(out): list({run.workdir: run for runs in found.values() for run in runs}.values())
        }
    drawn = numbers(ROUNDS)
    for folder, runs in pages.items():
        each = groups.groups_of(runs, STEP.value, LABELS.value)
        own = [overfitting_report.write(each, folder)] if OVERFITTING.value else []
        report.write_groups(each, folder, drawn, [*own, *sections])
        if FAMILIES.value:
            families.write(families.families_of(each, FAMILIES.value), folder)
    missing = [result.claim.claim for result in results if result.verdict == "no data"]
    if STRICT.value and missing:
        raise ValueError(f"--claims: no data for {len(missing)} of {len(results)}: {missing[0]!r}")


def compare(compared: Sequence[str], out: str | Path) -> tuple[str, dict]:
    """Writes the comparison; gives its section of the page, and the runs by folder."""
    from rst_tf.analysis import comparison, comparison_report

    first, second = (found_runs("compare", [pattern]) for pattern in compared)
    rounds = tuple(numbers(COMPARE_ROUNDS)) or None
    if rounds is not None and len(rounds) != 2:
        raise ValueError(f"--compare_rounds: expected two rounds; received {len(rounds)}")
    runs = [[run for each in side.values() for run in each] for side in (first, second)]
    done = comparison.compare(*runs, rounds, COMPARE_UPDATES.value, STEP.value)
    return comparison_report.write(done, out), {**first, **second}


def found_runs(flag: str, patterns: Sequence[str]) -> dict:
    """The runs of a flag's globs, by folder; says what is left out."""
    from rst_tf.analysis import workdirs

    try:
        runs, skipped = workdirs.loaded(patterns)
    except workdirs.NoRuns as error:
        raise ValueError(f"--{flag}: {error}") from error
    for line in skipped:
        print(f"{PROGRAM}: left out {line}", file=sys.stderr)
    return runs


def sides(arguments: Sequence[str]) -> list[str]:
    """Both sides of --compare: separated by a comma, or by a space."""
    if arguments and len(COMPARE.value) != 1:
        raise ValueError(f"unexpected argument {arguments[0]!r}")
    given = [*COMPARE.value, *arguments]
    if len(given) not in (0, 2):
        raise ValueError(
            f"--compare: expected two workdirs or quoted globs; received {len(given)}: "
            f"{' '.join(given)}"
        )
    return given


def check_flags(comparing: bool) -> None:
    """Refuses what would have no effect."""
    claiming = CLAIMS.value is not None
    reporting = bool(RUNS.value) or comparing
    ranking = bool(LEADERBOARD.value)
    picturing = MASKS.value is not None
    if not (reporting or claiming or ranking or picturing):
        raise ValueError("--runs: expected the glob of a workdir; received nothing")
    if RUNS.value and (comparing or claiming) and OUT.value is None:
        raise ValueError("--out: --runs with --compare or --claims needs a folder; received none")
    if ranking and (reporting or claiming) and OUT.value is None:
        raise ValueError("--out: --leaderboard with other flags needs a folder; received none")
    for needed, there, holders in (
        ("--runs or --compare", reporting, (STEP, LABELS, ROUNDS)),
        ("--runs", bool(RUNS.value), (FAMILIES, OVERFITTING)),
        ("--compare", comparing, (COMPARE_ROUNDS, COMPARE_UPDATES)),
        ("--claims", claiming, (STRICT,)),
        ("--masks", picturing, (MASK_LAYERS,)),
    ):
        for holder in holders:
            if holder.present and not there:
                raise ValueError(f"--{holder.name} has no effect without {needed}")


def numbers(holder: flags.FlagHolder) -> list[int]:
    """A list of rounds or layers."""
    what = "layers" if holder is MASK_LAYERS else "rounds"
    for text in holder.value:
        if not text.strip().isdecimal():
            raise ValueError(f"--{holder.name}: expected the numbers of {what}; received {text!r}")
    return [int(text) for text in holder.value]


def beside(first: str, second: str) -> Path:
    """The folder of a comparison without --out: next to the first side, named after both."""
    folders = [
        path.parent if path.name.startswith("seed_") else path
        for path in map(Path, (first, second))
    ]
    names = [re.sub(r"[^\w.-]", "", folder.name).strip("_.-") for folder in folders]
    return folders[0].parent / "_vs_".join(names)


def above_wildcard(pattern: str) -> Path:
    """The folder of a glob that has no wildcard in it: where the file is, if there is none."""
    parts = Path(pattern).parts
    plain = next((i for i, part in enumerate(parts) if re.search(r"[*?[]", part)), len(parts))
    folder = Path(*parts[:plain])
    return folder.parent if folder.suffix == ".json" else folder


def parse(argv: list[str]) -> list[str]:
    """Absl's flags, with an error of one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"{PROGRAM}: error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
