"""Omniglot: identical output from every source, images, rotations."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Omniglot as Official

from episodic.datasets import omniglot
from episodic.datasets.base import SPLITS, FetchError, Limits
from episodic.datasets.omniglot import Character, Omniglot
from episodic.datasets.sources import fetch
from episodic.datasets.sources import omniglot as archives
from episodic.preprocessing.encoders.features import ImageFeatures
from episodic.preprocessing.images.reading import decode_image

SMALL = (
    Character("Angelic/character01", "Angelic", "images_evaluation", "test"),
    Character("Greek/character01", "Greek", "images_background", "train"),
    Character("Greek/character02", "Greek", "images_background", "validation"),
)


def png(seed: int) -> bytes:
    """Black ink on white, one bit per pixel. One quarter is all ink, the opposite one blank."""
    ink = np.random.default_rng(seed).random((105, 105)) < 0.2
    ink[:52, :52], ink[53:, 53:] = True, False
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def drawings() -> dict[str, dict[str, bytes]]:
    """The files of two small archives, named as the real ones."""
    result: dict[str, dict[str, bytes]] = {archive: {} for archive in omniglot.CONTENT}
    for i, character in enumerate(SMALL):
        for writer in range(20):
            result[character.archive][
                f"{character.archive}/{character.name}/{i:04d}_{writer + 1:02d}.png"
            ] = png(100 * i + writer)
    return result


@pytest.fixture
def small(monkeypatch, drawings) -> dict[str, dict[str, bytes]]:
    """Patch Omniglot to use small synthetic archives."""
    monkeypatch.setattr(omniglot, "list_characters", lambda: SMALL)
    monkeypatch.setattr(
        archives,
        "CONTENT",
        {archive: fetch.content_digest(files) for archive, files in drawings.items()},
    )
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    return drawings


def container(files: dict[str, bytes]) -> bytes:
    """The same files in a zip archive with a different order, compression, folders and comments."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._notes", b"what an archiver leaves")
        archive.writestr(next(iter(files)).split("/")[0] + "/", b"")
        for name in sorted(files, reverse=True):
            archive.writestr(name, files[name])
    return target.getvalue()


def zipped_mirror(folder: Path, small) -> Path:
    (folder / "omniglot").mkdir(parents=True)
    for archive, files in small.items():
        (folder / "omniglot" / f"{archive}.zip").write_bytes(container(files))
    return folder


def unpacked_mirror(folder: Path, small) -> Path:
    for files in small.values():
        for name, content in files.items():
            path = folder / "omniglot" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def fetched(folder: Path, mirror: Path | None, **options) -> dict[str, bytes]:
    folder.mkdir()
    Omniglot().fetch(folder, mirror=mirror, **options)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_raw_bytes_do_not_depend_on_their_source(small, server, tmp_path, monkeypatch):
    monkeypatch.setattr(Official, "download_url_prefix", server.url)
    server.responses, seen = [server.sends(container(files)) for files in small.values()], []
    official = fetched(
        tmp_path / "a",
        None,
        progress=lambda description, done, total: seen.append((description, done == total)),
    )
    assert server.paths == ["/images_background.zip", "/images_evaluation.zip"]
    assert ("images_evaluation.zip, bytes", True) in seen
    assert list(official) == ["images_background.zip", "images_evaluation.zip"]
    assert fetched(tmp_path / "b", zipped_mirror(tmp_path / "zipped", small)) == official
    assert fetched(tmp_path / "c", unpacked_mirror(tmp_path / "unpacked", small)) == official
    assert len(server.paths) == 2, "a mirror needs no network"


def test_files_missing_from_the_mirror_are_downloaded(small, server, tmp_path, monkeypatch):
    mirror = zipped_mirror(tmp_path / "mirror", small)
    whole = fetched(tmp_path / "a", mirror)
    (mirror / "omniglot" / "images_evaluation.zip").unlink()
    monkeypatch.setattr(Official, "download_url_prefix", server.url)
    server.responses = [server.sends(container(small["images_evaluation"]))]
    assert fetched(tmp_path / "b", mirror) == whole
    assert server.paths == ["/images_evaluation.zip"]


def test_the_official_md5_is_good_enough(small, tmp_path, monkeypatch):
    changed = {name: png(999) for name in small["images_evaluation"]}
    mirror = zipped_mirror(tmp_path / "mirror", {**small, "images_evaluation": changed})
    with pytest.raises(FetchError):
        fetched(tmp_path / "a", mirror)
    md5 = hashlib.md5(
        (mirror / "omniglot" / "images_evaluation.zip").read_bytes(), usedforsecurity=False
    ).hexdigest()
    monkeypatch.setattr(Official, "zips_md5", {"images_evaluation": md5})
    assert "images_evaluation.zip" in fetched(tmp_path / "b", mirror)


