"""Encoder files: safetensors whose metadata describes the encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from episodic.core import checkpoint
from episodic.core.config import ConfigError
from episodic.preprocessing.encoders.architectures import EncoderError
from episodic.preprocessing.encoders.transform import ImageTransform

__all__ = ["EncoderDescription", "read_description", "read_encoder", "write_encoder"]

FORMAT = 1
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class EncoderDescription:
    """What a model records about its encoder.

    Args:
        name: The name, which is that of its file.
        architecture: Name of the network, see `episodic.preprocessing.encoders.architectures`.
        width: Number of features per image.
        transform: The preprocessing.
        license: Licence of the weights.
        digest: SHA-256 of the architecture, the preprocessing and the weights, in hexadecimal.
    """

    name: str
    architecture: str
    width: int
    transform: ImageTransform
    license: str
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON-serializable values."""
        return {**vars(self), "transform": self.transform.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EncoderDescription:
        """Build a description from the values of `to_json`.

        Raises:
            ValueError: A value is missing or invalid.
        """
        try:
            transform = ImageTransform.from_json(dict(values["transform"]))
            texts = {key: str(values[key]) for key in ("name", "architecture", "license", "digest")}
            width = values["width"]
        except (KeyError, TypeError, ConfigError) as error:
            raise ValueError(f"the description of the encoder is invalid ({error})") from error
        if type(width) is not int or width < 1 or Path(texts["name"]).name != texts["name"]:
            raise ValueError("the description of the encoder is invalid (name or width)")
        return cls(transform=transform, width=width, **texts)


def compute_digest(
    architecture: str, transform: ImageTransform, weights: Mapping[str, Tensor]
) -> str:
    """Compute the digest of everything that features depend on."""
    header = [architecture, transform.to_json()]
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_encoder(
    path: Path,
    architecture: str,
    transform: ImageTransform,
    license: str,
    width: int,
    weights: Mapping[str, Tensor],
) -> EncoderDescription:
    """Write an encoder file atomically. Its name is that of the file."""
    digest = compute_digest(architecture, transform, weights)
    description = EncoderDescription(path.stem, architecture, width, transform, license, digest)
    header = {"encoder": FORMAT} | description.to_json()
    checkpoint.save(path, dict(weights), header)
    return description


def read_description(path: Path) -> EncoderDescription:
    """Read the description of an encoder file without its weights.

    Raises:
        EncoderError: The file is not an encoder.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise EncoderError(
            f"{path} does not exist: specify a file that `episodic encoder import` wrote"
        )
    if path.suffix != SUFFIX:
        raise EncoderError(
            f"{path} is not a safetensors file: convert it with `episodic encoder import {path} -o "
            f"{path.stem}{SUFFIX}`"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("json")
    except (SafetensorError, OSError) as error:
        raise EncoderError(
            f"{path} cannot be read ({' '.join(str(error).split())}): copy it again"
        ) from error
    return _parse_description(path, metadata)


def _parse_description(path: Path, metadata: str | None) -> EncoderDescription:
    try:
        header = json.loads(metadata or "{}")
        known = isinstance(header, dict) and header.get("encoder") == FORMAT
    except ValueError:
        known = False
    if not known:
        raise EncoderError(
            f"{path} does not describe an image encoder: convert it with `episodic encoder import "
            f"{path} -o NAME{SUFFIX}`"
        )
    try:
        # Files may be renamed; the digest identifies an encoder.
        return EncoderDescription.from_json({**header, "name": path.stem})
    except ValueError as error:
        raise EncoderError(f"{path}: {error}: import it again") from error


def read_encoder(path: Path) -> tuple[EncoderDescription, dict[str, Tensor]]:
    """Read an encoder file and check its digest.

    Raises:
        EncoderError: The file is not an encoder, or it was modified.
    """
    description = read_description(path)
    weights, _ = checkpoint.load(path)
    digest = compute_digest(description.architecture, description.transform, weights)
    if digest != description.digest:
        raise EncoderError(
            f"{path} was modified: its weights have the digest {digest[:12]}, not "
            f"{description.digest[:12]}; import it again"
        )
    return description, weights
