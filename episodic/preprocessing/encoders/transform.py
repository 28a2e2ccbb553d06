"""The preprocessing that an image encoder was trained with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.config import require

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageTransform"]

MAX_SIZE = 2048

MAX_ASPECT_RATIO = 8
"""Longer images are shortened before they are resized."""


@dataclass(frozen=True)
class ImageTransform:
    """Resizing, cropping and normalization.

    Args:
        size: Height and width of the central crop, in pixels.
        resize: Length of the shorter side before the crop, in pixels.
        interpolation: Interpolation of the resizing.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel.
        square: Whether images are resized to a square before the crop, whatever their shape.
    """

    size: int
    resize: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    square: bool = False

    def __post_init__(self) -> None:
        require(
            type(self.size) is int and 16 <= self.size <= MAX_SIZE,
            "size",
            self.size,
            f"must be between 16 and {MAX_SIZE}",
        )
        require(
            type(self.resize) is int and self.size <= self.resize <= 2 * MAX_SIZE,
            "resize",
            self.resize,
            f"must be between size ({self.size}) and {2 * MAX_SIZE}",
        )
        require(
            self.interpolation in ("bilinear", "bicubic"),
            "interpolation",
            self.interpolation,
            "must be bilinear or bicubic",
        )
        for key in ("mean", "std"):
            require(
                len(getattr(self, key)) == 3, key, getattr(self, key), "must have three numbers"
            )
        require(min(self.std) > 0, "std", self.std, "must be positive")
        require(isinstance(self.square, bool), "square", self.square, "must be true or false")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageTransform:
        """Build the transform that `to_json` described.

        Raises:
            ConfigError: A value is out of range.
            TypeError: A key is missing or unknown.
        """
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        if not self.square:
            del values["square"]  # digests of encoders contain these values
        return values

    @property
    def resizing(self) -> str:
        """The resizing in words, such as `the shorter side is resized to 256 pixels`."""
        if self.square:
            return f"the whole image is resized to {self.resize} x {self.resize} pixels"
        return f"the shorter side is resized to {self.resize} pixels"

    def crop(self, image: Image) -> NDArray[np.uint8]:
        """Resize an RGB image and take the central crop, as torchvision and timm do.

        Pillow resizes in integer arithmetic, so every processor gives the same pixels.

        Returns:
            uint8 `(3, size, size)`.
        """
        from PIL import Image as PillowImage

        if self.square:
            shape = self.resize, self.resize
        else:
            image = _shorten(image)
            width, height = image.size
            short, long = sorted((width, height))
            lengths = self.resize, int(self.resize * long / short)
            shape = lengths if width <= height else lengths[::-1]
        if shape != image.size:
            filter_ = PillowImage.Resampling[self.interpolation.upper()]
            image = image.resize(shape, filter_)
        left, top = (round((length - self.size) / 2) for length in shape)
        image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image).transpose(2, 0, 1)

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize images `(n, 3, size, size)`, float32 from 0 to 1."""
        mean, std = (
            torch.tensor(values, device=x.device).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (x - mean) / std


def _shorten(image: Image) -> Image:
    """Return the central part of an extremely long image, so that resizing it takes little memory.

    The central crop of the result is the same.
    """
    width, height = image.size
    limit = MAX_ASPECT_RATIO * min(width, height)
    left, top = max(0, width - limit) // 2, max(0, height - limit) // 2
    if not left and not top:
        return image
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
