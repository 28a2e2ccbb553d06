"""Official archives that are too large to be held in memory, file by file.

Nothing is unpacked to disk. A file is read only when its content is asked for, so an archive can be
listed first and read afterwards.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError
from episodic.datasets.sources.fetch import (
    ARCHIVE_ERRORS,
    MIRROR_VARIABLE,
    download,
    find_in_mirror,
)

__all__ = ["Archive", "iterate_files", "obtain"]

MAX_FILE_BYTES = 64 << 20
"""Bound on one file of an archive. The largest, the annotations of fungi, have 30 MB."""


@dataclass(frozen=True)
class Archive:
    """A file that a dataset is published as: a tar or zip archive, or a single file.

    Attributes:
        name: Name of the file.
        url: Its official address.
        digest: Its MD5 (32 hexadecimal digits) or SHA-256 (64), as published; '' if there is none.
        max_bytes: Bound on its size.
    """

    name: str
    url: str
    digest: str
    max_bytes: int

    def require_digest(self, path: Path) -> None:
        """Raise FetchError unless a file is this archive."""
        if not self.digest:
            return
        algorithm = "md5" if len(self.digest) == 32 else "sha256"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != self.digest:
            name = {"md5": "MD5", "sha256": "SHA-256"}[algorithm]
            raise FetchError(
                f"{path} is not the official {self.name}: its {name} is {found}, {self.digest} is "
                "expected"
            )


def obtain(
    archive: Archive,
    dataset: str,
    raw: Path,
    mirror: Path | None,
    progress: ProgressCallback = no_progress,
) -> Path:
    """Find an archive in the mirror, or download it.

    Args:
        archive: The archive.
        dataset: Name of the folder in the mirror.
        raw: The folder to download to.
        mirror: The mirror, if there is one.
        progress: Called with the progress of the download.

    Returns:
        The path of the verified archive, or the folder in the mirror, if it contains the files of
        the archive instead.

    Raises:
        FetchError: The archive is unavailable, or is another file.
    """
    where = f"{dataset}/{archive.name}"
    path = find_in_mirror(mirror, where, dataset)
    try:
        if path is None:
            path = raw / archive.name
            download(archive.url, path, max_bytes=archive.max_bytes, progress=progress)
        if path.is_file():
            archive.require_digest(path)
    except FetchError as error:
        if path is not None and path.parent != raw:
            remedy = f"put the official file there, or unset {MIRROR_VARIABLE} to download it"
        else:
            remedy = (
                f"connect to the network and run again, or set {MIRROR_VARIABLE} to a folder that "
                f"contains {where}"
            )
        raise type(error)(f"{error}; {remedy}") from error
    return path


def iterate_files(path: Path, pattern: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Iterate over the files of an archive.

    Args:
        path: A tar archive (compressed or not), a zip archive, a folder, or a single file.
        pattern: Regular expression that matches the full names of the wanted files: in an archive
            or a folder, the path within it.

    Yields:
        The name of a file, and a function that reads it until the next file is asked for.

    Raises:
        FetchError: The archive is damaged, or a wanted file is not a regular file, or is too large.
    """
    wanted = re.compile(pattern)
    try:
        if path.is_dir():
            yield from _iterate_folder(path, wanted)
        elif path.suffix == ".zip":
            yield from _iterate_zip(path, wanted)
        elif re.search(r"\.(tar|tgz|tar\.\w+)$", path.name):
            yield from _iterate_tar(path, wanted)
        elif wanted.fullmatch(path.name):
            yield path.name, path.read_bytes
    except (tarfile.TarError, *ARCHIVE_ERRORS) as error:
        raise FetchError(f"{path} is not a valid archive: {error}") from error


def _iterate_folder(
    path: Path, wanted: re.Pattern[str]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if wanted.fullmatch(name) and file.is_file():
            _require_size(name, file.stat().st_size, path)
            yield name, file.read_bytes


def _iterate_zip(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir() and wanted.fullmatch(member.filename):
                _require_size(member.filename, member.file_size, path)

                def read(member: zipfile.ZipInfo = member) -> bytes:
                    return archive.read(member)

                yield member.filename, read


def _iterate_tar(path: Path, wanted: re.Pattern[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    # As a stream, since to seek in a compressed archive means to read it again.
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir() or not wanted.fullmatch(name):
                continue
            if not member.isfile():
                raise FetchError(f"{path} is rejected: {name!r} is not a regular file")
            _require_size(name, member.size, path)

            def read(member: tarfile.TarInfo = member) -> bytes:
                content = archive.extractfile(member)
                assert content is not None  # noqa: S101 (it is a regular file)
                return content.read()

            yield name, read


def _require_size(name: str, size: int, path: Path) -> None:
    if size > MAX_FILE_BYTES:
        raise FetchError(f"{path} is rejected: {name!r} is larger than {MAX_FILE_BYTES} bytes")
