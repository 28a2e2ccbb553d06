"""The LSTM meta-learner: an LSTM as the inner optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["MetaLSTM"]

LOG_SCALE = 10.0
"""The constant p in the preprocessing of gradients and losses."""

LSTM = "lstm."
"""Prefix of the names of the parameters of the LSTM."""


@dataclass(frozen=True)
class MetaLSTM(Algorithm):
    """The LSTM meta-learner: the inner optimizer is an LSTM whose cell state is theta.

        theta_t = f_t * theta_{t-1} - i_t * grad L_t                     (equation 2)
        i_t = sigmoid(W_I [h_t, theta_{t-1}, i_{t-1}] + b_I)
        f_t = sigmoid(W_F [h_t, theta_{t-1}, f_{t-1}] + b_F)

    h_t is the output of a first LSTM, whose inputs are the preprocessed gradient of each coordinate
    and the preprocessed loss (section 3.2). All coordinates share the weights of both LSTMs. The
    initial cell state theta_0 is learned with them. Losses and gradients are treated as constants
    (section 3.3). Each update uses a mini-batch of the support set.

    Differs from the paper: in the inner loop, batch norm uses the statistics of the current batch.
    With `train.batch_norm: inductive`, the query set is normalized by the statistics of the support
    set (paper: running averages within each task). Gradients are clipped element by element. The
    gate biases start at 5 and at the logit of inner_lr (authors' code: uniform in [4, 5] and
    [-5, -4], so inner_lr is between .007 and .018). The default is 8 updates with the whole support
    set, as in the authors' 5-shot configuration. Their 1-shot configuration takes 12. The gates
    receive the previous gates as in the paper (authors' code: their values before the sigmoid). The
    authors' code also divides the gradient of the mean loss by the number of examples.

    Args:
        inner_lr: Initial value of the input gates, which act as the learning rate.
        inner_steps: Number of updates in training.
        batch: Support examples per update; None for the whole support set.
        hidden: Units of the first LSTM.

    Source: Sachin Ravi, Hugo Larochelle: Optimization as a Model for Few-Shot Learning, ICLR 2017.
    https://openreview.net/forum?id=rJY0-Kcll
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
        expanded = expand(meta, episode.tasks)
        theta = {name: p for name, p in expanded.items() if not name.startswith(LSTM)}
        names, sizes = tuple(theta), [p[0].numel() for p in theta.values()]
        zeros = expanded[names[0]].new_zeros(episode.tasks, sum(sizes), self.hidden)
        state = {
            "state.h": zeros,
            "state.c": zeros,
            "state.forget": zeros[..., 0],
            "state.input": zeros[..., 0],
        }

        def layer(name: str) -> tuple[Tensor, Tensor]:
            return expanded[f"{LSTM}{name}.weight"], expanded[f"{LSTM}{name}.bias"]

        def flatten(tensors: Params) -> Tensor:
            return torch.cat([tensors[name].flatten(1) for name in names], 1)

        def gate(name: str, h: Tensor, cell: Tensor, before: Tensor) -> Tensor:
            inputs = torch.cat([h, cell[..., None], before[..., None]], -1)
            return ops.linear(inputs, *layer(name))[..., 0].sigmoid()

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            cell, g = flatten(theta), flatten(gradient).detach()
            loss_inputs = preprocess(loss.detach()[:, None]).expand(-1, g.shape[1], -1)
            inputs = torch.cat([preprocess(g), loss_inputs], -1)
            h, c = ops.lstm(inputs, theta["state.h"], theta["state.c"], *layer("first"))
            f = gate("forget", h, cell, theta["state.forget"])
            i = gate("input", h, cell, theta["state.input"])
            values = torch.split(f * cell - i * g, sizes, 1)
            after = {
                name: value.view(theta[name].shape)
                for name, value in zip(names, values, strict=True)
            }
            return after | {"state.h": h, "state.c": c, "state.forget": f, "state.input": i}

        def loss(theta: Params, step: int) -> Tensor:
            x, y, size = episode.support_batch(step, self.batch)
            return learner.objective.loss(learner.model(theta, x), y, size)

        return InnerLoop(theta | state, loss, update, second_order=False, adapted_names=names)


def preprocess(x: Tensor) -> Tensor:
    """Separate magnitude and sign: `(...)` -> `(..., 2)`.

    The result is (log|x| / p, sign x), or (-1, exp(p) x) where |x| < exp(-p).

    Source: Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, 2016,
    appendix A.
    """
    p = LOG_SCALE
    large = x.abs() >= math.exp(-p)
    magnitude = torch.where(large, x.abs().clamp_min(math.exp(-p)).log() / p, -1.0)
    return torch.stack([magnitude, torch.where(large, x.sign(), math.exp(p) * x)], -1)
