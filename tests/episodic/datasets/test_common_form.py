"""Images of all datasets in one form: the one in which a user's own files arrive."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import import_small_encoder
from PIL import Image

from episodic.core.config import ConfigError
from episodic.datasets.base import Images
from episodic.datasets.cifar_fs import CifarFS
from episodic.datasets.fc100 import FC100
from episodic.datasets.glyphs import Glyphs
from episodic.datasets.image_folder import ImageFolder
from episodic.datasets.mini_imagenet import MiniImageNet
from episodic.datasets.omniglot import Omniglot
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.encoders.features import ImageFeatures
from tests.episodic.datasets.test_image_folder import drawn

SMALL_PIXELS = ImageFeatures(size=16)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs")
    Glyphs(alphabets=5).fetch(folder)
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        path = import_small_encoder(folder / "small.safetensors", 32)
        yield ImageFeatures("encoder", str(path))


def png(pixels: np.ndarray) -> bytes:
    """Ink 255 on 0 as the file that a scanner writes: dark on light."""
    file = io.BytesIO()
    Image.fromarray(255 - pixels[0]).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("form", ["pixels", "encoder"])
def test_drawings_become_what_predict_makes_of_their_files(form, raw, encoded):
    """The preprocessor that a model's config.json describes gives the same examples."""
    features = SMALL_PIXELS if form == "pixels" else encoded
    as_drawn = Glyphs(alphabets=5).prepare(raw, 0)
    data = Glyphs(alphabets=5, features=features).prepare(raw, 0)
    few = Images(**{**vars(data), "images": data.images[:6], "counts": np.array([6])})
    examples = torch.as_tensor(np.asarray(few.encode()))
    described = {"input": data.input, "inputs": data.inputs}
    if form == "encoder":
        described["inputs"] = {**data.inputs, "path": Path(features.path)}
    files = [png(pixels) for pixels in as_drawn.images[:6]]
    expected = preprocessing.build(described)(files)
    assert examples.shape == (6, *data.input)
    if form == "pixels":
        assert data.input == (3, 16, 16) and examples.dtype == torch.uint8
        assert torch.equal(examples.float() / 255, expected)
        assert examples.float().mean() > 128  # light paper
        assert not data.inputs["inverted"] and as_drawn.inputs["inverted"]
    else:
        torch.testing.assert_close(examples, expected)
        with pytest.raises(AssertionError):  # light on dark is something else to the encoder
            upside = [png(255 - pixels) for pixels in as_drawn.images[:6]]
            torch.testing.assert_close(examples, preprocessing.build(described)(upside))


def test_pixels_stay_as_they_are_by_default(raw):
    data = Glyphs(alphabets=5).prepare(raw, 0)
    assert data.encode() is data.images and data.input == (1, 28, 28)


def test_own_images_are_decoded_in_this_form(tmp_path):
    """`features.size` replaces `size`, `colour` and `inverted`."""
    source = drawn(tmp_path / "images", ["a", "b", "c", "d", "e"], colour=True)
    prepared = []
    for name, config in {
        "own": ImageFolder(size=16, colour=True),
        "common": ImageFolder(features=SMALL_PIXELS, size=9, inverted=True),
    }.items():
        (tmp_path / name).mkdir()
        config.fetch(tmp_path / name, source=source)
        data = config.prepare(tmp_path / name, 0)
        assert config.limits(0, source).input == data.input == (3, 16, 16)
        prepared.append((np.asarray(data.encode()), data.inputs))
    assert (prepared[0][0] == prepared[1][0]).all() and prepared[0][1] == prepared[1][1]


@pytest.mark.parametrize("dataset", [CifarFS, FC100, Glyphs, MiniImageNet, Omniglot])
def test_limits_tell_the_form(dataset, encoded):
    assert dataset(features=ImageFeatures(size=40)).limits(0).input == (3, 40, 40)
    assert dataset(features=encoded).limits(0).input == (1280,)
    assert dataset(features=encoded).produces == "vector"
    assert dataset(features=SMALL_PIXELS).produces == "image"


def test_colour_images_are_only_resized():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8)
    assert (SMALL_PIXELS.convert(images, cropped=False) == images).all()
    smaller = ImageFeatures(size=8).convert(images, cropped=False)
    expected = [
        np.asarray(Image.fromarray(i.transpose(1, 2, 0)).resize((8, 8), Image.Resampling.BILINEAR))
        for i in images
    ]
    assert (smaller == np.stack(expected).transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(("size", "message"), [(3, "at least 4"), (2000, "at most 1024")])
def test_sizes_have_bounds(size, message):
    with pytest.raises(ConfigError, match=f"size is {size}; it must be {message}"):
        ImageFeatures(size=size)
