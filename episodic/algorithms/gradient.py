"""What the methods share that adapt by gradient steps on the support loss."""

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
        require(0 < self.inner_lr < float("inf"), "inner_lr", self.inner_lr, "must be a number greater than 0")
        require(self.inner_steps >= 1, "inner_steps", self.inner_steps, "must be at least 1")


@dataclass(frozen=True)
class GradientMethod:
    """All parameters move by gradient descent at one rate; `second_order`: the meta-gradient sees through the inner gradient."""

    inner_lr: float
    inner_steps: int
    second_order: bool

    def init(self, theta: Params) -> Params:
        return theta

    def inner(self, meta: Params, tasks: int) -> Inner:
        return Inner(expand(meta, tasks), rules.sgd(self.inner_lr), self.second_order)
