"""Features of images: each depends on its image alone, and is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photographs import draw_photograph

from episodic.preprocessing.encoders import encoder as encoders
from episodic.preprocessing.encoders.architectures import LITE0, build_architecture
from episodic.preprocessing.encoders.cache import FeatureCache
from episodic.preprocessing.encoders.features import ImageFeatures

pytestmark = pytest.mark.usefixtures("own_cache")


def crops(count: int) -> np.ndarray:
    transform = build_architecture(LITE0).transform
    return np.stack([transform.crop(draw_photograph(seed)) for seed in range(count)])


def test_features_depend_on_the_image_alone():
    encoder, pixels = encoders.load_encoder(LITE0), crops(11)
    features = encoder.encode(pixels)
    assert features.shape == (11, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(11))
    assert torch.equal(encoder.encode(pixels[::-1]).flip(0), features)
    assert torch.equal(torch.cat([encoder.encode(pixels[i : i + 1]) for i in range(11)]), features)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(encoder.encode(pixels), features)
        assert torch.get_num_threads() == 3, "the setting of the caller is kept"
    finally:
        torch.set_num_threads(threads)


def test_only_changed_images_are_encoded_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed = []
    forward = encoders.ImageEncoder._forward
    monkeypatch.setattr(
        encoders.ImageEncoder,
        "_forward",
        lambda self, images: (computed.append(len(images)), forward(self, images))[1],
    )
    pixels, features = crops(10), ImageFeatures("encoder", LITE0)
    first = features.convert(pixels, cropped=True)
    assert sum(computed) == 10
    computed.clear()
    changed = pixels.copy()
    changed[3, 0, 0, 0] ^= 1
    second = features.convert(changed[::-1], cropped=True).flip(0)
    assert computed == [1]
    same = torch.arange(10) != 3
    assert torch.equal(first[same], second[same]) and not torch.equal(first[3], second[3])


def test_a_damaged_cache_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = FeatureCache("0" * 64, 3)
    cache.write({b"a" * 32: np.arange(3, dtype=np.float32)})
    assert cache.read([b"a" * 32, b"b" * 32])[b"a" * 32].tolist() == [0, 1, 2]
    for path in cache.path.parent.iterdir():
        path.write_bytes(b"no database" * 1000)
    assert FeatureCache("0" * 64, 3).read([b"a" * 32]) == {}
