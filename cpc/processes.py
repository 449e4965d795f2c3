"""Other processes: those that work for this one and end with it, and those that share its cores."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

_LOOK_SECONDS = 1.0  # /proc/stat counts in hundredths of a second
_CALM_LOOKS = 4  # cores must be free so often in a row before more threads begin


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, even if that was killed.

    Otherwise its work would go on unseen, beside that of the next call. In a process that nobody started by
    `multiprocessing`, this does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)  # files are whole or absent at any moment, so nothing has to be saved

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


class FreeCores:
    """The number of threads that this process can use without sharing a core with another process.

    Threads that compute together wait for each other after every operation. As soon as another process takes the core
    of one, all of them wait for a time slice at each operation, and one thread would be faster than two
    (`python -m tests.bench contention`). Linux tells in /proc/stat how long each core was busy; elsewhere all cores
    count as free.

    Args:
        most: threads to use while all cores are free.
    """

    def __init__(self, most: int) -> None:
        self.threads = self.most = most
        self.used_by_others = 0.0  # cores, on average between the last two looks
        self._cores = _own_cores()
        self._calm = 0
        self._last = self._look()

    @property
    def num_cores(self) -> int:
        """The cores that this process may use."""
        return len(self._cores)

    def update(self) -> bool:
        """Look how busy the cores were since the last look, if that is a second ago.

        Returns:
            Whether `threads` has changed.
        """
        if self.most == 1 or time.monotonic() - self._last[2] < _LOOK_SECONDS:
            return False
        before, self._last = self._last, self._look()
        busy, own, seconds = (now - then for now, then in zip(self._last, before, strict=True))
        self.used_by_others = max(0.0, (busy - own) / seconds)
        fitting = max(1, min(self.most, math.floor(self.num_cores - self.used_by_others + 0.5)))
        self._calm = self._calm + 1 if fitting > self.threads else 0
        if fitting == self.threads or 0 < self._calm < _CALM_LOOKS:
            return False
        self.threads, self._calm = fitting, 0
        return True

    def _look(self) -> tuple[float, float, float]:
        """Return the seconds for which these cores and this process were busy so far, and the time."""
        return _busy_seconds(self._cores), time.process_time(), time.monotonic()


def _own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _busy_seconds(cores: set[int], stat: Path = Path("/proc/stat")) -> float:
    """Return how long some cores were busy since the machine started, added up; 0 where the system does not tell.

    Processes with low priority do not count, because they give way; unless this process is one of them.
    """
    if sys.platform != "linux":
        return 0.0
    names, ticks = {f"cpu{core}" for core in cores}, 0
    is_nice = os.getpriority(os.PRIO_PROCESS, 0) > 0
    for line in stat.read_text().splitlines():
        name, *counts = line.split()
        if name in names:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, counts[:8])
            ticks += user + system + interrupts + soft_interrupts + stolen
            ticks += nice if is_nice else 0
    return ticks / os.sysconf("SC_CLK_TCK")
