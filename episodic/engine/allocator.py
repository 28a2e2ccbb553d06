"""The C library's memory allocator."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next request instead of giving it back page by page; True if that took effect.

    Meta-training allocates the same large buffers every iteration, and half its time on a CPU goes into page faults otherwise.
    It is a setting of the whole process, for a program to make and not for a library; elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    mmap_max, trim_threshold, top_pad = -4, -1, -2  # <malloc.h>
    taken = [
        libc.mallopt(option, value)
        for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20))
    ]
    return all(taken)
