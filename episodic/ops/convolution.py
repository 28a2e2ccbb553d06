"""Convolution with a task axis, twice differentiable.

Images x are `(tasks, n, in, H, W)` in channels-last memory, kernels w are `(tasks, out, in, k, k)`.
Each of the three bilinear maps (forward, gradient of x, gradient of w) is computed in one of three
ways, selected only by the shapes:

- a single call of torch's convolution if all tasks share their kernels;
- batched matrix products over columns (im2col) if a task has few positions, because the overhead of
  a call of oneDNN would then dominate;
- one call per task otherwise.

On a CPU, compiled kernels (native.cpp) replace them, except for results with very few channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.ops import backend, native

__all__ = ["Convolution", "average_shared_gradients"]

MAX_POSITIONS, MAX_POSITIONS_TO_W = 128, 200
"""Output positions per task (examples * height * width) up to which matrix products are faster on a
CPU: for the forward pass and the gradient of x, and for the gradient of w. See
benchmarks/NOTES.md."""

MIN_NATIVE_CHANNELS = 4
"""Minimum number of channels of a result for which native.cpp uses its vector units efficiently."""

_averages: ContextVar[bool] = ContextVar("average_shared_gradients", default=False)


@contextmanager
def average_shared_gradients(enabled: bool = True) -> Iterator[None]:
    """Compute gradients of shared kernels for all tasks at once in backward passes of this context.

    Each task then receives the mean of the gradients of all tasks instead of its own. Their sum is
    the same, so this is for callers that only sum over tasks. It applies on a CPU; elsewhere
    backward passes run in threads that do not see the context, and each task receives its own.

    Args:
        enabled: Whether gradients are averaged.
    """
    token = _averages.set(enabled)
    try:
        yield
    finally:
        _averages.reset(token)


class Convolution(torch.autograd.Function):
    """y = x * w, where `*` is convolution with 'same' padding.

    The map is bilinear, so each derivative is again a convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: int, compiled: bool) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.stride, ctx.compiled = stride, compiled
        return _convolve(x, w, stride, compiled)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        gradients = ConvolutionGradient.apply(
            grad_y, x, w, ctx.stride, ctx.compiled, need_x, need_w
        )
        return *gradients, None, None


