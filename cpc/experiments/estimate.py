"""Measure how fast this machine trains and extracts a configuration, on noise in a temporary folder."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cpc.config import Config
from cpc.data import Manifest, scan_folder, write_manifest
from cpc.devices import resolve_device
from cpc.experiments.settings import override
from cpc.features import extract_features, extractor_of_run
from cpc.runs import read_metrics
from cpc.train import train

_FILE_SECONDS = 13  # about the mean length in LibriSpeech
_EXTRACTED = 2  # files
_SMALL, _LARGE = 2, 8  # windows


@dataclass(frozen=True)
class Speed:
    """The measured speed."""

    update_seconds: float
    """Seconds of one training update, including the reading of files."""
    extraction: float
    """Seconds of audio extracted per second, from files to frames on disk."""


def measure_speed(config: Config) -> Speed:
    """Train for some updates and extract c, as the commands do.

    A long run on a GPU is compiled and this one is not, so the long run will be faster.

    Args:
        config: the run to measure; its manifest is not read.

    Raises:
        ValueError: as `train`.
    """
    device = resolve_device(config.device)
    wanted = config.batches.num_windows
    # One batch of the paper takes a CPU half a minute, so measure two small ones and extrapolate: the networks' time is
    # proportional to the number of windows, that of the scores to its square.
    sizes = [wanted] if device.type != "cpu" or wanted <= _LARGE else [_SMALL, _LARGE]
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(temporary)
        manifest = _write_noise(folder / "audio", config)
        seconds = [_time_update(config, manifest, size, device, folder / f"run-{size}") for size in sizes]
        update_seconds = seconds[0]
        if len(sizes) > 1:
            small, large = (time / size for time, size in zip(seconds, sizes, strict=True))  # of a window: a + b n
            slope = max(0.0, (large - small) / (sizes[1] - sizes[0]))
            update_seconds = wanted * (large + slope * (wanted - sizes[1]))

        extractor = extractor_of_run(folder / f"run-{sizes[0]}", "c", device=device)
        if device.type != "cpu":
            extract_features(extractor, manifest, folder / "warm-up")
        started = time.perf_counter()
        first = manifest.keep(np.arange(len(manifest)) < _EXTRACTED)
        extract_features(extractor, first, folder / "timed")
        extraction = _EXTRACTED * _FILE_SECONDS / (time.perf_counter() - started)
    return Speed(update_seconds, extraction)


def _time_update(config: Config, manifest: Manifest, num_windows: int, device: torch.device, run: Path) -> float:
    """Measure the seconds of the fastest of some updates, leaving out the first."""
    num_updates = 3 if device.type == "cpu" else 12
    changes = {
        "batches.num_windows": num_windows,
        "data.manifest": str(manifest.root / "manifest.csv"),
        "data.cache": "",
        # A few updates do not pay for starting processes that read files.
        "data.workers": 0 if device.type == "cpu" else config.data.workers,
        "train.num_updates": num_updates,
        "train.log_every": 1,
        "train.validate_every": num_updates,
        "train.validate_batches": 1,
    }
    train(override(config, changes, where="measure_speed"), run)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    audio_seconds = num_windows * config.data.window_samples / config.audio.sample_rate
    return float(audio_seconds / max(line["audio_seconds_per_second"] for line in lines[1:]))


def _write_noise(folder: Path, config: Config) -> Manifest:
    """Write a corpus of noise that is large enough for some batches of any kind."""
    rate = config.audio.sample_rate
    windows_per_file = max(1, _FILE_SECONDS * rate // config.data.window_samples)
    num_files = max(_EXTRACTED, -(-2 * config.batches.num_windows // windows_per_file))
    rng = np.random.default_rng(0)
    for i in range(2 * num_files):  # the second half is dev
        path = folder / f"{i % 4}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((3000 * rng.standard_normal(_FILE_SECONDS * rate)).astype("<i2").tobytes())
    manifest = scan_folder(folder, speaker="{speaker}/*", progress=False).manifest
    splits = ["train" if int(utterance) < num_files else "dev" for utterance in manifest.utterances]
    manifest = manifest.with_column("split", splits)
    write_manifest(manifest, folder / "manifest.csv")
    return manifest
