"""Formats of numbers and names in reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

NBSP = "\u00a0"
BASELINES = {
    "chance": "chance",
    "pixel_centroid": "nearest class mean in pixels",
    "ngram_centroid": "nearest class mean of n-grams",
    "encoder_centroid": "nearest class mean of encoder embeddings",
    "tfidf_centroid": "nearest class mean of tf-idf vectors",
    "tfidf_logistic": "logistic regression on tf-idf vectors",
    "random_init": "fine-tuned from random weights",
    "global_mean": "global mean rating",
    "item_mean": "item mean",
    "shifted_item_mean": "item mean plus user offset",
    "factorization": "matrix factorization with fold-in",
    "feature_ridge": "biases of features plus ridge regression",
    "feature_factorization": "matrix factorization with features",
    "neighbours": "nearest neighbours of items",
    "ease": "EASE, which only ranks",
    "zero": "constant 0",
    "support_mean": "mean of the support set's targets",
}
"""Names of the baselines in metrics.json."""

DETECTION_SCORES = {
    "max_softmax": "largest probability",
    "energy": "energy",
    "mean_distance": "distance from the nearest class mean",
    "neighbour_distance": "distance from the K-th nearest example",
}
"""Names of the scores that detect unknown classes."""

NOTHING_TO_TRAIN = "There was nothing to train: none of the parameters is learned."


def name_baseline(key: str) -> str:
    """Return the name of a baseline of metrics.json."""
    return BASELINES.get(key, key)


def name_detection_score(key: str) -> str:
    """Return the name of a score that detects unknown classes."""
    return DETECTION_SCORES.get(key, key)


def name_score(score: str) -> str:
    """Return the name of a score for axes and table heads."""
    return "accuracy" if score == "accuracy" else "mean squared error"


def describe_queries(meta: dict[str, Any]) -> str:
    """Describe the query sets: `5 queries per class`, or how unbalanced they are.

    Args:
        meta: meta.json of data/prepared, of classification.
    """
    balance = meta.get("query_balance")
    if balance is None:
        return f"{format_count(meta['queries'], 'query', 'queries')} per class"
    queries = format_count(meta["ways"] * meta["queries"], "query", "queries")
    return f"{queries}, unbalanced (Dirichlet {balance:g})"


def describe_data(meta: dict[str, Any]) -> str:
    """Describe the data: the dataset, its split, and the pretrained encoder of its examples.

    Args:
        meta: meta.json of data/prepared.
    """
    data = describe_dataset(meta)
    encoder = name_encoder(meta)
    return data if encoder is None else f"{data}, features of the pretrained encoder {encoder}"


def describe_dataset(meta: dict[str, Any]) -> str:
    """Describe the dataset and its split.

    Args:
        meta: meta.json of data/prepared.
    """
    return f"{meta['dataset']} ({meta['protocol']})"


def name_encoder(meta: dict[str, Any]) -> str | None:
    """Return the name of the pretrained encoder whose features the examples are; None for none.

    Args:
        meta: meta.json of data/prepared.
    """
    encoder = meta.get("inputs", {}).get("encoder")
    return None if encoder is None else str(encoder["name"])


def choose_formatter(score: str) -> Callable[[float], str]:
    """Return the function that formats values of a score: `format_percent` or `format_number`."""
    return format_percent if score == "accuracy" else format_number


def format_percent(value: float, digits: int = 1) -> str:
    """Format a fraction: `98.2 %`."""
    return f"{100 * value:.{digits}f}{NBSP}%"


def format_number(value: float | None) -> str:
    """Format a squared error: three significant digits, without an exponent below a million."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def format_decimal(value: float, digits: int = 2) -> str:
    """Format a signed quantity, such as a correlation, with a proper minus sign: `−0.42`."""
    return f"{value:.{digits}f}".replace("-", "−")


def format_estimate(score: str, value: float, ci95: float | None = None) -> str:
    """Format a score with its interval: `98.2 % ± 0.3`, or `0.413 ± 0.007` for a squared error.

    Args:
        score: `accuracy` or `mse`.
        value: The score.
        ci95: Half-width of the 95 % interval; None or NaN for none.
    """
    if ci95 is None or not math.isfinite(ci95) or not math.isfinite(value):
        return choose_formatter(score)(value)
    if score == "accuracy":
        digits = 2 if 0 < ci95 < 0.0005 else 1
        return f"{format_percent(value, digits)} ± {100 * ci95:.{digits}f}"
    digits = 4 if ci95 < 0.0005 else 3 if ci95 < 0.05 else 2 if ci95 < 1 else 1 if ci95 < 10 else 0
    return f"{value:.{digits}f} ± {ci95:.{digits}f}"


def format_points(difference: float) -> str:
    """Format a difference of accuracies without its sign: `3.1 percentage points`."""
    size = 100 * abs(difference)
    if f"{size:.1f}" == "1.0":
        return "1 percentage point"
    return f"{size:.{0 if size >= 9.95 else 1}f} percentage points"


def format_p_value(p: float) -> str:
    """Format a p-value: `< 0.001`, `0.034` or `0.21`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def format_duration(seconds: float) -> str:
    """Format a duration: `95 s`, `12.9 min` or `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_count(number: float, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun: `1 step`, `1,000 episodes`."""
    return f"{int(number):,}{NBSP}{singular if number == 1 else plural or singular + 's'}"


def format_class_name(name: str, group: str) -> str:
    """Format the name of a class with its group, unless it starts with the group's name."""
    return name if not group or name.startswith(group) else f"{name} ({group})"


def join_words(items: Sequence[str]) -> str:
    """Join items into an enumeration: `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


_SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def spell_out(value: int) -> str:
    """Spell out the numbers up to ten."""
    return _SMALL[value] if 0 <= value < len(_SMALL) else f"{value:,}"
