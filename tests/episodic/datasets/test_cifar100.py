"""CIFAR-FS and FC100 from small archives of exactly CIFAR-100's binary format."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from episodic.datasets.base import FetchError
from episodic.datasets.cifar_fs import CifarFS
from episodic.datasets.fc100 import FC100
from episodic.datasets.sources import cifar100

DATASETS = (CifarFS(), FC100())


def records(per_class: int, seed: int) -> bytes:
    """Labels in random order, and pixels that encode class, number and channel."""
    random = np.random.default_rng(seed)
    table = cifar100.read_class_table()
    groups = sorted({row["group"] for row in table})
    rows = []
    for number in random.permutation(100 * per_class):
        label = number % 100
        pixels = np.full((3, 32, 32), label, np.uint8)
        pixels[1], pixels[2, 0, 5] = number // 100, 200
        rows.append(
            np.concatenate([[groups.index(table[label]["group"]), label], pixels.ravel()]).astype(
                np.uint8
            )
        )
    return np.stack(rows).tobytes()


def archive(path: Path, **files: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with an archive of three images per class, accepted as the official one."""
    monkeypatch.setattr(cifar100, "EXAMPLES", 3)
    names = {
        "fine_label_names.txt": b"apple\n",
        "train.bin": records(2, 0),
        "test.bin": records(1, 1),
    }
    path = archive(tmp_path / "mirror/cifar100/cifar-100-binary.tar.gz", **names)
    monkeypatch.setattr(
        cifar100, "MD5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    )
    return tmp_path / "mirror"


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_the_splits_are_the_published_ones():
    fs, fc = (dataset.limits(0) for dataset in DATASETS)
    assert fs.classes == {"train": 64, "validation": 16, "test": 20} and fc.classes == {
        "train": 60,
        "validation": 20,
        "test": 20,
    }
    assert fs.examples == 600 and fs.input == (3, 32, 32)
    table = cifar100.read_class_table()
    assert [row["class"] for row in table] == sorted(row["class"] for row in table), (
        "numbered in the order of the alphabet"
    )
    assert set(Counter(row["group"] for row in table).values()) == {5}
    for group in {row["group"] for row in table}:
        assert len({row["fc100"] for row in table if row["group"] == group}) == 1, (
            "FC100 keeps groups whole"
        )
    digest = hashlib.sha256(cifar100.TABLE.read_bytes()).hexdigest()
    assert digest.startswith("19e3970a4289a44e"), (
        "checked class by class against the published lists"
    )
    of = {row["class"]: row for row in table}
    assert (
        of["whale"]["cifar_fs"] == "test"
        and of["beaver"]["cifar_fs"] == "validation"
        and of["bee"]["fc100"] == "test"
    )


@pytest.mark.parametrize("dataset", DATASETS, ids=["cifar_fs", "fc100"])
def test_archive_to_images(dataset, mirror, raw):
    dataset.fetch(raw, mirror=mirror)
    assert sorted(path.name for path in raw.iterdir()) == ["test.bin", "train.bin"]
    data = dataset.prepare(raw, seed=0)
    assert data.images.shape == (300, 3, 32, 32) and data.images.dtype == np.uint8
    assert data.counts.tolist() == [3] * 100 and len(data.classes) == 100
    for label in range(100):
        mine = data.images[3 * label : 3 * label + 3]
        assert (mine[:, 0] == label).all(), "class after class"
        assert sorted(mine[:, 1, 0, 0].tolist()) == [0, 0, 1], "train and test together"
        assert (mine[:, 2, 0, 5] == 200).all() and (
            mine[:, 2].sum((1, 2)) == label * 1023 + 200
        ).all(), "rows and columns are in place"
    name = dataset.column
    assert (
        data.splits == [row[name] for row in cifar100.read_class_table()]
        and data.groups[0] == "fruit_and_vegetables"
    )


def test_a_folder_gives_the_same_bytes(mirror, raw, tmp_path):
    CifarFS().fetch(raw, mirror=mirror)
    unpacked = tmp_path / "other/cifar100/cifar-100-binary"
    unpacked.mkdir(parents=True)
    for name in cifar100.FILES:
        (unpacked / name).write_bytes((raw / name).read_bytes())
    (tmp_path / "again").mkdir()
    CifarFS().fetch(tmp_path / "again", mirror=tmp_path / "other")
    assert all(
        (tmp_path / "again" / name).read_bytes() == (raw / name).read_bytes()
        for name in cifar100.FILES
    )


def refused(raw: Path, mirror: Path) -> str:
    with pytest.raises(FetchError) as error:
        CifarFS().fetch(raw, mirror=mirror)
    assert "\n" not in str(error.value)
    assert list(raw.iterdir()) == [], "no file is left"
    return str(error.value)


def test_another_archive_is_rejected_by_its_checksum(mirror, raw):
    archive(mirror / "cifar100/cifar-100-binary.tar.gz", **{"train.bin": b"", "test.bin": b""})
    assert "is not the archive of CIFAR-100: its MD5 is" in refused(raw, mirror)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"abc", "its files do not consist of records of 3074 bytes"),
        (records(1, 0), "its labels are not 3 images of each of 100 classes in their groups"),
        (
            bytes([7]) + records(2, 0)[1:],
            "its labels are not 3 images of each of 100 classes in their groups",
        ),
    ],
    ids=["no records", "too few", "a wrong group"],
)
def test_a_folder_is_rejected_by_its_content(train, message, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100, "EXAMPLES", 3)
    folder = tmp_path / "other/cifar100/cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(train)
    (folder / "test.bin").write_bytes(records(1, 1))
    assert message in refused(raw, tmp_path / "other")


def test_a_missing_file_is_reported(raw, tmp_path):
    folder = tmp_path / "other/cifar100/cifar-100-binary"
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(b"")
    assert "does not contain train.bin and test.bin" in refused(raw, tmp_path / "other")
    with pytest.raises(
        FetchError, match=r"train\.bin does not exist: run the stage download first"
    ):
        CifarFS().prepare(raw, 0)


def test_a_link_in_an_archive_is_rejected(tmp_path):
    from episodic.datasets.sources.fetch import read_tar

    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        link = tarfile.TarInfo("cifar-100-binary/train.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    with pytest.raises(FetchError, match="is not a regular file"):
        read_tar(
            tmp_path / "a.tar", pattern=cifar100.FILE_PATTERN, max_bytes=1 << 20, max_members=10
        )
    (tmp_path / "b.tar").write_bytes(b"nothing")
    with pytest.raises(FetchError, match="is not a valid tar archive"):
        read_tar(
            tmp_path / "b.tar", pattern=cifar100.FILE_PATTERN, max_bytes=1 << 20, max_members=10
        )
