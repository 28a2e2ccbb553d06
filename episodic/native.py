"""`native.cpp` on torch's tensors: what the plan `compiled` is on a CPU.

The file is compiled for this very processor by the machine's C++ compiler when it is first used, in some seconds, and kept in the user's
cache folder (`~/.cache/episodic`, or in XDG_CACHE_HOME). A call is computed by one core; processes share a meta-batch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from episodic.errors import UserError
from episodic.files import beside

SOURCE = Path(__file__).with_suffix(".cpp")
PROCESSOR = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = ("-std=c++17", "-O3", PROCESSOR, "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
ASKED = "train.plan.mode is 'compiled'"
TYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("tasks", "n", "height", "width", "inputs", "outputs", "k", "stride")]


class _Norm(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("tasks", "n", "height", "width", "channels", "pool")]


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled file. Raises UserError where it cannot be made."""
    command = compiler()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "episodic"
    path = home / f"native-{_digest(SOURCE.read_text(encoding='utf-8'), *command, *FLAGS, version, _processor())}.so"
    if not path.exists():
        try:
            with beside(path) as draft:
                made = subprocess.run([*command, *FLAGS, "-o", str(draft), str(SOURCE)], capture_output=True, text=True, check=False)
                if made.returncode:
                    raise UserError(f"{ASKED}: {shlex.join(command)} does not compile {SOURCE}: {_error(made.stderr)}; use auto")
        except OSError as error:
            raise UserError(f"{ASKED}: {home} cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder") from None
    return ctypes.CDLL(str(path))


def compiler() -> list[str]:
    """The command of the C++ compiler: CXX, or g++ or clang++."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    missing = f"{wanted[0]}, which CXX names, is not" if wanted else "and neither g++ nor clang++ is"
    raise UserError(f"{ASKED}: needs a C++ compiler, {missing} installed; use auto")


def _processor() -> str:
    """What the flag `native` depends on: a home folder can be seen by machines of several kinds."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.machine(), platform.processor()]
    return "\n".join(
        dict.fromkeys(line for line in lines if not line.startswith(("processor", "cpu MHz", "bogomips", "apicid", "initial")))
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _error(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if "error" in line), "it ends without saying why")


def _call(name: str, tensors: tuple[Tensor | None, ...], *rest: object) -> None:
    first = next(tensor for tensor in tensors if tensor is not None)
    function = getattr(library(), f"{name}_{TYPES[first.dtype]}")
    function(*(None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors), *rest)


# ---- Convolution; x `(tasks, n, in, H, W)` and w `(tasks, out, in, k, k)` with channels last in memory, as in convolution.py


def convolve(x: Tensor, w: Tensor, stride: int) -> Tensor:
    shape = _shape(x, w, stride)
    rows, columns = -(-x.shape[3] // stride), -(-x.shape[4] // stride)
    y = x.new_empty(*x.shape[:2], rows, columns, w.shape[1])
    _call("convolve", (_last(x), _last(w), y), shape)
    return y.permute(0, 1, 4, 2, 3)


def to_images(g: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    to = x.new_empty(*x.shape[:2], *x.shape[3:], x.shape[2])
    _call("to_images", (_last(g), _last(w), to), _shape(x, w, stride))
    return to.permute(0, 1, 4, 2, 3)


def to_kernels(g: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    to = x.new_empty(len(x), w.shape[1], *w.shape[3:], w.shape[2])
    _call("to_kernels", (_last(g), _last(x), to), _shape(x, w, stride))
    return to.permute(0, 1, 4, 2, 3)


def _shape(x: Tensor, w: Tensor, stride: int) -> _Shape:
    return _Shape(*x.shape[:2], *x.shape[3:], w.shape[2], w.shape[1], w.shape[-1], stride)


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()


# ---- Batch norm with ReLU and maximum: the kernels of normalization.py, with `where` as numbers of corners


def norm_forward(x: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int] | None, negative: bool, eps: float) -> tuple[Tensor, ...]:
    tasks, n, _, channels = x.shape
    mean, r = (x.new_empty(tasks, 1, 1, channels) for _ in range(2))
    if size is None:
        y, picked, where = torch.empty_like(x), mean, mean
    else:
        y, picked = (x.new_empty(tasks, n, size[0] // 2 * (size[1] // 2), channels) for _ in range(2))
        where = x.new_empty(y.shape, dtype=torch.uint8)
    tensors = (x, scale.contiguous(), shift.contiguous(), y, mean, r, *((None, None) if size is None else (picked, where)))
    _call("norm_forward", tensors, _norm(x, size), ctypes.c_double(eps))
    return y, mean, r, picked, where


def norm_gradient(
    grad_y: Tensor, x: Tensor, scale: Tensor, picked: Tensor | None, where: Tensor | None, mean: Tensor, r: Tensor, y: Tensor,
    size: tuple[int, int] | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    to_x, d = torch.empty_like(x), torch.empty_like(y)
    to_scale, d_sum, t = (torch.empty_like(mean) for _ in range(3))
    tensors = (grad_y, x, scale.contiguous(), picked, where, mean, r, y, to_x, to_scale, d_sum, d, t)
    _call("norm_gradient", tensors, _norm(x, size))
    return to_x, to_scale, d_sum, d, t


def norm_second(
    u: Tensor, p: Tensor, q: Tensor, x: Tensor, scale: Tensor, picked: Tensor | None, where: Tensor | None, mean: Tensor, r: Tensor,
    y: Tensor, d: Tensor, d_sum: Tensor, t: Tensor, size: tuple[int, int] | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    to_d, to_x, to_scale = torch.empty_like(y), torch.empty_like(x), torch.empty_like(mean)
    inputs = (u, p.contiguous(), q.contiguous(), x, scale.contiguous(), picked, where, mean, r, y, d, d_sum, t)
    _call("norm_second", (*inputs, to_d, to_x, to_scale), _norm(x, size))
    return to_d, to_x, to_scale


def _norm(x: Tensor, size: tuple[int, int] | None) -> _Norm:
    return _Norm(*x.shape[:2], *(size or (x.shape[2], 1)), x.shape[3], size is not None)
