"""Calibration: probabilities that agree with frequencies, and how well they do.

An algorithm ranks the classes of a task by logits. Their scale is that of training, which says
little about new tasks, so it is fitted on validation episodes, or on left-out support examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core import float64
from episodic.core.config import require
from episodic.core.statistics import count_resamples

__all__ = [
    "Calibration",
    "CalibrationError",
    "Kind",
    "brier_scores",
    "fit_calibration",
    "measure_calibration_error",
    "negative_log_likelihoods",
]

Kind = Literal["temperature", "vector"]

BOUND = math.log(1e4)
"""Bound of |log T|, and of the other parameters."""

NEWTON_STEPS = 100
HALVINGS = 30
TOLERANCE = 1e-16
"""Newton's method ends when a step would lower the loss by less."""

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """A scaling of the logits of a task. The default changes nothing.

        p(y = k | x) = softmax_k(s_k^weight z_k(x) / temperature + bias log(s_k))

    s_k is the number of support examples of class k divided by the mean over the classes of the
    task. With equal shots, this is temperature scaling. In vector scaling, each class has a weight
    and a bias; the classes of a new task are new, so they are functions of what is known of them.

    Args:
        temperature: Divides the logits. Above 1, the model was too confident.
        weight: Exponent of s_k in the weight of class k.
        bias: Factor of log(s_k) in the bias of class k.

    Source: Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Q. Weinberger: On Calibration of Modern Neural
    Networks, ICML 2017, section 4.2. https://arxiv.org/abs/1706.04599
    """

    temperature: float = 1.0
    weight: float = 0.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        require(
            math.exp(-BOUND) / 2 < self.temperature < 2 * math.exp(BOUND),
            "temperature",
            self.temperature,
            "must be positive",
        )
        for key in ("weight", "bias"):
            value = getattr(self, key)
            require(abs(value) <= 2 * BOUND, key, value, "must be a small number")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Build the calibration that `to_json` described.

        Raises:
            ConfigError: A value is out of range.
            TypeError: A key is unknown, or a value is not a number.
        """
        return cls(**{key: float(value) for key, value in values.items()})

    def to_json(self) -> dict[str, float]:
        """Return the arguments as JSON-serializable values."""
        return asdict(self)

    def __call__(self, logits: Tensor, shots: Tensor | None = None) -> Tensor:
        """Scale logits.

        Args:
            logits: Logits `(..., n, ways)`.
            shots: Support examples of each class `(..., ways)`, 0 for an absent class. None: equal.

        Returns:
            `(..., n, ways)`.
        """
        theta = logits.new_tensor([-math.log(self.temperature), self.weight, self.bias])
        return _scale(theta, logits, _log_ratios(logits, shots))


def fit_calibration(
    logits: Tensor,
    y: Tensor,
    shots: Tensor | None = None,
    is_query: Tensor | None = None,
    kind: Kind = "temperature",
) -> Calibration:
    """Fit a calibration by the negative log-likelihood of labelled queries.

    All tasks have the same weight. As in Platt's method, the target for the probability of the true
    class is (n + 1) / (n + 2) for n queries, instead of 1: without errors, the best temperature
    would otherwise be 0.

    Args:
        logits: Logits `(tasks, n, ways)`, -inf for absent classes.
        y: Labels `(tasks, n)`.
        shots: Support examples of each class `(tasks, ways)`. None: equal.
        is_query: False where a query is padding `(tasks, n)`. None: there is none.
        kind: `temperature`, or `vector` to fit the weight and the bias too.

    Returns:
        The calibration with the lowest loss.

    Source: John Platt: Probabilistic outputs for support vector machines, 1999, section 2.2.
    """
    logits = float64.to_float64(logits)
    y = y.to(logits.device)
    ratios = _log_ratios(logits, shots)
    known = torch.ones_like(y, dtype=torch.bool) if is_query is None else is_query.to(y.device)
    weights = known / (known.sum(1, keepdim=True).clamp_min(1) * len(y))
    present = logits.isfinite()
    others = (present.sum(-1, keepdim=True) - 1).clamp_min(1)
    n = int(known.sum())
    is_true = F.one_hot(y.clamp_min(0), logits.shape[-1]).bool()
    target = torch.where(is_true, (n + 1) / (n + 2), 1 / (n + 2) / others) * present
    finite = torch.where(present, logits, 0)

    def loss(theta: Tensor) -> Tensor:
        scaled = _scale(theta, finite, ratios).masked_fill(~present, -torch.inf)
        logs = scaled.log_softmax(-1).masked_fill(~present, 0)
        return -(weights * (target * logs).sum(-1)).sum()

    free = 3 if kind == "vector" and bool((ratios != 0).any()) else 1
    theta = _minimize(loss, free, logits)
    return Calibration(math.exp(-float(theta[0])), float(theta[1]), float(theta[2]))


def _log_ratios(logits: Tensor, shots: Tensor | None) -> Tensor:
    """Compute log(s_k) `(..., 1, ways)`, 0 for absent classes."""
    if shots is None:
        return logits.new_zeros(logits.shape[-1])
    shots = shots.to(logits)
    mean = shots.sum(-1, keepdim=True) / (shots > 0).sum(-1, keepdim=True).clamp_min(1)
    return torch.where(shots > 0, shots / mean, 1).log()[..., None, :]


def _scale(theta: Tensor, logits: Tensor, ratios: Tensor) -> Tensor:
    """Scale logits by theta = (-log temperature, weight, bias)."""
    return logits * (theta[0] + theta[1] * ratios).exp() + theta[2] * ratios


def _minimize(loss: Callable[[Tensor], Tensor], free: int, like: Tensor) -> Tensor:
    """Minimize a loss of three parameters, of which the first ones are free, by Newton's method."""
    theta = like.new_zeros(3)
    for _ in range(NEWTON_STEPS):
        value = loss(theta)
        gradient = torch.autograd.functional.jacobian(loss, theta)[:free]  # type: ignore[no-untyped-call]
        hessian = torch.autograd.functional.hessian(loss, theta)  # type: ignore[no-untyped-call]
        hessian = hessian[:free, :free]
        values, vectors = torch.linalg.eigh(hessian)
        # The absolute values of the eigenvalues: a step never ascends where the loss is concave.
        step = vectors @ ((vectors.mT @ gradient) / values.abs().clamp_min(1e-9))
        if float(gradient @ step) < TOLERANCE:
            break
        step = step / max(1.0, float(step.abs().max()))
        for _ in range(HALVINGS):
            candidate = theta.clone()
            candidate[:free] = (theta[:free] - step).clamp(-BOUND, BOUND)
            if loss(candidate) <= value:
                break
            step = step / 2
        else:
            break
        theta = candidate
    return theta


