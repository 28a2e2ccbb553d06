"""The output of a stage, which may contain the reason for a failure."""

from __future__ import annotations

from collections.abc import Callable

from flows.dvc_worker.driver import describe_exit
from flows.dvc_worker.protocol import StageResult


class StageOutput:
    """Passes lines to a listener and keeps those that may explain a failure.

    Args:
        on_line: Called with each line.
    """

    def __init__(self, on_line: Callable[[str], None]):
        self.on_line = on_line
        self.error = self.last_line = ""

    def write(self, line: str) -> None:
        self.on_line(line)
        if line.startswith("error: "):
            self.error = line.removeprefix("error: ")
        if not line.startswith(("{", "> ", "Running stage ")):
            self.last_line = line.strip()

    def describe_failure(self, result: StageResult) -> str:
        """Return the reason for a failure: the stage's error if it ran, otherwise DVC's."""
        if result.exit_code is None:
            return result.message
        if self.error:
            return self.error
        reason = f"the stage {describe_exit(result.exit_code)}"
        return f"{reason}; its last line: {self.last_line}" if self.last_line else reason
