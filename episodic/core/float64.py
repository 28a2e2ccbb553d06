"""64-bit arithmetic on every device.

Apple GPUs (mps) do not support float64 and only some int64 operations; the CPU is used instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["supporting_device", "to_float64"]


def supporting_device(device: torch.device | str) -> torch.device:
    """Return the device if it supports 64-bit arithmetic, otherwise the CPU."""
    device = torch.device(device)
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def to_float64(x: Tensor) -> Tensor:
    """Convert x to float64 on its `supporting_device`."""
    # Moved first, because the device of x may not support float64.
    return x.to(supporting_device(x.device)).double()
