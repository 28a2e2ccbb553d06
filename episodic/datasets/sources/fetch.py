"""Checked downloads and archives.

`download` retries and never takes more than a cap; `read_zip` and `read_folder` take only files whose names were asked for, and
never unpack anything to the disk; `content_digest` knows files by what is in them, whatever container they came in;
`write_zip` packs the same files into the same bytes everywhere. A file takes its place when it is whole: an interrupt removes
what there is of it, and a kill leaves at most a hidden `.NAME.PID.part`, which nothing ever reads: the next run starts afresh.
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
from episodic.datasets.base import FetchError, Progress, UnansweredError, no_progress

MIRROR = "EPISODIC_MIRROR"
"""The environment variable that names a folder with one folder of files a data set, looked into before the official address."""

CHUNK = 1 << 16
RATIO = 100
"""No honest image or text packs better than this."""

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError)
"""What zipfile raises over a damaged archive: beside its own error, those of what it is made of."""

TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP answers that may be better next time."""


class _Cut(Exception):
    """The connection ended before the file did."""


def download(
    url: str,
    target: Path,
    *,
    cap: int,
    progress: Progress = no_progress,
    attempts: int = 4,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Downloads `url` to the file `target`, at most `cap` bytes.

    A fault that may pass (no connection, a cut one, a busy server) is tried again after `wait`, then twice, four times ... as
    many seconds. `progress` is told bytes; their total is the cap where the server announces none.

    Raises FetchError with what went wrong, without a full stop, so that a caller can say what to do.
    """
    if not url.startswith(("https://", "http://")):
        raise FetchError(f"{url} is no web address")
    for attempt in range(attempts):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            with atomic_path(target) as draft:
                _transfer(url, draft, cap, progress, target.name, timeout)
            return
        except HTTPError as error:
            fault = f"the server answers {error.code} {error.reason}"
            if error.code not in TEMPORARY:
                raise FetchError(f"{url} cannot be downloaded: {fault}") from error
        except (
            URLError,
            HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
            _Cut,
        ) as error:
            fault = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    raise UnansweredError(f"{url} cannot be downloaded, tried {attempts} times: {fault}")


def _transfer(
    url: str, draft: Path, cap: int, progress: Progress, name: str, timeout: float
) -> None:
    with urlopen(url, timeout=timeout) as answer, draft.open("wb") as file:  # noqa: S310 (the scheme is checked above)
        announced, done = answer.length or 0, 0
        while announced <= cap and (chunk := answer.read(CHUNK)):
            done += len(chunk)
            if done > cap:
                break
            file.write(chunk)
            progress(f"{name}, bytes", done, announced or cap)
    if max(announced, done) > cap:
        raise FetchError(f"{url} is refused: it is larger than {cap} bytes")
    if done < announced:
        raise _Cut(f"the connection ended after {done} of {announced} bytes")


def in_mirror(mirror: Path | None, *places: str) -> Path | None:
    """The first of `places` that the mirror has, None where it has none of them or there is no mirror."""
    if mirror is None:
        return None
    if not mirror.is_dir():
        raise FetchError(
            f"{MIRROR} names {mirror}, where there is no folder: mend it, or unset it to download from the official address"
        )
    return next((mirror / place for place in places if (mirror / place).exists()), None)


def read_zip(
    path: Path, *, wanted: str, cap: int, most: int, name: str | None = None
) -> dict[str, bytes]:
    """The files of a zip archive whose whole names match the regular expression `wanted`, by name, sorted.

    An archive is refused as a whole, before anything is read from it, if any member could leave a folder (`..`, an absolute
    name), is a link or a device, is encrypted or packed in an unusual way, or comes twice; if there are more than `most` members;
    if it or the wanted files are larger than `cap` bytes, or packed more than a hundredfold. Other members are left alone.

    Raises FetchError, which calls the archive `name` (by default its path).
    """
    name = name or str(path)
    if path.stat().st_size > cap:
        raise FetchError(f"{name} is refused: it is larger than {cap} bytes")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            chosen = sorted(
                (m for m in members if re.fullmatch(wanted, m.filename)), key=lambda m: m.filename
            )
            fault = _fault(members, chosen, cap, most)
            if fault:
                raise FetchError(f"{name} is refused: {fault}")
            return {member.filename: archive.read(member) for member in chosen}
    except DAMAGED as error:
        raise FetchError(f"{name} is no sound zip archive: {error}") from error


def _fault(
    members: list[zipfile.ZipInfo], chosen: list[zipfile.ZipInfo], cap: int, most: int
) -> str | None:
    if len(members) > most:
        return f"it has {len(members)} members, and at most {most} are expected"
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
            return f"{member.filename!r} is encrypted or packed in an unusual way"
        if member.filename in names:
            return f"{member.filename!r} is in it twice"
        names.add(member.filename)
    for member in chosen:
        if member.file_size > RATIO * max(member.compress_size, 1):
            return f"{member.filename!r} is packed more than {RATIO} to 1"
    # zipfile never reads more of a member than its announced size, so the announced sizes are a bound.
    total = sum(member.file_size for member in chosen)
    return f"its files are larger than {cap} bytes" if total > cap else None


def read_tar(
    path: Path, *, wanted: str, cap: int, most: int, name: str | None = None
) -> dict[str, bytes]:
    """`read_zip` for a tar archive, packed or not: plain files alone are taken, and nothing is unpacked to the disk."""
    name = name or str(path)
    if path.stat().st_size > cap:
        raise FetchError(f"{name} is refused: it is larger than {cap} bytes")
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                if number >= most:
                    raise FetchError(f"{name} is refused: it has more than {most} members")
                if not re.fullmatch(wanted, member.name):
                    continue
                total += member.size
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or member.name in files:
                    raise FetchError(
                        f"{name} is refused: {member.name!r} is no plain file, or is in it twice"
                    )
                if total > cap:
                    raise FetchError(f"{name} is refused: its files are larger than {cap} bytes")
                files[member.name] = content.read()
    except (tarfile.TarError, *DAMAGED) as error:
        raise FetchError(f"{name} is no sound tar archive: {error}") from error
    return dict(sorted(files.items()))


def read_folder(
    path: Path, *, wanted: str, cap: int, most: int, name: str | None = None
) -> dict[str, bytes]:
    """`read_zip` for an unpacked archive: the files below `path`, named from its parent folder on, at most `most` of them."""
    files: dict[str, bytes] = {}
    total = 0
    for file in path.rglob("*"):
        inner = file.relative_to(path.parent).as_posix()
        if re.fullmatch(wanted, inner) and file.is_file():
            total += file.stat().st_size
            if total > cap or len(files) >= most:
                raise FetchError(
                    f"{name or path} is refused: it holds more than {most} files or {cap} bytes"
                )
            files[inner] = file.read_bytes()
    return dict(sorted(files.items()))


def content_digest(files: dict[str, bytes]) -> str:
    """SHA-256 over the lines `NAME\\0SHA-256 OF THE CONTENT\\n`, sorted by name, in hexadecimal digits."""
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def write_zip(target: Path, files: dict[str, bytes]) -> None:
    """Packs files so that the bytes are a function of names and contents: sorted, stored, with a fixed date, system and mode."""
    with atomic_path(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # Unix, on whatever system this runs
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, content)
