"""Run tasks side by side, each process with its share of the cores."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from cpc.processes import end_with_parent

# Numerical libraries read these when they are loaded, so a process has to be born with them.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class ParallelError(ValueError):
    """A number of processes that cannot work, or a process that died."""


def num_cores() -> int:
    """Return the number of cores of this machine."""
    return os.cpu_count() or 1


def run_side_by_side(
    tasks: Sequence[Callable[[], object]], jobs: int, *, done: Callable[[int], object] = lambda _: None
) -> None:
    """Run tasks, `jobs` at a time. One task, or one job, runs in this process, in order.

    Ctrl-C ends the processes: a task that handles it, as training does, ends in its own way; any other dies at once.

    Args:
        tasks: callables without arguments; with several jobs, ones that pickle can carry to another process.
        jobs: number of processes; each has an equal share of the cores.
        done: called here with the index of each task that has ended.

    Raises:
        ParallelError: `jobs` is less than 1, or a process died.
        Exception: the first error of a task; tasks that run then are waited for, and no further one begins.
    """
    if jobs < 1:
        raise ParallelError(f"jobs: got {jobs}, expected 1 or more")
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for i, task in enumerate(tasks):
            task()
            done(i)
        return
    context, queue = multiprocessing.get_context("spawn"), iter(enumerate(tasks))
    try:
        with (
            _threads_of_children(max(1, num_cores() // jobs)),
            ProcessPoolExecutor(jobs, context, initializer=_start_worker) as pool,
        ):
            running = {pool.submit(task): i for i, task in itertools.islice(queue, jobs)}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    done(running.pop(future))
                    running |= {pool.submit(task): i for i, task in itertools.islice(queue, 1)}
    except BrokenProcessPool:
        raise ParallelError(
            f"one of {jobs} processes died, as happens when memory runs out; run fewer side by side, and what is "
            "finished stays"
        ) from None


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """Let processes that start in this context use so many threads each."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, which reports it once, where each process would print a traceback; end with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
