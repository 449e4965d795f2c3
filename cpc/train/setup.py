"""Build every part of a training run from its configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from cpc.config import AugmentConfig, Config, ConfigError
from cpc.data import (
    Batch,
    BatchSampler,
    Composition,
    Manifest,
    WindowOptions,
    Windows,
    collate,
    count_left_out,
    epoch_batches,
    read_manifest,
    refuse_leaks,
)
from cpc.devices import Precision, Threads, keep_freed_buffers, physical_memory, resolve_precision
from cpc.infonce import Rule
from cpc.labels import FrameGrid, Targets
from cpc.model import CPC, Geometry
from cpc.runs import build_model
from cpc.train.callback import Callback, Silent
from cpc.train.distributed import Ranks
from cpc.train.manifests import columns_of, digest_of
from cpc.train.networks import geometry_of
from cpc.train.objectives import build_objective
from cpc.train.optim import build_optimisers
from cpc.train.timing import NUM_UPDATES, Profile
from cpc.versions import versions


@dataclass(frozen=True)
class Data:
    """The training data.

    Attributes:
        train: windows of the train split.
        dev: windows of the dev split.
        classes: names of the classes of the windows' targets; empty without targets.
        notes: what takes no part in training, in words.
    """

    train: Windows
    dev: Windows
    classes: list[str]
    notes: list[str]

    @property
    def num_files(self) -> int:
        """The utterances of both splits."""
        return len(self.train.manifest) + len(self.dev.manifest)

    @cached_property
    def digest(self) -> str:
        """Identify the utterances of both splits by their content; every checkpoint holds it."""
        return digest_of((self.train.manifest, self.dev.manifest), self.train.options.columns)


@dataclass(frozen=True)
class Parts:
    """All that an update needs.

    Attributes:
        config: the run.
        device: where the networks compute.
        precision: type of the networks' products.
        ranks: the processes that train together.
        network: g_enc, g_ar and W_k.
        objective: the loss, a module.
        trained: network and objective.
        optimisers: each parameter belongs to one.
        data: windows of both splits.
        composition: which windows share a batch.
        dev_batches: indices of the windows of each dev batch.
        profile: stopwatch of the stages.
        threads: of torch on a CPU.
        on_log: hears of the measurements.
        is_own: whether the network is a model of the user's.
    """

    config: Config
    device: torch.device
    precision: Precision
    ranks: Ranks
    network: nn.Module
    objective: nn.Module
    trained: nn.Module
    optimisers: list[torch.optim.Optimizer]
    data: Data
    composition: Composition
    dev_batches: list[list[int]]
    profile: Profile
    threads: Threads
    on_log: Callback = Silent()  # noqa: RUF009  (it has no state)
    is_own: bool = False

    @property
    def geometry(self) -> Geometry:
        """Where the frames lie."""
        return geometry_of(self.network)

    @property
    def model_class(self) -> dict[str, str]:
        """What a checkpoint says of a model of the user's: its class, by module and name."""
        kind = type(self.network)
        return {"model_class": f"{kind.__module__}.{kind.__qualname__}"} if self.is_own else {}

    @property
    def environment(self) -> dict[str, Any]:
        """Where the run computes, as plain values for its metrics."""
        return {
            "processes": self.ranks.size,
            "threads": self.threads.count,
            "device": str(self.device),
            "precision": self.precision,
            "versions": versions() | {"torch": torch.__version__},
            **self.model_class,
        }

    def draw_seed(self, update: int, i: int) -> int:
        """Return the seed of the random draws of an update's batch i: another one for each update, rank and batch."""
        accumulate = self.config.batches.accumulate
        number = (update * self.ranks.size + self.ranks.rank) * accumulate + i
        # Modulo 2^64, the range of torch's generators. Runs with seeds below 2^32 never share a draw.
        return ((self.config.seed << 32) + number) % 2**64

    def batches(self, first: int) -> DataLoader[Batch]:
        """Load the batches of the updates after `first`.

        Raises:
            BatchError: the windows do not fill one batch.
        """
        sampler = BatchSampler(
            self.data.train,
            self.composition,
            first,
            self.config.train.num_updates,
            rank=self.ranks.rank,
            num_ranks=self.ranks.size,
            accumulate=self.config.batches.accumulate,
        )
        next(iter(sampler), None)  # refuse a composition that cannot be filled before anything is written
        return DataLoader(
            self.data.train,  # type: ignore[arg-type]  # collate makes a Batch of the data set's windows
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.config.data.workers,
            pin_memory=self.device.type == "cuda",
        )


