"""The C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next request.

    Meta-training allocates the same large buffers in every iteration. By default glibc returns them
    to the system page by page, and page faults then take half the time on a CPU. The setting is
    that of the whole process, so that a program makes it and not a library.

    Returns:
        Whether the setting took effect. It does nothing without glibc.
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
