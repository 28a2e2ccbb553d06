"""Examples of requests: sentences, and images as data URLs, base64 or bytes."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from episodic.preprocessing.base import InputError, shorten_errors

__all__ = ["MAX_EXAMPLES", "MAX_EXAMPLE_CHARACTERS", "check_images", "decode_examples"]

MAX_EXAMPLES = 200
"""Examples of a request."""
MAX_EXAMPLE_CHARACTERS = 6 << 20
"""Characters of an example: an image of 4.5 MB as base64."""
MAX_IMAGE_PIXELS, MAX_REQUEST_PIXELS = 50_000_000, 200_000_000
"""Pixels of an image and of all images of a request. Small files may contain many."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats of images. Pillow reads others by programs that are not made for untrusted files."""


def decode_examples(kind: str, examples: Sequence[str]) -> list[Any]:
    """Decode images to the bytes of their files; return sentences unchanged.

    Args:
        kind: The kind of the model's inputs, `image` or `text`.
        examples: Sentences, or images as data URLs or base64.

    Raises:
        InputError: An image is not base64, is in an unknown format or has too many pixels.
    """
    if kind != "image":
        return list(examples)
    images = [_decode_image(example) for example in examples]
    check_images(images)
    return images


def _decode_image(example: str) -> bytes:
    head, comma, body = example.partition(",")
    if comma and not head.startswith("data:image/"):
        raise InputError("an example is not an image: send a data URL of an image, or its base64")
    try:
        return base64.b64decode(body if comma else example, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            "an example is not valid base64: send a data URL of an image, or its base64"
        ) from error


def check_images(images: Sequence[bytes]) -> None:
    """Check the format and the size of images without decoding them.

    Raises:
        InputError: An image is in an unknown format, or there are too many pixels.
    """
    from PIL import Image

    errors, total = [], 0
    for i, content in enumerate(images):
        try:
            width, height = Image.open(io.BytesIO(content), formats=FORMATS).size
        except Image.DecompressionBombError:
            width = height = MAX_IMAGE_PIXELS
        except Exception:  # Pillow's decoders raise errors of any type
            formats = "convert it to PNG, JPEG, GIF, WebP, BMP or TIFF, or remove it"
            errors.append(f"image {i}: the image cannot be read as an image: {formats}")
            continue
        total += width * height
        if width * height > MAX_IMAGE_PIXELS:
            limit = MAX_IMAGE_PIXELS // 1_000_000
            errors.append(f"image {i}: the image has more than {limit} million pixels: shrink it")
    if errors:
        raise InputError("\n".join(shorten_errors(errors)))
    if total > MAX_REQUEST_PIXELS:
        raise InputError(
            f"the images have {total // 1_000_000} million pixels together; at most"
            f" {MAX_REQUEST_PIXELS // 1_000_000} million are accepted: shrink them, or send fewer"
        )
