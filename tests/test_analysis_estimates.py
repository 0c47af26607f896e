"""Laws of the intervals and tests that the analysis prints."""

import math
import statistics
from itertools import product

import pytest

from rst_tf.analysis import estimates


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (100, 1.9840)],
)
def test_quantiles_of_student(freedom, quantile):
    assert estimates.student_95(freedom) == pytest.approx(quantile, abs=5e-5)


@pytest.mark.parametrize("values", [(0.1, 0.3), (0.7, 0.71, 0.69), (2.0, 2.0, 2.0, 2.0)])
def test_interval_of_student_is_about_the_mean(values):
    low, high = estimates.student(values)
    assert (low + high) / 2 == pytest.approx(statistics.mean(values))
    error = statistics.stdev(values) / math.sqrt(len(values))
    assert high - low == pytest.approx(2 * estimates.student_95(len(values) - 1) * error)
    shifted = estimates.student([value + 1 for value in values])
    assert shifted == pytest.approx((low + 1, high + 1))


@pytest.mark.parametrize(("only_first", "only_second"), list(product(range(5), repeat=2)))
def test_mcnemar_by_counting_every_outcome(only_first, only_second):
    """All ways in which the examples could have fallen to either side, equally likely."""
    count = only_first + only_second
    seen = abs(only_first - count / 2)
    ways = [sum(way) for way in product((0, 1), repeat=count)]
    expected = sum(abs(heads - count / 2) >= seen for heads in ways) / len(ways)
    assert estimates.mcnemar(only_first, only_second) == pytest.approx(expected)


def test_mcnemar_of_many_examples():
    assert estimates.mcnemar(500, 420) == pytest.approx(0.009163, abs=1e-6)  # scipy's binomtest
    assert 0 < estimates.mcnemar(2000, 3000) < 1e-44
    assert estimates.mcnemar(5000, 5000) == 1.0


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((0, 10), (0, 10), -0.2775, 0.2775),
    ],
)
def test_newcombes_own_examples(first, second, low, high):
    (right, n), (other, m) = first, second
    assert estimates.newcombe(right / n, other / m, (n, m)) == pytest.approx((low, high), abs=5e-5)
    turned = estimates.newcombe(other / m, right / n, (m, n))
    assert turned == pytest.approx((-high, -low), abs=5e-5)


@pytest.mark.parametrize(
    ("only_first", "only_second", "examples"), [(0, 0, 50), (3, 9, 100), (150, 86, 1600)]
)
def test_paired_interval(only_first, only_second, examples):
    low, high = estimates.paired(only_first, only_second, examples)
    turned = estimates.paired(only_second, only_first, examples)
    assert turned == pytest.approx((-high, -low))
    assert low < (only_first - only_second) / examples < high
    # The variance of a mean of signs: +1 right in the first only, -1 right in the second only.
    signs = [1] * (2 * only_first + 1) + [-1] * (2 * only_second + 1)  # in halves
    count = 2 * (examples + 2)
    signs += [0] * (count - len(signs))
    error = statistics.pstdev(signs) / math.sqrt(examples + 2)
    assert high - low == pytest.approx(2 * estimates.NORMAL_95 * error)


def test_a_paired_interval_is_narrower_where_networks_agree():
    low, high = estimates.paired(40, 20, 1000)
    wide_low, wide_high = estimates.newcombe(0.62, 0.60, (1000, 1000))
    assert high - low < (wide_high - wide_low) / 2


@pytest.mark.parametrize(
    ("values", "examples", "band"),
    [
        ((0.5,), None, None),
        ((0.5,), 10, estimates.wilson(0.5, 10)),
        ((0.4, 0.6), 10, (0.5 - math.sqrt(0.02), 0.5 + math.sqrt(0.02))),
    ],
)
def test_bands_are_of_seeds_or_of_examples(values, examples, band):
    found = estimates.estimate(values, examples).band
    assert found == (band if band is None else pytest.approx(band))
