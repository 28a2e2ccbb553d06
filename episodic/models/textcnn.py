"""TextCNN: a convolutional model for sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from episodic.core.config import Setting, require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops import embedding, linear
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["TextCNN"]


@dataclass(frozen=True)
class TextCNN(ModelSpec):
    """A convolutional model for sentences (TextCNN).

        features = max over positions i of relu(w * [e_i ... e_(i+k-1)] + b)     (equations 2 to 4)

    Windows have several widths k.

    Differs from the paper: embeddings of subword tokens are learned from scratch. There is no
    dropout.

    Args:
        tokens: Size of the vocabulary, at least that of the dataset.
        embedding: Embedding dimension.
        filters: Number of filters per window width.
        windows: Widths of the windows, in tokens.

    Source: Yoon Kim: Convolutional Neural Networks for Sentence Classification, EMNLP 2014.
    https://arxiv.org/abs/1408.5882
    """

    tokens: Annotated[int, Ge(1), Le(10_000_000)] = 8192
    embedding: Annotated[int, Ge(1), Le(65_536)] = 64
    filters: Annotated[int, Ge(1), Le(4096)] = 64
    windows: Annotated[tuple[Annotated[int, Ge(1), Le(1024)], ...], MinLen(1)] = (1, 2, 3)

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"tokens"})

    @property
    def vocabulary(self) -> Setting:
        return Setting("tokens", self.tokens)

    def build(self, input: tuple[int, ...], outputs: int) -> TextCNNModel:
        require(
            len(input) == 1,
            "input",
            list(input),
            "must be a sequence of tokens for textcnn; use conv4 for images",
        )
        return TextCNNModel(self, input[0], outputs)


@dataclass(frozen=True)
class TextCNNModel:
    """The model of a `TextCNN`.

    Parameters are `embedding.weight (tokens, embedding)`, `window0.weight (filters, k *
    embedding)`, `window0.bias`, ..., `head.weight` and `head.bias`.

    Args:
        spec: The settings.
        length: Tokens per example.
        outputs: Number of outputs; 0 for no head.
    """

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
        weight = torch.empty(spec.tokens, spec.embedding).normal_(generator=generator)
        theta: Params = {"embedding.weight": weight / math.sqrt(spec.embedding)}
        for i, width in enumerate(spec.windows):
            theta |= {
                f"window{i}.weight": glorot_uniform(
                    generator, spec.filters, width * spec.embedding
                ),
                f"window{i}.bias": torch.zeros(spec.filters),
            }
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        tasks, n, length = x.shape
        is_token = (x != 0).to(theta["embedding.weight"].dtype)[..., None]
        e = embedding(x, theta["embedding.weight"]) * is_token
        maxima = []
        for i, width in enumerate(self.spec.windows):
            positions = max(1, length - width + 1)
            padded = torch.cat([e, e.new_zeros(tasks, n, max(0, width - length), e.shape[-1])], 2)
            windows = torch.cat([padded[:, :, k : k + positions] for k in range(width)], -1)
            layer = theta[f"window{i}.weight"], theta[f"window{i}.bias"]
            y = torch.unflatten(linear(windows.flatten(1, 2), *layer).relu(), 1, (n, positions))
            # Windows that start in the padding are ignored.
            maxima.append((y * is_token[:, :, :positions]).amax(2))
        return torch.cat(maxima, -1)

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
