"""Yoon Kim: Convolutional Neural Networks for Sentence Classification, EMNLP 2014. https://arxiv.org/abs/1408.5882

    features = the maximum over places of relu(w * [e_i ... e_(i+k-1)] + b), for windows of several widths k (equations 2 to 4)

Differs from the paper: embeddings are learned from scratch with the rest, of subword tokens; no dropout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from episodic.core.config import require
from episodic.core.model import Params
from episodic.ops import embedding, linear
from episodic.ops.head import classify, glorot, head


@dataclass(frozen=True)
class Config:
    """tokens: size of the vocabulary, at least that of the data; embedding: length of a token's; filters: of each window; windows: their
    widths in tokens."""

    tokens: int = 8192
    embedding: int = 64
    filters: int = 64
    windows: tuple[int, ...] = (1, 2, 3)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        for key in ("tokens", "embedding", "filters"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        require(
            bool(self.windows) and all(width >= 1 for width in self.windows),
            "windows",
            list(self.windows),
            "must be widths of at least 1",
        )


@dataclass(frozen=True)
class TextCnn:
    """Parameters `embedding.weight (tokens, embedding)`, `window0.weight (filters, k * embedding)`, `window0.bias`, ..., `head.weight`,
    `head.bias`."""

    config: Config
    length: int
    outputs: int

    @property
    def norms(self) -> tuple[str, ...]:
        return ()

    @property
    def width(self) -> int:
        return self.config.filters * len(self.config.windows)

    def init(self, generator: torch.Generator) -> Params:
        config = self.config
        theta: Params = {
            "embedding.weight": torch.empty(config.tokens, config.embedding).normal_(
                generator=generator
            )
            / math.sqrt(config.embedding)
        }
        for i, width in enumerate(config.windows):
            theta |= {
                f"window{i}.weight": glorot(generator, config.filters, width * config.embedding),
                f"window{i}.bias": torch.zeros(config.filters),
            }
        return theta | head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        tasks, n, length = x.shape
        there = (x != 0).to(theta["embedding.weight"].dtype)[..., None]
        e = embedding(x, theta["embedding.weight"]) * there
        found = []
        for i, width in enumerate(self.config.windows):
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


def build(config: Config, input: tuple[int, ...], outputs: int) -> TextCnn:
    require(
        len(input) == 1,
        "input",
        list(input),
        "must be a row of tokens for textcnn; use conv4 for images",
    )
    return TextCnn(config, input[0], outputs)
