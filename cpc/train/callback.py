"""What a run tells its caller while it trains: the protocol that dashboards are connected by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cpc.config import Config


class Callback(Protocol):
    """Three methods, called in this order: on_start, on_log for each measurement, on_end.

    With several processes the first one alone calls them. An error that one of them raises ends the run, which can be
    resumed from its last checkpoint; on_end is then still called, unless on_start raised it.
    """

    def on_start(self, config: Config, run: Path) -> None:
        """Begin: before the first update, also of a run that resumes, whose later lines are dropped by then.

        Args:
            config: the whole run.
            run: its folder.
        """

    def on_log(self, row: dict[str, Any]) -> None:
        """Take a measurement, once it is written.

        Args:
            row: a line of metrics.jsonl: "kind" is train or dev, "update", "loss", "accuracy", "log_n", "seconds", …;
                names that end in _k hold a list with a number for each predicted step.
        """

    def on_end(self, summary: dict[str, Any]) -> None:
        """End.

        Args:
            summary: "ended": finished, stopped (by a signal or the time limit) or failed; "update" and "seconds" that
                the run has come to; "best_gain": largest log N − loss on dev in nats, None before the first.
        """


class Silent:
    """A callback that does nothing."""

    def on_start(self, config: Config, run: Path) -> None:
        """Ignore the start."""

    def on_log(self, row: dict[str, Any]) -> None:
        """Ignore a measurement."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """Ignore the end."""


@contextmanager
def reporting(callback: Callback, config: Config, run: Path, summary: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Tell a callback that a run starts, and how it ends; `summary` says how far it has come."""
    callback.on_start(config, run)
    ended = "failed"
    try:
        yield
        ended = "finished"
    except KeyboardInterrupt:
        ended = "stopped"
        raise
    finally:
        callback.on_end({"ended": ended, **summary()})
