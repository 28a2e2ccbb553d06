"""Progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ProgressCallback", "no_progress"]

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`, in bytes for downloads and in items otherwise."""


def no_progress(what: str, done: int, total: int) -> None:
    """Ignore the progress."""
