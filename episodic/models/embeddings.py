"""Embeddings of categorical features, for ratings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from episodic import ops
from episodic.core.config import Setting, require
from episodic.core.model import HEAD, ExampleKind, ModelSpec, Params
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["Embeddings"]


@dataclass(frozen=True)
class Embeddings(ModelSpec):
    """Embeddings of categorical features, summed per field, followed by decision layers.

        h = [sum of the embeddings of a field's features, for each field],     output = MLP(h)

    Features are categorical, such as an item, its genres and the age of a user. Fields are the
    entities of a rating, such as item and user. Items that did not occur in training still have
    features that did. The MLP forms the decision layers of MeLU (algorithm `melu`).

    Args:
        tokens: Number of distinct features, at least that of the dataset.
        embedding: Embedding dimension.
        hidden: Sizes of the decision layers, with a ReLU after each.
        start: Initial output; None for the mean target of the training users (0 if unknown).

    Source: Maciej Kula: Metadata Embeddings for User and Item Cold-start Recommendations, 2015 (the
    sum over features). https://arxiv.org/abs/1507.08439
    """

    tokens: Annotated[int, Ge(1), Le(10_000_000)] = 4096
    embedding: Annotated[int, Ge(1), Le(65_536)] = 32
    hidden: tuple[Annotated[int, Ge(1), Le(65_536)], ...] = (64, 64)
    start: Annotated[float, Gt(-1e6), Lt(1e6)] | None = None

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"categorical"})

    @property
    def vocabulary(self) -> Setting:
        return Setting("tokens", self.tokens)

    def build(self, input: tuple[int, ...], outputs: int) -> EmbeddingsModel:
        require(
            len(input) == 2,
            "input",
            list(input),
            "must be (fields, features) for embeddings, such as those of item and user",
        )
        return EmbeddingsModel(self, input[0], outputs)


@dataclass(frozen=True)
class EmbeddingsModel:
    """The model of an `Embeddings`.

    Parameters are `embedding.weight (tokens, embedding)`, `hidden0.weight (out, in)`,
    `hidden0.bias`, ..., `head.weight` and `head.bias`.

    Args:
        spec: The settings.
        fields: Number of fields.
        outputs: Number of outputs; 0 for no head.
    """

    spec: Embeddings
    fields: int
    outputs: int

    tables = ("embedding.weight",)
    """Parameters that are not decision layers."""

    @property
    def norm_names(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.spec.hidden[-1] if self.spec.hidden else self.fields * self.spec.embedding

    def init(self, generator: torch.Generator) -> Params:
        spec = self.spec
        weight = torch.empty(spec.tokens, spec.embedding).normal_(generator=generator) * 0.1
        theta: Params = {"embedding.weight": weight}
        for i, (inputs, size) in enumerate(pairwise((self.fields * spec.embedding, *spec.hidden))):
            theta |= {
                f"hidden{i}.weight": glorot_uniform(generator, size, inputs),
                f"hidden{i}.bias": torch.zeros(size),
            }
        theta |= init_head(generator, self.width, self.outputs)
        if self.outputs:
            theta[HEAD[1]] += spec.start or 0.0
        return theta

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        # x is int64 (tasks, n, fields, features), 0 where there is no feature.
        table = theta["embedding.weight"]
        h = (ops.embedding(x, table) * (x != 0).to(table.dtype)[..., None]).sum(3).flatten(2)
        for i in range(len(self.spec.hidden)):
            h = ops.linear(h, theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"]).relu()
        return h

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
