"""The log of a run: running means of an objective's results, metrics.jsonl, and the progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cpc.data import BadAudio, Batch
from cpc.infonce import Rule, bound_kind, name_sets
from cpc.runs import append_metrics, read_starts
from cpc.train.setup import Parts

# A loss this close to log N, in nats, is that of a guess: nothing is learned.
STUCK_NATS = 0.05
PATIENCE_UPDATES = 200  # after warm-up; until then a sound run may still guess


class RunningMean:
    """Mean of several batches' results, kept on their device so that no update waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}  # (), or (K,) under names that end in _k
        self._count = 0

    def __bool__(self) -> bool:
        """Whether there is a result to average."""
        return self._count > 0

    def add(self, result: Mapping[str, torch.Tensor]) -> None:
        """Add the results of one batch."""
        for name, value in result.items():
            self._sums[name] = self._sums[name] + value.detach() if self._count else value.detach()
        self._count += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far, as a checkpoint holds them."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue with the sums of a checkpoint."""
        self._sums = {name: total.to(device) for name, total in state["sums"].items()}
        self._count = state["count"]

    def take(self, average: Callable[[Iterable[torch.Tensor]], None] = lambda means: None) -> dict[str, Any]:
        """Return the means as fields of a line of metrics.jsonl, and start again.

        Values by step, such as accuracy_k, also appear as their mean, accuracy, unless the results hold that name;
        bound_k is log N − loss.

        Args:
            average: replaces the means by those over all processes, in place.
        """
        assert self._count
        on_device = {name: total / self._count for name, total in self._sums.items()}
        average(on_device.values())
        means = {name: value.cpu().double() for name, value in on_device.items()}
        self._sums, self._count = {}, 0
        by_step = {name: value for name, value in means.items() if name.endswith("_k")}
        # The loss of a run with step weights is no plain mean over the steps, so what has no step goes first.
        order = {name: value for name, value in means.items() if name not in by_step} | by_step
        line: dict[str, Any] = {}
        for name, value in order.items():
            line.setdefault(name.removesuffix("_k"), value.mean().item())
        line |= {name: value.tolist() for name, value in by_step.items()}
        for name in by_step:
            if name.endswith("log_n_k"):
                of_set = name.removesuffix("log_n_k")  # the prefix of a set of negatives, or nothing
                line[f"{of_set}bound_k"] = (by_step[name] - by_step[f"{of_set}loss_k"]).tolist()
        return line


