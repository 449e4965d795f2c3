"""The state of training: what last.pt holds, so that an interrupted run resumes exactly."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpc.config import Config, config_text, read_config
from cpc.files import replacing
from cpc.runs import (
    BEST,
    WEIGHTS,
    CheckpointError,
    best_weights,
    gain,
    keep_metrics_until,
    read_checkpoint,
    read_metrics,
    restore_weights,
    save_checkpoint,
    save_weights,
)
from cpc.train.metrics import RunningMean
from cpc.train.setup import Parts
from cpc.train.trouble import TrainingError

PREVIOUS = "previous.pt"


@dataclass
class State:
    """How far a run has come.

    Attributes:
        update: updates done.
        seconds: training time, over all calls.
        best_gain: largest log N − loss on dev so far, in nats. The loss alone would not do: the N of MoCo's queue
        grows.
        skipped: updates that were left out, because their gradient was not finite.
        bad_audio: errors of the sound files that were left out, because they could not be read.
    """

    update: int = 0
    seconds: float = 0.0
    best_gain: float = -float("inf")
    skipped: int = 0
    bad_audio: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Tell a callback how far the run has come; best_gain is None before the first pass over dev."""
        best = self.best_gain if self.best_gain > -float("inf") else None
        return {"update": self.update, "seconds": self.seconds, "best_gain": best}


def save_last(run: Path, parts: Parts, state: State, running: RunningMean) -> None:
    """Write last.pt: weights, optimisers, objective, progress, and the means of updates that are not logged yet.

    The one before it stays as previous.pt.
    """
    rest = {
        "objective": parts.objective.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in parts.optimisers],
        "running": running.state_dict(),
    }
    if parts.ranks.is_first:
        keep_previous(run)
        rest |= {"data": parts.data.digest, **parts.model_class, **vars(state)}
        save_checkpoint(run / "last.pt", parts.config, parts.network, **rest)


def keep_previous(run: Path) -> None:
    """Keep last.pt as previous.pt: whatever happens to the next one, there is a whole checkpoint."""
    if not (run / "last.pt").exists():
        return
    with replacing(run / PREVIOUS, sync=False) as temporary:
        try:
            os.link(run / "last.pt", temporary)
        except OSError:  # a file system without links
            shutil.copyfile(run / "last.pt", temporary)


def read_last(run: Path) -> tuple[Config, dict[str, Any]] | None:
    """Read last.pt; if it is damaged or missing, put the checkpoint before it in its place, and say so on stderr.

    What was damaged stays as last.pt.damaged.

    Returns:
        As `read_checkpoint`; None if the folder has no checkpoint to continue from.

    Raises:
        CheckpointError: last.pt is damaged, and there is none before it.
    """
    last, previous = run / "last.pt", run / PREVIOUS
    if not last.exists() and not previous.exists():
        return None
    try:
        return read_checkpoint(last)
    except CheckpointError as error:
        if not previous.exists():
            raise CheckpointError(
                f"{error}; there is no checkpoint before it, so remove {run} or pass another --out"
            ) from None
        found = read_checkpoint(previous)
        print(f"{error}; continuing from the checkpoint before it, of update {found[1]['update']}", file=sys.stderr)
        if last.exists():
            os.replace(last, run / "last.pt.damaged")
        os.replace(previous, last)
        return found


def save_best(run: Path, parts: Parts, state: State) -> None:
    """Write best.safetensors: the network's weights; the header holds the configuration and the progress."""
    _save_weights(run / BEST, parts, **vars(state))


def save_kept(run: Path, parts: Parts, state: State) -> None:
    """Write kept/UPDATE.safetensors, as best.safetensors."""
    _save_weights(run / "kept" / f"{state.update:07d}{WEIGHTS}", parts, update=state.update, seconds=state.seconds)


def _save_weights(path: Path, parts: Parts, **rest: Any) -> None:
    if parts.ranks.is_first:
        save_weights(path, parts.config, parts.network, data=parts.data.digest, **parts.model_class, **rest)


