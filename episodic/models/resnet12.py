"""ResNet-12 with DropBlock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, Lt, MinLen
from torch import Tensor

from episodic import ops
from episodic.core import float64, random_numbers
from episodic.core.config import require
from episodic.core.model import ExampleKind, ModelSpec, Params
from episodic.ops.head import apply_head, glorot_uniform, init_head

__all__ = ["ResNet12"]

SLOPE = 0.1
"""Negative slope of the leaky ReLU."""

DROPBLOCK_BLOCKS = 2
"""Number of final blocks with DropBlock."""


@dataclass(frozen=True)
class ResNet12(ModelSpec):
    """ResNet-12, the standard residual few-shot backbone, with DropBlock.

    A block has three layers of [3x3 convolution, batch norm, leaky ReLU of slope 0.1]. A shortcut
    (1x1 convolution and batch norm) is added before the last ReLU, followed by 2x2 max pooling and,
    in the last two blocks, DropBlock. Features are the mean over positions.

    Differs from the paper: the rate of DropBlock is constant (paper: increasing), and its squares
    are the same at all inner steps of an episode. The first two blocks have no dropout. Features
    are averaged (paper: flattened for some heads). Weights are initialized with Glorot's uniform
    distribution.

    Args:
        channels: Channels of each block.
        drop: DropBlock rate in training; 0 disables it.
        block: Side length of the dropped squares.

    Source: Kwonjoon Lee et al.: Meta-Learning with Differentiable Convex Optimization, CVPR 2019,
    section 4.1, https://arxiv.org/abs/1904.03758; Golnaz Ghiasi, Tsung-Yi Lin, Quoc Le: DropBlock,
    NeurIPS 2018, https://arxiv.org/abs/1810.12890
    """

    channels: Annotated[tuple[Annotated[int, Ge(1), Le(8192)], ...], MinLen(1)] = (
        64,
        160,
        320,
        640,
    )
    drop: Annotated[float, Ge(0), Lt(1)] = 0.1
    block: Annotated[int, Ge(1), Le(1024)] = 5

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset({"image"})

    def build(self, input: tuple[int, ...], outputs: int) -> ResNet12Model:
        require(
            len(input) == 3,
            "input",
            list(input),
            "must be an image (C, H, W) for resnet12; use model.name: mlp",
        )
        require(
            min(input[1:]) >= 2 ** len(self.channels),
            "channels",
            list(self.channels),
            f"must be fewer for images of {input[1]} x {input[2]} pixels, which each block halves",
        )
        return ResNet12Model(self, input, outputs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ResNet12Model:
    """The model of a `ResNet12`.

    Parameters are `block0.conv0.weight (out, in, 3, 3)`, `block0.norm0.weight`, ...,
    `block0.shortcut.weight (out, in, 1, 1)`, `block0.shortcut_norm.weight`, ..., `head.weight` and
    `head.bias`.

    Args:
        spec: The settings.
        input: Shape of an image `(C, H, W)`.
        outputs: Number of outputs; 0 for no head.
        noise: int64 `(tasks,)`, the seed of DropBlock for each task; None to disable DropBlock.
    """

    spec: ResNet12
    input: tuple[int, int, int]
    outputs: int
    noise: Tensor | None = None

    @property
    def norm_names(self) -> tuple[str, ...]:
        layers = ("norm0", "norm1", "norm2", "shortcut_norm")
        return tuple(
            f"block{i}.{layer}.{kind}"
            for i in range(len(self.spec.channels))
            for layer in layers
            for kind in ("weight", "bias")
        )

    @property
    def width(self) -> int:
        return self.spec.channels[-1]

    def with_noise(self, noise: Tensor) -> ResNet12Model:
        """Return the model in training mode, with DropBlock seeded by `noise`."""
        return replace(self, noise=noise)

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        inputs = self.input[0]
        for i, out in enumerate(self.spec.channels):
            layers = {
                "conv0": (inputs, 3),
                "conv1": (out, 3),
                "conv2": (out, 3),
                "shortcut": (inputs, 1),
            }
            for name, (channels, size) in layers.items():
                theta[f"block{i}.{name}.weight"] = glorot_uniform(
                    generator, out, channels, size, size
                )
                norm = (
                    f"block{i}.{name.replace('conv', 'norm')}"
                    if name != "shortcut"
                    else f"block{i}.shortcut_norm"
                )
                theta |= {f"{norm}.weight": torch.ones(out), f"{norm}.bias": torch.zeros(out)}
            inputs = out
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = ops.channels_last(x)

        def layer(x: Tensor, conv: str, norm: str) -> Tensor:
            return ops.norm(
                ops.conv2d(x, theta[f"{conv}.weight"]),
                theta[f"{norm}.weight"],
                theta[f"{norm}.bias"],
                reference,
            )

        for i in range(len(self.spec.channels)):
            shortcut = layer(x, f"block{i}.shortcut", f"block{i}.shortcut_norm")
            for j in range(2):
                x = F.leaky_relu(layer(x, f"block{i}.conv{j}", f"block{i}.norm{j}"), SLOPE)
            x = ops.max_pool2d(
                F.leaky_relu(layer(x, f"block{i}.conv2", f"block{i}.norm2") + shortcut, SLOPE)
            )
            if i >= len(self.spec.channels) - DROPBLOCK_BLOCKS:
                x = self._drop_blocks(x, i)
        return x.mean((3, 4))

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))

    def _drop_blocks(self, x: Tensor, block: int) -> Tensor:
        """Set squares of each channel to 0 and scale up the rest (DropBlock, algorithm 1)."""
        if self.noise is None or self.spec.drop == 0:
            return x
        height, width = x.shape[3:]
        side = min(self.spec.block, height, width)
        centres = (height - side + 1) * (width - side + 1)
        rate = self.spec.drop / side**2 * height * width / centres
        shape = (*x.shape[:3], height - side + 1, width - side + 1)
        bits = random_numbers.random_bits(
            random_numbers.key(block, "DropBlock"),
            self.noise.to(float64.supporting_device(x.device)),
            math.prod(shape[1:]),
        )
        is_corner = random_numbers.integers_below(bits, 1 << 30) < round(rate * (1 << 30))
        padded = F.pad(is_corner.view(shape).to(x), (side - 1,) * 4).flatten(0, 1)
        kept = 1 - torch.unflatten(F.max_pool2d(padded, side, 1), 0, x.shape[:2])
        factor = kept[0].numel() / kept.flatten(1).sum(1).clamp_min(1)
        return x * kept * factor.view(-1, 1, 1, 1, 1)
