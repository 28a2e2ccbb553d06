"""Embeddings of features that are named and not measured, such as an item, its genres and a user's age, and decision layers on them.

    h = [sum of the embeddings of one side's features, for each side],    answer = MLP(h)

Sides are what a rating is about, as item and user. A sum over features is that of Maciej Kula: Metadata Embeddings for User and Item
Cold-start Recommendations, 2015 (https://arxiv.org/abs/1507.08439): an item that was never seen is still made of features that were. The
layers on it are those of MeLU (algorithm `melu`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from episodic import ops
from episodic.core.config import require
from episodic.core.model import HEAD, Params
from episodic.ops.head import classify, glorot, head


@dataclass(frozen=True)
class Config:
    """tokens: how many features are told apart, at least those of the data; embedding: length of a feature's; hidden: sizes of the decision
    layers, ReLU after each; start: the answer that training starts at (None: the mean target of training users; 0 where
    nobody knows it)."""

    tokens: int = 4096
    embedding: int = 32
    hidden: tuple[int, ...] = (64, 64)
    start: float | None = None

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        for key in ("tokens", "embedding"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        require(
            all(size >= 1 for size in self.hidden),
            "hidden",
            list(self.hidden),
            "must be sizes of at least 1",
        )
        require(
            self.start is None or abs(self.start) < 1e6,
            "start",
            self.start,
            "must be null or a number within 1e6",
        )


@dataclass(frozen=True)
class Embeddings:
    """Parameters `embedding.weight (tokens, embedding)`, `hidden0.weight (out, in)`, `hidden0.bias`, ..., `head.weight`, `head.bias`."""

    config: Config
    sides: int
    outputs: int

    tables = ("embedding.weight",)
    """What is no decision layer."""

    @property
    def norms(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.config.hidden[-1] if self.config.hidden else self.sides * self.config.embedding

    def init(self, generator: torch.Generator) -> Params:
        config = self.config
        theta: Params = {
            "embedding.weight": torch.empty(config.tokens, config.embedding).normal_(
                generator=generator
            )
            * 0.1
        }
        for i, (into, size) in enumerate(pairwise((self.sides * config.embedding, *config.hidden))):
            theta |= {
                f"hidden{i}.weight": glorot(generator, size, into),
                f"hidden{i}.bias": torch.zeros(size),
            }
        theta |= head(generator, self.width, self.outputs)
        if self.outputs:
            theta[HEAD[1]] += config.start or 0.0
        return theta

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        """x: int64 `(tasks, n, sides, features)`, 0 where there is no feature."""
        table = theta["embedding.weight"]
        h = (ops.embedding(x, table) * (x != 0).to(table.dtype)[..., None]).sum(3).flatten(2)
        for i in range(len(self.config.hidden)):
            h = ops.linear(h, theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"]).relu()
        return h

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))


def build(config: Config, input: tuple[int, ...], outputs: int) -> Embeddings:
    require(
        len(input) == 2,
        "input",
        list(input),
        "must be features of some sides, such as item and user, for embeddings",
    )
    return Embeddings(config, input[0], outputs)
