"""Base class of algorithms that solve for a linear head on features."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine.learner import Algorithm, MetaLearner

__all__ = ["LinearHead"]


class LinearHead(Algorithm):
    """Base class of algorithms that compute a linear head from the features of the support set.

    The outputs are features @ weight + bias. The model has no head of its own, so the number of
    classes of a task is arbitrary.
    """

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        weight, bias = self.solve_head(theta, support, episode)
        return query @ weight + bias

    @abstractmethod
    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        """Solve for the head, as in `Algorithm.solve_head`."""
