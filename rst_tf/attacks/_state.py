"""What an interrupted AutoAttack goes on from."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np

from rst_tf.files import write_bytes


class State:
    """Which examples are broken, by what and how, and the try that is at work; in a file or not.

    Args:
        path: The file; None keeps nothing.
        identity: Hash of all that must agree with an earlier state.
        images: Clean images, which stand where nothing broke an example.
        broken_by: Of each example, before any attack.
        labels: Of each example, before any attack.
        attacks: Number of attacks.

    Raises:
        ValueError: The file is of another run, or damaged.
    """

    def __init__(self, path, identity: str, images, broken_by, labels, attacks: int):
        self._path, self._identity = path and Path(path), identity
        self.images = images.copy()
        self.broken_by, self.labels = broken_by.copy(), labels.copy()
        self.attack, self.trial, self.seconds = 0, 0, np.zeros(attacks)
        self.passes = np.zeros((attacks, 2), np.int64)
        self._saved = time.monotonic()
        if self._path and self._path.exists():
            self._load()

    def next_trial(self) -> None:
        """The try is over."""
        self.trial += 1

    def next_attack(self) -> None:
        """The attack is over."""
        self.attack, self.trial = self.attack + 1, 0

    def save(self, after: float = 0.0) -> None:
        """Writes the file, unless it was written less than `after` seconds ago."""
        if not self._path or time.monotonic() - self._saved < after:
            return
        stream = io.BytesIO()
        np.savez(
            stream,
            identity=self._identity,
            at=[self.attack, self.trial],
            broken_by=self.broken_by,
            labels=self.labels,
            images=self.images[self.broken_by >= 0],
            seconds=self.seconds,
            passes=self.passes,
        )
        write_bytes(self._path, stream.getvalue())
        self._saved = time.monotonic()

    def _load(self) -> None:
        try:
            with np.load(self._path, allow_pickle=False) as file:
                read = {name: file[name] for name in file.files}
            identity = str(read["identity"])
        except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"state {str(self._path)!r} is damaged ({error}); remove it") from None
        if identity != self._identity:
            raise ValueError(
                f"state {str(self._path)!r} is of another model, other images or other attacks; "
                "remove it, or name another file"
            )
        self.broken_by, self.labels = read["broken_by"], read["labels"]
        self.images[self.broken_by >= 0] = read["images"]
        self.attack, self.trial = map(int, read["at"])
        self.seconds, self.passes = read["seconds"], read["passes"]
