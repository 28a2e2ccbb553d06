"""Convolution with a task axis, and its two derivatives.

x is `(tasks, n, in, H, W)` with channels last in memory, w `(tasks, out, in, k, k)`. Each of the three bilinear maps (forward, to x,
to w) is computed in one of three ways, chosen from the shapes alone: one call of torch's convolution where all tasks share their
weights; a batch of matrix products over columns (im2col) where a task has few positions, since a call of oneDNN then costs
more than its work; else one call a task. With the plan `compiled` native.cpp does it on a CPU, but for results of fewer than
four channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.ops import backend, native

FEW, FEW_TO_W = 128, 200
"""Output positions a task (examples * height * width) up to which matrix products are faster on a CPU: forward and to x, and to w.
See benchmarks/NOTES.md."""

_only_sums = False


@contextmanager
def only_sums(on: bool = True) -> Iterator[None]:
    """Within, gradients of weights that all tasks share are right in their sum over tasks alone (each is the mean).

    For the last step of a meta-gradient, which only needs that sum: one call then serves all tasks.
    """
    global _only_sums
    before, _only_sums = _only_sums, on
    try:
        yield
    finally:
        _only_sums = before


class Convolution(torch.autograd.Function):
    """y = x * w, where `*` is convolution with 'same' padding; bilinear, so that each derivative is again a convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride = stride
        return _convolve(x, w, stride)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return *ConvolutionGradient.apply(grad_y, x, w, ctx.stride, *ctx.needs_input_grad[:2]), None


class ConvolutionGradient(torch.autograd.Function):
    """(grad_y, x, w) -> (grad_x, grad_w). Both are bilinear too: with u, v the gradients that reach grad_x and grad_w,

    d/d grad_y = u * w + x * v,   d/dx = the x-gradient of (x * v) at grad_y,   d/dw = the w-gradient of (u * w) at grad_y.
    """

    @staticmethod
    def forward(
        ctx: Any, grad_y: Tensor, x: Tensor, w: Tensor, stride: int, need_x: bool, need_w: bool
    ):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_y, x, w)
        ctx.stride = stride
        return _to_x(grad_y, x, w, stride) if need_x else None, _to_w(
            grad_y, x, w, stride
        ) if need_w else None

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None):  # type: ignore[override]
        grad_y, x, w = ctx.saved_tensors
        stride, (need_grad_y, need_x, need_w, *_) = ctx.stride, ctx.needs_input_grad
        to_grad_y = to_x = to_w = None
        if u is not None:
            if need_grad_y:
                to_grad_y = Convolution.apply(u, w, stride)
            if need_w:
                to_w = ConvolutionGradient.apply(grad_y, u, w, stride, False, True)[1]
        if v is not None:
            if need_grad_y:
                other = Convolution.apply(x, v, stride)
                add = (
                    torch.add if torch.is_grad_enabled() else Tensor.add_
                )  # in place unless a third derivative may follow
                to_grad_y = other if to_grad_y is None else add(to_grad_y, other)
            if need_x:
                to_x = ConvolutionGradient.apply(grad_y, x, v, stride, True, False)[0]
        return to_grad_y, to_x, to_w, None, None, None


def _shared(w: Tensor) -> bool:
    """Whether all tasks have the same weights, seen from the memory alone."""
    return w.shape[0] == 1 or w.stride(0) == 0


def _few(y: Tensor | torch.Size, limit: int, device: torch.device) -> bool:
    """Whether matrix products are the faster way; y `(tasks, n, out, H, W)`. On a GPU wherever tasks have weights of their own:
    one kernel then serves them all."""
    shape = y if isinstance(y, torch.Size) else y.shape
    if device.type != "cpu":
        return shape[0] > 1
    return shape[1] * shape[3] * shape[4] <= limit


def _by_native(x: Tensor, channels: int) -> bool:
    """Whether native.cpp computes a result of so many channels: of very few it makes poor use of its vectors."""
    return backend.uses_native_kernels(x) and channels >= 4


def _convolve(x: Tensor, w: Tensor, stride: int) -> Tensor:
    if _shared(w):
        return _own(x.flatten(0, 1)[None], w[:1], stride).view(
            *x.shape[:2], w.shape[1], *_out(x, stride)
        )
    return _own(x, w, stride)


