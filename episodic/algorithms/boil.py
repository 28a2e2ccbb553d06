"""BOIL: only the body adapts in the inner loop."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop
from episodic.engine.learner import MetaLearner

__all__ = ["BOIL"]


@dataclass(frozen=True)
class BOIL(GradientDescent):
    """Body only update in the inner loop (BOIL): the body adapts, the head does not.

        body_i = body - inner_lr * grad_body L_i(body, head; support_i)

    The head is learned in the outer loop.

    Differs from the paper: validation and test take at least 3 inner steps, also after training
    with one. The paper and the authors' code take as many as in training: `evaluate.steps: 1`.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.

    Source: Jaehoon Oh, Hyungjun Yoo, ChangHwan Kim, Se-Young Yun: BOIL: Towards Representation
    Change for Few-shot Learning, ICLR 2021. https://arxiv.org/abs/2008.08882
    """

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        return (
            super()
            .inner_loop(learner, meta, episode, progress)
            ._replace(adapted_names=tuple(name for name in meta if name not in HEAD))
        )
