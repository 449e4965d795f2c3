"""Stop a run between two updates when a signal or a time limit asks for it."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRY_LATER = getattr(os, "EX_TEMPFAIL", 75)  # exit status of a run whose time is up
# What asks a run to stop: Ctrl-C, a scheduler that ends the job, a terminal or a connection that closes.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A run that stopped between two updates, with everything saved.

    Attributes:
        exit_status: 128 + the number of the signal, as shells have it, or 75 if the time was up.
    """

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Flag:
    """A flag that a signal sets, or the end of the time.

    Args:
        max_hours: hours from now.
    """

    def __init__(self, max_hours: float = math.inf) -> None:
        self.signal: int | None = None
        self._until = time.monotonic() + 3600 * max_hours

    def __bool__(self) -> bool:
        return self.signal is not None or time.monotonic() >= self._until

    def error(self, run: Path, update: int) -> Stopped:
        """Make the error of a run that stopped, here or because another process was asked to."""
        is_time_up = self.signal is None and bool(self)
        status = _TRY_LATER if is_time_up else 128 + (self.signal or signal.SIGTERM)
        return Stopped(f"stopped after update {update}; continue with `cpc train --resume {run}`", status)


@contextmanager
def finish_update_on_signal(flag: Flag) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a flag, so that a run stops between updates with everything saved.

    A SIGHUP that is ignored, as by `nohup`, stays ignored.
    """

    def raise_flag(number: int, _: object) -> None:
        flag.signal = number

    previous = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN and number not in (signal.SIGINT, signal.SIGTERM):
                continue
            previous[number] = signal.signal(number, raise_flag)
    except ValueError:  # only the main thread receives signals; in another one the caller handles them
        pass
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
