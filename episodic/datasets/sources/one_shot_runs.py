"""The 20 runs of one-shot classification with which Lake et al. compared people and models.

A run is a fixed trial: 20 characters of one alphabet, drawn once each by one writer, and 20
drawings by another writer to classify. The alphabets are evaluation alphabets of Omniglot, two runs
each for ten of them.

Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning through
probabilistic program induction, Science 350 (2015). https://doi.org/10.1126/science.aab3050
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

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

__all__ = ["ARCHIVE", "Trial", "fetch_runs", "read_runs"]

ARCHIVE = "all_runs.zip"
ADDRESS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/one-shot-classification/"
    f"{ARCHIVE}"
)
CONTENT = "0fcbc08614a48ded289247aa002046843a324c04bc5e34e5aec8e071d701f818"
"""The `content_digest` of the files of all runs."""

PATTERN = r"run\d\d/(?:class_labels\.txt|(?:training/class|test/item)\d\d\.png)"
MAX_BYTES, MAX_MEMBERS = 8 << 20, 10_000
"""Bounds on the archive. The real one has 0.4 MB and 880 members."""


class Trial(NamedTuple):
    """A task with a fixed support set and fixed queries.

    Attributes:
        name: Its name, such as `run01`.
        support_x: Contents of the image files of the support set.
        support_y: Label of each of them.
        query_x: Contents of the image files to classify.
        query_y: True label of each of them.
    """

    name: str
    support_x: list[bytes]
    support_y: list[str]
    query_x: list[bytes]
    query_y: list[str]


def fetch_runs(
    target: Path,
    *,
    source: Path | None = None,
    mirror: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> None:
    """Write the archive of the runs. Its bytes do not depend on where the files come from.

    Args:
        target: The zip archive to write.
        source: The official archive or its unpacked folder, if there is one. None: it comes from
            `omniglot/all_runs.zip` or the folder `omniglot/all_runs` of the mirror, or else from
            the official address.
        mirror: A folder to look into before the official address.
        progress: Called with the progress.

    Raises:
        FetchError: The runs are unavailable or are not the official ones.
    """
    stem = Path(ARCHIVE).stem
    path = source or find_in_mirror(mirror, f"omniglot/{ARCHIVE}", f"omniglot/{stem}")
    try:
        if path is None:
            download(ADDRESS, target, max_bytes=MAX_BYTES, progress=progress)
        files = _read_files(path or target, str(path or ADDRESS))
    except FetchError as error:
        remedy = "put the official archive there"
        if path is None:
            remedy = (
                f"connect to the network and run again, or set {MIRROR_VARIABLE} to a folder that "
                f"contains omniglot/{ARCHIVE}"
            )
        raise type(error)(f"{error}; {remedy}") from error
    write_zip(target, files)


def read_runs(path: Path) -> list[Trial]:
    """Read the trials.

    Args:
        path: The archive, or its unpacked folder.

    Returns:
        The trials by name. The label of a character is the name of its file, such as `class08`.

    Raises:
        FetchError: The path is missing, or its content is not the official one.
    """
    files = _read_files(path, str(path))
    trials = []
    for labels_file in sorted(name for name in files if name.endswith(".txt")):
        name = labels_file.split("/")[0]
        pairs = [line.split() for line in files[labels_file].decode("ascii").splitlines()]
        support = sorted({drawing for _, drawing in pairs})
        trials.append(
            Trial(
                name,
                [files[drawing] for drawing in support],
                [Path(drawing).stem for drawing in support],
                [files[item] for item, _ in pairs],
                [Path(drawing).stem for _, drawing in pairs],
            )
        )
    return trials


def _read_files(path: Path, name: str) -> dict[str, bytes]:
    """Return the files of the runs by their name in the archive.

    Raises:
        FetchError: The path is missing, or its content is not the official one.
    """
    if not path.exists():
        raise FetchError(f"{path} does not exist")
    if path.is_dir():
        prefix = f"{path.resolve().name}/"
        found = read_folder(
            path.resolve(),
            pattern=rf"[^/]+/{PATTERN}",
            max_bytes=MAX_BYTES,
            max_members=MAX_MEMBERS,
            name=name,
        )
        files = {key.removeprefix(prefix): content for key, content in found.items()}
    else:
        files = read_zip(
            path, pattern=PATTERN, max_bytes=MAX_BYTES, max_members=MAX_MEMBERS, name=name
        )
    digest = content_digest(files)
    if digest != CONTENT:
        raise FetchError(
            f"{name} is not Lake's {ARCHIVE}: its {len(files)} files have the content digest "
            f"{digest[:12]}... where {CONTENT[:12]}... is expected"
        )
    return files
