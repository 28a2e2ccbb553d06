"""First-order MAML: MAML that takes the inner gradient as a constant when it differentiates (Finn et al. 2017, section 5.2;
named and studied by Alex Nichol, Joshua Achiam, John Schulman: On First-Order Meta-Learning Algorithms, 2018).
https://arxiv.org/abs/1803.02999

    theta <- Adam(theta, mean_i grad L_i(theta_i; query_i))        the gradient at theta_i, not through it

Differs from the paper: as MAML.
"""

from __future__ import annotations

from episodic.engine.gradient_descent import Config, GradientMethod

__all__ = ["Config", "build"]


def build(config: Config) -> GradientMethod:
    return GradientMethod(config.inner_lr, config.inner_steps, second_order=False)
