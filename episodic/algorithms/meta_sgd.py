"""Meta-SGD: MAML with per-parameter learned learning rates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import MetaLearner

__all__ = ["MetaSGD"]

RATE = "rate."
"""Prefix of the names of the learned learning rates. Rates may become negative."""


@dataclass(frozen=True)
class MetaSGD(GradientDescent):
    """Meta-SGD: MAML with per-parameter learned learning rates.

        theta_i = theta - alpha * grad L_i(theta; support_i)     (equation 2)

    alpha has the shape of theta, and the product is elementwise.

    Differs from the paper: all learning rates are initialized with inner_lr (paper: sampled from
    [0.005, 0.1]). The inner loop may take several steps, at least 3 in validation and at test time
    (paper: one).

    Args:
        inner_lr: Initial value of all learning rates.
        inner_steps: Number of inner steps in training.

    Source: Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li: Meta-SGD: Learning to Learn Quickly for
    Few-Shot Learning, 2017. https://arxiv.org/abs/1707.09835
    """

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | {RATE + name: torch.full_like(p, self.inner_lr) for name, p in theta.items()}

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = {name: p for name, p in meta.items() if not name.startswith(RATE)}
        alpha = expand({name: meta[RATE + name] for name in theta}, episode.tasks)

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            return {
                name: torch.addcmul(theta[name], alpha[name], g, value=-1)
                for name, g in gradient.items()
            }

        return super().inner_loop(learner, theta, episode, progress)._replace(update=update)
