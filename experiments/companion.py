"""`Companion`: what goes along with a round of training and may change or end it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class Companion:
    """Goes along with one round of training; subclasses override what they need.

    The order: `begin`, `restore`, and then, at each of the steps in `stops`, `at`; at the steps
    that are evaluated, after `at`, `evaluated`. What a companion needs after an interruption is in
    `variables` and `notes`, which are part of every checkpoint; its files it cuts back in
    `restore`.

    Attributes:
        name: Under which its notes are kept; no two companions of a round share one.
        variables: Keras variables of its own; made in `begin`, before a checkpoint is read.
        notes: Plain values (JSON) of its own.
        finished: Set to True to end the round after this step.
    """

    name = "companion"

    def __init__(self):
        self.variables: list = []
        self.notes: dict[str, Any] = {}
        self.finished = False

    def begin(self, session, trainer, round_number: int) -> None:
        """Takes down whom it goes along with.

        Args:
            session: The experiment at work.
            trainer: Of this round, compiled.
            round_number: The round.
        """
        self.session, self.trainer, self.round = session, trainer, round_number

    def restore(self, step: int, notes: Mapping[str, Any] | None) -> None:
        """The round begins, or goes on from a checkpoint, whose `variables` are set already.

        Args:
            step: The step it goes on from.
            notes: What `notes` was there; None at the beginning of a round.
        """
        if notes is not None:
            self.notes = dict(notes)

    def stops(self) -> set[int]:
        """The steps after which `at` is called."""
        return set()

    def at(self, step: int) -> None:
        """Does what there is to do after this step, before it is evaluated.

        Masks may change here. The guard has just seen that no pruned weight moved, and looks at
        the masks anew afterwards.
        """

    def regrowth(self, first: int, last: int) -> Iterable[int]:
        """The steps after `first` until `last` of which it needs the gradients of pruned weights.

        They cost as much as dense ones, which `costs.json` counts.
        """
        del first, last
        return ()

    def shown(self) -> contextlib.AbstractContextManager:
        """Within it, the network is as it is to be evaluated and kept as a ticket."""
        return contextlib.nullcontext()

    def evaluated(self, step: int, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Gets what an evaluation found.

        Args:
            step: The step.
            found: By split, `loss`, `accuracy`, `robust_loss` and `robust_accuracy`; `train` is
                what the training saw on the way, and is missing at the first evaluation.
        """

    def end(self) -> None:
        """The round is over, and its tickets are stored."""


@contextlib.contextmanager
def all_shown(companions) -> Iterator[None]:
    """Within it, the network is as every companion wants it seen."""
    with contextlib.ExitStack() as stack:
        for companion in companions:
            stack.enter_context(companion.shown())
        yield
