"""Fine-tuning baseline: pretraining, then a new linear head for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.data.sampling import LabelScope
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.ops.head import apply_head

__all__ = ["FineTuning"]


@dataclass(frozen=True)
class FineTuning(Algorithm):
    """Pretraining, then a new linear head for each task (Baseline).

        training: one classifier over all training classes; a "task" is a mini-batch of `train.ways`
                  classes with `train.queries` images each
        test:     the body is frozen, and a new linear head is trained on the support set

    Differs from the paper: the new head is initialized with zeros and trained with full-batch
    gradient descent (paper: random initialization, 100 steps with momentum on mini-batches of 4,
    weight decay). Mini-batches contain equally many images of each of their classes. Images are
    augmented only if `train.augmentation` is set. Batch norm uses the statistics of the current
    batch, also at test time (paper: running averages).

    Args:
        inner_lr: Learning rate of the new head, in validation and at test time.
        inner_steps: Gradient steps of the new head, unless set by `evaluate.steps`.

    Source: Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Wang, Jia-Bin Huang: A Closer Look at
    Few-shot Classification, ICLR 2019 (Baseline). https://arxiv.org/abs/1904.04232
    """

    inner_lr: PositiveFloat = 0.1
    inner_steps: Steps = 50

    labels: ClassVar[LabelScope] = "split"
    regression: ClassVar[bool] = False

    @property
    def training_steps(self) -> int:
        return 0

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return classes

    @property
    def test_variant(self) -> NewLinearHead:
        return NewLinearHead(self.inner_lr, self.inner_steps)


@dataclass(frozen=True)
class NewLinearHead(Algorithm):
    """A new linear head on frozen features."""

    inner_lr: float
    inner_steps: int

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
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
            outputs = episode.mask_classes(apply_head(theta, support))
            return learner.objective.loss(outputs, episode.support_y, episode.support_size)

        return InnerLoop(
            theta, loss, inner_optimizers.sgd(self.inner_lr), second_order=False, adapted_names=HEAD
        )
