"""Python programs that start fast: forked from a server process that has imported the libraries.

The server imports no module of the project, so `sys.modules` still shows what a program imports.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = (
    "altair",
    "jinja2",
    "pandas",
    "pyarrow.parquet",
    "pydantic",
    "ruamel.yaml",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "torch.distributed",
    "torchvision.transforms",
    "typer",
)


class Process:
    """A forked process, with the part of the interface of `subprocess.Popen` that tests use.

    Args:
        arguments: As of `python`: `["-m", MODULE, ...]` or `["-c", PROGRAM, ...]`.
        cwd: The folder to run in.
        env: The whole environment.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]):
        self.arguments, self.returncode = list(arguments), None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_start_server())
        ends = [os.pipe(), os.pipe()]
        socket.send_fds(self._connection, [b"\0"], [write for _, write in ends])
        for _, write in ends:
            os.close(write)
        with self._connection.makefile("wb") as file:
            file.write(json.dumps([self.arguments, str(cwd), dict(env)]).encode() + b"\n")
        self._answers = self._connection.makefile("rb")
        self.stdout, self.stderr = (os.fdopen(read, encoding="utf-8") for read, _ in ends)
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._answers.readline())
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.arguments, timeout or 0) from None
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what the process prints; kill it if it takes longer than `timeout` seconds."""
        if self.stdout.closed:  # as with Popen, a second call returns what is left: nothing
            return "", ""
        with ThreadPoolExecutor(2) as pool, self.stdout, self.stderr:
            printed = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = (future.result() for future in printed)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run(..., capture_output=True, text=True)` does."""
    process = Process(arguments, cwd, env)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(process.arguments, process.wait(), out, err)


@cache
def _start_server() -> str:
    """Start the server that programs are forked from, once per pytest process; return its path."""
    folder = tempfile.TemporaryDirectory(prefix="warm-")
    address = f"{folder.name}/socket"
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        cwd=folder.name,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None and server.stdout is not None
    atexit.register(folder.cleanup)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # which ends it
    assert server.stdout.readline() == b"ready\n"
    return address


def _serve(address: str) -> None:
    import select

    for library in LIBRARIES:
        importlib.import_module(library)
    foreign = [name for name in sys.modules if name.split(".")[0] in ("episodic", "tasks", "flows")]
    assert not foreign, foreign
    sys.path.remove(str(Path(__file__).resolve().parent))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
            assert ready
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _supervise(connection)
            connection.close()


def _supervise(connection: socket.socket) -> None:
    """Fork the program; send its process number and, when it has ended, its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 2)
    with connection.makefile("rb") as file:
        arguments, cwd, env = json.loads(file.readline())
    child = os.fork()
    if child == 0:
        connection.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        os._exit(_execute(arguments, cwd, env))
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        connection.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _execute(arguments: list[str], cwd: str, env: dict[str, str]) -> int:
    """Do as `python` does with these arguments, and return its exit code."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None  # TMPDIR may have changed
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    kind, program, *rest = arguments
    sys.argv = [program if kind == "-m" else "-c", *rest]
    code: Any = 0
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    _serve(sys.argv[1])
