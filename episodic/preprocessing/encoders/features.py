"""How the images of a dataset become examples: as pixels, or as features of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.blocks import iterate_blocks
from episodic.core.config import require
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
    """How images are encoded.

    Args:
        kind: `pixels` or `encoder`.
        path: File or folder of the encoder. An empty folder stands for `efficientnet_lite0`.
    """

    kind: Literal["pixels", "encoder"] = "pixels"
    path: str = ENCODER_FOLDER

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        require(self.kind in ("pixels", "encoder"), "kind", self.kind, "must be pixels or encoder")
        require(self.path != "", "path", self.path, "must be the file or folder of an encoder")

    @property
    def encoder(self) -> EncoderDescription | None:
        """The encoder; None for pixels.

        Raises:
            EncoderError: There is no encoder.
        """
        return describe_encoder(self._source) if self.kind == "encoder" else None

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
        return image_shape if encoder is None else (encoder.width,)

    def describe_inputs(self, inverted: bool = False) -> dict[str, Any]:
        """Return the section `inputs` of a model's config.json.

        Args:
            inverted: Whether pixels are inverted.
        """
        encoder = self.encoder
        if encoder is None:
            return {"kind": "image", "inverted": inverted}
        return {"kind": "image", "encoder": encoder.to_json()}

    def encode(
        self,
        images: NDArray[np.uint8],
        cropped: bool,
        progress: ProgressCallback = no_progress,
    ) -> Tensor:
        """Compute the features of images. Those that were encoded before come from the cache.

        Args:
            images: uint8 `(n, C, H, W)`, which may be memory-mapped.
            cropped: Whether the images have the size that the encoder expects.
            progress: Called with the number of images that are done.

        Returns:
            float32 `(n, width)`.
        """
        encoder = load_encoder(self._source)
        description = encoder.description
        cache = FeatureCache(description.digest, description.width)
        features = torch.empty(len(images), description.width)
        done = 0
        for block in iterate_blocks(images):
            pixels = block if cropped else _CroppedImages(block, description.transform)
            features[done : done + len(block)] = encoder.encode(pixels, cache)
            done += len(block)
            progress("images", done, len(images))
        return features


class _CroppedImages(Sequence[NDArray[np.uint8]]):
    """Images of a dataset, cropped when they are read."""

    def __init__(self, images: NDArray[np.uint8], transform: ImageTransform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: Any) -> Any:
        return self.transform.crop(array_to_image(self.images[row]))
