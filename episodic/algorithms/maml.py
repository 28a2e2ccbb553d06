"""Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017.
https://arxiv.org/abs/1703.03400

    theta_i = theta - inner_lr * grad L_i(theta; support_i)        repeated inner_steps times (equation 1)
    theta  <- Adam(theta, grad mean_i L_i(theta_i; query_i))       through the inner gradient: second order (algorithm 1)

Differs from the paper: the outer rate may follow a cosine; weights start from Glorot's uniform distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

from episodic import rules
from episodic.adapt import Inner, expand
from episodic.config import require
from episodic.ops import Params


@dataclass(frozen=True)
class Config:
    """inner_lr: size of an inner step; inner_steps: how many while training."""

    inner_lr: float = 0.4
    inner_steps: int = 1

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(self.inner_lr > 0, "inner_lr", self.inner_lr, "must be greater than 0")
        require(self.inner_steps >= 1, "inner_steps", self.inner_steps, "must be at least 1")


@dataclass(frozen=True)
class Maml:
    inner_lr: float
    inner_steps: int
    second_order: bool = True

    def init(self, theta: Params) -> Params:
        return theta

    def inner(self, meta: Params, tasks: int) -> Inner:
        return Inner(expand(meta, tasks), rules.sgd(self.inner_lr), self.second_order)


def build(config: Config) -> Maml:
    return Maml(config.inner_lr, config.inner_steps)
