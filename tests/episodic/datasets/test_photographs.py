"""Datasets of photographs, from small archives of exactly the official layout."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torchvision
from official_archives import (
    PER_CLASS,
    PHOTOGRAPHS,
    colour_of,
    digest,
    encode,
    pack,
    read_small_table,
    unpack,
    write_dtd,
)

from episodic.datasets.base import FetchError, UnansweredError
from episodic.datasets.cub import CUB
from episodic.datasets.dtd import DTD
from episodic.datasets.eurosat import EuroSAT
from episodic.datasets.fungi import Fungi
from episodic.datasets.sources import archives, class_table, photographs
from episodic.datasets.traffic_signs import TrafficSigns
from episodic.datasets.vgg_flower import VGGFlower

CLASSES = {
    "cub": ((140, 30, 30), 11_788),
    "aircraft": ((70, 15, 15), 10_000),
    "dtd": ((33, 7, 7), 5_640),
    "vgg_flower": ((71, 15, 16), 8_189),
    "fungi": ((994, 200, 200), 89_760),
    "traffic_signs": ((26, 8, 9), 39_209),
    "eurosat": ((4, 3, 3), 27_000),
}
"""Classes of training, validation and test, and images, as published (the last two: splits at
random)."""

TABLES = {
    "aircraft": "94944541d4d0e545",
    "cub": "5939bc6bf3084628",
    "dtd": "0cc9787fc7bc8181",
    "fungi": "49a12658c46da0f7",
    "quickdraw": "55ba806167735b45",
    "traffic_signs": "5f1b1d8167f0e106",
    "vgg_flower": "a634e5d9a57b0f5d",
}
"""The first digits of the SHA-256 of tables that were compared, class by class, with the splits and
counts of Meta-Dataset and the splits of learn2learn."""

every_dataset = pytest.mark.parametrize("cls", PHOTOGRAPHS, ids=lambda cls: cls.name)


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def small_table(monkeypatch):
    """Class tables with two images per class."""
    monkeypatch.setattr(photographs, "read_class_table", read_small_table)


def accept(cls, folder: Path, monkeypatch) -> None:
    """Take the archives of a folder for the official ones."""
    accepted = tuple(
        dataclasses.replace(a, digest=digest(folder / a.name, len(a.digest)))
        if (folder / a.name).exists()
        else a
        for a in cls.archives
    )
    monkeypatch.setattr(cls, "archives", accepted)


@pytest.fixture
def make_mirror(tmp_path, monkeypatch, small_table):
    """Write a mirror with the archives of a dataset, accepted as the official ones."""

    def make(cls) -> Path:
        folder = tmp_path / "mirror" / cls.name
        for name, files in PHOTOGRAPHS[cls](read_small_table(cls.name)).items():
            pack(folder / name, files)
        accept(cls, folder, monkeypatch)
        return tmp_path / "mirror"

    return make


@every_dataset
def test_archive_to_images(cls, make_mirror, raw):
    dataset = cls(size=16)
    dataset.fetch(raw, mirror=make_mirror(cls))
    assert [path.name for path in raw.iterdir()] == ["images.npy"]
    data = dataset.prepare(raw, 0)
    table = class_table.read_class_table(cls.name)
    assert data.images.shape == (PER_CLASS * len(table), 3, 16, 16)
    assert data.classes == [c.name for c in table] == sorted(data.classes)
    assert data.counts.tolist() == [PER_CLASS] * len(table)
    expected = [colour_of(number, i) for number in range(len(table)) for i in range(PER_CLASS)]
    deviation = np.abs(data.images.astype(int) - np.array(expected)[:, :, None, None])
    assert deviation.max() <= 2, "class after class, by name, and nothing around the box"
    limits = dataset.limits(0)
    assert limits.examples == PER_CLASS and limits.input == data.input == (3, 16, 16)
    assert limits.classes == {split: data.splits.count(split) for split in limits.classes}


@every_dataset
def test_an_unpacked_archive_gives_the_same_bytes(cls, make_mirror, raw, tmp_path):
    dataset = cls(size=16)
    dataset.fetch(raw, mirror=make_mirror(cls))
    unpack(tmp_path / "other" / cls.name, PHOTOGRAPHS[cls](read_small_table(cls.name)))
    (tmp_path / "again").mkdir()
    dataset.fetch(tmp_path / "again", mirror=tmp_path / "other")
    assert (tmp_path / "again/images.npy").read_bytes() == (raw / "images.npy").read_bytes()


@every_dataset
def test_classes_and_images_are_the_published_ones(cls):
    (train, validation, test), images = CLASSES[cls.name]
    limits = cls().limits(0)
    assert limits.classes == {"train": train, "validation": validation, "test": test}
    table = class_table.read_class_table(cls.name)
    assert sum(c.examples for c in table) == images
    assert limits.examples == min(c.examples for c in table)
    assert limits.smallest in [c.name for c in table if c.examples == limits.examples]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_that_were_compared(name):
    content = (class_table.SPLIT_TABLES / f"{name}.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == TABLES[name]


def test_addresses_and_digests_are_those_of_torchvision():
    theirs = torchvision.datasets
    (dtd,) = DTD.archives
    assert (dtd.url, dtd.digest) == (theirs.DTD._URL, theirs.DTD._MD5)
    flowers, labels = VGGFlower.archives
    files = theirs.Flowers102._file_dict
    assert (flowers.name, flowers.digest) == files["image"]
    assert (labels.name, labels.digest) == files["label"]
    assert flowers.url == theirs.Flowers102._download_url_prefix + flowers.name
    (eurosat,) = EuroSAT.archives
    source = inspect.getsource(theirs.EuroSAT)
    assert eurosat.url in source and eurosat.digest in source


def test_the_split_of_a_closer_look_takes_every_second_and_fourth_class():
    dataset = CUB(split="closer_look")
    splits = dataset.assign_classes(0)
    assert dataset.limits(0).classes == {"train": 100, "validation": 50, "test": 50}
    assert splits[:5] == ["train", "validation", "train", "test", "train"]
    assert dataset.list_classes()[3].name == "004.Groove_billed_Ani", "their first novel class"
    assert CUB().protocol != dataset.protocol


def test_small_classes_of_fungi_are_left_out(raw, tmp_path, monkeypatch):
    def read_table(name):
        """One class in three has enough images."""
        return [
            c._replace(examples=PER_CLASS - 1 if i % 3 else PER_CLASS)
            for i, c in enumerate(read_small_table(name))
        ]

    monkeypatch.setattr(photographs, "read_class_table", read_table)
    unpack(tmp_path / "mirror/fungi", PHOTOGRAPHS[Fungi](read_small_table("fungi")))
    dataset = Fungi(size=16, min_images=PER_CLASS)
    dataset.fetch(raw, mirror=tmp_path / "mirror")
    data = dataset.prepare(raw, 0)
    kept = range(0, 1394, 3)
    table = class_table.read_class_table("fungi")
    assert data.classes == [table[i].name for i in kept]
    assert data.splits == [table[i].split for i in kept]
    expected = [colour_of(i, image) for i in kept for image in range(PER_CLASS)]
    assert np.abs(data.images[:, :, 8, 8].astype(int) - np.array(expected)).max() <= 2
    assert dataset.limits(0).examples == PER_CLASS


def test_min_images_is_the_size_of_the_smallest_class():
    every, large = Fungi().limits(0), Fungi(min_images=50).limits(0)
    assert every.examples == 6 and large.examples >= 50
    assert 0 < sum(large.classes.values()) < sum(every.classes.values())


@pytest.mark.parametrize("cls", [TrafficSigns, EuroSAT], ids=lambda cls: cls.name)
def test_random_splits_depend_on_the_seed_alone(cls):
    dataset = cls()
    assert dataset.assign_classes(1) == cls(size=32).assign_classes(1)
    assert dataset.assign_classes(1) != dataset.assign_classes(2)
    halves = cls(split_fractions=[0.5, 0.25, 0.25]).limits(1).classes
    assert halves["train"] == round(0.5 * sum(halves.values()))


def refused(dataset, raw: Path, mirror: Path | None) -> str:
    with pytest.raises(FetchError) as error:
        dataset.fetch(raw, mirror=mirror)
    assert "\n" not in str(error.value) and list(raw.iterdir()) == []
    return str(error.value)


def test_another_archive_is_rejected_by_its_digest(make_mirror, raw):
    mirror = make_mirror(DTD)
    pack(mirror / "dtd/dtd-r1.0.1.tar.gz", {"dtd/images/banded/banded_0001.jpg": b""})
    message = refused(DTD(), raw, mirror)
    assert "is not the official dtd-r1.0.1.tar.gz: its MD5 is" in message
    assert "put the official file there, or unset EPISODIC_MIRROR" in message


@every_dataset
def test_a_missing_image_is_reported(cls, raw, tmp_path, small_table, monkeypatch):
    content = PHOTOGRAPHS[cls](read_small_table(cls.name))
    images = next(iter(content.values()))
    del images[next(name for name in images if re.fullmatch(cls.image_pattern, name))]
    unpack(tmp_path / "mirror" / cls.name, content)
    accept(cls, tmp_path / "mirror" / cls.name, monkeypatch)
    message = refused(cls(size=16), raw, tmp_path / "mirror")
    assert "the number of examples is not the published one for 1 of" in message
    assert message.endswith(" has 1 instead of 2")


def test_an_empty_folder_is_reported(raw, tmp_path, small_table):
    (tmp_path / "mirror/vgg_flower").mkdir(parents=True)
    assert "does not contain imagelabels.mat" in refused(VGGFlower(), raw, tmp_path / "mirror")
    (tmp_path / "mirror/dtd").mkdir(parents=True)
    assert "banded has 0 instead of 2" in refused(DTD(), raw, tmp_path / "mirror")


@pytest.mark.parametrize("labels", [b"nothing", b"", b"MATLAB 5.0 MAT-file" + bytes(200), None])
def test_damaged_labels_are_reported(labels, raw, tmp_path, small_table, monkeypatch):
    content = PHOTOGRAPHS[VGGFlower](read_small_table("vgg_flower"))
    if labels is None:
        labels = content["imagelabels.mat"]["imagelabels.mat"][:150]
    content["imagelabels.mat"] = {"imagelabels.mat": labels}
    folder = unpack(tmp_path / "mirror/vgg_flower", content)
    accept(VGGFlower, folder, monkeypatch)
    message = refused(VGGFlower(size=16), raw, tmp_path / "mirror")
    assert message.startswith("imagelabels.mat cannot be read as a MATLAB file: ")


def test_damaged_annotations_are_reported(raw, tmp_path, small_table):
    content = PHOTOGRAPHS[Fungi](read_small_table("fungi")[:20])
    unpack(tmp_path / "mirror/fungi", content)
    for damaged in (b'{"images": [', b"{}", b"[]"):
        (tmp_path / "mirror/fungi/train.json").write_bytes(damaged)
        assert "its labels cannot be read" in refused(Fungi(), raw, tmp_path / "mirror")


def test_a_broken_image_is_reported(raw, tmp_path, small_table):
    content = write_dtd(read_small_table("dtd"))
    content["dtd-r1.0.1.tar.gz"]["dtd/images/banded/banded_0001.jpg"] = encode((9, 9, 9))[:100]
    unpack(tmp_path / "mirror/dtd", content)
    message = refused(DTD(size=16), raw, tmp_path / "mirror")
    assert message.startswith("dtd/images/banded/banded_0001.jpg: the image cannot be read")


def test_links_and_large_files_of_an_archive_are_rejected(tmp_path, monkeypatch):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("dtd/images/banded/banded_0001.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(FetchError, match="is not a regular file"):
        list(archives.iterate_files(path, DTD.image_pattern))
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 99)
    for name in ("b.tgz", "b.zip"):
        pack(tmp_path / name, {"a/b.jpg": bytes(100)})
        with pytest.raises(FetchError, match=r"'a/b\.jpg' is larger than 99 bytes"):
            list(archives.iterate_files(tmp_path / name, r"a/b\.jpg"))
    for name in ("c.tgz", "c.zip"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(FetchError, match="is not a valid archive"):
            list(archives.iterate_files(tmp_path / name, ".*"))


def test_a_truncated_archive_is_reported(make_mirror, raw, monkeypatch):
    mirror = make_mirror(DTD)
    path = mirror / "dtd/dtd-r1.0.1.tar.gz"
    path.write_bytes(path.read_bytes()[:-5000])
    accept(DTD, mirror / "dtd", monkeypatch)
    assert "is not a valid archive" in refused(DTD(size=16), raw, mirror)


def test_archives_are_downloaded_verified_and_removed(make_mirror, raw, server, monkeypatch):
    mirror = make_mirror(VGGFlower)
    urls = [f"{server.url}/{a.name}" for a in VGGFlower.archives]
    served = tuple(
        dataclasses.replace(a, url=url) for a, url in zip(VGGFlower.archives, urls, strict=True)
    )
    monkeypatch.setattr(VGGFlower, "archives", served)
    contents = [(mirror / "vgg_flower" / a.name).read_bytes() for a in served]
    server.responses = [server.sends(content) for content in contents]
    VGGFlower(size=16).fetch(raw)
    assert server.paths == ["/102flowers.tgz", "/imagelabels.mat"]
    assert [path.name for path in raw.iterdir()] == ["images.npy"]
    server.responses = [server.sends(contents[1])]
    (raw / "images.npy").unlink()
    assert "is not the official 102flowers.tgz" in refused(VGGFlower(size=16), raw, None)


def test_an_unavailable_archive_names_the_remedy(raw, server, monkeypatch):
    monkeypatch.setattr(
        archives.download, "__kwdefaults__", {**archives.download.__kwdefaults__, "wait": 0.0}
    )
    (archive,) = DTD.archives
    monkeypatch.setattr(DTD, "archives", (dataclasses.replace(archive, url=f"{server.url}/a.tgz"),))
    server.responses = [server.fails(503)]
    with pytest.raises(UnansweredError, match="set EPISODIC_MIRROR to a folder that contains dtd/"):
        DTD().fetch(raw)