def negative_log_likelihoods(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute -log of the probability of the true class.

    Args:
        probabilities: `(..., ways)`.
        y: Labels `(...)`.

    Returns:
        `(...)`, in nats. A probability of 0 counts as the smallest positive number.
    """
    true = np.take_along_axis(probabilities, y[..., None], -1)[..., 0]
    likelihoods: np.ndarray = -np.log(np.maximum(true, np.finfo(np.float64).tiny))
    return likelihoods


def brier_scores(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the sum of squared differences of probabilities from 1 for the true class, 0 else.

    Args:
        probabilities: `(..., ways)`.
        y: Labels `(...)`.

    Returns:
        `(...)`, from 0 to 2.

    Source: Glenn Brier: Verification of forecasts expressed in terms of probability, 1950.
    """
    target = y[..., None] == np.arange(probabilities.shape[-1])
    squares: np.ndarray = np.square(probabilities - target).sum(-1)
    return squares


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error and its reliability diagram.

    Attributes:
        error: Mean absolute difference of confidence and accuracy over the bins, weighted by their
            numbers of predictions (ECE).
        ci95: Half-width of its 95 % confidence interval.
        confidence: Mean confidence of each bin `(bins,)`.
        accuracy: Accuracy of each bin `(bins,)`.
        accuracy_low: Lower ends of the 95 % confidence intervals of the accuracy.
        accuracy_high: Upper ends.
        count: Predictions in each bin `(bins,)`.
        samples: The error in each resample of the bootstrap. Those of different predictions for the
            same episodes are paired.
    """

    error: float
    ci95: float
    confidence: np.ndarray
    accuracy: np.ndarray
    accuracy_low: np.ndarray
    accuracy_high: np.ndarray
    count: np.ndarray
    samples: np.ndarray


def measure_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, episode: np.ndarray, seed: int
) -> CalibrationError:
    """Compare the confidence of predictions with how many are correct.

    Bins have about equal numbers of predictions; equal confidences share a bin. Intervals are those
    of a bootstrap over episodes, since predictions of an episode are not independent.

    Args:
        confidence: Probability of the predicted class `(n,)`.
        correct: Whether the prediction is correct `(n,)`.
        episode: Index of the episode of each prediction `(n,)`.
        seed: Seed of the bootstrap.

    Source: Khanh Nguyen, Brendan O'Connor: Posterior calibration and exploratory analysis for
    natural language processing models, EMNLP 2015, section 3 (adaptive bins).
    https://arxiv.org/abs/1508.05154
    """
    edges = np.unique(np.quantile(confidence, np.arange(1, BINS) / BINS))
    of_bin = np.searchsorted(edges, confidence, "right")
    _, of_bin = np.unique(of_bin, return_inverse=True)
    bins, episodes = int(of_bin.max()) + 1, int(episode.max()) + 1
    cell = episode * bins + of_bin

    def add_up(values: np.ndarray | None) -> np.ndarray:
        return np.bincount(cell, values, episodes * bins).reshape(episodes, bins)

    counts, confidences, hits = add_up(None), add_up(confidence), add_up(correct.astype(float))
    weights = count_resamples(episodes, seed, "bootstrap of the calibration error")
    resampled = [weights @ table for table in (counts, confidences, hits)]
    errors = np.abs(resampled[1] - resampled[2]).sum(1) / resampled[0].sum(1)
    accuracies = np.divide(
        resampled[2], resampled[0], np.full_like(resampled[0], np.nan), where=resampled[0] > 0
    )
    accuracy_low, accuracy_high = np.nanquantile(accuracies, (0.025, 0.975), axis=0)
    count, total, hit = (table.sum(0) for table in (counts, confidences, hits))
    error = float(np.abs(total - hit).sum() / count.sum())
    return CalibrationError(
        error,
        float(1.96 * errors.std(ddof=1)),
        total / count,
        hit / count,
        accuracy_low,
        accuracy_high,
        count,
        errors,
    )
