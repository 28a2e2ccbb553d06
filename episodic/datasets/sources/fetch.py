"""Checked downloads and archives.

Downloads are retried and bounded in size. Archives and folders are read by the names of their
files, and nothing is unpacked to disk. A file appears under its name when it is complete: an
interrupt removes the partial file, and a killed process leaves at most a hidden `.NAME.PID.part`,
which is never read.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import stat
import tarfile
import time
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, UnansweredError

__all__ = [
    "ARCHIVE_ERRORS",
    "MIRROR_VARIABLE",
    "content_digest",
    "download",
    "find_in_mirror",
    "read_folder",
    "read_tar",
    "read_zip",
    "write_zip",
]

MIRROR_VARIABLE = "EPISODIC_MIRROR"
"""The environment variable with the path of the mirror, a folder with one subfolder per dataset.

Files in the mirror take precedence over the official address.
"""

CHUNK_BYTES = 1 << 16
MAX_COMPRESSION_RATIO = 100
"""Bound on the compression of a file. Images and texts never reach it."""

ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    ValueError,
)
"""Errors that zipfile raises for a damaged archive."""

TEMPORARY_STATUS_CODES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes that are worth a retry."""


class _IncompleteError(Exception):
    """The connection ended before the file did."""


def download(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    progress: ProgressCallback = no_progress,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download a file.

    Temporary failures, such as a connection that is cut off or a busy server, are retried with
    exponential backoff.

    Args:
        url: Address of the file, http or https.
        target: Path to write.
        max_bytes: Bound on the size of the file.
        progress: Called with bytes. The total is `max_bytes` if the server announces none.
        attempts: Number of attempts.
        wait: Seconds before the first retry. It doubles with every further one.
        timeout: Seconds without a response after which an attempt fails.

    Raises:
        FetchError: The download failed. The message has no full stop, so a caller can append
            a remedy.
        UnansweredError: All attempts failed temporarily.
    """
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is not a web address; it must begin with https:// or http://")
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            with atomic_path(target) as draft:
                _transfer(url, draft, max_bytes, progress, target.name, timeout)
            return
        except HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in TEMPORARY_STATUS_CODES:
                raise FetchError(f"{url} cannot be downloaded: {reason}") from error
        except (
            URLError,
            HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
            _IncompleteError,
        ) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    raise UnansweredError(f"{url} cannot be downloaded, tried {attempts} times: {reason}")


def _transfer(
    url: str, draft: Path, max_bytes: int, progress: ProgressCallback, name: str, timeout: float
) -> None:
    response = urlopen(url, timeout=timeout)  # noqa: S310 (the scheme is checked by the caller)
    with response, draft.open("wb") as file:
        announced, done = response.length or 0, 0
        while announced <= max_bytes and (chunk := response.read(CHUNK_BYTES)):
            done += len(chunk)
            if done > max_bytes:
                break
            file.write(chunk)
            progress(f"{name}, bytes", done, announced or max_bytes)
    if max(announced, done) > max_bytes:
        raise FetchError(f"{url} is rejected: it is larger than {max_bytes} bytes")
    if done < announced:
        raise _IncompleteError(f"the connection ended after {done} of {announced} bytes")


def find_in_mirror(mirror: Path | None, *candidates: str) -> Path | None:
    """Find the first of several paths that exists in the mirror.

    Args:
        mirror: The mirror's folder, if there is one.
        candidates: Paths relative to the mirror.

    Returns:
        The path; None if none exists or there is no mirror.

    Raises:
        FetchError: The mirror is not a folder.
    """
    if mirror is None:
        return None
    if not mirror.is_dir():
        raise FetchError(
            f"{MIRROR_VARIABLE} is {mirror}, which is not a folder: correct it, or unset it to "
            "download from the official address"
        )
    return next((mirror / path for path in candidates if (mirror / path).exists()), None)


def read_zip(
    path: Path, *, pattern: str, max_bytes: int, max_members: int, name: str | None = None
) -> dict[str, bytes]:
    """Read files from a zip archive.

    An archive is rejected before anything is read if one of its members could leave its folder
    (`..`, an absolute path), is a link or a device, is encrypted, has an unusual compression or is
    repeated. It is also rejected if it exceeds the bounds below or `MAX_COMPRESSION_RATIO`.

    Args:
        path: The archive.
        pattern: Regular expression that matches the full names of the files to read.
        max_bytes: Bound on the size of the archive, and on that of the files to read.
        max_members: Bound on the number of members.
        name: Name of the archive in error messages; None: its path.

    Returns:
        Contents by name, sorted by name.

    Raises:
        FetchError: The archive is rejected, or is damaged.
    """
    name = name or str(path)
    _require_size(path, max_bytes, name)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            matching = sorted(
                (m for m in members if re.fullmatch(pattern, m.filename)), key=lambda m: m.filename
            )
            if error := _find_error(members, matching, max_bytes, max_members):
                raise FetchError(f"{name} is rejected: {error}")
            return {member.filename: archive.read(member) for member in matching}
    except ARCHIVE_ERRORS as error:
        raise FetchError(f"{name} is not a valid zip archive: {error}") from error


def _require_size(path: Path, max_bytes: int, name: str) -> None:
    if path.stat().st_size > max_bytes:
        raise FetchError(f"{name} is rejected: it is larger than {max_bytes} bytes")


def _find_error(
    members: list[zipfile.ZipInfo],
    matching: list[zipfile.ZipInfo],
    max_bytes: int,
    max_members: int,
) -> str | None:
    if len(members) > max_members:
        return f"it has {len(members)} members, more than {max_members}"
    names: set[str] = set()
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        parts = re.split(r"[/\\]", member.filename)
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            return f"the name {member.filename!r} leads out of the archive's folder"
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return f"{member.filename!r} is a link or a device"
        if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            return f"{member.filename!r} is encrypted or has an unusual compression"
        if member.filename in names:
            return f"{member.filename!r} is repeated"
        names.add(member.filename)
    for member in matching:
        if member.file_size > MAX_COMPRESSION_RATIO * max(member.compress_size, 1):
            return f"{member.filename!r} is compressed more than {MAX_COMPRESSION_RATIO} to 1"
    # zipfile never reads more of a member than its announced size, so announced sizes are a bound.
    total = sum(member.file_size for member in matching)
    return f"its files are larger than {max_bytes} bytes" if total > max_bytes else None


def read_tar(
    path: Path, *, pattern: str, max_bytes: int, max_members: int, name: str | None = None
) -> dict[str, bytes]:
    """Read files from a tar archive, compressed or not.

    Args:
        path: The archive.
        pattern: Regular expression that matches the full names of the files to read.
        max_bytes: Bound on the size of the archive, and on that of the files to read.
        max_members: Bound on the number of members.
        name: Name of the archive in error messages; None: its path.

    Returns:
        Contents by name, sorted by name.

    Raises:
        FetchError: The archive exceeds a bound, is damaged, or one of the files to read is not a
            regular file or is repeated.
    """
    name = name or str(path)
    _require_size(path, max_bytes, name)
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                if number >= max_members:
                    raise FetchError(f"{name} is rejected: it has more than {max_members} members")
                if not re.fullmatch(pattern, member.name):
                    continue
                total += member.size
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or member.name in files:
                    raise FetchError(
                        f"{name} is rejected: {member.name!r} is not a regular file, or is repeated"
                    )
                if total > max_bytes:
                    raise FetchError(
                        f"{name} is rejected: its files are larger than {max_bytes} bytes"
                    )
                files[member.name] = content.read()
    except (tarfile.TarError, *ARCHIVE_ERRORS) as error:
        raise FetchError(f"{name} is not a valid tar archive: {error}") from error
    return dict(sorted(files.items()))


def read_folder(
    path: Path, *, pattern: str, max_bytes: int, max_members: int, name: str | None = None
) -> dict[str, bytes]:
    """Read files from an unpacked archive.

    Args:
        path: The folder.
        pattern: Regular expression that matches the full names of the files to read, which begin
            with the name of the folder.
        max_bytes: Bound on the size of the files to read.
        max_members: Bound on the number of the files to read.
        name: Name of the folder in error messages; None: its path.

    Returns:
        Contents by name, sorted by name.

    Raises:
        FetchError: The folder exceeds a bound.
    """
    files: dict[str, bytes] = {}
    total = 0
    for file in path.rglob("*"):
        relative_name = file.relative_to(path.parent).as_posix()
        if re.fullmatch(pattern, relative_name) and file.is_file():
            total += file.stat().st_size
            if total > max_bytes or len(files) >= max_members:
                raise FetchError(
                    f"{name or path} is rejected: it contains more than {max_members} files or "
                    f"{max_bytes} bytes"
                )
            files[relative_name] = file.read_bytes()
    return dict(sorted(files.items()))


def content_digest(files: dict[str, bytes]) -> str:
    r"""Compute a digest of files that does not depend on the archive they came in.

    Args:
        files: Contents by name.

    Returns:
        SHA-256, in hexadecimal, of the lines `NAME\0SHA-256 OF THE CONTENT\n`, sorted by name.
    """
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def write_zip(target: Path, files: dict[str, bytes]) -> None:
    """Write a zip archive whose bytes depend only on the names and contents of its files.

    Args:
        target: Path to write.
        files: Contents by name.
    """
    with atomic_path(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # Unix, on whatever system this runs
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, content)
