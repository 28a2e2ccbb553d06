"""Reading and cropping photographs: every kind of image file, and those that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from photographs import draw_photograph
from PIL import Image

import episodic
from episodic.preprocessing.base import InputError
from episodic.preprocessing.encoders.architectures import LITE0, find_usual_weights
from episodic.preprocessing.images.reading import crop_image

TRANSFORM = find_usual_weights(LITE0).transform


def test_images_of_every_kind_are_read(tmp_path):
    image = draw_photograph(3)
    expected = TRANSFORM.crop(image).astype(int)

    def difference(saved: Image.Image, name: str, **options) -> float:
        saved.save(tmp_path / name, **options)
        return float(abs(crop_image(tmp_path / name, TRANSFORM).astype(int) - expected).mean())

    assert difference(image, "a.png") == 0
    assert difference(image, "a.jpg", quality=95) < 2
    assert difference(image.convert("CMYK"), "cmyk.jpg", quality=95) < 3
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to display
    assert difference(turned, "turned.jpg", exif=exif, quality=95) < 2
    grey = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    grey.save(tmp_path / "16bit.png")
    shown = TRANSFORM.crop(image.convert("L").convert("RGB"))
    assert abs(crop_image(tmp_path / "16bit.png", TRANSFORM).astype(int) - shown).max() <= 1
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[draw_photograph(4)])
    assert abs(crop_image(tmp_path / "moving.gif", TRANSFORM).astype(int) - expected).mean() < 12
    large = draw_photograph(3, (3200, 2400))
    assert difference(large, "large.jpg", quality=95) < 4, "decoded at a fraction of its size"
    array = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(crop_image(array, TRANSFORM), expected)
    assert np.array_equal(crop_image(array / 255, TRANSFORM), expected)


def test_pixels_of_unknown_range_are_refused(tmp_path):
    for values in (np.float32, np.int32):
        Image.fromarray(np.full((20, 30), 1, values)).save(tmp_path / "deep.tif")
        with pytest.raises(InputError, match=r"deep.tif has 32 bits per pixel.*convert it to 8"):
            crop_image(tmp_path / "deep.tif", TRANSFORM)
    x = np.full((3, 20, 20), 200.0)
    for array in (x, -x, np.full((3, 20, 20), np.nan)):
        with pytest.raises(InputError, match="float images have values from 0 to 1"):
            crop_image(array, TRANSFORM)
    assert (crop_image(np.full((3, 20, 20), 1.001), TRANSFORM) == 255).all()


def test_a_truncated_pillow_image_is_named(tmp_path):
    draw_photograph(0).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:2000])
    with pytest.raises(InputError, match="the image cannot be read as an image"):
        crop_image(Image.open(tmp_path / "cut.jpg"), TRANSFORM)


@pytest.mark.filterwarnings("error")
def test_what_pillow_warns_of_is_an_error_or_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    draw_photograph(0, (300, 250)).save(tmp_path / "large.png")
    assert crop_image(tmp_path / "large.png", TRANSFORM).shape == (3, 224, 224)
    draw_photograph(0, (400, 320)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png has too many pixels: an image may"):
        crop_image(tmp_path / "bomb.png", TRANSFORM)
    draw_photograph(0, (80, 60)).save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    assert crop_image(tmp_path / "exif.jpg", TRANSFORM).shape == (3, 224, 224)


@pytest.mark.usefixtures("own_cache")
def test_unreadable_images_are_listed(tmp_path):
    learner = episodic.from_encoder(LITE0)
    good = tmp_path / "good.jpg"
    draw_photograph(0).save(good)
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    names = ["good.jpg", "text.jpg", "cut.jpg", "empty.jpg", "huge.png", "missing.jpg"]
    with pytest.raises(InputError) as error:
        learner.adapt([tmp_path / name for name in names], list("aabbcc"))
    lines = str(error.value).splitlines()
    assert len(lines) == 5 and all(
        name in line for name, line in zip(names[1:], lines, strict=True)
    )
    assert "(unknown format): convert it to JPEG or PNG, or remove it" in lines[0]
    assert lines[1].endswith("replace or remove it") and "is empty (0 bytes)" in lines[2]
    assert "at most 100 million" in lines[3]
