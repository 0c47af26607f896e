"""What experiments that train have in common: the settings, and one round of training."""

import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from experiments.companion import Companion, all_shown
from experiments.distillation import Distillation
from experiments.experiment import Experiment, RunError
from experiments.interruption import Wish, stop_wishes
from experiments.workdir import Workdir
from rst_tf import strategies
from rst_tf.attacks import Attack
from rst_tf.data import Data
from rst_tf.initializers import Seed, parsed
from rst_tf.models import MLP, Architecture
from rst_tf.objectives import Natural, Objective
from rst_tf.optimizers import Adam, Optimizer
from rst_tf.published_2019 import published_step
from rst_tf.registry import to_dict
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket

Events = Mapping[int, Callable[[Any], None]]
_LARGE = 3 * 64 * 64  # numbers in an image from which on fewer images are evaluated at once
_EVALUATED_AT_ONCE = 500
STEPS_PER_CALL = 20  # steps per call: what makes a call cheap, and the longest wait after a SIGTERM


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
        eval_at: Further steps or epochs at which to evaluate.
        eval_schedule: exact evaluates at multiples of `eval_every`; published, as the code of
            Cosentino et al. (2019) logged: after the first step of an epoch and every
            `eval_every` steps within it.
        eval_limit: Evaluate on so many images of each split, a fixed stratified draw; none takes
            all.
        eval_train: Evaluate on so many training images as well, without augmentation and by the
            attack of every evaluation, a fixed stratified draw: rows of split `unaugmented`, whose
            robust accuracy minus that of `test` is the robust generalisation gap; none takes none.
        l1: Weight of the L1 norm of the surviving kernel weights in the training loss.
        distillation: Finished networks whose answers are learned beside the labels.
        average_from: From this step or epoch of a round on, evaluations and tickets are those of
            the mean of the weights (SWA, Izmailov et al. 2018), with statistics of normalisation
            estimated anew; the training goes on from its own weights. None averages nothing.
        average_every: Steps or epochs between the weights that count.
        seed: Of initial weights, data order and attack starts.
        jit: Use XLA: auto does so unless the network has convolutions.
        track_jumps: Keep masks and normalisation statistics around a jump, and report on them in
            `jumps/`: three evaluations between which the validation accuracy (under attack, if
            there is one) falls and rises again by more than this fraction; none keeps nothing.
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
    eval_at: tuple[int | str, ...] = ()
    eval_schedule: Literal["exact", "published"] = "exact"
    eval_limit: int | None = None
    eval_train: int | None = None
    l1: float = 0.0
    distillation: Distillation = Distillation()
    average_from: int | str | None = None
    average_every: int | str = "1ep"
    seed: int = 0
    jit: Literal["auto", "on", "off"] = "auto"
    track_jumps: float | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; received {self.batch_size!r}")
        for name in ("train_steps", "eval_every"):
            steps_of(getattr(self, name), 1000, name)
        for step in self.eval_at:
            steps_of(step, 1000, "eval_at")
        if self.eval_schedule not in ("exact", "published"):
            raise ValueError(
                f"eval_schedule must be exact or published; received {self.eval_schedule!r}"
            )
        self._check_averaging()
        if self.eval_train is not None and self.eval_train < 1:
            raise ValueError(
                f"eval_train must be at least 1; received eval_train={self.eval_train!r}"
            )
        if self.track_jumps is not None and not 0 < self.track_jumps < 1:
            raise ValueError(
                f"track_jumps must be in (0, 1); received track_jumps={self.track_jumps!r}"
            )
        followed = ("crop_flip", "flip", "none")
        if self.objective.keeps_noise and self.data.augment not in followed:
            raise ValueError(
                "data.augment must be crop_flip, flip or none with an objective that keeps "
                "perturbations, which cannot follow a scale or a rotation; received "
                f"{self.data.augment!r}"
            )
        parsed(self.initializer)
        if not 0 <= self.l1 < math.inf:
            raise ValueError(f"l1 must be at least 0; received l1={self.l1!r}")

    def _check_averaging(self) -> None:
        if self.average_from is not None:
            for name in ("average_from", "average_every"):
                steps_of(getattr(self, name), 1000, name)
        elif self.average_every != Training.average_every:
            raise ValueError(
                "average_every has no effect without average_from; received "
                f"average_every={self.average_every!r}"
            )

    def may_grow(self) -> tuple[str, ...]:
        """Lengths that may differ from what they were on a folder that has results."""
        return ()

    def plan(self, trials: int = 1) -> str:
        """What a run would take, from a few steps measured now; see `experiments._planning`."""
        from experiments._planning import plan

        return plan(Session(self, None), [], trials)

    def masked_network(self, splits):
        """The network that is trained, and the description of it that tickets hold."""
        from rst_tf.models import describe, masked_parts

        network = self.network.build(splits.shape, splits.classes, masked_parts())
        return network, describe(self.network, splits.shape, splits.classes)

    def may_be_best(self, step: int, steps_per_epoch: int) -> bool:
        """Whether the network of this step is one that was asked for."""
        return True

    @property
    def judged_by(self) -> Attack | None:
        """The attack of every evaluation."""
        from rst_tf.trainer import evaluation_default

        return self.evaluation_attack or evaluation_default(self.objective)


