"""The folder of a run: configuration, results, tickets. All files appear whole or not at all."""

import csv
import fcntl
import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.environment import changes, environment
from experiments.experiment import Experiment, RunError
from rst_tf.files import remove_leftovers, write_bytes
from rst_tf.registry import at_default, from_dict, to_dict

COLUMNS = ("round", "step", "split", "density", "kept", "attack")
COLUMNS += ("loss", "accuracy", "robust_loss", "robust_accuracy")
_NOT_OURS = {".lock", "log"}


class Workdir:
    """A folder that belongs to one configuration, and to one process while it is open.

    Args:
        path: The folder; made if it does not exist.
        config: The configuration as plain values. A folder made by another one is refused.
        dataset: What is known of the data: name, fingerprint, numbers of examples.
        may_grow: Names of whole numbers in `config` that may differ from what they were; the
            folder keeps the largest.

    Attributes:
        identity: A hash of the configuration, whose checkpoint is no other run's.
        moved: What differs between the environment that made the folder and this one.

    Raises:
        RunError: The folder is another configuration's, another process is at work in it, or a
            file is damaged.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        dataset: Mapping[str, Any],
        may_grow: Sequence[str] = (),
    ):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.path)
        try:
            self.moved: list[str] = []
            made_by = self._claim({"experiment": dict(config), "dataset": dict(dataset)}, may_grow)
            self.identity = _identity(made_by, dataset, may_grow)
            remove_leftovers(self.path)
            self._rows = _read_rows(self.path / "results.csv", COLUMNS)
            self._times = _read_rows(self.path / "timing.csv", ("round", "step", "seconds"))
            self._correct: dict[int, dict[str, Any]] = {}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets other processes in."""
        self._lock.close()

    @property
    def checkpoint(self) -> Path:
        """The file with the state of an unfinished round."""
        return self.path / "checkpoint.npz"

    def ticket(self, name: str) -> Path:
        """Path of a ticket: `initial`, `round_03`, `round_03_best`."""
        return self.path / "tickets" / f"{name}.npz"

    def go_back(self, round_number: int, step: int = -1) -> None:
        """Forgets what was recorded after a step of a round."""
        kept = (round_number, step)
        self._rows = [row for row in self._rows if (int(row["round"]), int(row["step"])) <= kept]
        self._times = [row for row in self._times if (int(row["round"]), int(row["step"])) <= kept]
        self._correct[round_number] = _read_correct(self._correct_file(round_number), step)

    def record(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows to results.csv, all of them at once; None is an empty cell."""
        self._rows += [{name: _cell(row.get(name)) for name in COLUMNS} for row in rows]
        self._write("results.csv", COLUMNS, self._rows)

    def record_time(self, **row: Any) -> None:
        """Adds a row to timing.csv, the only file with times in it."""
        self._times.append({name: _cell(row[name]) for name in ("round", "step", "seconds")})
        self._write("timing.csv", ("round", "step", "seconds"), self._times)

    def record_correct(self, round_number: int, step: int, index, clean, robust=None) -> None:
        """Adds which test examples were right at a step, to correct/round_NN.npz.

        Args:
            round_number: The round.
            step: The step in it.
            index: Identities of the test examples, [n].
            clean: Clean image right, bool [n].
            robust: Adversarial image right, bool [n]; None without an attack.
        """
        known = self._correct.setdefault(round_number, {})
        known["index"] = np.asarray(index, np.int64)
        for name, value in (("steps", step), ("clean", clean), ("robust", robust)):
            if value is not None:
                value = np.packbits(value) if name != "steps" else np.int64(value)
                known.setdefault(name, []).append(value)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: np.array(value) for name, value in known.items()})
        write_bytes(self._correct_file(round_number), buffer.getvalue())

    def _correct_file(self, round_number: int) -> Path:
        return self.path / "correct" / f"round_{round_number:02d}.npz"

    def _write(self, name: str, columns, rows) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(self.path / name, text.getvalue().encode())

    def _claim(self, config: dict, may_grow: Sequence[str]) -> Mapping[str, Any]:
        """Makes or checks config.json; gives the configuration that made the folder."""
        file = self.path / "config.json"
        config = json.loads(json.dumps(config))
        here = environment()
        if not file.exists():
            if {path.name for path in self.path.iterdir()} - _NOT_OURS:
                raise RunError(f"workdir {self.path} is not empty and has no config.json")
            config |= {"defaults": _defaults(config["experiment"])}
            config |= {"environment": here, "command": sys.argv}
            write_bytes(file, json.dumps(config, indent=2).encode())
            return config["experiment"]
        try:
            found = json.loads(file.read_text())
            there = {name: found.get(name) for name in config}
        except (ValueError, AttributeError) as error:
            raise RunError(f"{file} is damaged: {error}") from error
        self.moved = changes(found.get("environment") or {}, here)
        made_by = dict(there["experiment"] or {})
        before, now = _completed(made_by), config["experiment"]
        there["experiment"] = before
        grown = [name for name in may_grow if name in before and before[name] < now[name]]
        before |= {name: now[name] for name in may_grow if name in before}
        differences = _differences(there, config)
        if differences:
            error = RunError(
                f"workdir {self.path} was made by another configuration; choose another --workdir, "
                "or --force to move it aside"
            )
            for difference in differences:
                error.add_note(difference)
            raise error
        if grown:
            there["experiment"] = made_by | {name: now[name] for name in grown}
            if "defaults" in found:
                there["defaults"] = [name for name in found["defaults"] if name not in grown]
            write_bytes(file, json.dumps(found | there, indent=2).encode())
        return made_by


def _completed(config: dict) -> dict:
    """A configuration with the settings that it lacks, as an earlier version did not have them."""
    try:
        return json.loads(json.dumps(to_dict(from_dict(Experiment, config))))
    except (ValueError, TypeError):
        return config


def _defaults(config: dict) -> list[str]:
    """Dotted paths that are at their defaults, so that runs of versions without them are known."""
    try:
        return list(at_default(from_dict(Experiment, config)))
    except (ValueError, TypeError):
        return []


def _identity(config: Mapping, dataset: Mapping, may_grow: Sequence[str]) -> str:
    fixed = {name: value for name, value in config.items() if name not in may_grow}
    return hashlib.sha256(json.dumps([fixed, dataset], sort_keys=True).encode()).hexdigest()


def _locked(folder: Path):
    """The folder's lock file, held until it is closed or the process ends, however it ends."""
    stream = (folder / ".lock").open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.seek(0)
        owner = stream.read().strip() or "another process"
        stream.close()
        raise RunError(f"workdir {folder} is in use by {owner}; wait for it, or stop it") from error
    stream.truncate(0)
    stream.write(f"process {os.getpid()} on {os.uname().nodename}")
    stream.flush()
    return stream


def _cell(value) -> str:
    if value is None:
        return ""
    return repr(round(value, 8)) if isinstance(value, float) else str(value)


def _read_rows(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file of ours: renamed into place, so one that is cut off is not ours."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for number, row in enumerate(rows, start=2):
        if list(row) != list(columns) or not f"{row['round']}{row['step']}".isdigit():
            raise RunError(f"{file} is damaged at line {number}")
    return rows


def _read_correct(file: Path, last_step: int) -> dict[str, Any]:
    """What `record_correct` wrote, up to a step."""
    try:
        with np.load(file, allow_pickle=False) as data:
            known = {name: data[name] for name in data.files}
        kept = known["steps"] <= last_step
        return {
            name: value if name == "index" else list(value[kept]) for name, value in known.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{file} is damaged: {error}") from error


def _differences(there, here, path: str = "") -> list[str]:
    """One phrase per value that differs, named as its flag where it has one."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = dict.fromkeys([*there, *here])
        return [
            change
            for name in names
            for change in _differences(there.get(name), here.get(name), f"{path}.{name}".strip("."))
        ]
    if there == here:
        return []
    flag = "--" + path.removeprefix("experiment.").removesuffix(".name")
    if path == "experiment.name":
        flag = "--experiment"
    name = flag if path.startswith("experiment.") else path
    return [f"{name}: {_shown(there)} there, {_shown(here)} here"]


def _shown(value) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    return "none" if value is None else str(value)
