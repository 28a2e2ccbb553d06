"""The processes of one stage: forked here (params `processes`), or started by torchrun.

A forked process begins with all that this one has read; the two talk through gloo on the loopback interface. The number of processes
changes how long a stage takes and nothing else, so it is no dependency of any stage.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch

from episodic.core.device import choose_device
from episodic.core.errors import UserError
from episodic.engine.processes import Group, LostProcessError
from tasks.runtime.stage import TRY_AGAIN, StageError

CORES = torch.get_num_threads()
"""What torch would use: the cores of the machine, unless OMP_NUM_THREADS says otherwise."""


def torchrun() -> bool:
    """Whether torchrun started this process (schedulers set RANK and WORLD_SIZE too)."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def prepare_device(name: str) -> torch.device:
    """Choose the device of this process, and make a GPU deterministic.

    Args:
        name: As for `choose_device`. Of several CUDA GPUs, each of torchrun's processes takes the
            one of its local rank.
    """
    device = choose_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        # Equal bytes in every run, at some cost in speed.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        # train.plan.tf32 turns these on.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


def suited(wanted: int | None, parts: int, large: bool, device: torch.device) -> int:
    """How many processes share `parts` parts of work: what params say, else one a core on a Linux CPU if the work is large."""
    if device.type == "mps" and torchrun():
        raise StageError(
            "device is 'mps': torchrun's processes cannot share an Apple GPU; start the stage without it, or set device to cpu"
        )
    if device.type != "cpu":
        if wanted not in (None, 1) and not torchrun():
            raise StageError(
                f"processes is {wanted}: must be null or 1 on a GPU; to use several GPUs, start the stage with torchrun"
            )
        return 1
    if wanted is not None:
        return min(wanted, parts)
    return min(CORES, parts) if large and sys.platform == "linux" else 1


@contextmanager
def group(count: int, device: torch.device) -> Iterator[Group]:
    """A group of `count` processes, all of which run the block; those beyond this one end with it. torchrun's group if it started us.

    On a CPU every process computes with one thread, so that no sum depends on the number of cores.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
    if torchrun():
        with _joined(
            device, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), None
        ) as result:
            yield result
    elif count == 1 or device.type != "cpu":
        yield Group()
    else:
        with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
            yield from _forked(count, device, f"file://{folder}/meeting")


def _forked(count: int, device: torch.device, meeting: str) -> Iterator[Group]:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    watched, held = os.pipe()  # `held` is open as long as the first process lives
    sys.stdout.flush()
    sys.stderr.flush()
    children: list[int] = []
    for rank in range(1, count):
        if child := os.fork():
            children.append(child)
            continue
        os.close(held)
        threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
        yield from _helper(rank, count, device, meeting)
    os.close(watched)
    met = threading.Event()
    threading.Thread(target=_give_up_without, args=(children, met), daemon=True).start()
    try:
        with _joined(device, 0, count, meeting) as result:
            met.set()
            yield result
    except LostProcessError:
        raise LostProcessError(_how_it_ended(children)) from None
    finally:
        os.close(held)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _helper(rank: int, count: int, device: torch.device, meeting: str) -> Iterator[Group]:
    """The block in a forked process, which then ends at once: what the first one would clean up is not this one's."""
    code = 1
    try:
        with _joined(device, rank, count, meeting) as result:
            yield result
        code = 0
    except (UserError, KeyboardInterrupt):
        pass  # the first process has the same to say
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _give_up_without(children: list[int], met: threading.Event) -> None:
    """Ends this process where a child ends before all have met, which the meeting itself would wait for without end."""
    while not met.wait(0.1):
        if any(os.waitpid(child, os.WNOHANG)[0] for child in children) and not met.is_set():
            print(
                "error: a process of this stage ended before it began; if memory was short, set processes to a lower number",
                file=sys.stderr,
            )
            sys.stderr.flush()
            os._exit(TRY_AGAIN)


def _end_with(pipe: int) -> NoReturn:
    os.read(pipe, 1)
    os._exit(1)


def _how_it_ended(children: list[int]) -> str:
    for _ in range(20):  # its connections may break a little before it is gone
        for child in children:
            with suppress(ChildProcessError):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    ending = (
                        f"was killed by signal {-code}"
                        if code < 0
                        else f"ended with exit code {code}"
                    )
                    return f"a process of this stage {ending}; if memory was short, set processes to a lower number"
        time.sleep(0.1)
    return "a process of this stage does not answer"


@contextmanager
def _joined(device: torch.device, rank: int, size: int, meeting: str | None) -> Iterator[Group]:
    """meeting: the file where the processes find each other; None: where torchrun says."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    if meeting is None:
        dist.init_process_group(backend, store=_torchruns_store(), rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=size)
    try:
        yield Group(rank, size)
    finally:
        dist.destroy_process_group()


def _torchruns_store() -> Any:
    """Where torchrun's processes find each other. On one machine each try has names of its own: the store outlives a restart, and a process
    could find there the address of one that was killed."""
    import torch.distributed as dist

    store, _, _ = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") != "1":  # machines count their restarts apart
        return store
    return dist.PrefixStore(f"try {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def peak_memory(group: Group, device: torch.device) -> int:
    """Bytes that all processes together held at most."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    rows = group.rows(
        lambda i: torch.tensor([[peak]], dtype=torch.int64, device=device), [1] * group.size
    )
    return int(rows.sum())
