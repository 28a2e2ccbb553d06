"""MeLU: the decision layers adapt, the embeddings do not."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop
from episodic.engine.learner import MetaLearner

__all__ = ["MeLU"]


@dataclass(frozen=True)
class MeLU(GradientDescent):
    """Meta-learned user preference estimator (MeLU): the decision layers adapt.

        decision_i = decision - inner_lr * grad_decision L_i(embeddings, decision; support_i)
        both      <- Adam(both, grad mean_i L_i(embeddings, decision_i; query_i))     (algorithm 1)

    The embeddings do not adapt, in training or at test time. If the model has no embeddings, all
    parameters adapt, as in MAML.

    Differs from the paper: embeddings and decision layers have the same outer learning rate, and
    the meta-gradient of both is second order (authors' code: first order, because it copies the
    adapted weights into the model). Validation and test take at least 3 inner steps (authors' code:
    one).

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.

    Source: Hoyeop Lee, Jinbae Im, Seongwon Jang, Hyunsouk Cho, Sehee Chung: MeLU: Meta-Learned User
    Preference Estimator for Cold-Start Recommendation, KDD 2019. https://arxiv.org/abs/1908.00413
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
