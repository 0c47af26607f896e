"""What gives each step a number: learning rates, and durations written as steps or epochs."""

import dataclasses
import math
import re
from collections.abc import Callable

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
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep)?", str(duration).strip())
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
    """A factor for each step; `value(t)` with t in [0, 1], the fraction of the training done."""

    def value(self, done: float) -> float:
        """The factor when a fraction `done` of the steps is behind."""
        raise NotImplementedError


SCHEDULES = choices(Schedule, Registry("schedule"))


@SCHEDULES.register("constant")
@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def value(self, done):
        """1."""
        return 1.0


@SCHEDULES.register("steps")
@dataclasses.dataclass(frozen=True)
class Steps(Schedule):
    """Multiplies by `factor` at each milestone.

    Args:
        milestones: Fractions of the training, ascending, in (0, 1).
        factor: What each milestone multiplies by.
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def value(self, done):
        """`factor ** (number of milestones passed)`."""
        return self.factor ** sum(done >= milestone for milestone in self.milestones)


@SCHEDULES.register("cosine")
@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `floor` along half a cosine (Loshchilov & Hutter 2017).

    Args:
        floor: The last value, in [0, 1].
    """

    floor: float = 0.0

    def value(self, done):
        """`floor + (1 - floor) (1 + cos(pi t)) / 2`."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


def per_step(schedule: Schedule, total: int, scale: float = 1.0) -> Callable[[int], float]:
    """The schedule as a function of the step, 0 to `total - 1`, times `scale`."""
    return lambda step: scale * schedule.value(step / total)
