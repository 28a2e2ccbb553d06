"""Images of any size and format: converted to one size, or to features of an encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.base import InputError, require_sequence
from episodic.preprocessing.encoders.architectures import LITE0, EncoderError
from episodic.preprocessing.encoders.blocks import TunedBlocks
from episodic.preprocessing.encoders.encoder import (
    ENCODER_VARIABLE,
    ImageEncoder,
    find_encoder,
    load_encoder,
)
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.encoders.weights import EncoderDescription, read_description
from episodic.preprocessing.images.reading import (
    crop_image,
    decode_image,
    list_images,
    read_images,
)
from episodic.preprocessing.numbers import to_array

__all__ = [
    "CroppedImagePreprocessor",
    "EncodedImagePreprocessor",
    "ImagePreprocessor",
    "PixelPreprocessor",
    "build",
]


class ImagePreprocessor:
    """Base class of the preprocessors of images."""

    example_name = "image"

    def __call__(self, x: Any, progress: ProgressCallback = no_progress) -> Tensor:
        """Return examples `(n, *input)`.

        Args:
            x: A list of paths, Pillow images, contents of files or arrays `(C, H, W)`; or an array,
                as the subclass defines it.
            progress: Called with the number of images of a list that are done.

        Raises:
            InputError: Some images cannot be read. All of them are listed.
        """
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype != object):
            return self._convert_array(x)
        return self._convert_images(require_sequence(x, self.example_name), progress)

    def _convert_images(
        self, images: Sequence[Any], progress: ProgressCallback = no_progress
    ) -> Tensor:
        if not len(images):
            raise InputError("x is empty: pass at least one image")
        blocks = read_images(images, self._read_image, progress)
        return torch.cat([self._convert_block(block) for block in blocks])

    def _convert_array(self, x: NDArray[Any] | Tensor) -> Tensor:
        """Return the examples of an array of many."""
        raise NotImplementedError

    def _read_image(self, image: Any) -> NDArray[Any]:
        """Read one image."""
        raise NotImplementedError

    def _convert_block(self, images: NDArray[Any]) -> Tensor:
        """Return the examples of stacked results of `_read_image`."""
        raise NotImplementedError

    def examples_in_folder(self, folder: Path) -> list[Path]:
        """List the images in a folder by name, without hidden files."""
        return list_images(folder)

    def examples_in_file(self, path: Path) -> list[Path]:
        """Return the file itself, which is one image."""
        return [path]


@dataclass(frozen=True)
class PixelPreprocessor(ImagePreprocessor):
    """Preprocessor of images whose pixels are the examples, from 0 to 1.

    An array of examples `(n, C, H, W)` is uint8 from 0 to 255 or float from 0 to 1. Arrays are not
    inverted.

    Args:
        input: Shape of one example, `(channels, height, width)`.
        inverted: Whether dark ink on light paper is stored as light on dark, as in Omniglot.
    """

    input: tuple[int, int, int]
    inverted: bool = False

    def _convert_array(self, x: NDArray[Any] | Tensor) -> Tensor:
        array = to_array(x, self.input)
        pixels = array.astype(np.float32)
        return torch.from_numpy(pixels / 255 if array.dtype == np.uint8 else pixels)

    def _read_image(self, image: Any) -> NDArray[Any]:
        if isinstance(image, (np.ndarray, Tensor)):
            return self._convert_array(image[None])[0].numpy()
        return decode_image(image, self.input, self.inverted).astype(np.float32) / 255

    def _convert_block(self, images: NDArray[Any]) -> Tensor:
        return torch.from_numpy(images)


@dataclass(frozen=True)
class CroppedImagePreprocessor(ImagePreprocessor):
    """Preprocessor of images that are resized and cropped for an encoder, but not encoded.

    An example is a row of pixels, uint8. An array contains images `(n, 3, H, W)`, uint8 from 0 to
    255 or float from 0 to 1, or examples `(n, 3 * size * size)`.

    Args:
        transform: The preprocessing of the encoder.
    """

    transform: ImageTransform

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (3 * self.transform.size**2,)

    def unflatten(self, x: Tensor) -> Tensor:
        """Return examples as images, uint8 `(n, 3, size, size)`."""
        return x.view(-1, 3, self.transform.size, self.transform.size)

    def _convert_array(self, x: NDArray[Any] | Tensor) -> Tensor:
        if x.ndim != 2:
            return self._convert_images(list(x))
        if x.shape[1:] != self.input or torch.as_tensor(x).dtype != torch.uint8:
            raise InputError(
                f"x is {x.dtype} {tuple(x.shape)}: pass images, since the encoder is fine-tuned on "
                "them"
            )
        return torch.as_tensor(x)

    def _read_image(self, image: Any) -> NDArray[Any]:
        return crop_image(image, self.transform)

    def _convert_block(self, images: NDArray[Any]) -> Tensor:
        return torch.from_numpy(images).flatten(1)


@dataclass(frozen=True)
class EncodedImagePreprocessor(ImagePreprocessor):
    """Preprocessor of images that a pretrained encoder turns into features of length 1.

    An array contains images `(n, 3, H, W)`, uint8 from 0 to 255 or float from 0 to 1, cropped
    images as from `crops`, or features `(n, width)`.

    Args:
        description: The encoder.
        path: File of the encoder. None: `efficientnet_lite0` is found by itself, and others by
            EPISODIC_ENCODER.
        tuned_blocks: Blocks of the encoder that were fine-tuned. None: it is as in its file.
    """

    description: EncoderDescription
    path: Path | None = None
    tuned_blocks: TunedBlocks | None = None

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.description.width,)

    @property
    def crops(self) -> CroppedImagePreprocessor:
        """The preprocessing before the encoder."""
        return CroppedImagePreprocessor(self.description.transform)

    def _convert_array(self, x: NDArray[Any] | Tensor) -> Tensor:
        if x.ndim != 2:
            return self._convert_images(list(x))
        if x.shape[1:] == self.crops.input:
            return self._convert_block(self.crops.unflatten(torch.as_tensor(x)).numpy())
        return torch.from_numpy(to_array(x, self.input).astype(np.float32))

    def _read_image(self, image: Any) -> NDArray[Any]:
        return crop_image(image, self.description.transform)

    def _convert_block(self, images: NDArray[Any]) -> Tensor:
        return self.encoder.encode(images)

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The encoder, loaded at the first use.

        Raises:
            EncoderError: The encoder is missing, damaged or not that of training.
        """
        path = self.path or self._find_path()
        digest = read_description(path).digest
        if digest != self.description.digest:
            raise EncoderError(
                f"{path} is not the encoder {self.description.name} that the model was made with "
                f"(digest {digest[:12]}, not {self.description.digest[:12]}): specify that encoder,"
                " or make the model again"
            )
        encoder = load_encoder(path)
        return self.tuned_blocks.apply(encoder) if self.tuned_blocks else encoder

    def _find_path(self) -> Path:
        name = self.description.name
        if self.description.architecture == LITE0 and name == LITE0:
            return find_encoder(LITE0)
        named = os.environ.get(ENCODER_VARIABLE)
        if not named:
            raise EncoderError(
                f"the model needs the image encoder {name}: specify its file with --encoder, or set"
                f" {ENCODER_VARIABLE} to it"
            )
        inside = Path(named) / f"{name}.safetensors"
        return inside if inside.is_file() else find_encoder(named)


def build(
    input: tuple[int, ...],
    inverted: bool = False,
    encoder: dict[str, Any] | None = None,
    path: Path | None = None,
    tuned_blocks: TunedBlocks | None = None,
) -> ImagePreprocessor:
    """Make the preprocessor of `kind: image`.

    Args:
        input: Shape of one example.
        inverted: As for `PixelPreprocessor`.
        encoder: Description of the encoder; None for images as they are.
        path: File of the encoder.
        tuned_blocks: Fine-tuned blocks of the encoder; None if there are none.

    Raises:
        ValueError: The description does not fit `input`.
    """
    if encoder is not None:
        description = EncoderDescription.from_json(encoder)
        if input != (description.width,):
            raise ValueError(f"input must be [{description.width}], the width of the encoder")
        return EncodedImagePreprocessor(description, path, tuned_blocks)
    channels, height, width = input
    return PixelPreprocessor((channels, height, width), inverted)
