"""The exponent of a known power law is recovered, and its interval covers it as often as stated."""

from __future__ import annotations

import numpy as np
import pytest

from episodic.analysis.power_law import fit_power_law

N = np.array([10.0, 30, 100, 300, 1000])


def test_a_law_without_noise_is_recovered_exactly():
    fit = fit_power_law(N, 0.8 * N**-0.35, np.full(5, 0.001))
    assert (fit.a, fit.b) == pytest.approx((0.8, 0.35)) and fit.misfit < 1e-9
    middle, low, high = fit.at(np.array([50.0, 5000.0]))
    assert (
        np.allclose(middle, 0.8 * np.array([50.0, 5000.0]) ** -0.35)
        and (low < middle).all()
        and (middle < high).all()
    )
    assert (high / low)[1] > (high / low)[0], "extrapolation is less certain"


def test_a_growing_curve_has_a_negative_exponent():
    assert fit_power_law(N, 0.01 * N**0.5, np.full(5, 0.001)).b == pytest.approx(-0.5)


def test_too_few_points_have_no_law():
    assert fit_power_law(N[:3], np.array([0.2, 0.1, 0.05]), np.full(3, 0.01)) is None
    assert fit_power_law(N[:4], np.array([0.2, 0.1, 0.05, 0.0]), np.full(4, 0.01)) is None, (
        "an error of 0 has no logarithm"
    )
    assert (
        fit_power_law(np.array([5.0, 5, 10, 20]), np.array([0.2, 0.2, 0.1, 0.05]), np.full(4, 0.01))
        is None
    )


def held(points: int, scatter: float = 0.0, trials: int = 2000) -> float:
    """Estimate the coverage of the interval; scatter: in excess of the standard errors."""
    rng, truth, n = np.random.default_rng(0), 0.4, np.geomspace(10, 1000, points)
    law = 0.6 * n**-truth
    sd = 0.06 * law
    count = 0
    for _ in range(trials):
        measured = law * np.exp(scatter * rng.normal(size=points)) + sd * rng.normal(size=points)
        fit = fit_power_law(n, measured, sd)
        count += fit.b_low <= truth <= fit.b_high
    return count / trials


@pytest.mark.parametrize("points", [4, 5, 8])
def test_the_interval_holds_the_exponent_in_about_95_of_100(points):
    assert 0.945 <= held(points) <= 0.993


@pytest.mark.parametrize("points", [4, 6, 10])
@pytest.mark.parametrize("scatter", [0.06, 0.25])
def test_the_interval_holds_if_points_scatter_more_than_their_standard_errors(points, scatter):
    assert 0.93 <= held(points, scatter) <= 0.99


def test_the_interval_grows_without_a_jump():
    """The same residuals, slightly smaller and slightly larger than the standard errors allow."""
    law, sd, pattern = 0.6 * N**-0.4, 0.002 * N**-0.4, np.array([1.0, -1, 0, -1, 1])

    def at(size: float):
        return fit_power_law(N, law * np.exp(size * pattern), sd)

    fits = [at(size) for size in np.linspace(0.0, 0.006, 601)]
    widths, misfits = (
        np.array([f.b_high - f.b_low for f in fits]),
        np.array([f.misfit for f in fits]),
    )
    assert misfits[0] < 0.1 and misfits[-1] > 1 and (np.diff(misfits) > 0).all()
    assert (np.diff(widths) / widths[:-1] < 0.01).all() and widths[-1] > 1.5 * widths[0]


def test_misfit_p_value_is_uniform():
    rng, law = np.random.default_rng(0), 0.6 * N**-0.4
    p = np.array(
        [fit_power_law(N, law + 0.02 * law * rng.normal(size=5), 0.02 * law).p for _ in range(1000)]
    )
    assert abs((p < 0.05).mean() - 0.05) < 0.025 and abs((p < 0.5).mean() - 0.5) < 0.05


def test_an_interval_that_is_too_narrow_would_be_noticed():
    rng, law = np.random.default_rng(0), 0.6 * N**-0.4
    fits = [fit_power_law(N, law + 0.06 * law * rng.normal(size=5), 0.06 * law) for _ in range(500)]
    halved = np.mean([abs(f.b - 0.4) <= (f.b_high - f.b_low) / 4 for f in fits])
    assert halved < 0.85


def test_curvature_shows_as_misfit():
    bent = 0.5 * N**-0.5 + 0.1
    fit = fit_power_law(N, bent, 0.02 * bent)
    assert fit.misfit > 5 and fit.p < 0.001
