"""A power law's exponent, where it is known, and its interval, which holds it as often as it says."""

from __future__ import annotations

import numpy as np
import pytest

from episodic.power_law import fit

N = np.array([10.0, 30, 100, 300, 1000])


def test_a_law_without_noise_is_found_exactly():
    found = fit(N, 0.8 * N**-0.35, np.full(5, 0.001))
    assert (found.a, found.b) == pytest.approx((0.8, 0.35)) and found.misfit < 1e-9
    middle, low, high = found.at(np.array([50.0, 5000.0]))
    assert np.allclose(middle, 0.8 * np.array([50.0, 5000.0]) ** -0.35) and (low < middle).all() and (middle < high).all()
    assert (high / low)[1] > (high / low)[0], "beyond what was measured less is known"


def test_what_grows_has_a_negative_exponent():
    assert fit(N, 0.01 * N**0.5, np.full(5, 0.001)).b == pytest.approx(-0.5)


def test_too_few_points_have_no_law():
    assert fit(N[:2], np.array([0.2, 0.1]), np.full(2, 0.01)) is None
    assert fit(N[:3], np.array([0.2, 0.1, 0.0]), np.full(3, 0.01)) is None, "an error of 0 has no logarithm"
    assert fit(np.array([5.0, 5, 10]), np.array([0.2, 0.2, 0.1]), np.full(3, 0.01)) is None


def held(scatter: float, factor: float, trials: int = 1000) -> float:
    """How often the interval holds the exponent; scatter: beyond what the standard errors say; factor: on the stated errors"""
    rng, truth = np.random.default_rng(0), 0.4
    law = 0.6 * N**-truth
    sd = 0.06 * law
    count = 0
    for _ in range(trials):
        measured = law * np.exp(scatter * rng.normal(size=5)) + sd * rng.normal(size=5)
        found = fit(N, measured, factor * sd)
        count += found.b_low <= truth <= found.b_high
    return count / trials


def test_the_interval_holds_the_exponent_in_about_95_of_100():
    assert 0.94 <= held(0.0, 1.0) <= 0.985
    assert held(0.25, 1.0) >= 0.92, "also where points scatter more than their errors say"


def test_an_interval_that_is_too_narrow_would_be_noticed():
    rng, law = np.random.default_rng(0), 0.6 * N**-0.4
    fits = [fit(N, law + 0.06 * law * rng.normal(size=5), 0.06 * law) for _ in range(500)]
    halved = np.mean([abs(f.b - 0.4) <= (f.b_high - f.b_low) / 4 for f in fits])
    assert halved < 0.85


def test_curvature_shows_as_misfit():
    bent = 0.5 * N**-0.5 + 0.1
    assert fit(N, bent, 0.02 * bent).misfit > 5
