"""The machine: devices, precision, threads, and how the process holds on to memory."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from types import TracebackType
from typing import Literal, Self

import torch

from cpc.config import ConfigError
from cpc.processes import FreeCores

Precision = Literal["float32", "bf16"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def resolve_device(name: str) -> torch.device:
    """Return the device that a name stands for; "auto" is the first that is available of cuda, mps, cpu.

    Raises:
        ConfigError: no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if not there.get(device.type) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        available = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise ConfigError(f"device: got {name!r}, available here: auto, {available}")
    return device


def resolve_precision(precision: Literal["auto", "float32", "bf16"], device: torch.device) -> Precision:
    """Resolve "auto" to bf16 where the hardware multiplies bf16, and to float32 elsewhere, where bf16 is far slower."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = device.type == "cpu" and any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16" if fast else "float32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which networks run in a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Threads:
    """The threads of torch on a CPU; at the end of the context, their number is what it was before.

    Args:
        wanted: a number; or "auto", which uses as many as torch had, but no more than other processes leave cores.
            Results of different numbers differ by rounding.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, wanted: int | Literal["auto"] = "auto") -> None:
        self._before = torch.get_num_threads()
        if wanted != "auto":
            if wanted < 1:
                raise ConfigError(f"threads: got {wanted}, expected auto, or 1 or more")
            torch.set_num_threads(wanted)
        self._free = FreeCores(self._before) if wanted == "auto" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._before)

    @property
    def count(self) -> int:
        """The number of threads now."""
        return torch.get_num_threads()

    def adapt(self) -> str:
        """Take fewer threads if other processes use cores, or more once they are free again; call it often.

        Returns:
            What has changed, in words; mostly nothing.
        """
        if self._free is None or not self._free.update():
            return ""
        torch.set_num_threads(self._free.threads)
        others, cores = f"{self._free.used_by_others:.1f}", self._free.num_cores
        return f"other processes use {others} of {cores} cores: continuing with --threads {self._free.threads}"


def keep_freed_buffers() -> None:
    """Let malloc keep large freed buffers for the next step instead of returning them to the system.

    By default glibc maps every buffer of some MB anew, and the kernel clears it page by page at its first touch, which
    takes nearly half the time of a training step on a CPU (tests/bench/README.md). With kept buffers the resident
    memory stays at its peak; the peak itself does not change. Without glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def physical_memory() -> float:
    """Return the bytes of memory that this machine has; infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf
