"""How often confidence intervals cover the true value, on simulated results.

    python -m benchmarks.intervals [--worlds 2000]

Simulates experiments whose true accuracies are known, and applies the functions that evaluations
and comparisons use. Prints the tables of docs/results/intervals.md. Each table also has the
textbook interval that was not chosen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import optimize, stats

from episodic.analysis.comparison import PairedScores, holm
from episodic.analysis.power_law import fit_power_law
from episodic.core.statistics import NORMAL_QUANTILE, mean_ci95

EPISODES = 400
DIFFICULTY, OWN_DIFFICULTY, INTERACTION = 0.08, 0.03, 0.08
"""Standard deviations of the score of an episode: shared by all configurations, of a configuration
whatever its seed, and of a seed."""

COMPARISONS = (
    ("3 + 3 seeds", (3, 3), (0.01, 0.01)),
    ("3 + 3, spreads 2 and 0.2 points", (3, 3), (0.02, 0.002)),
    ("3 + 3, equal seeds", (3, 3), (0.0, 0.0)),
    ("3 + 10", (3, 10), (0.01, 0.01)),
    ("3 + 10, spreads 2 and 1 points", (3, 10), (0.02, 0.01)),
    ("5 + 5", (5, 5), (0.01, 0.01)),
    ("10 + 10", (10, 10), (0.01, 0.01)),
)
"""Name, seeds and spreads (standard deviations over seeds) of two configurations."""

MEANS = (("3 seeds", 3, 0.01), ("3, equal seeds", 3, 0.0), ("10", 10, 0.01))
"""Name, seeds and spread of one configuration."""

FAMILIES = (
    ("3 steady, 3 spread", 3, 0.002, 0.02),
    ("10 steady, 3 spread", 10, 0.002, 0.02),
    ("3, equal spreads", 3, 0.01, 0.01),
)
"""Name, seeds of the baseline, its spread and that of nine configurations with 3 seeds each."""

ACCURACIES, NUMBERS, QUERIES = (0.5, 0.8, 0.95, 0.98, 0.995, 0.999), (10, 20, 40, 100, 600), (5, 75)
LOGIT_SPREAD = 1.0
"""Standard deviation over episodes of the logit of the accuracy of a single run."""

POINTS, SCATTERS = (4, 6, 10), (0.0, 1.0, 2.0, 4.0)
"""Points of a power law, and their scatter about it in standard errors, besides these."""


@dataclass(frozen=True)
class Coverage:
    """How often intervals cover the true value.

    Attributes:
        covered: Share of the worlds in which the interval covers it.
        width: Mean width, relative to the interval for known variances.
    """

    covered: float
    width: float

    def __str__(self) -> str:
        return f"{100 * self.covered:.1f} % | {self.width:.2f}"


# --- few seeds ---------------------------------------------------------------------------------


def simulate_scores(
    rng: np.random.Generator, seeds: Sequence[int], spreads: Sequence[float]
) -> list[np.ndarray]:
    """Simulate scores `(seeds, EPISODES)` of configurations whose true mean is 0."""
    shared = rng.normal(0, DIFFICULTY, EPISODES)
    return [
        shared
        + rng.normal(0, OWN_DIFFICULTY, EPISODES)
        + rng.normal(0, spread, (k, 1))
        + rng.normal(0, INTERACTION, (k, EPISODES))
        for k, spread in zip(seeds, spreads, strict=True)
    ]


def measure_seeds(
    seeds: Sequence[int], spreads: Sequence[float], worlds: int
) -> tuple[Coverage, Coverage, float]:
    """Measure the interval of a mean (one configuration) or of a difference (two).

    Returns:
        The coverage, that with pooled degrees of freedom, and the share of false alarms.
    """
    rng = np.random.default_rng(0)
    n, two = EPISODES, len(seeds) == 2
    known = (2 * OWN_DIFFICULTY**2 if two else DIFFICULTY**2 + OWN_DIFFICULTY**2) / n
    known += sum((s**2 + INTERACTION**2 / n) / k for s, k in zip(spreads, seeds, strict=True))
    covered, widths, pooled, pooled_widths, alarms = [], [], [], [], []
    for _ in range(worlds):
        scores = simulate_scores(rng, seeds, spreads)
        first, second = range(seeds[0]), range(seeds[0], sum(seeds))
        paired = PairedScores(np.concatenate(scores))
        estimate = paired.difference(first, second) if two else paired.mean(first)
        half = pooled_half_width(scores)
        covered.append(estimate.low <= 0 <= estimate.high)
        widths.append((estimate.high - estimate.low) / 2)
        alarms.append(estimate.p < 0.05)
        pooled.append(abs(estimate.mean) <= half)
        pooled_widths.append(half)
    unit = NORMAL_QUANTILE * math.sqrt(known)
    return (
        Coverage(float(np.mean(covered)), float(np.mean(widths)) / unit),
        Coverage(float(np.mean(pooled)), float(np.mean(pooled_widths)) / unit),
        float(np.mean(alarms)),
    )


def pooled_half_width(scores: Sequence[np.ndarray]) -> float:
    """Compute the half-width of Student's interval with pooled degrees of freedom.

    Source: F. E. Satterthwaite: An approximate distribution of estimates of variance components,
    Biometrics Bulletin 1946.
    """
    n = scores[0].shape[1]
    means = [of_seeds.mean(0) for of_seeds in scores]
    per_episode = means[0] - means[1] if len(means) == 2 else means[0]
    parts = [(float(per_episode.var(ddof=1)) / n, n - 1)]
    for of_seeds in scores:
        k = len(of_seeds)
        rest = of_seeds - of_seeds.mean(0) - of_seeds.mean(1, keepdims=True) + of_seeds.mean()
        interaction = float(np.square(rest).sum()) / ((k - 1) * (n - 1) * n)
        parts.append((max(float(of_seeds.mean(1).var(ddof=1)) - interaction, 0.0) / k, k - 1))
    total = sum(variance for variance, _ in parts)
    freedom = total**2 / sum(variance**2 / df for variance, df in parts)
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)


def measure_family(
    baseline_seeds: int, baseline_spread: float, spread: float, worlds: int
) -> float:
    """Measure how often Holm's correction finds a difference among ten equal configurations."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(worlds):
        seeds, spreads = (baseline_seeds, *[3] * 9), (baseline_spread, *[spread] * 9)
        paired = PairedScores(np.concatenate(simulate_scores(rng, seeds, spreads)))
        ends = np.cumsum((0, *seeds))
        rows = [range(*pair) for pair in pairwise(ends)]
        alarms += min(holm([paired.difference(row, rows[0]).p for row in rows[1:]])) < 0.05
    return alarms / worlds


