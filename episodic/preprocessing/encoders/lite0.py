"""EfficientNet-Lite0, a small convolutional network for images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["EfficientNetLite0", "rename_published_key"]

STAGES = (
    # expansion, channels, blocks, stride, kernel size
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, HEAD = 32, 1280
EPSILON = 1e-3
"""Added to the variance by batch norm."""

ONEDNN_OPERATORS = ("_convolution_pointwise", "_reorder_convolution_weight")
"""Operators for inference. They are not part of the public interface of torch."""


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: images to 1280 features.

    It differs from EfficientNet-B0 by ReLU6 activations and by the lack of squeeze and excitation.
    Strided convolutions pad like TensorFlow ('same'), where the pretrained weights are from.

    Source: Mingxing Tan, Quoc Le: EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks, ICML 2019 (table 1). https://arxiv.org/abs/1905.11946
    """

    width = HEAD

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        channels = STEM
        for expansion, out, count, stride, kernel in STAGES:
            for i in range(count):
                block_stride = stride if i == 0 else 1
                self.blocks.append(_Block(channels, out, expansion, kernel, block_stride))
                channels = out
        self.head = _ConvNorm(channels, HEAD, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute features `(n, 1280)` of normalized images `(n, 3, H, W)`."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return torch.mean(self.head(x), (2, 3))

    def prepare_inference(self) -> Callable[[Tensor], Tensor]:
        """Return the same function for inference on the CPU, about twice as fast.

        oneDNN computes each convolution together with its activation, from weights that are
        stored in its own order. Without oneDNN, as on Apple processors, the network itself is
        returned.
        """
        available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if not (available and all(hasattr(torch.ops.mkldnn, name) for name in ONEDNN_OPERATORS)):
            return self
        return _OneDNNInference(self)

    def fuse(self) -> None:
        """Merge batch norm into the convolutions, which makes inference faster."""
        for module in self.modules():
            if isinstance(module, _ConvNorm):
                module.conv, module.norm = module.fused_convolution(), nn.Identity()


class _ConvNorm(nn.Module):
    """Convolution with 'same' padding, batch norm and, if requested, ReLU6."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.activation = activation

    def fused_convolution(self) -> nn.Conv2d:
        if isinstance(self.norm, nn.BatchNorm2d):
            return fuse_conv_bn_eval(self.conv, self.norm)
        return self.conv

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride == 1:
            x = self.conv(x)
        else:
            x = _pad_strided(x, kernel, stride)
            x = F.conv2d(x, self.conv.weight, self.conv.bias, stride, 0, 1, self.conv.groups)
        x = self.norm(x)
        return F.relu6(x) if self.activation else x


def _pad_strided(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad like TensorFlow: less at the start than at the end if the padding is odd."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class _Block(nn.Module):
    """Inverted residual block: expand, convolve each channel, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _ConvNorm(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = _ConvNorm(inner, outputs, 1, activation=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class _OneDNNInference:
    """An `EfficientNetLite0` whose convolutions are called in oneDNN directly."""

    def __init__(self, network: EfficientNetLite0) -> None:
        self.stem = _OneDNNConvolution(network.stem)
        self.head = _OneDNNConvolution(network.head)
        self.blocks = []
        for block in network.blocks:
            layers = (block.expand, block.depthwise, block.project)
            convolutions = [_OneDNNConvolution(x) for x in layers if isinstance(x, _ConvNorm)]
            self.blocks.append((convolutions, block.residual))

    def __call__(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for convolutions, residual in self.blocks:
            y = x
            for convolution in convolutions:
                y = convolution(y)
            x = y.add_(x) if residual else y
        return torch.mean(self.head(x), (2, 3))


class _OneDNNConvolution:
    def __init__(self, layer: _ConvNorm) -> None:
        conv = layer.fused_convolution()
        self.kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        pad = self.kernel // 2 if self.stride == 1 else 0
        self.geometry = ([pad] * 2, [self.stride] * 2, [1] * 2, conv.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), *self.geometry
        )
        self.bias = conv.bias
        # oneDNN calls ReLU6 a hard tanh between these bounds.
        self.activation = ("hardtanh", [0.0, 6.0]) if layer.activation else ("none", [])

    def __call__(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = _pad_strided(x, self.kernel, self.stride)
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, *self.activation, ""
        )
        return y


RENAMES = {
    "_conv_stem": "stem.conv",
    "_conv_head": "head.conv",
    "_expand_conv": "expand.conv",
    "_depthwise_conv": "depthwise.conv",
    "_project_conv": "project.conv",
}
NORMS = ("expand.norm", "depthwise.norm", "project.norm")


def rename_published_key(key: str) -> str:
    """Return the name of a parameter of the published weights in `EfficientNetLite0`."""
    parts = key.removeprefix("_").split(".")
    if parts[0] == "blocks":
        block, module = parts[1], parts[2]
        name = RENAMES.get(module) or NORMS[int(module.removeprefix("_bn"))]
        return ".".join(["blocks", block, name, *parts[3:]])
    if parts[0] in ("bn0", "bn1"):
        return ".".join([{"bn0": "stem.norm", "bn1": "head.norm"}[parts[0]], *parts[1:]])
    return ".".join([RENAMES.get(f"_{parts[0]}", parts[0]), *parts[1:]])