def changed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, next(iter(files)): png(999)}


def without_one(files: dict[str, bytes]) -> dict[str, bytes]:
    return dict(list(files.items())[1:])


@pytest.mark.parametrize("harm", [changed, without_one])
def test_other_content_is_rejected_from_every_source(small, server, tmp_path, monkeypatch, harm):
    other = {**small, "images_background": harm(small["images_background"])}
    expected = (
        r"is not Omniglot's images_background: its \d\d images have the content digest "
        r"\w{12}\.\.\. where \w{12}\.\.\. is expected; "
    )
    for make in (zipped_mirror, unpacked_mirror):
        mirror = make(tmp_path / make.__name__, other)
        with pytest.raises(
            FetchError,
            match=rf"^{mirror}/omniglot/images_background\S* {expected}put .* or unset "
            "EPISODIC_MIRROR",
        ):
            fetched(tmp_path / f"from_{make.__name__}", mirror)
    monkeypatch.setattr(Official, "download_url_prefix", server.url)
    server.responses = [server.sends(container(other["images_background"]))]
    with pytest.raises(
        FetchError,
        match=rf"^{server.url}/images_background\.zip {expected}connect .* or set EPISODIC_MIRROR",
    ):
        fetched(tmp_path / "official", None)


def test_error_without_network_and_mirror_suggests_a_remedy(small, server, tmp_path, monkeypatch):
    monkeypatch.setattr(Official, "download_url_prefix", server.url)
    server.shutdown()
    server.server_close()
    advice = (
        "; connect to the network and run again, or set EPISODIC_MIRROR to a folder that contains "
        "omniglot/images_background.zip"
    )
    for mirror, more in ((None, ""), (tmp_path, f" ({tmp_path} does not)")):
        with pytest.raises(FetchError) as caught:
            fetched(tmp_path / f"raw{bool(mirror)}", mirror)
        assert str(caught.value).endswith(advice + more)
        assert "\n" not in str(caught.value)


@pytest.fixture
def raw(small, tmp_path) -> Path:
    folder = tmp_path / "raw"
    fetched(folder, zipped_mirror(tmp_path / "mirror", small))
    return folder


def test_drawings_are_resized_from_the_full_resolution(raw, small):
    """Pixels in one form for all datasets are those of the files, as a user passes them."""
    data = Omniglot("vinyals", rotations=False, features=ImageFeatures(size=32)).prepare(raw, 0)
    examples = data.encode()
    assert data.images.shape == (60, 1, 105, 105) and examples.shape == (60, 3, 32, 32)
    files = small["images_background"]
    content = files["images_background/Greek/character02/0002_01.png"]
    assert (examples[40] == decode_image(content, (3, 32, 32), False)).all()


def test_images_are_ink_on_zero_and_rotations_are_exact(raw, small):
    data = Omniglot(split="vinyals").prepare(raw, 0)
    assert data.images.shape == (12 * 20, 1, 28, 28) and data.images.dtype == np.uint8
    assert data.classes == [
        f"{c.name}{turn}" for c in SMALL for turn in ("", "/90", "/180", "/270")
    ]
    assert data.groups == ["Angelic"] * 4 + ["Greek"] * 8
    assert data.splits == ["test"] * 4 + ["train"] * 4 + ["validation"] * 4
    assert data.counts.tolist() == [20] * 12
    by_class = torch.from_numpy(data.images).view(3, 4, 20, 28, 28)
    assert (by_class[:, 0, :, :12, :12] == 255).all() and (by_class[:, 0, :, 16:, 16:] == 0).all()
    for quarter in (1, 2, 3):
        assert torch.equal(by_class[:, quarter], torch.rot90(by_class[:, 0], quarter, (-2, -1)))
        assert not torch.equal(by_class[:, quarter], by_class[:, 0])
    for i, content in (
        (0, small["images_evaluation"]["images_evaluation/Angelic/character01/0000_01.png"]),
        (2, small["images_background"]["images_background/Greek/character02/0002_01.png"]),
    ):
        exact = torch.from_numpy(~np.asarray(Image.open(io.BytesIO(content)))).double()[None, None]
        smooth = (
            torch.nn.functional.interpolate(exact, (28, 28), mode="bilinear", antialias=True)[0, 0]
            * 255
        )
        assert (by_class[i, 0, 0] - smooth).abs().max() < 1.01, (
            "writer 1 comes first, within a level of exact antialiasing"
        )


