"""Measure variants side by side, or each in a process of its own, and print them as a table."""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], object]


def median_seconds(variants: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Time callables that take turns, so that a noisy machine slows all of them alike.

    Args:
        variants: name → callable.
        rounds: number of timed calls of each, after one call that warms up.

    Returns:
        name → median seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            if round_:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def seconds_of(run: Run, rounds: int) -> float:
    """Return the median seconds of one callable."""
    return median_seconds({"": run}, rounds)[""]


def print_table(seconds: Mapping[str, float], base: str, notes: Mapping[str, str] | None = None) -> None:
    """Print milliseconds, the speed relative to `base`, and a note where there is one."""
    for name, value in seconds.items():
        note = f"  {notes[name]}" if notes and name in notes else ""
        print(f"{name:52s} {1e3 * value:9.1f} ms  {seconds[base] / value:6.2f} x{note}", flush=True)


def lines_of_variant(options: Namespace, table: str, variant: str, *flags: str) -> list[str]:
    """Run one variant of a table in a process of its own and return the lines that it prints."""
    command = [sys.executable, "-m", "tests.bench", table, "--variant", variant]
    for name in ("channels", "windows", "threads", "hours"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.run([*command, *flags], check=True, capture_output=True, text=True).stdout.splitlines()


def result_of_variant(options: Namespace, table: str, variant: str, *flags: str) -> Any:
    """Run one variant of a table in a process of its own and return what `print_result` printed there."""
    return json.loads(lines_of_variant(options, table, variant, *flags)[-1])


def print_result(values: Sequence[float]) -> None:
    """Print what `result_of_variant` reads."""
    print(json.dumps(list(values)))


def peak_megabytes() -> float:
    """Return the peak of this process's resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def private_megabytes() -> float:
    """Return this process's own memory, without the pages of mapped files, which the system can take back."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)
    assert found is not None
    return int(found[1]) / 1024


def product_rates() -> dict[str, float]:
    """Measure and print the FLOP/s of one large matrix product in each precision."""
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
        rates[name] = 2 * 4096**3 / seconds_of(lambda a=a, b=b: a @ b, 3)
        print(f"4096³ product, {name}: {rates[name] / 1e9:.0f} GFLOP/s")
    return rates
