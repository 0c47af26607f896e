"""Runs one experiment and reports on it.

python run_experiments.py                                 the quick start
python run_experiments.py --rounds=3                      the quick start, shorter
python run_experiments.py --preset=mnist_pgd_reset --dry_run     what it would take
python run_experiments.py --preset=mnist_pgd_reset,legacy --trials=5
python run_experiments.py --preset=quick_start --help     every flag of what was chosen
python run_experiments.py --experiment=iterative_pruning --objective=adversarial \\
    --objective.attack=pgd --objective.attack.epsilon=8/255

Defaults are overridden by the presets, a preset by the ones after it, and all by flags. A flag that
names a choice (--objective=trades) brings the flags of its fields (--objective.beta=6).
The same command goes on with a run that was interrupted.
"""

import dataclasses
import os
import sys
from pathlib import Path, PurePath
from typing import Any

from flags import command_line, folders
from flags.binding import Binding, Bound
from flags.parsing import expand, scan
from rst_tf import strategies
from rst_tf.cluster import ClusterError
from rst_tf.quiet import start_tensorflow

PROGRAM = "run_experiments"


@dataclasses.dataclass(frozen=True)
class Options:
    """What this program needs besides an experiment.

    Args:
        preset: Names of files in flags/presets or paths of YAML files, separated by commas; a later
            one overrides an earlier one.
        workdir: Folder for everything the run writes; if none, runs/EXPERIMENT/DATA/PRESET with
            the settings that differ from the preset.
        trials: Run, or go on with, so many trials: seeds `seed`, `seed` + 1, ..., each in its own
            folder `seed_N` of the workdir, and one report on all. If none, one run.
        dry_run: Only tell what the run would take, and what differs from the preset.
        force: Move what is in the workdir aside, to WORKDIR.old-1, and begin anew.
        strategy: Devices to train on: none, one; mirrored, all of this machine; multiworker, the
            machines that TF_CONFIG names, on each of which the same command is started.
        autoattack: After the run, attack its best ticket by standard AutoAttack on so many test
            images, in the ball of the evaluation attack: report.json and report.html in its folder
            `robustness`.
        debug: Show the traceback of an error.
    """

    preset: str | None = None
    workdir: str | None = None
    trials: int | None = None
    dry_run: bool = False
    force: bool = False
    strategy: strategies.Name = "none"
    autoattack: int | None = None
    debug: bool = False

    def __post_init__(self):
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"trials must be at least 1; received trials={self.trials}")
        if self.autoattack is not None and self.autoattack < 1:
            raise ValueError(
                f"autoattack must be at least 1; received autoattack={self.autoattack}"
            )


def main(argv: list[str]) -> None:
    """Configures the experiment, runs it, writes its report."""
    from experiments.experiment import Experiment

    Experiment.read = staticmethod(lambda flags: configured([PROGRAM, *flags]).config)
    bound = configured(argv)
    for source in dict.fromkeys(bound.dropped.values()):
        unused = ", ".join(path for path, by in bound.dropped.items() if by == source)
        say(f"not used beside what was chosen: {unused}, set by {source}")
    options, workdir = bound.options, workdir_of(bound)
    runs = runs_of(bound, workdir)
    evaluations = evaluations_of(bound, runs)
    if options.dry_run:
        print(command_line.differences(bound), f"workdir   {workdir}", sep="\n\n", flush=True)
    with strategies.scope(options.strategy):
        strategies.check_same({**bound.values, "trials": options.trials})
        if options.force and not options.dry_run and strategies.is_chief():
            moved = folders.move_aside(workdir)
            if moved:
                say(f"moved {workdir} to {moved}")
        if not options.debug:
            start_tensorflow()
        if options.dry_run:
            tell(bound)
        else:
            run(runs)
            if strategies.is_chief():
                report(workdir, list(runs))
        chief = strategies.is_chief()
    if chief and not options.dry_run:
        run(evaluations)


def configured(argv: list[str]) -> Bound:
    """What a command line says; without a preset and an experiment it is the quick start."""
    from experiments.experiment import EXPERIMENTS, Experiment
    from rst_tf import registry

    binding = Binding(
        root=Experiment,
        kind=EXPERIMENTS.kind,
        choices_of=registry.choices_of,
        options=Options,
        about=f"{__doc__}\nPresets: {', '.join(command_line.preset_names())}.\n",
        doc="What to run; a preset chooses it too.",
    )
    if not scan(expand(argv)).keys() & {"preset", "experiment"}:
        argv = [*argv, "--preset=quick_start"]
    return command_line.configure(binding, argv)


