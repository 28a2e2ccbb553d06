"""Yoon Kim: Convolutional Neural Networks for Sentence Classification, EMNLP 2014. https://arxiv.org/abs/1408.5882

    features = the maximum over places of relu(w * [e_i ... e_(i+k-1)] + b), for windows of several widths k (equations 2 to 4)

Differs from the paper: embeddings are learned from scratch with the rest, of subword tokens; no dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from episodic.core.config import require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops import embedding, linear
from episodic.ops.head import classify, glorot, head

__all__ = ["TextCNN"]


@dataclass(frozen=True)
class TextCNN(ModelSpec):
    """A convolutional network for sentences.

    Args:
        tokens: Size of the vocabulary, at least that of the data.
        embedding: Length of the embedding of a token.
        filters: Filters of each window.
        windows: Widths of the windows, in tokens.
    """

    tokens: Annotated[int, Ge(1), Le(10_000_000)] = 8192
    embedding: Annotated[int, Ge(1), Le(65_536)] = 64
    filters: Annotated[int, Ge(1), Le(4096)] = 64
    windows: Annotated[tuple[Annotated[int, Ge(1), Le(1024)], ...], MinLen(1)] = (1, 2, 3)

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"tokens"})

    def build(self, input: tuple[int, ...], outputs: int) -> TextCNNNetwork:
        require(
            len(input) == 1,
            "input",
            list(input),
            "must be a row of tokens for textcnn; use conv4 for images",
        )
        return TextCNNNetwork(self, input[0], outputs)


@dataclass(frozen=True)
class TextCNNNetwork:
    """Parameters `embedding.weight (tokens, embedding)`, `window0.weight (filters, k * embedding)`, `window0.bias`, ..., `head.weight`,
    `head.bias`."""

    spec: TextCNN
    length: int
    outputs: int

    @property
    def norm_names(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.spec.filters * len(self.spec.windows)

    def init(self, generator: torch.Generator) -> Params:
        spec = self.spec
        theta: Params = {
            "embedding.weight": torch.empty(spec.tokens, spec.embedding).normal_(
                generator=generator
            )
            / math.sqrt(spec.embedding)
        }
        for i, width in enumerate(spec.windows):
            theta |= {
                f"window{i}.weight": glorot(generator, spec.filters, width * spec.embedding),
                f"window{i}.bias": torch.zeros(spec.filters),
            }
        return theta | head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        tasks, n, length = x.shape
        there = (x != 0).to(theta["embedding.weight"].dtype)[..., None]
        e = embedding(x, theta["embedding.weight"]) * there
        found = []
        for i, width in enumerate(self.spec.windows):
            places = max(1, length - width + 1)
            padded = torch.cat([e, e.new_zeros(tasks, n, max(0, width - length), e.shape[-1])], 2)
            windows = torch.cat([padded[:, :, k : k + places] for k in range(width)], -1).flatten(
                1, 2
            )
            y = (
                linear(windows, theta[f"window{i}.weight"], theta[f"window{i}.bias"])
                .relu()
                .unflatten(1, (n, places))
            )
            found.append(
                (y * there[:, :, :places]).amax(2)
            )  # a window counts that begins within the sentence
        return torch.cat(found, -1)

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))
