"""mini-ImageNet and tiered-ImageNet from small folders and archives of the usual shapes."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from episodic.datasets.base import FetchError
from episodic.datasets.mini_imagenet import MiniImageNet
from episodic.datasets.sources import imagenet
from episodic.datasets.tiered_imagenet import TieredImageNet

DATASETS = {"mini_imagenet": MiniImageNet(), "tiered_imagenet": TieredImageNet()}


def encode_image(
    colour: tuple[int, int, int],
    size: tuple[int, int] = (84, 84),
    kind: str = "PNG",
    mode: str = "RGB",
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def files(name: str, each: int) -> dict[str, bytes]:
    """`each` images per class. Red encodes the class, green the image."""
    return {
        f"{row['class']}/{row['class']}_{i}.png": encode_image((index % 256, 10 * i, index // 256))
        for index, row in enumerate(imagenet.read_class_table(name))
        for i in range(each)
    }


def folder(root: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture(autouse=True)
def few(monkeypatch):
    for dataset in (MiniImageNet, TieredImageNet):
        monkeypatch.setattr(dataset, "min_images", 2)
    monkeypatch.setattr(MiniImageNet, "max_images", 2)


def test_the_splits_are_the_published_ones():
    mini, tiered = (dataset.limits(0) for dataset in DATASETS.values())
    assert mini.classes == {"train": 64, "validation": 16, "test": 20} and mini.input == (3, 84, 84)
    assert tiered.classes == {"train": 351, "validation": 97, "test": 160}
    groups = {
        split: {
            row["group"]
            for row in imagenet.read_class_table("tiered_imagenet")
            if row["split"] == split
        }
        for split in tiered.classes
    }
    assert [len(names) for names in groups.values()] == [20, 6, 8]
    digests = {
        name: hashlib.sha256((imagenet.SPLIT_TABLES / f"{name}.csv").read_bytes()).hexdigest()[:16]
        for name in DATASETS
    }
    known = {"mini_imagenet": "3e1192820ac97896", "tiered_imagenet": "4d7ee2209287d17d"}
    assert digests == known, "checked class by class against the published lists"
    assert len(set.union(*groups.values())) == 34, "groups are kept apart"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", DATASETS)
def test_files_to_images(name, packed, raw, tmp_path):
    dataset, content = DATASETS[name], files(name, 2)
    content |= {
        "train.csv": b"filename,label\n",
        "n00000000/n00000000_1.png": b"another class is left alone",
    }
    if packed:
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for inner, data in content.items():
                archive.writestr(f"images/{inner}", data)
    else:
        folder(tmp_path / name, content)
    dataset.fetch(raw, mirror=tmp_path)
    data = dataset.prepare(raw, 0)
    table = imagenet.read_class_table(name)
    assert data.images.shape == (2 * len(table), 3, 84, 84)
    positions = data.images[:, 0, 0, 0].astype(int) + 256 * data.images[:, 2, 40, 40].astype(int)
    assert positions.tolist() == np.arange(len(table)).repeat(2).tolist(), (
        "class after class, red first"
    )
    assert data.images[:, 1, 83, 83].tolist() == [0, 10] * len(table)
    assert data.splits == [row["split"] for row in table] and data.counts.tolist() == [2] * len(
        table
    )


def test_images_of_any_size_and_kind_are_resized_to_84_pixels(raw, tmp_path):
    content = files("mini_imagenet", 2)
    first = imagenet.read_class_table("mini_imagenet")[0]["class"]
    del content[f"{first}/{first}_0.png"], content[f"{first}/{first}_1.png"]
    content[f"train/{first}00000005.jpg"] = encode_image((90, 90, 90), (500, 333), "JPEG", "L")
    content[f"train/{first}_7.JPEG"] = encode_image((10, 200, 30), (84, 120), "JPEG", "CMYK")
    folder(tmp_path / "mini_imagenet", content)
    MiniImageNet().fetch(raw, mirror=tmp_path)
    images = MiniImageNet().prepare(raw, 0).images
    assert (images[0] == 90).all(), "grey becomes three equal colours"
    assert np.abs(images[1].mean((1, 2)) - [10, 200, 30]).max() < 6


@pytest.mark.parametrize("name", DATASETS)
def test_unavailable_or_incomplete_archives_are_rejected(name, raw, tmp_path):
    dataset, content = DATASETS[name], files(name, 2)
    with pytest.raises(
        FetchError,
        match="cannot be downloaded, since ImageNet may not be redistributed: set EPISODIC_MIRROR",
    ):
        dataset.fetch(raw)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FetchError, match="cannot be downloaded"):
        dataset.fetch(raw, mirror=tmp_path / "empty")
    del content[next(iter(content))]
    folder(tmp_path / name, content)
    with pytest.raises(
        FetchError,
        match=f"1 of its {len(imagenet.read_class_table(name))} classes do not have (at least )?2 "
        "images; n01.* has 1",
    ):
        dataset.fetch(raw, mirror=tmp_path)
    assert list(raw.iterdir()) == []


def test_a_folder_may_name_the_class(raw, tmp_path):
    """The layout of many ImageNet archives."""
    content = {
        f"train/{name.split('/')[-1].split('_')[0]}/{i:04d}.png": data
        for i, (name, data) in enumerate(files("mini_imagenet", 2).items())
    }
    folder(tmp_path / "mini_imagenet", content)
    MiniImageNet().fetch(raw, mirror=tmp_path)
    assert len(MiniImageNet().prepare(raw, 0).images) == 200


def test_an_encrypted_archive_is_rejected(raw, tmp_path):
    path = tmp_path / "mini_imagenet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in files("mini_imagenet", 2).items():
            archive.writestr(inner, data)
    content = bytearray(path.read_bytes())
    for mark, at in (
        (b"PK\x03\x04", 6),
        (b"PK\x01\x02", 8),
    ):  # the flag of encryption, in both headers of each member
        position = -1
        while (position := content.find(mark, position + 1)) >= 0:
            content[position + at] |= 1
    path.write_bytes(content)
    with pytest.raises(FetchError, match=r"cannot be read as an image: .*encrypted"):
        MiniImageNet().fetch(raw, mirror=tmp_path)


def test_a_broken_image_is_reported_and_nothing_is_left(raw, tmp_path):
    content = files("mini_imagenet", 2)
    name = list(content)[5]
    content[name] = content[name][:60]
    folder(tmp_path / "mini_imagenet", content)
    with pytest.raises(FetchError, match=f"{name} cannot be read as an image"):
        MiniImageNet().fetch(raw, mirror=tmp_path)
    assert list(raw.iterdir()) == []
    (tmp_path / "tiered_imagenet.zip").write_bytes(b"no archive")
    with pytest.raises(FetchError, match="is not a valid zip archive"):
        TieredImageNet().fetch(raw, mirror=tmp_path)


def test_class_counts_are_recorded(raw, tmp_path):
    folder(tmp_path / "mini_imagenet", files("mini_imagenet", 2))
    MiniImageNet().fetch(raw, mirror=tmp_path)
    rows = json.loads((raw / "classes.json").read_text())
    assert rows[0] == {"class": "n01532829", "count": 2} and len(rows) == 100
