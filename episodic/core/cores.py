"""The number of processor cores."""

from __future__ import annotations

import os

__all__ = ["count_cores"]


def count_cores() -> int:
    """Count the cores that this process may use.

    On Linux, a process may be restricted to some of the machine's cores, for example by `taskset`
    or a batch system.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
