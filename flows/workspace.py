"""The checkout of a run: its root, and locks for runs that must not overlap.

All locks are advisory file locks. The operating system releases them when their process ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.stage import StageError

LOCK_POLL_SECONDS = 0.2


def find_root(start: Path) -> Path:
    """Return the nearest DVC repository among `start` and its parents.

    Raises:
        StageError: `start` is not in a DVC repository.
    """
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir():
            return folder.resolve()
    raise StageError(f"{start} is not in a DVC repository; run this in the project's checkout")


@contextmanager
def workspace_lock(root: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other run works in `root`, and log the process that it waits for."""
    path = root / ".dvc" / "tmp" / "flow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)  # missing in a fresh clone
    with path.open("a+") as file:
        if not try_lock(file.fileno()):
            file.seek(0)
            pid = file.read().strip() or "?"
            log(f"waiting for the run of process {pid} in the same workspace")
            while not try_lock(file.fileno()):
                time.sleep(LOCK_POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def work_lock(root: Path, digest: str) -> Iterator[None]:
    """Make runs of the same work, identified by `digest`, wait for each other.

    The first one computes the result. The others then find it in the cache that all workspaces of
    the checkout `root` share. DVC's run cache is shared too, and allows one writer per run.
    """
    path = root / ".dvc" / "tmp" / "stages" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file without waiting, and return whether that succeeded."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
