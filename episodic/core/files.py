"""Atomic writes: readers see either the complete old file or the complete new one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from episodic.core.errors import UserError

__all__ = [
    "atomic_folder",
    "atomic_path",
    "cache_folder",
    "holds_data",
    "read_json",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Write a file or a folder atomically.

    The block writes a draft next to `target`. If it ends without an exception, the draft replaces
    `target`; otherwise `target` is unchanged. Drafts of killed processes are removed.

    Args:
        target: The file or folder to replace. Its parent folders are created.

    Yields:
        The path of the draft, which does not exist yet.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{os.getpid()}.part"
    for stale in target.parent.glob(f".{target.name}.*.part"):
        if not _is_running(stale.name.split(".")[-2]):
            _remove(stale)
    try:
        yield draft
        if target.is_dir() and not target.is_symlink():
            # Renamed and not removed first: an interruption leaves the old or the new content.
            old = draft.with_name(f"{draft.name}.old")
            target.replace(old)
            try:
                draft.replace(target)
            except BaseException:
                old.replace(target)
                raise
            _remove(old)
        else:
            draft.replace(target)
    except OSError as error:
        if isinstance(error.filename, str):  # the user has not seen the name of the draft
            error.filename = error.filename.replace(str(draft), str(target))
        raise
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Write a folder atomically, as `atomic_path` does.

    Args:
        target: The folder to replace.

    Yields:
        The draft, an empty folder for the block to fill.
    """
    with atomic_path(target) as draft:
        draft.mkdir()
        yield draft


def holds_data(path: Path) -> bool:
    """Return whether a path is a file, or a folder with a file or folder that is not hidden."""
    if path.is_dir():
        return any(not inner.name.startswith(".") for inner in path.iterdir())
    return path.is_file()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with sorted keys: identical values produce identical bytes.

    Raises:
        ValueError: The value contains NaN or an infinity.
    """
    write_text(
        path,
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n",
    )


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


def cache_folder() -> Path:
    """Return the folder of files that can be computed again, shared by all checkouts.

    It is `episodic` in XDG_CACHE_HOME, by default in `~/.cache`.

    Raises:
        UserError: XDG_CACHE_HOME is not set, and there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "episodic"
    except RuntimeError:
        raise UserError(
            "a cache folder is needed, and there is no home folder; set XDG_CACHE_HOME"
        ) from None
