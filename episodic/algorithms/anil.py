"""The algorithm `anil`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine import gradient_descent, inner_optimizers
from episodic.engine.inner import InnerLoop, expand
from episodic.ops.head import classify

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["ANIL"]


@dataclass(frozen=True)
class ANIL(gradient_descent.GradientDescent):
    """Aniruddh Raghu, Maithra Raghu, Samy Bengio, Oriol Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the
    Effectiveness of MAML, ICLR 2020. https://arxiv.org/abs/1909.09157

        head_i = head - inner_lr * grad_head L_i(body, head; support_i)     the body stays, in training and at test

    NIL (section 5): no inner loop at test; a query's class is the one whose support features it is most similar to,
    argmax_c sum_{i of class c} cos(f(query), f(support_i)).

    Differs from the paper: nothing known. The support features are computed once, since the body does not move.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
        test: `head` adapts the head at test too; `nil` takes no inner steps there.
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
                classify(theta, theta["support"]), episode.support_y, episode.support_size
            )

        return InnerLoop(theta, loss, inner_optimizers.sgd(self.inner_lr), adapted_names=HEAD)

    @property
    def test_variant(self) -> gradient_descent.Algorithm:
        return (
            NIL()
            if self.test == "nil"
            else replace(self, inner_steps=max(self.inner_steps, gradient_descent.LEAST_STEPS))
        )


class NIL(gradient_descent.Algorithm):
    """ANIL's network without an inner loop."""

    any_ways: ClassVar[bool] = True

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        member = torch.nn.functional.one_hot(episode.support_y, episode.classes).to(query.dtype)
        return ops.cosine(query, support) @ member
