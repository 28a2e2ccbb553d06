"""How the images of a dataset become examples: as pixels, or as features of an encoder.

Images of all datasets become examples of the same form with the same `size` or the same encoder, so
a model that was trained on one dataset can be tested on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.blocks import iterate_blocks
from episodic.core.config import check_fields, require
from episodic.core.files import holds_data
from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.encoders.architectures import LITE0
from episodic.preprocessing.encoders.cache import FeatureCache
from episodic.preprocessing.encoders.encoder import ENCODER_FOLDER, describe_encoder, load_encoder
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.encoders.weights import EncoderDescription
from episodic.preprocessing.images.reading import array_to_image

__all__ = ["ImageFeatures"]


@dataclass(frozen=True)
class ImageFeatures:
    """How images become examples.

    Args:
        kind: `pixels` or `encoder`.
        path: File or folder of the encoder. An empty folder stands for `efficientnet_lite0`.
        size: Height and width that pixels are resized to. They then have three channels, and
            drawings are dark on light. None: pixels stay as the dataset has them.
    """

    kind: Literal["pixels", "encoder"] = "pixels"
    path: str = ENCODER_FOLDER
    size: Annotated[int, Ge(4), Le(1024)] | None = None

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        require(self.kind in ("pixels", "encoder"), "kind", self.kind, "must be pixels or encoder")
        require(self.path != "", "path", self.path, "must be the file or folder of an encoder")
        check_fields(self)

    @property
    def encoder(self) -> EncoderDescription | None:
        """The encoder; None for pixels.

        Raises:
            EncoderError: There is no encoder.
        """
        return describe_encoder(self._source) if self.kind == "encoder" else None

    @property
    def keeps_pixels(self) -> bool:
        """Whether the images are the examples, as the dataset has them."""
        return self.kind == "pixels" and self.size is None

    @property
    def _source(self) -> str:
        folder = Path(self.path)
        return LITE0 if folder.is_dir() and not holds_data(folder) else self.path

    def example_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of an example.

        Args:
            image_shape: Shape of the images `(C, H, W)`.

        Raises:
            EncoderError: There is no encoder.
        """
        encoder = self.encoder
        if encoder is not None:
            return (encoder.width,)
        return image_shape if self.size is None else (3, self.size, self.size)

    def describe_inputs(self, inverted: bool = False) -> dict[str, Any]:
        """Return the section `inputs` of a model's config.json.

        Args:
            inverted: Whether the dataset has inverted pixels.
        """
        encoder = self.encoder
        if encoder is None:
            return {"kind": "image", "inverted": inverted and self.keeps_pixels}
        return {"kind": "image", "encoder": encoder.to_json()}

    def convert(
        self,
        images: NDArray[np.uint8],
        cropped: bool,
        inverted: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> NDArray[np.uint8] | Tensor:
        """Resize images, or compute their features.

        Features of images that were encoded before come from the cache.

        Args:
            images: uint8 `(n, C, H, W)`, which may be memory-mapped.
            cropped: Whether the images have the size that the encoder expects.
            inverted: Whether dark ink on light paper is stored as light on dark.
            progress: Called with the number of images that are done.

        Returns:
            uint8 `(n, 3, size, size)`, or float32 `(n, width)`.
        """
        if self.kind == "encoder":
            return self._encode(images, cropped, inverted, progress)
        result = np.empty((len(images), *self.example_shape(images.shape[1:])), np.uint8)
        done = 0
        for block in iterate_blocks(images):
            for pixels in block:
                result[done] = _resize(_restore(pixels, inverted), result.shape[2])
                done += 1
            progress("images", done, len(images))
        return result

    def _encode(
        self,
        images: NDArray[np.uint8],
        cropped: bool,
        inverted: bool,
        progress: ProgressCallback,
    ) -> Tensor:
        encoder = load_encoder(self._source)
        description = encoder.description
        cache = FeatureCache(description.digest, description.width)
        features = torch.empty(len(images), description.width)
        done = 0
        for block in iterate_blocks(images):
            pixels = block if cropped else _CroppedImages(block, description.transform, inverted)
            features[done : done + len(block)] = encoder.encode(pixels, cache)
            done += len(block)
            progress("images", done, len(images))
        return features


class _CroppedImages(Sequence[NDArray[np.uint8]]):
    """Images of a dataset, cropped when they are read."""

    def __init__(
        self, images: NDArray[np.uint8], transform: ImageTransform, inverted: bool
    ) -> None:
        self.images, self.transform, self.inverted = images, transform, inverted

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: Any) -> Any:
        return self.transform.crop(array_to_image(_restore(self.images[row], self.inverted)))


def _restore(pixels: NDArray[np.uint8], inverted: bool) -> NDArray[np.uint8]:
    """Return an image in which ink is dark on light paper."""
    return 255 - pixels if inverted else pixels


def _resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image `(C, H, W)` as `decode_image` does, with or without colour.

    Returns:
        uint8 `(3, size, size)`.
    """
    from PIL import Image

    if pixels.shape[1:] == (size, size):
        return np.broadcast_to(pixels, (3, size, size))
    image = array_to_image(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
