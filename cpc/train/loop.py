"""Training: one linear `train(config, run)`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cpc.config import Config, ConfigError, write_config
from cpc.data import Batch, BatchSampler, Windows, collate, epoch_batches, num_left_out, read_manifest, refuse_leaks
from cpc.devices import keep_freed_buffers, resolve_device, resolve_precision
from cpc.infonce import bound_kind
from cpc.model import CPC, Geometry, recomputing
from cpc.runs import (
    CheckpointError,
    append_metrics,
    build_model,
    keep_metrics_until,
    read_checkpoint,
    restore_weights,
    save_checkpoint,
)
from cpc.train.distributed import Ranks, joined, own_device
from cpc.train.metrics import RunningMean
from cpc.train.objectives import Result, Views, build_objective
from cpc.train.optim import build_optimisers, learning_rate
from cpc.train.timing import NUM_UPDATES, Profile

# A loss this close to log N, in nats, has learned nothing: it guesses.
_STUCK_NATS = 0.05


class TrainingError(ValueError):
    """A run that cannot start or go on."""


def train(config: Config, run: str | Path, *, resume: bool = False, profile: bool = False) -> Path:
    """Train CPC and write config.toml, metrics.jsonl, last.pt and best.pt into the run folder.

    Args:
        config: the whole run; its `data.manifest` must have a `split` column with train and dev.
        run: folder of the run.
        resume: go on from last.pt; on a CPU the result is bitwise that of an uninterrupted run.
        profile: time the stages of some early updates, print them, and write trace.json into the run folder.

    Returns:
        The run folder.

    Raises:
        ValueError: one line: what cannot work and the way out.
    """
    device = own_device(resolve_device(config.device))
    geometry = Geometry.of(config.encoder.strides, config.encoder.padding)
    windows = _windows(config, geometry)
    with joined(device) as ranks:
        return _train(config, Path(run), *windows, geometry, device, ranks, resume=resume, profile=profile)


def _train(
    config: Config, run: Path, train_windows: Windows, dev_windows: Windows, geometry: Geometry,
    device: torch.device, ranks: Ranks, *, resume: bool, profile: bool,
) -> Path:  # fmt: skip
    """`train`, as one of the processes that take part."""
    precision = resolve_precision(config.precision, device)
    if device.type == "cpu":
        keep_freed_buffers()
    torch.manual_seed(config.seed)
    network = build_model(config).to(device)
    objective = build_objective(config, network, train_windows, dev_windows).to(device)
    trained = nn.ModuleList([network, objective])
    ranks.share(trained)
    optimisers = build_optimisers(
        trained, config.optim.name, lr=config.optim.lr, betas=config.optim.betas, eps=config.optim.eps,
        weight_decay=config.optim.weight_decay, momentum=config.optim.momentum,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )  # fmt: skip
    first, best_loss, seconds_before = 0, float("inf"), 0.0
    last_path, metrics_path = run / "last.pt", run / "metrics.jsonl"
    if resume:
        _, payload = read_checkpoint(last_path, device)
        if "optimisers" not in payload:
            raise CheckpointError(f"{last_path}: of an earlier version, cannot be continued; start a new run")
        restore_weights(network, payload, last_path)
        objective.load_state_dict(payload.get("objective", {}))
        for optimiser, state in zip(optimisers, payload["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        first, best_loss, seconds_before = payload["update"], payload["best_loss"], payload["seconds"]
        if ranks.is_first:
            keep_metrics_until(metrics_path, first)
    elif last_path.exists():
        raise TrainingError(
            f"{run}: holds a run already; continue it with `cpc train --resume {run}`, or pass another --out"
        )

    composition: dict[str, Any] = {
        "kind": config.batches.kind, "num_windows": config.batches.num_windows,
        "windows_per_group": config.batches.windows_per_group, "seed": config.seed,
        "several_utterances": _needs_several_utterances(config),
    }  # fmt: skip
    sampler = BatchSampler(
        train_windows, first, config.train.num_updates, **composition,
        rank=ranks.rank, num_ranks=ranks.size,
    )  # fmt: skip
    loader = DataLoader(
        train_windows, batch_sampler=sampler, collate_fn=collate, num_workers=config.data.workers,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    dev_batches = epoch_batches(dev_windows, 0, **composition, shrink=True)[: config.train.validate_batches]
    if profile and config.train.num_updates - first < NUM_UPDATES:
        raise ConfigError(
            f"profile: {config.train.num_updates - first} updates to go, it needs {NUM_UPDATES}; profile a longer run"
        )
    next(iter(sampler), None)  # a composition that cannot be filled is refused before anything is written
    if ranks.is_first:
        run.mkdir(parents=True, exist_ok=True)
        if not resume:
            for leftover in (metrics_path, run / "best.pt"):  # of a run that was stopped before its first checkpoint
                leftover.unlink(missing_ok=True)
        write_config(config, run / "config.toml")
        _announce(config, train_windows, dev_windows, len(dev_batches), device, precision, network, ranks.size)
        for note in getattr(getattr(objective, "targets", None), "notes", []):
            print(note, file=sys.stderr)

    compiles = config.compile == "on" or (
        config.compile == "auto" and device.type == "cuda" and config.train.num_updates - first >= 2000
    )
    stages = Profile(run / "trace.json" if profile and ranks.is_first else None, device)
    encode = torch.compile(network.g_enc, dynamic=False) if compiles else network.g_enc
    if config.recompute:
        encode = recomputing(encode, config.recompute)

    def score(batch: Batch, windows: Windows, seed: int) -> Result:
        """The objective of one batch."""
        waveforms = batch.waveforms.to(device, non_blocking=True)  # (B, S)
        stages.mark("data")
        num_frames = [
            geometry.num_frames(n) if n == config.data.window_samples else geometry.num_complete_frames(n)
            for n in batch.num_samples
        ]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            z: Tensor = encode(waveforms)  # (B, T, D_z)
            stages.mark("encoder")
            c = network.g_ar(z)  # (B, T, D_c)
            stages.mark("autoregressor")
            result: Result = objective(network, Views(waveforms, z, c, num_frames, batch, windows, seed), stages)
        stages.mark_gradient(z, "autoregressor")
        stages.mark("criterion")
        return result

    def validate() -> RunningMean:
        """Mean over the same dev windows and negatives every time."""
        mean = RunningMean()
        trained.eval()
        stages.pause()
        with torch.no_grad():
            for i, indices in enumerate(dev_batches):
                mean.add(score(collate([dev_windows[0, int(index)] for index in indices]), dev_windows, seed=i))
        trained.train()
        stages.go_on()
        return mean

    def save(path: Path, **rest: Any) -> None:
        """Write a checkpoint, if this is the process that does."""
        if ranks.is_first:
            save_checkpoint(path, config, network, **rest)

    bound = {}
    if config.loss.name == "cpc":
        bound = {"bound_kind": bound_kind(config.criterion.scheme, config.batches.kind)}
    num_windows = config.batches.num_windows * ranks.size
    audio_seconds = num_windows * config.data.window_samples / config.audio.sample_rate  # an update
    started, running, logged, logged_at = time.monotonic(), RunningMean(), first, time.monotonic()
    trained.train()
    bar = tqdm(
        total=config.train.num_updates, initial=first, unit="update", desc="train", dynamic_ncols=True,
        disable=not ranks.is_first,
    )  # fmt: skip
    with bar, _finish_update_on_signal() as stop:
        for update, batch in enumerate(loader, start=first + 1):  # update: how many will be done
            lr = learning_rate(
                update - 1, lr=config.optim.lr, warmup_updates=config.optim.warmup_updates,
                num_updates=config.train.num_updates, schedule=config.optim.schedule,
            )  # fmt: skip
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = lr
            if summary := stages.next_update():
                bar.write(summary, file=sys.stderr)
            result = score(batch, train_windows, seed=(config.seed << 32) + update * ranks.size + ranks.rank)
            trained.zero_grad(set_to_none=True)
            result["loss"].backward()  # type: ignore[no-untyped-call]
            stages.mark("encoder", "backward")
            ranks.average_gradients(trained)
            if config.optim.clip_norm:
                torch.nn.utils.clip_grad_norm_(trained.parameters(), config.optim.clip_norm)
            for optimiser in optimisers:
                optimiser.step()
            stages.mark("optimiser")
            running.add(result)
            bar.update()

            is_last = update == config.train.num_updates
            is_due = update % config.train.log_every == 0 or is_last
            # All ranks stop after the same update: several agree on it when they log, one alone stops at once.
            stopping = (is_due or ranks.size == 1) and ranks.any(bool(stop), device)
            if is_due or stopping:
                now = time.monotonic()
                line = {
                    "kind": "train", "update": update, "seconds": seconds_before + now - started, "lr": lr,
                    "audio_seconds_per_second": (update - logged) * audio_seconds / (now - logged_at),
                    **bound, **running.take(ranks.average),
                }  # fmt: skip
                if not line["loss"] < float("inf"):
                    raise TrainingError(
                        f"{run}: loss is {line['loss']} at update {update}; lower --optim.lr or set "
                        "--optim.clip-norm; last.pt is from before"
                    )
                if ranks.is_first:
                    append_metrics(metrics_path, line)
                    _warn_if_stuck(config, update, line, bar)
                logged, logged_at = update, now
                bar.set_postfix_str(
                    f"loss {line['loss']:.3f} of {line['log_n']:.2f}, accuracy {line['accuracy']:.3f}, "
                    f"{line['audio_seconds_per_second']:.0f} audio-s/s"
                )
            if update % config.train.validate_every == 0 or is_last:
                line = {
                    "kind": "dev", "update": update, "seconds": seconds_before + time.monotonic() - started,
                    **bound, **validate().take(),
                }  # fmt: skip
                if ranks.is_first:
                    append_metrics(metrics_path, line)
                    bar.write(
                        f"update {update}: dev loss {line['loss']:.3f} of log N = {line['log_n']:.3f}, "
                        f"accuracy {line['accuracy']:.3f}", file=sys.stderr,
                    )  # fmt: skip
                if line["loss"] < best_loss:
                    best_loss = line["loss"]
                    save(run / "best.pt", objective=objective.state_dict(), update=update, best_loss=best_loss)
                logged_at = time.monotonic()  # the pass over dev is no training time
            if config.train.keep_every and update % config.train.keep_every == 0:
                seconds = seconds_before + time.monotonic() - started
                save(run / "kept" / f"{update:07d}.pt", update=update, seconds=seconds)
            if update % config.train.checkpoint_every == 0 or is_last or stopping:
                save(
                    last_path, objective=objective.state_dict(),
                    optimisers=[optimiser.state_dict() for optimiser in optimisers],
                    update=update, best_loss=best_loss, seconds=seconds_before + time.monotonic() - started,
                )  # fmt: skip
            stages.mark("other")
            if stopping and not is_last:
                raise KeyboardInterrupt(f"stopped after update {update}; continue with `cpc train --resume {run}`")
    return run


def complete(config: Config, run: str | Path) -> Path:
    """Bring a run to its end, from wherever it stands: not begun, interrupted, or finished already.

    Raises:
        ConfigError: if the folder holds a run with other settings.
        ValueError: as `train`.
    """
    last_path = Path(run) / "last.pt"
    if not last_path.exists():
        return train(config, run)
    saved, payload = read_checkpoint(last_path)
    if saved != config:
        raise ConfigError(f"{run}: holds a run with other settings; pass another --out, or the same settings")
    if payload["update"] < config.train.num_updates:
        train(config, run, resume=True)
    return Path(run)


def _windows(config: Config, geometry: Geometry) -> tuple[Windows, Windows]:
    """Windows of the train and the dev split."""
    if not config.data.manifest:
        raise ConfigError("data.manifest: got none; pass --data.manifest with a CSV made by `cpc manifest`")
    num_frames = geometry.num_frames(config.data.window_samples)
    if num_frames <= config.criterion.num_steps:
        raise ConfigError(
            f"data.window_samples: {config.data.window_samples} give {num_frames} frames, expected more than "
            f"criterion.num_steps = {config.criterion.num_steps}"
        )
    table = read_manifest(config.data.manifest)
    refuse_leaks(table, by="utterance")
    # The last frame that step K of the first anchor needs must be whole.
    end_of_first = geometry.receptive_field_samples - geometry.left_padding_samples
    min_samples = end_of_first + config.criterion.num_steps * geometry.hop_samples

    def windows(split: str) -> Windows:
        return Windows(
            table.select(split), window_samples=config.data.window_samples, sample_rate=config.audio.sample_rate,
            resample=config.audio.resample, normalise=config.audio.normalise, short=config.data.short,
            min_samples=min_samples, seed=config.seed, cache_megabytes=config.data.cache_megabytes,
            cache=Path(config.data.cache) / split if config.data.cache else "",
        )  # fmt: skip

    return windows("train"), windows("dev")


def _announce(
    config: Config, train: Windows, dev: Windows, num_dev_batches: int,
    device: torch.device, precision: str, network: CPC, num_ranks: int,
) -> None:  # fmt: skip
    """Say what is about to run, and what was left out."""
    num_parameters = sum(p.numel() for p in network.parameters())
    print(
        f"train: {len(train)} windows an epoch of {len(train.manifest)} utterances; dev: {len(dev)} windows, "
        f"{num_dev_batches} batches used; {num_parameters:,} parameters on {device} in {precision}",
        file=sys.stderr,
    )
    if num_ranks > 1:
        print(
            f"train: {num_ranks} processes × {config.batches.num_windows} windows an update; negatives come from a "
            "process's own", file=sys.stderr,
        )  # fmt: skip
    for name, windows in (("train", train), ("dev", dev)):
        if windows.num_skipped:
            print(
                f"{name}: {windows.num_skipped} utterances are too short and left out (data.short = "
                f'"{config.data.short}")', file=sys.stderr,
            )  # fmt: skip
    several = _needs_several_utterances(config)
    for name, windows in (("train", train), ("dev", dev)):
        left_out = num_left_out(
            windows, config.batches.kind, config.batches.windows_per_group, several_utterances=several
        )
        if left_out:
            print(
                f"{name}: {left_out} windows are never drawn: their speaker or utterance has fewer than "
                f"batches.windows_per_group = {config.batches.windows_per_group}"
                + (", or their speaker one utterance only" if several else ""), file=sys.stderr,
            )  # fmt: skip


def _needs_several_utterances(config: Config) -> bool:
    """Whether each group of windows must come from several utterances, so that every anchor has a negative."""
    return config.loss.name == "cpc" and config.criterion.scheme == "same_speaker_excl" and (
        config.batches.kind == "by_speaker"
    )  # fmt: skip


def _warn_if_stuck(config: Config, update: int, line: dict[str, object], bar: tqdm) -> None:
    """Say so once if the run is still guessing well after its warm-up."""
    patience = config.optim.warmup_updates + 200
    is_due = update >= patience > update - config.train.log_every
    loss, log_n = line["loss"], line["log_n"]
    assert isinstance(loss, float)
    assert isinstance(log_n, float)
    if is_due and loss > log_n - _STUCK_NATS:
        bar.write(
            f"warning: after {update} updates the loss {loss:.3f} is still that of a guess, {log_n:.3f}: nothing is "
            "learned yet. What moved it before: --audio.normalise utterance, a higher --optim.lr"
            + (", --criterion.tau sqrt_dim" if config.loss.name == "cpc" else ""),
            file=sys.stderr,
        )


class _Flag:
    """Set once a signal asked the run to stop."""

    def __init__(self) -> None:
        self.is_set = False

    def __bool__(self) -> bool:
        return self.is_set


@contextmanager
def _finish_update_on_signal() -> Iterator[_Flag]:
    """Turn Ctrl-C and SIGTERM into a flag, so that a run stops between updates with everything saved."""
    flag = _Flag()

    def raise_flag(*_: object) -> None:
        flag.is_set = True

    try:
        previous = {s: signal.signal(s, raise_flag) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals reach the main thread alone; elsewhere the caller handles them
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
