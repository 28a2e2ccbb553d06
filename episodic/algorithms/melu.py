"""The algorithm `melu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop

if TYPE_CHECKING:
    from episodic.engine.learner import MetaLearner

__all__ = ["MeLU"]


@dataclass(frozen=True)
class MeLU(GradientDescent):
    """Hoyeop Lee, Jinbae Im, Seongwon Jang, Hyunsouk Cho, Sehee Chung: MeLU: Meta-Learned User Preference Estimator for Cold-Start
    Recommendation, KDD 2019. https://arxiv.org/abs/1908.00413

        decision_i = decision - inner_lr * grad_decision L_i(embeddings, decision; support_i)    the embeddings stay, in training and at test
        both      <- Adam(both, grad mean_i L_i(embeddings, decision_i; query_i))                (algorithm 1)

    Of a model without embeddings all moves: that is MAML.

    Differs from the paper: one outer rate for embeddings and decision layers, and the second order kept for both.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.
    """

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        tables = getattr(learner.model, "tables", ())
        return (
            super()
            .inner_loop(learner, meta, episode, progress)
            ._replace(adapted_names=tuple(name for name in meta if name not in tables))
        )
