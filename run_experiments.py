"""Runs one experiment and reports on it.

python run_experiments.py                                 the quick start
python run_experiments.py --rounds=3                      the quick start, shorter
python run_experiments.py --preset=quick_start --rounds=5 --workdir=runs/five_rounds
python run_experiments.py --preset=quick_start --help     every flag of what was chosen
python run_experiments.py --experiment=iterative_pruning --objective=adversarial \\
    --objective.attack=pgd --objective.attack.epsilon=8/255

Defaults are overridden by the preset, and the preset by flags. A flag that names a choice
(--objective=trades) brings the flags of its fields (--objective.beta=6).
"""

import dataclasses
import os
import sys
from pathlib import Path

from flags import command_line
from flags.binding import Binding, scan

PROGRAM = "run_experiments"


@dataclasses.dataclass(frozen=True)
class Options:
    """What this program needs besides an experiment.

    Args:
        preset: Name of a file in flags/presets, or the path of a YAML file.
        workdir: Folder for everything the run writes; runs/<preset or experiment> if none.
        debug: Show the traceback of an error.
    """

    preset: str | None = None
    workdir: str | None = None
    debug: bool = False


def main(argv: list[str]) -> None:
    """Configures the experiment, runs it, writes its report."""
    from experiments.experiment import EXPERIMENTS, Experiment
    from rst_tf import registry

    binding = Binding(
        root=Experiment,
        kind=EXPERIMENTS.kind,
        choices_of=registry.choices_of,
        options=Options,
        about=__doc__,
        doc="What to run; a preset chooses it too.",
    )
    if not scan(argv).keys() & {"preset", "experiment"}:
        argv = [*argv, "--preset=quick_start"]
    bound = command_line.configure(binding, argv)
    for path in bound.dropped:
        print(f"{PROGRAM}: the flags' choices have no {path}, set by the preset", file=sys.stderr)
    name = Path(bound.options.preset or bound.values[binding.kind]).stem
    workdir = Path(bound.options.workdir or Path("runs", name))
    if not bound.options.debug:
        from rst_tf.quiet import start_tensorflow

        start_tensorflow()
    bound.config.run(workdir)
    if (workdir / "results.csv").exists():
        from rst_tf.analysis import report

        report.write(workdir)


def run_errors() -> tuple[type[Exception], ...]:
    """What a run raises when it refuses to go on."""
    from experiments.experiment import RunError

    return (RunError,)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(command_line.run(PROGRAM, main, sys.argv, run_errors))
