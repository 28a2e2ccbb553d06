"""Files are written beside their place and renamed into it: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A path next to `target` to write a file or a folder to; it takes target's place if the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{os.getpid()}.part"
    for left in target.parent.glob(f".{target.name}.*.part"):
        if not _alive(left.name.split(".")[-2]):  # its program was killed
            _remove(left)
    try:
        yield draft
        if target.is_dir():
            shutil.rmtree(target)
        draft.replace(target)
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """`beside` for a folder: the block fills the yielded folder."""
    with beside(target) as draft:
        draft.mkdir()
        yield draft


def write_text(path: Path, text: str) -> None:
    with beside(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """JSON that says no NaN and always the same bytes for the same value."""
    write_text(
        path,
        json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n",
    )


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
