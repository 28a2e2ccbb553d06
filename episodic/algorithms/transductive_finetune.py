"""Transductive fine-tuning: pretraining, then fine-tuning on the support set and the queries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core.config import NonNegativeFloat, PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.data.sampling import LabelScope
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import Steps
from episodic.engine.inner import InnerLoop, adapted_parameters, expand
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.ops.head import apply_head

__all__ = ["TransductiveFineTuning"]


@dataclass(frozen=True)
class TransductiveFineTuning(Algorithm):
    """Pretraining, then fine-tuning on the support set and the unlabelled query set.

        z(x) = scale * (f(x) - m) / ||f(x) - m||,     p = softmax(W z(x) + b)
        min  mean cross-entropy of the support set
             + entropy_weight * mean Shannon entropy of p on the query set     (equation 8)

    m is the mean of f over both sets of the task. Without it, features that are all similar, such
    as those after a ReLU, let the entropy assign all queries to one class.

    In training, there is one linear classifier of all training classes. At test time, a new head
    starts with the normalized class means of the support set and b = 0 (section 3.1,
    support-based initialization). The head and all parameters of the model are then fine-tuned per
    task. Predictions of a query depend on the other queries.

    Differs from the paper: each step follows the sum of both terms on the whole sets (paper: one
    step each), and Adam has no momentum. Features are centred and have length `scale` (paper:
    neither), and they are the input of the last layer of the model (paper: the logits of the
    pretrained classifier). The head has a larger learning rate than the body (paper: 5e-5 for
    all). Batch norm uses the statistics of the current batch (paper: running averages).

    Args:
        learning_rate: Learning rate of the head.
        body_learning_rate: Learning rate of all other parameters; 0 if they stay as they are.
        gradient_steps: Steps of Adam for each task.
        entropy_weight: Weight of the entropy of the query set.
        scale: Length of the normalized features, the inverse temperature of the initial cosines.
        centre: Whether to subtract the mean features of the task. Without centring and with an
            entropy weight of 0, predictions are inductive.

    Source: Guneet Dhillon, Pratik Chaudhari, Avinash Ravichandran, Stefano Soatto: A Baseline for
    Few-Shot Image Classification, ICLR 2020. https://arxiv.org/abs/1909.02729
    """

    learning_rate: PositiveFloat = 0.003
    body_learning_rate: NonNegativeFloat = 5e-5
    gradient_steps: Steps = 25
    entropy_weight: NonNegativeFloat = 1.0
    scale: PositiveFloat = 5.0
    centre: bool = True

    labels: ClassVar[LabelScope] = "split"
    regression: ClassVar[bool] = False
    transductive: ClassVar[bool] = True

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return classes

    @property
    def test_variant(self) -> NewTransductiveHead:
        return NewTransductiveHead(**asdict(self))


@dataclass(frozen=True)
class NewTransductiveHead(TransductiveFineTuning):
    """A new head, fine-tuned with the model when the query set is known."""

    any_ways: ClassVar[bool] = True

    @property
    def test_variant(self) -> NewTransductiveHead:
        return self

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        body = {name: p for name, p in meta.items() if name not in HEAD}
        return InnerLoop(expand(body, episode.tasks))

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        def embed(theta: Params) -> tuple[Tensor, Tensor]:
            support, query = learner.apply_to_both(
                learner.model.features, theta, episode, batch_norm
            )
            if self.centre:
                mean = torch.cat([support, query], 1).mean(1, keepdim=True)
                support, query = support - mean, query - mean
            return self.scale * F.normalize(support, dim=-1), self.scale * F.normalize(
                query, dim=-1
            )

        with torch.no_grad():
            fixed = embed(theta)
            means = ops.class_means(fixed[0], episode.support_y, episode.classes)
            weight = F.normalize(means, dim=-1)
        head = dict(zip(HEAD, (weight, torch.zeros_like(weight[..., 0])), strict=True))
        body = theta if self.body_learning_rate else {}

        def outputs(theta: Params) -> tuple[Tensor, Tensor]:
            support, query = embed(theta) if body else fixed
            return apply_head(theta, support), apply_head(theta, query)

        def loss(theta: Params, step: int) -> Tensor:
            support, query = outputs(theta)
            logs = query.log_softmax(-1)
            entropy = -(logs.exp() * logs).sum(-1).mean(1)
            return (
                learner.objective.loss(support, episode.support_y) + self.entropy_weight * entropy
            )

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            for names, rate in ((head, self.learning_rate), (body, self.body_learning_rate)):
                selected = {name: gradient[name] for name in names}
                theta = inner_optimizers.adam(rate)(theta, selected, step, loss)
            return theta

        start = body | head
        squares = {inner_optimizers.SQUARE + name: torch.zeros_like(p) for name, p in start.items()}
        inner = InnerLoop(
            start | squares, loss, update, second_order=False, adapted_names=tuple(start)
        )
        with torch.enable_grad():
            adapted = adapted_parameters(inner, self.gradient_steps)
        with torch.no_grad():
            return outputs(adapted)[1]
