"""Baseline++: pretraining, then a new cosine-similarity head for each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.data.sampling import LabelScope
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["BaselinePlusPlus"]


@dataclass(frozen=True)
class BaselinePlusPlus(Algorithm):
    """Pretraining with a cosine-similarity head, then a new head for each task (Baseline++).

        p(y = k | x) = softmax_k(scale * cos(f(x), w_k))     (section 3.2)

    In training, the classes are all training classes. At test time, they are those of the task,
    with new weights w_k.

    Differs from the paper: the new weights are initialized with the class means of the support
    features and trained with full-batch gradient descent (paper: random initialization, 100 steps
    with momentum on mini-batches of 4, weight decay). Images are augmented only if
    `train.augmentation` is set. `scale` is a setting (paper: 2, or 10 for more than 200 classes).
    Batch norm uses the statistics of the current batch, also at test time (paper: running
    averages). Outputs are scaled cosines, as in the paper. The authors' code also multiplies them
    by a learned norm per class, in pretraining and in the new head.

    Args:
        inner_lr: Learning rate of the new head, in validation and at test time.
        inner_steps: Gradient steps of the new head, unless set by `evaluate.steps`.
        scale: Scale (inverse temperature) of the cosine similarities.

    Source: Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Wang, Jia-Bin Huang: A Closer Look at
    Few-shot Classification, ICLR 2019 (Baseline++). https://arxiv.org/abs/1904.04232
    """

    inner_lr: PositiveFloat = 0.1
    inner_steps: Steps = 50
    scale: PositiveFloat = 10.0

    labels: ClassVar[LabelScope] = "split"
    regression: ClassVar[bool] = False

    @property
    def training_steps(self) -> int:
        return 0

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return classes

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        query = learner.apply_to_query(learner.model.features, theta, episode, batch_norm)
        return self.scale * ops.cosine(query, theta[HEAD[0]])

    @property
    def test_variant(self) -> NewCosineHead:
        return NewCosineHead(self.inner_lr, self.inner_steps, self.scale)


@dataclass(frozen=True)
class NewCosineHead(BaselinePlusPlus):
    """A new cosine-similarity head on frozen features."""

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True

    @property
    def test_variant(self) -> NewCosineHead:
        return self

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand({name: p for name, p in meta.items() if name not in HEAD}, episode.tasks)
        support = learner.model.features(theta, episode.support_x)
        theta[HEAD[0]] = ops.class_means(
            support, episode.support_y, episode.classes, episode.support_size
        )

        def loss(theta: Params, step: int) -> Tensor:
            outputs = episode.mask_classes(self.scale * ops.cosine(support, theta[HEAD[0]]))
            return learner.objective.loss(outputs, episode.support_y, episode.support_size)

        return InnerLoop(
            theta,
            loss,
            inner_optimizers.sgd(self.inner_lr),
            second_order=False,
            adapted_names=HEAD[:1],
        )
