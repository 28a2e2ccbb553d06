"""Random augmentation of images: crops, horizontal flips and colour jitter.

The parameters of the transformations are a function of the seed, the index of the episode and the
position of the image in it, so they depend neither on the number of processes nor on resuming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.config import ConfigError, Fraction, Section, require
from episodic.core.episode import Episode
from episodic.core.random_numbers import integers_below, random_bits, uniform
from episodic.data.image_operations import (
    CROP_DRAWS,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    draw_crop_boxes,
    flip_horizontally,
    resize_crops,
)
from episodic.data.sampling import Sampler
from episodic.data.warping import WARP_DRAWS, draw_warps, warp_images

__all__ = [
    "DRAWS",
    "Augmentation",
    "AugmentedSampler",
    "SupportAugmentation",
    "TrainingAugmentation",
]

DRAWS = CROP_DRAWS + 5
"""Random numbers per image, besides those of deformations. Their number does not depend on the
settings, so switching one transformation on or off does not change the others."""

SYMMETRIES = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""The symmetries of the square: quarter turns after a mirror image, if any."""

WARPS = ("rotation", "scale", "shear", "translation", "elastic")
"""The settings of deformations."""

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
        rotation: Maximum rotation, in degrees. What comes from outside the image is black, as are
            the paper of drawings that are stored inverted and all deformations below.
        scale: Maximum relative change of width and of height, drawn separately.
        shear: Maximum angle of a horizontal shear, in degrees.
        translation: Maximum translation, as a fraction of width and height.
        elastic: Maximum displacement of the control points of an elastic deformation, as a fraction
            of width and height.

    Raises:
        ConfigError: A value is out of bounds.
    """

    crop: tuple[Annotated[float, Gt(0), Le(1)], Annotated[float, Gt(0), Le(1)]] | None = None
    flip: Fraction = 0.0
    brightness: Jitter = 0.0
    contrast: Jitter = 0.0
    saturation: Jitter = 0.0
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    rotation: Annotated[float, Ge(0), Le(180)] = 0.0
    scale: Annotated[float, Ge(0), Le(10)] = 0.0
    shear: Annotated[float, Ge(0), Le(80)] = 0.0
    translation: Fraction = 0.0
    elastic: Fraction = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            low, high = self.crop
            require(low <= high, "crop", list(self.crop), "must be in ascending order")

    @property
    def transforms(self) -> dict[str, Any]:
        """The settings that are on, by name."""
        names = ("crop", "flip", "brightness", "contrast", "saturation", "hue", *WARPS)
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
            off = {"crop": "null", "dihedral": "false"}.get(name, "0")
            shown = list(value) if isinstance(value, tuple) else value
            if len(input) != 3 or input[0] not in (1, 3):
                raise ConfigError(name, shown, f"must be {off} for examples that are not images")
            if input[0] == 1 and name in ("saturation", "hue"):
                raise ConfigError(name, shown, f"must be {off} for grey images")

    def __call__(self, images: Tensor, bits: Tensor, warp_bits: Tensor | None = None) -> Tensor:
        """Transform images.

        Args:
            images: Images from 0 to 1, floating-point `(n, C, H, W)`.
            bits: Random bits, int64 `(n, DRAWS)`.
            warp_bits: Random bits of deformations, int64 `(n, WARP_DRAWS)`. None: no deformation.

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
        bounds = {name: getattr(self, name) for name in WARPS}
        if warp_bits is not None and any(bounds.values()):
            images = warp_images(images, draw_warps(warp_bits, **bounds))
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

        def draw(kind: str, count: int) -> Tensor:
            key = random_numbers.key(seed, f"{kind} of {purpose}")
            return random_bits(key, index.to(x.device), n * count).view(tasks * n, count)

        # Deformations have numbers of their own, so that they do not change the other ones.
        warp_bits = draw("warps", WARP_DRAWS) if any(getattr(self, n) for n in WARPS) else None
        return self(x.flatten(0, 1), draw("augmentation", DRAWS), warp_bits).view(x.shape)


@dataclass(frozen=True)
class TrainingAugmentation(Augmentation):
    """Random transformations of the images of training episodes.

    Args:
        dihedral: Whether to transform all images of an episode alike by one of the eight symmetries
            of the square (rotations by multiples of 90 degrees and mirror images) before the other
            transformations. The classes of the episode become new ones, of a new group.

    Source: rotations as additional classes, Santoro et al.: Meta-Learning with Memory-Augmented
    Neural Networks, 2016, section 4.1. http://proceedings.mlr.press/v48/santoro16.html
    """

    dihedral: bool = False

    @property
    def transforms(self) -> dict[str, Any]:
        return ({"dihedral": True} if self.dihedral else {}) | super().transforms

    def check_input(self, input: tuple[int, ...]) -> None:
        super().check_input(input)
        if self.dihedral and input[1] != input[2]:
            raise ConfigError("dihedral", True, "must be false for images that are not square")

    def transform_episode(self, episode: Episode, index: Tensor, seed: int, split: str) -> Episode:
        """Transform all images of an episode alike.

        Args:
            episode: Episodes of square images.
            index: Episode indices, int64 `(tasks,)`.
            seed: Seed of the episodes.
            split: Name of the split.

        Raises:
            ConfigError: As in `check_input`.
        """
        if not self.dihedral:
            return episode
        self.check_input(tuple(episode.support_x.shape[2:]))
        key = random_numbers.key(seed, f"dihedral of {split}")
        bits = random_bits(key, index.to(episode.support_x.device), 1)[:, 0]
        symmetry = integers_below(bits, len(SYMMETRIES))[:, None, None, None, None]

        def transform(x: Tensor) -> Tensor:
            # A loop over tasks would read the values of `symmetry`, which synchronizes with a GPU.
            result = x
            for number, (turns, mirrored) in enumerate(SYMMETRIES):
                image = torch.rot90(x.flip(-1) if mirrored else x, turns, (-2, -1))
                result = torch.where(symmetry == number, image, result)
            return result

        return episode._replace(
            support_x=transform(episode.support_x), query_x=transform(episode.query_x)
        )


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
            "must be 0 unless a transformation, such as crop, is set",
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
        if isinstance(self.augmentation, TrainingAugmentation):
            episode = self.augmentation.transform_episode(episode, index, self.seed, self.split)
        return episode._replace(
            support_x=augment(episode.support_x, index, self.seed, f"{self.split} support"),
            query_x=augment(episode.query_x, index, self.seed, f"{self.split} query"),
        )
