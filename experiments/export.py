"""Writing the network of a finished run for other runtimes."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Literal

from experiments.experiment import EXPERIMENTS, Experiment
from experiments.finished import ticket_file
from experiments.workdir import Workdir
from rst_tf.artefact_formats import FORMATS, Name, known, usable
from rst_tf.files import write_bytes
from rst_tf.registry import to_dict
from rst_tf.ticket import Ticket


@EXPERIMENTS.register("export")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Experiment):
    """The network of a finished run as files for other runtimes, each checked against it.

    Args:
        source: Folder of a finished run, or a ticket file.
        round: Round of the run; none takes the last finished one. 0 is the dense network.
        which: Weights of the round: best, those with the highest validation accuracy (robust
            accuracy under an attack); or last.
        formats: What to write: keras, saved_model, litert, onnx; packed, for a network whose kept
            weights are +-one number per kernel, which rst_tf reads.
        shrink: Leave channels out that have no effect, for every image zero or read by nobody:
            smaller dense networks, which are faster. Not with the format packed.
        latency_runs: Number of runs behind the median time for one image, which is printed only.
    """

    source: str
    round: int | None = None
    which: Literal["best", "last"] = "best"
    formats: tuple[Name, ...] = ("keras", "saved_model", "litert", "onnx")
    shrink: bool = False
    latency_runs: int = 30

    def __post_init__(self):
        if self.round is not None and self.round < 0:
            raise ValueError(f"round must be at least 0; received round={self.round!r}")
        if self.which not in ("best", "last"):
            raise ValueError(f"which must be best or last; received which={self.which!r}")
        for name in self.formats:
            known(name)
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats must name each format once; received {self.formats!r}")
        if self.shrink and any(FORMATS[name].masked for name in self.formats):
            raise ValueError(
                "shrink is not for the format packed, which holds masks; received "
                f"formats={self.formats!r}"
            )
        if self.latency_runs < 1:
            raise ValueError(f"latency_runs must be at least 1; received {self.latency_runs!r}")

    def run(self, workdir):
        """Leaves network.keras, saved_model/, network.tflite, ... and export.json."""
        for name in self.formats:
            usable(name)
        file = self.ticket()
        ticket = Ticket.load(file)
        network = ticket.build()
        with contextlib.closing(Workdir(workdir, to_dict(self), {})) as claimed:
            self._write(claimed.path, file, ticket, network)

    def _write(self, folder: Path, file: Path, ticket: Ticket, network) -> None:
        from rst_tf.artefacts import export, size_table, table
        from rst_tf.footprint import Footprint

        artefacts = []
        for name in self.formats:
            kind = FORMATS[name]
            path = folder / (f"network{kind.suffix}" if kind.suffix else name)
            options = {"latency_runs": self.latency_runs, "overwrite": True, "shrink": self.shrink}
            if kind.masked:
                options |= {"description": ticket.network, "weights": ticket.seed}
            artefacts.append(export(network, path, name, **options))
        footprint = Footprint.of(network)
        report = {
            "ticket": str(file),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "artefacts": [_described(artefact) for artefact in artefacts],
            "footprint": {
                **dataclasses.asdict(footprint),
                "float32": footprint.float32,
                "int8": footprint.int8,
                "bound": footprint.bound,
                "bound_of_seed": footprint.bound_of_seed,
            },
        }
        write_bytes(folder / "export.json", json.dumps(report, indent=2).encode())
        print(f"{file}, density {ticket.density:.4g}, written to {folder}\n\n{table(artefacts)}\n")
        print(f"{size_table(footprint, artefacts)}\n")
        print(_what_zeros_do(self.shrink))

    def ticket(self) -> Path:
        """The ticket file that the settings speak of; see `finished.ticket_file`."""
        return ticket_file(self.source, round_number=self.round, which=self.which)


def _what_zeros_do(shrink: bool) -> str:
    if shrink:
        return "Channels without effect are left out, which makes an image faster; zeros do not."
    return "Zeros shrink the compressed file (gzip); they do not make an image any faster."


def _described(artefact) -> dict:
    """What does not depend on the clock."""
    values = dataclasses.asdict(artefact)
    del values["latency_ms"]
    return {**values, "path": artefact.path.name, "density": artefact.density}
