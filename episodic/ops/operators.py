"""What a model may call. Every tensor carries a leading task axis: x is `(tasks, n, ...)`, a parameter `(tasks, *shape)`.

While tasks still share theta, its task axis is a view of stride 0, and one ordinary convolution serves them all. Nothing is
vmapped: torch's own batch norm under `vmap` has a wrong second derivative, and its vmapped convolutions are slow grouped ones.
Any torch function that treats the first axis as a batch may be used beside these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.ops import backend
from episodic.ops.convolution import Convolution
from episodic.ops.normalization import NormRelu

"""Parameters by name, each `(tasks, *shape)` inside the library."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x `(tasks, n, in)`, weight `(tasks, out, in)`, bias `(tasks, out)` -> `(tasks, n, out)`."""
    return torch.baddbmm(bias[:, None], x, weight.mT)


def embedding(x: Tensor, weight: Tensor) -> Tensor:
    """Rows of a table: x int64 `(tasks, n, ...)`, weight `(tasks, size, width)` -> `(tasks, n, ..., width)`."""
    rows = weight.gather(1, x.flatten(1)[..., None].expand(-1, -1, weight.shape[-1]))
    return rows.view(*x.shape, weight.shape[-1])


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    """3x3 convolution (any odd kernel) with 'same' padding.

    x `(tasks, n, in, H, W)`, weight `(tasks, out, in, k, k)`, bias `(tasks, out)` -> `(tasks, n, out, ceil(H/stride), ...)`.
    A bias in front of `norm_relu` does nothing, since the mean is taken off: leave it out there.
    """
    y = Convolution.apply(x, weight, stride, backend.compiled_kernels_enabled())
    return y if bias is None else y + bias[:, None, :, None, None]


def norm_relu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    pool: bool = False,
    reference: int | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """ReLU(batch norm): normalises each channel by the mean and biased variance over a task's examples and positions.

    x `(tasks, n, C, H, W)`, scale and shift `(tasks, C)`. With `pool`, the maximum of each 2x2 square follows. With `reference`,
    the statistics are those of the first `reference` examples alone: support images in front of query images make the query
    set's normalisation inductive. (Ioffe, Szegedy: Batch Normalization, 2015, algorithm 1.)
    """
    height, width = x.shape[3:]
    rows = (
        x.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
    )  # (tasks, n, H*W, C): a view where channels are last in memory
    if reference is None:
        y = NormRelu.apply(
            rows,
            scale,
            shift,
            (height, width) if pool else None,
            eps,
            backend.compiled_kernels_enabled(),
        )
        size = (height // 2, width // 2) if pool else (height, width)
        return y.unflatten(2, size).permute(0, 1, 4, 2, 3)
    y = norm(x, scale, shift, reference, eps).relu()
    return max_pool2d(y) if pool else y


def norm(
    x: Tensor, scale: Tensor, shift: Tensor, reference: int | None = None, eps: float = 1e-5
) -> Tensor:
    """Batch norm alone, as in `norm_relu`, which is faster where a ReLU follows."""
    rows = x.permute(0, 1, 3, 4, 2).flatten(2, 3)
    counted = rows[:, :reference]
    mean = counted.mean((1, 2), keepdim=True)
    deviation = torch.rsqrt((counted - mean).square().mean((1, 2), keepdim=True) + eps)
    y = torch.addcmul(shift[:, None, None], rows - mean, scale[:, None, None] * deviation)
    return y.unflatten(2, x.shape[3:]).permute(0, 1, 4, 2, 3)


def max_pool2d(x: Tensor) -> Tensor:
    """The maximum of each 2x2 square; an odd last row or column is dropped. x `(tasks, n, C, H, W)`."""
    return F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def channels_last(x: Tensor) -> Tensor:
    """The same images `(tasks, n, C, H, W)` with the channels next to each other in memory, as every operator here likes them best."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


def class_means(x: Tensor, y: Tensor, ways: int) -> Tensor:
    """The mean example of each class: x `(tasks, n, d)`, labels y `(tasks, n)` -> `(tasks, ways, d)`."""
    member = F.one_hot(y, ways).to(x.dtype)
    return (member.mT @ x) / member.sum(1)[..., None]


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosines of the angles between x `(tasks, n, d)` and y `(tasks, m, d)` -> `(tasks, n, m)`."""
    return F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).mT


def lstm(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter, Schmidhuber 1997): x `(tasks, n, in)`, h `(tasks, n, K)`, c `(tasks, n, H)` -> the next h and c.

    weight `(tasks, 4 H, in + K)`, bias `(tasks, 4 H)`: input gate, forget gate, candidate, output gate.
    """
    i, f, g, o = linear(torch.cat([x, h], -1), weight, bias).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c
