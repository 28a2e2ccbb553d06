"""The kernels of native.cpp for torch tensors: the plan `compiled` on a CPU.

native.cpp is compiled for the local processor on first use, which takes a few seconds. The library
is cached in `~/.cache/episodic` (or in XDG_CACHE_HOME). A call uses one core; meta-batches are
parallelized over processes.
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
import sys
from pathlib import Path

import torch
from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.files import atomic_path, cache_folder

__all__ = [
    "build_library",
    "compiler_version",
    "convolve",
    "find_compiler",
    "load_library",
    "norm_forward",
    "norm_gradient",
    "norm_second",
    "to_images",
    "to_kernels",
]

SOURCE = Path(__file__).with_suffix(".cpp")
PROCESSOR_FLAG = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
FLAGS = (
    "-std=c++17",
    "-O3",
    PROCESSOR_FLAG,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
)
FEATURE = "compiled kernels (train.plan.mode, evaluate.compiled)"
REMEDY = "set train.plan.mode to auto and evaluate.compiled to false"
TYPE_NAMES = {torch.float32: "float32", torch.float64: "float64"}


class _ConvolutionShape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("tasks", "n", "height", "width", "inputs", "outputs", "k", "stride")
    ]


class _NormShape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("tasks", "n", "height", "width", "channels", "pool")
    ]


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the library, compiling it if necessary.

    Raises:
        UserError: It cannot be compiled or loaded.
    """
    command = find_compiler()
    return _open_library(build_library(command), command)


def _open_library(path: Path, command: list[str]) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(
            f"{FEATURE}: the library built by {shlex.join(command)} cannot be loaded ({error}); "
            f"set CXX to another C++ compiler, or delete {path.parent}, or set XDG_CACHE_HOME to "
            "another folder"
        ) from None


