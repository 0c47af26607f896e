"""Results of the published code of the 2019 system as a run of this one, with an audit."""

import contextlib
import dataclasses
import json

import numpy as np

from experiments._published_tree import SHAPES, Round, Trial, digest, read_path, read_rounds
from experiments.experiment import EXPERIMENTS, Experiment, RunError
from experiments.workdir import Workdir
from rst_tf.attacks import FGSM, PGD
from rst_tf.files import write_bytes
from rst_tf.models import MLP, describe
from rst_tf.objectives import Mixed, Natural
from rst_tf.optimizers import Adam
from rst_tf.published_2019 import published_step
from rst_tf.registry import to_dict
from rst_tf.ticket import Entry, Ticket

RATES = {"hidden_1": 0.2, "hidden_2": 0.2, "output": 0.1}
DATA = {"digits": "mnist", "fashion": "fashion_mnist"}
REWINDS = {"reinit_orig": "reset", "reinit_rand": "reinit", "reinit_none": "continued"}
ATTACKS = {
    "fgsm": FGSM(0.3, label="predicted"),
    "pgd": PGD(0.3, steps=10, step_size=0.05, label="predicted"),
}
STARTS = {
    "initial": "prune_iter_00/init_kernels, the initial weights: a true rewind",
    "trained": "prune_iter_00/post_kernels, weights that are trained already: the published defect",
    "previous": "the post_kernels of the round before: training continued",
    "other": "weights of their own, drawn anew",
}


@EXPERIMENTS.register("import_published")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportPublished(Experiment):
    """One trial of the published code of 2019 as a workdir, with an audit of its rounds.

    What the path of the trial does not tell and the code fixes (attack settings, label smoothing,
    rates, split) is taken from the code; batch size, length and seeds are unknown, and the trial
    is the seed. `loss` is the loss that was trained on. Robust losses and the weights of the best
    step are not in such a tree; the weights of a round are those of its end, less than an interval
    after its last row. The numbers of train.csv have test examples mixed in; its robust accuracy
    is left out where training was natural.

    Args:
        source: Folder of one trial with its place in the tree, such as
            TREE/digits/dense-300-100/reinit_orig/fgsm/lr-0.0012_l1-0.0_advtrain-true/trial_00.
        steps_per_epoch: Optimiser steps in an epoch, which no file tells: 834 for batches of 60
            out of 50,000 images, the published defaults.
        eval_every: The published flag of this name, in steps within an epoch.
    """

    source: str
    steps_per_epoch: int = 834
    eval_every: int = 500

    def __post_init__(self):
        published_step(0, self.steps_per_epoch, self.eval_every)

    def run(self, workdir):
        """Leaves import.json, the tickets `initial` and `round_NN`, and results.csv."""
        trial = read_path(self.source)
        rounds = read_rounds(trial, self.steps_per_epoch, self.eval_every)
        audit = [audited(rounds, number) for number in range(len(rounds))]
        content = json.dumps({"sha256": digest(trial), "rounds": audit}, indent=2).encode()
        dataset = {"name": DATA[trial.data], "fingerprint": None, "classes": 10}
        dataset |= {"shape": [28, 28, 1], "train_examples": 50_000}
        dataset |= {"valid_examples": 10_000, "test_examples": 10_000}
        settings = self._settings(trial, audit)
        with contextlib.closing(Workdir(workdir, settings, dataset)) as folder:
            file = folder.path / "import.json"
            if file.exists() and file.read_bytes() != content:
                raise RunError(
                    f"{file} is of other files than {trial.path}; choose another workdir"
                )
            if not (folder.path / "results.csv").exists():
                write_bytes(file, content)
                self._write(folder, trial, rounds)
        print("\n".join([f"{trial.path}\n", *said(trial.experiment, audit), ""]))

    def _write(self, folder: Workdir, trial: Trial, rounds: list[Round]) -> None:
        """Tickets, then all results at once: with results.csv the import is done."""
        _ticket(rounds[0].initial, rounds[0].masks).save(folder.ticket("initial"))
        results = []
        for number, each in enumerate(rounds):
            ticket = _ticket(each.final, each.masks)
            ticket.save(folder.ticket(f"round_{number:02d}"))
            about = {"round": number, "density": ticket.density, "kept": ticket.kept}
            results += [about | row for row in _results(trial, each)]
        folder.record(results)

    def _settings(self, trial: Trial, audit: list[dict]) -> dict:
        """The configuration, under the names that iterative_pruning has for it."""
        attack = ATTACKS[trial.attack]
        objective = Mixed(attack) if trial.adversarial else Natural()
        settings = {
            **to_dict(self),
            "data": {"source": DATA[trial.data], "validation": 10_000, "validation_from": "first"},
            "network": to_dict(MLP()),
            "initializer": "glorot_uniform",
            "objective": to_dict(dataclasses.replace(objective, label_smoothing=0.1)),
            "optimizer": to_dict(Adam(learning_rate=trial.learning_rate)),
            "evaluation_attack": to_dict(attack),
            "l1": trial.l1,
            "seed": trial.number,
            "rounds": len(audit) - 1,
            "rate": list(RATES.values()),
            "count": "plus_one",
            "rewind": REWINDS.get(trial.experiment),
            "rewind_step": _rewind_step(trial.experiment, audit),
            "unknown": ["batch_size", "train_steps", "seeds", "versions"],
            "trained_by": "the published code of 2019; environment and command are the import's",
        }
        del settings["source"]  # trials of one experiment differ in it; the command has it
        return settings


