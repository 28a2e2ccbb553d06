"""Unknown classes: scores of how familiar a query is, and the choice of one on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import require
from episodic.core.statistics import count_resamples

__all__ = [
    "DISTANCES",
    "SCORES",
    "Detection",
    "SelectiveAccuracy",
    "UnknownDetector",
    "choose_detector",
    "feature_distances",
    "find_threshold",
    "logit_scores",
    "measure_detection",
    "measure_selective_accuracy",
    "squared_distances",
]

SCORES = ("max_softmax", "energy", "mean_distance", "neighbour_distance")
"""Scores of the familiarity of a query. Higher is more familiar.

- `max_softmax`: the largest class probability (Hendrycks, Gimpel: A Baseline for Detecting
  Misclassified and Out-of-Distribution Examples in Neural Networks, 2017).
- `energy`: the logarithm of the sum of the exponentials of the calibrated logits (Liu et al.:
  Energy-based Out-of-distribution Detection, 2020).
- `mean_distance`: the negative squared distance of the features from the nearest class mean.
- `neighbour_distance`: the negative squared distance from the K-th nearest support example, with
  the shots K of the smallest class (Sun et al.: Out-of-Distribution Detection with Deep Nearest
  Neighbors, 2022).

The unit of distances is the mean squared distance between the class means of a task.
"""

DISTANCES = SCORES[2:]
"""The scores that depend on features."""

TRUE_POSITIVE_RATE = 0.95
PURPOSE = "bootstrap of the unknown classes"
"""Purpose of the random numbers: the same resamples for all scores, which pairs them."""
BINS = 1000
"""Bins of the scores in the bootstrap, with about equal numbers of queries."""

SELECTIVE_STEPS = 20


@dataclass(frozen=True)
class UnknownDetector:
    """A query is of an unknown class if its score is below a threshold.

    Args:
        score: One of `SCORES`.
        threshold: The smallest score of a query of a known class.
    """

    score: str
    threshold: float

    def __post_init__(self) -> None:
        require(self.score in SCORES, "score", self.score, f"must be one of {', '.join(SCORES)}")
        require(np.isfinite(self.threshold), "threshold", self.threshold, "must be a number")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UnknownDetector:
        """Build the detector that `to_json` described.

        Raises:
            ConfigError: A value is out of range.
            KeyError, TypeError, ValueError: A key is missing, or a value is not a number.
        """
        return cls(str(values["score"]), float(values["threshold"]))

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values."""
        return asdict(self)


def logit_scores(logits: Tensor) -> dict[str, Tensor]:
    """Compute the scores that depend on calibrated logits.

    Args:
        logits: `(..., ways)`, -inf for classes that a task does not have.

    Returns:
        `max_softmax` and `energy`, each `(...)`.
    """
    energy = logits.logsumexp(-1)
    return {"max_softmax": (logits.amax(-1) - energy).exp(), "energy": energy}


