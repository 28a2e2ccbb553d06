"""Reading of images: any format and mode, upright, resized or cropped, and errors that list all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.blocks import BLOCK
from episodic.core.cores import count_cores
from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.base import InputError, shorten_errors
from episodic.preprocessing.encoders.transform import ImageTransform

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "array_to_image",
    "crop_image",
    "decode_image",
    "list_images",
    "open_image",
    "read_images",
]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
UNSUPPORTED_SUFFIXES = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
"""Formats of cameras that Pillow does not read, or only with other packages."""

MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 100_000_000
"""Limits of one image. The largest phone cameras have 50 megapixels, or raw files of 200 MB."""

ROUNDING = 0.01
"""How far a float image may be out of its range, as after an interpolation."""


def list_images(folder: Path) -> list[Path]:
    """List the images in a folder by name, without hidden files.

    Raises:
        InputError: Some photographs have a format that cannot be read.
    """
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    foreign = [path.name for path in files if path.suffix.lower() in UNSUPPORTED_SUFFIXES]
    if foreign:
        listed = ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")
        raise InputError(
            f"{folder} has photographs in formats that are not read ({listed}): convert them to "
            "JPEG or PNG, or remove them"
        )
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def read_images(
    images: Sequence[Any],
    read: Callable[[Any], NDArray[Any]],
    progress: ProgressCallback = no_progress,
) -> Iterator[NDArray[Any]]:
    """Read images in parallel, holding one block of them in memory.

    Args:
        images: Paths, Pillow images, contents of files or arrays.
        read: Reads one of them. It raises InputError if it cannot.
        progress: Called with the number of images that are done.

    Yields:
        The results of up to `BLOCK` images, stacked, until an image cannot be read.

    Raises:
        InputError: Some images cannot be read. All of them are listed.
    """

    def try_to_read(image: Any) -> NDArray[Any] | InputError:
        try:
            return read(image)
        except InputError as error:
            return error

    errors: list[str] = []
    with ThreadPoolExecutor(count_cores()) as pool:
        for start in range(0, len(images), BLOCK):
            block = list(images[start : start + BLOCK])
            results = []
            for i, result in enumerate(pool.map(try_to_read, block)):
                if isinstance(result, InputError):
                    is_named = isinstance(block[i], (str, Path))
                    errors.append(str(result) if is_named else f"image {start + i}: {result}")
                else:
                    results.append(result)
            if not errors:
                yield np.stack(results)
            progress("images", start + len(block), len(images))
    if errors:
        raise InputError("\n".join(shorten_errors(errors)))


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
        array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
        if array.ndim != 3 or len(array) not in (1, 3) or array.dtype.kind not in "uf":
            raise InputError(
                f"an array has shape {array.shape} and type {array.dtype}: images are uint8 or "
                "float arrays (3, H, W)"
            )
        if array.dtype.kind == "f":
            if not (array.min() >= -ROUNDING and array.max() <= 1 + ROUNDING):
                raise InputError(
                    f"an array has values from {array.min():g} to {array.max():g}: float images "
                    "have values from 0 to 1, and uint8 images from 0 to 255"
                )
            array = (array.clip(0, 1) * 255).round()
        return transform.crop(array_to_image(array.astype(np.uint8)))
    # JPEG files are decoded at a fraction of their size, at least twice the size that is needed.
    return transform.crop(open_image(source, 3, at_least=2 * transform.resize))


def array_to_image(pixels: NDArray[np.uint8]) -> Image:
    """Convert uint8 `(C, H, W)`, of one or three channels, to an RGB image."""
    from PIL import Image

    colour = np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(colour))


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
    if not isinstance(source, (bytes, Image.Image)):
        raise InputError(
            f"{type(source).__name__} is not an image: pass a path, a Pillow image, the content of "
            "a file, or an array"
        )
    with warnings.catch_warnings():
        # The limit of pixels is checked here, and damaged EXIF data does not matter.
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = _decode(source, name, at_least) if isinstance(source, bytes) else source
            image = ImageOps.exif_transpose(image)
            image.load()
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of any type
            raise _describe_failure(error, name) from error
    if image.mode in ("I", "F"):
        raise InputError(
            f"{name} has 32 bits per pixel, whose range is unknown: convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
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
        raise InputError(f"{name} is empty (0 bytes): replace or remove it")
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
    return image


def _describe_failure(error: Exception, name: str) -> InputError:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return InputError(
            f"{name} has too many pixels: an image may have at most {MAX_PIXELS // 1_000_000} "
            "million"
        )
    if isinstance(error, UnidentifiedImageError):  # its message names an object in memory
        return InputError(
            f"{name} cannot be read as an image (unknown format): convert it to JPEG or PNG, or "
            "remove it"
        )
    reason = " ".join(str(error).split())
    return InputError(f"{name} cannot be read as an image ({reason}): replace or remove it")
