"""The DVC process of a run: reads requests from standard input and replies on standard output.

DVC runs on the main thread, because it handles signals. A second thread watches standard input. End
of file means that the flow has ended. The whole process group then ends, including the running
stage.
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
    GRACE_SECONDS,
    RECORD_SEPARATOR,
    Message,
    PlanRequest,
    StagePlan,
    StageRequest,
    StageResult,
    decode,
    encode,
)
from tasks.runtime.stage import MARKER

HINT_LOGGERS = ("dvc.repo.scm_context", "dvc.dvcfile")
"""DVC's loggers of hints for interactive use."""


def main() -> None:
    # A background job of a shell inherits a SIGINT that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # started from a shell; only our own group may be killed
    requests = detach_stdin()
    pending: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=forward_requests, args=(requests, pending), daemon=True).start()
    try:
        handle_request(PlanRequest())  # loads DVC while Prefect starts
        for name in HINT_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        while (line := pending.get()) is not None:
            reply = handle_request(decode(line))
            sys.stdout.flush()
            sys.stderr.flush()
            print(f"\n{RECORD_SEPARATOR}{encode(reply)}", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    os.killpg(0, signal.SIGKILL)  # ends processes that a stage may have left


def detach_stdin() -> TextIO:
    """Move standard input to another file descriptor so that stages inherit an empty one."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return requests


def forward_requests(requests: TextIO, pending: queue.SimpleQueue[str | None]) -> None:
    """Pass requests to the main thread, and end the process group after the last one.

    An interrupt comes first. It ends the stage and lets DVC release its locks. To DVC, a killed
    process holds its locks until its parent has reaped it.
    """
    for line in requests:
        pending.put(line)
    pending.put(None)
    os.killpg(0, signal.SIGINT)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def handle_request(request: Message) -> Message:
    try:
        if isinstance(request, PlanRequest):
            return plan_stages(request)
        assert isinstance(request, StageRequest)  # noqa: S101
        return reproduce_stage(request)
    except Exception as error:
        return failed_result(error)


def plan_stages(request: PlanRequest) -> StagePlan:
    """Return the stages in the order in which `dvc repro` would run them."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with Repo() as repo:
        graph = get_active_graph(repo.index.graph)
        steps = plan_repro(graph, collect_stages(repo, request.targets or ["dvc.yaml"]))
        dependencies = {
            step.addressing: sorted(upstream.addressing for upstream in graph.successors(step))
            for step in steps
        }
        digests: dict[str, str] = {}
        for step in steps:
            params = {
                key: value
                for dependency in step.deps
                if isinstance(dependency, ParamsDependency)
                for key, value in dependency.read_params().items()
            }
            upstream = [digests[name] for name in dependencies[step.addressing] if name in digests]
            content = json.dumps(
                [step.addressing, step.cmd, params, upstream], sort_keys=True, default=str
            )
            digests[step.addressing] = hashlib.sha256(content.encode()).hexdigest()[:32]
        return StagePlan([step.addressing for step in steps], dependencies, digests)


def reproduce_stage(request: StageRequest) -> StageResult:
    """Bring one stage up to date.

    DVC returns the same value for a stage that ran and one that was restored. The two differ by a
    marker file, which every stage creates when it starts.
    """
    from dvc.repo import Repo

    with tempfile.TemporaryDirectory() as folder, Repo() as repo:
        marker = Path(folder, "started")
        os.environ[MARKER] = str(marker)
        changed = repo.reproduce(
            request.stage, single_item=True, force=request.force, pull=request.pull
        )
        return StageResult("ran" if marker.exists() else "restored" if changed else "unchanged")


def failed_result(error: BaseException) -> StageResult:
    """Return a failure with the most specific cause in a chain of exceptions."""
    from dvc.exceptions import ReproductionError
    from dvc.lock import LockError
    from dvc.stage.exceptions import StageCmdFailedError

    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    for cause in chain:
        if isinstance(cause, LockError):
            return StageResult("busy", as_one_line(cause))
        if isinstance(cause, StageCmdFailedError):
            code = re.search(r"exited with (-?\d+)$", str(cause))
            return StageResult("failed", as_one_line(cause), int(code[1]) if code else None)
    reason = error.__cause__ if isinstance(error, ReproductionError) and error.__cause__ else error
    if isinstance(reason, FileNotFoundError) and reason.filename:
        path = os.path.relpath(reason.filename)
        return StageResult(
            "failed", f"{path} does not exist, but this stage depends on it (see dvc.yaml)"
        )
    return StageResult("failed", as_one_line(reason))


def as_one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
