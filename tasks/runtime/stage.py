"""What every stage's command line shares: the marker that it really ran, progress, and one sentence when it fails."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from episodic.core.errors import UserError

MARKER = "EPISODIC_STAGE_STARTED"
"""Names a file that a stage's body touches: whoever asked DVC for the stage can tell 'it ran' from 'it was restored'."""


TRY_AGAIN = 75
"""The exit code of a failure that another try may mend (EX_TEMPFAIL of sysexits.h)."""


class StageError(UserError):
    """Something the user can mend; the message is one sentence."""


def parser(description: str | None, **paths: str) -> argparse.ArgumentParser:
    """An argument parser with `--params` and one required path for each keyword: its name and what it is."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="what to run (default: params.yaml)",
    )
    for name, what in paths.items():
        result.add_argument(
            f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH", help=what
        )
    return result


def run(body: Callable[[], None]) -> None:
    """Runs a stage's body as a program: exit code 0, or one sentence on standard error and 1 (75: try again later; 130: interrupted)."""
    marker = os.environ.get(MARKER)
    if marker:
        Path(marker).touch()
    try:
        body()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0":
            sys.exit(1)  # of torchrun's processes the first one speaks
        print(
            "\n".join(f"error: {line}" for line in str(error).splitlines()),
            file=sys.stderr,
            flush=True,
        )
        sys.exit(TRY_AGAIN if error.temporary else 1)
    except FileNotFoundError as error:
        print(
            f"error: there is no {error.filename}: run the stage that makes it first (dvc repro)",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(1)


def emit(event: str, **values: Any) -> None:
    """One line on standard output for whoever follows the stage: JSON, on a terminal words."""
    if sys.stdout.isatty():
        said = ", ".join(
            f"{name} {value}".replace("_", " ", name.count("_"))
            for name, value in values.items()
            if name != "stage"
        )
        print(f"{event}: {said}", flush=True)
    else:
        print(json.dumps({"event": event, **values}), flush=True)


class Bar:
    """Progress of one piece of work: a bar on a terminal, JSON lines (at most one a second) elsewhere."""

    def __init__(self, stage: str, what: str, total: int, done: int = 0):
        self.stage, self.what, self.total = stage, what, total
        self.first = self.done = done
        self.start, self.last = time.monotonic(), 0.0
        self.rich: Any = None
        if sys.stdout.isatty():
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
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
            )
            self.task = self.rich.add_task(what, total=total, completed=done, said="")
            self.rich.start()

    def update(
        self, done: int, total: int | None = None, figures: Mapping[str, float] | None = None
    ) -> None:
        """`figures` (loss, accuracy, ...) are shown beside the bar; a rate is added."""
        self.done, self.total = done, total or self.total
        now = time.monotonic()
        if now - self.last < (0.1 if self.rich else 1.0) and done < self.total:
            return
        self.last = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        if self.rich:
            said = "  ".join(
                [f"{name} {value:.4g}" for name, value in (figures or {}).items()]
                + [f"{rate:.1f} it/s"]
            )
            self.rich.update(self.task, completed=done, total=self.total, said=said)
        else:
            eta = (self.total - done) / rate if rate > 0 else None
            rounded = {name: round(value, 6) for name, value in (figures or {}).items()}
            emit(
                "progress",
                stage=self.stage,
                what=self.what,
                done=done,
                total=self.total,
                rate=round(rate, 2),
                eta=eta and round(eta, 1),
                **rounded,
            )

    def close(self) -> None:
        if self.rich:
            self.rich.stop()


@contextmanager
def bar(stage: str, what: str, total: int, done: int = 0) -> Iterator[Bar]:
    result = Bar(stage, what, total, done)
    try:
        yield result
    finally:
        result.close()
