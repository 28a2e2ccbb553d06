"""MAML++: MAML with five improvements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from episodic.core.config import Fraction, PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["MAMLPlusPlus"]

RATE = "rate."
"""Prefix of the names of the learned learning rates `(inner_steps,)`, one tensor per layer."""

MIN_WEIGHT_FRACTION = 0.03
"""Lower bound on the loss weights of early steps during annealing, as a fraction of the initial
weight. The value is that of the authors' code."""


@dataclass(frozen=True)
class MAMLPlusPlus(Algorithm):
    """MAML with five improvements, each of which can be turned off (MAML++).

        multi-step loss             sum_k w_k L_i(theta_k; query_i), with w annealed from equal
                                    weights to only the last step (MSL)
        derivative-order annealing  first order for a fraction of training, then second order (DA)
        per-step batch norm         scales and shifts for each of theta_0 ... theta_K, learned in
                                    the outer loop (BNWB, BNRS)
        learned learning rates      one for each layer and step (LSLR)
        cosine annealing            of the outer learning rate: `train.schedule` (CA)

    Differs from the paper: per-step scales and shifts do not adapt in the inner loop. Support and
    query sets at theta_k use the same ones (paper: the query set after a step uses those of that
    step). Batch norm uses the statistics of the current batch and keeps no running averages, which
    the authors' code keeps but does not use. Steps beyond the number used in training take the
    rates and scales of the last step. A rate is shared by the weight and the bias of a layer, as in
    the paper (authors' code: one rate per tensor). The authors' Omniglot configuration has max
    pooling, and is second order from the start (`first_order: 0`).

    Args:
        inner_lr: Initial value of the inner learning rates.
        inner_steps: Number of inner steps in training.
        multi_step_loss: Fraction of training during which the losses after all steps are weighted.
        first_order: Fraction of training that is first order.
        per_step_norm: Whether each inner step has separate batch norm scales and shifts.
        learned_rates: Whether each layer and step has a learned learning rate.

    Source: Antreas Antoniou, Harrison Edwards, Amos Storkey: How to train your MAML, ICLR 2019,
    section 4. https://arxiv.org/abs/1810.09502
    """

    inner_lr: PositiveFloat = 0.1
    inner_steps: Steps = 5
    multi_step_loss: Fraction = 0.1
    first_order: Fraction = 0.5
    per_step_norm: bool = True
    learned_rates: bool = True

    scheduled: ClassVar[bool] = True

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        steps = self.inner_steps
        if self.per_step_norm:
            theta = {
                name: p.expand(steps + 1, -1).clone() if name in model.norm_names else p
                for name, p in theta.items()
            }
        if self.learned_rates:
            theta |= {
                RATE + _layer(name): torch.full((steps,), self.inner_lr)
                for name in self._adapted_names(theta, model)
            }
        return theta

    def _adapted_names(self, theta: Params, model: Model) -> tuple[str, ...]:
        return tuple(
            name
            for name in theta
            if not name.startswith(RATE) and not (self.per_step_norm and name in model.norm_names)
        )

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        expanded, last = expand(meta, episode.tasks), self.inner_steps - 1
        per_step = set(learner.model.norm_names) if self.per_step_norm else set()
        theta = {
            name: p[:, 0] if name in per_step else p
            for name, p in expanded.items()
            if not name.startswith(RATE)
        }

        def rate(name: str, step: int, g: Tensor) -> Tensor | float:
            if not self.learned_rates:
                return self.inner_lr
            return expanded[RATE + _layer(name)][:, min(step, last)].view(-1, *[1] * (g.dim() - 1))

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            after = {name: theta[name] - rate(name, step, g) * g for name, g in gradient.items()}
            return after | {name: expanded[name][:, min(step, last) + 1] for name in per_step}

        second_order = progress >= self.first_order
        return InnerLoop(
            theta,
            lambda theta, step: learner.support_loss(theta, episode),
            update,
            second_order,
            self._adapted_names(theta, learner.model),
        )

    def query_loss_weights(self, progress: float) -> tuple[float, ...] | None:
        steps = self.inner_steps
        if progress >= self.multi_step_loss:
            return None
        early = max(1 - progress / self.multi_step_loss, MIN_WEIGHT_FRACTION) / steps
        return (0.0, *[early] * (steps - 1), 1 - early * (steps - 1))


def _layer(name: str) -> str:
    return name.rsplit(".", 1)[0]
