"""The convolutional base learner of the field: four blocks of [3x3 convolution, batch norm, ReLU].

Oriol Vinyals et al.: Matching Networks for One Shot Learning, 2016, section 4.1 (max pooling);
Finn et al.: MAML, 2017, section 5.2 (stride 2 on Omniglot, and the mean over the last positions).
https://arxiv.org/abs/1606.04080
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from episodic import ops
from episodic.core.config import require
from episodic.core.model import Params
from episodic.ops.head import classify, glorot, head


@dataclass(frozen=True)
class Config:
    """filters: channels of every block; downsample: `stride` (stride-2 convolution) or `max_pool` (2x2 after the ReLU);
    readout: what the head sees, the `mean` over positions or all of them (`flatten`)."""

    filters: int = 64
    blocks: int = 4
    downsample: Literal["stride", "max_pool"] = "stride"
    readout: Literal["mean", "flatten"] = "mean"

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(self.filters >= 1, "filters", self.filters, "must be at least 1")
        require(self.blocks >= 1, "blocks", self.blocks, "must be at least 1")


@dataclass(frozen=True)
class Conv4:
    """Parameters `conv0.weight (filters, in, 3, 3)`, `conv0.bias`, `norm0.weight`, `norm0.bias`, ..., `head.weight`, `head.bias`."""

    config: Config
    input: tuple[int, int, int]
    outputs: int

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        filters, channels = self.config.filters, self.input[0]
        for i in range(self.config.blocks):
            theta |= {
                f"conv{i}.weight": glorot(generator, filters, channels, 3, 3),
                f"conv{i}.bias": torch.zeros(filters),
            }
            theta |= {f"norm{i}.weight": torch.ones(filters), f"norm{i}.bias": torch.zeros(filters)}
            channels = filters
        return theta | head(generator, self.width, self.outputs)

    @property
    def norms(self) -> tuple[str, ...]:
        return tuple(
            f"norm{i}.{part}" for i in range(self.config.blocks) for part in ("weight", "bias")
        )

    @property
    def width(self) -> int:
        """Length of the vector that the head sees."""
        height, width = self.input[1:]
        for _ in range(self.config.blocks):
            height, width = (
                (height // 2, width // 2)
                if self.config.downsample == "max_pool"
                else (-(-height // 2), -(-width // 2))
            )
        return self.config.filters * (
            height * width if self.config.readout == "flatten" else min(1, height * width)
        )

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = ops.channels_last(x)
        for i in range(self.config.blocks):
            x = ops.conv2d(
                x, theta[f"conv{i}.weight"], stride=2 if self.config.downsample == "stride" else 1
            )
            x = ops.norm_relu(
                x,
                theta[f"norm{i}.weight"],
                theta[f"norm{i}.bias"],
                self.config.downsample == "max_pool",
                reference,
            )
        return x.flatten(2) if self.config.readout == "flatten" else x.mean((3, 4))

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))


def build(config: Config, input: tuple[int, ...], outputs: int) -> Conv4:
    require(
        len(input) == 3,
        "input",
        list(input),
        "must be an image (C, H, W) for conv4; use model.name: mlp",
    )
    model = Conv4(config, input, outputs)  # type: ignore[arg-type]
    require(
        model.width > 0,
        "blocks",
        config.blocks,
        f"must be fewer for images of {input[1]} x {input[2]} pixels",
    )
    return model
