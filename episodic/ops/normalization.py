"""Batch norm, ReLU and optional 2x2 max pooling with a task axis, with two closed-form derivatives.

Differentiating these elementwise operations twice by autograd would take most of the time of a
meta-gradient. ReLU and the affine map of a channel are monotonic, so the maximum is taken before
them (the minimum for a negative scale), and they process only a quarter of the positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from episodic.ops import backend, native

__all__ = ["NormRelu"]

aten = torch.ops.aten
Size = tuple[int, int] | None

MIN_BLOCKED, BLOCK = 1 << 20, 1 << 17
"""Size of a tensor above which a CPU sums it block by block, and approximate size of a block."""


class NormRelu(torch.autograd.Function):
    """pool(relu(scale * (x - mean) * r + shift)) with r = 1 / sqrt(variance + eps).

    x is contiguous `(tasks, n, positions, C)`, scale and shift are `(tasks, C)`. `size` is `(H, W)`
    with max pooling and None without.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, size: Size, eps: float, compiled: bool
    ) -> Tensor:
        # On a GPU, checking for a negative scale would synchronize, so it is assumed.
        negative = (
            size is not None
            and not backend.uses_native_kernels(x, compiled)
            and (x.device.type != "cpu" or bool((scale < 0).any()))
        )
        y, mean, r, picked, where = _forward(
            compiled, x, scale[:, None, None], shift[:, None, None], size, negative, eps
        )
        ctx.save_for_backward(
            x, scale, *((None, None) if size is None else (picked, where)), mean, r, y
        )
        ctx.size, ctx.compiled = size, compiled
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, picked, where, mean, r, y = ctx.saved_tensors
        gradients = NormReluGradient.apply(
            grad_y, x, scale, picked, where, mean, r, y.detach(), ctx.size, ctx.compiled
        )
        return *gradients, None, None, None


class NormReluGradient(torch.autograd.Function):
    """(grad_y, x, scale) -> the gradients of x, scale and shift.

    picked (the pooled values), where (their positions), mean and r are functions of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad_y: Tensor,
        x: Tensor,
        scale: Tensor,
        picked: Tensor | None,
        where: Tensor | None,
        mean: Tensor,
        r: Tensor,
        y: Tensor,
        size: Size,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_x, to_scale, d_sum, d, t = _gradient(
            compiled, grad_y.contiguous(), x, scale[:, None, None], picked, where, mean, r, y, size
        )
        ctx.save_for_backward(x, scale, picked, where, mean, r, y, d, d_sum, t)
        ctx.size, ctx.compiled = size, compiled
        return to_x, to_scale.flatten(1), d_sum.flatten(1)

    @staticmethod
    def backward(ctx: Any, u: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor | None, ...]:
        gradients = NormReluSecond.apply(u, p, q, ctx.compiled, *ctx.saved_tensors, ctx.size)
        return *gradients, *[None] * 7


class NormReluSecond(torch.autograd.Function):
    """The derivative of `NormReluGradient`: (u, p, q) -> the gradients of grad_y, x and scale.

    u, p and q are the gradients with respect to those of x, scale and shift. A third derivative is
    not implemented.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        p: Tensor,
        q: Tensor,
        compiled: bool,
        x: Tensor,
        scale: Tensor,
        *others: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_d, to_x, to_scale = _second(
            compiled,
            u.contiguous(),
            p[:, None, None],
            q[:, None, None],
            x,
            scale[:, None, None],
            *others,
        )
        return to_d, to_x, to_scale.flatten(1)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, ...]:
        raise NotImplementedError(
            "norm_relu has no third derivative; use ops.norm followed by a ReLU"
        )


@backend.compilable(native.norm_forward)
def _forward(
    x: Tensor, scale: Tensor, shift: Tensor, size: Size, negative: bool, eps: float
) -> tuple[Tensor, ...]:
    """Compute y, mean, r and, with max pooling, the pooled values and their positions."""
    m = _count_examples(x)
    mean = _sum_per_channel(x) / m
    if size is None:
        centred = x - mean
        r = torch.rsqrt(_sum_products(centred, centred) / m + eps)
        return torch.addcmul(shift, centred, scale * r, out=centred).relu_(), mean, r, mean, mean
    squares = torch.stack(
        [(a - mean).square_().sum((1, 2), keepdim=True) for (a,) in _blocks(x)]
    ).sum(0)
    r = torch.rsqrt(squares / m + eps)
    picked, where = _pool_maximum(x, scale, size, negative)
    return (
        torch.addcmul(shift - mean * scale * r, picked, scale * r).relu_(),
        mean,
        r,
        picked,
        where,
    )


