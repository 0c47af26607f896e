"""Tables, figures and an HTML report from workdirs.

python run_analysis.py --runs=runs/quick_start             writes runs/quick_start/report
python run_analysis.py --runs='runs/reset_s*' --out=report  one report: mean and spread over seeds
"""

import glob
import sys
from pathlib import Path

from absl import app, flags

RUNS = flags.DEFINE_list("runs", [], "Workdirs: a glob or several, separated by commas.")
OUT = flags.DEFINE_string(
    "out", None, "Folder for one report over all seeds; <workdir>/report for each run if none."
)


def workdirs(patterns: list[str]) -> list[Path]:
    """The folders that match, each once; ValueError if a pattern matches none."""
    found = []
    for pattern in patterns:
        matches = sorted(path for path in map(Path, glob.glob(pattern)) if path.is_dir())
        if not matches:
            raise ValueError(f"--runs: no folder matches {pattern!r}")
        found += matches
    if not found:
        raise ValueError("--runs: expected the glob of a workdir; received nothing")
    return list(dict.fromkeys(found))


def main(argv: list[str]) -> None:
    """Writes the reports; an error is one line."""
    from rst_tf.analysis import report

    try:
        if argv[1:]:
            raise ValueError(f"unexpected argument {argv[1]!r}")
        found = workdirs(RUNS.value)
        if OUT.value is not None:
            report.write_seeds(found, OUT.value)
            return
        for workdir in found:
            report.write(workdir)
    except (OSError, ValueError) as error:
        sys.exit(f"run_analysis: error: {error}")


def parse(argv: list[str]) -> list[str]:
    """Absl's flags, with an error of one line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"run_analysis: error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
