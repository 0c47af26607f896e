"""Masks and normalisation statistics around a jump: accuracy that falls, and rises again."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rst_tf.files import write_bytes

_KEPT = 3  # evaluations that make a jump: before it, at the bottom, after it


class Jumps:
    """The folder `jumps` of a run: the state at the last evaluations, and at those of jumps.

    Args:
        folder: The folder; made when there is something to keep.
        threshold: What the accuracy falls by, and rises by again, at least: a fraction.
    """

    def __init__(self, folder: Path, threshold: float):
        self.folder, self.threshold = Path(folder), threshold

    def at(self, round_number: int, step: int, accuracy: float, network) -> None:
        """Keeps the state of an evaluation, and that of a jump for good.

        Args:
            round_number: The round.
            step: Of the evaluation.
            accuracy: On the validation split, under attack if there is one, in [0, 1].
            network: As it is now.
        """
        state = {"round": round_number, "step": step, "accuracy": accuracy}
        write_bytes(self._file(round_number, step), _packed(network, state))
        last = self._steps(round_number)[-_KEPT:]
        found = [_accuracy(self._file(round_number, step)) for step in last]
        known = self._known()
        if len(last) == _KEPT and is_jump(found, self.threshold):
            known.append({"round": round_number, "steps": last, "accuracies": found})
            self._record(known)
        self._forget(round_number, {*last, *_of_round(known, round_number)})

    def go_back(self, round_number: int, step: int = -1) -> None:
        """Forgets what was kept after a step of a round."""
        if not self.folder.exists():
            return
        known = self._known()
        place = (round_number, step)
        before = [jump for jump in known if (jump["round"], jump["steps"][-1]) <= place]
        if before != known:
            self._record(before)
        self._forget(round_number, {s for s in self._steps(round_number) if s <= step})

    def _known(self) -> list[dict[str, Any]]:
        file = self.folder / "jumps.json"
        return json.loads(file.read_text()) if file.exists() else []

    def _record(self, known: list) -> None:
        write_bytes(self.folder / "jumps.json", json.dumps(known, indent=2).encode())

    def _file(self, round_number: int, step: int) -> Path:
        return self.folder / f"round_{round_number:02d}" / f"step_{step:08d}.npz"

    def _steps(self, round_number: int) -> list[int]:
        files = self._file(round_number, 0).parent.glob("step_*.npz")
        return sorted(int(file.stem.removeprefix("step_")) for file in files)

    def _forget(self, round_number: int, wanted: set[int]) -> None:
        for step in self._steps(round_number):
            if step not in wanted:
                self._file(round_number, step).unlink()


def is_jump(accuracies, threshold: float) -> bool:
    """Whether three accuracies fall and rise again by more than the threshold."""
    before, bottom, after = accuracies
    return min(before - bottom, after - bottom) > threshold


def _of_round(known: list, round_number: int) -> set[int]:
    return {step for jump in known if jump["round"] == round_number for step in jump["steps"]}


def _accuracy(file: Path) -> float:
    with np.load(file, allow_pickle=False) as data:
        return json.loads(data["state"].tobytes())["accuracy"]


def _packed(network, state: dict[str, Any]) -> bytes:
    """Masks as the forward pass uses them, as bits, and the statistics of every normalisation."""
    import keras

    from rst_tf.normalization import Normalization
    from rst_tf.ticket import Ticket
    from rst_tf.traversal import walk

    entries = Ticket.of(network, weights="none").entries
    batch = Normalization | keras.layers.BatchNormalization
    normalised = [layer for layer in walk(network) if isinstance(layer, batch)]
    names = {
        "layers": [entry.name for entry in entries],
        "shapes": [list(entry.mask.shape) for entry in entries],
        "normalisations": [layer.name for layer in normalised],
    }
    text = json.dumps(state | names)
    arrays = {"state": np.frombuffer(text.encode(), np.uint8)}
    arrays |= {f"mask_{i:04d}": np.packbits(e.mask != 0) for i, e in enumerate(entries)}
    for i, layer in enumerate(normalised):
        arrays[f"mean_{i:04d}"] = np.asarray(layer.moving_mean)
        arrays[f"variance_{i:04d}"] = np.asarray(layer.moving_variance)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
