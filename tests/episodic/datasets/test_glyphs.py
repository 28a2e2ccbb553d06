"""Synthetic alphabets: drawings, reproducibility and difficulty."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from episodic.core.config import ConfigError
from episodic.core.statistics import mean_ci95
from episodic.datasets import glyphs
from episodic.datasets.base import SPLITS, Images, Limits
from episodic.datasets.glyphs import Glyphs

WRITERS = 20


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset at its default size."""
    folder = tmp_path_factory.mktemp("raw")
    Glyphs().fetch(folder)
    return folder


@pytest.fixture(scope="module")
def data(raw: Path) -> Images:
    return Glyphs().prepare(raw, seed=0)


def by_class(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, WRITERS, 28, 28)


def test_default_size(data: Images):
    characters = np.unique(data.groups, return_counts=True)[1]
    assert len(characters) == 50
    assert characters.min() >= 20 and characters.max() <= 40
    assert (
        data.images.shape == (len(data.classes) * WRITERS, 1, 28, 28)
        and data.images.dtype == np.uint8
    )
    assert data.counts.dtype == np.int64 and set(data.counts.tolist()) == {WRITERS}
    assert len(set(data.classes)) == len(data.classes)
    assert all(
        name.startswith(f"{group}/character-")
        for name, group in zip(data.classes, data.groups, strict=True)
    )
    assert data.protocol == "split by alphabet"


def test_all_drawings_differ(data: Images):
    assert len({image.tobytes() for image in data.images}) == len(data.images)


def test_strokes_are_thin_and_antialiased(data: Images):
    images = data.images.reshape(-1, 28, 28)
    inked = (images > 127).mean((1, 2))
    assert inked.min() > 0.01 and inked.max() < 0.4
    assert images.max((1, 2)).min() > 127
    assert (images[:, [0, -1], :] == 0).all() and (images[:, :, [0, -1]] == 0).all()
    grey = ((images > 0) & (images < 255)).sum() / (images > 0).sum()
    assert 0.2 < grey < 0.9  # 0 without antialiasing
    assert 0.06 < images.mean() / 255 < 0.1  # Omniglot's images_background at 28 x 28: 0.078


def test_an_alphabet_does_not_depend_on_the_number_of_alphabets(raw: Path, tmp_path: Path):
    """Adding alphabets does not change the earlier ones."""
    Glyphs(alphabets=5).fetch(tmp_path)
    few, many = np.load(tmp_path / "images.npy"), np.load(raw / "images.npy", mmap_mode="r")
    assert np.array_equal(few, many[: len(few)])
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert classes == json.loads((raw / "classes.json").read_text())[: len(classes)]


def test_fetch_is_reproducible(tmp_path: Path):
    message: list[tuple[str, int, int]] = []
    digests = []
    for name in ("first", "second"):
        np.random.seed(len(digests))  # the global generator is of no account
        folder = tmp_path / name
        folder.mkdir()
        Glyphs(alphabets=5).fetch(folder, progress=lambda *figures: message.append(figures))
        digests.append(
            [
                hashlib.sha256((folder / file).read_bytes()).hexdigest()
                for file in ("images.npy", "classes.json")
            ]
        )
    assert digests[0] == digests[1]
    assert message == 2 * [("alphabets", done, 5) for done in range(1, 6)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("alphabets", [5, 6, 14, 50])
def test_alphabets_are_kept_apart(alphabets: int, seed: int):
    splits = np.array(glyphs.assign_alphabets(alphabets, seed))
    assert len(splits) == alphabets
    shares = {split: (splits == split).sum() for split in SPLITS}
    assert shares["validation"] == max(1, round(alphabets / 10)) and shares["test"] == max(
        1, round(alphabets / 5)
    )
    assert sum(shares.values()) == alphabets


def test_a_class_is_in_the_split_of_its_alphabet(data: Images):
    homes: dict[str, set[str]] = {}
    for group, split in zip(data.groups, data.splits, strict=True):
        homes.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values())
    assert {split for splits in homes.values() for split in splits} == set(SPLITS)


def test_another_seed_is_another_split(raw: Path, data: Images):
    other = Glyphs().prepare(raw, seed=1)
    assert other.splits != data.splits
    assert other.classes == data.classes
    assert Glyphs().prepare(raw, seed=0).splits == data.splits


def test_limits_are_known_before_fetch(data: Images):
    limits = Glyphs().limits(seed=0)
    assert limits.examples == data.counts.min()
    assert limits.classes == {split: data.splits.count(split) for split in SPLITS}
    assert (
        limits.groups == Limits.from_members(20, zip(data.splits, data.groups, strict=True)).groups
    )


