"""The flow's side of its DVC process: starts it, asks, listens, and leaves nothing behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flows.dvc_worker.protocol import GRACE, RECORD, Plan, Reproduce, decode, encode
from flows.environment import for_dvc

POLL = 0.5
"""Seconds between looks whether the process lives; its output alone would not tell while a stage's child holds the stream open."""


class WorkerError(RuntimeError):
    """The DVC process ended unasked; the message is one sentence."""


class Worker:
    """One DVC process for the repository `root`, as a context manager; afterwards no process of its group is left."""

    def __init__(self, root: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.dvc_worker.worker"],
            cwd=root,
            env=for_dvc(root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own: Ctrl-C reaches the flow, which then ends the group in good order
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None and self.process.poll() is None:
                self._signal(signal.SIGINT)
                self._settle()
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def ask(self, request: Plan | Reproduce, on_line: Callable[[str], None]) -> Any:
        """Sends a request and waits for its reply; whatever is printed meanwhile goes to `on_line`, line by line.

        Raises WorkerError when the process is gone.
        """
        assert self.process.stdin is not None  # noqa: S101
        try:
            self.process.stdin.write(encode(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._signal(signal.SIGKILL)
        while True:
            try:
                line = self.lines.get(timeout=POLL)
            except queue.Empty:
                if self.process.poll() is not None:
                    self._signal(
                        signal.SIGKILL
                    )  # a stage that survived it; the end of the stream follows
                continue
            if line is None:
                raise WorkerError(f"the DVC process {ending(self.process.wait())}")
            if line.startswith(RECORD):
                return decode(line[len(RECORD) :])
            if line:
                on_line(line)

    def _settle(self) -> None:
        """Waits for the reply, or the end, that follows an interrupt."""
        end = time.monotonic() + GRACE  # as long as it takes to release DVC's locks
        while (left := end - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=left)
            except queue.Empty:
                return
            if line is None or line.startswith(RECORD):
                return

    def _listen(self) -> None:
        assert self.process.stdout is not None  # noqa: S101
        for line in self.process.stdout:
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(
            ProcessLookupError, PermissionError
        ):  # macOS answers EPERM for a group of zombies
            os.killpg(self.process.pid, number)


ready: dict[Path, Worker] = {}


def start(root: Path) -> None:
    """Starts a process ahead of its use: DVC loads while Prefect does."""
    ready[root] = Worker(root)


def take(root: Path) -> Worker:
    """The process started ahead for `root`, or a new one."""
    return ready.pop(root, None) or Worker(root)


def ending(code: int) -> str:
    """How a process ended, in words that complete 'the stage ...'."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number in signal.Signals.__members__.values():
        name = signal.Signals(number).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"
