"""TIM and alpha-TIM: a classifier that maximizes its information about the query set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import NonNegativeFloat, PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.normalized_features import NormalizedFeatures

__all__ = ["TIM"]

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
"""The defaults of Adam (Kingma and Ba, 2015)."""

PAPER_WEIGHTS = {"tim": 0.1, "alpha_tim": 1.0}
"""Weights of the cross-entropy and of the conditional entropy in the two papers."""


@dataclass(frozen=True)
class TIM(NormalizedFeatures):
    """Transductive information maximization by gradient descent (TIM-GD), and alpha-TIM.

    The classifier of a task is initialized with its class means. Adam minimizes the cross-entropy
    of the support set minus the mutual information of queries and labels:

        p_k(x) = softmax_k(-temperature / 2 ||w_k - z(x)||^2)
        loss = support_weight CE(support) - H(mean of p over queries)
               + conditional_weight (mean of H(p) over queries)

    H is the Shannon entropy for alpha = 1 (TIM). Its first occurrence prefers balanced predictions.
    For larger alpha, H is the Tsallis entropy, which tolerates unbalanced query sets (alpha-TIM):

        H(p) = (1 - sum_k p_k^alpha) / (alpha - 1)

    The optimization is part of prediction, since it needs the queries.

    Differs from the paper: training episodes are scored with the initial classifier, so no gradient
    passes through the optimization (both papers: the model is trained as a classifier of all
    training classes). Features can be centred.

    Args:
        centre: Whether to subtract the mean features of the training classes.
        alpha: Order of the entropies; 1 for TIM. Veilleux et al. use 2 for one shot and 7 for five.
        temperature: Inverse temperature of the softmax.
        support_weight: Weight of the cross-entropy. None: 0.1 for TIM and 1 for alpha-TIM.
        conditional_weight: Weight of the conditional entropy. None: likewise.
        learning_rate: Learning rate of Adam.
        gradient_steps: Steps of Adam for each task.

    Source: Malik Boudiaf, Ziko Imtiaz Masud, Jerome Rony, Jose Dolz, Pablo Piantanida, Ismail Ben
    Ayed: Transductive Information Maximization for Few-Shot Learning, NeurIPS 2020.
    https://arxiv.org/abs/2008.11297. Olivier Veilleux, Malik Boudiaf, Pablo Piantanida, Ismail Ben
    Ayed: Realistic Evaluation of Transductive Few-Shot Learning, NeurIPS 2021, section 4.
    https://arxiv.org/abs/2204.11181
    """

    centre: bool = False
    alpha: Annotated[float, Ge(1), Le(100)] = 1.0
    temperature: PositiveFloat = 15.0
    support_weight: NonNegativeFloat | None = None
    conditional_weight: NonNegativeFloat | None = None
    learning_rate: PositiveFloat = 1e-4
    gradient_steps: Annotated[int, Ge(0), Le(100_000)] = 1000

    transductive: ClassVar[bool] = True

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = self.normalize_features(learner, theta, episode, batch_norm)
        return self.logits(query, ops.class_means(support, episode.support_y, episode.classes))

    def logits(self, features: Tensor, weight: Tensor) -> Tensor:
        """Compute logits `(tasks, n, ways)` by the weight `(tasks, ways, width)`."""
        # Without ||z||^2, which is equal for all classes.
        bias = -0.5 * weight.square().sum(-1)
        return self.temperature * ops.linear(features, weight, bias)

    @property
    def test_variant(self) -> Algorithm:
        return OptimizedTIM(**vars(self))


@dataclass(frozen=True)
class OptimizedTIM(TIM):
    """TIM as it adapts to new tasks: with the optimization."""

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = self.normalize_features(learner, theta, episode, batch_norm)
        weight = ops.class_means(support, episode.support_y, episode.classes)
        weight = self._optimize(
            weight.detach(), support.detach(), episode.support_y, query.detach()
        )
        return self.logits(query, weight)

    def _optimize(
        self, weight: Tensor, support: Tensor, support_y: Tensor, query: Tensor
    ) -> Tensor:
        """Minimize the loss of each task by Adam, elementwise, so tasks do not interact."""
        features = torch.cat([support, query], 1)
        of_class = F.one_hot(support_y, weight.shape[1]).to(weight.dtype)
        mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2, eps = ADAM.values()
        for step in range(1, self.gradient_steps + 1):
            gradient = self.gradient(weight, features, of_class)
            mean.lerp_(gradient, 1 - beta1)
            square.lerp_(gradient.square_(), 1 - beta2)
            deviation = square.div(1 - beta2**step).sqrt_().add_(eps)
            weight = weight.addcdiv(mean, deviation, value=-self.learning_rate / (1 - beta1**step))
        return weight

    def gradient(self, weight: Tensor, features: Tensor, of_class: Tensor) -> Tensor:
        """Compute the gradient of the loss with respect to the classifier, in closed form.

        It is several times faster than automatic differentiation, which is dominated by overhead.

        Args:
            weight: The classifier `(tasks, ways, width)`.
            features: Normalized features, the n support examples first, `(tasks, n + m, width)`.
            of_class: 1 for the class of each support example and 0 otherwise, `(tasks, n, ways)`.

        Returns:
            `(tasks, ways, width)`.
        """
        default = PAPER_WEIGHTS["tim" if self.alpha == 1 else "alpha_tim"]
        support_weight, conditional_weight = (
            default if value is None else value
            for value in (self.support_weight, self.conditional_weight)
        )
        n, m = of_class.shape[1], features.shape[1] - of_class.shape[1]
        log_p = self.logits(features, weight).log_softmax(-1)
        p = log_p.exp()
        p_support, p_query = p[:, :n], p[:, n:]
        marginal = p_query.mean(1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
        # Derivatives of the loss by p of the queries, and from there by their logits.
        slope = conditional_weight * entropy_slope(log_p[:, n:], self.alpha)
        slope = (slope - entropy_slope(marginal.log(), self.alpha)) / m
        by_query = p_query * (slope - (p_query * slope).sum(-1, keepdim=True))
        by_logits = torch.cat([support_weight / n * (p_support - of_class), by_query], 1)
        total = by_logits.sum(1)[..., None]
        return self.temperature * (by_logits.mT @ features - total * weight)


def entropy_slope(log_p: Tensor, alpha: float) -> Tensor:
    """Compute the derivative of the Tsallis entropy of order alpha by each probability.

    Args:
        log_p: Logarithms of probabilities `(..., ways)`.
        alpha: The order, at least 1; 1 for the Shannon entropy in nats.

    Returns:
        `(..., ways)`.
    """
    if alpha == 1:
        return -log_p - 1
    return -alpha / (alpha - 1) * ((alpha - 1) * log_p).exp()
