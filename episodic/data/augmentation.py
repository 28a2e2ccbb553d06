"""Random augmentation of images: crops, horizontal flips and colour jitter.

The transformations are those of torchvision (`transforms.v2`), for a batch of images with separate
parameters per image. The parameters are a function of the seed, the index of the episode and the
position of the image in it, so they depend neither on the number of processes nor on resuming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import ConfigError, Fraction, Section, require
from episodic.core.episode import Episode
from episodic.core.random_numbers import integers_below, random_bits, uniform
from episodic.data.sampling import Sampler

__all__ = [
    "DRAWS",
    "Augmentation",
    "AugmentedSampler",
    "CropBoxes",
    "SupportAugmentation",
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
DRAWS = CROP_DRAWS + 5
"""Random numbers per image. Their number does not depend on the settings, so switching one
transformation on or off does not change the others."""

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

Jitter = Annotated[float, Ge(0), Le(10)]


@dataclass(frozen=True)
class Augmentation(Section):
    """Random transformations of images. The default transforms nothing.

    They are applied in the order of the arguments. Brightness, contrast and saturation are
    multiplied by factors that are drawn uniformly from max(0, 1 - value) to 1 + value.

    Differs from torchvision: the order of the colour transformations is fixed (`ColorJitter` draws
    it).

    Args:
        crop: Bounds of the area of a crop, as a fraction of the image. The aspect ratio is drawn
            log-uniformly from 3/4 to 4/3, and the crop is resized to the size of the image. None:
            no crop.
        flip: Probability of a horizontal flip.
        brightness: Maximum relative change of the brightness.
        contrast: Maximum relative change of the contrast.
        saturation: Maximum relative change of the saturation; colour images only.
        hue: Maximum change of the hue, as a fraction of the colour circle; colour images only.

    Raises:
        ConfigError: A value is out of bounds.
    """

    crop: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] | None = None
    flip: Fraction = 0.0
    brightness: Jitter = 0.0
    contrast: Jitter = 0.0
    saturation: Jitter = 0.0
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            low, high = self.crop
            require(low <= high, "crop", list(self.crop), "must be in ascending order")

    @property
    def transforms(self) -> dict[str, Any]:
        """The settings that are on, by name."""
        names = ("crop", "flip", "brightness", "contrast", "saturation", "hue")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value}

    def check_input(self, input: tuple[int, ...]) -> None:
        """Check that the transformations are possible.

        Args:
            input: Shape of one example.

        Raises:
            ConfigError: The examples are not images, or a colour transformation is set for images
                with one channel.
        """
        for name, value in self.transforms.items():
            off = "null" if name == "crop" else "0"
            shown = list(value) if isinstance(value, tuple) else value
            if len(input) != 3 or input[0] not in (1, 3):
                raise ConfigError(name, shown, f"must be {off} for examples that are not images")
            if input[0] == 1 and name in ("saturation", "hue"):
                raise ConfigError(name, shown, f"must be {off} for grey images")

    def __call__(self, images: Tensor, bits: Tensor) -> Tensor:
        """Transform images.

        Args:
            images: Images from 0 to 1, floating-point `(n, C, H, W)`.
            bits: Random bits, int64 `(n, DRAWS)`.

        Returns:
            The transformed images, of the same shape.
        """
        if self.crop is not None:
            height, width = images.shape[2:]
            boxes = draw_crop_boxes(bits[:, :CROP_DRAWS], height, width, self.crop)
            images = resize_crops(images, boxes)
        flip_bits, *factor_bits, hue_bits = bits[:, CROP_DRAWS:].unbind(1)
        if self.flip:
            images = flip_horizontally(images, uniform(flip_bits, 0, 1) < self.flip)
        for maximum, adjust, adjust_bits in zip(
            (self.brightness, self.contrast, self.saturation),
            (adjust_brightness, adjust_contrast, adjust_saturation),
            factor_bits,
            strict=True,
        ):
            if maximum:
                images = adjust(images, uniform(adjust_bits, max(0, 1 - maximum), 1 + maximum))
        if self.hue:
            images = adjust_hue(images, uniform(hue_bits, -self.hue, self.hue))
        return images

    def augment_set(self, x: Tensor, index: Tensor, seed: int, purpose: str) -> Tensor:
        """Transform the images of a support or query set.

        Args:
            x: Images `(tasks, n, C, H, W)`.
            index: Episode indices, int64 `(tasks,)`.
            seed: Seed of the episodes.
            purpose: What the random numbers are used for.

        Raises:
            ConfigError: As in `check_input`.
        """
        self.check_input(tuple(x.shape[2:]))
        tasks, n = x.shape[:2]
        key = random_numbers.key(seed, f"augmentation of {purpose}")
        bits = random_bits(key, index.to(x.device), n * DRAWS).view(tasks * n, DRAWS)
        return self(x.flatten(0, 1), bits).view(x.shape)


@dataclass(frozen=True)
class SupportAugmentation(Augmentation):
    """Augmented copies of the support examples of test episodes.

    Args:
        copies: Augmented copies per support example. 0: only the example itself.

    Raises:
        ConfigError: A value is out of bounds, or there are copies but no transformation.
    """

    copies: Annotated[int, Ge(0), Le(1000)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.copies or bool(self.transforms),
            "copies",
            self.copies,
            "must be 0 unless crop, flip, brightness, contrast, saturation or hue is set",
        )

    def extend_support(self, episode: Episode, index: Tensor, seed: int, split: str) -> Episode:
        """Add the copies to the support sets, after the examples of the same class.

        Args:
            episode: Episodes with equal shots per class, on a device that supports float64.
            index: Episode indices, int64 `(tasks,)`.
            seed: Seed of the episodes.
            split: Name of the split.

        Raises:
            ConfigError: As in `check_input`.
        """
        if not self.copies:
            return episode
        x, y = episode.support_x, episode.support_y
        repeated = x.repeat(1, self.copies, *[1] * (x.dim() - 2))
        copies = self.augment_set(repeated, index, seed, f"{split} support copies")

        def group_classes(tensor: Tensor) -> Tensor:
            sets = torch.unflatten(tensor, 1, (1 + self.copies, episode.classes, -1))
            return sets.transpose(1, 2).flatten(1, 3)

        return episode._replace(
            support_x=group_classes(torch.cat([x, copies], 1)),
            support_y=group_classes(y.repeat(1, 1 + self.copies)),
        )


@dataclass(frozen=True)
class AugmentedSampler:
    """Sampler of the episodes of another sampler with augmented support and query sets.

    Args:
        sampler: Sampler of episodes of images, on a device that supports float64.
        augmentation: The transformations.
        seed: Seed of the episodes.
        split: Name of the split.
    """

    sampler: Sampler
    augmentation: Augmentation
    seed: int
    split: str

    def __call__(self, index: Tensor) -> Episode:
        episode, augment = self.sampler(index), self.augmentation.augment_set
        return episode._replace(
            support_x=augment(episode.support_x, index, self.seed, f"{self.split} support"),
            query_x=augment(episode.query_x, index, self.seed, f"{self.split} query"),
        )


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
