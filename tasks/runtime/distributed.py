"""Processes that share a stage: forked from it (params `processes`), or started by torchrun.

Forked processes share the data that the first one has read, and communicate through gloo on the
loopback interface. Results do not depend on the number of processes, so no stage of dvc.yaml
depends on it.
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
from episodic.engine.processes import LostProcessError, ProcessGroup
from tasks.runtime.stage import TRY_AGAIN, StageError

CORES = torch.get_num_threads()
"""Number of threads that torch would use: the cores of the machine, or OMP_NUM_THREADS."""

MEMORY_HINT = "if memory ran out, lower processes in params.yaml"


def started_by_torchrun() -> bool:
    """Return whether torchrun started this process; schedulers too set RANK and WORLD_SIZE."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def prepare_device(name: str) -> torch.device:
    """Choose the device of this process, and make a GPU deterministic.

    Args:
        name: As for `choose_device`. With several CUDA GPUs, each process of torchrun uses the
            GPU of its local rank.
    """
    device = choose_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        # Bitwise-reproducible results, at some cost in speed.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        # train.plan.tf32 turns these on.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device


def count_processes(
    requested: int | None, chunks: int, is_large: bool, device: torch.device
) -> int:
    """Choose the number of processes that share the work of a stage.

    Args:
        requested: `processes` of params. None: one per core for large work on a Linux CPU, else 1.
        chunks: Number of chunks of work, an upper bound of the number of processes.
        is_large: Whether the work is large enough for several processes to pay off.
        device: The device of the stage.
    """
    if device.type == "mps" and started_by_torchrun():
        raise StageError(
            "device is 'mps', but torchrun's processes cannot share an Apple GPU; "
            "start the stage without torchrun, or set device to cpu"
        )
    if device.type != "cpu":
        if requested not in (None, 1) and not started_by_torchrun():
            raise StageError(
                f"processes is {requested}; it must be null or 1 on a GPU. "
                "To use several GPUs, start the stage with torchrun"
            )
        return 1
    if requested is not None:
        return min(requested, chunks)
    return min(CORES, chunks) if is_large and sys.platform == "linux" else 1


@contextmanager
def start_processes(count: int, device: torch.device) -> Iterator[ProcessGroup]:
    """Run the block in `count` processes, or in those of torchrun if it started this one.

    Forked processes end with the block. On a CPU every process uses one thread, so no sum
    depends on the number of cores.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
    if started_by_torchrun():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with _join_group(device, rank, size, None) as group:
            yield group
    elif count == 1 or device.type != "cpu":
        yield ProcessGroup()
    else:
        with tempfile.TemporaryDirectory(prefix="episodic-") as folder:
            yield from _fork(count, device, f"file://{folder}/rendezvous")


def _fork(count: int, device: torch.device, rendezvous: str) -> Iterator[ProcessGroup]:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    read_end, write_end = os.pipe()  # closed when the first process ends for any reason
    sys.stdout.flush()
    sys.stderr.flush()
    children: list[int] = []
    for rank in range(1, count):
        if child := os.fork():
            children.append(child)
            continue
        os.close(write_end)
        threading.Thread(target=_exit_at_end_of_file, args=(read_end,), daemon=True).start()
        yield from _run_child(rank, count, device, rendezvous)
    os.close(read_end)
    joined = threading.Event()
    threading.Thread(target=_watch_children, args=(children, joined), daemon=True).start()
    try:
        with _join_group(device, 0, count, rendezvous) as group:
            joined.set()
            yield group
    except LostProcessError:
        raise LostProcessError(_describe_lost_child(children)) from None
    finally:
        os.close(write_end)
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _run_child(
    rank: int, count: int, device: torch.device, rendezvous: str
) -> Iterator[ProcessGroup]:
    """Run the block in a forked process and exit without the clean-up of the first process."""
    code = 1
    try:
        with _join_group(device, rank, count, rendezvous) as group:
            yield group
        code = 0
    except (UserError, KeyboardInterrupt):
        pass  # the first process reports it
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _watch_children(children: list[int], joined: threading.Event) -> None:
    """Exit if a child exits before the group is complete; the rendezvous would wait forever."""
    while not joined.wait(0.1):
        if any(os.waitpid(child, os.WNOHANG)[0] for child in children) and not joined.is_set():
            print(
                f"error: a process of this stage exited during start-up; {MEMORY_HINT}",
                file=sys.stderr,
            )
            sys.stderr.flush()
            os._exit(TRY_AGAIN)


def _exit_at_end_of_file(pipe: int) -> NoReturn:
    os.read(pipe, 1)
    os._exit(1)


def _describe_lost_child(children: list[int]) -> str:
    for _ in range(20):  # connections may break shortly before the process exits
        for child in children:
            with suppress(ChildProcessError):
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    end = f"exited with code {code}"
                    if code < 0:
                        end = f"was killed by signal {-code}"
                    return f"a process of this stage {end}; {MEMORY_HINT}"
        time.sleep(0.1)
    return "a process of this stage does not respond"


@contextmanager
def _join_group(
    device: torch.device, rank: int, size: int, rendezvous: str | None
) -> Iterator[ProcessGroup]:
    """Join the other processes through the file `rendezvous`, or through torchrun (None)."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    if rendezvous is None:
        dist.init_process_group(backend, store=_torchrun_store(), rank=rank, world_size=size)
    else:
        dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size)
    try:
        yield ProcessGroup(rank, size)
    finally:
        dist.destroy_process_group()


def _torchrun_store() -> Any:
    """Return the store through which torchrun's processes find each other.

    On one machine each attempt has separate keys. The store outlives a restart, so a process could
    otherwise find the address of a killed process.
    """
    import torch.distributed as dist

    store, _, _ = next(iter(dist.rendezvous("env://")))
    if os.environ.get("GROUP_WORLD_SIZE") != "1":  # machines count their restarts separately
        return store
    return dist.PrefixStore(f"try {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)


def measure_peak_memory(group: ProcessGroup, device: torch.device) -> int:
    """Return the sum of the peak memory of all processes, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peaks = group.gather_rows(
        lambda _: torch.tensor([[peak]], dtype=torch.int64, device=device), [1] * group.size
    )
    return int(peaks.sum())
