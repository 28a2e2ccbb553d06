"""The checkout that a run works in: where it is, and one run in it at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.stage import StageError


def find_root(start: Path) -> Path:
    """The nearest folder from `start` upward that DVC knows; StageError where there is none."""
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir():
            return folder.resolve()
    raise StageError(f"{start} is in no DVC repository: run this in the project's checkout")


@contextmanager
def lock(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other run works in `root`; `say` is told whom it waits for. A dead run holds nothing."""
    path = root / ".dvc" / "tmp" / "flow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)  # absent in a fresh clone
    with path.open("a+") as file:
        waiting = False
        while not acquired(file.fileno()):
            if not waiting:
                file.seek(0)
                say(
                    f"waiting for the run of process {file.read().strip() or '?'}, which works in the same workspace"
                )
                waiting = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def alone(root: Path, digest: str) -> Iterator[None]:
    """Of runs that would do the same work one does it; those that waited then find it in the cache. (DVC's record of runs, which
    they share, also takes no two writers of one run.)"""
    path = root / ".dvc" / "tmp" / "stages" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def acquired(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
