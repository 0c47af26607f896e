"""Numbers with what is known of their chance: over seeds, over examples, over pairs of answers."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

NORMAL_95 = 1.959963984540054  # standard normal quantile at 0.975

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Args:
        mean: Mean over the seeds; the number itself if there is one seed.
        std: Sample standard deviation (n - 1), or None for one seed.
        interval: 95 % Wilson interval of one seed's test fraction, or None for several seeds or
            an unknown number of test examples.
    """

    mean: float
    std: float | None = None
    interval: Interval | None = None

    @property
    def band(self) -> Interval | None:
        """One standard deviation about the mean over seeds, or one network's interval."""
        if self.std is None:
            return self.interval
        return self.mean - self.std, self.mean + self.std


def estimate(values: Iterable[float], examples: int | None = None) -> Estimate:
    """Mean and sample standard deviation, or one value and its interval.

    Args:
        values: One per seed.
        examples: Number of examples that each value is a fraction of, if known.
    """
    values = tuple(values)
    if len(values) > 1:
        return Estimate(statistics.mean(values), statistics.stdev(values))
    return Estimate(values[0], None, None if examples is None else wilson(values[0], examples))


def wilson(fraction: float, count: int) -> Interval:
    """The 95 % Wilson score interval of a fraction observed on `count` examples.

    Args:
        fraction: Observed, in [0, 1].
        count: Number of examples, at least 1.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    square = NORMAL_95**2 / count
    centre = fraction + square / 2
    half = NORMAL_95 * math.sqrt(fraction * (1 - fraction) / count + square / (4 * count))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def newcombe(first: float, second: float, counts: tuple[int, int]) -> Interval:
    """The 95 % interval of `first` minus `second`, fractions of two sets of examples.

    It takes the sets as independent. For two networks on the same examples, which mostly agree, it
    is wider than it need be.

    Args:
        first: In [0, 1].
        second: In [0, 1].
        counts: Number of examples of each, at least 1.

    Source: Newcombe, Interval estimation for the difference between independent proportions, 1998,
    method 10.
    """
    (low, high), (other_low, other_high) = wilson(first, counts[0]), wilson(second, counts[1])
    below = math.hypot(first - low, other_high - second)
    above = math.hypot(high - first, second - other_low)
    return first - second - below, first - second + above


def student(values: Sequence[float]) -> Interval:
    """The 95 % t-interval of the mean that at least two values were drawn about.

    Source: Student, The probable error of a mean, 1908.
    """
    half = student_95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return mean - half, mean + half


def student_95(freedom: int) -> float:
    """The 0.975 quantile of the t-distribution with a whole number of degrees of freedom."""
    low, high = 0.0, 13.0  # one degree of freedom has 12.706
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _central(middle, freedom) < 0.95 else (low, middle)
    return middle


def _central(t: float, freedom: int) -> float:
    """P(-t < T < t), from the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact test that two networks are right equally often.

    Of the examples on which exactly one network is right, either is as likely to be it: the sum of
    the binomial probabilities of what was seen and of what is farther from half, at most 1.

    Args:
        only_first: Examples on which only the first network is right.
        only_second: Examples on which only the second is.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions or
    percentages, 1947, with the binomial distribution in place of its normal limit.
    """
    count = only_first + only_second
    term = total = 1
    for k in range(min(only_first, only_second)):
        term = term * (count - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**count)


def paired(only_first: int, only_second: int, examples: int) -> Interval:
    """The 95 % interval of a difference of fractions on the same examples.

    Wald's interval after half an example is added to each of the four ways in which two networks
    can be right or wrong.

    Args:
        only_first: Examples on which only the first network is right.
        only_second: Examples on which only the second is.
        examples: All of them.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions,
    2005.
    """
    first, second, count = only_first + 0.5, only_second + 0.5, examples + 2
    difference = (first - second) / count
    half = NORMAL_95 * math.sqrt((first + second) / count - difference**2) / math.sqrt(count)
    return difference - half, difference + half
