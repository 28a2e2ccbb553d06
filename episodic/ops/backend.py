"""Selection between torch's kernels and compiled kernels (the plan `compiled`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from episodic.ops import native

__all__ = [
    "compilable",
    "compiled_kernels_enabled",
    "prepare_compiled_kernels",
    "use_compiled_kernels",
    "uses_native_kernels",
]

Kernel = Callable[..., tuple[Tensor, ...]]

MAX_SHAPES = 256
"""Maximum number of shapes for which torch's compiler compiles a function."""

_enabled: ContextVar[bool] = ContextVar("use_compiled_kernels", default=False)


@contextmanager
def use_compiled_kernels(enabled: bool = True) -> Iterator[None]:
    """Enable compiled kernels for operators called in this context.

    On a CPU these are the kernels of native.cpp. On other devices torch's compiler generates them,
    once per shape. The backward passes of an operator use the same kernels as its forward pass,
    even outside the context.

    Args:
        enabled: Whether compiled kernels are used.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def compiled_kernels_enabled() -> bool:
    """Return whether operators called now use compiled kernels."""
    return _enabled.get()


def uses_native_kernels(x: Tensor, compiled: bool) -> bool:
    """Return whether the kernels of native.cpp are used for `x`.

    Args:
        x: A tensor on the device of the computation.
        compiled: Whether the operator uses compiled kernels.
    """
    return compiled and x.device.type == "cpu"


def prepare_compiled_kernels(device: torch.device) -> str:
    """Compile the kernels of native.cpp before processes are forked so that they share them.

    Returns:
        The version of the compiler and, on a CPU, the digest of everything that determines the
        kernels. The bytes of results depend on both.

    Raises:
        UserError: No C++ compiler is available, or compilation fails.
    """
    command = native.find_compiler()
    if device.type != "cpu":
        return native.compiler_version(command)
    native.load_library()
    return f"{native.compiler_version(command)}, {native.build_library(command).stem}"


def compilable(native_kernel: Kernel) -> Callable[[Kernel], Kernel]:
    """Add compiled variants to a function of tensors.

    The decorated function takes an additional first argument, `compiled`.

    Args:
        native_kernel: The equivalent function of native.cpp.
    """

    def decorate(function: Kernel) -> Kernel:
        torch_compiled: list[Kernel] = []  # filled at the first call

        @wraps(function)
        def call(compiled: bool, *arguments: Any) -> tuple[Tensor, ...]:
            if not compiled:
                return function(*arguments)
            if uses_native_kernels(arguments[0], compiled):
                return native_kernel(*arguments)
            if not torch_compiled:
                torch_compiled.append(_compile(function))
            with torch.no_grad():
                return torch_compiled[0](
                    *(a.detach() if isinstance(a, Tensor) else a for a in arguments)
                )

        return call

    return decorate


def _compile(function: Kernel) -> Kernel:
    from torch._dynamo import config

    # Beyond this limit the compiler would silently fall back to the uncompiled function.
    config.recompile_limit = MAX_SHAPES
    config.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False)
