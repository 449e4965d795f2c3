"""A run's measurements in TensorBoard: pip install 'cpc-audio[tensorboard]'."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cpc.config import Config, ConfigError, config_text
from cpc.runs import read_metrics, steps_of

_NO_MEASUREMENTS = ("kind", "update", "steps")


class TensorBoard:
    """A callback that writes RUN/tensorboard, for `tensorboard --logdir RUN`.

    Numbers are named after the kind of their line, such as train/loss, and those of a step k end in it, such as
    dev/accuracy_k/3. A set of negatives that is scored at some of the steps has its means alone.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError("TensorBoard is not installed; pip install 'cpc-audio[tensorboard]'")
        self._writer: Any = None

    def on_start(self, config: Config, run: Path) -> None:
        """Open the log; a run that resumes replaces what it measures again."""
        from torch.utils.tensorboard import SummaryWriter

        metrics = run / "metrics.jsonl"
        measured = [row["update"] for row in read_metrics(metrics)] if metrics.exists() else []
        purge_step = measured[-1] + 1 if measured else 0
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)
        self._writer.add_text("config", f"```toml\n{config_text(config)}\n```", global_step=purge_step)

    def on_log(self, row: dict[str, Any]) -> None:
        """Write the numbers of a line."""
        numbers = {name: value for name, value in row.items() if name not in _NO_MEASUREMENTS}
        for name, values in list(numbers.items()):
            if isinstance(values, list) and len(values) == len(steps_of(row)):
                numbers |= {f"{name}/{k}": value for k, value in zip(steps_of(row), values, strict=True)}
        for name, number in numbers.items():
            if isinstance(number, int | float):
                self._writer.add_scalar(f"{row['kind']}/{name}", number, row["update"])

    def on_end(self, summary: dict[str, Any]) -> None:
        """Close the log."""
        self._writer.add_text("ended", str(summary["ended"]), global_step=summary["update"])
        self._writer.close()
