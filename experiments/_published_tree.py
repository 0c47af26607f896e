"""A trial in a result tree of the published code of the 2019 system, read strictly."""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rst_tf.published_2019 import published_step

SHAPES = {"hidden_1": (784, 300), "hidden_2": (300, 100), "output": (100, 10)}
LAYOUT = "{dataset}/{model}/{experiment}/{attack}/lr-{lr}_l1-{l1}_advtrain-{true|false}/trial_{tt}"
_TRIAL = re.compile(
    r"(?P<data>digits|fashion)/dense-300-100"
    r"/(?P<experiment>reinit_orig|reinit_rand|reinit_none|no_pruning)/(?P<attack>fgsm|pgd)"
    r"/lr-(?P<learning_rate>[^_/]+)_l1-(?P<l1>[^_/]+)_advtrain-(?P<adversarial>true|false)"
    r"/trial_(?P<number>\d+)$"
)
_HEADER = "batch,loss,acc,adv_acc"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the path of a trial tells.

    Args:
        path: The folder.
        data: digits or fashion.
        experiment: reinit_orig, reinit_rand, reinit_none or no_pruning.
        attack: fgsm or pgd: of every evaluation, and of training where it is adversarial.
        learning_rate: Of Adam.
        l1: Strength of the L1 penalty on all kernels.
        adversarial: Whether training was.
        number: Of the trial, from 0.
    """

    path: Path
    data: str
    experiment: str
    attack: str
    learning_rate: float
    l1: float
    adversarial: bool
    number: int


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """One `prune_iter_NN` folder.

    Args:
        initial: Kernel of each layer before training, float32.
        final: The same after training.
        masks: Bool array of each layer; True is kept.
        logs: By split, one (step, loss, accuracy, robust accuracy) per evaluation.
    """

    initial: dict[str, np.ndarray]
    final: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    logs: dict[str, list[tuple[int, float, float, float]]]


def read_path(source: str) -> Trial:
    """The trial that a path names.

    Raises:
        ValueError: It is no folder, the folder of several trials, or not where a trial would be.
    """
    path = Path(os.path.abspath(source))
    if not path.is_dir():
        raise ValueError(f"source={source!r} is no folder")
    if trials := sorted(each.name for each in path.glob("trial_*")):
        there = ", ".join(trials)
        raise ValueError(f"source={source!r} holds trials; import them one by one: {there}")
    match = _TRIAL.search(path.as_posix())
    if match is None:
        raise ValueError(f"source must be a folder TREE/{LAYOUT}; received {source!r}")
    told = match.groupdict()
    for name in ("learning_rate", "l1"):
        try:
            told[name] = float(told[name])
        except ValueError as error:
            raise ValueError(f"source: {name} is no number in {path.parent.name!r}") from error
    adversarial = told.pop("adversarial") == "true"
    return Trial(path, adversarial=adversarial, number=int(told.pop("number")), **told)


def read_rounds(trial: Trial, steps_per_epoch: int, every: int) -> list[Round]:
    """All rounds of a trial.

    Args:
        trial: Where.
        steps_per_epoch: Optimiser steps in an epoch.
        every: The published interval of evaluations, in steps within an epoch.

    Raises:
        ValueError: A file is missing or damaged; names it.
    """
    there = {path.name for path in trial.path.glob("prune_iter_*")}
    names = [f"prune_iter_{number:02d}" for number in range(max(1, len(there)))]
    for name in names:
        if name not in there:
            raise ValueError(f"{trial.path / name}: no such folder; received {sorted(there)}")
    return [_round(trial.path / name, steps_per_epoch, every) for name in names]


def digest(trial: Trial) -> str:
    """SHA-256 over the arrays and logs of a trial."""
    found = hashlib.sha256()
    for path in sorted(p for p in trial.path.rglob("*") if p.suffix in (".npy", ".csv")):
        found.update(path.relative_to(trial.path).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def _round(folder: Path, steps_per_epoch: int, every: int) -> Round:
    logs = {
        split: _log(folder / f"{split}.csv", steps_per_epoch, every)
        for split in ("train", "valid", "test")
    }
    for split, rows in logs.items():
        if len(rows) != len(logs["valid"]):
            counts = f"{len(rows)} rows, but valid.csv {len(logs['valid'])}"
            raise ValueError(f"{folder / split}.csv has {counts}")
    return Round(
        initial=_arrays(folder / "init_kernels", _kernel),
        final=_arrays(folder / "post_kernels", _kernel),
        masks=_arrays(folder / "masks", _mask),
        logs=logs,
    )


def _arrays(folder: Path, read: Callable) -> dict[str, np.ndarray]:
    if foreign := sorted({path.stem for path in folder.glob("*.npy")} - SHAPES.keys()):
        raise ValueError(f"{folder} has layers that dense-300-100 does not have: {foreign}")
    return {name: read(folder / f"{name}.npy", shape) for name, shape in SHAPES.items()}


def _kernel(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    kernel = _array(path, shape)
    if not np.isfinite(kernel).all():
        raise ValueError(f"{path} has weights that are not finite")
    return kernel


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    mask = _array(path, shape)
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"{path} is no mask: expected 0 and 1; received {np.unique(mask)[:4]}")
    if not mask.any():
        raise ValueError(f"{path} keeps no weight")
    return mask.astype(bool)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Mapped, a file whose header promises more than it holds costs no memory.
        stored = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is cut, pickled or no .npy file: {error}") from error
    if stored.shape != shape or stored.dtype.kind not in "fiub":
        raise ValueError(
            f"{path}: expected numbers of shape {shape}; received {stored.dtype}, {stored.shape}"
        )
    return np.array(stored, np.float32, order="C")


def _log(path: Path, steps_per_epoch: int, every: int) -> list[tuple[int, float, float, float]]:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; was this round trained to its end?") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text") from error
    header, *lines = text.splitlines() or [""]
    if header != _HEADER:
        raise ValueError(f"{path} line 1: expected {_HEADER}; received {header!r}")
    if not lines or not text.endswith("\n"):
        raise ValueError(f"{path} line {len(lines) + 1}: no rows, or the file is cut off")
    # train.csv has the batch within the epoch where the other two have the running label.
    cycle = math.ceil(steps_per_epoch / every) if path.name == "train.csv" else len(lines)
    rows = []
    for row, line in enumerate(lines):
        try:
            values = _values(line, row % cycle * every)
        except ValueError as error:
            raise ValueError(f"{path} line {row + 2}: {error}") from error
        rows.append((published_step(row * every, steps_per_epoch, every), *values))
    return rows


def _values(line: str, label: int) -> tuple[float, float, float]:
    cells = line.split(",")
    if len(cells) != 4:
        raise ValueError(f"expected 4 cells; received {len(cells)}")
    batch, loss, *fractions = (float(cell or "nan") for cell in cells)  # a NaN was written empty
    if batch != label:
        raise ValueError(
            f"expected batch {label} by steps_per_epoch and eval_every; received {cells[0]}"
        )
    if not all(0 <= value <= 1 for value in fractions):
        raise ValueError(f"acc and adv_acc must be in [0, 1]; received {', '.join(cells[2:])}")
    return loss, *fractions
