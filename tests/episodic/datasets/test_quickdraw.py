"""Quick, Draw! from files of exactly the official layout, with five drawings each."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from episodic.datasets import quickdraw
from episodic.datasets.base import FetchError
from episodic.datasets.quickdraw import QuickDraw
from episodic.datasets.sources.class_table import read_class_table

DRAWINGS = 5
CLASSES = read_class_table("quickdraw")


def draw_class(number: int) -> np.ndarray:
    """Drawings `(DRAWINGS, 784)` whose pixels state class, drawing and position."""
    drawings = np.zeros((DRAWINGS, 784), np.uint8)
    drawings[:, 0], drawings[:, 1] = number // 256, number % 256
    drawings[:, 2] = np.arange(DRAWINGS)
    drawings[:, 28] = 255  # the first pixel of the second row
    return drawings


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(
        quickdraw, "read_class_table", lambda name: [c._replace(examples=DRAWINGS) for c in CLASSES]
    )
    folder = tmp_path / "mirror/quickdraw"
    folder.mkdir(parents=True)
    for number, c in enumerate(CLASSES):
        np.save(folder / f"{c.name}.npy", draw_class(number))
    return tmp_path / "mirror"


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def refused(raw: Path, mirror: Path | None) -> str:
    with pytest.raises(FetchError) as error:
        QuickDraw(drawings=2).fetch(raw, mirror=mirror)
    assert "\n" not in str(error.value) and list(raw.iterdir()) == []
    return str(error.value)


def test_files_to_images(mirror, raw):
    dataset = QuickDraw(drawings=3)
    dataset.fetch(raw, mirror=mirror)
    data = dataset.prepare(raw, 0)
    assert data.images.shape == (3 * 345, 1, 28, 28)
    expected = [(i // 256, i % 256, drawing) for i in range(345) for drawing in range(3)]
    assert data.images[:, 0, 0, :3].tolist() == [list(pixels) for pixels in expected]
    assert (data.images[:, 0, 1, 0] == 255).all(), "rows of 28 pixels"
    assert data.classes == [c.name for c in CLASSES] == sorted(data.classes)
    assert data.inverted and data.input == dataset.limits(0).input == (1, 28, 28)
    assert {split: data.splits.count(split) for split in set(data.splits)} == {
        "train": 241,
        "validation": 52,
        "test": 52,
    }
    assert len(list((mirror / "quickdraw").iterdir())) == 345, "the mirror is left as it is"


def test_the_limits_are_the_published_ones():
    assert QuickDraw().limits(0).classes == {"train": 241, "validation": 52, "test": 52}
    assert sum(c.examples for c in CLASSES) == 50_426_266
    assert QuickDraw(drawings=100_000).limits(0).examples == 100_000
    assert min(c.examples for c in CLASSES) >= 100_000, "every class has that many drawings"


def test_files_are_downloaded_by_their_quoted_names_and_removed(mirror, raw, server, monkeypatch):
    monkeypatch.setattr(quickdraw, "ADDRESS", server.url)
    contents = [(mirror / f"quickdraw/{c.name}.npy").read_bytes() for c in CLASSES]
    server.responses = [server.sends(content) for content in contents]
    dataset = QuickDraw(drawings=2)
    dataset.fetch(raw)
    assert server.paths[0] == "/The%20Eiffel%20Tower.npy" and len(server.paths) == 345
    assert [path.name for path in raw.iterdir()] == ["images.npy"]
    downloaded = (raw / "images.npy").read_bytes()
    dataset.fetch(raw, mirror=mirror)
    assert (raw / "images.npy").read_bytes() == downloaded


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (np.zeros((DRAWINGS - 1, 784), np.uint8), r"it is uint8 \(4, 784\) instead of uint8 \(5, "),
        (np.zeros((DRAWINGS, 784), np.float32), "it is float32"),
        (np.array([{}] * DRAWINGS), "Python objects"),
        (b"nothing", "."),
        (b"", "."),
    ],
)
def test_another_file_is_rejected(content, reason, mirror, raw):
    path = mirror / "quickdraw/zebra.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    message = refused(raw, mirror)
    assert message.startswith(f"{path} is not the official file of the class 'zebra' (")
    assert re.search(reason, message) and message.endswith("): replace it")


def test_a_missing_file_is_named(mirror, raw):
    (mirror / "quickdraw/zebra.npy").unlink()
    message = refused(raw, mirror)
    assert message == (
        f"{mirror}/quickdraw does not contain zebra.npy; put the official file there, or unset "
        "EPISODIC_MIRROR to download it"
    )
