"""The machine: devices, precision, and how the process holds on to memory."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from typing import Literal

import torch

from cpc.config import ConfigError

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
