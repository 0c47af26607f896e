"""Reports of several networks in one table for each data set, norm, epsilon and number of images.

Two epsilons never share a table: their numbers are not of one kind.
"""

import dataclasses
import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rst_tf.analysis import formats, page, printing
from rst_tf.analysis.report import write_files
from rst_tf.robustness import page as pages
from rst_tf.robustness import wording
from rst_tf.robustness.record import RobustnessReport

FILE = "report.json"
_LONG = 24  # characters of a text in a column


@dataclasses.dataclass(frozen=True)
class Board:
    """Reports that can be compared.

    Attributes:
        dataset: What the images are of, "" if no report tells.
        norm: Of the ball.
        epsilon: Radius of the ball.
        examples: Number of images.
        reports: By falling robust accuracy; those with errors below the others.
    """

    dataset: str
    norm: str
    epsilon: float
    examples: int
    reports: tuple[RobustnessReport, ...]

    @property
    def title(self) -> str:
        """The board in a few words."""
        data = self.dataset or "images of unknown origin"
        return f"{data}, {wording.ball(self.norm, self.epsilon)}, {self.examples:,} images"


def reports_of(pattern: str | Sequence[str]) -> list[RobustnessReport]:
    """The reports of files, and of folders that hold a report.json somewhere.

    Args:
        pattern: A glob or several.

    Raises:
        ValueError: A glob matches nothing, or nothing of a report.
    """
    patterns = [pattern] if isinstance(pattern, str) else pattern
    files: dict[Path, None] = {}
    for each in patterns:
        found = [file for path in sorted(glob.glob(each, recursive=True)) for file in _files(path)]
        if not found:
            raise ValueError(f"no report: {each!r} matches no JSON file or folder with {FILE}")
        files |= dict.fromkeys(found)
    return [RobustnessReport.load(file) for file in files]


def _files(path: str) -> list[Path]:
    path = Path(path)
    return sorted(path.rglob(FILE)) if path.is_dir() else [path] if path.suffix == ".json" else []


def boards_of(reports: Iterable[RobustnessReport]) -> tuple[Board, ...]:
    """One board per data set, norm, epsilon and number of images, in that order."""
    members: dict[tuple, list[RobustnessReport]] = {}
    for report in reports:
        dataset = str(report.facts.get("dataset", ""))
        key = (dataset, report.norm, report.epsilon, len(report))
        members.setdefault(key, []).append(report)
    return tuple(
        Board(*key, tuple(sorted(each, key=lambda r: (bool(r.errors), -r.robust_accuracy, r.name))))
        for key, each in sorted(members.items())
    )


def columns(board: Board) -> list[printing.Column]:
    """The printed columns of a board; those that nothing is known for are left out."""
    reports = board.reports
    alone = "each alone, on all images"
    known = dict.fromkeys(name for report in reports for name in _singles(report))
    density = [_density(report) for report in reports]
    shares = iter(formats.percentages([d for d in density if d] or [1.0]))
    spec: list[tuple[str, str, list[str]]] = [
        ("", "network", [report.name for report in reports]),
        *[
            ("", head, [_short(text(report)) for report in reports])
            for head, text in RECIPES.items()
        ],
        ("", "training seeds", [", ".join(map(str, _seeds(report))) for report in reports]),
        ("", "density", ["" if d is None else next(shares) for d in density]),
        ("", "parameters", [_count(report.model.get("parameters")) for report in reports]),
        ("", "non-zero", [_count(report.model.get("nonzero")) for report in reports]),
        ("", "clean", [_percent(report, report.accuracy) for report in reports]),
    ]
    spec += [
        (alone, wording.title_of(name), [_single(report, name) for report in reports])
        for name in known
    ]
    worst = "worst case of the list"
    spec += [
        (worst, "robust", [_robust(report) for report in reports]),
        (worst, "95 % interval", [wording.span(r.interval, wording.digits(r)) for r in reports]),
        (worst, "seed spread", [_spread(report) for report in reports]),
        ("", "best known", [_best_known(report) for report in reports]),
        ("", "median norm", [_norm(report) for report in reports]),
        ("", "list", [report.version for report in reports]),
        ("", "flags", [_flags(report) for report in reports]),
        ("", "seconds", [f"{report.seconds:,.0f}" for report in reports]),
    ]
    made = [printing.Column(group, head, tuple(cells)) for group, head, cells in spec]
    return [column for column in made if any(column.cells)]


def notes(board: Board) -> list[str]:
    """What a reader must know of a board."""
    said = [f"Percent; {board.title}. Ordered by robust accuracy."]
    if board.examples < wording.INDICATIVE:
        said.append(f"Indicative only: fewer than {wording.INDICATIVE:,} images.")
    if len({report.data["fingerprint"] for report in board.reports}) > 1:
        said.append("Not all networks were tried on the same images: rows are not paired.")
    if any(report.seed_spread is not None for report in board.reports):
        said.append("Seed spread: standard deviation over attack seeds, in points.")
    if any(_best_known(report) for report in board.reports):
        said.append("Best known: together with attacks that were tried alone, where that is lower.")
    if any(report.errors for report in board.reports):
        said.append("<=: an upper bound, unreliable; flags with ! are the errors that make it so.")
    said += [
        f"{report.name}: {_marked(finding)}: {finding.text}."
        for report in board.reports
        for finding in (*report.errors, *report.warnings)
    ]
    said += [
        f"{report.name}: {head}: {text(report)}."
        for report in board.reports
        for head, text in RECIPES.items()
        if _short(text(report)) != text(report)
    ]
    return said


