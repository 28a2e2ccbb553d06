"""Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Wang, Jia-Bin Huang: A Closer Look at Few-shot Classification, ICLR 2019
(Baseline++). https://arxiv.org/abs/1904.04232

    p(y = k | x) = softmax_k(scale * cos(f(x), w_k))      in training over all training classes, at test with new w_k (section 3.2)

Differs from the paper: the new w_k start at the class means of the support features and take full-batch gradient steps (there: a random
start, 100 steps of momentum on mini-batches of 4 with weight decay); images are not augmented; `scale` is a parameter of the run (there 2,
or 10 for more than 200 classes); batch norm takes the statistics of the images in hand, at test too (there: running averages).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from episodic import ops
from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine import gradient_descent, inner_optimizers
from episodic.engine.inner import Inner, expand

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner


@dataclass(frozen=True)
class Config(gradient_descent.Config):
    """inner_lr, inner_steps: of the new head, in validation and (unless `evaluate.steps` says otherwise) at test. scale: of the cosines."""

    inner_lr: float = 0.1
    inner_steps: int = 50
    scale: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.scale < math.inf, "scale", self.scale, "must be a number greater than 0")


@dataclass(frozen=True)
class BaselinePlusPlus(gradient_descent.Algorithm):
    config: Config

    labels = "split"
    regression = False

    def outputs_of_model(self, ways: int, classes: int) -> int:
        return classes

    def outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        query = learner.on_query(learner.model.features, theta, episode, batch_norm)
        return self.config.scale * ops.cosine(query, theta[HEAD[0]])

    @property
    def at_test(self) -> NewHead:
        return NewHead(self.config)


@dataclass(frozen=True)
class NewHead(BaselinePlusPlus):
    """Cosines to new weights, on features that stay."""

    any_ways = True

    @property
    def inner_steps(self) -> int:  # type: ignore[override]
        return self.config.inner_steps

    @property
    def at_test(self) -> NewHead:
        return self

    def inner(self, learner: MetaLearner, meta: Params, episode: Episode, progress: float) -> Inner:
        theta = expand({name: p for name, p in meta.items() if name not in HEAD}, episode.tasks)
        support = learner.model.features(theta, episode.support_x)
        theta[HEAD[0]] = ops.class_means(support, episode.support_y, episode.classes)

        def loss(theta: Params, step: int) -> Tensor:
            return learner.objective.loss(
                self.config.scale * ops.cosine(support, theta[HEAD[0]]), episode.support_y
            )

        return Inner(
            theta,
            loss,
            inner_optimizers.sgd(self.config.inner_lr),
            second_order=False,
            moved=HEAD[:1],
        )


def build(config: Config) -> BaselinePlusPlus:
    return BaselinePlusPlus(config)
