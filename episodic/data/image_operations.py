"""Operations on batches of images with separate parameters per image.

They are those of torchvision (`transforms.v2`): crops, horizontal flips and colour transformations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core.random_numbers import integers_below, uniform

__all__ = [
    "CROP_DRAWS",
    "CropBoxes",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "draw_crop_boxes",
    "flip_horizontally",
    "resize_crops",
]

CROP_ATTEMPTS = 10
"""Number of random boxes of which a crop uses the first that fits into the image."""

MAX_ASPECT = 4 / 3
"""Aspect ratios of crops, width / height, are between 1 / MAX_ASPECT and MAX_ASPECT."""

CROP_DRAWS = 2 * CROP_ATTEMPTS + 2
"""Random numbers per crop."""

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""


class CropBoxes(NamedTuple):
    """The rectangles that crops keep, one per image, in pixels.

    Attributes:
        top: First row, int64 `(n,)`.
        left: First column, int64 `(n,)`.
        height: Number of rows, int64 `(n,)`.
        width: Number of columns, int64 `(n,)`.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def draw_crop_boxes(bits: Tensor, height: int, width: int, area: tuple[float, float]) -> CropBoxes:
    """Draw boxes as torchvision's `RandomResizedCrop` does.

    Args:
        bits: Random bits, int64 `(n, CROP_DRAWS)`.
        height: Height of the images.
        width: Width of the images.
        area: Bounds of the area, as a fraction of the image.
    """
    areas = height * width * uniform(bits[:, :CROP_ATTEMPTS], *area)
    log_aspect = math.log(MAX_ASPECT)
    aspects = uniform(bits[:, CROP_ATTEMPTS:-2], -log_aspect, log_aspect).exp()
    heights, widths = (
        square.sqrt().round().long() for square in (areas / aspects, areas * aspects)
    )
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    attempts = torch.arange(CROP_ATTEMPTS, device=bits.device)
    first = torch.where(fits, attempts, CROP_ATTEMPTS - 1).amin(1, keepdim=True)
    # If no box fits: the largest one in the centre.
    largest = min(height, round(width * MAX_ASPECT)), min(width, round(height * MAX_ASPECT))
    found = fits.any(1)
    box_height, box_width = (
        torch.where(found, sizes.gather(1, first)[:, 0], size)
        for sizes, size in zip((heights, widths), largest, strict=True)
    )
    top, left = (
        torch.where(found, integers_below(draws, space + 1), space // 2)
        for draws, space in (
            (bits[:, -2], height - box_height),
            (bits[:, -1], width - box_width),
        )
    )
    return CropBoxes(top, left, box_height, box_width)


def resize_crops(images: Tensor, boxes: CropBoxes) -> Tensor:
    """Crop images and resize the crops to the size of the images, bilinearly.

    Crops are never larger than the images, so antialiasing does not matter.

    Args:
        images: `(n, C, H, W)`.
        boxes: The rectangles to keep.
    """
    n, channels, height, width = images.shape
    rows = images.transpose(1, 2)
    image = torch.arange(n, device=images.device)[:, None]
    low, high, weight = _interpolate(boxes.top, boxes.height, height)
    weight = weight[:, :, None, None].to(images)
    images = _mix(rows[image, high], rows[image, low], weight).transpose(1, 2)
    low, high, weight = _interpolate(boxes.left, boxes.width, width)
    left, right = (
        images.gather(3, columns[:, None, None].expand(n, channels, height, width))
        for columns in (low, high)
    )
    return _mix(right, left, weight[:, None, None].to(images))


def _interpolate(first: Tensor, size: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two pixels `(n, length)` between which each output pixel is, and its distance."""
    centres = (torch.arange(length, device=first.device) + 0.5) * (size[:, None] / length) - 0.5
    centres = centres.clamp_min(0)
    low = centres.floor().long().minimum(size[:, None] - 1)
    high = (low + 1).minimum(size[:, None] - 1)
    return first[:, None] + low, first[:, None] + high, centres - low


def flip_horizontally(images: Tensor, flipped: Tensor) -> Tensor:
    """Flip the images `(n, C, H, W)` for which `flipped`, bool `(n,)`, is true."""
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the brightness.

    Args:
        images: Images from 0 to 1, `(n, C, H, W)`.
        factor: One factor per image, `(n,)`.
    """
    return (images * _per_image(factor, images)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the difference from the mean brightness. The arguments are as above."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the difference from the grey image. The arguments are as above."""
    return _blend(images, _grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue.

    Args:
        images: Colour images from 0 to 1, `(n, 3, H, W)`.
        shift: Rotation of each image, as a fraction of the colour circle, `(n,)`.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    # In sixths of the colour circle: red is at 0, green at 2 and blue at 4.
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue = hue + 6 * shift.to(images)[:, None, None]
    channels = []
    for offset in (5, 3, 1):
        distance = (hue + offset).remainder(6)
        channels.append(value - chroma * distance.minimum(4 - distance).clamp(0, 1))
    return torch.stack(channels, 1)


def _grey(images: Tensor) -> Tensor:
    """Return the brightness `(n, 1, H, W)`."""
    if images.shape[1] == 1:
        return images
    red, green, blue = GREY_WEIGHTS
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]


def _blend(images: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    return _mix(images, base, _per_image(factor, images)).clamp(0, 1)


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Return weight * a + (1 - weight) * b, rounded as torchvision does."""
    return a * weight + b * (1 - weight)


def _per_image(factor: Tensor, images: Tensor) -> Tensor:
    return factor.to(images)[:, None, None, None]
