"""Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Wang, Jia-Bin Huang: A Closer Look at Few-shot Classification, ICLR 2019
(Baseline). https://arxiv.org/abs/1904.04232

    training: one classifier over all training classes; a "task" is a mini-batch of `train.ways` classes, `train.queries` images each
    test:     the body stays, a new linear head is trained on the support set

Differs from the paper: the new head starts at 0 and takes full-batch gradient steps (there: a random start, 100 steps of momentum on
mini-batches of 4 with weight decay); mini-batches hold as many images of each of their classes, and images are not augmented; batch norm
takes the statistics of the images in hand, at test too (there: running averages).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine import gradient_descent, inner_optimizers
from episodic.engine.inner import Inner, expand
from episodic.ops.head import classify

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner


@dataclass(frozen=True)
class Config(gradient_descent.Config):
    """inner_lr, inner_steps: of the new head, in validation and (unless `evaluate.steps` says otherwise) at test."""

    inner_lr: float = 0.1
    inner_steps: int = 50


@dataclass(frozen=True)
class Finetune(gradient_descent.Algorithm):
    config: Config

    labels = "split"
    regression = False

    def outputs_of_model(self, ways: int, classes: int) -> int:
        return classes

    @property
    def at_test(self) -> NewHead:
        return NewHead(self.config.inner_lr, self.config.inner_steps)


@dataclass(frozen=True)
class NewHead(gradient_descent.Algorithm):
    """A linear head on features that stay."""

    inner_lr: float
    inner_steps: int = 1

    any_ways = True

    def inner(self, learner: MetaLearner, meta: Params, episode: Episode, progress: float) -> Inner:
        theta = expand({name: p for name, p in meta.items() if name not in HEAD}, episode.tasks)
        support = learner.model.features(theta, episode.support_x)
        weight = torch.zeros(
            episode.tasks,
            episode.classes,
            support.shape[-1],
            dtype=support.dtype,
            device=support.device,
        )
        theta |= dict(zip(HEAD, (weight, weight[..., 0]), strict=True))

        def loss(theta: Params, step: int) -> Tensor:
            return learner.objective.loss(classify(theta, support), episode.support_y)

        return Inner(
            theta, loss, inner_optimizers.sgd(self.inner_lr), second_order=False, moved=HEAD
        )


def build(config: Config) -> Finetune:
    return Finetune(config)
