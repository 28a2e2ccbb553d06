"""Whose kernels compute: torch's own or, with the plan `compiled`, ones made for this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from episodic.ops import native

_compiled = False


@contextmanager
def use_compiled_kernels(on: bool = True) -> Iterator[None]:
    """Within, kernels are compiled ones: those of native.cpp on a CPU, elsewhere torch's compiler's, anew for each shape."""
    global _compiled
    before, _compiled = _compiled, on
    try:
        yield
    finally:
        _compiled = before


def uses_native_kernels(x: Tensor) -> bool:
    """Whether native.cpp computes what is asked of x."""
    return _compiled and x.device.type == "cpu"


def prepare_compiled_kernels(device: torch.device) -> str:
    """Compiles what is compiled once, so that processes that are forked have it; returns what the bytes of a result depend on: the
    compiler's version and, on a CPU, the digest of all that makes the kernels.

    Raises UserError where nothing can be compiled.
    """
    command = native.compiler()
    if device.type != "cpu":
        return native.version(command)
    native.library()
    return f"{native.version(command)}, {native.made(command).stem}"


def compilable(
    on_cpu: Callable[..., tuple[Tensor, ...]],
) -> Callable[[Callable[..., tuple[Tensor, ...]]], Callable[..., tuple[Tensor, ...]]]:
    """Marks a function of tensors that has a compiled form; on_cpu: the one of native.cpp."""

    def mark(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        fast: list[Callable[..., tuple[Tensor, ...]]] = []

        @wraps(function)
        def call(*arguments: Any) -> tuple[Tensor, ...]:
            if not _compiled:
                return function(*arguments)
            if uses_native_kernels(arguments[0]):
                return on_cpu(*arguments)
            if not fast:
                from torch._dynamo import config

                config.recompile_limit = (
                    256  # a shape each; beyond it the compiler would fall back in silence
                )
                config.fail_on_recompile_limit_hit = True
                fast.append(torch.compile(function, dynamic=False))
            with torch.no_grad():
                return fast[0](*(a.detach() if isinstance(a, Tensor) else a for a in arguments))

        return call

    return mark
