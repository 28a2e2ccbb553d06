"""Operators for models, on tensors with a leading task axis.

Examples x are `(tasks, n, ...)`, parameters `(tasks, *shape)`. As long as tasks share theta, its
task axis is a view with stride 0, and a single convolution serves all tasks. `vmap` is not used: it
turns convolutions into slow grouped convolutions, and the second derivative of torch's batch norm
is wrong under it. Models may also call any torch function that treats the first axis as a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.ops import backend
from episodic.ops.convolution import Convolution
from episodic.ops.normalization import NormRelu

__all__ = [
    "channels_last",
    "class_means",
    "conv2d",
    "cosine",
    "embedding",
    "linear",
    "lstm",
    "max_pool2d",
    "norm",
    "norm_relu",
]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply a linear map.

    Args:
        x: `(tasks, n, in)`.
        weight: `(tasks, out, in)`.
        bias: `(tasks, out)`.

    Returns:
        `(tasks, n, out)`.
    """
    return torch.baddbmm(bias[:, None], x, weight.mT)


def embedding(x: Tensor, weight: Tensor) -> Tensor:
    """Look up rows of a table.

    Args:
        x: Row indices, int64 `(tasks, n, ...)`.
        weight: The table `(tasks, size, width)`.

    Returns:
        `(tasks, n, ..., width)`.
    """
    rows = weight.gather(1, x.flatten(1)[..., None].expand(-1, -1, weight.shape[-1]))
    return rows.view(*x.shape, weight.shape[-1])


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """Convolve with 'same' padding.

    Args:
        x: `(tasks, n, in, H, W)`.
        weight: `(tasks, out, in, k, k)` with odd k.
        bias: `(tasks, out)`. Omit it before `norm_relu`, which subtracts the mean.
        stride: Stride along both axes.

    Returns:
        `(tasks, n, out, ceil(H / stride), ceil(W / stride))`.
    """
    y: Tensor = Convolution.apply(x, weight, stride, backend.compiled_kernels_enabled())
    return y if bias is None else y + bias[:, None, :, None, None]


def norm_relu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    pool: bool = False,
    reference: int | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Apply batch norm, ReLU and optionally max pooling.

    Each channel is normalized by the mean and the biased variance over the examples and positions
    of a task. The function is twice differentiable, not three times.

    Args:
        x: `(tasks, n, C, H, W)`.
        scale: `(tasks, C)`.
        shift: `(tasks, C)`.
        pool: Whether to apply 2x2 max pooling.
        reference: Number of leading examples whose statistics are used; None for all. If support
            examples come first, this makes the normalization of the query set inductive.
        eps: Added to the variance.

    Returns:
        `(tasks, n, C, H, W)`, or `(tasks, n, C, H // 2, W // 2)` with `pool`.

    Source: Ioffe, Szegedy: Batch Normalization, 2015, algorithm 1.
    """
    height, width = x.shape[3:]
    # (tasks, n, H * W, C), a view of channels-last memory.
    flat = x.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
    if reference is None:
        y: Tensor = NormRelu.apply(
            flat,
            scale,
            shift,
            (height, width) if pool else None,
            eps,
            backend.compiled_kernels_enabled(),
        )
        size = (height // 2, width // 2) if pool else (height, width)
        return torch.unflatten(y, 2, size).permute(0, 1, 4, 2, 3)
    y = norm(x, scale, shift, reference, eps).relu()
    return max_pool2d(y) if pool else y


def norm(
    x: Tensor, scale: Tensor, shift: Tensor, reference: int | None = None, eps: float = 1e-5
) -> Tensor:
    """Apply batch norm. `norm_relu` is faster if a ReLU follows.

    Args:
        x: `(tasks, n, C, H, W)`.
        scale: `(tasks, C)`.
        shift: `(tasks, C)`.
        reference: Number of leading examples whose statistics are used; None for all.
        eps: Added to the variance.

    Returns:
        `(tasks, n, C, H, W)`.
    """
    flat = x.permute(0, 1, 3, 4, 2).flatten(2, 3)
    counted = flat[:, :reference]
    mean = counted.mean((1, 2), keepdim=True)
    deviation = torch.rsqrt((counted - mean).square().mean((1, 2), keepdim=True) + eps)
    y = torch.addcmul(shift[:, None, None], flat - mean, scale[:, None, None] * deviation)
    return torch.unflatten(y, 2, x.shape[3:]).permute(0, 1, 4, 2, 3)


def max_pool2d(x: Tensor) -> Tensor:
    """Apply 2x2 max pooling, dropping an odd last row or column.

    Args:
        x: `(tasks, n, C, H, W)`.

    Returns:
        `(tasks, n, C, H // 2, W // 2)`.
    """
    return torch.unflatten(F.max_pool2d(x.flatten(0, 1), 2), 0, x.shape[:2])


def channels_last(x: Tensor) -> Tensor:
    """Convert images `(tasks, n, C, H, W)` to channels-last memory, which operators prefer."""
    flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return torch.unflatten(flat, 0, x.shape[:2])


def class_means(x: Tensor, y: Tensor, ways: int, size: Tensor | None = None) -> Tensor:
    """Compute the mean of each class.

    Args:
        x: `(tasks, n, d)`.
        y: Labels, int64 `(tasks, n)`.
        ways: Number of classes.
        size: Number of examples of each task `(tasks,)`, if tasks differ in size. The means of
            classes without examples are then 0.

    Returns:
        `(tasks, ways, d)`.
    """
    one_hot = F.one_hot(y, ways).to(x.dtype)
    if size is not None:
        one_hot = one_hot * (torch.arange(y.shape[1], device=y.device) < size[:, None])[..., None]
        return (one_hot.mT @ x) / one_hot.sum(1).clamp_min(1)[..., None]
    return (one_hot.mT @ x) / one_hot.sum(1)[..., None]


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Compute cosine similarities: x `(tasks, n, d)`, y `(tasks, m, d)` -> `(tasks, n, m)`."""
    return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).mT


def lstm(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute one step of an LSTM with H units.

    Args:
        x: Inputs `(tasks, n, in)`.
        h: Hidden state `(tasks, n, K)`.
        c: Cell state `(tasks, n, H)`.
        weight: Weights of the input gate, forget gate, candidate and output gate
            `(tasks, 4 * H, in + K)`.
        bias: Biases, likewise `(tasks, 4 * H)`.

    Returns:
        The next hidden state and cell state, each `(tasks, n, H)`.

    Source: Hochreiter, Schmidhuber: Long Short-Term Memory, 1997.
    """
    i, f, g, o = linear(torch.cat([x, h], -1), weight, bias).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
