"""How fast this machine is on a configuration: a few updates and some extraction, on noise in a temporary folder."""

from __future__ import annotations

import contextlib
import dataclasses
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
from cpc.features import extract_features, extractor_of_run
from cpc.runs import read_metrics
from cpc.train import train

_FILE_SECONDS = 13  # about LibriSpeech's mean
_EXTRACTED = 8  # files
_LARGE = 16  # windows


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        update_seconds: of one update of training, reading of files included.
        extraction: seconds of audio a second, files to frames on disk.
    """

    update_seconds: float
    extraction: float


def measure_speed(config: Config) -> Speed:
    """Train for some updates and extract c, as the commands do.

    On a GPU a long run is compiled, which this one is not: it will be faster than said here.

    Args:
        config: what is to be trained; its manifest is not looked at.

    Raises:
        ValueError: as `train`.
    """
    device = resolve_device(config.device)
    wanted = config.batches.num_windows
    # A whole batch of the paper's takes a CPU half a minute. Networks cost in proportion to it, scores to its square.
    tried = [wanted] if device.type != "cpu" or wanted <= _LARGE else [_LARGE // 2, _LARGE]
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stderr(io.StringIO()):
        folder = Path(temporary)
        table = _noise(folder / "audio", config)
        seconds = [_update(config, table, num_windows, device, folder / f"run-{num_windows}") for num_windows in tried]
        update_seconds = seconds[0]
        if len(tried) > 1:
            small, large = (time / n for time, n in zip(seconds, tried, strict=True))  # a window; a + b n
            slope = max(0.0, (large - small) / (tried[1] - tried[0]))
            update_seconds = wanted * (large + slope * (wanted - tried[1]))

        extractor = extractor_of_run(folder / f"run-{tried[0]}", "c", device=device)
        if device.type != "cpu":
            extract_features(extractor, table, folder / "warm")
        started = time.perf_counter()
        extract_features(extractor, Manifest(table.root, table.table.head(_EXTRACTED)), folder / "timed")
        extraction = _EXTRACTED * _FILE_SECONDS / (time.perf_counter() - started)
    return Speed(update_seconds, extraction)


def _update(config: Config, table: Manifest, num_windows: int, device: torch.device, run: Path) -> float:
    """Seconds of the fastest of some updates but the first."""
    num_updates = 3 if device.type == "cpu" else 12
    short = dataclasses.replace(
        config,
        batches=dataclasses.replace(config.batches, num_windows=num_windows),
        data=dataclasses.replace(config.data, manifest=str(table.root / "manifest.csv"), cache=""),
        train=dataclasses.replace(
            config.train, num_updates=num_updates, log_every=1, validate_every=num_updates, validate_batches=1
        ),
    )
    train(short, run)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    audio_seconds = num_windows * config.data.window_samples / config.audio.sample_rate
    return float(audio_seconds / max(line["audio_seconds_per_second"] for line in lines[1:]))


def _noise(folder: Path, config: Config) -> Manifest:
    """A corpus of noise, large enough for some batches of any kind."""
    rate = config.audio.sample_rate
    windows_a_file = max(1, _FILE_SECONDS * rate // config.data.window_samples)
    num_files = max(_EXTRACTED, -(-2 * config.batches.num_windows // windows_a_file))
    rng = np.random.default_rng(0)
    for i in range(2 * num_files):  # the second half is dev
        path = folder / f"{i % 4}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes((3000 * rng.standard_normal(_FILE_SECONDS * rate)).astype("<i2").tobytes())
    table = scan_folder(folder, speaker="{speaker}/*", progress=False).manifest
    number = table.table["utterance"].astype(int)
    table = Manifest(table.root, table.table.assign(split=np.where(number < num_files, "train", "dev")))
    write_manifest(table, folder / "manifest.csv")
    return Manifest(folder, table.table)
