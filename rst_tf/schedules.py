"""What gives each step a number: learning rates, and durations written as steps or epochs."""

import bisect
import dataclasses
import math
import re
from typing import Literal

from rst_tf.registry import Registry, choices


def steps_of(duration: int | str, steps_per_epoch: int, argument: str = "steps") -> int:
    """A duration in optimiser steps.

    Args:
        duration: Steps (`500` or `"500"`) or epochs (`"12ep"`, `"0.5ep"`), above zero.
        steps_per_epoch: Length of an epoch in steps.
        argument: Name of the argument, for the message.

    Raises:
        ValueError: The text is neither, or the result is below one step.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(ep)?", str(duration).strip())
    steps = 0
    if match and match[2]:
        steps = round(float(match[1]) * steps_per_epoch)
    elif match and "." not in match[1]:
        steps = int(match[1])
    if steps < 1:
        raise ValueError(
            f"{argument} must be a number of steps above 0 such as 500, or of epochs such as 12ep; "
            f"received {argument}={duration!r}"
        )
    return steps


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A factor for each step of a training.

    Args:
        warmup: Steps or epochs (`5ep`) of linear rise before the schedule begins; 0 for none.
        each: Move at every step, or only when an epoch begins, as the published codes do.
        restarts: How often the schedule begins again after the warm-up, in parts of equal length.
    """

    warmup: int | str = dataclasses.field(default=0, kw_only=True)
    each: Literal["step", "epoch"] = dataclasses.field(default="step", kw_only=True)
    restarts: int = dataclasses.field(default=0, kw_only=True)

    def __post_init__(self):
        if self.each not in ("step", "epoch"):
            raise ValueError(f"each must be step or epoch; received each={self.each!r}")
        if self.restarts < 0:
            raise ValueError(f"restarts must be at least 0; received restarts={self.restarts!r}")
        self.warmup_steps(1000)

    def warmup_steps(self, steps_per_epoch: int) -> int:
        """Length of the warm-up in steps."""
        if self.warmup in (0, "0"):
            return 0
        return steps_of(self.warmup, steps_per_epoch, "warmup")

    def value(self, done: float, length: float, steps_per_epoch: float) -> float:
        """The factor after the warm-up.

        Args:
            done: Fraction of the steps after the warm-up that are behind, in [0, 1].
            length: Number of these steps.
            steps_per_epoch: Length of an epoch in steps.
        """
        raise NotImplementedError

    def factors(self, total: int, steps_per_epoch: int = 1) -> list[float]:
        """The factor of every step from 0 to `total - 1`.

        Moving with epochs, a warm-up of W epochs has (e + 1) / W in epoch e.

        Raises:
            ValueError: The warm-up is as long as the training, or not of whole epochs where the
                schedule moves with epochs.
        """
        warmup = self.warmup_steps(steps_per_epoch)
        unit = steps_per_epoch if self.each == "epoch" else 1
        if warmup >= total or warmup % unit:
            raise ValueError(
                f"warmup must be shorter than the training of {total} steps, and of whole epochs "
                f"with each=epoch; received warmup={self.warmup!r}"
            )
        factors = []
        for step in range(0, total, unit):
            if step < warmup:
                factor = (step + unit) / warmup
            else:
                done, length = self._place(step - warmup, total - warmup)
                factor = self.value(done / length, length, steps_per_epoch)
            factors += [factor] * min(unit, total - step)
        return factors

    def _place(self, step: int, total: int) -> tuple[int, int]:
        """Steps since the last restart, and the length of that part."""
        starts = [total * part // (self.restarts + 1) for part in range(self.restarts + 2)]
        part = bisect.bisect_right(starts, step) - 1
        return step - starts[part], starts[part + 1] - starts[part]


SCHEDULES = choices(Schedule, Registry("schedule"))


@SCHEDULES.register("constant")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def value(self, done, length, steps_per_epoch):
        """1."""
        return 1.0


@SCHEDULES.register("steps")
@dataclasses.dataclass(frozen=True)
class Steps(Schedule):
    """Multiplies by `factor` at each milestone.

    Args:
        milestones: Ascending; fractions of the training in (0, 1), or steps or epochs (`80ep`).
        factor: What each milestone multiplies by.
    """

    milestones: tuple[float | str, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        for milestone in self.milestones:
            if not _is_fraction(milestone):
                steps_of(milestone, 1000, "milestones")

    def value(self, done, length, steps_per_epoch):
        """`factor ** (number of milestones passed)`."""
        return self.factor ** sum(
            done >= m if _is_fraction(m) else round(done * length) >= steps_of(m, steps_per_epoch)
            for m in self.milestones
        )


@SCHEDULES.register("cosine")
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `floor` along half a cosine (Loshchilov & Hutter 2017).

    Args:
        floor: The last value, in [0, 1].
    """

    floor: float = 0.0

    def value(self, done, length, steps_per_epoch):
        """`floor + (1 - floor) (1 + cos(pi t)) / 2`."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@SCHEDULES.register("linear")
@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` along a line.

    Args:
        start: The first value, at least 0.
        end: The last value, at least 0.
    """

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0; received {getattr(self, name)!r}")

    def value(self, done, length, steps_per_epoch):
        """`start + (end - start) t`."""
        return self.start + (self.end - self.start) * done


@SCHEDULES.register("exponential")
@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """Multiplies by `factor` in every stretch of `interval`, a little at each step.

    Args:
        factor: Above 0; above 1 the value rises, from `start`.
        interval: Steps or epochs (`10ep`).
        start: The first value, above 0.
        limit: No value passes it: the lowest where the value falls, the highest where it rises.
    """

    factor: float = 0.1
    interval: int | str = "50ep"
    start: float = 1.0
    limit: float | None = None

    def __post_init__(self):
        super().__post_init__()
        _check_growth(self)
        steps_of(self.interval, 1000, "interval")

    def value(self, done, length, steps_per_epoch):
        """`start factor ** (steps / interval)`."""
        passed = done * length / steps_of(self.interval, steps_per_epoch, "interval")
        return _limited(self.start * self.factor**passed, self)


@SCHEDULES.register("jump")
@dataclasses.dataclass(frozen=True)
class Jump(Schedule):
    """Multiplies by `factor` at `first`, and again after every `interval`.

    Args:
        factor: Above 0; above 1 the value rises, from `start`.
        interval: Steps or epochs (`10ep`) between two jumps.
        first: Steps or epochs before the first jump; none takes `interval`.
        start: The first value, above 0.
        limit: No value passes it: the lowest where the value falls, the highest where it rises.
    """

    factor: float = 0.1
    interval: int | str = "50ep"
    first: int | str | None = None
    start: float = 1.0
    limit: float | None = None

    def __post_init__(self):
        super().__post_init__()
        _check_growth(self)
        steps_of(self.interval, 1000, "interval")
        if self.first is not None:
            steps_of(self.first, 1000, "first")

    def value(self, done, length, steps_per_epoch):
        """`start factor ** (jumps behind)`."""
        every = steps_of(self.interval, steps_per_epoch, "interval")
        first = every if self.first is None else steps_of(self.first, steps_per_epoch, "first")
        jumps = max(0, (round(done * length) - first) // every + 1)
        return _limited(self.start * self.factor**jumps, self)


@SCHEDULES.register("cycle")
@dataclasses.dataclass(frozen=True)
class Cycle(Schedule):
    """Goes through `values`, one an epoch, again and again.

    Args:
        values: Factors; the default is `ssfd` of the code of Ramanujan et al. (2020).
    """

    values: tuple[float, ...] = (1, 2, 3, 4, 5, 2.5, 1.25, 0.625, 0.3125, 0.15625)

    def value(self, done, length, steps_per_epoch):
        """`values[epoch mod len(values)]`."""
        epoch = round(done * length) // steps_per_epoch
        return self.values[epoch % len(self.values)]


def _check_growth(schedule: Exponential | Jump) -> None:
    for name in ("factor", "start"):
        if not 0 < getattr(schedule, name) < math.inf:
            raise ValueError(f"{name} must be above 0; received {getattr(schedule, name)!r}")


def _limited(value: float, schedule: Exponential | Jump) -> float:
    if schedule.limit is None:
        return value
    return min(value, schedule.limit) if schedule.factor > 1 else max(value, schedule.limit)


def _is_fraction(milestone: float | str) -> bool:
    return not isinstance(milestone, str) and 0 < milestone < 1