# --- single runs -------------------------------------------------------------------------------


def simulate_accuracies(
    rng: np.random.Generator, accuracy: float, episodes: int, queries: int, worlds: int
) -> np.ndarray:
    """Simulate accuracies `(worlds, episodes)` whose mean over all episodes is `accuracy`."""
    x, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def excess(logit: float) -> float:
        return float((weights / (1 + np.exp(-logit - LOGIT_SPREAD * x))).sum()) - accuracy

    logit = optimize.brentq(excess, -5, 30)
    ability = logit + LOGIT_SPREAD * rng.normal(size=(worlds, episodes))
    simulated: np.ndarray = rng.binomial(queries, 1 / (1 + np.exp(-ability))) / queries
    return simulated


def measure_accuracies(
    accuracy: float, episodes: int, queries: int, worlds: int
) -> tuple[float, float, float]:
    """Measure the interval of the accuracy of a single run.

    Returns:
        The coverage, that of mean +- 1.96 standard errors, and the ratio of their widths.
    """
    rng = np.random.default_rng(2)
    scores = simulate_accuracies(rng, accuracy, episodes, queries, worlds)
    means = scores.mean(1)
    halves = np.array([mean_ci95(row, share=True)[1] for row in scores])
    normal = NORMAL_QUANTILE * scores.std(1, ddof=1) / math.sqrt(episodes)
    distance = np.abs(means - accuracy) - 1e-12
    return (
        float((distance <= halves).mean()),
        float((distance <= normal).mean()),
        float(halves.sum() / normal.sum()),
    )


