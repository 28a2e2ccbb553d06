"""A bag of features with learned embeddings, for text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from episodic.core.config import require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops import linear
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["BagOfFeatures"]


@dataclass(frozen=True)
class BagOfFeatures(ModelSpec):
    """A sum of feature embeddings, an MLP on it, and the features themselves.

        features = [s_1 x, s_2 h / |h|],     h = MLP(E x),     s_1, s_2 learned

    The input x contains features of a text, such as weighted n-grams. The columns of E are their
    embeddings. Including x itself helps with words that did not occur in training, for which no
    embedding was learned.

    Args:
        embedding: Embedding dimension.
        hidden: Sizes of the layers after the sum, with a ReLU before each.
        lexical: Whether the representation includes the features themselves.

    Source: Armand Joulin, Edouard Grave, Piotr Bojanowski, Tomas Mikolov: Bag of Tricks for
    Efficient Text Classification, 2017. https://arxiv.org/abs/1607.01759
    """

    embedding: Annotated[int, Ge(1), Le(65_536)] = 128
    hidden: tuple[Annotated[int, Ge(1), Le(65_536)], ...] = ()
    lexical: bool = True

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"text_features"})

    def build(self, input: tuple[int, ...], outputs: int) -> BagOfFeaturesModel:
        require(
            len(input) == 1,
            "input",
            list(input),
            "must be a vector of features for bag; use conv4 for images",
        )
        return BagOfFeaturesModel(self, input[0], outputs)


@dataclass(frozen=True)
class BagOfFeaturesModel:
    """The model of a `BagOfFeatures`.

    Parameters are `embedding.weight (embedding, in)`, `hidden0.weight (out, in)`, `hidden0.bias`,
    ..., `scale (2,)` (the logarithms of s_1 and s_2), `head.weight` and `head.bias`.

    Args:
        spec: The settings.
        input: Number of input features.
        outputs: Number of outputs; 0 for no head.
    """

    spec: BagOfFeatures
    input: int
    outputs: int

    @property
    def norm_names(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        last = self.spec.hidden[-1] if self.spec.hidden else self.spec.embedding
        return last + (self.input if self.spec.lexical else 0)

    def init(self, generator: torch.Generator) -> Params:
        size = self.spec.embedding
        weight = torch.empty(size, self.input).normal_(generator=generator) / math.sqrt(size)
        theta: Params = {"embedding.weight": weight}
        for i, out in enumerate(self.spec.hidden):
            theta |= {
                f"hidden{i}.weight": glorot_uniform(generator, out, size),
                f"hidden{i}.bias": torch.zeros(out),
            }
            size = out
        theta["scale"] = torch.tensor([math.log(10) / 2, math.log(3) / 2])
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        h = x @ theta["embedding.weight"].mT
        for i in range(len(self.spec.hidden)):
            h = linear(h.relu(), theta[f"hidden{i}.weight"], theta[f"hidden{i}.bias"])
        scale = theta["scale"].exp()[:, None]
        h = scale[..., 1:] * F.normalize(h, dim=-1, eps=1e-6)
        return torch.cat([scale[..., :1] * x, h], -1) if self.spec.lexical else h

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
