"""Networks by name: EfficientNet-Lite0, those of torchvision, and those of timm.

A name is `efficientnet_lite0`, `torchvision/NAME` or `timm/NAME`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from episodic.core.config import ConfigError
from episodic.core.errors import UserError
from episodic.core.registry import did_you_mean
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0
from episodic.preprocessing.encoders.transform import ImageTransform

__all__ = [
    "LITE0",
    "Architecture",
    "EncoderError",
    "PublishedWeights",
    "build_architecture",
    "find_torchvision_weights",
    "find_usual_weights",
    "read_timm_config",
    "resample_position_embedding",
]

LITE0 = "efficientnet_lite0"
LITE0_TRANSFORM = ImageTransform(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_TRANSFORM = ImageTransform(224, 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD)

INCEPTIONS = ("googlenet", "inception_v3")
"""Networks whose official weights were trained with mean and standard deviation 0.5. Torchvision
normalizes with those of ImageNet, and converts in the network (`transform_input`)."""

BSD = "BSD-3-Clause (torchvision)"
UNKNOWN = "unknown: see where the weights are from"

RECORDED_MODEL_ARGUMENTS = {"img_size", "in_chans", "num_classes"}
"""Those that the size of the images and the shapes of the weights determine."""


class EncoderError(UserError, ValueError):
    """The encoder is missing, damaged or of an unsupported kind."""


@dataclass(frozen=True)
class PublishedWeights:
    """What is known of published weights.

    Args:
        architecture: Name of the network.
        transform: The preprocessing of their training.
        license: Their licence.
    """

    architecture: str
    transform: ImageTransform
    license: str


@dataclass(frozen=True)
class Architecture:
    """A network without its classifier.

    Args:
        name: The name.
        network: Maps normalized images `(n, 3, H, W)` to features `(n, width)`.
        classifier: Prefixes of the parameters that published weights have in addition.
        transform: The usual preprocessing.
    """

    name: str
    network: nn.Module
    classifier: tuple[str, ...]
    transform: ImageTransform


def build_architecture(name: str, size: int | None = None) -> Architecture:
    """Build a network by name, with random weights.

    Args:
        name: The name.
        size: Height and width of the images, in pixels, on which the position embeddings of vision
            transformers depend. None: the usual ones.

    Raises:
        EncoderError: There is no such network, its library is not installed, or the network takes
            no images of this size.
    """
    usual = find_usual_weights(name)
    size = size or usual.transform.size
    library, _, model = name.rpartition("/")
    try:
        if library == "torchvision":
            network, classifier = _build_torchvision(name, model, size)
        elif library == "timm":
            network, classifier = _build_timm(model, None if size == usual.transform.size else size)
        else:
            network, classifier = EfficientNetLite0(), ("fc.",)
    except AssertionError as error:  # such as a size that is no multiple of the patches'
        raise EncoderError(
            f"{name} takes no images of {size} x {size} pixels: choose another size"
        ) from error
    return Architecture(name, network, classifier, usual.transform)


def find_usual_weights(name: str) -> PublishedWeights:
    """Return what is published about the usual weights of a network.

    Args:
        name: Name of a network.

    Raises:
        EncoderError: There is no such network, or its library is not installed.
    """
    library, _, model = name.rpartition("/")
    if name == LITE0:
        return PublishedWeights(name, LITE0_TRANSFORM, "Apache-2.0")
    if library == "torchvision":
        entries = _list_torchvision_weights(name, model)
        transform = _read_torchvision_transform(model, entries[0]) if entries else None
        return PublishedWeights(name, transform or IMAGENET_TRANSFORM, UNKNOWN)
    if library == "timm":
        timm = _import_timm(name)
        if not timm.is_model(model.split(".")[0]):
            known = timm.list_models()
            raise EncoderError(f"timm has no network {model!r}{did_you_mean(model, known)}")
        try:
            config = timm.get_pretrained_cfg(model)
        except RuntimeError as error:
            raise EncoderError(f"timm has no weights {model!r}: {error}") from error
        return read_timm_config(name, config.to_dict() if config else {})
    raise EncoderError(
        f"the architecture {name!r} is unknown; it must be {LITE0}, torchvision/NAME (such as "
        "torchvision/resnet50) or timm/NAME"
    )


def find_torchvision_weights(file_name: str) -> PublishedWeights | None:
    """Return what torchvision states about its official weights; None for other files.

    Args:
        file_name: The name, such as `resnet50-11ad3fa6.pth`.
    """
    try:
        import torchvision
        from torchvision.models import get_model_weights, list_models
    except ImportError:
        return None
    for model in list_models(module=torchvision.models):
        for entry in get_model_weights(model):
            if entry.url.rsplit("/", 1)[-1] == file_name:
                transform = _read_torchvision_transform(model, entry)
                license = str(entry.meta.get("license") or BSD)
                return PublishedWeights(f"torchvision/{model}", transform, license)
    return None


def read_timm_config(
    name: str, config: Mapping[str, Any], arguments: Mapping[str, Any] | None = None
) -> PublishedWeights:
    """Return what timm's configuration of weights states.

    Args:
        name: Name of the network, `timm/NAME`.
        config: The section `pretrained_cfg` of the `config.json` next to the weights, or an entry
            of timm's registry.
        arguments: The section `model_args`: arguments that the network was made with.

    Raises:
        EncoderError: A value is invalid, timm is not installed, or the network differs from the one
            with this name.
    """
    _import_timm(name)
    from timm.data import resolve_data_config

    arguments = arguments or {}
    if others := sorted(set(arguments) - RECORDED_MODEL_ARGUMENTS):
        raise EncoderError(
            f"the weights are for {name} with other model_args ({', '.join(others)}), which is "
            "not supported: choose weights of the network itself"
        )
    try:
        data: Any = resolve_data_config(  # type: ignore[no-untyped-call]
            {"img_size": arguments.get("img_size")}, dict(config)
        )
        if data["crop_mode"] not in ("center", "squash"):
            raise ValueError(f"crop_mode {data['crop_mode']} is not supported")
        height, size = map(int, data["input_size"][1:])
        if height != size:
            raise ValueError(f"images of {height} x {size} pixels are not supported")
        transform = ImageTransform(
            size,
            math.floor(size / data["crop_pct"]),
            "bilinear" if data["interpolation"] == "bilinear" else "bicubic",
            _read_channels(data["mean"]),
            _read_channels(data["std"]),
            square=data["crop_mode"] == "squash",
        )
    except (AssertionError, TypeError, ValueError, LookupError, ConfigError) as error:
        raise EncoderError(
            f"the preprocessing that timm's config states for {name} cannot be used: {error}"
        ) from error
    return PublishedWeights(name, transform, str(config.get("license") or UNKNOWN))


def _read_channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _import_timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise EncoderError(
            f"{name} needs one more package: pip install 'episodic-learning[timm]' ({error})"
        ) from error
    return timm


def _list_torchvision_weights(name: str, model: str) -> list[Any]:
    try:
        import torchvision
        from torchvision.models import get_model_weights, list_models
    except ImportError as error:
        raise EncoderError(
            f"{name} needs one more package: pip install 'episodic-learning[data]' ({error})"
        ) from error
    known = list_models(module=torchvision.models)
    if model not in known:
        raise EncoderError(
            f"torchvision has no classification network {model!r}{did_you_mean(model, known)}"
        )
    return list(get_model_weights(model))


def _read_torchvision_transform(model: str, entry: Any) -> ImageTransform:
    preset = entry.transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if model in INCEPTIONS:
        mean = std = (0.5, 0.5, 0.5)
    return ImageTransform(
        preset.crop_size[0], preset.resize_size[0], preset.interpolation.value, mean, std
    )


def _build_torchvision(name: str, model: str, size: int) -> tuple[nn.Module, tuple[str, ...]]:
    from torchvision.models import get_model

    options: dict[str, Any] = {}
    if model in INCEPTIONS:
        options |= {"init_weights": False, "aux_logits": False}
    if model.startswith("vit_"):
        options["image_size"] = size
    network = get_model(model, weights=None, **options)
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise EncoderError(
            f"{name} has no linear classifier whose input could be the features: choose another"
        )
    _replace_module(network, linear[-1], nn.Identity())
    return network, (f"{linear[-1]}.", "AuxLogits.", "aux")


def _build_timm(model: str, size: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    import timm

    # Timm passes the size to networks that depend on it, as their configuration says.
    overlay = None if size is None else {"input_size": (3, size, size)}
    network = timm.create_model(
        model, pretrained=False, num_classes=0, pretrained_cfg_overlay=overlay
    )
    config: Any = network.pretrained_cfg
    heads = config.get("classifier") or "head"
    prefixes = (heads,) if isinstance(heads, str) else tuple(heads)
    return network, tuple(f"{prefix}." for prefix in prefixes)


def resample_position_embedding(network: nn.Module, embedding: Tensor) -> Tensor:
    """Interpolate the position embedding of a vision transformer of timm for another image size.

    Args:
        network: The network, built for the size.
        embedding: The published parameter `pos_embed`, `(1, tokens, width)`.

    Returns:
        `(1, tokens of the network, width)`, as timm interpolates it.
    """
    from timm.layers import resample_abs_pos_embed

    positions: Any = network
    prefix = 0 if getattr(positions, "no_embed_class", False) else positions.num_prefix_tokens
    resampled: Tensor = resample_abs_pos_embed(
        embedding, list(positions.patch_embed.grid_size), num_prefix_tokens=prefix
    )
    return resampled


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
