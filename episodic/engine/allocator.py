"""Settings of the memory allocator of the C library."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it to the system.

    Meta-training allocates the same large buffers in every iteration. By default glibc returns
    their pages to the system, and on a CPU half of the time is then spent on page faults. The
    setting applies to the whole process, so it is left to programs to call this function.

    Returns:
        Whether the setting took effect. Without glibc the function does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # <malloc.h>
    accepted = [
        libc.mallopt(option, value)
        for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20))
    ]
    return all(accepted)
