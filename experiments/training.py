"""What experiments that train have in common: the settings, and one round of training."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

from experiments.experiment import Experiment, RunError
from experiments.workdir import Workdir
from rst_tf.attacks import Attack
from rst_tf.data import Data
from rst_tf.models import MLP, Architecture
from rst_tf.objectives import Natural, Objective
from rst_tf.optimizers import Adam, Optimizer
from rst_tf.registry import to_dict
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Experiment):
    """Settings of every experiment that trains.

    Args:
        data: Images, their split and augmentation.
        network: Architecture of the network.
        initializer: Registered name of the kernel initialiser, drawn from `seed`.
        objective: What the network is trained on.
        optimizer: How gradients become steps.
        evaluation_attack: Attack of every evaluation; none takes the objective's, with true
            labels and cross-entropy.
        batch_size: Images per step.
        train_steps: Length of a training, in steps (`50000`) or epochs (`12ep`).
        eval_every: Steps or epochs between evaluations; the first is at step 0, the last at the
            end.
        eval_limit: Evaluate on so many images of each split, a fixed stratified draw; none takes
            all.
        seed: Of initial weights, data order and attack starts.
        jit: Use XLA: auto does so unless the network has convolutions.
    """

    data: Data = Data()
    network: Architecture = MLP()
    initializer: str = "glorot_uniform"
    objective: Objective = Natural()
    optimizer: Optimizer = Adam()
    evaluation_attack: Attack | None = None
    batch_size: int = 50
    train_steps: int | str = "20ep"
    eval_every: int | str = "2ep"
    eval_limit: int | None = None
    seed: int = 0
    jit: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received {self.batch_size!r}")
        for name in ("train_steps", "eval_every"):
            steps_of(getattr(self, name), 1000, name)

    def open(self, workdir) -> "Session":
        """Loads the data, builds the network, claims the folder."""
        return Session(self, workdir)

    @property
    def judged_by(self) -> Attack | None:
        """The attack of every evaluation."""
        from rst_tf.trainer import evaluation_default

        return self.evaluation_attack or evaluation_default(self.objective)


class Session:
    """A training experiment at work: its data, network and folder.

    Args:
        settings: The experiment.
        workdir: Its folder.
    """

    def __init__(self, settings: Training, workdir):
        import keras
        import tensorflow as tf

        from rst_tf.data import steps_per_epoch
        from rst_tf.evaluation import Evaluator
        from rst_tf.models import describe, masked_parts
        from rst_tf.tensorboard import Board

        keras.utils.set_random_seed(settings.seed)
        if tf.config.list_physical_devices("GPU"):  # on a CPU the bits repeat without it, and
            tf.config.experimental.enable_op_determinism()  # Keras would switch XLA off
        self.settings = settings
        self.splits = settings.data.load()
        self.steps_per_epoch = steps_per_epoch(len(self.splits.train), settings.batch_size)
        self.total = steps_of(settings.train_steps, self.steps_per_epoch, "train_steps")
        self.every = steps_of(settings.eval_every, self.steps_per_epoch, "eval_every")
        shape, classes = self.splits.shape, self.splits.classes
        self.network = settings.network.build(shape, classes, masked_parts())
        self.description = describe(settings.network, shape, classes)
        self.evaluate = Evaluator(self.network, settings.judged_by, seed=settings.seed)
        self.evaluated = {
            "valid": _evaluated(self.splits.valid, settings.eval_limit),
            "test": _evaluated(self.splits.test, settings.eval_limit),
        }
        self.workdir = Workdir(workdir, to_dict(settings), self._dataset())
        self.board = Board(self.workdir.path / "tensorboard")
        self.board.settings(to_dict(settings))
        images = f"{len(self.splits.train):,} images to train on"
        print(f"{workdir}: {images}, {self.total:,} steps a round", file=sys.stderr)

    def _dataset(self) -> dict[str, Any]:
        return {
            "fingerprint": self.splits.fingerprint,
            "classes": self.splits.classes,
            "shape": list(self.splits.shape),
            "train_examples": len(self.splits.train),
            "valid_examples": len(self.evaluated["valid"][1]),
            "test_examples": len(self.evaluated["test"][1]),
        }

    def load_ticket(self, name: str) -> Ticket:
        """A ticket of this run."""
        return Ticket.load(self.workdir.ticket(name))

    def save_ticket(self, name: str) -> None:
        """Stores masks and weights of the network as they are."""
        ticket = Ticket.of(self.network, description=self.description)
        ticket.save(self.workdir.ticket(name))

    def train(
        self, round_number: int, first_step: int = 0, snapshots: Mapping[int, str] | None = None
    ) -> None:
        """Trains the network as it is to the end of the training, and stores its tickets.

        Args:
            round_number: For results, pictures and the ticket's name.
            first_step: Steps that count as done already; schedule and data order go on from it.
            snapshots: Steps at which a ticket of this name is stored on the way.

        Raises:
            RunError: The loss is not finite, or a pruned weight moved.
        """
        from experiments._watch import Watch
        from rst_tf.callbacks import MaskGuard, StopOnNonFinite
        from rst_tf.data import batches
        from rst_tf.trainer import RobustTrainer

        settings, steps = self.settings, self.total - first_step
        snapshots = dict(snapshots or {})
        self.workdir.begin_round(round_number)
        trainer = RobustTrainer(
            self.network, settings.objective, settings.judged_by, seed=settings.seed
        )
        trainer.compile(
            settings.optimizer.build(self.total),
            jit_compile={"auto": "auto", "on": True, "off": False}[settings.jit],
            steps_per_execution=_steps_per_execution(self.every, first_step, steps, *snapshots),
        )
        trainer.optimizer.iterations.assign(first_step)
        train = batches(
            self.splits.train,
            settings.batch_size,
            seed=settings.seed,
            augment=settings.data.augment,
            pad=settings.data.pad,
            first_step=first_step,
            steps=steps,
        )
        watch = Watch(self, round_number, first_step, snapshots)
        try:
            trainer.fit(
                train,
                steps_per_epoch=steps,
                shuffle=False,  # the batches are in a random order of their own
                verbose=0,
                callbacks=[StopOnNonFinite(), MaskGuard(), watch],
            )
        except FloatingPointError as error:
            raise RunError(f"round {round_number}: {error}") from error
        self.save_ticket(f"round_{round_number:02d}")

    def finished(self, round_number: int) -> bool:
        """True if the ticket of this round is there."""
        return self.workdir.ticket(f"round_{round_number:02d}").exists()


def _evaluated(split, limit: int | None):
    """Images, labels and identities that are evaluated."""
    part = split.limited(limit if limit is None else min(limit, len(split)))
    return *part.arrays(), part.index


def _steps_per_execution(*boundaries: int, most: int = 20) -> int:
    """The most steps per call that land on every boundary."""
    common = math.gcd(*boundaries)
    return max(n for n in range(1, most + 1) if common % n == 0)
