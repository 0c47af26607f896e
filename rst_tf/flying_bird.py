"""How the masks of a sparse training change: when, how much, by which rule.

Flying Bird and Flying Bird+ (Chen et al. 2022, "Sparsity Winning Twice") with the settings of the
published code, where they are given; other settings of the same mechanism are SET (Mocanu et al.
2018) and RigL (Evci et al. 2020). Which weights change is in `rst_tf.topology`.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, get_args

from rst_tf import masks
from rst_tf.registry import Registry, choices
from rst_tf.schedules import Cosine, Schedule, steps_of
from rst_tf.topology import Growth, Regrown, enlarged, share


class Decision(NamedTuple):
    """Whether an update prunes or grows more than it would keep.

    Attributes:
        gap_share: Share of the last evaluations at which the robust generalisation gap grew; None
            if that was not asked.
        loss_share: Share of them at which the robust validation loss did not fall.
        prune_more: Prune more than is grown again.
        grow_more: Grow more than was pruned.
    """

    gap_share: float | None = None
    loss_share: float | None = None
    prune_more: bool = False
    grow_more: bool = False


class Layer(NamedTuple):
    """What an update has to know of a layer: its weights (or groups), live ones, output units."""

    size: int
    live: int
    units: int = 1


class Change(NamedTuple):
    """How many weights of a layer an update prunes, and how many it then grows."""

    pruned: int = 0
    grown: int = 0


@dataclasses.dataclass(frozen=True)
class Topology:
    """What changes the masks during a training."""

    @property
    def memory(self) -> float | None:
        """What growth remembers of a step's gradient at the next one, in [0, 1).

        0 keeps the gradient of the last batch alone; None says that no gradients are needed.
        """
        return None

    @property
    def listens(self) -> bool:
        """Whether evaluations change what updates do."""
        return False

    def rates(self, total: int, steps_per_epoch: int = 1) -> dict[int, float]:
        """The steps after which masks change, ascending, with the share that is pruned."""
        del total, steps_per_epoch
        return {}

    def decision(self, gaps: Sequence[float], losses: Sequence[float]) -> Decision:
        """What the evaluations until now ask for."""
        del gaps, losses
        return Decision()

    def listens_at(self, step: int, total: int, steps_per_epoch: int = 1) -> bool:
        """Whether the update after this step follows the evaluations."""
        del step, total, steps_per_epoch
        return False

    def changes(self, layers: Sequence[Layer], rate: float, decision: Decision) -> list[Change]:
        """What an update does to each layer; a dense layer is left alone."""
        del rate, decision
        return [Change() for _ in layers]


def check_topology(topology) -> None:
    """Raises ValueError if it is none."""
    if not isinstance(topology, Topology):
        raise ValueError(
            f"topology must be rst.Static(), rst.FlyingBird() or another Topology; received "
            f"{topology!r}"
        )


TOPOLOGIES = choices(Topology, Registry("topology"))


@TOPOLOGIES.register("static")
@dataclasses.dataclass(frozen=True)
class Static(Topology):
    """Nothing: the first mask is the last."""


@TOPOLOGIES.register("flying_bird")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlyingBird(Topology):
    """Prune the smallest weights and grow as many others, again and again.

    The number of live weights of every layer stays what it is, exactly. An update comes after the
    step of the optimiser. RigL is `growth="gradient", death_rate=.3, death_schedule=Cosine(),
    update_every=100, stop_at=.75`; SET is `death_rate=.3, death_schedule=Constant(),
    update_every="1ep"`.

    Args:
        growth: random, as the published scripts ran; gradient, where the gradient of the last
            batch is largest (RigL); or momentum, where its running mean is.
        death_rate: Share of a layer's live weights that the first updates prune, in [0, 1].
        death_schedule: Factor of `death_rate` over the training, up to `stop_at`; as published a
            cosine down to a hundredth.
        update_every: Steps or epochs (`0.5ep`) from update to update: an update follows every step
            whose number it divides.
        update_every_late: The same from `late_from` on, 1200 in the published scripts; none
            changes nothing.
        late_from: Fraction of the training after whose epoch `update_every_late` holds.
        stop_at: Fraction of the training after which nothing changes any more, in (0, 1].
        regrown: What a weight is that one update prunes and grows: keep, what it was, as
            published; zero, a new one.
        beta: Of the running mean for growth=momentum, in [0, 1).
    """

    growth: Growth = "random"
    death_rate: float = 0.5
    death_schedule: Schedule = Cosine(floor=0.01)
    update_every: int | str = 900
    update_every_late: int | str | None = None
    late_from: float = 0.5
    stop_at: float = 1.0
    regrown: Regrown = "keep"
    beta: float = dataclasses.field(default=0.9, metadata={"only_with": {"growth": "momentum"}})

    def __post_init__(self):
        masks.check_choice(self.growth, get_args(Growth), "growth")
        masks.check_choice(self.regrown, get_args(Regrown), "regrown")
        for name in ("death_rate", "late_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1]; received {getattr(self, name)!r}")
        if not 0 < self.stop_at <= 1:
            raise ValueError(f"stop_at must be in (0, 1]; received stop_at={self.stop_at!r}")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta must be in [0, 1); received beta={self.beta!r}")
        if self.beta != 0.9 and self.growth != "momentum":
            raise ValueError(
                f"beta has an effect only with growth=momentum; received beta={self.beta!r}"
            )
        if self.late_from != 0.5 and self.update_every_late is None:
            raise ValueError(
                "late_from has an effect only with update_every_late; received "
                f"late_from={self.late_from!r}"
            )
        for name in ("update_every", "update_every_late"):
            if getattr(self, name) is not None:
                steps_of(getattr(self, name), 1000, name)

    @property
    def memory(self):
        """`beta` with growth=momentum, 0 with growth=gradient."""
        return {"random": None, "gradient": 0.0, "momentum": self.beta}[self.growth]

    def update_steps(self, total: int, steps_per_epoch: int = 1) -> list[int]:
        """The steps after which masks change, ascending; never the last one of the training."""
        end = min(math.ceil(self.stop_at * total), total)
        every = steps_of(self.update_every, steps_per_epoch, "update_every")
        late = every
        if self.update_every_late is not None:
            late = steps_of(self.update_every_late, steps_per_epoch, "update_every_late")

        def interval(step):
            passed = (step - 1) // steps_per_epoch * steps_per_epoch
            return late if passed > self.late_from * total else every

        multiples = {*range(every, end, every), *range(late, end, late)}
        return sorted(step for step in multiples if step % interval(step) == 0)

    def rates(self, total, steps_per_epoch=1):
        """The steps after which masks change, ascending, with the share that is pruned.

        Args:
            total: Length of the training in steps.
            steps_per_epoch: Of them, those of an epoch.

        Raises:
            ValueError: No update falls into the training, or a share is above 1.
        """
        steps = self.update_steps(total, steps_per_epoch)
        if not steps:
            end = math.ceil(self.stop_at * total)
            raise ValueError(
                f"update_every must be below the {end:,} steps in which masks change; received "
                f"update_every={self.update_every!r}"
            )
        length = max(steps[-1] + 1, round(self.stop_at * total))
        factors = self.death_schedule.factors(length, steps_per_epoch)
        rates = {step: self.death_rate * factors[step] for step in steps}
        if max(rates.values()) > 1:
            raise ValueError(
                "death_rate times death_schedule must stay in [0, 1]; received "
                f"{max(rates.values()):g}"
            )
        return rates

    def changes(self, layers, rate, decision):
        """Each layer that is not dense grows what it loses, a share of its live weights.

        Args:
            layers: One for each kernel.
            rate: The share, in [0, 1].
            decision: Without effect here.
        """
        del decision
        return [_kept_up(layer, rate) for layer in layers]


@TOPOLOGIES.register("flying_bird_plus")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FlyingBirdPlus(FlyingBird):
    """Flying Bird whose density follows the evaluations of the second half of the training.

    Where the robust generalisation gap (robust accuracy on the images trained on minus that on
    validation images) grew in enough of the last evaluations, updates prune more; where the
    robust loss on validation images did not fall, they grow more. Evaluations of every epoch are
    the published ones. The published code bounds nothing: a training ends at the density it ends
    at, by its defaults of 200 epochs between .0645 and .2293 where it began at .2. All other
    settings are those of `FlyingBird`.

    Args:
        adaptive_from: After which the density may change: a fraction of the training in [0, 1), or
            steps or epochs (`100ep`).
        evaluations: From how many evaluations to the next the shares are taken, at least 1.
        threshold: Share of them from which on there is more pruning or more growth, in (0, 1].
        prune_ratio: How much more is pruned, as a fraction of what is pruned anyway, at least 0.
        growth_ratio: How much more is grown, as a fraction of what is grown anyway, at least 0.
        min_density: Pruning more goes no further than this density of the network; none: to 0.
        max_density: Growing more goes no further than this; none: to 1.
        per_layer_min: Pruning more leaves a layer so many live weights for each output unit.
    """

    adaptive_from: int | float | str = 0.5
    evaluations: int = 4
    threshold: float = 0.5
    prune_ratio: float = 0.4
    growth_ratio: float = 0.05
    min_density: float | None = None
    max_density: float | None = None
    per_layer_min: int = 0

    def __post_init__(self):
        super().__post_init__()
        self._adaptive_after(1000, 10)
        if self.evaluations < 1:
            raise ValueError(
                f"evaluations must be at least 1; received evaluations={self.evaluations!r}"
            )
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1]; received {self.threshold!r}")
        for name in ("prune_ratio", "growth_ratio", "per_layer_min"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0; received {getattr(self, name)!r}")
        for name in ("min_density", "max_density"):
            if getattr(self, name) is not None:
                masks.check_density(getattr(self, name), name)
        if None not in (self.min_density, self.max_density) and self.min_density > self.max_density:
            raise ValueError(
                f"min_density must be at most max_density={self.max_density}; received "
                f"min_density={self.min_density!r}"
            )

    @property
    def listens(self):
        """True."""
        return True

    def rates(self, total, steps_per_epoch=1):
        """As in Flying Bird.

        Raises:
            ValueError: Also where no update comes after `adaptive_from`.
        """
        rates = super().rates(total, steps_per_epoch)
        if not self.listens_at(max(rates), total, steps_per_epoch):
            raise ValueError(
                f"adaptive_from must be before the last update, after step {max(rates):,}; "
                f"received adaptive_from={self.adaptive_from!r}"
            )
        return rates

    def listens_at(self, step, total, steps_per_epoch=1):
        """True after `adaptive_from`."""
        return step > self._adaptive_after(total, steps_per_epoch)

    def _adaptive_after(self, total: int, steps_per_epoch: int) -> float:
        after = self.adaptive_from
        if not isinstance(after, str) and 0 <= after < 1:
            return after * total
        return steps_of(after, steps_per_epoch, "adaptive_from")

    def decision(self, gaps, losses):
        """What the last evaluations ask for; nothing before there are two.

        Args:
            gaps: Robust accuracy in training minus robust accuracy in validation, evaluation by
                evaluation.
            losses: Robust validation loss, evaluation by evaluation.
        """
        if min(len(gaps), len(losses)) < 2:
            return Decision()
        grew = _share_of(gaps, self.evaluations, lambda before, after: after > before)
        rose = _share_of(losses, self.evaluations, lambda before, after: after >= before)
        return Decision(grew, rose, grew >= self.threshold, rose >= self.threshold)

    def changes(self, layers, rate, decision):
        """As in Flying Bird, and what the decision adds: fractions of what goes anyway.

        Args:
            layers: One for each kernel.
            rate: The share of live weights, in [0, 1].
            decision: What the evaluations ask for.
        """
        found = super().changes(layers, rate, decision)
        if decision.prune_more:
            found = self._bounded_below(layers, found, rate)
        if decision.grow_more:
            found = self._bounded_above(layers, found)
        return found

    def _bounded_below(self, layers, found: list[Change], rate: float) -> list[Change]:
        """More pruned, where neither layer nor network gets too small."""
        more = []
        for layer, change in zip(layers, found, strict=True):
            spare = layer.live - max(change.pruned, self.per_layer_min * layer.units)
            wanted = share(layer.live, rate * self.prune_ratio) if change.pruned else 0
            more.append(max(0, min(wanted, spare)))
        if self.min_density is not None:
            least = math.ceil(self.min_density * sum(layer.size for layer in layers))
            more = _at_most(more, sum(layer.live for layer in layers) - least)
        return [
            change._replace(pruned=change.pruned + extra)
            for change, extra in zip(found, more, strict=True)
        ]

    def _bounded_above(self, layers, found: list[Change]) -> list[Change]:
        """More grown, where there is room in layer and network."""
        more, live = [], 0
        for layer, change in zip(layers, found, strict=True):
            left = layer.live - change.pruned + change.grown
            wanted = enlarged(change.grown, self.growth_ratio) - change.grown
            more.append(min(wanted, layer.size - left))
            live += left
        if self.max_density is not None:
            most = math.floor(self.max_density * sum(layer.size for layer in layers))
            more = _at_most(more, most - live)
        return [
            change._replace(grown=change.grown + extra)
            for change, extra in zip(found, more, strict=True)
        ]


def _kept_up(layer: Layer, rate: float) -> Change:
    number = 0 if layer.live == layer.size else min(layer.live, share(layer.live, rate))
    return Change(number, number)


def _at_most(numbers: list[int], bound: int) -> list[int]:
    """Numbers that add up to no more than a bound, each smaller by the same factor."""
    total, bound = sum(numbers), max(bound, 0)
    return numbers if total <= bound else [number * bound // total for number in numbers]


def _share_of(history: Sequence[float], last: int, holds) -> float:
    steps = list(itertools.pairwise(history[-last - 1 :]))
    return sum(holds(before, after) for before, after in steps) / len(steps)
