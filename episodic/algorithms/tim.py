"""TIM and alpha-TIM: a classifier that maximizes its information about the query set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.normalized_features import NormalizedFeatures

__all__ = ["TIM"]

Weight = Annotated[float, Ge(0), Le(1e6)]

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
    support_weight: Weight | None = None
    conditional_weight: Weight | None = None
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
        mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2, eps = ADAM.values()
        for step in range(1, self.gradient_steps + 1):
            with torch.enable_grad():
                weight.requires_grad_()
                loss = self.loss(weight, support, support_y, query).sum()
                (gradient,) = torch.autograd.grad(loss, weight)
            mean = torch.lerp(gradient, mean, beta1)
            square = torch.lerp(gradient.square(), square, beta2)
            deviation = (square / (1 - beta2**step)).sqrt() + eps
            rate = self.learning_rate / (1 - beta1**step)
            weight = weight.detach() - rate * mean / deviation
        return weight

    def loss(self, weight: Tensor, support: Tensor, support_y: Tensor, query: Tensor) -> Tensor:
        """Compute the loss of each task.

        Args:
            weight: The classifier `(tasks, ways, width)`.
            support: Normalized features `(tasks, n, width)`.
            support_y: Labels, int64 `(tasks, n)`.
            query: Normalized features `(tasks, m, width)`.

        Returns:
            `(tasks,)`.
        """
        log_p = self.logits(query, weight).log_softmax(-1)
        marginal = log_p.logsumexp(1) - torch.log(log_p.new_tensor(log_p.shape[1]))
        of_class = support_y[..., None]
        log_support = self.logits(support, weight).log_softmax(-1)
        cross_entropy = -log_support.gather(-1, of_class).mean((1, 2))
        default = PAPER_WEIGHTS["tim" if self.alpha == 1 else "alpha_tim"]
        support_weight, conditional_weight = (
            default if value is None else value
            for value in (self.support_weight, self.conditional_weight)
        )
        return (
            support_weight * cross_entropy
            - entropy(marginal, self.alpha)
            + conditional_weight * entropy(log_p, self.alpha).mean(1)
        )


def entropy(log_p: Tensor, alpha: float) -> Tensor:
    """Compute the Tsallis entropy of order alpha; the Shannon entropy, in nats, for alpha = 1.

    Args:
        log_p: Logarithms of probabilities `(..., ways)`.
        alpha: The order, at least 1.

    Returns:
        `(...)`.
    """
    if alpha == 1:
        return -(log_p.exp() * log_p).sum(-1)
    return (1 - (alpha * log_p).exp().sum(-1)) / (alpha - 1)
