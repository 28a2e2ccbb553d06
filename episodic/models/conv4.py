"""Conv4: the standard convolutional few-shot backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["Conv4"]


@dataclass(frozen=True)
class Conv4(ModelSpec):
    """Blocks of [3x3 convolution, batch norm, ReLU], the standard few-shot backbone.

    Args:
        filters: Channels of every block.
        blocks: Number of blocks.
        downsample: `stride` (stride-2 convolution) or `max_pool` (2x2, after the ReLU).
        readout: Input of the head: the `mean` over positions, or all positions (`flatten`).

    Source: Oriol Vinyals et al.: Matching Networks for One Shot Learning, 2016, section 4.1 (max
    pooling), https://arxiv.org/abs/1606.04080; Finn et al.: MAML, 2017, section 5.2 (stride 2 on
    Omniglot, mean over the last positions), https://arxiv.org/abs/1703.03400
    """

    filters: Annotated[int, Ge(1), Le(4096)] = 64
    blocks: Annotated[int, Ge(1), Le(16)] = 4
    downsample: Literal["stride", "max_pool"] = "stride"
    readout: Literal["mean", "flatten"] = "mean"

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"image"})

    def build(self, input: tuple[int, ...], outputs: int) -> Conv4Model:
        require(
            len(input) == 3,
            "input",
            list(input),
            "must be an image (C, H, W) for conv4; use model.name: mlp",
        )
        model = Conv4Model(self, input, outputs)  # type: ignore[arg-type]
        # A block halves its input, rounding up with stride: further blocks would see one pixel.
        max_blocks = max(1, (max(input[1:]) - 1).bit_length())
        require(
            model.width > 0 and self.blocks <= max_blocks,
            "blocks",
            self.blocks,
            f"must be fewer for images of {input[1]} x {input[2]} pixels",
        )
        return model


@dataclass(frozen=True)
class Conv4Model:
    """The model of a `Conv4`.

    Parameters are `conv0.weight (filters, in, 3, 3)`, `conv0.bias`, `norm0.weight`, `norm0.bias`,
    ..., `head.weight` and `head.bias`.

    Args:
        spec: The settings.
        input: Shape of an image `(C, H, W)`.
        outputs: Number of outputs; 0 for no head.
    """

    spec: Conv4
    input: tuple[int, int, int]
    outputs: int

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        filters, channels = self.spec.filters, self.input[0]
        for i in range(self.spec.blocks):
            theta |= {
                f"conv{i}.weight": glorot_uniform(generator, filters, channels, 3, 3),
                f"conv{i}.bias": torch.zeros(filters),
            }
            theta |= {f"norm{i}.weight": torch.ones(filters), f"norm{i}.bias": torch.zeros(filters)}
            channels = filters
        return theta | init_head(generator, self.width, self.outputs)

    @property
    def norm_names(self) -> tuple[str, ...]:
        return tuple(
            f"norm{i}.{kind}" for i in range(self.spec.blocks) for kind in ("weight", "bias")
        )

    @property
    def width(self) -> int:
        """Dimension of the features."""
        height, width = self.input[1:]
        for _ in range(self.spec.blocks):
            height, width = (
                (height // 2, width // 2)
                if self.spec.downsample == "max_pool"
                else (-(-height // 2), -(-width // 2))
            )
        return self.spec.filters * (
            height * width if self.spec.readout == "flatten" else min(1, height * width)
        )

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = ops.channels_last(x)
        for i in range(self.spec.blocks):
            x = ops.conv2d(
                x, theta[f"conv{i}.weight"], stride=2 if self.spec.downsample == "stride" else 1
            )
            x = ops.norm_relu(
                x,
                theta[f"norm{i}.weight"],
                theta[f"norm{i}.bias"],
                self.spec.downsample == "max_pool",
                reference,
            )
        return x.flatten(2) if self.spec.readout == "flatten" else x.mean((3, 4))

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
