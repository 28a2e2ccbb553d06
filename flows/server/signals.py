"""Signals that end a command: SIGINT, SIGTERM and SIGHUP, by an exception in the main thread.

Python discards an exception that is raised inside a finalizer (`__del__` or a callback of the
garbage collector). A signal that arrives there would be lost, and the command would run on. Such a
signal is sent again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

RESEND_SECONDS = 0.1
"""Time until a discarded signal is sent again, when the finalizer has usually ended."""


def install_handlers() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, so that `finally` blocks run."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, exit_on_signal)
    resend_discarded_signals()


def exit_on_signal(number: int, frame: FrameType | None) -> None:
    """Exit with the code of a signal so that `finally` blocks run.

    While a flow runs, Prefect's own handler reports the state first and then calls this one.
    """
    sys.exit(128 + number)


def resend_discarded_signals() -> None:
    """Send a signal again if Python has discarded the exception that its handler raised."""
    sys.unraisablehook = _resend


def _resend(discarded: UnraisableHookArgs) -> None:
    number = _signal_number(discarded.exc_value)
    if number is None:
        sys.__unraisablehook__(discarded)
    else:
        # A finalizer may run while this thread holds any lock, and `threading.Thread` takes some.
        _thread.start_new_thread(_send_later, (number,))


def _signal_number(error: BaseException | None) -> int | None:
    """Return the signal whose handler raised `error`, or None for another error."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(error, SystemExit):
        code = error.code
        return code - 128 if isinstance(code, int) and code > 128 else None
    # Prefect's TerminationSignal, which is not imported here because a command starts without it.
    number = getattr(error, "signal", None)
    return number if isinstance(number, int) else None


def _send_later(number: int) -> None:
    time.sleep(RESEND_SECONDS)
    os.kill(os.getpid(), number)
