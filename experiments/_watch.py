"""Evaluation while a network trains: rows, progress bar, TensorBoard, the best ticket."""

import time
from collections.abc import Mapping
from typing import Any

import keras

from rst_tf.callbacks import Progress
from rst_tf.ticket import Ticket


class Watch(keras.callbacks.Callback):
    """Evaluates at exact steps, first and last included, on the validation and test splits.

    Args:
        session: The experiment at work.
        round_number: For rows and folders.
        first_step: Steps done before.
        snapshots: Steps at which a ticket is stored, and its name.
    """

    def __init__(self, session, round_number: int, first_step: int, snapshots: Mapping[int, str]):
        super().__init__()
        self.session, self.round = session, round_number
        self.first, self.snapshots = first_step, snapshots
        self.best = -1.0

    def on_train_begin(self, logs=None):
        """Step 0."""
        self.started = time.monotonic()
        masks = Ticket.of(self.session.network, weights="none")
        self.kept, self.density = masks.kept, masks.density
        self.session.board.masks(self.session.network, self.round)
        title = f"round {self.round} · {100 * self.density:.1f} % of weights"
        self.progress = Progress(title, self.session.total - self.first)
        self._evaluate(self.first, None)

    def on_train_batch_end(self, batch, logs=None):
        """Evaluates when the step has come."""
        step = self.first + batch + 1
        self.progress.update(batch + 1, logs)
        if step in self.snapshots:
            self.session.save_ticket(self.snapshots[step])
        if step % self.session.every == 0 or step == self.session.total:
            self._evaluate(step, logs)
            self.model.reset_metrics()

    def on_train_end(self, logs=None):
        """Ends the progress bar's line, and gives TensorBoard's table of runs its results."""
        self.progress.close()
        result = {"density": self.density, **self.best_valid}
        self.session.board.scalars("settings", self.round, result)

    def _evaluate(self, step: int, logs: Mapping | None) -> None:
        found = {"train": logs} if logs is not None else {}
        found |= {split: self._measure(split) for split in ("valid", "test")}
        self.session.workdir.record([self._row(step, *item) for item in found.items()])
        for split, values in found.items():
            self.session.board.scalars(f"round_{self.round:02d}/{split}", step, values)
        seconds = round(time.monotonic() - self.started, 3)
        self.session.workdir.record_time(round=self.round, step=step, seconds=seconds)
        valid = found["valid"]
        self.progress.note(valid)
        attacked = valid["robust_accuracy"] is not None
        score = valid["robust_accuracy" if attacked else "accuracy"]
        if score > self.best:
            self.best, self.best_valid = score, valid
            self.session.save_ticket(f"round_{self.round:02d}_best")

    def _measure(self, split: str) -> dict[str, float | None]:
        found = self.session.evaluate(*self.session.evaluated[split])
        attacked = found.robust is not None
        return {
            "loss": float(found.loss.mean()),
            "accuracy": found.accuracy,
            "robust_loss": float(found.robust_loss.mean()) if attacked else None,
            "robust_accuracy": found.robust_accuracy,
        }

    def _row(self, step: int, split: str, values: Mapping) -> dict[str, Any]:
        settings = self.session.settings
        attack = settings.objective.training_attack if split == "train" else settings.judged_by
        return {
            "round": self.round,
            "step": step,
            "split": split,
            "density": self.density,
            "kept": self.kept,
            "attack": attack and str(attack),
            **values,
        }