def refuse_too_large(config: Config) -> None:
    """Refuse a run that this machine's memory cannot hold, before any of it is taken.

    A parameter takes 16 bytes with its gradient and Adam's two means; a batch is counted once, as float32. Activations
    come on top, so what passes may still be too large.

    Raises:
        ConfigError: with the figures.
    """
    try:
        with torch.device("meta"):  # shapes without memory; the log-mel front end needs numbers, and is smaller
            network = build_model(replace(config, encoder=replace(config.encoder, kind="conv")))
        count = sum(p.numel() for p in network.parameters())
    except RuntimeError as error:  # sizes beyond 64 bits
        raise ConfigError(f"encoder, autoregressor: no memory holds these sizes ({error})") from None
    batch = 4 * config.batches.num_windows * config.data.window_samples
    needed, there = 16 * count + batch, physical_memory()
    if needed > there:
        raise ConfigError(
            f"the run needs {needed / 1e9:,.0f} GB at least: {16 * count / 1e9:,.1f} for {count:,} parameters and "
            f"{batch / 1e9:,.1f} for a batch; this machine has {there / 1e9:,.0f}. Lower encoder.channels, "
            "autoregressor.hidden, batches.num_windows or data.window_samples"
        )


def build_data(config: Config, geometry: Geometry) -> Data:
    """Open the train and the dev split of the manifest.

    Raises:
        ConfigError: no manifest, or windows that are too short for the predicted steps.
        ValueError: a manifest, sound files or labels that cannot be used.
    """
    if not config.data.manifest:
        raise ConfigError("data.manifest: got none; pass --data.manifest with a CSV made by `cpc manifest`")
    num_frames, num_steps = geometry.num_frames(config.data.window_samples), config.criterion.num_steps
    if num_frames <= num_steps:
        raise ConfigError(
            f"data.window_samples: {config.data.window_samples} give {num_frames} frames, expected more than "
            f"criterion.num_steps = {num_steps}"
        )
    manifest = read_manifest(config.data.manifest)
    refuse_leaks(manifest, by="utterance")
    train, dev = manifest.select("train"), manifest.select("dev")
    # CPC learns nothing from labels; with them, it logs how many negatives are of the positive's phone.
    target = {"supervised": config.loss.target, "sup_con": config.loss.target, "cpc": "phone"}.get(config.loss.name)
    if target is None or (config.loss.name == "cpc" and not config.loss.labels):
        return Data(_windows(config, geometry, train, "train"), _windows(config, geometry, dev, "dev"), [], [])
    grid = FrameGrid(
        sample_rate=config.audio.sample_rate,
        hop_samples=geometry.hop_samples,
        first_centre_samples=geometry.first_centre_samples,
        num_frames=num_frames,
        num_valid_frames=partial(num_valid_frames, geometry, config.data.window_samples),
    )
    targets = Targets(target, config.loss.labels, train, dev, grid)
    train_windows = _windows(config, geometry, train, "train", targets.in_split(train))
    dev_windows = _windows(config, geometry, dev, "dev", targets.in_split(dev))
    return Data(train_windows, dev_windows, targets.classes, targets.notes)


def _windows(
    config: Config,
    geometry: Geometry,
    split: Manifest,
    name: str,
    targets: Callable[[int, int, int], NDArray[np.int64]] | None = None,
) -> Windows:
    """Windows of one split."""
    options = WindowOptions(
        window_samples=config.data.window_samples,
        sample_rate=config.audio.sample_rate,
        resample=config.audio.resample,
        normalise=config.audio.normalise,
        short=config.data.short,
        min_samples=geometry.min_samples(config.criterion.num_steps + 1),  # step K of the first anchor must be whole
        seed=config.seed,
        columns=columns_of(config, split),
        cache_megabytes=config.data.cache_megabytes,
        cache=Path(config.data.cache) / name if config.data.cache else "",
        on_bad_audio=config.data.on_bad_audio,
        augment=config.augment if name == "train" else AugmentConfig(),  # dev stays comparable between runs
    )
    return Windows(split, options, targets)