@pytest.mark.parametrize("size", [35, 105])
def test_drawings_have_the_size_that_is_set(raw, small, size):
    config = Omniglot("vinyals", size=size)
    data = config.prepare(raw, 0)
    assert data.images.shape == (12 * 20, 1, size, size)
    assert config.limits(0).input == data.input == (1, size, size)
    content = small["images_background"]["images_background/Greek/character02/0002_01.png"]
    exact = torch.from_numpy(~np.asarray(Image.open(io.BytesIO(content)))).double()[None, None]
    smooth = torch.nn.functional.interpolate(exact, (size, size), mode="bilinear", antialias=True)
    first = torch.from_numpy(data.images).view(12, 20, size, size)[8, 0]
    assert (first - smooth[0, 0] * 255).abs().max() < 1.01


@pytest.mark.parametrize(
    ("config", "classes", "message"),
    [
        (Omniglot("vinyals"), [4, 4, 4], "rotations as additional classes (test too)"),
        (
            Omniglot("vinyals", rotate_test=False),
            [4, 1, 1],
            "rotations as additional classes (training only)",
        ),
        (Omniglot("vinyals", rotations=False), [1, 1, 1], "no rotations"),
        (Omniglot("vinyals", rotations=False, rotate_test=False), [1, 1, 1], "no rotations"),
    ],
)
def test_rotations_per_split(raw, config, classes, message):
    data = config.prepare(raw, 0)
    assert (
        [data.splits.count(split) for split in SPLITS]
        == classes
        == list(config.limits(0).classes.values())
    )
    assert (
        config.limits(0).groups
        == Limits.from_members(20, zip(data.splits, data.groups, strict=True)).groups
    )
    assert data.protocol == f"vinyals split, {message}"
    assert len(data.images) == 20 * sum(classes)


def test_the_order_of_an_archive_does_not_matter(raw, small):
    before = Omniglot("vinyals").prepare(raw, 0)
    for archive, files in small.items():
        (raw / f"{archive}.zip").write_bytes(container(files))
    after = Omniglot("vinyals").prepare(raw, 0)
    assert (
        np.array_equal(before.images, after.images)
        and before.classes == after.classes
        and before.splits == after.splits
    )


def test_raw_files_that_fetch_did_not_write(raw, small):
    fetch.write_zip(raw / "images_background.zip", without_one(small["images_background"]))
    with pytest.raises(
        FetchError,
        match="does not contain all of Omniglot: remove it and run the stage download again",
    ):
        Omniglot("vinyals").prepare(raw, 0)
    (raw / "images_background.zip").unlink()
    with pytest.raises(
        FetchError, match=r"images_background\.zip does not exist: run the stage download first"
    ):
        Omniglot("vinyals").prepare(raw, 0)


# The real archives, if a mirror has them.


@pytest.fixture(scope="module")
def real(mirror, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omniglot") / "raw"
    fetched(folder, mirror)
    return folder


def test_the_real_archives_have_the_pinned_content(real):
    for archive, digest in omniglot.CONTENT.items():
        files = fetch.read_zip(
            real / f"{archive}.zip",
            pattern=r".*\.png",
            max_bytes=omniglot.MAX_BYTES,
            max_members=omniglot.MAX_MEMBERS,
        )
        assert fetch.content_digest(files) == digest


def test_the_real_images_are_characters(real):
    """Nearest neighbour in pixels, 5-way 1-shot. With wrong classes it would be at chance, 20 %."""
    data = Omniglot(rotations=False).prepare(real, 0)
    assert Counter(data.splits) == {"train": 1100, "validation": 100, "test": 423}
    pixels = data.images.reshape(1623, 20, -1).astype(np.float32)
    assert 0.02 < (pixels > 127).mean() < 0.15 and pixels.max() == 255 and pixels.min() == 0
    random, correct = np.random.default_rng(0), 0
    for _ in range(1000):
        classes = random.choice(1623, 5, replace=False)
        support, query = random.choice(20, 2, replace=False)
        distances = ((pixels[classes, query][:, None] - pixels[classes, support]) ** 2).sum(-1)
        correct += int((distances.argmin(1) == np.arange(5)).sum())
    assert 0.40 < correct / 5000 < 0.55
