"""64-bit arithmetic on every device.

An Apple GPU (mps) has no float64, and only part of int64 arithmetic: the CPU does it instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["supporting_device", "to_float64"]


def supporting_device(device: torch.device | str) -> torch.device:
    """The device itself if it computes in 64 bits, else the CPU."""
    device = torch.device(device)
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def to_float64(x: Tensor) -> Tensor:
    """Convert x to float64 on its `supporting_device`."""
    # Moved first, since its own device may have no float64.
    return x.to(supporting_device(x.device)).double()