class Log:
    """What a run reports while it trains: lines of metrics.jsonl, a progress bar, warnings. Rank 0 alone reports.

    Args:
        path: metrics.jsonl. Its first line says where the run computes; so does another one where a resumed run
            computes elsewhere.
        parts: of the run.
        first: update to resume after; 0 for a new run.
        seconds: training time before.
        bad_audio: errors of sound files that were left out before; further ones are added.
    """

    def __init__(self, path: Path, parts: Parts, first: int, seconds: float, bad_audio: list[str]) -> None:
        self.path, self.parts, self.is_first = path, parts, parts.ranks.is_first
        config, ranks = parts.config, parts.ranks
        self.bad = BadAudio(parts.data.num_files, bad_audio)
        self._constant: dict[str, Any] = {}  # what each line says beside its measurements
        if config.loss.name == "cpc":
            rules = {name: Rule.of(negatives) for name, negatives in name_sets(config.criterion).items()}
            self._constant = {"bound_kind": bound_kind(list(rules.values()), config.batches.kind)}
            if len(rules) > 1:
                kinds = {name: bound_kind([rule], config.batches.kind) for name, rule in rules.items()}
                self._constant |= {f"{name}/bound_kind": kind for name, kind in kinds.items()}
            if len(config.criterion.steps) < config.criterion.num_steps:
                self._constant["steps"] = list(config.criterion.steps)
        windows = config.batches.num_windows * config.batches.accumulate * ranks.size
        self._audio_seconds = windows * config.data.window_samples / config.audio.sample_rate  # an update
        self._seconds_before, self._started = seconds, time.monotonic()
        self._logged, self._logged_at = first, self._started
        self._write_environment(first)
        self._bar = tqdm(
            total=config.train.num_updates,
            initial=first,
            unit="update",
            desc="train",
            dynamic_ncols=True,
            disable=not ranks.is_first,
        )

    def __enter__(self) -> Log:
        self._leave_out(self.parts.data.train.bad.values())
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self.say(str(self.bad))

    @property
    def seconds(self) -> float:
        """Training time so far, over all calls."""
        return self._seconds_before + time.monotonic() - self._started

    def advance(self, batches: Iterable[Batch]) -> None:
        """Count one update, and the sound files that its batches had to do without.

        Raises:
            AudioError: these are too many.
        """
        self._bar.update()
        self._leave_out(error for batch in batches for error in batch.instead_of)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if text and self.is_first:
            self._bar.write(text, file=sys.stderr)

    def _leave_out(self, errors: Iterable[str]) -> None:
        """Name sound files that were left out."""
        for error in self.bad.add(errors):
            self.say(f"left out: {error}")

    def train(self, update: int, facts: Mapping[str, Any], means: Mapping[str, Any]) -> dict[str, Any]:
        """Write the line of some training updates, and return it.

        Args:
            update: the last of them.
            facts: what else is known of them: the learning rate, …
            means: of their results.
        """
        now = time.monotonic()
        line = {
            "kind": "train",
            "update": update,
            "seconds": self._seconds_before + now - self._started,
            "audio_seconds_per_second": (update - self._logged) * self._audio_seconds / (now - self._logged_at),
            "threads": self.parts.threads.count,
            "bad_audio": len(self.bad.errors),
            **facts,
            **self._constant,
            **means,
        }
        if line["loss"] < float("inf"):
            self._report(line)
            self._warn_if_stuck(update, line["loss"], line["log_n"])
        self._logged, self._logged_at = update, now
        self._bar.set_postfix_str(
            f"loss {line['loss']:.3f} of {line['log_n']:.2f}, accuracy {line['accuracy']:.3f}, "
            f"{line['audio_seconds_per_second']:.0f} audio-s/s"
        )
        return line

    def dev(self, update: int, means: Mapping[str, Any]) -> dict[str, Any]:
        """Write the line of a pass over the dev split, and return it.

        Raises:
            AudioError: too many of its sound files could not be read.
        """
        self._leave_out(self.parts.data.dev.bad.values())
        line = {"kind": "dev", "update": update, "seconds": self.seconds, **self._constant, **means}
        self._report(line)
        self.say(
            f"update {update}: dev loss {line['loss']:.3f} of log N = {line['log_n']:.3f}, "
            f"accuracy {line['accuracy']:.3f}"
        )
        self._logged_at = time.monotonic()  # a pass over dev does not count as training time
        return line

    def _write_environment(self, first: int) -> None:
        """Write where the run computes, unless the last such line says the same."""
        environment = self.parts.environment
        starts = read_starts(self.path) if self.is_first and self.path.exists() else []
        if not starts or {**starts[-1], **environment} != starts[-1]:
            self._append({"kind": "start", "update": first, **environment})

    def _report(self, line: dict[str, Any]) -> None:
        """Write a measurement, and tell the callback."""
        self._append(line)
        if self.is_first:
            self.parts.on_log.on_log({**line})

    def _append(self, line: dict[str, Any]) -> None:
        if self.is_first:
            append_metrics(self.path, line)

    def _warn_if_stuck(self, update: int, loss: float, log_n: float) -> None:
        """Warn once if the run is still guessing well after its warm-up."""
        patience = self.parts.config.optim.warmup_updates + PATIENCE_UPDATES
        is_due = update >= patience > update - self.parts.config.train.log_every
        if is_due and loss > log_n - STUCK_NATS:
            self.say(
                f"warning: after {update} updates the loss {loss:.3f} is still that of a guess, {log_n:.3f}: nothing "
                "is learned yet. These settings have helped before: --audio.normalise utterance, a higher --optim.lr"
                + (", --criterion.tau sqrt_dim" if self.parts.config.loss.name == "cpc" else "")
            )
