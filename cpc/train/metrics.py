"""Running means of an objective's results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch


class RunningMean:
    """Mean of several batches' results, kept on their device so that no update waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}  # (), or (K,) under names in _k
        self._count = 0

    def add(self, result: Mapping[str, torch.Tensor]) -> None:
        """Count one batch."""
        for name, value in result.items():
            self._sums[name] = self._sums[name] + value.detach() if self._count else value.detach()
        self._count += 1

    def take(self, average: Callable[[Iterable[torch.Tensor]], None] = lambda means: None) -> dict[str, Any]:
        """The means so far, as fields of a line of metrics.jsonl; starts anew.

        `average` replaces the means by those over all processes, in place. What is there by step, as accuracy_k, also
        appears as its mean, accuracy; log N − loss as the bound.
        """
        assert self._count
        on_device = {name: total / self._count for name, total in self._sums.items()}
        average(on_device.values())
        means = {name: value.cpu().double() for name, value in on_device.items()}
        self._sums, self._count = {}, 0
        by_step = {name: value for name, value in means.items() if name.endswith("_k")}
        line: dict[str, Any] = {
            name.removesuffix("_k"): value.mean().item() for name, value in {**means, **by_step}.items()
        }
        line |= {name: value.tolist() for name, value in by_step.items()}
        if by_step:
            line["bound_k"] = (by_step["log_n_k"] - by_step["loss_k"]).tolist()
        return line
