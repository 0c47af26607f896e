"""Masks searched over weights that are never trained (Fu et al. 2021; Liu et al. 2022)."""

import dataclasses
from typing import Any, Literal, get_args

from experiments.experiment import EXPERIMENTS
from experiments.finished import ticket_file
from experiments.training import Session, Training
from rst_tf import masks
from rst_tf.initializers import Seed, check_scores, initialize
from rst_tf.optimizers import SGD, Optimizer
from rst_tf.schedules import steps_of
from rst_tf.ticket import Ticket

_WAYS = ("stage_every", "stage_count", "stage_ramp")
_RAMP_START = 0.5
_ALLOCATIONS = (*get_args(masks.Allocation), "adaptive")


@EXPERIMENTS.register("scratch_tickets")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScratchTickets(Training):
    """Search masks over frozen random weights by training a score for every weight.

    Args:
        initializer: Registered name of the initialiser of the frozen weights, drawn from `seed`;
            `+fan_out` or `+fan=0.1` may follow it (see `rst_tf.initializers.parsed`).
        density: Fraction of the weights kept, in (0, 1].
        allocation: layerwise, each kernel keeps that fraction; adaptive, layers have fractions of
            their own by size (Liu et al. 2022); global, one threshold for all scores chooses anew
            at each step; or global_floor, which leaves each kernel a tenth of its share.
        power: For `allocation=adaptive`, in [0, 1]: 0 keeps the same number of weights in all
            layers, 1 the same fraction; published with `count=rst`.
        granularity: What one score stands for: element, row, kernel or filter; a classifier has
            a score for every element where the others have one for a filter.
        count: How the density becomes a number of weights: nearest, rst (as published), plus_one
            or floor.
        gain: none; or mean: what is searched are signs, each layer's times the mean magnitude of
            the weights it keeps (Diffenderfer & Kailkhura 2021).
        score_scale: Initial scores are within so much of 0, above 0.
        score_fan: In which layers this is divided by sqrt(fan_in): all, none, except_last (all but
            the classifier) or only_last.
        dense_first: Keep all of the layer at the input; its weights stay frozen.
        dense_last: Keep all of the classifier; its weights stay frozen.
        weights_from: Search over the weights of a finished run (its folder or a ticket file) in
            place of random ones: tickets from trained networks.
        stage_every: Reach the density in stages of so many steps or epochs; none keeps it from
            the start.
        stage_start: Density of the first stage.
        stage_drop: What every stage takes off it, down to `density`.
        stage_count: Reach the density in so many equal stages, the s-th of which keeps
            density ** (s / stage_count); a warm-up belongs to the first (Liu et al. 2022).
        stage_ramp: Reach the density from .5 along a cubic, epoch by epoch, within so many steps or
            epochs (Diffenderfer & Kailkhura 2021).
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
    allocation: Literal["layerwise", "adaptive", "global", "global_floor"] = "layerwise"
    power: float = dataclasses.field(
        default=0.1, metadata={"only_with": {"allocation": "adaptive"}}
    )
    gain: Literal["none", "mean"] = "none"
    score_scale: float = 1.0
    score_fan: Literal["all", "none", "except_last", "only_last"] = "all"
    dense_first: bool = False
    dense_last: bool = False
    weights_from: str | None = None
    stage_every: int | str | None = None
    stage_start: float = 0.9
    stage_drop: float = 0.1
    stage_count: int | None = None
    stage_ramp: int | str | None = None
    discard_every: int | str | None = None
    discard_rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        masks.check_density(self.density)
        masks.check_density(self.stage_start, "stage_start")
        masks.check_choice(self.allocation, _ALLOCATIONS, "allocation")
        masks.check_choice(self.gain, get_args(masks.Gain), "gain")
        masks.adaptive_densities([1], self.density, self.power)
        check_scores(self.score_scale, self.score_fan)
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
        for name in ("stage_every", "stage_ramp", "discard_every"):
            if getattr(self, name) is not None:
                steps_of(getattr(self, name), 1000, name)
        if self.power != 0.1 and self.allocation != "adaptive":
            raise ValueError(
                f"power has an effect only with allocation=adaptive; received power={self.power!r}"
            )
        if self.discard_every is not None and self.allocation != "layerwise":
            raise ValueError(
                "discard_every takes one fraction of every kernel, so allocation must be "
                f"layerwise; received allocation={self.allocation!r}"
            )
        self._check_stages_given()
        if self.l1:
            raise ValueError(
                f"l1 has no effect in a search, which trains no weight; received l1={self.l1!r}"
            )

    def _check_stages_given(self) -> None:
        ways = [name for name in _WAYS if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"give one of {', '.join(_WAYS)}; received {' and '.join(ways)}")
        if self.stage_count is not None and self.stage_count < 1:
            raise ValueError(
                f"stage_count must be at least 1; received stage_count={self.stage_count!r}"
            )
        if self.stage_every is not None and self.stage_start <= self.density:
            raise ValueError(
                f"stage_start must be above density={self.density}; received {self.stage_start!r}"
            )
        if self.stage_ramp is not None and self.density >= _RAMP_START:
            raise ValueError(
                f"stage_ramp falls from {_RAMP_START}; received density={self.density!r}"
            )

    def masked_network(self, splits):
        """Scores in the network that searches, fixed masks in the one that tickets describe."""
        from rst_tf.models import describe, masked_parts
        from rst_tf.traversal import set_density

        parts = masked_parts(
            granularity=self.granularity,
            search=True,
            density=self.density,
            count=self.count,
            allocation="layerwise" if self._power is not None else self.allocation,
            gain=self.gain,
            dense_first=self.dense_first,
            dense_last=self.dense_last,
        )
        shape, classes = splits.shape, splits.classes
        fixed = {} if self.granularity == "element" else {"granularity": self.granularity}
        fixed |= {} if self.gain == "none" else {"gain": self.gain}
        network = self.network.build(shape, classes, parts)
        set_density(network, self.density, self._power)
        description = describe(self.network, shape, classes, **fixed)
        return network, description | {"search": self._asked_for(network)}

    def _asked_for(self, network) -> dict[str, Any]:
        """What a ticket says of its search; `kept` is what its masks are held against."""
        from rst_tf.traversal import masked_kernels

        names = ("density", "allocation", "count", *(["power"] if self._power is not None else []))
        asked = {name: getattr(self, name) for name in names}
        kernels = masked_kernels(network)
        if any(masked.pooled for masked in kernels):
            return asked
        kept = [masked.size if masked.scores is None else masked.kept for masked in kernels]
        return asked | {"kept": kept}

    @property
    def _power(self) -> float | None:
        return self.power if self.allocation == "adaptive" else None

    def densities(self, steps_per_epoch: int) -> dict[int, float]:
        """The steps from which on there is another density, ascending from 0."""
        total = steps_of(self.train_steps, steps_per_epoch, "train_steps")
        if self.stage_every is not None:
            steps = range(0, total, steps_of(self.stage_every, steps_per_epoch, "stage_every"))
            fallen = (self.stage_start - i * self.stage_drop for i in range(len(steps)))
            return {
                step: max(self.density, round(density, 12))
                for step, density in zip(steps, fallen, strict=True)
            }
        if self.stage_count is not None:
            warm, count = self.optimizer.schedule.warmup_steps(steps_per_epoch), self.stage_count
            starts = [0, *(warm + (total - warm) * s // count for s in range(1, count))]
            return {step: self.density ** (s / count) for s, step in enumerate(starts, 1)}
        if self.stage_ramp is not None:
            length = steps_of(self.stage_ramp, steps_per_epoch, "stage_ramp")
            above = _RAMP_START - self.density
            steps = [*range(0, length, steps_per_epoch), length]
            return {step: self.density + above * (1 - step / length) ** 3 for step in steps}
        return {0: self.density}

    def density_at(self, step: int, steps_per_epoch: int) -> float:
        """The density after so many steps."""
        return [d for s, d in self.densities(steps_per_epoch).items() if s <= step][-1]

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
            scores = self.score_scale, self.score_fan
            initialize(session.network, self.seed, self.initializer, *scores)
            if trained:
                trained.apply(session.network, masks=False, weights=True)
            else:
                session.ticket_weights = Seed(self.seed, self.initializer)
            session.train(0, events=self._events(session), at_start=self._set_density(session))

    def _set_density(self, session: Session):
        from rst_tf.traversal import set_density

        return lambda step: set_density(
            session.network, self.density_at(step, session.steps_per_epoch), self._power
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

        stages = [step for step in self.densities(session.steps_per_epoch) if step]
        discards = []
        if self.discard_every is not None:
            every = session.steps(self.discard_every, "discard_every")
            discards = list(range(every, session.total, every))
        return {step: at(step) for step in {*stages, *discards} if step < session.total}

    def _check_stages(self, session: Session) -> None:
        reached = self.density_at(session.total - 1, session.steps_per_epoch)
        if reached != self.density:
            way = next(name for name in _WAYS if getattr(self, name) is not None)
            raise ValueError(
                f"{way}={getattr(self, way)!r} reaches density {reached:.4g} by the end of the "
                f"training, not density={self.density}: train longer, or drop more at each stage"
            )