class Session:
    """A training experiment at work: its data, network and folder.

    Args:
        settings: The experiment.
        workdir: Its folder; None for a session that only measures.
        rounds: How many rounds of training there will be after the first.
    """

    def __init__(self, settings: Training, workdir, rounds: int = 0):
        import keras
        import tensorflow as tf

        from rst_tf.data import steps_per_epoch
        from rst_tf.evaluation import Evaluator

        keras.utils.set_random_seed(settings.seed)
        if tf.config.list_physical_devices("GPU"):  # on a CPU the bits repeat without it, and
            tf.config.experimental.enable_op_determinism()  # Keras would switch XLA off
        self.settings, self.rounds = settings, rounds
        self._stack = contextlib.ExitStack()
        self.wish = Wish()
        self.splits = settings.data.load()
        self.steps_per_epoch = steps_per_epoch(len(self.splits.train), settings.batch_size)
        strategies.check_batches(len(self.splits.train), settings.batch_size)
        self.total = self.steps(settings.train_steps, "train_steps")
        self.evaluation_steps(0)
        if settings.average_from is not None and not self._averaging():
            raise ValueError(
                f"average_from must be at most train_steps={self.total}; received "
                f"{settings.average_from}"
            )
        self.network, self.description = settings.masked_network(self.splits)
        self.ticket_weights: str | Seed = "stored"
        large = math.prod(self.splits.shape) > _LARGE
        self.evaluate = Evaluator(
            self.network,
            settings.judged_by,
            seed=settings.seed,
            batch_size=settings.batch_size if large else _EVALUATED_AT_ONCE,
        )
        self.evaluated = {
            "valid": _limited(self.splits.valid, settings.eval_limit),
            "test": _limited(self.splits.test, settings.eval_limit),
        }
        if settings.eval_train is not None:
            self.evaluated["unaugmented"] = _limited(self.splits.train, settings.eval_train)
        self.teachers = settings.distillation.load(self.splits)
        if workdir is not None:
            self._claim(workdir)

    def _claim(self, workdir) -> None:
        from rst_tf.tensorboard import Board

        settings = to_dict(self.settings)
        self.workdir = Workdir(workdir, settings, self._dataset(), self.settings.may_grow())
        self.board = Board(self.workdir.path / "tensorboard")
        self.board.settings(settings)
        images = f"{len(self.splits.train):,} images to train on"
        print(f"{workdir}: {images}, {self.total:,} steps a round", file=sys.stderr)

    def __enter__(self) -> "Session":
        self._stack.callback(self.workdir.close)
        self.wish = self._stack.enter_context(stop_wishes())
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def steps(self, duration: int | str, name: str) -> int:
        """A duration in steps or epochs as steps."""
        return steps_of(duration, self.steps_per_epoch, name)

    def evaluation_steps(self, first: int) -> set[int]:
        """The steps of a round that are evaluated, from `first` on.

        Raises:
            ValueError: `eval_at` names a step after the last one.
        """
        settings = self.settings
        every = self.steps(settings.eval_every, "eval_every")
        extra = {self.steps(step, "eval_at") for step in settings.eval_at}
        if max(extra, default=0) > self.total:
            raise ValueError(
                f"eval_at must be at most train_steps={self.total}; received {settings.eval_at}"
            )
        if settings.eval_schedule == "published":
            regular = _published_steps(self.total, self.steps_per_epoch, every)
        else:
            regular = {first, *range(0, self.total, every)}
        return {step for step in {*regular, *extra, self.total} if step >= first}

    def _averaging(self) -> list[Companion]:
        """The companion that averages weights, in a round that is long enough for it."""
        from experiments._averaging import Averaging

        settings = self.settings
        if settings.average_from is None:
            return []
        first = self.steps(settings.average_from, "average_from")
        every = self.steps(settings.average_every, "average_every")
        return [Averaging(first, every)] if first <= self.total else []

    def round_title(self, number: int) -> str:
        """What a progress line calls a round."""
        return f"round {number} of {self.rounds}" if self.rounds else f"round {number}"

    def _dataset(self) -> dict[str, Any]:
        teachers = self.settings.distillation.digests()
        return {
            "fingerprint": self.splits.fingerprint,
            "classes": self.splits.classes,
            "shape": list(self.splits.shape),
            "train_examples": len(self.splits.train),
            **{f"{name}_examples": len(part) for name, part in self.evaluated.items()},
            **({"teachers": teachers} if teachers else {}),
        }

    def load_ticket(self, name: str) -> Ticket:
        """A ticket of this run."""
        return Ticket.load(self.workdir.ticket(name))

    def save_ticket(self, name: str) -> None:
        """Stores masks and weights (or the seed that they are) of the network as they are."""
        ticket = Ticket.of(self.network, weights=self.ticket_weights, description=self.description)
        ticket.save(self.workdir.ticket(name))

    def trainer(self):
        """A trainer with a fresh optimiser, compiled as the settings say."""
        from experiments._stepping import SteppingTrainer

        settings = self.settings
        trainer = SteppingTrainer(
            self.network,
            settings.objective,
            settings.judged_by,
            seed=settings.seed,
            l1=settings.l1,
            teachers=self.teachers if settings.distillation.teachers else None,
        )
        repeats = settings.objective.repeats
        trainer.compile(
            settings.optimizer.build(repeats * self.total, repeats * self.steps_per_epoch),
            jit_compile={"auto": "auto", "on": True, "off": False}[settings.jit],
        )
        if settings.objective.epsilon_schedule is not None:
            trainer.schedule_epsilon(self.total, self.steps_per_epoch)
        if settings.objective.keeps_noise:
            pad = settings.data.pad if settings.data.augment == "crop_flip" else 0
            trainer.keep_noise(len(self.splits.train), self.splits.shape, pad)
        elif settings.objective.carries_noise:
            trainer.carry_noise((settings.batch_size, *self.splits.shape))
        return trainer

    def batches(self, first: int, last: int):
        """The batches of the steps from `first` to `last`."""
        from rst_tf.data import batches

        data = self.settings.data
        return batches(
            self.splits.train,
            self.settings.batch_size,
            seed=self.settings.seed,
            augment=data.augment,
            pad=data.pad,
            first_step=first,
            steps=last - first,
            places=self.settings.objective.keeps_noise,
        )

    def train(
        self,
        round_number: int,
        first_step: int = 0,
        events: Events | None = None,
        at_start: Callable[[int], None] | None = None,
        companions: Sequence[Companion] = (),
    ) -> int:
        """Trains the network as it is, or as its last checkpoint is, and stores its tickets.

        Args:
            round_number: For results, pictures and the ticket's name.
            first_step: Steps that count as done already; schedule and data order go on from it.
            events: What is done with the trainer at certain steps, before they are evaluated.
            at_start: Gets the step from which the training begins or goes on.
            companions: What goes along with the round, and may change or end it.

        Returns:
            The step at which it ended.

        Raises:
            RunError: The loss is not finite, or a pruned weight moved.
            Interrupted: Somebody asked to stop.
        """
        import tensorflow as tf

        from experiments._stepping import calls
        from experiments._watch import Watch
        from rst_tf.callbacks import MaskGuard, StopOnNonFinite
        from rst_tf.data.images import in_words

        self._warn_of_changes()
        trainer = self.trainer()
        trainer.optimizer.iterations.assign(first_step * self.settings.objective.repeats)
        if self.settings.objective.keeps_noise:
            kept = trainer.noise.numpy().nbytes
            print(f"perturbations of all images take {kept:,} bytes", file=sys.stderr)
        companions = [*companions, *self._averaging()]
        guard = MaskGuard()
        watch = Watch(self, round_number, first_step, events or {}, companions, guard)
        step = watch.resume(trainer)
        if at_start is not None:
            at_start(step)
        watch.sizes = calls(step, self.total, watch.stops(), STEPS_PER_CALL)
        guards = [StopOnNonFinite(), guard, watch]
        try:
            self.fit(trainer, step, watch.sizes, guards)
        except FloatingPointError as error:
            raise RunError(f"round {round_number}: {error}") from error
        except tf.errors.InvalidArgumentError as error:  # a damaged image, for one
            raise in_words(error) or error from error
        if watch.jumps is not None:
            from rst_tf.analysis import jumps

            print(f"jumps in accuracy: {jumps.write(watch.jumps.folder)}", file=sys.stderr)
        with all_shown(companions):
            self.save_ticket(f"round_{round_number:02d}")
        for companion in companions:
            companion.end()
        self.workdir.checkpoint.unlink(missing_ok=True)
        return watch.step

    @contextlib.contextmanager
    def changed(self, **settings) -> Iterator[None]:
        """Within it, rounds are trained under changed settings; evaluations stay what they were."""
        own, total = self.settings, self.total
        self.settings = dataclasses.replace(own, **settings)
        self.total = self.steps(self.settings.train_steps, "train_steps")
        try:
            yield
        finally:
            self.settings, self.total = own, total

    def fit(self, trainer, first: int, sizes: Sequence[int], callbacks: Sequence) -> None:
        """Trains from step `first` on, in calls of these many steps."""
        trainer.sizes = iter(sizes)
        trainer.fit(
            self.batches(first, first + sum(sizes)),
            steps_per_epoch=len(sizes),
            shuffle=False,  # the batches are in a random order of their own
            verbose=0,
            callbacks=list(callbacks),
        )

    def finished(self, round_number: int) -> bool:
        """True if the ticket of this round is there."""
        return self.workdir.ticket(f"round_{round_number:02d}").exists()

    def _warn_of_changes(self) -> None:
        if self.workdir.moved:
            moved = f"bits may differ ({'; '.join(self.workdir.moved)})"
            print(f"warning: resumed under other settings, {moved}", file=sys.stderr)
            self.workdir.moved = []


def _published_steps(total: int, per_epoch: int, every: int) -> list[int]:
    steps = (published_step(label, per_epoch, every) for label in itertools.count(0, every))
    return list(itertools.takewhile(lambda step: step <= total, steps))


def _limited(split, limit: int | None):
    """The part of a split that is evaluated; it is read batch by batch."""
    return split.limited(limit if limit is None else min(limit, len(split)))