class ConvolutionGradient(torch.autograd.Function):
    """(grad_y, x, w) -> (grad_x, grad_w), also bilinear.

    With u and v the gradients with respect to grad_x and grad_w:

        d/d grad_y = u * w + x * v
        d/dx = the x-gradient of (x * v) at grad_y
        d/dw = the w-gradient of (u * w) at grad_y
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad_y: Tensor,
        x: Tensor,
        w: Tensor,
        stride: int,
        compiled: bool,
        need_x: bool,
        need_w: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_y, x, w)
        ctx.stride, ctx.compiled = stride, compiled
        grad_x = _gradient_to_x(grad_y, x, w, stride, compiled) if need_x else None
        grad_w = _gradient_to_w(grad_y, x, w, stride, compiled) if need_w else None
        return grad_x, grad_w

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_y, x, w = ctx.saved_tensors
        stride, compiled = ctx.stride, ctx.compiled
        need_grad_y, need_x, need_w = ctx.needs_input_grad[:3]
        to_grad_y = to_x = to_w = None
        if u is not None:
            if need_grad_y:
                to_grad_y = Convolution.apply(u, w, stride, compiled)
            if need_w:
                to_w = ConvolutionGradient.apply(grad_y, u, w, stride, compiled, False, True)[1]
        if v is not None:
            if need_grad_y:
                other = Convolution.apply(x, v, stride, compiled)
                # In place, unless a third derivative may follow.
                add = torch.add if torch.is_grad_enabled() else Tensor.add_
                to_grad_y = other if to_grad_y is None else add(to_grad_y, other)
            if need_x:
                to_x = ConvolutionGradient.apply(grad_y, x, v, stride, compiled, True, False)[0]
        return to_grad_y, to_x, to_w, None, None, None, None


def _is_shared(w: Tensor) -> bool:
    """Return whether all tasks share their kernels, judged by the strides."""
    return w.shape[0] == 1 or w.stride(0) == 0


def _prefers_columns(tasks: int, positions: int, limit: int, device: torch.device) -> bool:
    """Return whether matrix products over columns are faster.

    On a GPU they are faster if tasks have separate kernels, because one launch serves all tasks.

    Args:
        tasks: Number of tasks with separate kernels.
        positions: Output positions per task.
        limit: Positions up to which matrix products are faster on a CPU.
        device: Where the computation runs.
    """
    return positions <= limit if device.type == "cpu" else tasks > 1


def _uses_native(x: Tensor, channels: int, compiled: bool) -> bool:
    """Return whether native.cpp computes a result with this number of channels."""
    return backend.uses_native_kernels(x, compiled) and channels >= MIN_NATIVE_CHANNELS


def _convolve(x: Tensor, w: Tensor, stride: int, compiled: bool) -> Tensor:
    if _is_shared(w):
        y = _convolve_per_task(x.flatten(0, 1)[None], w[:1], stride, compiled)
        return y.view(*x.shape[:2], w.shape[1], *_output_size(x, stride))
    return _convolve_per_task(x, w, stride, compiled)


def _convolve_per_task(x: Tensor, w: Tensor, stride: int, compiled: bool) -> Tensor:
    """Convolve with separate kernels for each task."""
    if _uses_native(x, w.shape[1], compiled):
        return native.convolve(x, w, stride)
    height, width = _output_size(x, stride)
    # In an exported model the number of examples is dynamic and cannot select the algorithm.
    if not torch.compiler.is_exporting() and _prefers_columns(
        len(x), x.shape[1] * height * width, MAX_POSITIONS, x.device
    ):
        y = torch.bmm(_columns(x, w.shape[-1], stride), _as_matrix(w).mT)
        return y.view(*x.shape[:2], height, width, -1).permute(0, 1, 4, 2, 3)
    return _stack(
        [
            F.conv2d(a, _mark_channels_last(b), None, stride, b.shape[-1] // 2)
            for a, b in zip(x, w, strict=True)
        ]
    )


def _gradient_to_x(grad_y: Tensor, x: Tensor, w: Tensor, stride: int, compiled: bool) -> Tensor:
    """Compute the gradient of `(x * w, grad_y)` with respect to x. Only the shape of x is used."""
    if _is_shared(w) and len(x) > 1:
        flat_grad, flat_x = grad_y.flatten(0, 1)[None], x.flatten(0, 1)[None]
        flat = _gradient_to_x(flat_grad, flat_x, w[:1], stride, compiled)
        return torch.unflatten(flat[0], 0, x.shape[:2])
    if _uses_native(x, w.shape[2], compiled):
        return native.to_images(grad_y, x, w, stride)
    if not _prefers_columns(len(x), _count_positions(grad_y), MAX_POSITIONS, x.device):
        return _stack(
            [_torch_gradient(g, a, b, stride, 0) for g, a, b in zip(grad_y, x, w, strict=True)]
        )
    columns = torch.bmm(_channels_last(grad_y).flatten(1, 3), _as_matrix(w))
    windows = columns.view(*grad_y.shape[:2], *grad_y.shape[3:], w.shape[-1], w.shape[-1], -1)
    return _add_columns(windows, x, stride)


def _gradient_to_w(grad_y: Tensor, x: Tensor, w: Tensor, stride: int, compiled: bool) -> Tensor:
    """Compute the gradient of `(x * w, grad_y)` with respect to w. Only the shape of w is used."""
    tasks, k = len(x), w.shape[-1]
    if _averages.get() and tasks > 1 and _is_shared(w):
        flat_grad, flat_x = grad_y.flatten(0, 1)[None], x.flatten(0, 1)[None]
        whole = _gradient_to_w(flat_grad, flat_x, w[:1], stride, compiled)
        return (whole / tasks).expand(tasks, -1, -1, -1, -1)
    if _uses_native(x, w.shape[1], compiled):
        return native.to_kernels(grad_y, x, w.expand(tasks, -1, -1, -1, -1), stride)
    if _prefers_columns(tasks, _count_positions(grad_y), MAX_POSITIONS_TO_W, x.device):
        product = torch.bmm(_channels_last(grad_y).flatten(1, 3).mT, _columns(x, k, stride))
        return product.view(tasks, w.shape[1], k, k, -1).permute(0, 1, 4, 2, 3)
    per_task = w.expand(tasks, -1, -1, -1, -1)
    return torch.stack(
        [_torch_gradient(g, a, b, stride, 1) for g, a, b in zip(grad_y, x, per_task, strict=True)]
    )


def _torch_gradient(grad_y: Tensor, x: Tensor, w: Tensor, stride: int, which: int) -> Tensor:
    """Compute the gradient of one task by torch, with respect to x (which=0) or w (which=1)."""
    padding, mask = w.shape[-1] // 2, [which == 0, which == 1, False]
    w = _mark_channels_last(w)
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad_y, x, w, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, mask
    )
    return gradients[which]


def _mark_channels_last(w: Tensor) -> Tensor:
    """Return the same kernels `(out, in, k, k)` with the strides of channels-last memory.

    With a single channel the memory order is ambiguous, and torch assumes channels first. On a CPU
    the output would then be transposed, and the gradient takes up to six times as long.
    """
    if w.shape[1] == 1 and w.device.type == "cpu":
        return w.reshape(len(w), *w.shape[2:], 1).permute(0, 3, 1, 2)
    return w


def _output_size(x: Tensor, stride: int) -> tuple[int, int]:
    return -(-x.shape[3] // stride), -(-x.shape[4] // stride)


def _count_positions(y: Tensor) -> int:
    """Count the output positions per task of y `(tasks, n, out, H, W)`."""
    return y.shape[1] * y.shape[3] * y.shape[4]


def _channels_last(x: Tensor) -> Tensor:
    """`(tasks, n, C, H, W)` -> contiguous `(tasks, n, H, W, C)`, a view of channels-last memory."""
    return x.permute(0, 1, 3, 4, 2).contiguous()


def _columns(x: Tensor, k: int, stride: int) -> Tensor:
    """im2col: `(tasks, n, in, H, W)` -> `(tasks, n * positions, k * k * in)`."""
    height, width = _output_size(x, stride)
    padded = F.pad(x.permute(0, 1, 3, 4, 2), (0, 0, k // 2, k // 2, k // 2, k // 2))
    a, b, c, d, e = padded.stride()
    windows = padded.as_strided(
        (*x.shape[:2], height, width, k, k, x.shape[2]), (a, b, stride * c, stride * d, c, d, e)
    )
    return windows.reshape(len(x), -1, k * k * x.shape[2])


def _add_columns(windows: Tensor, x: Tensor, stride: int) -> Tensor:
    """col2im: add windows `(tasks, n, height, width, k, k, in)` at the positions they cover."""
    tasks, n, height, width, k, _, channels = windows.shape
    padded = windows.new_zeros(tasks, n, x.shape[3] + k - 1, x.shape[4] + k - 1, channels)
    for i in range(k):
        rows = slice(i, i + stride * (height - 1) + 1, stride)
        for j in range(k):
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            padded[:, :, rows, columns] += windows[:, :, :, :, i, j]
    inner = padded[:, :, k // 2 : k // 2 + x.shape[3], k // 2 : k // 2 + x.shape[4]]
    return inner.contiguous().permute(0, 1, 4, 2, 3)


def _as_matrix(w: Tensor) -> Tensor:
    """`(tasks, out, in, k, k)` -> `(tasks, out, k * k * in)`, a view of channels-last memory."""
    return w.permute(0, 1, 3, 4, 2).flatten(2)


def _stack(tensors: list[Tensor]) -> Tensor:
    """Stack tensors while keeping channels-last memory."""
    return (
        tensors[0][None]
        if len(tensors) == 1
        else torch.unflatten(torch.cat(tensors), 0, (len(tensors), -1))
    )
