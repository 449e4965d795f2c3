"""How the process holds on to memory."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_buffers() -> None:
    """Let malloc keep large freed buffers for the next step, instead of giving each back to the system.

    By default glibc maps every buffer of some MB anew, and the kernel clears it page by page at its first touch. For a
    training step on a CPU that is nearly half its time (`docs/performance.md`). Resident memory then stays at its peak;
    the peak itself does not change. Not on glibc: nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
