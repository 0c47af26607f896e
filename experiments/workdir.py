"""The folder of a run: configuration, results, tickets. All files appear whole or not at all."""

import csv
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.experiment import RunError
from rst_tf.ticket_file import write_bytes

COLUMNS = ("round", "step", "split", "density", "kept", "attack")
COLUMNS += ("loss", "accuracy", "robust_loss", "robust_accuracy")


class Workdir:
    """A folder that belongs to one configuration.

    Args:
        path: The folder; made if it does not exist.
        config: The configuration as plain values. A folder made by another one is refused.
        dataset: What is known of the data: name, fingerprint, numbers of examples.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], dataset: Mapping[str, Any]):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim({"experiment": dict(config), "dataset": dict(dataset)})
        self._rows = _read_rows(self.path / "results.csv")
        self._times = _read_rows(self.path / "timing.csv")

    def ticket(self, name: str) -> Path:
        """Path of a ticket: `initial`, `round_03`, `round_03_best`."""
        return self.path / "tickets" / f"{name}.npz"

    def begin_round(self, number: int) -> None:
        """Forgets what an interrupted run recorded of this round and later ones."""
        self._rows = [row for row in self._rows if int(row["round"]) < number]
        self._times = [row for row in self._times if int(row["round"]) < number]
        self._write("results.csv", COLUMNS, self._rows)

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows to results.csv, all of them at once; None is an empty cell."""
        self._rows += [{name: _cell(row.get(name)) for name in COLUMNS} for row in rows]
        self._write("results.csv", COLUMNS, self._rows)

    def record_time(self, **row: Any) -> None:
        """Adds a row to timing.csv, the only file with times in it."""
        self._times.append({name: _cell(row[name]) for name in ("round", "step", "seconds")})
        self._write("timing.csv", ("round", "step", "seconds"), self._times)

    def _write(self, name: str, columns, rows) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(self.path / name, text.getvalue().encode())

    def _claim(self, config: dict) -> None:
        file = self.path / "config.json"
        config = json.loads(json.dumps(config))
        if file.exists():
            try:
                found = json.loads(file.read_text())
            except ValueError as error:
                raise RunError(f"{file} is damaged: {error}") from error
            changes = _differences({name: found.get(name) for name in config}, config)
            if changes:
                raise RunError(
                    f"workdir {self.path} was made by another configuration: {'; '.join(changes)}; "
                    "choose another --workdir"
                )
        elif any(self.path.iterdir()):
            raise RunError(f"workdir {self.path} is not empty and has no config.json")
        else:
            config |= {"environment": environment(), "command": sys.argv}
            write_bytes(file, json.dumps(config, indent=2).encode())


def environment() -> dict[str, Any]:
    """Versions and settings that can change the bits of a result."""
    import keras
    import numpy as np
    import tensorflow as tf

    import rst_tf

    return {
        "rst_tf": rst_tf.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    }


def _cell(value) -> str:
    if value is None:
        return ""
    return repr(round(value, 8)) if isinstance(value, float) else str(value)


def _read_rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _differences(there, here, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys([*there, *here])
        return [
            change
            for name in names
            for change in _differences(there.get(name), here.get(name), f"{path}.{name}".strip("."))
        ]
    return [] if there == here else [f"{path} is {there!r} there and {here!r} here"]
