"""Batch norm and ReLU (and a 2x2 maximum) with a task axis, and their two derivatives in closed form.

Written out because this elementwise work, differentiated twice by autograd, is most of a meta-gradient's time. Maximum, ReLU and the
affine map of a channel are monotonic, so the maximum is taken of the plain activations (the minimum for a negative scale), and all
that follows is done on a quarter of the positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


class NormRelu(torch.autograd.Function):
    """pool(relu(scale * (x - mean) * r + shift)), r = 1/sqrt(variance + eps), for x `(tasks, n, positions, C)`.

    size: `(H, W)` to take the maximum over 2x2 squares, else None.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int] | None, eps: float) -> Tensor:
        mean = _total(x) / _count(x)
        centred = x - mean
        r = torch.rsqrt(_sum(centred, centred) / _count(x) + eps)
        scale_, shift_ = scale[:, None, None], shift[:, None, None]
        if size is None:
            picked, where = x, None
            y = torch.addcmul(shift_, centred, scale_ * r, out=centred).relu_()
        else:
            picked, where = _maximum(x, scale_, size)
            y = torch.addcmul(shift_ - mean * scale_ * r, picked, scale_ * r).relu_()
        ctx.save_for_backward(x, scale, picked, where, mean, r, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, scale, picked, where, mean, r, y = ctx.saved_tensors
        return *NormReluGradient.apply(grad_y, x, scale, picked.detach(), where, mean, r, y.detach()), None, None


class NormReluGradient(torch.autograd.Function):
    """(grad_y, x, scale) -> the gradients of x, scale and shift. With d = grad_y where y > 0, M examples * positions, s = scale:

    to shift = sum d,   t = sum d * (picked - mean),   to scale = r * t,   to x = s r (d - sum d / M - (x - mean) * r**2 * t / M),

    where d, added to x, goes to the places that the maximum picked. `backward` differentiates these three; u, p, q are the
    gradients that reach them. picked, mean and r are functions of x. Nothing of x's size is kept but x itself.
    """

    @staticmethod
    def forward(
        ctx: Any, grad_y: Tensor, x: Tensor, scale: Tensor, picked: Tensor, where: Tensor | None, mean: Tensor, r: Tensor, y: Tensor
    ):
        m, sr = _count(x), scale[:, None, None] * r
        d = aten.threshold_backward(grad_y.contiguous(), y, 0)
        to_shift = _total(d)
        t = _sum(d, picked) - mean * to_shift
        slope = -sr * r * r * t / m
        constant = -sr * to_shift / m - slope * mean
        if where is None:
            to_x = torch.addcmul(constant, d, sr).addcmul_(x, slope)
        else:
            to_x = torch.addcmul(constant, x, slope).scatter_add_(2, where, d * sr)
        ctx.save_for_backward(x, scale, picked, where, mean, r, y, d, to_shift, t)
        return to_x, (t * r).flatten(1), to_shift.flatten(1)

    @staticmethod
    @once_differentiable  # a third derivative is an error and not a wrong number
    def backward(ctx: Any, u: Tensor, p: Tensor, q: Tensor):  # type: ignore[override]
        x, scale, picked, where, mean, r, y, d, d_sum, t = ctx.saved_tensors
        scale, p, q = scale[:, None, None], p[:, None, None], q[:, None, None]
        u = u.contiguous()
        at = u if where is None else u.gather(2, where)  # u at the places that count for y
        m, sr, u_sum = _count(x), scale * r, _total(u)
        u_mean, a, b = u_sum / m, r * t / m, r * (_sum(u, x) - mean * u_sum) / m
        inner = _sum(at, d) - u_mean * d_sum - m * a * b  # the derivative of sum(u * to_x) with respect to s r
        c, e = p - sr * b, -sr * a
        to_d = torch.addcmul(q - sr * u_mean - c * r * mean, at, sr).addcmul_(picked, c * r)
        slope = -r * r * (e * b + c * a) - scale * inner * r**3 / m
        to_x = torch.addcmul(-r * (e * u_mean + c * d_sum / m) - slope * mean, u, r * e).addcmul_(x, slope)
        if where is None:
            to_x.addcmul_(d, r * c)
        else:
            to_x.scatter_add_(2, where, d * (r * c))
        return aten.threshold_backward(to_d, y, 0), to_x, (r * inner).flatten(1), None, None, None, None, None


def _maximum(x: Tensor, scale: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Of each 2x2 square the value that will be largest after the affine map, and its position: `(tasks, n, positions / 4, C)`."""
    negative = scale.device.type != "cpu" or bool((scale < 0).any())  # a GPU is not waited for
    turned = x * torch.where(scale < 0, -1.0, 1.0).to(x) if negative else x
    images = turned.view(-1, *size, x.shape[3]).permute(0, 3, 1, 2)
    largest, index = aten.max_pool2d_with_indices(images, [2, 2], [2, 2])
    shape = (*x.shape[:2], -1, x.shape[3])
    index = index.permute(0, 2, 3, 1).reshape(shape)
    return x.gather(2, index) if negative else largest.permute(0, 2, 3, 1).reshape(shape), index


def _count(x: Tensor) -> int:
    return x.shape[1] * x.shape[2]


def _total(a: Tensor) -> Tensor:
    return a.sum((1, 2), keepdim=True)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)