@pytest.mark.parametrize("alphabets", [4, 0, 1001])
def test_alphabets_out_of_range_are_rejected(alphabets: int):
    bound = "at most 1000" if alphabets > 1000 else "at least 5"
    with pytest.raises(ConfigError, match=rf"^alphabets is {alphabets}; it must be {bound}$"):
        Glyphs(alphabets=alphabets)


def nearest_neighbour(
    images: np.ndarray, episodes: int, ways: int = 5, queries: int = 15
) -> tuple[float, float]:
    """1-shot accuracy and its 95 % interval, by the Euclidean distance of pixels.

    images: `(classes, writers, 28, 28)`
    """
    random = np.random.default_rng(0)
    pixels = images.reshape(len(images), WRITERS, -1).astype(np.float32) / 255
    accuracy = np.empty(episodes)
    for episode in range(episodes):
        classes = random.choice(len(pixels), ways, replace=False)
        drawn = np.stack([pixels[c, random.permutation(WRITERS)[: 1 + queries]] for c in classes])
        support, query = drawn[:, 0], drawn[:, 1:]
        distance = (support**2).sum(-1) - 2 * query @ support.T
        accuracy[episode] = (distance.argmin(-1) == np.arange(ways)[:, None]).mean()
    return mean_ci95(accuracy)


def test_nearest_neighbour_in_pixels_is_as_accurate_as_on_omniglot(data: Images):
    """Omniglot's images_background gives 47.1 %. Chance is 20 %, identical drawings give 100 %."""
    accuracy, ci95 = nearest_neighbour(
        by_class(data.images)[np.array(data.splits) == "test"], episodes=1500
    )
    assert ci95 < 0.01
    assert accuracy - ci95 > 0.40 and accuracy + ci95 < 0.60


def test_shuffled_classes_are_at_chance(data: Images):
    """With images shuffled across classes the accuracy is that of chance."""
    images = by_class(data.images)
    dealt = np.random.default_rng(0).permutation(images.reshape(-1, 28, 28)).reshape(images.shape)
    accuracy, ci95 = nearest_neighbour(dealt, episodes=400)
    assert abs(accuracy - 0.2) < 3 * ci95


def test_characters_of_an_alphabet_differ(data: Images):
    """Mean drawings differ more between characters than between halves of one's drawings."""
    images = by_class(data.images)[: glyphs.count_characters(0)].astype(np.float64) / 255
    odd, even = (
        images[:, ::2].mean(1).reshape(len(images), -1),
        images[:, 1::2].mean(1).reshape(len(images), -1),
    )
    distance = np.linalg.norm(odd[:, None] - even, axis=-1)
    assert (distance.argmin(1) == np.arange(len(images))).mean() > 0.9  # chance: 1 in 20 to 40


def test_a_line_is_drawn_without_gaps():
    """Compared with the distance to the line, for lines from length 0 to that of the image."""
    random = np.random.default_rng(0)
    ends = random.uniform(2, 25, (glyphs.WRITERS, 2, 2))
    ends[0, 1] = ends[0, 0]
    along = np.linspace(0, 1, glyphs.SAMPLES) ** 8  # unevenly, some samples far apart
    points = ends[:, :1] + along[:, None] * (ends[:, 1:] - ends[:, :1])
    pen = random.uniform(0.5, 0.82, glyphs.WRITERS)
    drawn = glyphs._render_strokes([points[:, None]], pen)
    pixel = np.stack(np.meshgrid(np.arange(28), np.arange(28)), -1).reshape(-1, 2)
    for (a, b), radius, image in zip(ends, pen, drawn, strict=True):
        t = np.clip((pixel - a) @ (b - a) / max(((b - a) ** 2).sum(), 1e-9), 0, 1)
        distance = np.linalg.norm(pixel - a - t[:, None] * (b - a), axis=-1)
        expected = np.clip(radius + 0.5 - distance, 0, 1).reshape(28, 28) * 255
        assert np.abs(image - expected).max() <= 1
        assert expected.max() > 127


def test_a_stroke_starts_and_ends_in_its_control_points():
    assert np.allclose(glyphs.BASIS.sum(1), 1)
    assert np.allclose(glyphs.BASIS[[0, -1]], np.eye(glyphs.CONTROLS)[[0, -1]])
    assert (glyphs.BASIS >= 0).all()
