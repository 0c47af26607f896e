"""What happens between the steps of a round: evaluation, the best ticket, checkpoints, stopping."""

import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from experiments import checkpoint
from experiments._costs import Costs
from experiments._jumps import Jumps
from experiments.companion import Companion, all_shown
from experiments.interruption import Interrupted
from experiments.training import Events
from rst_tf import strategies
from rst_tf.callbacks import MaskGuard, Progress
from rst_tf.ticket import Ticket


class Watch(keras.callbacks.Callback):
    """Evaluates at exact steps on the splits of the session, and keeps what can be lost.

    Args:
        session: The experiment at work.
        round_number: For rows and folders.
        first_step: Steps done before.
        events: What is done with the trainer at certain steps, before they are evaluated.
        companions: What goes along with the round.
        guard: Checks before, and looks anew after, whatever may change masks.

    Attributes:
        sizes: Steps of each call of the training function; set it before the training.
    """

    def __init__(
        self,
        session,
        round_number: int,
        first_step: int,
        events: Events,
        companions: Sequence[Companion] = (),
        guard: MaskGuard | None = None,
    ):
        super().__init__()
        self.session, self.round, self.events = session, round_number, events
        self.companions = [Costs(first_step, events, companions), *companions]
        self.guard = guard
        self.first = self.step = first_step
        self.due = session.evaluation_steps(first_step)
        self.sizes: Sequence[int] = ()
        self.best, self.best_valid = -1.0, {}
        self._resumed = False
        threshold = session.settings.track_jumps
        folder = session.workdir.path / "jumps"
        self.jumps = None if threshold is None else Jumps(folder, threshold)

    def stops(self) -> set[int]:
        """The steps at which something has to happen."""
        return {*self.due, *self.events}.union(*(each.stops() for each in self.companions))

    def resume(self, trainer) -> int:
        """Goes back to the last checkpoint of this round, if there is one; gives its step."""
        workdir = self.session.workdir
        for companion in self.companions:
            companion.begin(self.session, trainer, self.round)
        header = checkpoint.restore(
            workdir.checkpoint, self._variables(trainer), workdir.identity, self.round
        )
        step = -1 if header is None else header["step"]
        if self.jumps is not None:
            self.jumps.go_back(self.round, step)
        notes = {} if header is None else header.get("notes", {})
        for companion in self.companions:
            companion.restore(max(step, self.first), notes.get(companion.name))
        if header is None:
            workdir.go_back(self.round)
            return self.first
        self._resumed, self.step = True, header["step"]
        self.best, self.best_valid = header["best"], header["best_valid"]
        self._meters = [meter.numpy() for meter in trainer.metrics_variables]
        workdir.go_back(self.round, self.step)
        return self.step

    def on_train_begin(self, logs=None):
        """The first evaluation, unless the round goes on from a checkpoint."""
        self.started = time.monotonic()
        self._look_at_masks()
        title = f"{self.session.round_title(self.round)} · {100 * self.density:.1f} % of weights"
        self.progress = Progress(title, self.session.total - self.first)
        if self._resumed:
            if self.best_valid:
                self.progress.note(self.best_valid)
            return
        self.session.board.masks(self.session.network, self.round)
        if self.step in self.due:
            self._evaluate(None)

    def on_epoch_begin(self, epoch, logs=None):
        """Keras has just reset the meters."""
        if self._resumed:
            for meter, value in zip(self.model.metrics_variables, self._meters, strict=True):
                meter.assign(value)

    def on_train_batch_end(self, batch, logs=None):
        """Does what the step asks for."""
        self.step += self.sizes[batch]
        self.progress.update(self.step - self.first, logs)
        self._act()
        ended = any(companion.finished for companion in self.companions)
        if self.step in self.due or ended:
            self._evaluate(logs)
            self.model.reset_metrics()
        finished = ended or self.step == self.session.total
        self.model.stop_training = ended
        stops = not finished and strategies.any_worker(self.session.wish.number is not None)
        if not finished and (self.step in self.due or stops):
            self._save()
        if stops:
            self.progress.close(self.step - self.first)
            where = f"step {self.step:,} of {self.session.total:,} of round {self.round}"
            raise Interrupted(self.session.wish.number or signal.SIGTERM, where)

    def _act(self) -> None:
        """What is due at this step before it is evaluated; masks may change."""
        wanted = [each.at for each in self.companions if self.step in each.stops()]
        if self.step in self.events:
            wanted.append(lambda _: self.events[self.step](self.model))
        if not wanted:
            return
        if self.guard is not None:
            self.guard.check()
        for act in wanted:
            act(self.step)
        if self.guard is not None:
            self.guard.remember()
        self._look_at_masks()

    def on_train_end(self, logs=None):
        """Ends the progress bar's line, and gives TensorBoard's table of runs its results."""
        self.progress.close()
        result = {"density": self.density, **self.best_valid}
        self.session.board.scalars("settings", self.round, result)

    def _save(self) -> None:
        header = {
            "run": self.session.workdir.identity,
            "round": self.round,
            "step": self.step,
            "best": self.best,
            "best_valid": self.best_valid,
            "notes": {each.name: each.notes for each in self.companions},
        }
        path = self.session.workdir.checkpoint
        checkpoint.save(path, self._variables(self.model), header)

    def _variables(self, trainer) -> list:
        """Everything that a training changes."""
        carried = [] if trainer.noise is None else [trainer.noise]
        own = [*trainer.optimizer.variables, *trainer.metrics_variables, *carried]
        along = [variable for each in self.companions for variable in each.variables]
        return [*trainer.network.variables, *own, *along]

    def _look_at_masks(self) -> None:
        """Between events no training changes how many weights are kept."""
        masks = Ticket.of(self.session.network, weights="none")
        self.kept, self.density = masks.kept, masks.density

    def _evaluate(self, logs: Mapping | None) -> None:
        found: dict[str, Any] = {"train": logs} if logs is not None else {}
        with all_shown(self.companions):
            found |= {split: self._measure(split) for split in self.session.evaluated}
            self._keep_best(found["valid"])
        self.session.workdir.record([self._row(*item) for item in found.items()])
        for split, values in found.items():
            self.session.board.scalars(f"round_{self.round:02d}/{split}", self.step, values)
        seconds = round(time.monotonic() - self.started, 3)
        self.session.workdir.record_time(round=self.round, step=self.step, seconds=seconds)
        self.progress.note(found["valid"])
        for companion in self.companions:
            companion.evaluated(self.step, found)

    def _keep_best(self, valid: Mapping[str, float | None]) -> None:
        attacked = valid["robust_accuracy"] is not None
        score = valid["robust_accuracy" if attacked else "accuracy"]
        if self.jumps is not None:
            self.jumps.at(self.round, self.step, score, self.session.network)
        asked = self.session.settings.may_be_best(self.step, self.session.steps_per_epoch)
        if asked and score > self.best:
            self.best, self.best_valid = score, valid
            self.session.save_ticket(f"round_{self.round:02d}_best")

    def _measure(self, split: str) -> dict[str, float | None]:
        part = self.session.evaluated[split]
        found = self.session.evaluate(part)
        attacked = found.robust is not None
        if split == "test":
            self.session.workdir.record_correct(
                self.round, self.step, part.index, found.correct, found.robust
            )
        return {
            "loss": float(found.loss.mean()),
            "accuracy": found.accuracy,
            "robust_loss": float(found.robust_loss.mean()) if attacked else None,
            "robust_accuracy": found.robust_accuracy,
        }

    def _row(self, split: str, values: Mapping) -> dict[str, Any]:
        settings = self.session.settings
        attack = settings.objective.training_attack if split == "train" else settings.judged_by
        return {
            "round": self.round,
            "step": self.step,
            "split": split,
            "density": self.density,
            "kept": self.kept,
            "attack": attack and str(attack),
            **values,
        }