def find_compiler() -> list[str]:
    """Find the command of the C++ compiler: CXX if it is set, otherwise g++ or clang++.

    Raises:
        UserError: No compiler is installed.
    """
    if sys.platform == "win32":
        raise UserError(f"{FEATURE} are not supported on Windows; {REMEDY}")
    variable = os.environ.get("CXX", "")
    try:
        named = shlex.split(variable)
    except ValueError:
        raise UserError(
            f"{FEATURE}: CXX is {variable!r}; it must be a command, such as g++"
        ) from None
    for command in [named] if named else [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    missing = f"and {named[0]} (set by CXX) is not" if named else "and neither g++ nor clang++ is"
    raise UserError(f"{FEATURE} need a C++ compiler, {missing} installed; install one, or {REMEDY}")


def compiler_version(command: list[str]) -> str:
    """Return the first line of the version output of the compiler."""
    return (_run([*command, "--version"]).stdout.splitlines() or ["unknown"])[0]


def build_library(command: list[str]) -> Path:
    """Compile native.cpp, unless the library is cached.

    Only one process compiles; others wait for its result.

    Args:
        command: The command of the C++ compiler.

    Returns:
        Path of the library.

    Raises:
        UserError: It cannot be compiled, loaded or written.
    """
    digest = hashlib.sha256(
        "\0".join(
            [
                SOURCE.read_text(encoding="utf-8"),
                *command,
                *FLAGS,
                compiler_version(command),
                *_describe_processor(),
            ]
        ).encode()
    )
    home = cache_folder()
    path = home / f"native-{digest.hexdigest()[:16]}.so"
    try:
        if path.exists():
            return path
        import fcntl  # not available on Windows

        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with atomic_path(path) as draft:
                    draft.touch()
                    done = _run([*command, *FLAGS, "-o", str(draft), str(SOURCE)])
                    if done.returncode:
                        raise UserError(
                            f"{FEATURE}: {shlex.join(command)} does not compile {SOURCE}: "
                            f"{_first_error(done.stderr)}; {REMEDY}"
                        )
                    _open_library(draft, command)
                    with draft.open("rb") as file:
                        os.fsync(file.fileno())  # loading a truncated library crashes
    except OSError as error:
        raise UserError(
            f"{FEATURE}: {home} cannot be written ({error.strerror}); set XDG_CACHE_HOME to "
            "another folder"
        ) from None
    return path


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except OSError as error:
        raise UserError(
            f"{FEATURE}: {shlex.join(command[:-1])} does not run ({error.strerror}); {REMEDY}"
        ) from None


def _first_error(text: str) -> str:
    return next(
        (line.strip() for line in text.splitlines() if "error" in line or "failed" in line),
        "no error message",
    )


def _describe_processor() -> list[str]:
    """Describe the processor, because machines that share a home folder may differ."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return [platform.machine(), _run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout]
    keys = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    return list(
        dict.fromkeys(line for line in info.read_text().splitlines() if line.startswith(keys))
    )


def _call(name: str, tensors: tuple[Tensor | None, ...], *rest: object) -> None:
    """Call a C function on the memory of tensors.

    Args:
        name: Name of the function without its type suffix.
        tensors: Contiguous CPU tensors of one dtype; positions of maxima are uint8.
        *rest: Further arguments.

    Raises:
        TypeError: The tensors are not supported.
        MemoryError: There is not enough memory.
    """
    dtype = tensors[0].dtype  # type: ignore[union-attr]
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype in (dtype, torch.uint8)
            and tensor.is_contiguous()
            and tensor.device.type == "cpu"
        ):
            raise TypeError(
                f"{name} requires contiguous CPU tensors of one dtype, not {tensor.dtype} "
                f"with {dtype}"
            )
    if dtype not in TYPE_NAMES:
        raise TypeError(f"compiled kernels require float32 or float64, not {dtype}")
    function = getattr(load_library(), f"{name}_{TYPE_NAMES[dtype]}")
    if function(
        *(None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *rest,
    ):
        raise MemoryError(name)


# --- Convolution of tensors in channels-last memory, as in convolution.py ---


def convolve(x: Tensor, w: Tensor, stride: int) -> Tensor:
    """Convolve images x `(tasks, n, in, H, W)` with kernels w `(tasks, out, in, k, k)`."""
    shape = _convolution_shape(x, w, stride)
    y = x.new_empty(*x.shape[:2], *_output_size(x, stride), w.shape[1])
    _call("convolve", (_channels_last(x), _channels_last(w), y), shape)
    return y.permute(0, 1, 4, 2, 3)


def to_images(grad_y: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    """Compute the gradient of `(convolve(x, w), grad_y)` with respect to x, given its shape."""
    shape = _convolution_shape(x, w, stride, grad_y)
    grad_x = x.new_empty(*x.shape[:2], *x.shape[3:], x.shape[2])
    _call("to_images", (_channels_last(grad_y), _channels_last(w), grad_x), shape)
    return grad_x.permute(0, 1, 4, 2, 3)


def to_kernels(grad_y: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    """Compute the gradient of `(convolve(x, w), grad_y)` with respect to w, given its shape."""
    shape = _convolution_shape(x, w, stride, grad_y)
    grad_w = x.new_empty(len(x), w.shape[1], *w.shape[3:], w.shape[2])
    _call("to_kernels", (_channels_last(grad_y), _channels_last(x), grad_w), shape)
    return grad_w.permute(0, 1, 4, 2, 3)


def _convolution_shape(
    x: Tensor, w: Tensor, stride: int, grad_y: Tensor | None = None
) -> _ConvolutionShape:
    (tasks, n, inputs, height, width), (outputs, k) = x.shape, (w.shape[1], w.shape[-1])
    if w.shape != (tasks, outputs, inputs, k, k) or k % 2 == 0 or not x.numel() or not w.numel():
        raise ValueError(
            f"kernels {tuple(w.shape)} and images {tuple(x.shape)} are incompatible; they must be "
            "(tasks, out, in, k, k) with odd k and (tasks, n, in, H, W)"
        )
    if grad_y is not None and grad_y.shape != (tasks, n, outputs, *_output_size(x, stride)):
        raise ValueError(
            f"the gradient {tuple(grad_y.shape)} is incompatible with {outputs} output channels of "
            f"images {tuple(x.shape)} at stride {stride}"
        )
    return _ConvolutionShape(tasks, n, height, width, inputs, outputs, k, stride)


def _output_size(x: Tensor, stride: int) -> tuple[int, int]:
    return -(-x.shape[3] // stride), -(-x.shape[4] // stride)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()


# --- Batch norm with ReLU and max pooling, as in normalization.py; `where` is a corner index ---


def norm_forward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    size: tuple[int, int] | None,
    negative: bool,
    eps: float,
) -> tuple[Tensor, ...]:
    """Compute `normalization._forward`."""
    tasks, n, _, channels = x.shape
    mean, r = (x.new_empty(tasks, 1, 1, channels) for _ in range(2))
    if size is None:
        y, picked, where = torch.empty_like(x), mean, mean
    else:
        y, picked = (
            x.new_empty(tasks, n, size[0] // 2 * (size[1] // 2), channels) for _ in range(2)
        )
        where = x.new_empty(y.shape, dtype=torch.uint8)
    tensors = (
        x,
        _expand_like(scale, mean),
        _expand_like(shift, mean),
        y,
        mean,
        r,
        *((None, None) if size is None else (picked, where)),
    )
    _call("norm_forward", tensors, _norm_shape(x, size), ctypes.c_double(eps))
    return y, mean, r, picked, where


def norm_gradient(
    grad_y: Tensor,
    x: Tensor,
    scale: Tensor,
    picked: Tensor | None,
    where: Tensor | None,
    mean: Tensor,
    r: Tensor,
    y: Tensor,
    size: tuple[int, int] | None,
) -> tuple[Tensor, ...]:
    """Compute `normalization._gradient`."""
    to_x, d = torch.empty_like(x), torch.empty_like(y)
    to_scale, d_sum, t = (torch.empty_like(mean) for _ in range(3))
    tensors = (
        grad_y,
        x,
        _expand_like(scale, mean),
        picked,
        where,
        mean,
        r,
        y,
        to_x,
        to_scale,
        d_sum,
        d,
        t,
    )
    _call("norm_gradient", tensors, _norm_shape(x, size))
    return to_x, to_scale, d_sum, d, t


def norm_second(
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
    size: tuple[int, int] | None,
) -> tuple[Tensor, ...]:
    """Compute `normalization._second`."""
    to_d, to_x, to_scale = torch.empty_like(y), torch.empty_like(x), torch.empty_like(mean)
    inputs = (
        u,
        _expand_like(p, mean),
        _expand_like(q, mean),
        x,
        _expand_like(scale, mean),
        picked,
        where,
        mean,
        r,
        y,
        d,
        d_sum,
        t,
    )
    _call("norm_second", (*inputs, to_d, to_x, to_scale), _norm_shape(x, size))
    return to_d, to_x, to_scale


def _expand_like(values: Tensor, like: Tensor) -> Tensor:
    """Expand values to one per task and channel."""
    return values.expand_as(like).contiguous()


def _norm_shape(x: Tensor, size: tuple[int, int] | None) -> _NormShape:
    if not x.numel():
        raise ValueError(f"images {tuple(x.shape)} are empty")
    return _NormShape(*x.shape[:2], *(size or (x.shape[2], 1)), x.shape[3], size is not None)