def audited(rounds: list[Round], number: int) -> dict:
    """Facts about a round: kept weights by layer, where it starts from, how its masks follow."""
    here, dense, before = rounds[number], rounds[0], rounds[max(0, number - 1)]
    facts = {"round": number, "kept": {name: int(m.sum()) for name, m in here.masks.items()}}
    if number == 0:
        return facts
    starts = {"initial": dense.initial, "trained": dense.final, "previous": before.final}
    return facts | {
        "starts_from": [name for name in starts if _starts(here, starts[name])],
        "came_back": sum(int((here.masks[n] & ~before.masks[n]).sum()) for n in SHAPES),
        "published_rule": all(np.array_equal(here.masks[n], _pruned(before, n)) for n in SHAPES),
    }


def said(experiment: str, audit: list[dict]) -> list[str]:
    """The audit in lines of text."""
    total = sum(audit[0]["kept"].values())
    names = "".join(f"{name:>10}" for name in [*SHAPES, "kept"])
    lines = [f"round{names}  of round 0  starts from"]
    for each in audit:
        counts = [*each["kept"].values(), sum(each["kept"].values())]
        numbers = "".join(f"{count:10,}" for count in counts)
        start = ", ".join(each.get("starts_from", ["-"])) or "other"
        lines.append(f"{each['round']:5}{numbers}{100 * counts[-1] / total:10.1f} %  {start}")
    if len(audit) == 1:
        return [*lines, "There is one round, and no rewind to audit."]
    start = _common_start(experiment, audit)
    back = [f"{e['came_back']:,} in round {e['round']}" for e in audit[1:] if e["came_back"]]
    off = [str(e["round"]) for e in audit[1:] if not e["published_rule"]]
    return [
        *lines,
        f"Later rounds of {experiment} start from {STARTS.get(start, 'weights of several kinds')}.",
        f"Pruned weights that came back: {', '.join(back) or 'none'}.",
        f"Rounds whose masks the published rule does not give: {', '.join(off) or 'none'}.",
    ]


def _starts(here: Round, start: dict[str, np.ndarray]) -> bool:
    """Whether every kept weight of a round starts with its value in `start`."""
    return all(np.array_equal(here.initial[n][m], start[n][m]) for n, m in here.masks.items())


def _pruned(before: Round, name: str) -> np.ndarray:
    """The published rule: what is not above the cutoff goes, and with it the cutoff itself."""
    size, mask = np.abs(before.final[name]), before.masks[name]
    alive = np.sort(size[mask])
    return mask & (size > alive[round(RATES[name] * len(alive))])


def _common_start(experiment: str, audit: list[dict]) -> str | None:
    """The name in STARTS that holds for all later rounds, or None."""
    found = [each["starts_from"] or ["other"] for each in audit[1:]]
    common = [name for name in STARTS if all(name in names for names in found)]
    if experiment == "reinit_none" and "previous" in common:  # in round 1 that is "trained", too
        return "previous"
    return common[0] if common else None


def _rewind_step(experiment: str, audit: list[dict]) -> int | str | None:
    """As iterative_pruning has it; None without a rewind, or if the weights do not tell."""
    if experiment != "reinit_orig" or len(audit) == 1:
        return None
    return {"initial": 0, "trained": "end"}.get(_common_start(experiment, audit))


def _ticket(kernels: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> Ticket:
    entries = tuple(Entry(name, SHAPES[name], masks[name], kernels[name]) for name in SHAPES)
    return Ticket(entries, network=describe(MLP(), (28, 28, 1), 10))


def _results(trial: Trial, here: Round):
    """Rows of results.csv, but for the round and what it keeps."""
    for split, rows in here.logs.items():
        attacked = trial.adversarial or split != "train"
        for step, loss, accuracy, robust_accuracy in rows:
            yield {
                "step": step,
                "split": split,
                "attack": str(ATTACKS[trial.attack]) if attacked else None,
                "loss": loss,
                "accuracy": accuracy,
                "robust_accuracy": robust_accuracy if attacked else None,
            }
