"""The preprocessing of image encoders: crops and values are those of timm and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photographs import draw_photograph
from PIL import Image

from episodic.preprocessing.encoders.architectures import (
    LITE0,
    build_architecture,
    find_usual_weights,
)
from episodic.preprocessing.encoders.transform import ImageTransform


def test_the_usual_preprocessing_is_that_of_timm():
    import timm
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(timm.create_model("tf_efficientnet_lite0"))
    transform = build_architecture(LITE0).transform
    image = draw_photograph(1, (500, 333))
    expected = create_transform(**config)(image)
    pixels = torch.from_numpy(transform.crop(image).copy())
    torch.testing.assert_close(transform.normalize(pixels / 255), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(500, 333), (301, 402), (224, 224), (20, 900)])
def test_crops_are_those_of_torchvision(size):
    from torchvision.models import ResNet50_Weights

    weights = ResNet50_Weights.IMAGENET1K_V2
    transform = build_architecture("torchvision/resnet50").transform
    assert (transform.size, transform.resize) == (224, 256), "those of the first weights"
    transform = ImageTransform(224, 232, "bilinear", transform.mean, transform.std)
    image = draw_photograph(2, size)
    pixels = torch.from_numpy(transform.crop(image).copy())
    expected = weights.transforms(antialias=True)(image)
    torch.testing.assert_close(transform.normalize(pixels / 255), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["convnext_base.fb_in22k_ft_in1k_384", "tf_efficientnet_l2"])
@pytest.mark.parametrize("size", [(500, 333), (50, 300)])
def test_images_are_squashed_where_timm_does(name, size):
    import timm
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config({}, timm.get_pretrained_cfg(name).to_dict())
    transform = find_usual_weights(f"timm/{name}").transform
    assert transform.square == (name == "convnext_base.fb_in22k_ft_in1k_384")
    assert ImageTransform.from_json(transform.to_json()) == transform
    image = draw_photograph(3, size)
    pixels = torch.from_numpy(transform.crop(image).copy())
    expected = create_transform(**config)(image)
    torch.testing.assert_close(transform.normalize(pixels / 255), expected, rtol=0, atol=1e-6)


def test_long_images_are_shortened_before_they_are_resized(monkeypatch):
    transform = build_architecture(LITE0).transform
    strip = draw_photograph(5, (3000, 300))
    left = (3000 - 8 * 300) // 2
    shortened = transform.crop(strip.crop((left, 0, left + 2400, 300)))
    assert np.array_equal(transform.crop(strip), shortened)
    shapes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args: shapes.append(size) or resize(self, size)
    )
    assert transform.crop(Image.new("RGB", (30_000, 3))).shape == (3, 224, 224)
    assert transform.crop(Image.new("RGB", (1, 40_000))).shape == (3, 224, 224)
    assert shapes == [(8 * 256, 256), (256, 8 * 256)], "instead of millions of pixels"
    transform.crop(Image.new("RGB", (2400, 300)))
    assert shapes[2:] == [(8 * 256, 256)], "a panorama is resized as a whole"
