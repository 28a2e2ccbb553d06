"""The output of a stage: passed on line by line, and searched for the reason of a failure."""

from __future__ import annotations

from collections.abc import Callable

from flows.dvc_worker.driver import describe_exit
from flows.dvc_worker.protocol import Verdict


class StageOutput:
    """Passes lines on to a listener and keeps those that may explain a failure."""

    def __init__(self, on_line: Callable[[str], None]):
        self.on_line = on_line
        self.error = self.last_line = ""

    def write(self, line: str) -> None:
        self.on_line(line)
        if line.startswith("error: "):
            self.error = line.removeprefix("error: ")
        if not line.startswith(("{", "> ", "Running stage ")):
            self.last_line = line.strip()

    def explain(self, verdict: Verdict) -> str:
        """Return why the stage failed: its own error if its command ran, or DVC's reason."""
        if verdict.exit_code is None:
            return verdict.message
        if self.error:
            return self.error
        reason = f"the stage {describe_exit(verdict.exit_code)}"
        return f"{reason}; its last line: {self.last_line}" if self.last_line else reason
