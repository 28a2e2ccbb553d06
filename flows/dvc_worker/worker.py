"""The DVC process of one run: reads requests on standard input, brings stages up to date, answers (see `protocol`).

DVC works on the main thread, as it expects for signals. A second thread watches standard input: when it ends, the flow is gone,
however it went, and the whole process group ends, the running stage included.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import re
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TextIO

from flows.dvc_worker.protocol import (
    GRACE,
    RECORD,
    Message,
    Plan,
    Reproduce,
    Steps,
    Verdict,
    decode,
    encode,
)
from tasks.runtime.stage import MARKER

ADVICE = ("dvc.repo.scm_context", "dvc.dvcfile")
"""Loggers of DVC that tell a person at a shell what to type next."""


def main() -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job of a shell inherits 'ignore'
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # started by hand: the group to kill must be ours
    requests = take_stdin()
    pending: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=watch, args=(requests, pending), daemon=True).start()
    try:
        answer(Plan())  # loads all of DVC, while Prefect still starts
        for name in ADVICE:
            logging.getLogger(name).setLevel(logging.WARNING)
        while (line := pending.get()) is not None:
            reply = answer(decode(line))
            sys.stdout.flush()
            sys.stderr.flush()
            print(f"\n{RECORD}{encode(reply)}", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    os.killpg(0, signal.SIGKILL)  # what a stage may have left


def take_stdin() -> TextIO:
    """Standard input under another number, so that no stage reads what is meant for us; theirs is empty."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests


def watch(requests: TextIO, pending: queue.SimpleQueue[str | None]) -> None:
    """Passes requests on. At their end: an interrupt, which ends the stage and has DVC release its locks (a killed process that
    its new parent has not yet buried would still hold them in DVC's eyes), and after a while the end of all."""
    for line in requests:
        pending.put(line)
    pending.put(None)
    os.killpg(0, signal.SIGINT)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def answer(request: Message) -> Message:
    try:
        if isinstance(request, Plan):
            return plan(request)
        assert isinstance(request, Reproduce)  # noqa: S101
        return reproduce(request)
    except Exception as error:
        return failure(error)


def plan(request: Plan) -> Steps:
    """The order that `dvc repro` follows, by its own functions."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with Repo() as repo:
        graph = get_active_graph(repo.index.graph)
        steps = plan_repro(graph, collect_stages(repo, request.targets or ["dvc.yaml"]))
        needs = {
            step.addressing: sorted(need.addressing for need in graph.successors(step))
            for step in steps
        }
        digests: dict[str, str] = {}
        for step in steps:
            params = {
                key: value
                for dep in step.deps
                if isinstance(dep, ParamsDependency)
                for key, value in dep.read_params().items()
            }
            said = [
                step.addressing,
                step.cmd,
                params,
                [digests[need] for need in needs[step.addressing] if need in digests],
            ]
            digests[step.addressing] = hashlib.sha256(
                json.dumps(said, sort_keys=True, default=str).encode()
            ).hexdigest()[:32]
        return Steps([step.addressing for step in steps], needs, digests)


def reproduce(request: Reproduce) -> Verdict:
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as folder, Repo() as repo:
        marker = Path(
            folder, "started"
        )  # DVC answers alike when it ran a stage and when it restored one
        os.environ[MARKER] = str(marker)
        done = repo.reproduce(
            request.stage, single_item=True, force=request.force, pull=request.pull
        )
        return Verdict("ran" if marker.exists() else "restored" if done else "unchanged")


def failure(error: BaseException) -> Verdict:
    """The cause that says most, as one line."""
    from dvc.exceptions import ReproductionError
    from dvc.lock import LockError
    from dvc.stage.exceptions import StageCmdFailedError

    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for cause in chain:
        if isinstance(cause, LockError):
            return Verdict("busy", one_line(cause))
        if isinstance(cause, StageCmdFailedError):
            code = re.search(r"exited with (-?\d+)$", str(cause))
            return Verdict("failed", one_line(cause), int(code[1]) if code else None)
    said = error.__cause__ if isinstance(error, ReproductionError) and error.__cause__ else error
    if isinstance(said, FileNotFoundError) and said.filename:
        return Verdict(
            "failed",
            f"{os.path.relpath(said.filename)} does not exist, and dvc.yaml says that this stage needs it",
        )
    return Verdict("failed", one_line(said))


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
