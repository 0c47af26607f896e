"""Robust Bird (Chen et al. 2022): a mask from cheap training, then that subnetwork under attack."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Literal, get_args

from experiments.companion import Companion
from experiments.experiment import EXPERIMENTS, RunError
from experiments.training import Session, Training
from rst_tf import masks
from rst_tf.early_bird import EarlyBird, MaskWindow
from rst_tf.files import write_bytes
from rst_tf.initializers import initialize
from rst_tf.objectives import Natural, Objective
from rst_tf.optimizers import SGD, Optimizer
from rst_tf.random import subseed
from rst_tf.schedules import Steps, steps_of

_OF_ROUND_1 = ("eval_at", "l1", "distillation", "average_from", "average_every")
Pruning = Literal["unstructured", "channel"]
Rewind = Literal["continued", "reset", "reinit"]
_PUBLISHED = SGD(
    learning_rate=0.1,
    schedule=Steps(milestones=("50ep", "150ep"), each="epoch"),
    weight_decay=5e-4,
)


@EXPERIMENTS.register("robust_bird")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustBird(Training):
    """Train cheaply until the mask stands still, prune once, train what is left.

    Round 0 is the cheap training, of the dense network, by the settings that start with `first_`;
    after each of its epochs the early-bird test compares the mask that pruning would give now with
    those of the epochs before, and ends it. Round 1 is a training of its own by the settings that
    all experiments have, with a new optimiser from the beginning of its schedule; `l1`,
    distillation and averaged weights are for it alone.

    Schedules of round 0 are laid over `first_steps`, its longest. A rate that rises and falls once
    (0 to .2 at two fifths of the length and back, in fast training) is cut off wherever an early
    bird ends it, mostly while it rises, and `rewind=continued` goes on from there, as published.

    Args:
        first_objective: What the cheap training is on: natural; adversarial with the attack fgsm
            from a uniform start, as published for fast training; fast, whose perturbations are
            kept for each example; or adversarial with pgd.
        first_steps: Longest length of the cheap training, in steps or epochs.
        first_optimizer: Its optimiser; the schedule spans `first_steps`.
        first_eval_every: Steps or epochs between its evaluations.
        early_bird: The test after each of its epochs; none trains all of `first_steps`, the
            control of one-shot magnitude pruning.
        density: Fraction kept, in (0, 1]: of all weights of convolutions and dense layers, or of
            the channels that can be pruned.
        pruning: unstructured, the weights of least magnitude go; or channel, whole filters with
            the scale and offset of the normalisation after them (see `rst_tf.channels`). What the
            test compares is `early_bird.criterion`.
        allocation: With `pruning=unstructured`: global, one threshold for all kernels;
            global_floor, which leaves every layer a tenth of its share; or layerwise.
        channel_importance: With `pruning=channel`: gamma, the scale's magnitude, under one
            threshold; or filter, the L1 norm of a filter among those of its layer.
        rewind: Weights that round 1 starts from: continued, those at the end of round 0; reset to
            those of `rewind_step`; or reinit, drawn anew.
        rewind_step: With `rewind=reset`, the step of round 0 to go back to, in steps or epochs; 0
            is the initial weights.
    """

    first_objective: Objective = Natural()
    first_steps: int | str = "200ep"
    first_optimizer: Optimizer = _PUBLISHED
    first_eval_every: int | str = "10ep"
    early_bird: EarlyBird | None = EarlyBird()
    density: float = 0.2
    pruning: Pruning = "unstructured"
    allocation: masks.Allocation = dataclasses.field(
        default="global", metadata={"only_with": {"pruning": "unstructured"}}
    )
    channel_importance: Literal["gamma", "filter"] = dataclasses.field(
        default="gamma", metadata={"only_with": {"pruning": "channel"}}
    )
    rewind: Rewind = "continued"
    rewind_step: int | str = dataclasses.field(
        default=0, metadata={"only_with": {"rewind": "reset"}}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("first_steps", "first_eval_every"):
            steps_of(getattr(self, name), 1000, name)
        masks.check_density(self.density)
        for name in ("pruning", "allocation", "channel_importance", "rewind"):
            known = get_args(type(self).__dataclass_fields__[name].type)
            masks.check_choice(getattr(self, name), known, name)
        if self.pruning == "channel" and self.allocation != "global":
            raise ValueError(
                "allocation has an effect only with pruning=unstructured; received "
                f"allocation={self.allocation!r}"
            )
        if self.pruning == "unstructured" and self.channel_importance != "gamma":
            raise ValueError(
                "channel_importance has an effect only with pruning=channel; received "
                f"channel_importance={self.channel_importance!r}"
            )
        if self.rewind_step not in (0, "0") and self.rewind != "reset":
            raise ValueError(f"rewind_step has an effect only with rewind=reset, not {self.rewind}")

    def plan(self, trials=1):
        """See `Training.plan`, for each of the two rounds."""
        from experiments._planning import plan

        session = Session(self, None)
        with self._first(session):
            first = plan(session, [], trials)
        ended = "unless an early bird ends it" if self.early_bird else "in any case"
        return f"round 0, {ended}:\n{first}\n\nround 1:\n{plan(session, [], trials)}"

    def run(self, workdir):
        """The cheap round, then that of the subnetwork; tickets `round_00` and `round_01`."""
        with Session(self, workdir, 1) as session:
            if self.pruning == "channel":
                self._channels(session)  # a network without any is refused before it is trained
            with self._first(session):
                step = self._rewind_step(session)
                if not session.finished(0):
                    self._find(session, step)
            if not session.finished(1):
                self._prune(session, "rewind" if step else "initial")
                session.train(1, companions=[PrunedChannels()] if self.pruning == "channel" else [])

    @contextlib.contextmanager
    def _first(self, session: Session) -> Iterator[None]:
        """Within it, the session trains as round 0 does; it is judged as round 1."""
        with session.changed(
            objective=self.first_objective,
            optimizer=self.first_optimizer,
            train_steps=self.first_steps,
            eval_every=self.first_eval_every,
            evaluation_attack=self.judged_by,
            **{name: getattr(Training, name) for name in _OF_ROUND_1},
        ):
            yield

    def _find(self, session: Session, rewind_step: int) -> None:
        """Round 0, with the ticket to go back to."""
        initialize(session.network, self.seed, self.initializer)
        session.save_ticket("initial")
        tests = [EarlyBirdTest(self.early_bird, self.density)] if self.early_bird else []
        events = {rewind_step: lambda _: session.save_ticket("rewind")} if rewind_step else None
        ended = session.train(0, events=events, companions=tests)
        if tests:
            found = "an early bird" if tests[0].finished else "no early bird"
            print(f"{found} after {ended:,} of {session.total:,} steps", file=sys.stderr)

    def _prune(self, session: Session, start: str) -> None:
        """Masks and weights that round 1 starts from."""
        first, network = session.load_ticket("round_00"), session.network
        first.apply(network, weights=True)
        channels = self._channels(session) if self.pruning == "channel" else None
        if self.rewind == "reset":
            self._check_reached(session, start)
            session.load_ticket(start).apply(network, weights=True)
        elif self.rewind == "reinit":
            initialize(network, subseed(self.seed, "reinit", 1)[0], self.initializer)
        if channels is None:
            first.prune(self.density, allocation=self.allocation).apply(network)
        else:
            from rst_tf.channels import remove_channels

            remove_channels(network, channels)

    def _channels(self, session: Session) -> list:
        """The channels to keep of the network as it is."""
        from rst_tf.channels import kept_channels

        return kept_channels(session.network, self.density, self.channel_importance)

    def _rewind_step(self, session: Session) -> int:
        if self.rewind_step in (0, "0"):
            return 0
        step = steps_of(self.rewind_step, session.steps_per_epoch, "rewind_step")
        if step >= session.total:
            raise ValueError(
                f"rewind_step must be below first_steps={session.total}; received {step}"
            )
        return step

    def _check_reached(self, session: Session, start: str) -> None:
        if not session.workdir.ticket(start).exists():
            raise RunError(
                "the early bird ended round 0 before rewind_step; choose an earlier one; received "
                f"rewind_step={self.rewind_step}"
            )


class EarlyBirdTest(Companion):
    """Tests after each epoch whether the mask stands still, and then ends the round.

    The file `early_bird.jsonl` has a line for each test: epoch, step, the distances from the new
    mask to the older ones, the oldest first, and whether it has emerged.

    Args:
        test: What counts as found.
        density: Fraction that the masks keep.
    """

    name = "early_bird"

    def __init__(self, test: EarlyBird, density: float):
        super().__init__()
        self.test, self.density = test, density

    def begin(self, session, trainer, round_number):
        """An empty window, as a variable of the checkpoint."""
        import keras

        super().begin(session, trainer, round_number)
        size = self.test.mask(session.network, self.density).size
        self.window = MaskWindow(self.test.window, size)
        bits = keras.Variable(self.window.bits, trainable=False, dtype="uint8", name="early_bird")
        self.variables, self.notes = [bits], {"tests": []}

    def restore(self, step, notes):
        """The window and the file as they were at this step."""
        super().restore(step, notes)
        self.window.bits = self.variables[0].numpy()
        self.window.seen = len(self.notes["tests"])
        self._write()

    def stops(self):
        """The ends of epochs."""
        return {*range(self._epoch, self.session.total + 1, self._epoch)}

    def at(self, step):
        """The test."""
        mask = self.test.mask(self.session.network, self.density)
        distances = self.window.add(mask)
        self.variables[0].assign(self.window.bits)
        self.finished = self.test.emerged(distances)
        self.notes["tests"].append(
            {
                "epoch": step // self._epoch,
                "step": step,
                "distances": distances,
                "emerged": self.finished,
            }
        )
        self._write()

    @property
    def _epoch(self) -> int:
        return self.session.steps_per_epoch

    def _write(self) -> None:
        lines = [json.dumps(test) + "\n" for test in self.notes["tests"]]
        file = self.session.workdir.path / "early_bird.jsonl"
        write_bytes(file, "".join(lines).encode())


class PrunedChannels(Companion):
    """Ends a training with an error if a pruned channel has come alive."""

    name = "pruned_channels"

    def evaluated(self, step, found):
        """The check."""
        from rst_tf.channels import check_pruned

        check_pruned(self.session.network)
