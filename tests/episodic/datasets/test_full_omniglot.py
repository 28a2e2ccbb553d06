"""Omniglot like photographs, from archives of the official layout with two drawings each."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from official_archives import pack, unpack
from PIL import Image

from episodic.datasets import full_omniglot
from episodic.datasets.base import FetchError
from episodic.datasets.full_omniglot import FullOmniglot
from episodic.datasets.omniglot import Omniglot, list_characters
from episodic.datasets.sources import fetch
from episodic.datasets.sources import omniglot as archives

DRAWINGS = 2
VALIDATION = {
    "Alphabet_of_the_Magi",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Tagalog",
}
"""The alphabets that Meta-Dataset names."""


def draw_png(ink: int) -> bytes:
    """The first `ink` rows of 105 are dark, the others white: one bit per pixel."""
    pixels = np.arange(105)[:, None].repeat(105, 1) >= ink
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def drawings() -> dict[str, dict[str, bytes]]:
    """The ink of a drawing depends on its character and person."""
    png = [draw_png(ink) for ink in range(106)]
    files: dict[str, dict[str, bytes]] = {archive: {} for archive in archives.CONTENT}
    for i, c in enumerate(list_characters()):
        for person in range(DRAWINGS):
            name = f"{c.archive}/{c.name}/{i:04d}_{person + 1:02d}.png"
            files[c.archive][name] = png[(7 * i) % 53 * 2 + person]
    return files


@pytest.fixture
def small(monkeypatch, drawings):
    content = {archive: fetch.content_digest(files) for archive, files in drawings.items()}
    monkeypatch.setattr(archives, "CONTENT", content)
    monkeypatch.setattr(full_omniglot, "DRAWINGS", DRAWINGS)
    return drawings


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.mark.parametrize("packed", [True, False])
def test_archives_to_images(packed, small, raw, tmp_path):
    mirror = tmp_path / "mirror"
    if packed:
        for archive, files in small.items():
            pack(mirror / f"omniglot/{archive}.zip", files)
    else:
        unpack(mirror / "omniglot", small)
    dataset = FullOmniglot(size=35)
    dataset.fetch(raw, mirror=mirror)
    assert [path.name for path in raw.iterdir()] == ["images.npy"]
    data = dataset.prepare(raw, 0)
    assert data.images.shape == (1623 * DRAWINGS, 3, 35, 35)
    assert data.input == dataset.limits(0).input == (3, 35, 35)
    assert data.classes == [c.name for c in list_characters()] == sorted(data.classes)
    assert data.groups == [c.alphabet for c in list_characters()]
    assert data.inverted and data.inputs == {"kind": "image", "inverted": True}
    ink = data.images.mean((1, 2, 3)) / 255 * 105
    expected = [(7 * i) % 53 * 2 + person for i in range(1623) for person in range(DRAWINGS)]
    assert np.abs(ink - expected).max() < 0.5, "light strokes on a dark background, in order"


def test_the_split_is_that_of_meta_dataset():
    dataset = FullOmniglot()
    limits = dataset.limits(0)
    assert limits.classes == {"train": 883, "validation": 81, "test": 659}
    assert {split: len(groups) for split, groups in limits.groups.items()} == {
        "train": 25,
        "validation": 5,
        "test": 20,
    }
    assert limits.groups["validation"].keys() == VALIDATION
    assert limits.groups["test"].keys() == Omniglot(split="lake").limits(0).groups["test"].keys()
    assert limits.examples == 20 and limits.input == (3, 84, 84)


def refused(raw: Path, mirror: Path) -> str:
    with pytest.raises(FetchError) as error:
        FullOmniglot().fetch(raw, mirror=mirror)
    assert "\n" not in str(error.value) and list(raw.iterdir()) == []
    return str(error.value)


def test_another_archive_is_rejected(small, raw, tmp_path):
    for archive, files in small.items():
        first = next(iter(files))
        changed = files | {first: draw_png(1)} if archive == "images_evaluation" else files
        path = pack(tmp_path / f"mirror/omniglot/{archive}.zip", changed)
    message = refused(raw, tmp_path / "mirror")
    assert message.startswith(f"{path} is not Omniglot's images_evaluation: its ")
    assert message.endswith("put the real archive there, or unset EPISODIC_MIRROR to download it")


def test_the_real_archives(mirror, raw):
    dataset = FullOmniglot(size=16)
    dataset.fetch(raw, mirror=mirror)
    data = dataset.prepare(raw, 0)
    assert data.images.shape == (32_460, 3, 16, 16)
    assert 5 < data.images.mean() < 40, "few pixels are ink"
