"""64-bit numbers and where they are computed: an Apple GPU (mps) has no float64, and of int64 arithmetic but a part."""

from __future__ import annotations

import torch
from torch import Tensor


def supporting_device(device: torch.device | str) -> torch.device:
    """The device itself where it is a CPU or a CUDA GPU, else the CPU."""
    device = torch.device(device)
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def to_float64(x: Tensor) -> Tensor:
    """x in float64, at its `place`; moved first, since where it comes from may have none."""
    return x.to(supporting_device(x.device)).double()
