"""Wide residual networks, such as WRN-28-10."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["WideResNet"]

STEM = 16
"""Channels of the first convolution, and of the first group before widening."""

STRIDES = (1, 2, 2)
"""Stride of the first block of each group."""

LAYERS_PER_BLOCK = 2


@dataclass(frozen=True)
class WideResNet(ModelSpec):
    """WRN-28-10, a wide residual network, and its variants.

    A 3x3 convolution is followed by three groups of residual blocks with 16, 32 and 64 channels,
    times `widen`. A block has two layers of [batch norm, ReLU, 3x3 convolution]. The first block of
    each group has a 1x1 convolution as its shortcut, and in the second and third group it halves
    height and width. Features are the mean over positions after a last batch norm and ReLU.

    Differs from the paper: there is no dropout. Weights are initialized with Glorot's uniform
    distribution (paper: He's normal distribution).

    Args:
        depth: Number of convolutions on the longest path, 6 n + 4 for n blocks per group.
        widen: Factor of the channels.

    Source: Sergey Zagoruyko, Nikos Komodakis: Wide Residual Networks, BMVC 2016, table 1,
    https://arxiv.org/abs/1605.07146. As a few-shot backbone: Andrei Rusu et al.: Meta-Learning with
    Latent Embedding Optimization, ICLR 2019, https://arxiv.org/abs/1807.05960
    """

    depth: Annotated[int, Ge(10), Le(1000)] = 28
    widen: Annotated[int, Ge(1), Le(128)] = 10

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"image"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require((self.depth - 4) % 6 == 0, "depth", self.depth, "must be 6 n + 4, such as 16 or 28")

    def build(self, input: tuple[int, ...], outputs: int) -> WideResNetModel:
        require(
            len(input) == 3,
            "input",
            list(input),
            "must be an image (C, H, W) for wide_resnet; use model.name: mlp",
        )
        return WideResNetModel(self, input, outputs)  # type: ignore[arg-type]


class Block(NamedTuple):
    """A residual block.

    Attributes:
        name: Prefix of its parameters.
        inputs: Channels of its input.
        outputs: Channels of its output.
        stride: Stride of its first convolution and of its shortcut.
        has_shortcut: Whether the shortcut is a convolution instead of the identity.
    """

    name: str
    inputs: int
    outputs: int
    stride: int
    has_shortcut: bool


@dataclass(frozen=True)
class WideResNetModel:
    """The model of a `WideResNet`.

    Parameters are `conv.weight (16, in, 3, 3)`, `group0.block0.norm0.weight`,
    `group0.block0.norm0.bias`, `group0.block0.conv0.weight (out, in, 3, 3)`, ...,
    `group0.block0.shortcut.weight (out, in, 1, 1)`, ..., `norm.weight`, `norm.bias`, `head.weight`
    and `head.bias`.

    Args:
        spec: The settings.
        input: Shape of an image `(C, H, W)`.
        outputs: Number of outputs; 0 for no head.
    """

    spec: WideResNet
    input: tuple[int, int, int]
    outputs: int

    @property
    def width(self) -> int:
        """Dimension of the features."""
        return self._group_channels[-1]

    @property
    def _group_channels(self) -> list[int]:
        return [STEM * self.spec.widen * 2**group for group in range(len(STRIDES))]

    def _blocks(self) -> Iterator[Block]:
        inputs = STEM
        for group, outputs in enumerate(self._group_channels):
            for i in range((self.spec.depth - 4) // (LAYERS_PER_BLOCK * len(STRIDES))):
                stride = STRIDES[group] if i == 0 else 1
                yield Block(f"group{group}.block{i}", inputs, outputs, stride, i == 0)
                inputs = outputs

    @property
    def norm_names(self) -> tuple[str, ...]:
        norms = [
            f"{block.name}.norm{layer}"
            for block in self._blocks()
            for layer in range(LAYERS_PER_BLOCK)
        ]
        return tuple(f"{norm}.{kind}" for norm in (*norms, "norm") for kind in ("weight", "bias"))

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {"conv.weight": glorot_uniform(generator, STEM, self.input[0], 3, 3)}

        def add_norm(name: str, channels: int) -> None:
            theta[f"{name}.weight"], theta[f"{name}.bias"] = (
                torch.ones(channels),
                torch.zeros(channels),
            )

        for name, inputs, outputs, _, has_shortcut in self._blocks():
            for layer in range(LAYERS_PER_BLOCK):
                channels = outputs if layer else inputs
                add_norm(f"{name}.norm{layer}", channels)
                theta[f"{name}.conv{layer}.weight"] = glorot_uniform(
                    generator, outputs, channels, 3, 3
                )
            if has_shortcut:
                theta[f"{name}.shortcut.weight"] = glorot_uniform(generator, outputs, inputs, 1, 1)
        add_norm("norm", self.width)
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        def norm_relu(x: Tensor, name: str) -> Tensor:
            scale, shift = theta[f"{name}.weight"], theta[f"{name}.bias"]
            return ops.norm_relu(x, scale, shift, reference=reference)

        x = ops.conv2d(ops.channels_last(x), theta["conv.weight"])
        for name, _, _, stride, has_shortcut in self._blocks():
            y = norm_relu(x, f"{name}.norm0")
            if has_shortcut:
                x = ops.conv2d(y, theta[f"{name}.shortcut.weight"], stride=stride)
            y = ops.conv2d(y, theta[f"{name}.conv0.weight"], stride=stride)
            x = x + ops.conv2d(norm_relu(y, f"{name}.norm1"), theta[f"{name}.conv1.weight"])
        return norm_relu(x, "norm").mean((3, 4))

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))