def records(boards: Iterable[Board]) -> list[dict[str, Any]]:
    """Unrounded numbers, one record per report, for CSV."""
    found = []
    for board in boards:
        for report in board.reports:
            low, high = report.interval
            found.append(
                {
                    "dataset": board.dataset,
                    "norm": board.norm,
                    "epsilon": board.epsilon,
                    "examples": board.examples,
                    "network": report.name,
                    "architecture": wording.architecture(report),
                    "training": _training(report),
                    "mask_rule": _mask_rule(report),
                    "training_seeds": " ".join(map(str, _seeds(report))),
                    "density": _density(report) or "",
                    "nonzero": report.model.get("nonzero", ""),
                    "parameters": report.model.get("parameters", ""),
                    "accuracy": report.accuracy,
                    **{f"alone_{n}": float(f.mean()) for n, f in _singles(report).items()},
                    "robust_accuracy": report.robust_accuracy,
                    "robust_accuracy_low": low,
                    "robust_accuracy_high": high,
                    "seed_spread": "" if report.seed_spread is None else report.seed_spread,
                    "best_known": report.best_known,
                    "median_norm": "" if report.median_norm is None else report.median_norm,
                    "version": report.version,
                    "seed": report.seed,
                    "reliable": not report.errors,
                    "errors": " ".join(f.check for f in report.errors),
                    "warnings": " ".join(f.check for f in report.warnings),
                    "checks": len(report.checks),
                    "skipped": wording.skipped(report),
                    "seconds": report.seconds,
                    "images": report.data["fingerprint"],
                    "fingerprint": report.model.get("fingerprint", ""),
                }
            )
    return found


def text(boards: Iterable[Board]) -> str:
    """All boards, for a terminal."""
    return "\n\n".join(printing.text(columns(board), notes(board)) for board in boards)


def markdown(boards: Iterable[Board]) -> str:
    """All boards as Markdown."""
    return "\n".join(
        f"## {board.title}\n\n{printing.markdown(columns(board), notes(board), 'each alone')}"
        for board in boards
    )


def html(boards: Iterable[Board]) -> str:
    """All boards as one page."""
    parts = [
        page.section(
            board.title,
            page.table(
                columns(board),
                notes(board),
                prose=("network", *RECIPES, "list", "flags"),
            ),
        )
        for board in boards
    ]
    return pages.document("Robust accuracy", *parts, pages.meanings(), kind="wide")


def write(pattern: str | Sequence[str], out: str | Path) -> None:
    """Writes leaderboard.txt, .md, .csv and .html of the reports of a glob, and prints them."""
    boards = boards_of(reports_of(pattern))
    files: dict[str, str | bytes] = {
        "leaderboard.txt": text(boards) + "\n",
        "leaderboard.md": markdown(boards),
        "leaderboard.csv": printing.comma_separated(records(boards)),
        "leaderboard.html": html(boards),
    }
    write_files(out, files)
    print(text(boards))
    print("\n".join(["", *(f"leaderboard  {Path(out, name)}" for name in files), ""]))


def _singles(report) -> dict[str, Any]:
    """What is known of single attacks on all images: the first of the list is one."""
    found = dict(report.alone)
    if report.outcome.attacks:
        first = report.outcome.attacks[0]
        found.setdefault(first, report.outcome.correct & (report.outcome.broken_by != 0))
    return found


def _single(report, name: str) -> str:
    held = _singles(report).get(name)
    return "" if held is None else _percent(report, float(held.mean()))


def _percent(report, share: float) -> str:
    return f"{100 * share:.{wording.digits(report)}f}"


def _robust(report) -> str:
    return f"{'<= ' if report.errors else ''}{_percent(report, report.robust_accuracy)}"


def _density(report) -> float | None:
    return report.facts.get("density", report.model.get("density"))


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _norm(report) -> str:
    return "" if report.median_norm is None else f"{report.median_norm:.3g}"


def _flags(report) -> str:
    """Errors first, each name once; and whether their absence says anything."""
    names = [_marked(finding) for finding in (*report.errors, *report.warnings)]
    said = [", ".join(dict.fromkeys(names))] if names else []
    if not report.checks:
        said.append("not checked")
    elif wording.mostly_skipped(report):
        said.append(f"{wording.skipped(report)} of {len(report.checks)} skipped")
    return "; ".join(said) or "none"


def _training(report) -> str:
    return str(report.facts.get("training", ""))


def _mask_rule(report) -> str:
    return str(report.facts.get("mask_rule", ""))


def _seeds(report) -> Sequence:
    """Of the trainings behind a network."""
    told = report.facts.get("training_seeds", ())
    return told if isinstance(told, list | tuple) else [told]


RECIPES = {"architecture": wording.architecture, "training": _training, "masks": _mask_rule}
"""Columns of texts, which a note tells whole where a column cannot."""


def _short(text: str) -> str:
    """A text that fits into a column: of `conv(depth=4, ...)` the name where it is long."""
    return text if len(text) <= _LONG else text.partition("(")[0]


def _spread(report) -> str:
    return "" if report.seed_spread is None else f"{100 * report.seed_spread:.2f}"


def _best_known(report) -> str:
    """Told where it is not the robust accuracy."""
    if report.best_known < report.robust_accuracy:
        return _percent(report, report.best_known)
    return ""


def _marked(finding) -> str:
    return f"{finding.check}!" if finding.level == "error" else finding.check
