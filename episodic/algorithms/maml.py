"""Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017.
https://arxiv.org/abs/1703.03400

    theta_i = theta - inner_lr * grad L_i(theta; support_i)        repeated inner_steps times (equation 1)
    theta  <- Adam(theta, grad mean_i L_i(theta_i; query_i))       through the inner gradient: second order (algorithm 1)

Differs from the paper: the outer rate may follow a cosine; weights start from Glorot's uniform distribution.
"""

from __future__ import annotations

from episodic.engine.gradient_descent import Config, GradientMethod

__all__ = ["Config", "build"]


def build(config: Config) -> GradientMethod:
    return GradientMethod(config.inner_lr, config.inner_steps, second_order=True)
