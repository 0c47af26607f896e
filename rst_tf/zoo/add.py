"""Makes an entry of the zoo from the folder of a finished run.

python -m rst_tf.zoo.add --workdir=runs/... --name=fashion_conv_10

The ticket is that of the best validation step of the run's last round, and the numbers are those
of results.csv at that step.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shlex
import sys
from pathlib import Path

from rst_tf.analysis import runs
from rst_tf.files import write_bytes
from rst_tf.quiet import start_tensorflow
from rst_tf.registry import from_dict, to_dict
from rst_tf.ticket import Ticket
from rst_tf.zoo.shelf import ENTRIES, Card, ZooEntry, load


def add(
    workdir: str | Path, name: str, *, round: int | None = None, folder: Path = ENTRIES
) -> ZooEntry:
    """Makes an entry; the ticket's file is written anew, in the present format.

    Args:
        workdir: Folder of a finished run.
        name: Of the entry: lower-case letters, digits and underscores.
        round: Round of the run; None takes the last one.
        folder: Where entries are.

    Raises:
        ValueError: The run has no such ticket or no results at its step, the ticket cannot be
            built, or the name is no name or is taken.
    """
    if not re.fullmatch("[a-z0-9_]+", name):
        raise ValueError(
            f"name must be of lower-case letters, digits and underscores; received name={name!r}"
        )
    if (folder / f"{name}.json").exists():
        raise ValueError(f"there is an entry name={name!r} already; remove its two files first")
    run = runs.load(workdir)
    round = run.rounds()[-1] if round is None else round
    source = run.workdir / "tickets" / f"round_{round:02d}_best.npz"
    if not source.exists():
        raise ValueError(f"round={round}: there is no {source}")
    ticket = Ticket.load(source)
    ticket.build()
    chosen, path = _best(run, round, ticket.kept), folder / f"{name}.npz"
    ticket.save(path)
    card = _card(run, name, chosen, ticket, path)
    text = json.dumps(dataclasses.asdict(card), indent=1, sort_keys=True)
    write_bytes(folder / f"{name}.json", f"{text}\n".encode())
    return load(name, folder)


def _card(run: runs.Run, name: str, chosen: runs.Choice, ticket: Ticket, path: Path) -> Card:
    experiment, test, valid = run.config["experiment"], chosen.test, chosen.valid
    attack = _attack(experiment)
    if (attack is None) != (test.attack is None):
        raise ValueError(f"{run.workdir}: results.csv and config.json speak of other attacks")
    return Card(
        name=name,
        experiment=experiment,
        dataset=run.config["dataset"],
        command=_command(run.config["command"]),
        round=test.round,
        step=chosen.step,
        density=ticket.density,
        kept=ticket.kept,
        attack=attack,
        attack_words=test.attack,
        seed=experiment["seed"],
        test_examples=run.examples("test"),
        accuracy=test.accuracy,
        robust_accuracy=test.robust_accuracy,
        valid_accuracy=valid.accuracy,
        valid_robust_accuracy=valid.robust_accuracy,
        bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _best(run: runs.Run, round: int, kept: int) -> runs.Choice:
    """The first best validation step among those that kept as many weights as the ticket."""
    steps = [row.step for row in run.curve(round, "valid") if row.kept == kept]
    if not steps:
        raise ValueError(f"{run.workdir}: no row of round {round} has kept={kept}, as the ticket")
    return max((run.at(round, step) for step in steps), key=lambda choice: choice.valid.measure)


def _attack(experiment: dict) -> dict | None:
    """The attack of every evaluation of a run, as plain values."""
    from rst_tf.objectives import Objective
    from rst_tf.trainer import evaluation_default

    if experiment["evaluation_attack"] is not None:
        return experiment["evaluation_attack"]
    return to_dict(evaluation_default(from_dict(Objective, experiment["objective"])))


def _command(words: list[str]) -> str:
    """The command as one types it, without the folder, which is this machine's affair."""
    program, *flags = words
    flags = [flag for flag in flags if not flag.lstrip("-").startswith("workdir")]
    return shlex.join(["python", Path(program).name, *flags])


def main(arguments: list[str]) -> None:
    """Reads the command line and adds the entry."""
    parser = argparse.ArgumentParser("rst_tf.zoo.add", description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a finished run")
    parser.add_argument("--name", required=True, help="name of the entry")
    parser.add_argument("--round", type=int, help="round of the run; the last if not given")
    given = parser.parse_args(arguments)
    start_tensorflow()
    print(add(given.workdir, given.name, round=given.round).card)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"rst_tf.zoo.add: error: {error}")
