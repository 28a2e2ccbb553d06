"""ANIL: only the head adapts in the inner loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine import inner_optimizers
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.ops.head import apply_head

__all__ = ["ANIL"]


@dataclass(frozen=True)
class ANIL(GradientDescent):
    """Almost no inner loop (ANIL): only the head adapts.

        head_i = head - inner_lr * grad_head L_i(body, head; support_i)

    The body does not adapt, in training or at test time. NIL (section 5) has no inner loop at test
    time: it predicts the class whose support features are most similar to those of the query,
    argmax_c sum_{i of class c} cos(f(query), f(support_i)).

    Differs from the paper: the features of the support set are computed only once, because the body
    does not adapt, which changes no result. The head takes at least 3 inner steps in validation and
    at test time.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        test: `head` also adapts the head at test time; `nil` takes no inner steps at test time.

    Source: Aniruddh Raghu, Maithra Raghu, Samy Bengio, Oriol Vinyals: Rapid Learning or Feature
    Reuse? Towards Understanding the Effectiveness of MAML, ICLR 2020.
    https://arxiv.org/abs/1909.09157
    """

    test: Literal["head", "nil"] = "head"

    @property
    def regression(self) -> bool:  # type: ignore[override]
        return self.test != "nil"

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        theta |= {"support": learner.model.features(theta, episode.support_x)}

        def loss(theta: Params, step: int) -> Tensor:
            return learner.objective.loss(
                apply_head(theta, theta["support"]), episode.support_y, episode.support_size
            )

        return InnerLoop(theta, loss, inner_optimizers.sgd(self.inner_lr), adapted_names=HEAD)

    @property
    def test_variant(self) -> Algorithm:
        return NIL() if self.test == "nil" else super().test_variant


class NIL(Algorithm):
    """The model of ANIL without an inner loop."""

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        one_hot = F.one_hot(episode.support_y, episode.classes).to(query.dtype)
        return ops.cosine(query, support) @ episode.mask_padding(one_hot)
