"""What a model may call. Every tensor carries a leading task axis: x is `(tasks, n, ...)`, a parameter `(tasks, *shape)`.

While tasks still share theta, its task axis is a view of stride 0, and one ordinary convolution serves them all. Nothing is
vmapped: torch's own batch norm under `vmap` has a wrong second derivative, and its vmapped convolutions are slow grouped ones.
Any torch function that treats the first axis as a batch may be used beside these.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Params = dict[str, Tensor]
"""Parameters by name, each `(tasks, *shape)` inside the library."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x `(tasks, n, in)`, weight `(tasks, out, in)`, bias `(tasks, out)` -> `(tasks, n, out)`."""
    return torch.baddbmm(bias[:, None], x, weight.mT)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """3x3 convolution (any odd kernel) with 'same' padding.

    x `(tasks, n, in, H, W)`, weight `(tasks, out, in, k, k)`, bias `(tasks, out)` -> `(tasks, n, out, ceil(H/stride), ...)`.
    """
    return _Convolution.apply(x, weight, stride) + bias[:, None, :, None, None]


def norm_relu(x: Tensor, scale: Tensor, shift: Tensor, reference: int | None = None, eps: float = 1e-5) -> Tensor:
    """ReLU(batch norm): normalises each channel by the mean and biased variance over a task's examples and positions.

    x `(tasks, n, C, H, W)`, scale and shift `(tasks, C)`. With `reference`, the statistics are those of the first `reference`
    examples alone: support images in front of query images make the query set's normalisation inductive.
    (Ioffe, Szegedy: Batch Normalization, 2015, algorithm 1.)
    """
    n, height, width = x.shape[1], *x.shape[3:]
    rows = x.permute(0, 1, 3, 4, 2).flatten(1, 3)  # (tasks, n*H*W, C): a view where channels are last in memory
    if reference is None:
        y = _NormRelu.apply(rows, scale, shift, eps)
    else:
        counted = rows[:, : reference * height * width]
        mean = counted.mean(1, keepdim=True)
        deviation = torch.rsqrt((counted - mean).square().mean(1, keepdim=True) + eps)
        y = torch.addcmul(shift[:, None], rows - mean, scale[:, None] * deviation).relu()
    return y.unflatten(1, (n, height, width)).permute(0, 1, 4, 2, 3)


def max_pool2d(x: Tensor) -> Tensor:
    """The maximum of each 2x2 square; an odd last row or column is dropped. x `(tasks, n, C, H, W)`."""
    return F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def channels_last(x: Tensor) -> Tensor:
    """The same images with the channels next to each other in memory, which convolutions on few channels like best."""
    return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])


