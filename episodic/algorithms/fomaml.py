"""FOMAML: MAML without second-order terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from episodic.engine.gradient_descent import GradientDescent

__all__ = ["FOMAML"]


@dataclass(frozen=True)
class FOMAML(GradientDescent):
    """First-order MAML (FOMAML): MAML with the inner gradient treated as a constant.

        theta <- Adam(theta, mean_i grad L_i(theta_i; query_i))     the gradient at theta_i

    Differs from the paper: in the same points as `MAML`.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.

    Source: Finn et al. 2017, section 5.2; named and studied by Alex Nichol, Joshua Achiam, John
    Schulman: On First-Order Meta-Learning Algorithms, 2018. https://arxiv.org/abs/1803.02999
    """

    second_order: ClassVar[bool] = False
