"""Which folders are meant: globs, folders of trials, runs that have no results yet."""

import glob
from collections.abc import Sequence
from pathlib import Path

from rst_tf.analysis.runs import Run, Unfinished, completed, load

_WILD = set("*?[")


class NoRuns(ValueError):
    """Globs that give no run with results."""


def trials(folder: Path) -> list[Path]:
    """The trials `seed_N` in a folder that is no workdir itself, by seed; else the folder."""
    if (folder / "config.json").exists():
        return [folder]
    found = [path.parent for path in folder.glob("seed_*/config.json")]
    return sorted(found, key=lambda path: (len(path.name), path.name)) or [folder]


def matches(pattern: str) -> list[Path]:
    """The folders that a glob matches, sorted.

    Raises:
        NoRuns: There is none.
    """
    found = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_dir())
    if not found:
        raise NoRuns(f"no folder matches {pattern!r}")
    return found


def loaded(patterns: Sequence[str], strict: bool = True) -> tuple[dict[Path, list[Run]], list[str]]:
    """The runs of some globs by the folder that matched, and a line for each that was left out.

    A folder of trials stands for its trials. What a glob or a folder of trials gives may be
    unfinished or no workdir, and is left out; what is named must be there.

    Args:
        patterns: Globs. A folder that several of them match counts once.
        strict: Whether what is named must be there; else it is left out, too.

    Raises:
        NoRuns: A pattern matches no folder, or none of the folders has results.
        ValueError: A file is damaged, or what is named is not there.
    """
    wild = {folder: bool(_WILD & set(each)) for each in patterns for folder in matches(each)}
    found: dict[Path, list[Run]] = {}
    skipped: list[str] = []
    for folder, is_wild in wild.items():
        for workdir in trials(folder):
            named = strict and not is_wild and workdir == folder
            if not named and not (workdir / "config.json").exists():
                skipped.append(f"{workdir}: no config.json")
                continue
            try:
                run = load(workdir)
            except Unfinished as error:
                if named:
                    raise
                skipped.append(str(error))
            else:
                found.setdefault(folder, []).append(run)
    if not found:
        raise NoRuns(f"no run has results: {'; '.join(skipped)}")
    alike = {run.workdir: run for run in completed([r for runs in found.values() for r in runs])}
    return {folder: [alike[run.workdir] for run in runs] for folder, runs in found.items()}, skipped