def num_valid_frames(geometry: Geometry, window_samples: int, num_samples: int) -> int:
    """Return the number of frames of a window that see no padding, if `num_samples` of it come from the file."""
    if num_samples == window_samples:
        return geometry.num_frames(num_samples)
    return geometry.num_complete_frames(num_samples)


def build_parts(
    config: Config,
    network: nn.Module,
    data: Data,
    device: torch.device,
    ranks: Ranks,
    threads: Threads,
    *,
    trace: Path | None = None,
) -> Parts:
    """Build the parts of a run around its network and data.

    Args:
        config: the run.
        network: with the weights that training starts from.
        data: both splits.
        device: where to compute.
        ranks: the processes that train together.
        threads: of torch on a CPU.
        trace: path of the profile's trace; None does not profile.
    """
    precision = resolve_precision(config.precision, device)
    if device.type == "cpu":
        keep_freed_buffers()
    network = network.to(device)
    objective = build_objective(config, network, data.classes).to(device)
    trained = nn.ModuleList([network, objective])
    ranks.share(trained)
    optimisers = build_optimisers(trained, config.optim, torch.bfloat16 if precision == "bf16" else torch.float32)
    composition = Composition(
        config.batches.kind,
        config.batches.num_windows,
        config.batches.windows_per_group,
        config.seed,
        several_utterances=_needs_several_utterances(config),
    )
    dev_batches = epoch_batches(data.dev, 0, composition, shrink=True)[: config.train.validate_batches]
    profile = Profile(trace if ranks.is_first else None, device)
    if isinstance(network, CPC):
        profile.watch(network.W, "predictor", "criterion")
    return Parts(
        config=config,
        device=device,
        precision=precision,
        ranks=ranks,
        network=network,
        objective=objective,
        trained=trained,
        optimisers=optimisers,
        data=data,
        composition=composition,
        dev_batches=[batch.tolist() for batch in dev_batches],
        profile=profile,
        threads=threads,
    )


def refuse_short_profile(config: Config, first: int) -> None:
    """Refuse to profile a run that ends before its profile would.

    Raises:
        ConfigError: too few updates to go.
    """
    if config.train.num_updates - first < NUM_UPDATES:
        raise ConfigError(
            f"profile: {config.train.num_updates - first} updates to go, it needs {NUM_UPDATES}; profile a longer run"
        )


def announce(parts: Parts) -> None:
    """Print what is about to run, and what was left out."""
    config, data = parts.config, parts.data
    num_parameters = sum(p.numel() for p in parts.network.parameters())
    lines = [
        f"train: {len(data.train)} windows an epoch of {len(data.train.manifest)} utterances; dev: {len(data.dev)} "
        f"windows, {len(parts.dev_batches)} batches used; {num_parameters:,} parameters on {parts.device} in "
        f"{parts.precision}"
    ]
    several = {"processes": parts.ranks.size, "batches": config.batches.accumulate}
    if max(several.values()) > 1:
        times = "".join(f"{count} {name} × " for name, count in several.items() if count > 1)
        lines.append(
            f"train: {times}{config.batches.num_windows} windows an update; negatives come from the windows of a batch"
        )
    for name, windows in (("train", data.train), ("dev", data.dev)):
        if windows.num_skipped:
            lines.append(
                f"{name}: {windows.num_skipped} utterances are too short and left out "
                f'(data.short = "{config.data.short}")'
            )
        left_out = count_left_out(windows, parts.composition, shrink=name == "dev")
        if left_out.most:
            lines.append(f"{name}: {left_out}")
    print("\n".join([*lines, *data.notes]), file=sys.stderr)


def _needs_several_utterances(config: Config) -> bool:
    """Whether each group of windows must come from several utterances, so that every anchor has a negative."""
    rules = [Rule.of(of) for of in config.criterion.sets]
    excludes = any("speaker" in rule.same and "utterance" in rule.different for rule in rules)
    return config.loss.name == "cpc" and excludes and config.batches.kind == "by_speaker"
