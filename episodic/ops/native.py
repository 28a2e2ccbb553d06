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
import sys
from pathlib import Path

import torch
from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.files import atomic_path

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
    """The compiled file. Raises UserError where it cannot be made."""
    command = find_compiler()
    return _open_library(build_library(command), command)


def _open_library(path: Path, command: list[str]) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(
            f"{FEATURE}: what {shlex.join(command)} makes cannot be loaded ({error}); set CXX to another C++ compiler, or delete "
            f"{path.parent}, or set XDG_CACHE_HOME to another folder"
        ) from None


def find_compiler() -> list[str]:
    """The command of the C++ compiler: CXX, or g++ or clang++. Raises UserError where there is none."""
    if sys.platform == "win32":
        raise UserError(f"{FEATURE} are for Linux and macOS; {REMEDY}")
    said = os.environ.get("CXX", "")
    try:
        wanted = shlex.split(said)
    except ValueError:
        raise UserError(f"{FEATURE}: CXX is {said!r}, which is no command") from None
    for command in [wanted] if wanted else [["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    missing = (
        f"and {wanted[0]}, which CXX names, is not" if wanted else "and neither g++ nor clang++ is"
    )
    raise UserError(f"{FEATURE} need a C++ compiler, {missing} installed; install one, or {REMEDY}")


def compiler_version(command: list[str]) -> str:
    """What the compiler calls itself, in one line."""
    return (_run([*command, "--version"]).stdout.splitlines() or ["unknown"])[0]


def build_library(command: list[str]) -> Path:
    """Where the compiled file is. One process compiles at a time; the others find it."""
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
    home = _cache_folder()
    path = home / f"native-{digest.hexdigest()[:16]}.so"
    try:
        if path.exists():
            return path
        import fcntl  # not on Windows, where nothing else here needs it

        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with atomic_path(path) as draft:
                    draft.touch()
                    done = _run([*command, *FLAGS, "-o", str(draft), str(SOURCE)])
                    if done.returncode:
                        raise UserError(
                            f"{FEATURE}: {shlex.join(command)} does not compile {SOURCE}: {_first_error(done.stderr)}; {REMEDY}"
                        )
                    _open_library(draft, command)
                    with draft.open("rb") as file:
                        os.fsync(file.fileno())  # half of it would end a program without a word
    except OSError as error:
        raise UserError(
            f"{FEATURE}: {home} cannot be written ({error.strerror}); set XDG_CACHE_HOME to another folder"
        ) from None
    return path


def _cache_folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "episodic"
    except RuntimeError:
        raise UserError(
            f"{FEATURE} need a folder to be kept in, and there is no home folder; set XDG_CACHE_HOME"
        ) from None


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
        "it ends without saying why",
    )


def _describe_processor() -> list[str]:
    """What the flag `native` depends on: a home folder can be seen by machines of several kinds."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return [platform.machine(), _run(["sysctl", "-n", "machdep.cpu.brand_string"]).stdout]
    named = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU implementer", "CPU part")
    return list(
        dict.fromkeys(line for line in info.read_text().splitlines() if line.startswith(named))
    )


def _call(name: str, tensors: tuple[Tensor | None, ...], *rest: object) -> None:
    """The C function on the memory of the tensors, which are of one type (numbers of corners are bytes) and without gaps."""
    dtype = tensors[0].dtype  # type: ignore[union-attr]
    for tensor in tensors:
        if tensor is not None and not (
            tensor.dtype in (dtype, torch.uint8)
            and tensor.is_contiguous()
            and tensor.device.type == "cpu"
        ):
            raise TypeError(
                f"{name} takes tensors of one type, contiguous and on the CPU, and not {tensor.dtype} beside {dtype}"
            )
    if dtype not in TYPE_NAMES:
        raise TypeError(f"compiled kernels take float32 or float64, and not {dtype}")
    function = getattr(load_library(), f"{name}_{TYPE_NAMES[dtype]}")
    if function(
        *(None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        *rest,
    ):
        raise MemoryError(name)


# ---- Convolution; x `(tasks, n, in, H, W)` and w `(tasks, out, in, k, k)` with channels last in memory, as in convolution.py


def convolve(x: Tensor, w: Tensor, stride: int) -> Tensor:
    shape = _convolution_shape(x, w, stride)
    y = x.new_empty(*x.shape[:2], *_output_size(x, stride), w.shape[1])
    _call("convolve", (_channels_last(x), _channels_last(w), y), shape)
    return y.permute(0, 1, 4, 2, 3)


def to_images(g: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    shape = _convolution_shape(x, w, stride, g)
    to = x.new_empty(*x.shape[:2], *x.shape[3:], x.shape[2])
    _call("to_images", (_channels_last(g), _channels_last(w), to), shape)
    return to.permute(0, 1, 4, 2, 3)


def to_kernels(g: Tensor, x: Tensor, w: Tensor, stride: int) -> Tensor:
    shape = _convolution_shape(x, w, stride, g)
    to = x.new_empty(len(x), w.shape[1], *w.shape[3:], w.shape[2])
    _call("to_kernels", (_channels_last(g), _channels_last(x), to), shape)
    return to.permute(0, 1, 4, 2, 3)


def _convolution_shape(
    x: Tensor, w: Tensor, stride: int, g: Tensor | None = None
) -> _ConvolutionShape:
    (tasks, n, inputs, height, width), (outputs, k) = x.shape, (w.shape[1], w.shape[-1])
    if w.shape != (tasks, outputs, inputs, k, k) or k % 2 == 0 or not x.numel() or not w.numel():
        raise ValueError(
            f"kernels {tuple(w.shape)} do not fit images {tuple(x.shape)}: (tasks, out, in, k, k), k odd, and (tasks, n, in, H, W)"
        )
    if g is not None and g.shape != (tasks, n, outputs, *_output_size(x, stride)):
        raise ValueError(
            f"a gradient {tuple(g.shape)} is not that of {outputs} channels from images {tuple(x.shape)} at stride {stride}"
        )
    return _ConvolutionShape(tasks, n, height, width, inputs, outputs, k, stride)


def _output_size(x: Tensor, stride: int) -> tuple[int, int]:
    return -(-x.shape[3] // stride), -(-x.shape[4] // stride)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 1, 3, 4, 2).contiguous()


# ---- Batch norm with ReLU and maximum: the kernels of normalization.py, with `where` as numbers of corners


def norm_forward(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    size: tuple[int, int] | None,
    negative: bool,
    eps: float,
) -> tuple[Tensor, ...]:
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
    """A value for each task and channel."""
    return values.expand_as(like).contiguous()


def _norm_shape(x: Tensor, size: tuple[int, int] | None) -> _NormShape:
    if not x.numel():
        raise ValueError(f"images without a number in them: {tuple(x.shape)}")
    return _NormShape(*x.shape[:2], *(size or (x.shape[2], 1)), x.shape[3], size is not None)
