"""User-provided images: their split, their pixels, and errors that list all problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.datasets.base import SPLITS, FetchError
from episodic.datasets.image_folder import ImageFolder
from episodic.datasets.sources.folder import assign_splits
from episodic.preprocessing.image import PixelPreprocessor

FRACTIONS = ImageFolder().split_fractions
NAMES = ["-dash", "with space", "漢字", "ärger", "plain", ".hidden"]


def drawn(folder: Path, names: list[str], count: int = 4, colour: bool = False) -> Path:
    """One level of grey (or of red) per class, in images of several sizes and formats."""
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            level = (20 * index, 0, 5) if colour else 20 * index
            Image.new("RGB" if colour else "L", (10 + i, 12), level).save(
                folder / name / f"{i}.{('png', 'bmp', 'gif', 'tif')[i % 4]}"
            )
    return folder


def prepare(source: Path, raw: Path, config: ImageFolder | None = None, seed: int = 0):
    config = config or ImageFolder(size=8)
    raw.mkdir()
    config.fetch(raw, source=source)
    return config.prepare(raw, seed)


def test_a_folder_for_each_class(tmp_path):
    source = drawn(tmp_path / "images", NAMES)
    (source / "plain/notes.txt").write_text("no image")
    (source / "plain/.thumb.png").touch()
    result = prepare(source, tmp_path / "raw")
    visible = sorted(set(NAMES) - {".hidden"})
    assert (
        result.classes == visible
        and result.counts.tolist() == [4] * 5
        and result.images.shape == (20, 1, 8, 8)
    )
    for name, first in zip(result.classes, result.images[::4], strict=True):
        assert (first == 20 * NAMES.index(name)).all()
    assert (
        result.protocol == "images, classes split at random"
        and str(tmp_path) not in result.protocol
    )
    assert not result.inverted and result.kind == "classification"


def test_pixels_equal_those_of_the_preprocessor(tmp_path):
    source = drawn(tmp_path / "images", ["a", "b", "c"])
    for config in (ImageFolder(size=8, inverted=True), ImageFolder(size=9, colour=True)):
        result = prepare(source, tmp_path / f"raw{config.size}", config)
        inputs = PixelPreprocessor(config.image_shape, config.inverted)
        files = [
            path for name in result.classes for path in inputs.examples_in_folder(source / name)
        ]
        assert (inputs(files).numpy() == result.images.astype(np.float32) / 255).all()


def test_colour_images_keep_their_colours(tmp_path):
    result = prepare(
        drawn(tmp_path / "images", ["a", "b", "c", "d"], colour=True),
        tmp_path / "raw",
        ImageFolder(size=8, colour=True),
    )
    assert (
        result.images.shape[1:] == (3, 8, 8)
        and (result.images[-1, 0] == 60).all()
        and (result.images[-1, 2] == 5).all()
    )


def test_the_split_is_a_function_of_seed_and_names():
    names = [f"class {i}" for i in range(50)]
    first = assign_splits(names, FRACTIONS, 0)
    assert [list(first.values()).count(split) for split in SPLITS] == [30, 10, 10]
    assert first == assign_splits(names[::-1], FRACTIONS, 0) != assign_splits(names, FRACTIONS, 1)
    assert [
        list(assign_splits(names[:3], FRACTIONS, 0).values()).count(split) for split in SPLITS
    ] == [
        2,
        0,
        1,
    ]


def test_folders_may_define_the_split(tmp_path):
    source = tmp_path / "images"
    for split, names in {"train": ["a", "d"], "val": ["c"], "test": ["b"]}.items():
        drawn(source / split, names)
    result = prepare(source, tmp_path / "raw", seed=5)
    assert dict(zip(result.classes, result.splits, strict=True)) == {
        "a": "train",
        "b": "test",
        "c": "validation",
        "d": "train",
    }
    assert result.protocol == "images, classes split by its folders"
    assert ImageFolder().limits(0, source).classes == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    drawn(source / "test", ["a"])
    with pytest.raises(
        FetchError,
        match="a is in several of test, train, val: put each class into one of them",
    ):
        ImageFolder().limits(0, source)
    for path in (source / "val").rglob("*"):
        if path.is_file():
            path.unlink()
    (source / "val/c").rmdir()
    (source / "val").rmdir()
    with pytest.raises(FetchError, match="has the folders test, train and none for validation"):
        ImageFolder().limits(0, source)


def test_limits_name_the_smallest_class(tmp_path):
    source = drawn(tmp_path / "images", ["a", "b", "c", "d", "e"])
    (source / "c/3.tif").unlink()
    result = ImageFolder(size=16, colour=True).limits(0, source)
    assert (result.examples, result.smallest, result.input) == (3, "c", (3, 16, 16))


def test_all_problems_are_listed_and_nothing_is_written(tmp_path):
    source = drawn(tmp_path / "images", ["a", "b", "c"])
    (source / "a/empty.png").touch()
    (source / "b/words.jpg").write_text("words")
    (tmp_path / "raw").mkdir()
    with pytest.raises(FetchError) as caught:
        ImageFolder().fetch(tmp_path / "raw", source=source)
    assert (
        len(str(caught.value).splitlines()) == 2
        and "empty.png is empty" in str(caught.value)
        and "words.jpg cannot be read as an image" in str(caught.value)
    )
    assert list((tmp_path / "raw").iterdir()) == []
    for wrong, message in (
        (tmp_path / "none", "must be a folder with one folder of images"),
        (tmp_path / "raw", "has no folders"),
    ):
        with pytest.raises(FetchError, match=message):
            ImageFolder().limits(0, wrong)
    (source / "d").mkdir()
    with pytest.raises(FetchError, match="d has 0 images"):
        ImageFolder().limits(0, source)
    with pytest.raises(FetchError, match="run the stage download first"):
        ImageFolder().prepare(tmp_path / "raw", 0)