def feature_distances(
    support: Tensor,
    support_y: Tensor,
    query: Tensor,
    ways: int,
    support_mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the scores that depend on features.

    Args:
        support: Features of the support set `(tasks, n, ...)`.
        support_y: Labels `(tasks, n)`.
        query: Features of the queries `(tasks, m, ...)`.
        ways: Number of classes. A task may have fewer.
        support_mask: False for padding of the support set `(tasks, n)`. None: there is none.

    Returns:
        `mean_distance` and `neighbour_distance`, each `(tasks, m)`.
    """
    support, query = support.flatten(2), query.flatten(2)
    one_hot = F.one_hot(support_y, ways).to(support.dtype)
    if support_mask is not None:
        one_hot = one_hot * support_mask[..., None]
    shots = one_hot.sum(1)
    has_class = shots > 0
    means = one_hot.mT @ support / shots.clamp_min(1)[..., None]
    pairs = (
        has_class[:, :, None]
        & has_class[:, None]
        & ~torch.eye(ways, dtype=torch.bool).to(shots.device)
    )
    between = (squared_distances(means, means) * pairs).sum((1, 2)) / pairs.sum((1, 2))
    unit = between.clamp_min(torch.finfo(between.dtype).tiny)[:, None]
    to_means = squared_distances(query, means).masked_fill(~has_class[:, None], torch.inf)
    to_examples = squared_distances(query, support)
    if support_mask is not None:
        to_examples = to_examples.masked_fill(~support_mask[:, None], torch.inf)
    smallest = shots.masked_fill(~has_class, torch.inf).amin(1).long()
    position = (smallest - 1)[:, None, None].expand(-1, query.shape[1], 1)
    neighbour = to_examples.sort(-1).values.gather(-1, position)[..., 0]
    return {
        "mean_distance": -to_means.amin(-1) / unit,
        "neighbour_distance": -neighbour / unit,
    }


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute squared distances `(tasks, n, m)` without the cancellation of their expansion.

    Args:
        a: Features `(tasks, n, width)`.
        b: Features `(tasks, m, width)`.
    """
    if torch.compiler.is_exporting():  # ONNX has no function for cdist
        return (a[:, :, None] - b[:, None]).square().sum(-1)
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


class Detection(NamedTuple):
    """How well a score separates queries of known classes from others.

    Attributes:
        auroc: Area under the ROC curve: how often a query of a known class has the higher score.
        auroc_ci95: Half-width of its 95 % confidence interval.
        fpr: Share of unknown queries that are accepted at a threshold that accepts 95 % of those of
            known classes.
        fpr_ci95: Half-width of its 95 % confidence interval.
        auroc_samples: The area in each resample of the bootstrap. Those of different scores of the
            same queries are paired.
    """

    auroc: float
    auroc_ci95: float
    fpr: float
    fpr_ci95: float
    auroc_samples: np.ndarray


def measure_detection(
    score: np.ndarray, is_known: np.ndarray, episode: np.ndarray, seed: int
) -> Detection:
    """Measure how well one threshold for all tasks separates known from unknown classes.

    Intervals are those of a bootstrap over episodes.

    Args:
        score: Score of each query `(n,)`; higher is more familiar.
        is_known: Whether its class is one of the episode `(n,)`.
        episode: Index of its episode `(n,)`.
        seed: Seed of the bootstrap.
    """
    known, unknown = np.sort(score[is_known]), np.sort(score[~is_known])
    below = np.searchsorted(unknown, known, "left") + np.searchsorted(unknown, known, "right")
    auroc = float(below.mean() / (2 * len(unknown)))
    threshold = known[len(known) - int(np.ceil(TRUE_POSITIVE_RATE * len(known) - 1e-9))]
    fpr = float((unknown >= threshold).mean())
    bins, count = _find_bins(score)
    weights = count_resamples(int(episode.max()) + 1, seed, PURPOSE)
    known_counts = weights @ _count(episode[is_known], bins[is_known], weights.shape[1], count)
    others = weights @ _count(episode[~is_known], bins[~is_known], weights.shape[1], count)
    both = (known_counts.sum(1) > 0) & (others.sum(1) > 0)  # false in resamples of few episodes
    known_counts, others = known_counts[both], others[both]
    total_known, total_unknown = known_counts.sum(1), others.sum(1)
    lower = others.cumsum(1) - others / 2
    areas = (known_counts * lower).sum(1) / (total_known * total_unknown)
    accepted = known_counts[:, ::-1].cumsum(1)[:, ::-1] / total_known[:, None]
    first = (accepted >= TRUE_POSITIVE_RATE - 1e-9).sum(1) - 1  # the highest such bin
    rates = 1 - (others.cumsum(1) - others)[np.arange(len(first)), first] / total_unknown
    return Detection(
        auroc, float(1.96 * areas.std(ddof=1)), fpr, float(1.96 * rates.std(ddof=1)), areas
    )


def choose_detector(
    scores: Mapping[str, np.ndarray], is_known: np.ndarray, episode: np.ndarray, seed: int
) -> UnknownDetector:
    """Choose a score and its threshold on validation episodes.

    The score is the one with the largest area under the ROC curve, if a paired bootstrap over
    episodes shows that it is better than the largest class probability; otherwise it is the latter.
    The threshold has the largest difference of the shares of known and of unknown queries that are
    accepted (Youden's index).

    Args:
        scores: Each of `SCORES`, `(n,)`.
        is_known: As for `measure_detection`.
        episode: As for `measure_detection`.
        seed: Seed of the bootstrap.
    """
    measured = {name: measure_detection(scores[name], is_known, episode, seed) for name in SCORES}
    baseline = measured[SCORES[0]]
    chosen = max(SCORES, key=lambda name: measured[name].auroc)
    difference = measured[chosen].auroc_samples - baseline.auroc_samples
    if np.quantile(difference, 0.025) <= 0:
        chosen = SCORES[0]
    return UnknownDetector(chosen, find_threshold(scores[chosen], is_known))


def find_threshold(score: np.ndarray, is_known: np.ndarray) -> float:
    """Find the threshold with the largest Youden index, between two scores.

    Args:
        score: Score of each query `(n,)`; higher is more familiar.
        is_known: Whether its class is one of the episode `(n,)`.
    """
    values = np.unique(score)
    known, unknown = np.sort(score[is_known]), np.sort(score[~is_known])
    index = np.searchsorted(unknown, values, "left") / len(unknown) - np.searchsorted(
        known, values, "left"
    ) / len(known)
    best = int(index.argmax())
    return float(values[best] if best == 0 else (values[best - 1] + values[best]) / 2)


class SelectiveAccuracy(NamedTuple):
    """The accuracy if only the most familiar queries are answered.

    Attributes:
        answered: Shares of the queries that are answered `(steps,)`.
        accuracy: Accuracy of the answers. Queries of unknown classes have no right answer.
        low: Lower ends of the 95 % confidence intervals.
        high: Upper ends.
    """

    answered: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measure_selective_accuracy(
    score: np.ndarray, correct: np.ndarray, episode: np.ndarray, seed: int
) -> SelectiveAccuracy:
    """Compute the accuracy-coverage curve, with intervals of a bootstrap over episodes.

    Args:
        score: Score of each query `(n,)`; higher is more familiar.
        correct: Whether its prediction is correct `(n,)`.
        episode: Index of its episode `(n,)`.
        seed: Seed of the bootstrap.

    Source: Yonatan Geifman, Ran El-Yaniv: Selective Classification for Deep Neural Networks, 2017.
    """
    shares = np.arange(1, SELECTIVE_STEPS + 1) / SELECTIVE_STEPS
    order = np.argsort(-score, kind="stable")
    sizes = np.ceil(shares * len(score) - 1e-9).astype(int)
    accuracy = correct[order].cumsum()[sizes - 1] / sizes
    step = np.empty(len(score), int)  # the first share with which a query is answered
    step[order] = np.searchsorted(sizes, np.arange(1, len(score) + 1))
    weights = count_resamples(int(episode.max()) + 1, seed, PURPOSE)
    counts, hits = (
        (weights @ _count(episode, step, weights.shape[1], len(shares), values)).cumsum(1)
        for values in (None, correct.astype(float))
    )
    sampled = np.divide(hits, counts, np.full_like(hits, np.nan), where=counts > 0)
    low, high = np.nanquantile(sampled, (0.025, 0.975), axis=0)
    return SelectiveAccuracy(shares, accuracy, low, high)


def _find_bins(score: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the bin of each score, and the number of bins."""
    edges = np.unique(np.quantile(score, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, score, "right"), len(edges) + 1


def _count(
    episode: np.ndarray,
    cell: np.ndarray,
    episodes: int,
    cells: int,
    values: np.ndarray | None = None,
) -> np.ndarray:
    """Add up values by episode and cell, `(episodes, cells)`; the values are 1 if None."""
    total = np.bincount(episode * cells + cell, values, episodes * cells)
    return total.reshape(episodes, cells).astype(float)
