"""Features of images as a network itself computes them, without the encoder."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodic.preprocessing.encoders.transform import ImageTransform


def compute_network_features(
    network: nn.Module, transform: ImageTransform, pixels: NDArray[np.uint8]
) -> Tensor:
    """Compute the features of cropped images uint8 `(n, 3, size, size)`, of length 1.

    The network is in evaluation mode.
    """
    with torch.inference_mode():
        x = transform.normalize(torch.from_numpy(pixels.copy()) / 255)
        return nn.functional.normalize(network(x), dim=1)
