"""Robust scratch tickets: masks searched over weights that are never trained (Fu et al. 2021)."""

import dataclasses
from typing import Literal

from experiments.experiment import EXPERIMENTS
from experiments.finished import ticket_file
from experiments.training import Session, Training
from rst_tf import masks
from rst_tf.initializers import Seed, initialize
from rst_tf.optimizers import SGD, Optimizer
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket


@EXPERIMENTS.register("scratch_tickets")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScratchTickets(Training):
    """Search masks over frozen random weights by training a score for every weight.

    Args:
        initializer: Registered name of the initialiser of the frozen weights, drawn from `seed`;
            `+fan_out` or `+fan=0.1` may follow it (see `rst_tf.initializers.parsed`).
        density: Fraction of each kernel kept, in (0, 1].
        granularity: What one score stands for: element, row, kernel or filter; a classifier has
            a score for every element where the others have one for a filter.
        count: How the density becomes a number of weights: nearest, rst (as published), plus_one
            or floor.
        dense_first: Keep all of the layer at the input; its weights stay frozen.
        dense_last: Keep all of the classifier; its weights stay frozen.
        weights_from: Search over the weights of a finished run (its folder or a ticket file) in
            place of random ones: tickets from trained networks.
        stage_every: Reach the density in stages of so many steps or epochs; none keeps it from
            the start.
        stage_start: Density of the first stage.
        stage_drop: What every stage takes off it, down to `density`.
        discard_every: After every so many steps or epochs, set the lowest scores to 0 for good;
            none discards nothing.
        discard_rate: Fraction of each kernel's scores discarded each time, never so many that
            fewer than `density` are left.
    """

    initializer: str = "signed_constant"
    optimizer: Optimizer = SGD(0.1)
    density: float = 0.1
    granularity: Literal["element", "row", "kernel", "filter"] = "element"
    count: Literal["nearest", "rst", "plus_one", "floor"] = "nearest"
    dense_first: bool = False
    dense_last: bool = False
    weights_from: str | None = None
    stage_every: int | str | None = None
    stage_start: float = 0.9
    stage_drop: float = 0.1
    discard_every: int | str | None = None
    discard_rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        masks.check_density(self.density)
        masks.check_density(self.stage_start, "stage_start")
        for name in ("stage_drop", "discard_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1); received {getattr(self, name)!r}")
        for name, needed in (
            ("stage_start", "stage_every"),
            ("stage_drop", "stage_every"),
            ("discard_rate", "discard_every"),
        ):
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default and getattr(self, needed) is None:
                raise ValueError(f"{name} has an effect only with {needed}; that is none")
        for name in ("stage_every", "discard_every"):
            if getattr(self, name) is not None:
                steps_of(getattr(self, name), 1000, name)
        if self.stage_every is not None and self.stage_start <= self.density:
            raise ValueError(
                f"stage_start must be above density={self.density}; received {self.stage_start!r}"
            )
        if self.l1:
            raise ValueError(
                f"l1 has no effect in a search, which trains no weight; received l1={self.l1!r}"
            )

    def masked_network(self, splits):
        """Scores in the network that searches, fixed masks in the one that tickets describe."""
        from rst_tf.models import describe, masked_parts

        parts = masked_parts(
            granularity=self.granularity,
            search=True,
            density=self.density,
            count=self.count,
            dense_first=self.dense_first,
            dense_last=self.dense_last,
        )
        shape, classes = splits.shape, splits.classes
        fixed = {} if self.granularity == "element" else {"granularity": self.granularity}
        description = describe(self.network, shape, classes, **fixed)
        return self.network.build(shape, classes, parts), description

    def density_at(self, step: int, steps_per_epoch: int) -> float:
        """The density after so many steps."""
        if self.stage_every is None:
            return self.density
        stages = step // steps_of(self.stage_every, steps_per_epoch, "stage_every")
        return max(self.density, round(self.stage_start - stages * self.stage_drop, 12))

    def may_be_best(self, step, steps_per_epoch):
        """A network of an earlier, denser stage is not what was asked for."""
        return self.density_at(step, steps_per_epoch) == self.density

    def plan(self, trials=1):
        """See `Training.plan`; with the weights that each layer keeps."""
        from experiments._planning import plan

        session = Session(self, None)
        return plan(session, [Ticket.of(session.network, weights="none")], trials)

    def run(self, workdir):
        """One round; its tickets hold the seed, or the weights if these come from a run."""
        trained = self.weights_from and Ticket.load(ticket_file(self.weights_from, "weights_from"))
        with Session(self, workdir) as session:
            self._check_stages(session)
            if session.finished(0):
                return
            initialize(session.network, self.seed, self.initializer)
            if trained:
                trained.apply(session.network, masks=False, weights=True)
            else:
                session.ticket_weights = Seed(self.seed, self.initializer)
            session.train(0, events=self._events(session), at_start=self._set_density(session))

    def _set_density(self, session: Session):
        from rst_tf.traversal import set_density

        return lambda step: set_density(
            session.network, self.density_at(step, session.steps_per_epoch)
        )

    def _events(self, session: Session):
        from rst_tf.keras_optimizers import discard_scores

        def at(step):
            def act(trainer):
                if step in discards:
                    number = discards.index(step) + 1
                    fraction = min(self.discard_rate * number, 1 - self.density)
                    discard_scores(session.network, trainer.optimizer, fraction)
                self._set_density(session)(step)
                trainer.make_train_function(force=True)  # the old one keeps the old number

            return act

        stages = self._steps(session, "stage_every")
        discards = self._steps(session, "discard_every")
        return {step: at(step) for step in {*stages, *discards}}

    def _steps(self, session: Session, name: str) -> list[int]:
        if getattr(self, name) is None:
            return []
        every = session.steps(getattr(self, name), name)
        return list(range(every, session.total, every))

    def _check_stages(self, session: Session) -> None:
        reached = self.density_at(session.total - 1, session.steps_per_epoch)
        if reached != self.density:
            raise ValueError(
                f"stage_every={self.stage_every!r} reaches density {reached:.4g} by the end of the "
                f"training, not density={self.density}: train longer, or drop more at each stage"
            )
