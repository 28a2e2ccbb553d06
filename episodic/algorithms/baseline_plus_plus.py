"""The algorithm `baseline_plus_plus`."""

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
    """Pretraining with cosines, then a new cosine head for each task (Baseline++).

        p(y = k | x) = softmax_k(scale * cos(f(x), w_k))     (section 3.2)

    The classes are all training classes in training, and those of the task with new w_k at test
    time.

    Differs from the paper: the new w_k start at the class means of the support features and take
    full-batch gradient steps (there: a random start, 100 steps with momentum on mini-batches of 4,
    with weight decay); images are not augmented; `scale` is a parameter of the run (there: 2, or 10
    for more than 200 classes); batch norm uses the statistics of the batch in hand, at test time
    too (there: running averages).

    Args:
        inner_lr: Learning rate of the new head, in validation and at test time.
        inner_steps: Gradient steps of the new head, unless `evaluate.steps` says otherwise.
        scale: Factor of the cosines.

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
    """Cosines to new weights, on features that do not adapt."""

    any_ways: ClassVar[bool] = True

    @property
    def test_variant(self) -> NewCosineHead:
        return self

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand({name: p for name, p in meta.items() if name not in HEAD}, episode.tasks)
        support = learner.model.features(theta, episode.support_x)
        theta[HEAD[0]] = ops.class_means(support, episode.support_y, episode.classes)

        def loss(theta: Params, step: int) -> Tensor:
            return learner.objective.loss(
                self.scale * ops.cosine(support, theta[HEAD[0]]), episode.support_y
            )

        return InnerLoop(
            theta,
            loss,
            inner_optimizers.sgd(self.inner_lr),
            second_order=False,
            adapted_names=HEAD[:1],
        )
