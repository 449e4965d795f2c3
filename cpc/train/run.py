"""Start a run, resume it, or bring it to its end."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from cpc.config import (
    Config,
    ConfigError,
    check_config,
    config_to_dict,
    with_absolute_paths,
    without_places,
    write_config,
)
from cpc.data import read_manifest
from cpc.devices import Threads, resolve_device
from cpc.files import difference, locked
from cpc.runs import build_model, locate_checkpoint, read_checkpoint
from cpc.train.callback import Callback, Silent, reporting
from cpc.train.distributed import joined, own_device, was_restarted
from cpc.train.loop import fit
from cpc.train.manifests import is_trained_on, refuse_missing_sounds, refuse_moved_manifest
from cpc.train.metrics import RunningMean
from cpc.train.networks import geometry_of, refuse_unusable
from cpc.train.setup import (
    Parts,
    announce,
    build_data,
    build_parts,
    refuse_short_profile,
    refuse_too_large,
)
from cpc.train.state import begin, read_last, remove_leftovers, restore
from cpc.train.stopping import Flag


def train(
    config: Config,
    run: str | Path,
    *,
    model: nn.Module | None = None,
    on_log: Callback | None = None,
    resume: bool = False,
    profile: bool = False,
    max_hours: float = math.inf,
) -> Path:
    """Train CPC and write config.toml, metrics.jsonl, last.pt and best.safetensors into the run folder.

    Args:
        config: the whole run; its `data.manifest` must have a `split` column with train and dev.
        run: folder of the run.
        model: a network of one's own, trained in place of the one that `encoder` and `autoregressor` describe: a
            `cpc.CPC` of any parts, such as one that `cpc.load` returned, or a torch.nn.Module with the calls of
            `cpc.train.Network`. With Muon, its modules declare their matrices by `linear_maps`. To resume, pass it
            again.
        on_log: is told of the start, each measurement and the end, as `cpc.train.Callback` describes.
        resume: continue from last.pt, as a run that torchrun restarts does anyway; on a CPU the result is bitwise that
            of an uninterrupted run with as many threads.
        profile: time the stages of some early updates, print them, and write trace.json into the run folder.
        max_hours: hours after which the run stops between two updates, and can be resumed.

    Returns:
        The run folder.

    Raises:
        ValueError: one line that says what cannot work, and the way out.
        Stopped: a signal or the time limit stopped the run.
    """
    stop = Flag(max_hours)
    check_config(config)
    config = with_absolute_paths(config)
    run, device = Path(run), own_device(resolve_device(config.device))
    resume = resume or (was_restarted() and (run / "last.pt").exists())
    if model is None:
        refuse_too_large(config)
    else:
        refuse_unusable(model, config)
    torch.manual_seed(config.seed)
    network = build_model(config) if model is None else model
    data = build_data(config, geometry_of(network))
    refuse_missing_sounds(config, (data.train.manifest, data.dev.manifest))
    with (
        Threads(config.threads) as threads,
        joined(device) as ranks,
        locked(run, "run") if ranks.is_first else nullcontext(),
    ):
        trace = run / "trace.json" if profile else None
        parts = build_parts(config, network, data, device, ranks, threads, trace=trace)
        parts = replace(parts, on_log=on_log or Silent(), is_own=model is not None)
        _train(parts, run, stop, resume=resume, profile=profile)
    return run


def _train(parts: Parts, run: Path, stop: Flag, *, resume: bool, profile: bool) -> None:
    """Bring the parts of a run to its end."""
    config, is_first, running = parts.config, parts.ranks.is_first, RunningMean()
    state = restore(run, parts, running) if resume else begin(run)
    if profile:
        refuse_short_profile(config, state.update)
    loader = parts.batches(state.update)
    if is_first:
        run.mkdir(parents=True, exist_ok=True)
        if not resume:
            remove_leftovers(run)
        write_config(config, run / "config.toml")
        announce(parts)
    with reporting(parts.on_log, config, run, state.summary) if is_first else nullcontext():
        fit(parts, state, running, loader, run, stop)


def resume(
    run: str | Path,
    device: str = "auto",
    threads: int | Literal["auto"] = "auto",
    *,
    num_updates: int | None = None,
    moved: Mapping[str, str | Path] = MappingProxyType({}),
    on_log: Callback | None = None,
    profile: bool = False,
    max_hours: float = math.inf,
) -> Path:
    """Continue an interrupted run with its own configuration, or extend a run.

    Args:
        run: folder of the run.
        device: device to continue on; "auto" keeps the run's own.
        threads: threads to continue with; "auto" keeps the run's own setting.
        num_updates: updates in all, more than were made; the learning rate goes on as in a run of that length. None
            keeps the run's own number.
        moved: new places of files that moved, by field: data.manifest, data.cache, loss.labels. Train and dev of the
            manifest must be those that the run began with.
        on_log: as for `train`, which also resumes a run whose model is one's own.
        profile: as for `train`.
        max_hours: as for `train`.

    Raises:
        ValueError, Stopped: as `train`.
    """
    saved, payload = _read_last(Path(run)) or read_checkpoint(locate_checkpoint(run, "last"))
    if num_updates is not None:
        if num_updates <= payload["update"]:
            raise ConfigError(f"train.num_updates: got {num_updates}, but {run} has made {payload['update']}")
        saved = replace(saved, train=replace(saved.train, num_updates=num_updates))
    for field, path in moved.items():
        section, _, name = field.partition(".")
        saved = replace(saved, **{section: replace(getattr(saved, section), **{name: str(path)})})
    refuse_moved_manifest(saved, run, "--data.manifest")
    if device != "auto":
        saved = replace(saved, device=device)
    if threads != "auto":
        saved = replace(saved, threads=threads)
    return train(saved, run, on_log=on_log, resume=True, profile=profile, max_hours=max_hours)


def complete(config: Config, run: str | Path) -> Path:
    """Bring a run to its end, whether it is not begun, interrupted or finished.

    Raises:
        ConfigError: the folder holds a run with other settings; the message names the first that differs.
        ValueError: as `train`.
    """
    last = _read_last(Path(run))
    if last is None:
        return train(config, run)
    saved, payload = last
    changed = difference(config_to_dict(without_places(saved)), config_to_dict(without_places(config)))
    moved = with_absolute_paths(saved).data.manifest != with_absolute_paths(config).data.manifest
    if not changed and moved and not is_trained_on(config, read_manifest(config.data.manifest), payload):
        changed = f"train or dev of {config.data.manifest} are others"
    if changed:
        raise ConfigError(
            f"{run}: holds a run with other settings: {changed}; pass another --out, or the same settings"
        )
    if payload["update"] < config.train.num_updates:
        train(config, run, resume=True)
    return Path(run)


def _read_last(run: Path) -> tuple[Config, dict[str, Any]] | None:
    """Read last.pt, if there is one; of several processes, the first one alone puts another in its place."""
    if os.environ.get("RANK", "0") == "0":
        return read_last(run)
    return read_checkpoint(run / "last.pt") if (run / "last.pt").exists() else None
