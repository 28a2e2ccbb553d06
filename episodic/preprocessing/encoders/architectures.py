"""Networks by name: EfficientNet-Lite0, those of torchvision, and those of timm.

A name is `efficientnet_lite0`, `torchvision/NAME` or `timm/NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from episodic.core.errors import UserError
from episodic.core.registry import did_you_mean
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0
from episodic.preprocessing.encoders.transform import ImageTransform

__all__ = [
    "LITE0",
    "Architecture",
    "EncoderError",
    "build_architecture",
    "find_torchvision_weights",
]

LITE0 = "efficientnet_lite0"
LITE0_TRANSFORM = ImageTransform(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class EncoderError(UserError, ValueError):
    """The encoder is missing, damaged or of an unsupported kind."""


@dataclass(frozen=True)
class Architecture:
    """A network without its classifier.

    Args:
        name: The name.
        network: Maps normalized images `(n, 3, H, W)` to features `(n, width)`.
        classifier: Prefixes of the parameters that published weights have in addition.
        transform: The usual preprocessing.
        license: Licence of the usual weights.
    """

    name: str
    network: nn.Module
    classifier: tuple[str, ...]
    transform: ImageTransform
    license: str


def build_architecture(name: str) -> Architecture:
    """Build a network by name, with random weights.

    Raises:
        EncoderError: There is no such network, or its library is not installed.
    """
    library, _, model = name.rpartition("/")
    if name == LITE0:
        network = EfficientNetLite0()
        return Architecture(name, network, ("fc.",), LITE0_TRANSFORM, "Apache-2.0")
    if library == "torchvision":
        return _build_torchvision(name, model)
    if library == "timm":
        return _build_timm(name, model)
    raise EncoderError(
        f"the architecture {name!r} is unknown; it must be {LITE0}, torchvision/NAME (such as "
        "torchvision/resnet50) or timm/NAME"
    )


def find_torchvision_weights(file_name: str) -> str | None:
    """Return the architecture whose official weights have a file name; None if there is none.

    Args:
        file_name: The name, such as `resnet50-11ad3fa6.pth`.
    """
    try:
        import torchvision
        from torchvision.models import get_model_weights, list_models
    except ImportError:
        return None
    for model in list_models(module=torchvision.models):
        for weights in get_model_weights(model):
            if weights.url.rsplit("/", 1)[-1] == file_name:
                return f"torchvision/{model}"
    return None


def _build_torchvision(name: str, model: str) -> Architecture:
    try:
        import torchvision
        from torchvision.models import get_model, get_model_weights, list_models
    except ImportError as error:
        raise EncoderError(
            f"{name} needs one more package: pip install 'episodic-learning[data]' ({error})"
        ) from error
    known = list_models(module=torchvision.models)
    if model not in known:
        raise EncoderError(
            f"torchvision has no classification network {model!r}{did_you_mean(model, known)}"
        )
    options = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    network = get_model(model, weights=None, **options)
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(
            f"{name} has no linear classifier whose input could be the features: choose another"
        )
    _replace_module(network, linear[-1], nn.Identity())
    weights = list(get_model_weights(model))
    preset: Any = weights[0].transforms() if weights else None
    transform = ImageTransform(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    if preset is not None:
        transform = ImageTransform(
            preset.crop_size[0],
            preset.resize_size[0],
            preset.interpolation.value,
            tuple(preset.mean),
            tuple(preset.std),
        )
    return Architecture(name, network, (f"{linear[-1]}.", "AuxLogits.", "aux"), transform, BSD)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BSD = "BSD-3-Clause (torchvision)"


def _build_timm(name: str, model: str) -> Architecture:
    try:
        import timm
        from timm.data import resolve_model_data_config
    except ImportError as error:
        raise EncoderError(
            f"{name} needs one more package: pip install 'episodic-learning[timm]' ({error})"
        ) from error
    if not timm.is_model(model.split(".")[0]):
        known = timm.list_models()
        raise EncoderError(f"timm has no network {model!r}{did_you_mean(model, known)}")
    network = timm.create_model(model, pretrained=False, num_classes=0)
    config: Any = network.pretrained_cfg
    data: Any = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    size = data["input_size"][-1]
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if data["interpolation"] == "bilinear" else "bicubic"
    )
    transform = ImageTransform(
        size,
        int(size / data["crop_pct"]),
        interpolation,
        tuple(data["mean"]),
        tuple(data["std"]),
    )
    heads = config.get("classifier") or "head"
    prefixes = (heads,) if isinstance(heads, str) else tuple(heads)
    return Architecture(
        name,
        network,
        tuple(f"{prefix}." for prefix in prefixes),
        transform,
        str(config.get("license") or "not stated"),
    )


def _replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def measure_width(architecture: Architecture) -> int:
    """Compute the number of features of a network.

    Raises:
        EncoderError: The network does not return one vector per image.
    """
    size = architecture.transform.size
    with torch.inference_mode():
        features: Tensor = architecture.network.eval()(torch.zeros(1, 3, size, size))
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise EncoderError(f"{architecture.name} does not return one vector per image")
    return features.shape[1]
