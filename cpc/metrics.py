"""What a run reports of itself: running means of InfoNCE's results, and lines of metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from cpc.files import write_bytes
from cpc.infonce import InfoNCE


class MetricsError(ValueError):
    """A metrics file that is missing or damaged."""


class Mean:
    """Mean of several batches' results, kept on their device so that no update waits for it."""

    def __init__(self) -> None:
        self._sum: torch.Tensor | None = None  # (4, K)
        self._count = 0

    def add(self, result: InfoNCE) -> None:
        """Count one batch."""
        stacked = torch.stack([t.detach() for t in result])
        self._sum = stacked if self._sum is None else self._sum + stacked
        self._count += 1

    def take(self) -> dict[str, Any]:
        """The means so far, as fields of a line of metrics.jsonl; starts anew."""
        assert self._sum is not None
        losses, accuracies, win_rates, log_n = (self._sum / self._count).cpu().double()
        self._sum, self._count = None, 0
        return {
            "loss": losses.mean().item(),
            "accuracy": accuracies.mean().item(),
            "win_rate": win_rates.mean().item(),
            "log_n": log_n.mean().item(),
            "loss_k": losses.tolist(),
            "accuracy_k": accuracies.tolist(),
            "win_rate_k": win_rates.tolist(),
            "bound_k": (log_n - losses).tolist(),
            "log_n_k": log_n.tolist(),
        }


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line; a crash of the machine may lose it or tear it, which `read` allows for."""
    with path.open("a") as f:
        f.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; a last line torn by a crash is left out.

    Raises:
        MetricsError: missing file, or a line in the middle that is not JSON.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise MetricsError(f"{path}: no such file; `cpc train --out {path.parent}` writes it") from None
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise MetricsError(f"{path}: line {i + 1} is not JSON") from None
    return rows


def keep_until(path: Path, update: int) -> None:
    """Drop the lines after `update`: what a resumed run is about to write again."""
    if path.exists():
        rows = [row for row in read(path) if row["update"] <= update]
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
