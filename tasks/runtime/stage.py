"""Shared code of the stages' command lines: arguments, progress, errors, start marker."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from episodic.core.errors import UserError

MARKER = "EPISODIC_STAGE_STARTED"
"""Environment variable with the path of a file to touch when a stage's body starts.

It distinguishes a stage that ran from a stage that DVC restored from its cache.
"""

PROGRESS = "EPISODIC_PROGRESS"
"""Environment variable; the value `json` selects events as JSON, one per line.

Otherwise a terminal shows a progress bar, and a log has one line per tenth of the work.
"""

TRY_AGAIN = 75
"""Exit code of a failure that a retry may resolve (EX_TEMPFAIL of sysexits.h)."""


class StageError(UserError):
    """An error that the user can correct; the message is one sentence."""


def build_parser(description: str | None, **paths: str) -> argparse.ArgumentParser:
    """Build an argument parser with `--params` and one required path per keyword.

    Args:
        description: Shown by `--help`.
        **paths: Name of the option, with `_` for `-` -> its help text.
    """
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="settings of the run (default: params.yaml)",
    )
    for name, text in paths.items():
        option = f"--{name.replace('_', '-')}"
        result.add_argument(option, type=Path, required=True, metavar="PATH", help=text)
    return result


def run(body: Callable[[], None]) -> None:
    """Run a stage's body as a program.

    User errors go to standard error, one sentence per line. The exit code is 1 for an error, 75 for
    a failure that a retry may resolve, and 130 after an interrupt.
    """
    marker = os.environ.get(MARKER)
    if marker:
        Path(marker).touch()
    try:
        body()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
            sys.exit(1)  # under torchrun, only rank 0 reports
        _print_errors(str(error))
        sys.exit(TRY_AGAIN if error.temporary else 1)
    except FileNotFoundError as error:
        _print_errors(
            f"{error.filename} does not exist: run the stage that writes it first (dvc repro)"
        )
        sys.exit(1)


def _print_errors(message: str) -> None:
    lines = (f"error: {line}" for line in message.splitlines())
    print("\n".join(lines), file=sys.stderr, flush=True)


def emit(event: str, **values: Any) -> None:
    """Print an event of the stage on standard output, as text or as JSON (see PROGRESS)."""
    if _wants_json():
        print(json.dumps({"event": event, **values}), flush=True)
        return
    stage = f"{values.pop('stage')}: " if "stage" in values else ""
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
    print(f"{stage}{event}{': ' if words else ''}{words}", flush=True)


def _wants_json() -> bool:
    return os.environ.get(PROGRESS) == "json"


class ProgressReporter:
    """Reports progress: a bar on a terminal, otherwise lines in a log or events as JSON.

    Args:
        stage: Name of the stage.
        what: The unit that is counted, such as `iterations`.
        total: The total number of units.
        silent: Print nothing; for all processes of a group except the first.
    """

    def __init__(self, stage: str, what: str, total: int, silent: bool = False):
        self.stage, self.what, self.total, self.silent = stage, what, total, silent
        self.done = self.tenths = 0
        self.start, self.last = time.monotonic(), 0.0
        self.json = _wants_json()
        self.bar = None if silent or self.json or not sys.stdout.isatty() else _Bar(what, total)

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(
        self, done: int, total: int | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Report progress.

        Args:
            done: Number of units done.
            total: The total, if it has changed.
            metrics: Values shown alongside, such as the loss. A rate is added.
        """
        self.done, self.total = done, total or self.total
        if self.silent:
            return
        now = time.monotonic()
        rate = done / max(now - self.start, 1e-9)
        if not (self.json or self.bar):
            self._print_tenth(metrics or {}, rate)
        elif now - self.last >= (0.1 if self.bar else 1.0) or done >= self.total:
            self.last = now
            if self.bar:
                self.bar.update(done, self.total, _format_metrics(metrics or {}, rate))
            else:
                self._emit(metrics or {}, rate)

    def _print_tenth(self, metrics: Mapping[str, float], rate: float) -> None:
        """Print a line when another tenth of the work is done."""
        tenths = 10 * self.done // self.total if self.total else 0
        if tenths <= self.tenths:
            return
        self.tenths = tenths
        share = 100 * self.done // self.total
        line = f"{self.stage}: {share} % ({self.done} of {self.total} {self.what})"
        print(", ".join([line, *_format_metrics(metrics, rate)]), flush=True)

    def _emit(self, metrics: Mapping[str, float], rate: float) -> None:
        eta = (self.total - self.done) / rate if rate > 0 else None
        emit(
            "progress",
            stage=self.stage,
            what=self.what,
            done=self.done,
            total=self.total,
            rate=round(rate, 2),
            eta=eta and round(eta, 1),
            **{name: round(value, 6) for name, value in metrics.items()},
        )

    def close(self) -> None:
        """Close the progress bar."""
        if self.bar:
            self.bar.close()


def _format_metrics(metrics: Mapping[str, float], rate: float) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in metrics.items()] + [f"{rate:.1f} it/s"]


class _Bar:
    """A progress bar on a terminal."""

    def __init__(self, what: str, total: int):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.rich = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
        )
        self.task = self.rich.add_task(what, total=total, metrics="")
        self.rich.start()

    def update(self, done: int, total: int, words: list[str]) -> None:
        self.rich.update(self.task, completed=done, total=total, metrics="  ".join(words))

    def close(self) -> None:
        self.rich.stop()
