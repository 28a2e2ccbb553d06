"""Numbers and sentences of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

NBSP = "\u00a0"
METHODS = {
    "chance": "chance",
    "pixel_centroid": "nearest class mean in pixels",
    "ngram_centroid": "nearest class mean of n-grams",
    "encoder_centroid": "nearest class mean of the encoder's embeddings",
    "tfidf_centroid": "tf-idf, nearest class mean",
    "tfidf_logistic": "tf-idf, logistic regression",
    "random_init": "fine-tuned from random weights",
    "global_mean": "mean of all ratings",
    "item_mean": "item mean",
    "shifted_item_mean": "item mean, shifted by the user's level",
    "factorisation": "matrix factorisation with fold-in",
    "zero": "always answer 0",
    "support_mean": "answer the support set's mean",
}
"""What the baselines of metrics.json are called."""


def decimals(ci95: float) -> int:
    """Digits after the point of a percentage: enough for the interval to say something."""
    return 2 if 0 < ci95 < 0.0005 else 1


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}{NBSP}%"


def number(value: float | None) -> str:
    """A squared error: three significant digits, never in powers of ten below a million."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def figure(score: str, value: float, ci95: float | None = None) -> str:
    """`98.2 % ± 0.3`, or `0.413 ± 0.007` for a squared error; `ci95` None or NaN: without an interval."""
    if ci95 is None or not math.isfinite(ci95) or not math.isfinite(value):
        return percent(value) if score == "accuracy" else number(value)
    if score == "accuracy":
        digits = decimals(ci95)
        return f"{percent(value, digits)} ± {100 * ci95:.{digits}f}"
    digits = 4 if ci95 < 0.0005 else 3 if ci95 < 0.05 else 2 if ci95 < 1 else 1 if ci95 < 10 else 0
    return f"{value:.{digits}f} ± {ci95:.{digits}f}"


def count(value: float, one: str, many: str | None = None) -> str:
    """`1 step`, `1,000 episodes`."""
    return f"{int(value):,}{NBSP}{one if value == 1 else many or one + 's'}"


def points(difference: float) -> str:
    """A difference of accuracies without its sign: `3.1 points`."""
    size = 100 * abs(difference)
    return (
        "1 point"
        if f"{size:.1f}" == "1.0"
        else f"{size:.0f} points"
        if size >= 9.95
        else f"{size:.1f} points"
    )


def class_name(name: str, group: str) -> str:
    """A class with its group, said once."""
    return name if not group or name.startswith(group) else f"{name} ({group})"


def joined(parts: Sequence[str]) -> str:
    return (
        parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
    )


_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def in_words(value: int) -> str:
    return _SMALL[value] if 0 <= value < len(_SMALL) else f"{value:,}"


def settled(values: Sequence[float], ci95: Sequence[float]) -> int:
    """The first point whose interval holds the mean of every later one: from there on the curve is flat as far as we can tell."""
    for point in range(len(values)):
        if all(abs(later - values[point]) <= ci95[point] for later in values[point + 1 :]):
            return point
    return len(values) - 1


def adaptation(score: str, course: pd.DataFrame) -> str:
    """'Accuracy rises by 41 points in one step and is flat after three.'"""
    steady = course
    if "diverged" in course and course["diverged"].any():
        steady = course.iloc[: int(np.argmax(course["diverged"].to_numpy() > 0))]
    values, ci95 = steady[score].tolist(), steady[f"{score}_ci95"].fillna(0).tolist()
    if len(values) < 2:
        return "From the first step on some episodes diverge."
    if score == "accuracy":
        first = f"Accuracy {'rises' if values[1] >= values[0] else 'falls'} by {points(values[1] - values[0])} in one step"
    else:
        first = f"The error goes from {number(values[0])} to {number(values[1])} in one step"
    steps = course["step"].astype(int).tolist()
    flat, last = steps[settled(values, ci95)], steps[len(values) - 1]
    after = (
        f"; with {in_words(steps[len(values)])} or more steps some episodes diverge"
        if len(steady) < len(course)
        else ""
    )
    if flat == 0:
        return f"Adaptation changes nothing that the intervals could tell{after}."
    if flat < last:
        return f"{first} and is flat after {'that' if flat == 1 else in_words(flat)}{after}."
    end = percent(values[-1]) if score == "accuracy" else number(values[-1])
    return f"{first} and {'is' if last == 1 else 'still moves: it is'} {end} after {in_words(last)}{after}."


def learning(score: str, validation: pd.DataFrame, best: int, iterations: int) -> str:
    """What the learning curve shows: where it started, where the best stands, whether more training might help."""
    first, top = validation.iloc[0], validation[validation["iteration"] == best]
    value = top[score].iloc[0] if len(top) else validation[score].iloc[-1]
    shown = percent if score == "accuracy" else number
    what = "Validation accuracy" if score == "accuracy" else "The validation error"
    if len(validation) == 1:
        return f"{what} is {shown(value)} at its only measurement, iteration {best:,}."
    end = (
        "the last measurement: longer training may help"
        if best >= validation["iteration"].max()
        else f"iteration {best:,} of {iterations:,}"
    )
    return f"{what} goes from {shown(first[score])} at iteration {int(first['iteration']):,} to {shown(value)} at {end}."
