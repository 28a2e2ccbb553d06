"""What a stage prints: passed on line by line, and its last words kept for the sentence that says why it failed."""

from __future__ import annotations

from collections.abc import Callable

from flows.dvc_worker.driver import ending
from flows.dvc_worker.protocol import Verdict


class Output:
    """What a stage prints: passed on, and its last words kept."""

    def __init__(self, pass_on: Callable[[str], None]):
        self.pass_on = pass_on
        self.error = self.last = ""

    def line(self, text: str) -> None:
        self.pass_on(text)
        if text.startswith("error: "):
            self.error = text.removeprefix("error: ")
        if not text.startswith(("{", "> ", "Running stage ")):
            self.last = text.strip()

    def reason(self, verdict: Verdict) -> str:
        """Why it failed: in the stage's own words if its command ran, in DVC's otherwise."""
        if verdict.exit_code is None:
            return verdict.message
        return self.error or f"the stage {ending(verdict.exit_code)}" + (
            f"; its last line: {self.last}" if self.last else ""
        )
