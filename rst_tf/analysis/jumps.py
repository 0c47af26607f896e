"""What changed in a network around a jump in its accuracy: masks, normalisation statistics."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rst_tf.files import write_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """A network at one evaluation.

    Args:
        step: Of the evaluation.
        accuracy: Of the validation split, under attack if there is one.
        masks: By layer, bool arrays.
        statistics: By normalisation layer, running means and variances.
    """

    step: int
    accuracy: float
    masks: dict[str, np.ndarray]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def read(cls, file: Path) -> "State":
        """From a file of the folder `jumps` of a run.

        Raises:
            ValueError: The file is damaged; names it.
        """
        try:
            with np.load(file, allow_pickle=False) as data:
                said = json.loads(data["state"].tobytes())
                masks = {
                    name: np.unpackbits(data[f"mask_{i:04d}"], count=int(np.prod(shape)))
                    .astype(bool)
                    .reshape(shape)
                    for i, (name, shape) in enumerate(
                        zip(_apart(said["layers"]), said["shapes"], strict=True)
                    )
                }
                statistics = {
                    name: (data[f"mean_{i:04d}"], data[f"variance_{i:04d}"])
                    for i, name in enumerate(_apart(said["normalisations"]))
                }
                return cls(said["step"], said["accuracy"], masks, statistics)
        except (OSError, LookupError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error


@dataclasses.dataclass(frozen=True)
class Change:
    """What moved in a layer's mask over three evaluations, in numbers of entries.

    Args:
        layer: Its name.
        entries: Of the mask.
        kept: At the first evaluation.
        fell: Differ between the first and the second.
        rose: Differ between the second and the third.
        returned: Differ in both: as they were at first.
        apart: Differ between the first and the third.
    """

    layer: str
    entries: int
    kept: int
    fell: int
    rose: int
    returned: int
    apart: int


def changes(states: Sequence[State]) -> list[Change]:
    """Layer by layer, and a last one named `total`, for three states."""
    found = []
    for layer, first in states[0].masks.items():
        second, third = (state.masks[layer] for state in states[1:])
        one, two, whole = first != second, second != third, first != third
        counts = (n.sum() for n in (first, one, two, one & two, whole))
        found.append(Change(layer, first.size, *map(int, counts)))
    sums = [sum(getattr(c, f.name) for c in found) for f in dataclasses.fields(Change)[1:]]
    return [*found, Change("total", *sums)]


def write(folder: str | Path) -> Path:
    """Writes `report.md` into the folder `jumps` of a run, and a table of positions for each jump.

    Args:
        folder: `jumps` of a run's folder.

    Returns:
        The report.

    Raises:
        ValueError: A file is damaged; names it.
    """
    folder = Path(folder)
    file = folder / "jumps.json"
    known = json.loads(file.read_text()) if file.exists() else []
    parts = ["# Jumps in accuracy", _summary(known)]
    for jump in known:
        states = _states(folder, jump["round"], jump["steps"])
        parts += [f"## Round {jump['round']}, step {jump['steps'][-1]:,}", *_told(states)]
        name = f"round_{jump['round']:02d}_step_{jump['steps'][-1]:08d}.csv"
        write_bytes(folder / name, _positions(states))
        parts.append(f"Every position that changed: `{name}`.")
    for place in sorted(folder.glob("round_*/")):
        steps = sorted(int(f.stem.removeprefix("step_")) for f in place.glob("step_*.npz"))[-3:]
        if len(steps) == 3:
            number = int(place.name.removeprefix("round_"))
            parts += [f"## The end of round {number}", *_told(_states(folder, number, steps))]
    report = folder / "report.md"
    write_bytes(report, ("\n\n".join(parts) + "\n").encode())
    return report


def _states(folder: Path, number: int, steps: Sequence[int]) -> list[State]:
    return [State.read(folder / f"round_{number:02d}" / f"step_{s:08d}.npz") for s in steps]


def _summary(known: Sequence[dict]) -> str:
    if not known:
        return "No evaluation fell and rose again by more than the threshold."
    rows = [
        (jump["round"], *(f"{s:,}" for s in jump["steps"]), *map(_percent, jump["accuracies"]))
        for jump in known
    ]
    return _table(["round", "before", "bottom", "after", "% before", "% bottom", "% after"], rows)


def _told(states: Sequence[State]) -> list[str]:
    """Sentences and tables on three states."""
    seen = ", ".join(f"{_percent(s.accuracy)} % at step {s.step:,}" for s in states)
    heads = ["layer", "entries", "kept", "changed 1-2", "changed 2-3", "changed back", "apart 1-3"]
    heads.append("% of kept apart")
    rows = [
        (*(f"{n:,}" for n in dataclasses.astuple(c)[1:]), _percent(c.apart / max(1, c.kept)))
        for c in changes(states)
    ]
    names = [change.layer for change in changes(states)]
    masks = _table(heads, [(name, *row) for name, row in zip(names, rows, strict=True)])
    told = [f"Accuracy on the validation split: {seen}. Masks:", masks]
    if states[0].statistics:
        heads = ["normalisation", "of", "step 1", "step 2", "step 3", "largest move 1-2", "2-3"]
        told += [
            "Running statistics, means over the channels; moves in standard deviations:",
            _table(heads, [row for name in states[0].statistics for row in _moves(states, name)]),
        ]
    return told


def _moves(states: Sequence[State], name: str) -> list[tuple]:
    """A row for the means and one for the standard deviations of a normalisation layer."""
    means = [state.statistics[name][0] for state in states]
    widths = [np.sqrt(np.maximum(state.statistics[name][1], 1e-12)) for state in states]
    rows = []
    for kind, values in (("mean", means), ("deviation", widths)):
        moves = [np.abs(values[i + 1] - values[i]) / widths[i] for i in range(2)]
        shown = [*(np.mean(v) for v in values), *(np.max(m) for m in moves)]
        rows.append((name, kind, *(f"{number:.4g}" for number in shown)))
    return rows


def _positions(states: Sequence[State]) -> bytes:
    """A line for each entry that changed: layer, flat position, kept (1) or not at the three."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "position", "before", "bottom", "after"])
    for layer in states[0].masks:
        kept = np.stack([state.masks[layer].ravel() for state in states])
        for place in np.flatnonzero((kept != kept[0]).any(0)):
            writer.writerow([layer, place, *kept[:, place].astype(int)])
    return text.getvalue().encode()


def _apart(names: Sequence[str]) -> list[str]:
    """Names made different, for two layers may be called the same."""
    return [
        f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
