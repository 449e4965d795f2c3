"""Stop a run between two updates when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Flag:
    """A flag that a signal sets."""

    def __init__(self) -> None:
        self.is_set = False

    def __bool__(self) -> bool:
        return self.is_set


@contextmanager
def finish_update_on_signal() -> Iterator[Flag]:
    """Turn Ctrl-C and SIGTERM into a flag, so that a run stops between updates with everything saved."""
    flag = Flag()

    def raise_flag(*_: object) -> None:
        flag.is_set = True

    try:
        previous = {s: signal.signal(s, raise_flag) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread receives signals; in another one the caller handles them
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
