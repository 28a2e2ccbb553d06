"""Omniglot's official archives, from a mirror, packed or unpacked, or from the official address."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError
from episodic.datasets.sources.fetch import (
    MIRROR_VARIABLE,
    content_digest,
    download,
    find_in_mirror,
    read_folder,
    read_zip,
    write_zip,
)

__all__ = ["CONTENT", "MAX_BYTES", "MAX_MEMBERS", "fetch_archives", "file_pattern"]

CONTENT = {
    "images_background": "7c563fb7d98dbd312c5e0ccb87230ca9d7e8a13d672e5de6186245e7905ed43e",
    "images_evaluation": "e5a69b751aa33f555bdc92febd48220b69a811b2ff01de32bf4d1bca47bd1809",
}
"""The `content_digest` of each archive. torchvision has their addresses and MD5s."""

MAX_BYTES, MAX_MEMBERS = 64 << 20, 100_000
"""Bounds on an archive. The real ones have 10 MB and 20,000 members."""


def fetch_archives(
    raw: Path, mirror: Path | None, progress: ProgressCallback = no_progress
) -> None:
    """Write `images_background.zip` and `images_evaluation.zip`.

    Their bytes do not depend on where they come from.

    Args:
        raw: The folder to write to.
        mirror: The mirror, whose folder `omniglot` has zip archives or unpacked ones.
        progress: Called with the progress of a download.

    Raises:
        FetchError: An archive is unavailable, or its drawings are not the official ones.
    """
    for archive in CONTENT:
        target = raw / f"{archive}.zip"
        path = find_in_mirror(mirror, f"omniglot/{archive}.zip", f"omniglot/{archive}")
        try:
            if path:
                files = _read_official(path, str(path), archive)
            else:
                url = f"{_torchvision_omniglot().download_url_prefix}/{archive}.zip"
                download(url, target, max_bytes=MAX_BYTES, progress=progress)
                files = _read_official(target, url, archive)
        except FetchError as error:
            remedy = (
                f"connect to the network and run again, or set {MIRROR_VARIABLE} to a "
                f"folder that contains omniglot/{archive}.zip"
            )
            if path:
                remedy = f"put the real archive there, or unset {MIRROR_VARIABLE} to download it"
            elif mirror:
                remedy += f" ({mirror} does not)"
            raise type(error)(f"{error}; {remedy}") from error
        write_zip(target, files)


def _read_official(source: Path, name: str, archive: str) -> dict[str, bytes]:
    """Read a zip archive or a folder.

    Raises:
        FetchError: Neither the contents nor the archive are the official ones.
    """
    files = (read_folder if source.is_dir() else read_zip)(
        source,
        pattern=file_pattern(archive),
        max_bytes=MAX_BYTES,
        max_members=MAX_MEMBERS,
        name=name,
    )
    digest = content_digest(files)
    if digest != CONTENT[archive] and (
        source.is_dir() or _compute_md5(source) != _torchvision_omniglot().zips_md5[archive]
    ):
        raise FetchError(
            f"{name} is not Omniglot's {archive}: its {len(files)} images have the content digest "
            f"{digest[:12]}... where {CONTENT[archive][:12]}... is expected"
        )
    return files


def _torchvision_omniglot() -> Any:
    """Return torchvision's class, which has the addresses and the MD5s."""
    from torchvision.datasets import Omniglot

    return Omniglot


def _compute_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def file_pattern(archive: str) -> str:
    """Return the regular expression of the names of the drawings of an archive."""
    return rf"{archive}/[^/\\]+/character\d\d/\d{{4}}_\d\d\.png"
