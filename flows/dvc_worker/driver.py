"""The flow's side of its DVC process: start it, send requests, and leave no process behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flows.dvc_worker.protocol import (
    GRACE_SECONDS,
    RECORD_SEPARATOR,
    PlanRequest,
    StagePlan,
    StageRequest,
    StageResult,
    decode,
    encode,
)
from flows.environment import dvc_environment
from tasks.runtime.stage import StageError

POLL_SECONDS = 0.5
"""Interval at which a waiting flow checks that the DVC process is alive.

Waiting for the end of its output is not enough, because a child of a killed stage may keep the
stream open.
"""


class WorkerError(StageError):
    """The DVC process has ended while a request was pending."""


class Worker:
    """A DVC process for one repository, as a context manager.

    Leaving the context ends all processes of its process group.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.dvc_worker.worker"],
            cwd=root,
            env=dvc_environment(root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C reaches only the flow, which then ends this group cleanly.
            start_new_session=True,
        )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read_lines, daemon=True).start()

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
                self._signal_group(signal.SIGINT)
                self._wait_for_reply()
        finally:
            self._signal_group(signal.SIGKILL)
            self.process.wait()

    def plan(self, targets: Sequence[str], on_line: Callable[[str], None]) -> StagePlan:
        """Return the stages that `targets` need, or all stages if `targets` is empty.

        Raises:
            StageError: dvc.yaml is invalid or does not contain a target.
            WorkerError: The DVC process has ended.
        """
        reply = self.send(PlanRequest(list(targets)), on_line)
        if isinstance(reply, StageResult):
            raise StageError(f"dvc.yaml: {reply.message}")
        plan: StagePlan = reply
        return plan

    def send(self, request: PlanRequest | StageRequest, on_line: Callable[[str], None]) -> Any:
        """Send a request and wait for its reply.

        Args:
            request: The request.
            on_line: Called with each line that DVC or a stage prints before the reply.

        Returns:
            A `StagePlan` or a `StageResult`.

        Raises:
            WorkerError: The DVC process has ended.
        """
        assert self.process.stdin is not None  # noqa: S101
        try:
            self.process.stdin.write(encode(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._signal_group(signal.SIGKILL)
        while True:
            try:
                line = self.lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self.process.poll() is not None:
                    # Also ends a stage that outlived the process, and so closes the stream.
                    self._signal_group(signal.SIGKILL)
                continue
            if line is None:
                raise WorkerError(f"the DVC process {describe_exit(self.process.wait())}")
            if line.startswith(RECORD_SEPARATOR):
                return decode(line[len(RECORD_SEPARATOR) :])
            if line:
                on_line(line)

    def _wait_for_reply(self) -> None:
        """Wait until an interrupt is followed by a reply or by the end of the stream."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (seconds_left := deadline - time.monotonic()) > 0:
            try:
                line = self.lines.get(timeout=seconds_left)
            except queue.Empty:
                return
            if line is None or line.startswith(RECORD_SEPARATOR):
                return

    def _read_lines(self) -> None:
        assert self.process.stdout is not None  # noqa: S101
        for line in self.process.stdout:
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def _signal_group(self, number: signal.Signals) -> None:
        # macOS returns EPERM for a group of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


_started: dict[Path, Worker] = {}


def start_worker(root: Path) -> None:
    """Start a DVC process early so that DVC and Prefect load at the same time."""
    _started[root] = Worker(root)


def get_worker(root: Path) -> Worker:
    """Return the DVC process that `start_worker` started for `root`, or a new one."""
    return _started.pop(root, None) or Worker(root)


def describe_exit(code: int) -> str:
    """Describe how a process ended, as the predicate of a sentence such as 'the stage ...'."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number in signal.Signals.__members__.values():
        name = signal.Signals(number).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with exit code {code}"
