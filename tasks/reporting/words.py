"""Numbers and sentences of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

NBSP = "\u00a0"
METHODS = {
    "chance": "chance", "pixel_centroid": "nearest centroid in pixels", "random_init": "same network, fine-tuned from random weights",
    "zero": "always answer 0", "support_mean": "answer the support set's mean",
}  # fmt: skip
"""What the baselines of metrics.json are called."""


def decimals(ci95: float | None) -> int:
    """Digits after the point of a percentage: enough for the interval to say something."""
    return 2 if ci95 is not None and 0 < ci95 < 0.0005 else 1


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
    bare = ci95 is None or not math.isfinite(ci95)
    if score == "mse":
        if bare or not math.isfinite(value):
            return number(value)
        digits = max(0, 1 - math.floor(math.log10(ci95))) if 0 < ci95 < 10 else 2 if ci95 == 0 else 0
        return f"{value:.{min(digits, 4)}f} ± {ci95:.{min(digits, 4)}f}"
    if bare:
        return percent(value)
    digits = decimals(ci95)
    return f"{percent(value, digits)} ± {100 * ci95:.{digits}f}"


def count(value: float, one: str, many: str | None = None) -> str:
    """`1 step`, `1,000 episodes`."""
    return f"{int(value):,}{NBSP}{one if value == 1 else many or one + 's'}"


def points(difference: float) -> str:
    """A difference of accuracies without its sign: `3.1 points`."""
    size = 100 * abs(difference)
    return "1 point" if f"{size:.1f}" == "1.0" else f"{size:.0f} points" if size >= 10 else f"{size:.1f} points"


def joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def in_words(value: int) -> str:
    return _SMALL[value] if 0 <= value < len(_SMALL) else f"{value:,}"


def settled(values: Sequence[float], ci95: Sequence[float]) -> int:
    """The first step whose interval holds the mean of every later step: from there on the curve is flat as far as we can tell."""
    for step in range(len(values)):
        if all(abs(later - values[step]) <= ci95[step] for later in values[step + 1 :]):
            return step
    return len(values) - 1


def adaptation(score: str, course: pd.DataFrame) -> str:
    """'Accuracy rises by 41 points in one step and is flat after three.'"""
    values, ci95 = course[score].tolist(), course[f"{score}_ci95"].fillna(0).tolist()
    last = len(values) - 1
    if last < 1 or not all(math.isfinite(v) for v in values[:2]):
        return "Adaptation changes what the model answers as follows."
    gain = values[1] - values[0]
    if score == "accuracy":
        first = f"Accuracy {'rises' if gain >= 0 else 'falls'} by {points(gain)} in one step"
    else:
        first = f"The error goes from {number(values[0])} to {number(values[1])} in one step"
    flat = settled(values, ci95)
    if flat == 0:
        return "Adaptation changes nothing that the intervals could tell."
    if flat <= 1:
        return f"{first} and is flat after that."
    if flat < last:
        return f"{first} and is flat after {in_words(flat)}."
    end = f"{percent(values[last])}" if score == "accuracy" else number(values[last])
    return f"{first} and still moves at the end, with {end} after {in_words(last)}."


def learning(score: str, validation: pd.DataFrame, best: int, iterations: int) -> str:
    """What the learning curve shows: where it started, where the best stands, whether more training might help."""
    first, top = validation.iloc[0], validation[validation["iteration"] == best]
    value = top[score].iloc[0] if len(top) else validation[score].iloc[-1]
    shown = percent if score == "accuracy" else number
    what = "Validation accuracy" if score == "accuracy" else "The validation error"
    if len(validation) == 1:
        return f"{what} is {shown(value)} at its only measurement, iteration {best:,}."
    end = "the last measurement: longer training may help" if best >= validation["iteration"].max() else f"iteration {best:,} of {iterations:,}"
    return f"{what} goes from {shown(first[score])} at iteration {int(first['iteration']):,} to {shown(value)} at {end}."
