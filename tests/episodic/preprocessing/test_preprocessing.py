"""Images of any kind become examples, or an error that lists them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from episodic.preprocessing.base import InputError, build, read_class_folders
from episodic.preprocessing.images.reading import MAX_FILE_BYTES, decode_image

GREY, RGB = (1, 6, 8), (3, 6, 8)
RAMP = np.linspace(0, 255, 48).round().astype(np.uint8).reshape(6, 8)


def saved(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_every_mode_of_an_image():
    grey = Image.fromarray(RAMP)
    for mode in ("L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"):
        result = decode_image(grey.convert(mode), GREY, False)
        assert result.shape == GREY and np.abs(result[0].astype(int) - RAMP).max() <= 2, mode
    palette = decode_image(saved(grey.convert("P"), "PNG"), GREY, False)
    assert np.abs(palette[0].astype(int) - RAMP).max() <= 26, "a palette of web colours is coarse"
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    assert (decode_image(saved(deep, "PNG"), GREY, False)[0] == RAMP).all(), (
        "16 bits are scaled, not clipped"
    )
    assert (
        decode_image(Image.fromarray(RAMP > 127), GREY, False)[0] == np.where(RAMP > 127, 255, 0)
    ).all()
    assert (decode_image(grey, GREY, True)[0] == 255 - RAMP).all()


def test_colours_stay_in_their_channels():
    red = decode_image(Image.new("RGB", (8, 6), (255, 0, 10)), RGB, False)
    assert (
        red.shape == RGB and (red[0] == 255).all() and (red[1] == 0).all() and (red[2] == 10).all()
    )


def test_transparency_is_paper():
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert (decode_image(saved(clear, "PNG"), GREY, False) == 255).all() and (
        decode_image(clear, GREY, True) == 0
    ).all()
    gif = Image.new("P", (8, 6), 0)
    gif.putpalette([0, 0, 0] * 256)
    assert (decode_image(saved(gif, "PNG", transparency=0), GREY, False) == 255).all()


def test_the_orientation_of_the_camera_is_applied():
    wide = np.zeros((6, 8), np.uint8)
    wide[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    result = decode_image(saved(Image.fromarray(wide), "PNG", exif=exif), GREY, False)
    assert (result[0, :, 4:] == 255).all() and (result[0, :, :4] == 0).all()


def test_another_size_is_resized_as_a_whole():
    result = decode_image(Image.fromarray(np.repeat(np.repeat(RAMP, 5, 0), 3, 1)), GREY, False)
    assert result.shape == GREY and np.abs(result[0].astype(int) - RAMP)[1:-1].max() <= 3


def test_all_unreadable_images_are_listed(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    whole = saved(Image.fromarray(RAMP).resize((80, 60)), "PNG")
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    (tmp_path / "-odd name ä.png").write_bytes(saved(Image.fromarray(RAMP), "PNG"))
    bad = ["empty.png", "text.jpg", "half.png", "folder.png", "huge.png", "none.png"]
    with pytest.raises(InputError) as caught:
        build({"input": list(GREY), "inputs": {"kind": "image"}})(
            [tmp_path / name for name in [*bad, "-odd name ä.png"]]
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == len(bad) and all(
        name in line for name, line in zip(bad, lines, strict=True)
    )
    assert (
        "(0 bytes)" in lines[0]
        and "is a folder" in lines[3]
        and "64" in lines[4]
        and "No such file" in lines[5]
    )


def test_decompression_bombs_are_rejected():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 200_000
    with pytest.raises(InputError, match="too many pixels: an image may have at most"):
        decode_image(bomb, GREY, False)


def test_arrays_are_used_as_they_are():
    inputs = build({"input": list(GREY), "inputs": {"kind": "image", "inverted": True}})
    assert (inputs(RAMP[None, None]).numpy()[0, 0] == RAMP.astype(np.float32) / 255).all()
    assert inputs(np.zeros((2, *GREY))).dtype.is_floating_point
    for wrong, message in (
        (np.zeros((2, 8, 6)), "the model takes numbers of shape"),
        (np.full((1, *GREY), np.nan), "not finite"),
        ([], "x is empty: pass at least one image"),
        ([3], "image 0: int is not an image"),
        ([RAMP[None], RAMP], "image 1: x has shape"),
    ):
        with pytest.raises(InputError, match=message):
            inputs(wrong)


def test_a_folder_for_each_class(tmp_path):
    inputs = build({"input": list(GREY), "inputs": {"kind": "image"}})
    with pytest.raises(InputError, match="does not exist: specify a folder"):
        read_class_folders(tmp_path / "none", inputs)
    with pytest.raises(InputError, match="has no folders"):
        read_class_folders(tmp_path, inputs)
    for name in ("b/1.PNG", "a/2.jpg", "a/1.png", "a/notes.txt", "a/.hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {k: [p.name for p in v] for k, v in read_class_folders(tmp_path, inputs).items()} == {
        "a": ["1.png", "2.jpg"],
        "b": ["1.PNG"],
    }
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="c has 0 images: a class needs at least 1"):
        read_class_folders(tmp_path, inputs)
    (tmp_path / "c/1.SVG").touch()
    with pytest.raises(InputError, match=r"c has 0 images, only files of type \.svg: a class"):
        read_class_folders(tmp_path, inputs)
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/1.png").touch()
    with pytest.raises(InputError, match=r"has no folders, only 1 images"):
        read_class_folders(tmp_path / "loose", inputs)
