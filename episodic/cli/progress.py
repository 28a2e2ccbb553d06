"""A progress bar on standard error."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["ProgressBar"]


class ProgressBar:
    """A progress bar on standard error, shown only on a terminal and for long tasks.

    It is a context manager, at whose end the bar disappears.

    Args:
        description: Name of the counted items.
        minimum: Minimum total for which the bar is shown.
    """

    def __init__(self, description: str, minimum: int = 50) -> None:
        self.description, self.minimum = description, minimum
        self._progress: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` items are done."""
        if total < self.minimum or not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self.description, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)