# --- power laws --------------------------------------------------------------------------------


def measure_power_law(points: int, scatter: float, worlds: int) -> tuple[Coverage, Coverage]:
    """Measure the interval of an exponent.

    Args:
        points: Number of points.
        scatter: Standard deviation of the true errors about the law, in standard errors.
        worlds: Number of simulated fits.

    Returns:
        The coverage, and that with the normal quantile.
    """
    rng, truth, sd = np.random.default_rng(3), 0.4, 0.02
    n = np.geomspace(10, 1000, points)
    law = 0.6 * n**-truth
    x = np.log(n) - np.log(n).mean()
    unit = NORMAL_QUANTILE * sd * math.hypot(1, scatter) / math.sqrt(float(x @ x))
    relative = stats.t.ppf(0.975, points - 2) / NORMAL_QUANTILE
    covered, widths, normal, normal_widths = [], [], [], []
    for _ in range(worlds):
        true = law * np.exp(scatter * sd * rng.normal(size=points))
        fit = fit_power_law(n, true + sd * law * rng.normal(size=points), sd * law)
        assert fit is not None  # noqa: S101 - there are enough points
        half = (fit.b_high - fit.b_low) / 2
        other = half * math.sqrt(max(1, fit.misfit) / max(1, relative**2 * fit.misfit))
        distance = abs(fit.b - truth)
        covered.append(distance <= half)
        widths.append(half)
        normal.append(distance <= other)
        normal_widths.append(other)
    return (
        Coverage(float(np.mean(covered)), float(np.mean(widths)) / unit),
        Coverage(float(np.mean(normal)), float(np.mean(normal_widths)) / unit),
    )


# --- tables ------------------------------------------------------------------------------------


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table. A cell may contain several columns."""
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=2000, help="simulated results per cell")
    worlds = parser.parse_args().worlds
    head = ["coverage", "width", "pooled: coverage", "width"]
    rows = []
    for name, seeds, spreads in COMPARISONS:
        ours, pooled, alarms = measure_seeds(seeds, spreads, worlds)
        rows.append([name, str(ours), f"{100 * alarms:.1f} %", str(pooled)])
    print_table(["difference", *head[:2], "false alarms", *head[2:]], rows)
    rows = []
    for name, k, spread in MEANS:
        ours, pooled, _ = measure_seeds([k], [spread], worlds)
        rows.append([name, str(ours), str(pooled)])
    print_table(["mean", *head], rows)
    rows = [
        [name, f"{100 * measure_family(k, spreads[0], spreads[1], worlds):.1f} %"]
        for name, k, *spreads in FAMILIES
    ]
    print_table(["family", "false alarms"], rows)
    for queries in QUERIES:
        rows = []
        for accuracy in ACCURACIES:
            cells = [measure_accuracies(accuracy, n, queries, worlds) for n in NUMBERS]
            texts = [f"{100 * a:.1f} ({100 * b:.1f})" for a, b, _ in cells]
            rows.append([f"{100 * accuracy:g} %", *texts, f"{cells[-1][2]:.2f}"])
        episodes = [f"{n} episodes" for n in NUMBERS]
        print_table([f"accuracy, {queries} queries", *episodes, f"width at {NUMBERS[-1]}"], rows)
    rows = []
    for points in POINTS:
        for scatter in SCATTERS:
            fits = measure_power_law(points, scatter, worlds)
            rows.append([f"{points} points, scatter {scatter:g}", *map(str, fits)])
    print_table(["power law", *head[:2], "normal: coverage", "width"], rows)


if __name__ == "__main__":
    main()
