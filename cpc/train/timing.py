"""The time that each stage of a training update takes: a table for the screen and a trace for a viewer."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

_WARM_UP, _TIMED, _TRACED = 5, 20, 2  # updates
NUM_UPDATES = _WARM_UP + _TIMED + _TRACED + 1

STAGES = ("data", "encoder", "autoregressor", "predictor", "criterion", "optimiser", "other")


class Profile:
    """A stopwatch for the stages of an update; it runs during some early updates, and only if asked to.

    One stage lies between two marks. A stage's backward pass ends when the gradient of its input is formed, so backward
    stages run in the opposite order: criterion, predictor, autoregressor, encoder.

    Args:
        trace: path of the trace (JSON for chrome://tracing or perfetto.dev); None profiles nothing.
        device: device to wait for at each mark.
    """

    def __init__(self, trace: Path | None, device: torch.device) -> None:
        self.trace, self.device = trace, device
        self.update = 0
        self._seconds: dict[tuple[str, str], float] = {}
        self._last, self._paused = 0.0, False
        self._tracer: torch.profiler.profile | None = None

    @property
    def is_timing(self) -> bool:
        """Whether this update's stages are timed."""
        timed = _WARM_UP < self.update <= _WARM_UP + _TIMED
        return self.trace is not None and timed and not self._paused

    def mark(self, stage: str, direction: str = "forward") -> None:
        """End a stage here."""
        if self.trace is not None and self.update == _WARM_UP:
            self._last = time.perf_counter()  # the last of these marks is where the first timed update begins
        if not self.is_timing:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        now = time.perf_counter()
        key = (stage, direction)
        self._seconds[key] = self._seconds.get(key, 0.0) + now - self._last
        self._last = now

    def pause(self) -> None:
        """Leave out what follows: a pass over the dev split."""
        self.mark("other")
        self._paused = True

    def go_on(self) -> None:
        """End the pause."""
        self._last, self._paused = time.perf_counter(), False

    def mark_gradient(self, entered: Tensor, stage: str) -> None:
        """End a stage's backward pass when the gradient of the stage's input is formed."""
        if self.is_timing and entered.requires_grad:
            entered.register_hook(lambda _: self.mark(stage, "backward"))  # type: ignore[no-untyped-call]

    def watch(self, module: nn.Module, stage: str, following: str) -> None:
        """End `stage` whenever `module` has run, and `following`'s backward pass at the gradient of its output."""

        def ended(_module: nn.Module, _args: object, output: Tensor) -> None:
            self.mark(stage)
            self.mark_gradient(output, following)

        if self.trace is not None:
            module.register_forward_hook(ended)

    def next_update(self) -> str:
        """Begin the next update. Return the summary once, when it is complete."""
        if self.trace is None:
            return ""
        self.update += 1
        if self.update == _WARM_UP + _TIMED + 1:
            self._tracer = torch.profiler.profile(record_shapes=True, profile_memory=True)
            self._tracer.start()
        if self.update == _WARM_UP + _TIMED + _TRACED + 1:
            assert self._tracer is not None
            self._tracer.stop()
            self._tracer.export_chrome_trace(str(self.trace))
            self.trace, path = None, self.trace
            return f"{self._table()}\ntrace of {_TRACED} updates: {path}"
        return ""

    def _table(self) -> str:
        total = sum(self._seconds.values())
        lines = [
            f"profile: {1e3 * total / _TIMED:.1f} ms an update (mean of {_TIMED})",
            f"{'':16s}{'forward':>10s}{'backward':>10s}{'share':>8s}",
        ]
        for stage in STAGES:
            forward, backward = (self._seconds.get((stage, d), 0.0) for d in ("forward", "backward"))
            if forward or backward:
                lines.append(
                    f"{stage:16s}{1e3 * forward / _TIMED:7.1f} ms"
                    + (f"{1e3 * backward / _TIMED:7.1f} ms" if backward else " " * 10)
                    + f"{100 * (forward + backward) / total:6.1f} %"
                )
        return "\n".join(lines)