class _Convolution(torch.autograd.Function):
    """y = x * w, where `*` is convolution; bilinear, so that each derivative is again a convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride = stride
        return _convolve(x, w, stride)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return *_ConvolutionGradient.apply(grad_y, x, w, ctx.stride, ctx.needs_input_grad[0], ctx.needs_input_grad[1]), None


class _ConvolutionGradient(torch.autograd.Function):
    """(grad_y, x, w) -> (grad_x, grad_w). Both are bilinear too: with u, v the gradients that reach grad_x and grad_w,

    d/d grad_y = u * w + x * v,   d/dx = the x-gradient of (x * v) at grad_y,   d/dw = the w-gradient of (u * w) at grad_y.
    """

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, x: Tensor, w: Tensor, stride: int, need_x: bool, need_w: bool):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_y, x, w)
        ctx.stride = stride
        return _convolve_backward(grad_y, x, w, stride, need_x, need_w)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None):  # type: ignore[override]
        grad_y, x, w = ctx.saved_tensors
        stride, (need_grad_y, need_x, need_w, *_) = ctx.stride, ctx.needs_input_grad
        to_grad_y = to_x = to_w = None
        if u is not None:
            if need_grad_y:
                to_grad_y = _convolve(u, w, stride)
            if need_w:
                to_w = _convolve_backward(grad_y, u, w, stride, False, True)[1]
        if v is not None:
            if need_grad_y:
                other = _convolve(x, v, stride)
                to_grad_y = other if to_grad_y is None else to_grad_y + other
            if need_x:
                to_x = _convolve_backward(grad_y, x, v, stride, True, False)[0]
        return to_grad_y, to_x, to_w, None, None, None


class _NormRelu(torch.autograd.Function):
    """relu(scale * (x - mean) * r + shift), r = 1/sqrt(variance + eps), over axis 1 of x `(tasks, rows, C)`.

    Written out because this elementwise work, differentiated twice by autograd, is most of a meta-gradient's time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        r = torch.rsqrt(_sum(centred, centred) / x.shape[1] + eps)
        y = torch.addcmul(shift[:, None], centred, scale[:, None] * r).relu_()
        ctx.save_for_backward(x, scale, centred, r, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, scale, centred, r, y = ctx.saved_tensors
        return *_NormReluGradient.apply(grad_y, x, scale, centred, r, y.detach()), None


class _NormReluGradient(torch.autograd.Function):
    """(grad_y, x, scale) -> the gradients of x, scale and shift. With d = grad_y where y > 0, M rows, s = scale:

    to shift = sum d,   t = sum d * centred,   to scale = r * t,   to x = s r (d - sum d / M - centred * r**2 * t / M).

    `backward` differentiates these three; u, p, q are the gradients that reach them. `centred` and `r` are functions of x.
    """

    @staticmethod
    def forward(ctx: Any, grad_y: Tensor, x: Tensor, scale: Tensor, centred: Tensor, r: Tensor, y: Tensor):
        m, sr = x.shape[1], scale[:, None] * r
        d = torch.ops.aten.threshold_backward(grad_y.contiguous(), y, 0)
        to_shift, t = d.sum(1, keepdim=True), _sum(d, centred)
        to_x = torch.addcmul(-sr * to_shift / m, d, sr).addcmul_(centred, -sr * r * r * t / m)
        ctx.save_for_backward(scale, centred, r, y, d, to_shift, t)
        return to_x, (t * r).squeeze(1), to_shift.squeeze(1)

    @staticmethod
    @once_differentiable  # a third derivative is an error and not a wrong number
    def backward(ctx: Any, u: Tensor, p: Tensor, q: Tensor):  # type: ignore[override]
        scale, centred, r, y, d, d_sum, t = ctx.saved_tensors
        u, p, q = u.contiguous(), p[:, None], q[:, None]
        m, sr = centred.shape[1], scale[:, None] * r
        u_mean, a, b = u.sum(1, keepdim=True) / m, r * t / m, r * _sum(u, centred) / m
        inner = _sum(u, d) - u_mean * d_sum - m * a * b  # the derivative of sum(u * to_x) with respect to s r
        c, e = p - sr * b, -sr * a
        to_d = torch.addcmul(q - sr * u_mean, u, sr).addcmul_(centred, c * r)
        to_x = torch.addcmul(-r * (e * u_mean + c * d_sum / m), u, r * e)
        to_x.addcmul_(centred, -r * r * (e * b + c * a) - scale[:, None] * inner * r**3 / m).addcmul_(d, r * c)
        return torch.ops.aten.threshold_backward(to_d, y, 0), to_x, (r * inner).squeeze(1), None, None, None


def _sum(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


def _shared(w: Tensor) -> bool:
    """Whether all tasks have the same weights, seen from the memory alone."""
    return w.shape[0] == 1 or w.stride(0) == 0


def _convolve(x: Tensor, w: Tensor, stride: int) -> Tensor:
    padding = w.shape[-1] // 2
    if _shared(w):
        return F.conv2d(x.flatten(0, 1), w[0], None, stride, padding).unflatten(0, x.shape[:2])
    return _stack([F.conv2d(a, b, None, stride, padding) for a, b in zip(x, w, strict=True)])


def _convolve_backward(
    grad_y: Tensor, x: Tensor, w: Tensor, stride: int, need_x: bool, need_w: bool
) -> tuple[Tensor | None, Tensor | None]:
    padding = w.shape[-1] // 2

    def one(g: Tensor, a: Tensor, b: Tensor, need_x: bool, need_w: bool) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(
            g, a, b, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [need_x, need_w, False]
        )[:2]

    grad_x = None
    if need_x and _shared(w):
        grad_x = one(grad_y.flatten(0, 1), x.flatten(0, 1), w[0], True, False)[0].unflatten(0, x.shape[:2])
        if not need_w:
            return grad_x, None
    parts = [one(g, a, b, need_x and grad_x is None, need_w) for g, a, b in zip(grad_y, x, w, strict=True)]
    if need_x and grad_x is None:
        grad_x = _stack([a for a, _ in parts])
    return grad_x, torch.stack([b for _, b in parts]) if need_w else None


def _stack(parts: list[Tensor]) -> Tensor:
    """torch.stack that keeps channels last."""
    return torch.cat(parts).unflatten(0, (len(parts), -1))
