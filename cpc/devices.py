"""How the process holds on to memory."""

from __future__ import annotations

import ctypes
import sys

import torch

from cpc.config import ConfigError

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


def resolve_device(name: str) -> torch.device:
    """The device that a name means here; "auto" takes the first there is of cuda, mps, cpu.

    Raises:
        ConfigError: if there is no such device.
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


def resolve_precision(precision: str, device: torch.device) -> str:
    """float32 or bf16; "auto" takes bf16 only where the hardware multiplies it (elsewhere it is far slower)."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        fast = device.type == "cpu" and any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return "bf16" if fast else "float32"