def _own(x: Tensor, w: Tensor, stride: int) -> Tensor:
    """Each task its own weights."""
    if _by_native(x, w.shape[1]):
        return native.convolve(x, w, stride)
    height, width = _out(x, stride)
    # While a model is exported the number of examples is open, so that nothing can be chosen by it.
    if not torch.compiler.is_exporting() and _few(
        torch.Size((*x.shape[:2], 0, height, width)), FEW, x.device
    ):
        y = torch.bmm(_columns(x, w.shape[-1], stride), _matrix(w).mT)
        return y.view(*x.shape[:2], height, width, -1).permute(0, 1, 4, 2, 3)
    return _stack(
        [
            F.conv2d(a, _one_channel_last(b), None, stride, b.shape[-1] // 2)
            for a, b in zip(x, w, strict=True)
        ]
    )


def _to_x(grad_y: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    """The gradient of `(x * w, grad_y)` with respect to x, of which only the shape counts."""
    if _shared(w) and len(x) > 1:
        flat = _to_x(grad_y.flatten(0, 1)[None], x.flatten(0, 1)[None], w[:1], stride)
        return flat[0].unflatten(0, x.shape[:2])
    if _by_native(x, w.shape[2]):
        return native.to_images(grad_y, x, w, stride)
    if not _few(grad_y, FEW, x.device):
        return _stack([_by_torch(g, a, b, stride, 0) for g, a, b in zip(grad_y, x, w, strict=True)])
    columns = torch.bmm(_last(grad_y).flatten(1, 3), _matrix(w))
    return _add_columns(
        columns.view(*grad_y.shape[:2], *grad_y.shape[3:], w.shape[-1], w.shape[-1], -1), x, stride
    )


def _to_w(grad_y: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    """The gradient of `(x * w, grad_y)` with respect to w, of which only the shape counts."""
    tasks, k = len(x), w.shape[-1]
    if _only_sums and tasks > 1 and _shared(w):
        whole = _to_w(grad_y.flatten(0, 1)[None], x.flatten(0, 1)[None], w[:1], stride)
        return (whole / tasks).expand(tasks, -1, -1, -1, -1)
    if _by_native(x, w.shape[1]):
        return native.to_kernels(grad_y, x, w.expand(tasks, -1, -1, -1, -1), stride)
    if _few(grad_y, FEW_TO_W, x.device):
        product = torch.bmm(_last(grad_y).flatten(1, 3).mT, _columns(x, k, stride))
        return product.view(tasks, w.shape[1], k, k, -1).permute(0, 1, 4, 2, 3)
    return torch.stack(
        [_by_torch(g, a, b, stride, 1) for g, a, b in zip(grad_y, x, w, strict=True)]
    )


def _by_torch(g: Tensor, x: Tensor, w: Tensor, stride: int, which: int) -> Tensor:
    padding, mask = w.shape[-1] // 2, [which == 0, which == 1, False]
    w = _one_channel_last(w)
    return torch.ops.aten.convolution_backward(
        g, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )[which]


def _one_channel_last(w: Tensor) -> Tensor:
    """The same kernels `(out, in, k, k)`. Of a single channel both orders of memory look alike, and torch takes it for channels first:
    on a CPU its output would have to be turned, and its gradient takes up to six times as long."""
    return (
        w.reshape(len(w), *w.shape[2:], 1).permute(0, 3, 1, 2)
        if w.shape[1] == 1 and w.device.type == "cpu"
        else w
    )


def _out(x: Tensor, stride: int) -> tuple[int, int]:
    return -(-x.shape[3] // stride), -(-x.shape[4] // stride)


def _last(x: Tensor) -> Tensor:
    """`(tasks, n, C, H, W)` -> `(tasks, n, H, W, C)`, contiguous: a view where channels are last in memory."""
    return x.permute(0, 1, 3, 4, 2).contiguous()


def _columns(x: Tensor, k: int, stride: int) -> Tensor:
    """im2col: `(tasks, n, in, H, W)` -> `(tasks, n * positions, k * k * in)`."""
    height, width = _out(x, stride)
    padded = F.pad(x.permute(0, 1, 3, 4, 2), (0, 0, k // 2, k // 2, k // 2, k // 2))
    a, b, c, d, e = padded.stride()
    windows = padded.as_strided(
        (*x.shape[:2], height, width, k, k, x.shape[2]), (a, b, stride * c, stride * d, c, d, e)
    )
    return windows.reshape(len(x), -1, k * k * x.shape[2])


def _add_columns(columns: Tensor, x: Tensor, stride: int) -> Tensor:
    """col2im: `(tasks, n, height, width, k, k, in)` added up at the places in x that they came from.

    Of a window's rows, those less than a stride apart meet no other window's: `stride` of them are added at a time.
    """
    tasks, n, height, width, k, _, channels = columns.shape
    padded = columns.new_zeros(tasks, n, x.shape[3] + k - 1, x.shape[4] + k - 1, channels)
    a, b, row, place, c = padded.stride()
    for i in range(0, k, stride):
        for j in range(0, k, stride):
            part = columns[..., i : i + stride, j : j + stride, :].transpose(
                3, 4
            )  # (tasks, n, height, rows, width, places, in)
            shape = (tasks, n, height, part.shape[3], width, part.shape[5], channels)
            places = padded.as_strided(
                shape, (a, b, stride * row, row, stride * place, place, c), i * row + j * place
            )
            places += part
    inner = padded[:, :, k // 2 : k // 2 + x.shape[3], k // 2 : k // 2 + x.shape[4]]
    return inner.contiguous().permute(0, 1, 4, 2, 3)


def _matrix(w: Tensor) -> Tensor:
    """`(tasks, out, in, k, k)` -> `(tasks, out, k * k * in)`: a view where channels are last in memory."""
    return w.permute(0, 1, 3, 4, 2).flatten(2)


def _stack(parts: list[Tensor]) -> Tensor:
    """torch.stack that keeps channels last."""
    return parts[0][None] if len(parts) == 1 else torch.cat(parts).unflatten(0, (len(parts), -1))
