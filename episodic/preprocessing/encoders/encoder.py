"""Pretrained image encoders in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from episodic.core.blocks import BLOCK
from episodic.core.cores import count_cores
from episodic.preprocessing.encoders.architectures import LITE0, EncoderError, build_architecture
from episodic.preprocessing.encoders.cache import FeatureCache
from episodic.preprocessing.encoders.importing import find_packaged_encoder
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0
from episodic.preprocessing.encoders.weights import (
    SUFFIX,
    EncoderDescription,
    read_description,
    read_encoder,
)

__all__ = [
    "ENCODER_FOLDER",
    "ENCODER_VARIABLE",
    "ImageEncoder",
    "describe_encoder",
    "find_encoder",
    "load_encoder",
    "single_threaded_workers",
]

ENCODER_VARIABLE = "EPISODIC_ENCODER"
"""The environment variable with the path of an encoder, or of the folder that contains it."""

ENCODER_FOLDER = "data/encoder"
"""The default folder of the encoder. Every checkout has it, as DVC requires."""

BATCH_SIZE = 4
"""Images per forward pass: the fastest with one thread per pass. It changes no feature."""


@dataclass(frozen=True)
class ImageEncoder:
    """A pretrained image encoder.

    Args:
        description: Name, preprocessing and digest.
        network: Maps normalized images to features, in evaluation mode.
    """

    description: EncoderDescription
    network: nn.Module

    def encode(
        self,
        pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        cache: FeatureCache | None = None,
    ) -> Tensor:
        """Compute the features of images, scaled to length 1.

        Each image is computed on its own: its features depend neither on the other images nor on
        the number of threads.

        Args:
            pixels: Cropped images uint8 `(3, size, size)`, as `ImageTransform.crop` returns them.
            cache: Features that are already known, and where new ones are stored.

        Returns:
            float32 `(n, width)`.

        Raises:
            EncoderError: The network returned a number that is not finite.
        """
        total = len(pixels)
        features = np.empty((total, self.description.width), np.float32)
        _ = self._inference  # made once, before the threads need it
        with single_threaded_workers() as pool:
            for start in range(0, total, BLOCK):
                rows = range(start, min(start + BLOCK, total))
                self._encode_block(pixels, rows, features, cache, pool)
        if not np.isfinite(features).all():
            raise EncoderError(
                f"the encoder {self.description.name} returned numbers that are not finite: import "
                "its weights again, or choose another encoder"
            )
        return torch.from_numpy(features)

    def _encode_block(
        self,
        pixels: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        rows: range,
        features: NDArray[np.float32],
        cache: FeatureCache | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        images = list(pool.map(pixels.__getitem__, rows))
        keys = list(pool.map(FeatureCache.key, images)) if cache else []
        known = cache.read(keys) if cache else {}
        block = features[rows.start : rows.stop]
        missing = []
        for i in range(len(images)):
            if keys and keys[i] in known:
                block[i] = known[keys[i]]
            else:
                missing.append(i)
        batches = [missing[i : i + BATCH_SIZE] for i in range(0, len(missing), BATCH_SIZE)]
        results = pool.map(lambda batch: self._forward([images[i] for i in batch]), batches)
        for batch, result in zip(batches, results, strict=True):
            block[batch] = result
        if cache and missing:
            cache.write({keys[i]: block[i] for i in missing})

    def _forward(self, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.stack(images))
        with torch.inference_mode():
            x = pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)
            x = self._inference(self.description.transform.normalize(x))
            return nn.functional.normalize(x, dim=1).numpy()

    def __getstate__(self) -> dict[str, Any]:
        # Its tensors in the layout of oneDNN cannot be copied. It is made again where it is needed.
        return {key: value for key, value in vars(self).items() if key != "_inference"}

    @cached_property
    def _inference(self) -> Callable[[Tensor], Tensor]:
        if isinstance(self.network, EfficientNetLite0):
            return self.network.prepare_inference()
        return self.network

    def compute_features(self, x: Tensor) -> Tensor:
        """Compute the features of cropped images in one pass, differentiably.

        They differ from those of `encode` by rounding.

        Args:
            x: Images `(n, 3, size, size)`, float32 from 0 to 1.

        Returns:
            float32 `(n, width)`, of length 1.
        """
        features: Tensor = self.network(self.description.transform.normalize(x))
        return nn.functional.normalize(features, dim=1)


@contextmanager
def single_threaded_workers() -> Iterator[ThreadPoolExecutor]:
    """Provide one worker per core. Torch uses one thread in each of them, and in this thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            count_cores(), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def find_encoder(source: str | Path) -> Path:
    """Return the file of an encoder.

    Args:
        source: `efficientnet_lite0`, a file that `episodic encoder import` wrote, or the folder of
            one.

    Raises:
        EncoderError: There is no encoder.
    """
    path = Path(source)
    if str(source) == LITE0:
        return find_packaged_encoder()
    if path.is_dir() and str(source):
        files = sorted(path.glob(f"*{SUFFIX}"))
        if len(files) != 1:
            raise EncoderError(
                f"{path} has {len(files)} {SUFFIX} files; it must have one, the encoder"
            )
        return files[0]
    if not str(source) or (not path.exists() and not path.suffix):
        raise EncoderError(
            f"there is no encoder {str(source)!r}: specify {LITE0}, or a file that `episodic "
            "encoder import` wrote"
        )
    return path


def describe_encoder(source: str | Path) -> EncoderDescription:
    """Read the description of an encoder without its weights.

    Raises:
        EncoderError: There is no encoder.
    """
    return read_description(find_encoder(source))


def load_encoder(source: str | Path) -> ImageEncoder:
    """Load an encoder on the CPU.

    Args:
        source: As for `find_encoder`.

    Raises:
        EncoderError: There is no encoder, or it is damaged.
    """
    description, weights = read_encoder(find_encoder(source))
    architecture = build_architecture(description.architecture, description.transform.size)
    try:
        architecture.network.load_state_dict(weights)
    except RuntimeError as error:
        raise EncoderError(
            f"the weights of the encoder {description.name} do not fit {architecture.name}: import "
            "them again"
        ) from error
    network = architecture.network.eval()
    if isinstance(network, EfficientNetLite0):
        network.fuse()
    return ImageEncoder(description, network.to(memory_format=torch.channels_last))
