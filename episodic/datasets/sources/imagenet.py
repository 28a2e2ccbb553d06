"""Pictures of ImageNet's classes (ILSVRC 2012), brought to 84x84 pixels.

Olga Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge, 2015. https://arxiv.org/abs/1409.0575
They may not be passed on, so that everybody brings their own: a folder, or a zip archive of one, with files whose names begin with
their class, as in `n01532829_5.JPEG`, in folders of any kind, or that lie in a folder named by it. Nothing of the usual `.pkl` files
is read: a pickle may run anything.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from episodic.core.files import atomic_path
from episodic.datasets.base import FetchError, Images, Limits, Progress
from episodic.datasets.sources.fetch import MIRROR, UNSOUND, in_mirror

LICENSE = (
    "ImageNet (ILSVRC 2012), https://image-net.org, for non-commercial research and education."
)

SIZE = 84
PICTURE = re.compile(r"(?:.*/)?(?:(n\d{8})[^/]*|(n\d{8})/[^/]*)\.(?:jpe?g|png)", re.IGNORECASE)
"""A picture's path: its class begins its name, or else names its folder."""
SPLIT_TABLES = Path(__file__).parent.parent / "splits"
MOST_BYTES = 64 << 20
"""A bound on one picture: the largest of ImageNet has 15 MB."""


def table(name: str) -> list[dict[str, str]]:
    """The classes of a data set in the order of their names, each with its split and, where it has one, its group."""
    with (SPLIT_TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def limits(name: str, examples: int) -> Limits:
    return Limits.of(
        examples, ((row["split"], row.get("group", "")) for row in table(name)), (3, SIZE, SIZE)
    )


def fetch(
    raw: Path, name: str, exactly: int | None, least: int, mirror: Path | None, progress: Progress
) -> None:
    """Writes `images.npy` uint8 `(N, 3, 84, 84)`, class after class by name, and `classes.json`, from the mirror's NAME or NAME.zip.

    exactly, least: pictures that a class must have
    Raises FetchError where a class lacks pictures, or one of them cannot be read.
    """
    source = in_mirror(mirror, name, f"{name}.zip")
    wanted = [row["class"] for row in table(name)]
    if source is None:
        raise FetchError(
            f"{name} cannot be downloaded, since ImageNet may not be passed on: set {MIRROR} to a folder that holds {name} "
            f"(or {name}.zip), with pictures of its {len(wanted)} classes named as n01532829_5.JPEG"
        )
    found = _pictures(source)
    lacking = [
        c
        for c in wanted
        if len(found[c]) < least or (exactly is not None and len(found[c]) != exactly)
    ]
    if lacking:
        should = f"{exactly}" if exactly is not None else f"at least {least}"
        raise FetchError(
            f"{source} is not {name}: {len(lacking)} of its {len(wanted)} classes have not {should} pictures, "
            f"as {lacking[0]} with {len(found[lacking[0]])}"
        )
    total = sum(len(found[c]) for c in wanted)
    with atomic_path(raw / "images.npy") as draft:
        # Written as it is read: all of it may be larger than memory.
        images = np.lib.format.open_memmap(
            draft, mode="w+", dtype=np.uint8, shape=(total, 3, SIZE, SIZE)
        )
        row = 0
        for name_of_class in wanted:
            for picture, read in found[name_of_class]:
                images[row] = _decode(read, f"{source}/{picture}")
                row += 1
                if row % 100 == 0 or row == total:
                    progress("pictures", row, total)
        images.flush()
    counts = [{"class": c, "count": len(found[c])} for c in wanted]
    with atomic_path(raw / "classes.json") as draft:
        draft.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


def _pictures(source: Path) -> dict[str, list[tuple[str, Callable[[], bytes]]]]:
    """The pictures of each class, sorted by name: what they are called, and how to read them."""
    result: dict[str, list[tuple[str, Callable[[], bytes]]]] = defaultdict(list)
    if source.is_dir():
        files = [
            (path.relative_to(source).as_posix(), path.read_bytes)
            for path in source.rglob("*")
            if path.is_file()
        ]
    else:
        try:
            archive = zipfile.ZipFile(source)
        except UNSOUND as error:
            raise FetchError(f"{source} is no sound zip archive: {error}") from error
        files = [
            (m.filename, _member(archive, m))
            for m in archive.infolist()
            if not m.is_dir() and m.file_size <= MOST_BYTES
        ]
    for name, read in sorted(files):
        if match := PICTURE.fullmatch(name.replace("\\", "/")):
            result[(match[1] or match[2]).lower()].append((name, read))
    return result


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: archive.read(member)


def _decode(read: Callable[[], bytes], name: str) -> np.ndarray:
    """uint8 `(3, 84, 84)`; a picture of another size is resized as a whole, with antialiasing, by Pillow's integer arithmetic."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(read())).convert("RGB")
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        RuntimeError,
        *UNSOUND,
    ) as error:  # RuntimeError: an encrypted archive
        raise FetchError(
            f"{name} is no picture that can be read: {' '.join(str(error).split())}"
        ) from error
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def prepare(raw: Path, name: str, protocol: str) -> Images:
    """The images as `fetch` wrote them, memory-mapped."""
    for file in ("images.npy", "classes.json"):
        if not (raw / file).is_file():
            raise FetchError(f"{raw / file} is missing: run the stage download first")
    counts = {
        row["class"]: row["count"]
        for row in json.loads((raw / "classes.json").read_text(encoding="utf-8"))
    }
    classes = table(name)
    return Images(
        images=np.load(raw / "images.npy", mmap_mode="r"),
        classes=[row["class"] for row in classes],
        groups=[row.get("group", "") for row in classes],
        splits=[row["split"] for row in classes],
        counts=np.array([counts[row["class"]] for row in classes], np.int64),
        protocol=protocol,
    )