@backend.compilable(native.norm_gradient)
def _gradient(
    grad_y: Tensor,
    x: Tensor,
    scale: Tensor,
    picked: Tensor | None,
    where: Tensor | None,
    mean: Tensor,
    r: Tensor,
    y: Tensor,
    size: Size,
) -> tuple[Tensor, ...]:
    """Compute the gradients of x, scale and shift, and d and t.

    With d = grad_y where y > 0, m = n * positions, s = scale, and z the pooled values (without
    pooling, x):

        to shift = sum d
        t = sum d * (z - mean)
        to scale = r * t
        to x = s r (d - sum d / m - (x - mean) * r**2 * t / m)

    where d is added at the positions of z.
    """
    m, sr = _count_examples(x), scale * r
    d = aten.threshold_backward(grad_y, y, 0)
    d_sum = _sum_per_channel(d)
    t = _sum_products(d, x if picked is None else picked) - mean * d_sum
    slope = -sr * r * r * t / m
    to_x = torch.addcmul(-sr * d_sum / m - slope * mean, x, slope)
    return _add_at_positions(to_x, d, sr, where, size), t * r, d_sum, d, t


@backend.compilable(native.norm_second)
def _second(
    u: Tensor,
    p: Tensor,
    q: Tensor,
    x: Tensor,
    scale: Tensor,
    picked: Tensor | None,
    where: Tensor | None,
    mean: Tensor,
    r: Tensor,
    y: Tensor,
    d: Tensor,
    d_sum: Tensor,
    t: Tensor,
    size: Size,
) -> tuple[Tensor, ...]:
    """Compute the derivative of `_gradient`.

    It is the gradient of sum(u * to_x) + sum(p * to_scale) + sum(q * to_shift) with respect to
    grad_y, x and scale.
    """
    # u and x at the positions that determine y.
    at, z = (u, x) if where is None or picked is None else (u.gather(2, where), picked)
    m, sr, u_sum = _count_examples(x), scale * r, _sum_per_channel(u)
    u_mean, a, b = u_sum / m, r * t / m, r * (_sum_products(u, x) - mean * u_sum) / m
    # The derivative of sum(u * to_x) with respect to s r.
    inner = _sum_products(at, d) - u_mean * d_sum - m * a * b
    c, e = p - sr * b, -sr * a
    to_d = torch.addcmul(q - sr * u_mean - c * r * mean, at, sr).addcmul_(z, c * r)
    slope = -r * r * (e * b + c * a) - scale * inner * r**3 / m
    to_x = torch.addcmul(-r * (e * u_mean + c * d_sum / m) - slope * mean, u, r * e).addcmul_(
        x, slope
    )
    return (
        aten.threshold_backward(to_d, y, 0),
        _add_at_positions(to_x, d, r * c, where, size),
        r * inner,
    )


def _pool_maximum(
    x: Tensor, scale: Tensor, size: tuple[int, int], negative: bool
) -> tuple[Tensor, Tensor]:
    """Find the value of each 2x2 square that is largest after the affine map, and its position.

    Both are `(tasks, n, positions / 4, C)`.
    """
    signed = x * torch.where(scale < 0, -1.0, 1.0).to(x) if negative else x
    images = signed.view(-1, *size, x.shape[3]).permute(0, 3, 1, 2)
    largest, index = aten.max_pool2d_with_indices(images, [2, 2], [2, 2])
    shape = (*x.shape[:2], -1, x.shape[3])
    index = index.permute(0, 2, 3, 1).reshape(shape)
    return x.gather(2, index) if negative else largest.permute(0, 2, 3, 1).reshape(shape), index


def _can_scatter(x: Tensor) -> bool:
    """Return whether scattering is both deterministic and fast, which it is not on a GPU."""
    return x.device.type == "cpu"


def _add_at_positions(
    x: Tensor, d: Tensor, factor: Tensor, where: Tensor | None, size: Size
) -> Tensor:
    """Add d * factor to x in place, at the positions of the maxima."""
    if where is None or size is None:
        return x.addcmul_(d, factor)
    if _can_scatter(x):
        return x.scatter_add_(2, where, d * factor)
    height, width = size
    shape = (*x.shape[:2], height // 2, width // 2, x.shape[3])
    images, scaled, where = (
        x.view(*x.shape[:2], *size, x.shape[3]),
        (d * factor).view(shape),
        where.view(shape),
    )
    corner = where // width % 2 * 2 + where % width % 2
    for i in (0, 1):
        for j in (0, 1):
            corner_ = images[:, :, i : height // 2 * 2 : 2, j : width // 2 * 2 : 2]
            corner_ += torch.where(corner == 2 * i + j, scaled, 0)
    return x


def _count_examples(x: Tensor) -> int:
    return x.shape[1] * x.shape[2]


def _sum_per_channel(a: Tensor) -> Tensor:
    return a.sum((1, 2), keepdim=True)


def _sum_products(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([(c * d).sum((1, 2), keepdim=True) for c, d in _blocks(a, b)]).sum(0)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors `(tasks, n, positions, C)`, in blocks of examples if they are large on a CPU.

    Temporaries then stay in the cache.
    """
    x = tensors[0]
    size = x.shape[1]
    if x.device.type == "cpu" and x.numel() > MIN_BLOCKED:
        size = max(1, size * BLOCK // x.numel())
    for start in range(0, x.shape[1], size):
        yield tuple(tensor[:, start : start + size] for tensor in tensors)
