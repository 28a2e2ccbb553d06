"""MAML: model-agnostic meta-learning."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.engine.gradient_descent import GradientDescent

__all__ = ["MAML"]


@dataclass(frozen=True)
class MAML(GradientDescent):
    """Model-agnostic meta-learning (MAML).

        theta_i = theta - inner_lr * grad L_i(theta; support_i)      inner_steps times (equation 1)
        theta  <- Adam(theta, grad mean_i L_i(theta_i; query_i))     (algorithm 1)

    The meta-gradient backpropagates through the inner gradient, so it is second order.

    Differs from the paper: the outer learning rate may follow a cosine schedule. Weights are
    initialized with Glorot's uniform distribution. Validation and test take at least 3 inner steps,
    as the paper does for 5-way Omniglot after training with one.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.

    Source: Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast
    Adaptation of Deep Networks, ICML 2017. https://arxiv.org/abs/1703.03400
    """
