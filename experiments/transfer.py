"""How attacks transfer between the tickets of one network, and what a switch of them withstands."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.experiment import EXPERIMENTS, Experiment, RunError
from experiments.finished import ticket_file
from experiments.workdir import Workdir
from rst_tf.attacks import PGD, Attack
from rst_tf.data import Data
from rst_tf.files import write_bytes
from rst_tf.registry import to_dict
from rst_tf.ticket import Ticket

_STAGES = "right"
_DAMAGE = (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile)


@EXPERIMENTS.register("transfer")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferAndSwitch(Experiment):
    """Every ticket attacked through every other, and a random switch of them under four attackers.

    Leaves transfer.csv, switch.csv, transfer.json and the heat map transfer.png and .svg. A PGD is
    tried both ways, with all its steps and with an early stop on the attacker's success, as the
    published matrix was made; what concerns the switch alone is attacked with all steps.

    Args:
        tickets: Tickets of one initialisation: folders of finished runs, of which the best ticket
            of the last round is taken, or ticket files.
        attack: Makes the adversarial images.
        data: Images, of which the test split is used.
        limit: So many test images, a fixed stratified draw; none takes all.
        per: The switch draws a ticket for each batch or for each example.
        probabilities: Of the tickets, in their order; empty means uniform.
        repetitions: How often the switch itself is attacked.
        batch_size: Images at a time, of which a switch per batch answers all by one ticket.
        seed: Of attack starts and draws.
    """

    tickets: tuple[str, ...]
    attack: Attack
    data: Data = Data()
    limit: int | None = None
    per: Literal["batch", "example"] = "batch"
    probabilities: tuple[float, ...] = ()
    repetitions: int = 10
    batch_size: int = 500
    seed: int = 0

    def __post_init__(self):
        if len(self.tickets) < 2:
            raise ValueError(f"tickets must be at least two; received tickets={self.tickets!r}")
        if self.per not in ("batch", "example"):
            raise ValueError(f"per must be batch or example; received per={self.per!r}")
        for name in ("repetitions", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; received {getattr(self, name)!r}")
        if self.probabilities:
            _check_probabilities(self.probabilities, len(self.tickets))
        if isinstance(self.attack, PGD) and self.attack.early_stop:
            raise ValueError(
                "early_stop=True has no effect here: the matrix is made with and without it"
            )

    def run(self, workdir):
        """Leaves the tables, the report and the heat map; finished stages are skipped."""
        files = [ticket_file(source, "tickets") for source in self.tickets]
        splits = self.data.load()
        test = splits.test.limited(self.limit)
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        dataset = {"fingerprint": splits.fingerprint, "test_examples": len(test)}
        tickets = [Ticket.load(file) for file in files]
        held, network = _set_of(tickets, self.tickets)
        _check_images(network, splits)
        for source, file in zip(self.tickets, files, strict=True):
            _tell_of_other_data(source, file.parent.parent / "config.json", splits.fingerprint)
        claimed = Workdir(workdir, to_dict(self), {**dataset, "tickets": digests})
        with contextlib.closing(claimed):
            found = _Measured(self, claimed.path, held, tickets, network, test).found()
            report = self._report(files, digests, tickets, found)
            _write(claimed.path, report)
            print(_tables(report))
            print(f"\nWritten to {claimed.path}: transfer.csv, switch.csv, transfer.json, and the")
            print(f"heat map {claimed.path / 'transfer.png'}")

    def _report(self, files, digests, tickets, found) -> dict[str, Any]:
        plain = found[False]
        n = plain.matrix.correct.shape[1]
        return {
            "attack": str(self.attack),
            "n": n,
            "per": self.per,
            "probabilities": plain.probabilities.tolist(),
            "tickets": [
                {
                    "source": source,
                    "file": str(file),
                    "sha256": digest,
                    "density": ticket.density,
                    "kept": ticket.kept,
                    "accuracy": accuracy,
                }
                for source, file, digest, ticket, accuracy in zip(
                    self.tickets,
                    files,
                    digests,
                    tickets,
                    plain.matrix.accuracy.tolist(),
                    strict=True,
                )
            ],
            "matrices": [
                {"early_stop": stop, "robust_accuracy": one.matrix.robust_accuracy.tolist()}
                for stop, one in found.items()
            ],
            "switch": [{"accuracy": plain.accuracy, "n": n, **line} for line in _attackers(found)],
        }


class _Measured:
    """The stages of a run: each is measured once, and then lies in a file."""

    def __init__(self, settings: TransferAndSwitch, folder: Path, held, tickets, network, test):
        self.settings, self.folder = settings, folder / _STAGES
        self.held, self.tickets, self.network = held, tickets, network
        self.test = test

    def found(self) -> dict[bool, Any]:
        """`SwitchRobustness` by early stop; what does not depend on it is in both."""
        from rst_tf.switch_evaluation import SwitchRobustness

        settings = self.settings
        stops = (False, True) if isinstance(settings.attack, PGD) else (False,)
        matrices = {stop: self._matrix(stop) for stop in stops}
        averaged, repeated, probabilities = self._switch()
        return {
            stop: SwitchRobustness(matrix, probabilities, averaged, repeated)
            for stop, matrix in matrices.items()
        }

    def _matrix(self, early_stop: bool):
        from rst_tf.transfer import Transfer, TransferMatrix

        settings, attack = self.settings, self.settings.attack
        if early_stop:
            attack = dataclasses.replace(attack, early_stop=True)
        transfer = Transfer(self.held, attack, seed=settings.seed, batch_size=settings.batch_size)
        name = "early_stop" if early_stop else "crafted"
        rows = [
            self._stage(f"{name}_{t:02d}", lambda t=t: transfer.row(t, self.test))
            for t in range(len(self.held))
        ]
        return TransferMatrix(
            np.stack(rows), self._stage("clean", lambda: transfer.correct(self.test))
        )

    def _switch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from rst_tf.random import subseed
        from rst_tf.switch import Switch
        from rst_tf.switch_evaluation import SwitchAttacker

        settings = self.settings
        switch = Switch(
            self.network,
            self.tickets,
            per=settings.per,
            probabilities=settings.probabilities or None,
        )
        attacker = SwitchAttacker(
            switch, settings.attack, seed=settings.seed, batch_size=settings.batch_size
        )

        def once(repetition):
            switch.reset(subseed(settings.seed, "switch", repetition)[0])
            return attacker.once(repetition, self.test)

        averaged = self._stage("adaptive", lambda: attacker.averaged(self.test))
        repeated = [
            self._stage(f"repetition_{r:03d}", lambda r=r: once(r))
            for r in range(settings.repetitions)
        ]
        return averaged, np.stack(repeated), switch.probabilities

    def _stage(self, name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        """Which examples were right, from its file or measured now."""
        file = self.folder / f"{name}.npz"
        if not file.exists():
            print(f"{self.folder.parent}: {name}", file=sys.stderr)
            right = measure()
            buffer = io.BytesIO()
            np.savez_compressed(buffer, right=np.packbits(right), shape=right.shape)
            write_bytes(file, buffer.getvalue())
        try:
            with np.load(file, allow_pickle=False) as data:
                shape = tuple(data["shape"])
                bits = np.unpackbits(data["right"], count=int(np.prod(shape)))
        except _DAMAGE as error:
            raise RunError(f"{file} is damaged: {error}") from error
        return bits.astype(bool).reshape(shape)


def _set_of(tickets: Sequence[Ticket], sources: Sequence[str]):
    """The tickets in the network of the first; ValueError names the one that does not belong."""
    from rst_tf.ticket_set import TicketSet

    network = tickets[0].build()
    try:
        return TicketSet(network, tickets), network
    except ValueError as error:
        text = str(error)
        for number, source in enumerate(sources):
            text = text.replace(f"tickets[{number}]", f"ticket {source}")
        raise ValueError(text) from error


def _check_images(network, splits) -> None:
    wanted = (tuple(network.input_shape[1:]), network.output_shape[-1])
    if wanted != (tuple(splits.shape), splits.classes):
        raise ValueError(
            f"data of shape {tuple(splits.shape)} and {splits.classes} classes are not what the "
            f"tickets are for: {wanted[0]} and {wanted[1]}"
        )


def _tell_of_other_data(source: str, config: Path, fingerprint: str) -> None:
    """A line where the run that a ticket is from had other images, if that can be told."""
    try:
        found = json.loads(config.read_text())
        there, name = found["dataset"]["fingerprint"], found["experiment"]["data"]["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if there != fingerprint:
        print(f"ticket {source} is from a run on other images: --data={name}", file=sys.stderr)


def _check_probabilities(probabilities: Sequence[float], tickets: int) -> None:
    total = abs(sum(probabilities) - 1)
    if len(probabilities) != tickets or min(probabilities) < 0 or not total < 1e-6:
        raise ValueError(
            f"probabilities must be {tickets} numbers from 0 that sum to 1, one per ticket; "
            f"received {probabilities!r}"
        )


def _attackers(found: Mapping[bool, Any]):
    """One record per attacker of the switch: its name, the robust accuracy, the interval."""
    for stop, one in found.items():
        yield {"attacker": "draws", "early_stop": stop, "robust_accuracy": one.attacker_draws}
        yield {"attacker": "knows", "early_stop": stop, "robust_accuracy": one.attacker_knows}
    one = found[False]
    yield {"attacker": "adaptive", "early_stop": False, "robust_accuracy": one.adaptive}
    low, high = one.interval or (None, None)
    mean = float(one.by_repetition.mean())
    tried = {"early_stop": False, "repetitions": len(one.repeated)}
    repeated = {"attacker": "repeated", **tried, "robust_accuracy": mean}
    yield {**repeated, "low": low, "high": high}
    yield {"attacker": "repeated_worst", **tried, "robust_accuracy": one.worst}


def _write(folder: Path, report: Mapping[str, Any]) -> None:
    from rst_tf.analysis.style import rendered
    from rst_tf.analysis.transfer_figures import heat_maps

    tickets = report["tickets"]
    pairs = [
        {
            "crafted_on": crafted["source"],
            "tested_on": tested["source"],
            "early_stop": matrix["early_stop"],
            "crafted_density": crafted["density"],
            "tested_density": tested["density"],
            "robust_accuracy": value,
            "n": report["n"],
        }
        for matrix in report["matrices"]
        for crafted, row in zip(tickets, matrix["robust_accuracy"], strict=True)
        for tested, value in zip(tickets, row, strict=True)
    ]
    _write_csv(folder / "transfer.csv", list(pairs[0]), pairs)
    columns = ["attacker", "early_stop", "accuracy", "robust_accuracy", "low", "high"]
    _write_csv(folder / "switch.csv", [*columns, "repetitions", "n"], report["switch"])
    write_bytes(folder / "transfer.json", json.dumps(report, indent=2).encode())
    matrices = {_title(m): np.array(m["robust_accuracy"]) for m in report["matrices"]}
    png, svg = rendered(lambda: heat_maps(matrices, _labels(tickets)))
    write_bytes(folder / "transfer.png", png)
    write_bytes(folder / "transfer.svg", svg)


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(file, text.getvalue().encode())


def _tables(report: Mapping[str, Any]) -> str:
    from rst_tf.analysis.printing import Column, text

    labels = _labels(report["tickets"])
    percent = "{:.1f}".format
    tables = []
    for matrix in report["matrices"]:
        columns = [Column("", "crafted on", tuple(labels))]
        for label, values in zip(labels, np.transpose(matrix["robust_accuracy"]), strict=True):
            cells = tuple(percent(100 * value) for value in values)
            columns.append(Column("tested on", label, cells))
        what = f"robust accuracy (%) by density (%), {report['attack']}, {report['n']:,} images"
        note = f"{_title(matrix)}: {what}."
        tables.append(text(columns, [note]))
    lines = report["switch"]
    shown = [_ATTACKERS[line["attacker"]].format(**line) for line in lines]
    stops = tuple("yes" if line["early_stop"] else "no" for line in lines)
    values = tuple(percent(100 * line["robust_accuracy"]) for line in lines)
    between = [(line.get("low"), line.get("high")) for line in lines]
    spans = tuple("" if a is None else f"{100 * a:.1f} to {100 * b:.1f}" for a, b in between)
    columns = [
        Column("", "attacker", tuple(shown)),
        Column("", "early stop", stops),
        Column("", "robust accuracy", values),
        Column("", "95 %", spans),
    ]
    accuracy = percent(100 * lines[0]["accuracy"])
    note = f"Random switch, a ticket per {report['per']}; accuracy on clean images {accuracy} %."
    switch = text(columns, [note]).partition("\n")[2]  # no column is in a group
    return "\n\n".join([*tables, switch])


_ATTACKERS = {
    "draws": "draws a ticket too",
    "knows": "knows the draw",
    "adaptive": "climbs the mean of all",
    "repeated": "tries the switch {repetitions} times, mean",
    "repeated_worst": "tries it {repetitions} times, all withstood",
}


def _title(matrix: Mapping[str, Any]) -> str:
    return "Stops when it succeeds" if matrix["early_stop"] else "All steps"


def _labels(tickets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Densities in percent; with the folder's name where two are the same."""
    densities = [f"{100 * ticket['density']:.3g}" for ticket in tickets]
    if len(set(densities)) == len(densities):
        return densities
    names = [Path(ticket["source"]).name for ticket in tickets]
    return [f"{density} {name}" for density, name in zip(densities, names, strict=True)]