def restore(run: Path, parts: Parts, running: RunningMean) -> State:
    """Continue from last.pt: restore weights, optimisers, objective and means in place, and drop later metrics.

    Raises:
        CheckpointError: last.pt is missing, damaged, or of another architecture or an earlier version.
        TrainingError: the utterances of train or dev are not those that the run began with.
    """
    path, metrics = run / "last.pt", run / "metrics.jsonl"
    _, payload = read_checkpoint(path, parts.device)
    if "optimisers" not in payload:
        raise CheckpointError(f"{path}: written by an earlier version, cannot be continued; start a new run")
    if payload.get("data", parts.data.digest) != parts.data.digest:  # runs of earlier versions do not know theirs
        raise TrainingError(
            f"{parts.config.data.manifest}: the utterances of train or dev, or their sounds, are not those that {run} "
            "began with; bring the old manifest back, pass its new place by --data.manifest, or begin a new run"
        )
    restore_weights(parts.network, payload, path)
    try:
        parts.objective.load_state_dict(payload.get("objective", {}))
        for optimiser, saved in zip(parts.optimisers, payload["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        if "running" in payload:  # runs of earlier versions have none
            running.load_state_dict(payload["running"], parts.device)
        update, seconds = int(payload["update"]), float(payload["seconds"])
        # Runs of earlier versions have neither.
        skipped, bad_audio = int(payload.get("skipped", 0)), payload.get("bad_audio", [])
        best = None if payload.get("best_gain") is None else float(payload["best_gain"])
        if not (isinstance(bad_audio, list) and all(isinstance(error, str) for error in bad_audio)):
            raise ValueError("bad_audio is no list of texts")
        if not 0 <= update <= parts.config.train.num_updates:
            raise ValueError(f"update is {update}, of {parts.config.train.num_updates}")
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path}: its state cannot be restored: {reason}") from None
    if parts.ranks.is_first:
        keep_metrics_until(metrics, update)
    if best is None:  # a checkpoint of before this field: look it up
        dev = [line for line in read_metrics(metrics) if line["kind"] == "dev" and line["update"] <= update]
        best = max(map(gain, dev), default=-float("inf"))
    return State(update, seconds, best, skipped, bad_audio)


def begin(run: Path) -> State:
    """Begin a new run in a folder.

    Raises:
        TrainingError: the folder holds a run already, or files of one that are not ours to replace.
    """
    if (run / "last.pt").exists() or (run / PREVIOUS).exists():
        raise TrainingError(
            f"{run}: holds a run already; continue it with `cpc train --resume {run}`, or pass another --out"
        )
    there = [name for name in (BEST, "best.pt", "config.toml", "metrics.jsonl") if (run / name).exists()]
    if there and not _stopped_at_its_start(run):
        them = "it" if len(there) == 1 else "them"
        raise TrainingError(f"{run}: holds {', '.join(there)} without last.pt; pass another --out, or remove {them}")
    return State()


def remove_leftovers(run: Path) -> None:
    """Remove what a run left that stopped before its first checkpoint."""
    # In this order: without metrics.jsonl, the weights would not be known as ours.
    for name in (BEST, "best.pt", "metrics.jsonl"):
        (run / name).unlink(missing_ok=True)


def _stopped_at_its_start(run: Path) -> bool:
    """Whether the files of a folder without last.pt are of a run that stopped before its first checkpoint."""
    path = run / "config.toml"
    if not path.exists():
        return False
    there = read_config(path)
    if path.read_text(encoding="utf-8-sig") != config_text(there):  # somebody's own: ours has every field
        return False
    if not (run / "metrics.jsonl").exists():
        return not best_weights(run).exists()
    reached = max((line["update"] for line in read_metrics(run / "metrics.jsonl")), default=0)
    # The line of an update is written before its checkpoint, which may fail. A finished run had one.
    return bool(reached <= there.train.checkpoint_every and reached < there.train.num_updates)
