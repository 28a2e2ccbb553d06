"""Images of any size and format, converted to one size."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.preprocessing.base import InputError, require_sequence, shorten_errors
from episodic.preprocessing.numbers import to_array

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "ImagePreprocessor",
    "build",
    "decode_image",
]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 100_000_000
"""Limits of one image. The largest phone cameras have 50 megapixels, or raw files of 200 MB."""


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
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )

    def examples_in_file(self, path: Path) -> list[Path]:
        """Return the file itself, which is one image."""
        return [path]


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
    from PIL import Image, ImageOps

    name = str(source) if isinstance(source, (str, Path)) else "the image"
    if isinstance(source, (str, Path)):
        source = _read_file(Path(source))
    if isinstance(source, bytes):
        image = _open_image(source, name)
    elif isinstance(source, Image.Image):
        image = source
    else:
        raise InputError(
            f"{type(source).__name__} is not an image: pass a path, a Pillow image, the content of "
            "a file, or an array"
        )
    channels, height, width = input
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return 255 - pixels if inverted else pixels


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


def _open_image(content: bytes, name: str) -> Image:
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
            image.load()
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of any type for a broken file
        raise InputError(
            f"{name} cannot be read as an image ({' '.join(str(error).split())})"
        ) from error
    return image


def _scale(x: Any, input: tuple[int, int, int]) -> NDArray[Any]:
    array = to_array(x, input)
    return array.astype(np.float32) / 255 if array.dtype == np.uint8 else array.astype(np.float32)


def build(input: tuple[int, ...], inverted: bool = False) -> ImagePreprocessor:
    """Make the preprocessor of `kind: image`."""
    channels, height, width = input
    return ImagePreprocessor((channels, height, width), inverted)
