"""Images of any size and format: converted to one size, or to features of an encoder."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.cores import count_cores
from episodic.preprocessing.base import InputError, require_sequence, shorten_errors
from episodic.preprocessing.encoders.architectures import LITE0, EncoderError
from episodic.preprocessing.encoders.encoder import (
    ENCODER_VARIABLE,
    ImageEncoder,
    find_encoder,
    load_encoder,
)
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.encoders.weights import EncoderDescription, read_description
from episodic.preprocessing.numbers import to_array

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "EncodedImagePreprocessor",
    "ImagePreprocessor",
    "build",
    "crop_image",
    "decode_image",
]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 100_000_000
"""Limits of one image. The largest phone cameras have 50 megapixels, or raw files of 200 MB."""

BLOCK = 256
"""Images that are decoded before they are encoded, which bounds the memory."""


@dataclass(frozen=True)
class ImagePreprocessor:
    """Preprocessor of images.

    Args:
        input: Shape of one example, `(channels, height, width)`.
        inverted: Whether dark ink on light paper is stored as light on dark, as in Omniglot.
    """

    input: tuple[int, int, int]
    inverted: bool = False

    example_name = "image"

    def __call__(self, x: Any) -> Tensor:
        """Return images `(n, C, H, W)`, float32 from 0 to 1.

        Args:
            x: A list of paths, Pillow images or contents of files; or an array `(n, C, H, W)` of
                uint8 from 0 to 255 or of float from 0 to 1. Arrays are not inverted.

        Raises:
            InputError: Some images cannot be read. All of them are listed.
        """
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype != object):
            return torch.from_numpy(_scale(x, self.input))
        images, errors = [], []
        for i, image in enumerate(require_sequence(x, self.example_name)):
            if isinstance(image, (np.ndarray, Tensor)):
                images.append(_scale(image[None], self.input)[0])
                continue
            try:
                pixels = decode_image(image, self.input, self.inverted)
                images.append(pixels.astype(np.float32) / 255)
            except InputError as error:
                named = isinstance(image, (str, Path))
                errors.append(str(error) if named else f"image {i}: {error}")
        if errors:
            raise InputError("\n".join(shorten_errors(errors)))
        if not images:
            raise InputError("x is empty: pass at least one image")
        return torch.from_numpy(np.stack(images))

    def examples_in_folder(self, folder: Path) -> list[Path]:
        """List the images in a folder by name, without hidden files."""
        return list_images(folder)

    def examples_in_file(self, path: Path) -> list[Path]:
        """Return the file itself, which is one image."""
        return [path]


@dataclass(frozen=True)
class EncodedImagePreprocessor:
    """Preprocessor of images that a pretrained encoder turns into features.

    Args:
        description: The encoder.
        path: File of the encoder. None: `efficientnet_lite0` is found by itself, and others by
            EPISODIC_ENCODER.
    """

    description: EncoderDescription
    path: Path | None = None

    example_name = "image"

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example."""
        return (self.description.width,)

    def __call__(self, x: Any) -> Tensor:
        """Return features `(n, width)`, float32 of length 1.

        Args:
            x: A list of paths, Pillow images, contents of files or arrays `(3, H, W)`; an array of
                images `(n, 3, H, W)` of uint8 from 0 to 255 or of float from 0 to 1; or an array
                of features `(n, width)`.

        Raises:
            InputError: Some images cannot be read. All of them are listed.
            EncoderError: The encoder is missing, or differs from that of training.
        """
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype != object):
            if x.ndim == 2:
                return torch.from_numpy(to_array(x, self.input).astype(np.float32))
            x = list(x)
        images = require_sequence(x, self.example_name)
        if not len(images):
            raise InputError("x is empty: pass at least one image")
        blocks = [images[start : start + BLOCK] for start in range(0, len(images), BLOCK)]
        features, errors = [], []
        for number, block in enumerate(blocks):
            pixels, found = self._crop(block, number * BLOCK)
            errors += found
            if not errors:
                features.append(self.encoder.encode(pixels))
        if errors:
            raise InputError("\n".join(shorten_errors(errors)))
        return torch.cat(features)

    def _crop(self, images: Sequence[Any], first: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
        """Return the cropped images of a block, and the errors of those that cannot be read."""

        def crop(image: Any) -> NDArray[np.uint8] | InputError:
            try:
                return crop_image(image, self.description.transform)
            except InputError as error:
                return error

        with ThreadPoolExecutor(count_cores()) as pool:
            results = list(pool.map(crop, images))
        pixels, errors = [], []
        for i, (image, result) in enumerate(zip(images, results, strict=True), first):
            if isinstance(result, InputError):
                named = isinstance(image, (str, Path))
                errors.append(str(result) if named else f"image {i}: {result}")
            else:
                pixels.append(result)
        return pixels, errors

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
        return load_encoder(path)

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

    def examples_in_folder(self, folder: Path) -> list[Path]:
        """List the images in a folder by name, without hidden files."""
        return list_images(folder)

    def examples_in_file(self, path: Path) -> list[Path]:
        """Return the file itself, which is one image."""
        return [path]


def list_images(folder: Path) -> list[Path]:
    """List the images in a folder by name, without hidden files."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def crop_image(source: Any, transform: ImageTransform) -> NDArray[np.uint8]:
    """Read an image as an encoder expects it.

    Args:
        source: As for `decode_image`, or an array `(3, H, W)`.
        transform: The preprocessing of the encoder.

    Returns:
        uint8 `(3, size, size)`.

    Raises:
        InputError: The image cannot be read, or is too large.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        from PIL import Image

        array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
        if array.ndim != 3 or len(array) not in (1, 3) or array.dtype.kind not in "uf":
            raise InputError(
                f"an array has shape {array.shape} and type {array.dtype}: images are uint8 or "
                "float arrays (3, H, W)"
            )
        if array.dtype.kind == "f":
            array = (array.clip(0, 1) * 255).round()
        pixels = np.broadcast_to(array.astype(np.uint8), (3, *array.shape[1:]))
        return transform.crop(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    # JPEG files are decoded at a fraction of their size, at least twice the size that is needed.
    return transform.crop(open_image(source, 3, at_least=2 * transform.resize))


def decode_image(
    source: Path | str | bytes | Image, input: tuple[int, int, int], inverted: bool
) -> NDArray[Any]:
    """Read an image and convert it to the shape of an example.

    The orientation of the camera is applied, transparent pixels become white, and the whole image
    is resized with antialiasing. Pillow does this in integer arithmetic, so every processor
    gives the same pixels.

    Args:
        source: A path, the content of a file, or a Pillow image.
        input: The shape `(channels, height, width)`, with 1 or 3 channels.
        inverted: Whether to invert the pixels.

    Returns:
        uint8 `(channels, height, width)`.

    Raises:
        InputError: The image cannot be read, or is too large.
    """
    from PIL import Image

    channels, height, width = input
    image = open_image(source, channels)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return 255 - pixels if inverted else pixels


def open_image(
    source: Path | str | bytes | Image, channels: int, at_least: int | None = None
) -> Image:
    """Read an image upright, with 8 bits per channel and without transparency.

    Args:
        source: A path, the content of a file, or a Pillow image.
        channels: 1 for grey, 3 for colour.
        at_least: Length of the shorter side, in pixels, that is enough. JPEG files are then decoded
            at the smallest fraction of their size that is not below.

    Raises:
        InputError: The image cannot be read, or is too large.
    """
    from PIL import Image, ImageOps

    name = str(source) if isinstance(source, (str, Path)) else "the image"
    if isinstance(source, (str, Path)):
        source = _read_file(Path(source))
    if isinstance(source, bytes):
        image = _decode(source, name, at_least)
    elif isinstance(source, Image.Image):
        image = source
    else:
        raise InputError(
            f"{type(source).__name__} is not an image: pass a path, a Pillow image, the content of "
            "a file, or an array"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _read_file(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image")
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {size >> 20} MB: an image may have at most {MAX_FILE_BYTES >> 20} MB"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _decode(content: bytes, name: str, at_least: int | None) -> Image:
    from PIL import Image

    if not content:
        raise InputError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{name} has {width} x {height} pixels: an image may have at most "
                    f"{MAX_PIXELS // 1_000_000} million"
                )
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(
            f"{name} has too many pixels: an image may have at most {MAX_PIXELS // 1_000_000} "
            "million"
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of any type for a broken file
        raise InputError(
            f"{name} cannot be read as an image ({' '.join(str(error).split())})"
        ) from error
    return image


def _scale(x: Any, input: tuple[int, int, int]) -> NDArray[Any]:
    array = to_array(x, input)
    return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)


def build(
    input: tuple[int, ...],
    inverted: bool = False,
    encoder: dict[str, Any] | None = None,
    path: Path | None = None,
) -> ImagePreprocessor | EncodedImagePreprocessor:
    """Make the preprocessor of `kind: image`.

    Args:
        input: Shape of one example.
        inverted: As for `ImagePreprocessor`.
        encoder: Description of the encoder; None for images as they are.
        path: File of the encoder.

    Raises:
        ValueError: The description does not fit `input`.
    """
    if encoder is not None:
        description = EncoderDescription.from_json(encoder)
        if input != (description.width,):
            raise ValueError(f"input must be [{description.width}], the width of the encoder")
        return EncodedImagePreprocessor(description, path)
    channels, height, width = input
    return ImagePreprocessor((channels, height, width), inverted)
