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

EMBEDDING, BIAS = "embedding.weight", "feature.bias"
"""Names of the tables of embeddings and of biases."""


@dataclass(frozen=True)
class Embeddings(ModelSpec):
    """Embeddings of categorical features, summed per field, followed by decision layers.

        e_k = sum of the embeddings of the features of field k,     output = MLP([e_1, e_2, ...])

    Features are categorical, such as an item, its genres and the age of a user. Fields are the
    entities of a rating, such as item and user. Items that did not occur in training still have
    features that did. The MLP forms the decision layers of MeLU (algorithm `melu`).

    With `additive`, the model is a factorization machine over fields plus the decision layers:

        output = start + sum of the biases of all features + sum_{k<l} <e_k, e_l> + MLP([e_1, ...])

    The last layer then starts at 0, so that an untrained model predicts the regularized means from
    which training starts. Without hidden layers its input is the embedding of the first field, the
    item: the embedding of a user is the same for all items and would repeat the biases.

    Args:
        tokens: Number of distinct features, at least that of the dataset.
        embedding: Embedding dimension.
        hidden: Sizes of the decision layers, with a ReLU after each.
        additive: Whether to add biases of features and dot products of fields to the output.
        start: Initial output; None for the mean target of the training users (0 if unknown).

    Sources: Maciej Kula: Metadata Embeddings for User and Item Cold-start Recommendations, 2015
    (the sum over features). https://arxiv.org/abs/1507.08439. Steffen Rendle: Factorization
    Machines, ICDM 2010, equation 1.
    """

    tokens: Annotated[int, Ge(1), Le(10_000_000)] = 4096
    embedding: Annotated[int, Ge(1), Le(65_536)] = 32
    hidden: tuple[Annotated[int, Ge(1), Le(65_536)], ...] = (64, 64)
    additive: bool = False
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

    Parameters are `embedding.weight (tokens, embedding)`, `feature.bias (tokens,)` if the model is
    additive, `hidden0.weight (out, in)`, `hidden0.bias`, ..., `head.weight` and `head.bias`.

    Args:
        spec: The settings.
        fields: Number of fields.
        outputs: Number of outputs; 0 for no head.
    """

    spec: Embeddings
    fields: int
    outputs: int

    tables = (EMBEDDING, BIAS)
    """Parameters that are not decision layers."""

    @property
    def norm_names(self) -> tuple[str, ...]:
        return ()

    @property
    def _inputs(self) -> int:
        """Dimension of the input of the decision layers."""
        only_first = self.spec.additive and not self.spec.hidden
        return self.spec.embedding * (1 if only_first else self.fields)

    @property
    def width(self) -> int:
        return self.spec.hidden[-1] if self.spec.hidden else self._inputs

    def init(self, generator: torch.Generator) -> Params:
        spec = self.spec
        weight = torch.empty(spec.tokens, spec.embedding).normal_(generator=generator) * 0.1
        theta: Params = {EMBEDDING: weight}
        for i, (inputs, size) in enumerate(pairwise((self._inputs, *spec.hidden))):
            theta |= {
                f"hidden{i}.weight": glorot_uniform(generator, size, inputs),
                f"hidden{i}.bias": torch.zeros(size),
            }
        theta |= init_head(generator, self.width, self.outputs)
        if spec.additive:
            theta[BIAS] = torch.zeros(spec.tokens)
        if self.outputs:
            theta[HEAD[1]] += spec.start or 0.0
            if spec.additive:
                theta[HEAD[0]].zero_()
        return theta

    def start_at(self, biases: Tensor, embeddings: Tensor) -> Params:
        """Return initial values of the tables of an additive model.

        Args:
            biases: Biases of features `(tokens,)`.
            embeddings: Embeddings of features `(tokens, embedding)`.
        """
        return {BIAS: biases, EMBEDDING: embeddings}

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return self._decide(theta, _sum_features(theta[EMBEDDING], x))

    def _decide(self, theta: Params, fields: Tensor) -> Tensor:
        """Apply the hidden layers to embedded fields `(tasks, n, fields, embedding)`."""
        h = fields.flatten(2)[..., : self._inputs]
        for i in range(len(self.spec.hidden)):
            h = ops.linear(h, theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"]).relu()
        return h

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        fields = _sum_features(theta[EMBEDDING], x)
        outputs = apply_head(theta, self._decide(theta, fields))
        if not self.spec.additive:
            return outputs
        # The dot products of all pairs of fields: half of |sum|^2 - sum of squares.
        products = (fields.sum(2).square() - fields.square().sum(2)).sum(-1, keepdim=True) / 2
        return outputs + products + _sum_features(theta[BIAS][..., None], x).sum(2)


def _sum_features(table: Tensor, x: Tensor) -> Tensor:
    """Sum the rows of a table per field: int64 `(tasks, n, fields, features)`, 0 for no feature.

    Returns:
        `(tasks, n, fields, width)`.
    """
    return (ops.embedding(x, table) * (x != 0).to(table.dtype)[..., None]).sum(3)
