"""MeLU: the decision layers adapt, the embeddings do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.config import NonNegativeFloat
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop
from episodic.engine.learner import MetaLearner

__all__ = ["MeLU"]


@dataclass(frozen=True)
class MeLU(GradientDescent):
    """Meta-learned user preference estimator (MeLU): the decision layers adapt.

        decision_i = decision - inner_lr * grad_decision L_i(embeddings, decision; support_i)
        both      <- Adam(both, grad mean_i L_i(embeddings, decision_i; query_i))     (algorithm 1)

    The embeddings do not adapt, in training or at test time. If the model has no embeddings, all
    parameters adapt, as in MAML.

    With `damping` lambda, a support set of n examples counts as n + lambda, of which lambda say
    that the initialization is right:

        L_i = (n mean_loss + lambda |decision_i - decision|^2) / (n + lambda)

    So one rating moves a prediction less than 20 do. For the squared error of a constant and an
    inner learning rate of 0.5, one step is the posterior mean: sum of errors / (n + lambda).

    Differs from the paper: embeddings and decision layers have the same outer learning rate, and
    the meta-gradient of both is second order (authors' code: first order, because it copies the
    adapted weights into the model). Validation and test take at least 3 inner steps (authors' code:
    one). `damping` and `head_steps` are additions.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        damping: lambda, in number of support examples; 0 for the paper's loss.
        head_steps: Number of first inner steps that adapt only the last layer and its bias.

    Source: Hoyeop Lee, Jinbae Im, Seongwon Jang, Hyunsouk Cho, Sehee Chung: MeLU: Meta-Learned User
    Preference Estimator for Cold-Start Recommendation, KDD 2019. https://arxiv.org/abs/1908.00413
    """

    damping: NonNegativeFloat = 0.0
    head_steps: Annotated[int, Ge(0), Le(10_000)] = 0

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        tables = getattr(learner.model, "tables", ())
        names = tuple(name for name in meta if name not in tables)
        inner = super().inner_loop(learner, meta, episode, progress)
        start = inner.theta
        size = episode.support_size
        n = episode.support_x.shape[1] if size is None else size
        sgd = inner_optimizers.sgd(self.inner_lr)

        def damped_loss(theta: Params, step: int) -> Tensor:
            distances = [(theta[name] - start[name]).square().flatten(1).sum(1) for name in names]
            pull = torch.stack(distances).sum(0)
            loss = n * learner.support_loss(theta, episode) + self.damping * pull
            return loss / (n + self.damping)

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            if step < self.head_steps:
                gradient = {name: g for name, g in gradient.items() if name in HEAD}
            return sgd(theta, gradient, step, loss)

        return inner._replace(
            adapted_names=names,
            loss=damped_loss if self.damping else inner.loss,
            update=update if self.head_steps else inner.update,
        )
