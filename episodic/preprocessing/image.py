"""Pictures of any size and format as arrays of one size."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from episodic.preprocessing.base import InputError, listed, told
from episodic.preprocessing.numbers import array

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_BYTES = 64 << 20
MOST_PIXELS = 100_000_000
"""Bounds on one picture: the largest phone cameras make 200 MB raw, and 50 megapixels otherwise."""


@dataclass(frozen=True)
class Pictures:
    """input: (channels, height, width); inverted: whether dark ink on light paper is stored as light on dark, as in Omniglot"""

    input: tuple[int, int, int]
    inverted: bool = False

    what = "picture"

    def __call__(self, x: Any) -> Tensor:
        """From a list of paths, Pillow images or bytes of files; or an array `(n, C, H, W)` as the model sees it, uint8 0 to 255 or
        float 0 to 1 (then nothing is inverted)."""
        if isinstance(x, (np.ndarray, Tensor)) and (
            not isinstance(x, np.ndarray) or x.dtype != object
        ):
            return torch.from_numpy(_prepared(x, self.input))
        pictures, problems = [], []
        for i, one in enumerate(listed(x, self.what)):
            if isinstance(one, (np.ndarray, Tensor)):
                pictures.append(_prepared(one[None], self.input)[0])
                continue
            try:
                pictures.append(decode(one, self.input, self.inverted).astype(np.float32) / 255)
            except InputError as error:
                problems.append(
                    str(error) if isinstance(one, (str, Path)) else f"picture {i}: {error}"
                )
        if problems:
            raise InputError("\n".join(told(problems)))
        if not pictures:
            raise InputError("there are no pictures")
        return torch.from_numpy(np.stack(pictures))

    def in_folder(self, folder: Path) -> list[Path]:
        return pictures_in(folder)

    def in_file(self, path: Path) -> list[Path]:
        return [path]


def pictures_in(folder: Path) -> list[Path]:
    """The files with the suffix of a picture, hidden ones left out, by name."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def decode(
    source: Path | str | bytes | Image, input: tuple[int, int, int], inverted: bool
) -> np.ndarray:
    """uint8 `(C, H, W)`: turned as the camera held it, transparency on white, resized as a whole with antialiasing, by Pillow's integer
    arithmetic, which is the same on every processor. InputError names the file and what is wrong with it."""
    from PIL import Image, ImageOps

    name = source if isinstance(source, (str, Path)) else "the picture"
    if isinstance(source, Image.Image):
        picture = source
    elif isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            raise InputError(f"{name} is a folder, not a picture")
        try:
            if (size := path.stat().st_size) > MOST_BYTES:
                raise InputError(
                    f"{name} has {size >> 20} MB, and a picture may have {MOST_BYTES >> 20}: make it smaller"
                )
            source = path.read_bytes()
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    if isinstance(source, bytes):
        if not source:
            raise InputError(f"{name} is empty (0 bytes)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                picture = Image.open(io.BytesIO(source))
                _bounded(picture, name)
                picture.load()
        except InputError:
            raise
        except Exception as error:  # Pillow's readers raise whatever a broken file makes them meet
            raise InputError(
                f"{name} is no picture that can be read ({' '.join(str(error).split())})"
            ) from error
    elif not isinstance(source, Image.Image):
        raise InputError(
            f"{type(source).__name__} is no picture: give a path, a Pillow image, the bytes of a file or an array"
        )
    channels, height, width = input
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    pixels = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return 255 - pixels if inverted else pixels


def _bounded(picture: Image, name: Any) -> None:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{name} has {width} x {height} pixels, more than {MOST_PIXELS // 1_000_000} million: make it smaller"
        )


def _prepared(x: Any, input: tuple[int, int, int]) -> np.ndarray:
    found = array(x, input)
    return found.astype(np.float32) / 255 if found.dtype == np.uint8 else found.astype(np.float32)


def build(input: tuple[int, ...], inverted: bool = False) -> Pictures:
    return Pictures(input, inverted)  # type: ignore[arg-type]
