"""The algorithm `meta_lstm`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["MetaLSTM"]

P = 10.0
LSTM = "lstm."
"""Before the names of what the method learns beside theta_0."""


@dataclass(frozen=True)
class MetaLSTM(Algorithm):
    """Sachin Ravi, Hugo Larochelle: Optimization as a Model for Few-Shot Learning (the LSTM meta-learner), ICLR 2017.
    https://openreview.net/forum?id=rJY0-Kcll

        theta_t = f_t * theta_{t-1} - i_t * grad L_t                                              (equation 2, cell = parameters)
        i_t = sigmoid(W_I [h_t, theta_{t-1}, i_{t-1}] + b_I),  f_t = sigmoid(W_F [h_t, theta_{t-1}, f_{t-1}] + b_F)

    h_t is the output of a first LSTM that sees each coordinate's gradient and the loss, both as (log|x| / p, sign x) or, where |x| < exp(-p),
    as (-1, exp(p) x), p = 10 (section 3.2). All coordinates share the weights of both layers; theta_0, the cell's initial state, is
    learned with them. Losses and gradients are taken as constants (section 3.3). Support sets are seen in mini-batches.

    Differs from the paper: batch norm takes the statistics of the batch in hand while it adapts; for the query set, `train.batch_norm:
    inductive` takes those of the task's own support set (there: running averages within each task); gradients are clipped entry by entry.

    Args:
        inner_lr: Initial value of the input gates, as the learning rate of a gradient step.
        inner_steps: Number of updates in training.
        batch: Support examples per update; None for the whole support set.
        hidden: Units of the first LSTM.
    """

    inner_lr: Annotated[float, Gt(0), Lt(1)] = 0.02
    inner_steps: Steps = 8
    batch: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    hidden: Annotated[int, Ge(1), Le(4096)] = 20

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        def small(*shape: int) -> Tensor:
            return torch.empty(shape).uniform_(-0.01, 0.01, generator=generator)

        layers = {
            "first.weight": small(4 * self.hidden, 4 + self.hidden),
            "first.bias": small(4 * self.hidden),
            "forget.weight": small(1, self.hidden + 2),
            "forget.bias": torch.full((1,), 5.0),  # f near 1
            "input.weight": small(1, self.hidden + 2),
            "input.bias": torch.full((1,), math.log(self.inner_lr / (1 - self.inner_lr))),
        }
        return theta | {LSTM + name: p for name, p in layers.items()}

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        whole = expand(meta, episode.tasks)
        theta = {name: p for name, p in whole.items() if not name.startswith(LSTM)}
        moved, sizes = tuple(theta), [p[0].numel() for p in theta.values()]
        shape = (episode.tasks, sum(sizes))
        zeros = whole[moved[0]].new_zeros(*shape, self.hidden)
        state = {
            "state.h": zeros,
            "state.c": zeros,
            "state.forget": zeros[..., 0],
            "state.input": zeros[..., 0],
        }

        def flat(part: Params) -> Tensor:
            return torch.cat([part[name].flatten(1) for name in moved], 1)

        def gate(name: str, h: Tensor, cell: Tensor, before: Tensor) -> Tensor:
            seen = torch.cat([h, cell[..., None], before[..., None]], -1)
            return ops.linear(seen, whole[f"{LSTM}{name}.weight"], whole[f"{LSTM}{name}.bias"])[
                ..., 0
            ].sigmoid()

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            cell, g = flat(theta), flat(gradient).detach()
            seen = torch.cat(
                [preprocessed(g), preprocessed(loss.detach()[:, None]).expand(-1, g.shape[1], -1)],
                -1,
            )
            h, c = ops.lstm(
                seen,
                theta["state.h"],
                theta["state.c"],
                whole[LSTM + "first.weight"],
                whole[LSTM + "first.bias"],
            )
            f, i = (
                gate("forget", h, cell, theta["state.forget"]),
                gate("input", h, cell, theta["state.input"]),
            )
            after = (f * cell - i * g).split(sizes, 1)
            result = {
                name: part.view(theta[name].shape) for name, part in zip(moved, after, strict=True)
            }
            return result | {"state.h": h, "state.c": c, "state.forget": f, "state.input": i}

        def loss(theta: Params, step: int) -> Tensor:
            x, y, size = episode.support_batch(step, self.batch)
            return learner.objective.loss(learner.model(theta, x), y, size)

        return InnerLoop(theta | state, loss, update, second_order=False, adapted_names=moved)


def preprocessed(x: Tensor) -> Tensor:
    """`(...)` -> `(..., 2)`: magnitude and sign on comparable scales (Andrychowicz et al. 2016, appendix A)."""
    large = x.abs() >= math.exp(-P)
    magnitude = torch.where(large, x.abs().clamp_min(math.exp(-P)).log() / P, -1.0)
    return torch.stack([magnitude, torch.where(large, x.sign(), math.exp(P) * x)], -1)
