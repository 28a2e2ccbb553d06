"""The distribution of a sum of scaled Student's t variables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from episodic.analysis.student_sum import StudentSum


@pytest.mark.parametrize("freedom", [2, 3, 9, 499])
def test_a_single_variance_is_students_distribution(freedom):
    one = StudentSum([(4.0, freedom)])
    assert one.half_width(0.95) == pytest.approx(2 * stats.t.ppf(0.975, freedom), rel=2e-4)
    for p in (0.5, 0.05, 1e-3, 1e-6):
        assert one.p_value(2 * stats.t.isf(p / 2, freedom)) == pytest.approx(p, rel=2e-3)


def test_two_variances_are_the_distribution_of_behrens_and_fisher():
    """By convolution of the two densities, on a fine grid."""
    first, second, value = (1.0, 2), (0.25, 9), 3.0
    x, step = np.linspace(-400, 400, 400_001, retstep=True)
    density = stats.t.pdf(x, first[1])
    inner = stats.t.cdf((value - x) / 0.5, second[1]) - stats.t.cdf((-value - x) / 0.5, second[1])
    expected = 1 - float((density * inner).sum() * step) - 2 * float(stats.t.sf(400, 2))
    assert StudentSum([first, second]).p_value(value) == pytest.approx(expected, rel=2e-3)


def test_a_negligible_variance_changes_nothing():
    both, one = StudentSum([(1.0, 9), (1e-12, 2)]), StudentSum([(1.0, 9)])
    assert both.half_width(0.95) == pytest.approx(one.half_width(0.95), rel=1e-4)
    assert StudentSum([(1.0, 9), (0.0, 2)]).p_value(2.0) == one.p_value(2.0)


def test_the_interval_has_its_probability():
    total = StudentSum([(1.0, 2), (2.0, 2), (0.5, 199)])
    assert total.p_value(total.half_width(0.95)) == pytest.approx(0.05, rel=1e-4)
    assert total.p_value(0.0) == pytest.approx(1.0)
