"""The 12-layer residual network of the field, with DropBlock.

Kwonjoon Lee et al.: Meta-Learning with Differentiable Convex Optimization, CVPR 2019, section 4.1 (64, 160, 320, 640 channels);
Golnaz Ghiasi, Tsung-Yi Lin, Quoc Le: DropBlock, NeurIPS 2018. https://arxiv.org/abs/1904.03758 https://arxiv.org/abs/1810.12890

A block: three of [3x3 convolution, batch norm, leaky ReLU of slope 0.1], the input added through a 1x1 convolution and batch norm before
the last ReLU, then a 2x2 maximum; DropBlock after the last two blocks. Features are the mean over positions.
Differs from the paper: DropBlock's rate is constant (there it grows), its squares are those of the episode at all inner steps, and the
first two blocks have no dropout; features are averaged (there flattened for some heads); weights start from Glorot's distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic import ops
from episodic.core import float64, random_numbers
from episodic.core.config import require
from episodic.core.model import Params
from episodic.ops.head import classify, glorot, head

SLOPE = 0.1
DROPPED = 2
"""Of the last blocks, how many have DropBlock."""


@dataclass(frozen=True)
class Config:
    """channels: of the blocks; drop: DropBlock's rate while training, 0 to switch it off; block: side of its squares."""

    channels: tuple[int, ...] = (64, 160, 320, 640)
    drop: float = 0.1
    block: int = 5

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            len(self.channels) > 0 and min(self.channels) >= 1,
            "channels",
            list(self.channels),
            "must be sizes of at least 1",
        )
        require(0 <= self.drop < 1, "drop", self.drop, "must be at least 0 and less than 1")
        require(self.block >= 1, "block", self.block, "must be at least 1")


@dataclass(frozen=True)
class ResNet12:
    """Parameters `block0.conv0.weight (out, in, 3, 3)`, `block0.norm0.weight`, ..., `block0.shortcut.weight (out, in, 1, 1)`,
    `block0.shortcut_norm.weight`, ..., `head.weight`, `head.bias`.

    noise: int64 `(tasks,)`, what DropBlock's random numbers follow from; None: nothing is dropped.
    """

    config: Config
    input: tuple[int, int, int]
    outputs: int
    noise: Tensor | None = None

    @property
    def norms(self) -> tuple[str, ...]:
        layers = ("norm0", "norm1", "norm2", "shortcut_norm")
        return tuple(
            f"block{i}.{n}.{part}"
            for i in range(len(self.config.channels))
            for n in layers
            for part in ("weight", "bias")
        )

    @property
    def width(self) -> int:
        return self.config.channels[-1]

    def noisy(self, noise: Tensor) -> ResNet12:
        """The same while training."""
        return replace(self, noise=noise)

    def init(self, generator: torch.Generator) -> Params:
        theta: Params = {}
        into = self.input[0]
        for i, out in enumerate(self.config.channels):
            layers = {
                "conv0": (into, 3),
                "conv1": (out, 3),
                "conv2": (out, 3),
                "shortcut": (into, 1),
            }
            for name, (channels, size) in layers.items():
                theta[f"block{i}.{name}.weight"] = glorot(generator, out, channels, size, size)
                norm = (
                    f"block{i}.{name.replace('conv', 'norm')}"
                    if name != "shortcut"
                    else f"block{i}.shortcut_norm"
                )
                theta |= {f"{norm}.weight": torch.ones(out), f"{norm}.bias": torch.zeros(out)}
            into = out
        return theta | head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        x = ops.channels_last(x)

        def layer(x: Tensor, conv: str, norm: str) -> Tensor:
            return ops.norm(
                ops.conv2d(x, theta[f"{conv}.weight"]),
                theta[f"{norm}.weight"],
                theta[f"{norm}.bias"],
                reference,
            )

        for i in range(len(self.config.channels)):
            shortcut = layer(x, f"block{i}.shortcut", f"block{i}.shortcut_norm")
            for j in range(2):
                x = F.leaky_relu(layer(x, f"block{i}.conv{j}", f"block{i}.norm{j}"), SLOPE)
            x = ops.max_pool2d(
                F.leaky_relu(layer(x, f"block{i}.conv2", f"block{i}.norm2") + shortcut, SLOPE)
            )
            if i >= len(self.config.channels) - DROPPED:
                x = self._dropped(x, i)
        return x.mean((3, 4))

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))

    def _dropped(self, x: Tensor, block: int) -> Tensor:
        """Squares of a channel set to 0, the rest scaled up (DropBlock, algorithm 1)."""
        if self.noise is None or self.config.drop == 0:
            return x
        height, width = x.shape[3:]
        side = min(self.config.block, height, width)
        centres = (height - side + 1) * (width - side + 1)
        rate = self.config.drop / side**2 * height * width / centres
        shape = (*x.shape[:3], height - side + 1, width - side + 1)
        bits = random_numbers.draws(
            random_numbers.key(block, "DropBlock"),
            self.noise.to(float64.place(x.device)),
            math.prod(shape[1:]),
        )
        corner = (random_numbers.below(bits, 1 << 30) < round(rate * (1 << 30))).view(shape)
        padded = F.pad(corner.to(x), (side - 1,) * 4)
        kept = 1 - F.max_pool2d(padded.flatten(0, 1), side, 1).unflatten(0, x.shape[:2])
        return (
            x * kept * (kept[0].numel() / kept.flatten(1).sum(1).clamp_min(1)).view(-1, 1, 1, 1, 1)
        )


def build(config: Config, input: tuple[int, ...], outputs: int) -> ResNet12:
    require(
        len(input) == 3,
        "input",
        list(input),
        "must be an image (C, H, W) for resnet12; use model.name: mlp",
    )
    smallest = 2 ** len(config.channels)
    fits = min(input[1:]) >= smallest
    require(
        fits,
        "channels",
        list(config.channels),
        f"must be fewer for images of {input[1]} x {input[2]} pixels, each halves them",
    )
    return ResNet12(config, input, outputs)  # type: ignore[arg-type]
