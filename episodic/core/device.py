"""Device selection."""

from __future__ import annotations

import torch

from episodic.core.config import ConfigError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """Resolve the name of a device.

    Args:
        name: `auto`, `cpu`, `cuda`, `mps` (Apple GPU), or a numbered GPU such as `cuda:1`. `auto`
            selects a CUDA GPU if available, otherwise the CPU. It never selects an Apple GPU,
            because torch does not guarantee reproducible results there.

    Raises:
        ConfigError: The name is unknown, or the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError("device", name, "must be one of auto, cpu, cuda, mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", name, _UNAVAILABLE.format("a CUDA device"))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device", name, _UNAVAILABLE.format("an Apple GPU"))
    return torch.device(name)


_UNAVAILABLE = "needs {} that torch can use, and this machine has none; set device to auto or cpu"
