"""Processes that work for this one, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