def workdir_of(bound: Bound) -> Path:
    """The folder that was given, or one named after experiment, data and settings.

    Trials share a folder whatever their first seed is, so that more of them can join.
    """
    if bound.options.workdir is not None:
        return Path(bound.options.workdir)
    path = Path("runs", bound.values["experiment"])
    changes = {name: here for name, (_, here) in bound.changes.items()}
    if "data.source" in bound.values:
        path /= data_name(bound.values["data.source"])
        sources = bound.changes.get("data.source", ())
        if all(data_name(s) == s for s in sources if s is not None):  # the folder says it all
            changes.pop("data.source", None)
    seed = changes.pop("seed", None)
    if bound.options.trials is not None:
        changes["seed"] = "all"
    elif seed is not None:
        changes["seed"] = seed
    return path / folders.settings_name(bound.preset, changes, bound.values)


def data_name(source: str) -> str:
    """A short name of a data source for folders: `npz:a/b/mnist.npz` is mnist."""
    kind, _, place = source.partition(":")
    is_place = kind in ("npz", "folder") and place
    return folders.file_name(PurePath(place).name.removesuffix(".npz") if is_place else source)


def runs_of(bound: Bound, workdir: Path) -> dict[Path, Any]:
    """What is to be run, by folder: one experiment, or one for each trial."""
    config, trials = bound.config, bound.options.trials
    if trials is None:
        if any(workdir.glob("seed_*/config.json")) and not bound.options.force:
            raise ValueError(f"workdir {workdir} holds trials; go on with them by --trials=N")
        return {workdir: config}
    if "seed" not in bound.values:
        raise ValueError(f"--trials needs a seed, and {bound.values['experiment']} has none")
    if (workdir / "config.json").exists() and not bound.options.force:
        raise ValueError(f"workdir {workdir} holds a single run; give --trials another --workdir")
    seeds = range(config.seed, config.seed + trials)
    return {workdir / f"seed_{seed}": dataclasses.replace(config, seed=seed) for seed in seeds}


def evaluations_of(bound: Bound, runs: dict[Path, Any]) -> dict[Path, Any]:
    """The robustness reports that `--autoattack` asks for, by folder."""
    images = bound.options.autoattack
    if images is None:
        return {}
    from experiments.evaluation import Evaluation

    attack = getattr(bound.config, "judged_by", None)
    if attack is None:
        kind = bound.values["experiment"]
        trains = hasattr(bound.config, "judged_by")
        wanted = "--evaluation_attack" if trains else f"an experiment that trains, not {kind}"
        raise ValueError(f"--autoattack needs {wanted}")
    return {
        folder / "robustness": Evaluation(
            source=(str(folder),),
            epsilon=attack.epsilon,
            norm=attack.norm,
            limit=images,
            seed=config.seed,
            name=folder.name,
        )
        for folder, config in runs.items()
    }


def run(runs: dict[Path, Any]) -> None:
    """One after the other; what is finished is skipped."""
    from rst_tf.graphs import let_go

    for number, (folder, config) in enumerate(runs.items(), 1):
        try:
            with strategies.folder_of_worker(folder) as own, let_go():
                config.run(own)
        except Exception as error:
            if len(runs) > 1:
                error.add_note(f"in trial {number} of {len(runs)}, {folder}")
            raise


def report(workdir: Path, done: list[Path]) -> None:
    """One report on all runs, if they have results."""
    if all((folder / "results.csv").exists() for folder in done):
        from rst_tf.analysis.report import write_seeds

        write_seeds(done, workdir / "report")


def tell(bound: Bound) -> None:
    """Prints what a run would take, which the experiment measures."""
    trials = bound.options.trials
    if trials is not None:
        first = bound.config.seed
        print(f"trials    {trials}, seeds {first} to {first + trials - 1}")
    try:
        plan = bound.config.plan
    except AttributeError:
        print(f"{bound.values['experiment']} cannot tell beforehand what it takes")
    else:
        print(plan(trials=trials or 1))


def say(line: str) -> None:
    """A line about the run, beside its output."""
    print(f"{PROGRAM}: {line}", file=sys.stderr)


def run_errors() -> tuple[type[Exception], ...]:
    """What a run raises when it refuses to go on."""
    from experiments.experiment import RunError

    return (RunError, ClusterError)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(command_line.run(PROGRAM, main, sys.argv, run_errors))
