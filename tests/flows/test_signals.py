"""A signal whose exception Python discards is sent again."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, time
from contextlib import nullcontext
from flows.server import signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests ignore it, as under nohup
signals.install_handlers()
if {prefect}:
    from prefect.utilities.engine import capture_sigterm as scope
else:
    scope = nullcontext

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.01)  # the handler runs here, and Python discards its exception

with scope():
    try:
        Finalized()
        time.sleep(30)
        print("lost")
    except BaseException as error:
        print(type(error).__name__)
        raise
"""


@pytest.mark.parametrize(
    ("number", "prefect", "error"),
    [
        (signal.SIGINT, False, "KeyboardInterrupt"),
        (signal.SIGTERM, False, "SystemExit"),
        (signal.SIGHUP, False, "SystemExit"),
        (signal.SIGTERM, True, "TerminationSignal"),
    ],
)
def test_a_signal_inside_a_finalizer_is_not_lost(number: signal.Signals, prefect: bool, error: str):
    script = SCRIPT.format(number=int(number), prefect=prefect)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"{error}\n", done.stderr
    assert done.returncode in (128 + number, -number), done.stderr
    assert "Exception ignored" not in done.stderr


def test_other_discarded_errors_are_told():
    script = """
from flows.server import signals

signals.install_handlers()

class Finalized:
    def __del__(self):
        raise ValueError("told")

Finalized()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Exception ignored" in done.stderr and "ValueError: told" in done.stderr
