"""What a sample of a run's sound files, and z and c of them, tell about it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cpc.config import Config
from cpc.data import Manifest, Windows, read_audio
from cpc.experiments.symptoms import judge
from cpc.report import Finding
from cpc.runs import load
from cpc.train import Data

Frames = NDArray[np.float32]  # (N, D)

# Half from train, half from dev. A window of each gives 7500 frames, many times the dimensions of z and c.
_NUM_UTTERANCES = 60
_MAX_SECONDS = 10.0  # of each file, so that an hour of sound in one file costs no more
# Trained presets have 9 to 27 dimensions, and half of the power or more is variance.
_MIN_RANK = 2.0
_MIN_VARIANCE = 1e-3  # share of the power
_CONSTANT = 1e-3  # a unit is constant if its deviation is below this share of the root mean square of all units
_MAX_CONSTANT_UNITS = 0.1  # share of the units; the presets have none
_FULL_SCALE = 0.999  # the largest 16-bit sample is 0.99997
_MAX_CLIPPED = 1e-3  # share of a file's samples; a file that merely peaks at full scale has a few there
_SILENCE = 0.01  # a frame is silent if its deviation is 40 dB below that of its file
_MAX_SILENT = 0.5  # share of the frames; minispeech has none, english40 8 %
_MAX_OFFSET = 0.25  # of a file's standard deviation; both corpora stay below 0.09
_MAX_BAD_FILES = 0.1  # share of the sampled files; single ones do not spoil a run
_MAX_LEVEL_RANGE_DB = 10.0  # between the 5 % quietest and the 5 % loudest files, if waveforms are not normalised


# --- sound files


class Sound(NamedTuple):
    """What is measured of a sound file."""

    clipped: float  # share of the samples at full scale
    silent: float  # share of the frames of 10 ms
    offset: float  # |mean|, in standard deviations
    level_db: float  # root mean square, of full scale


def check_audio(data: Data, config: Config) -> list[Finding]:
    """Check a sample of the files for clipping, silence and offsets; and for levels, unless they are normalised."""
    sounds = [measure(split.manifest, row) for split in (data.train, data.dev) for row in _sample(split)]
    clipped, silent, offset, level_db = (np.array(column) for column in zip(*sounds, strict=True))
    many = f"of {len(sounds)} sampled files"
    num_clipped, num_offset = int((clipped > _MAX_CLIPPED).sum()), int((offset > _MAX_OFFSET).sum())
    low, high = np.percentile(level_db[np.isfinite(level_db)] if np.isfinite(level_db).any() else [0.0], [5, 95])
    findings = [
        judge(
            "clipping",
            "warning" if num_clipped > _MAX_BAD_FILES * len(sounds) else "ok",
            f"{num_clipped} {many} have more than {100 * _MAX_CLIPPED:g} % of their samples at full scale; the mean is "
            f"{100 * clipped.mean():.2f} %",
            "recordings were made or amplified too loud, and distortion is easily told from clean speech: record at a "
            "lower level, convert again from the originals, or leave these files out",
            num_files=num_clipped,
            share=float(clipped.mean()),
        ),
        judge(
            "silence",
            "warning" if silent.mean() > _MAX_SILENT else "ok",
            f"{100 * silent.mean():.1f} % of the frames {many} are 40 dB or more below their file's level",
            "silent frames predict each other and are false negatives: cut the pauses at both ends, or segment long "
            "recordings into utterances",
            share=float(silent.mean()),
        ),
        judge(
            "DC offset",
            "warning" if num_offset > _MAX_BAD_FILES * len(sounds) else "ok",
            f"{num_offset} {many} have a mean of more than {_MAX_OFFSET:g} standard deviations",
            "the recording device adds a constant, which tells recordings apart: use a high-pass filter at 20 Hz, and "
            "--audio.normalise utterance",
            num_files=num_offset,
        ),
    ]
    if config.audio.normalise == "none":
        levels = judge(
            "levels",
            "warning" if high - low > _MAX_LEVEL_RANGE_DB else "ok",
            f"90 % {many} lie between {low:.0f} and {high:.0f} dB of full scale",
            "loudness tells utterances apart without any speech being learned: try --audio.normalise utterance",
            range_db=float(high - low),
        )
        findings.append(levels)
    return findings


def measure(manifest: Manifest, row: int) -> Sound:
    """Measure the middle of a file, at its own rate."""
    rate = int(manifest.sample_rates[row])
    waveform = _middle(manifest, row, rate, _MAX_SECONDS).astype(np.float64)
    offset, deviation = waveform.mean(), waveform.std()
    frame = max(1, min(rate // 100, len(waveform)))
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    silent = frames.std(1) <= _SILENCE * deviation  # a file of one value is silent throughout
    with np.errstate(divide="ignore"):
        level_db = 20 * np.log10(deviation)
    return Sound(
        clipped=float((np.abs(waveform) >= _FULL_SCALE).mean()),
        silent=float(silent.mean()),
        offset=float(abs(offset) / max(deviation, 1e-9)),
        level_db=float(level_db),
    )


# --- representations


def check_representations(checkpoint: Path, data: Data, config: Config) -> list[Finding]:
    """Check z and c of a window of each sampled utterance for collapse, and for units that never change."""
    model = load(checkpoint)
    size, rate = config.data.window_samples, config.audio.sample_rate
    pieces: list[tuple[Frames, Frames]] = []
    with torch.inference_mode():
        for split in (data.train, data.dev):
            for row in _sample(split):
                x = _middle(split.manifest, row, rate, size / rate, resample=config.audio.resample)
                z, c = model(torch.from_numpy(x)[None])  # (1, T, D_z), (1, T, D_c)
                pieces.append((z[0].numpy(), c[0].numpy()))
    findings = []
    for layer, frames in zip("zc", map(np.concatenate, zip(*pieces, strict=True)), strict=True):
        if np.isfinite(frames).all():
            findings += [check_collapse(layer, frames), check_units(layer, frames)]
    return findings


def check_collapse(layer: str, frames: Frames) -> Finding:
    """Check whether frames (N, D) are nearly constant, or vary along nearly one direction.

    The effective rank is the participation ratio of the covariance's eigenvalues, (Σ λ)² / Σ λ²: D if all directions
    vary equally, 1 if a single one varies.
    """
    wide = frames.astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(np.cov(wide, rowvar=False)).clip(min=0)
    power = float(np.square(wide).mean(0).sum())
    share = float(eigenvalues.sum() / power) if power else 0.0
    rank = float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()) if share else 0.0
    return judge(
        f"collapse of {layer}",
        "broken" if share < _MIN_VARIANCE or rank < _MIN_RANK else "ok",
        f"the variance of {layer} is {100 * share:.2f} % of its power, and its effective rank is {rank:.1f} of "
        f"{frames.shape[1]}",
        "all frames look nearly alike, usually after too high a learning rate or with negatives that need no detail: "
        "try a lower --optim.lr, --optim.clip-norm 1, --encoder.norm channel, and another --criterion.scheme",
        variance_share=share,
        effective_rank=rank,
    )


def check_units(layer: str, frames: Frames) -> Finding:
    """Check the share of units that hardly change over frames (N, D): dead, saturated or constant ones."""
    wide = frames.astype(np.float64)
    constant = wide.std(0) <= _CONSTANT * np.sqrt(np.square(wide).mean())
    num_constant, num_dead = int(constant.sum()), int((wide == 0).all(0).sum())
    return judge(
        f"units of {layer}",
        "warning" if num_constant > _MAX_CONSTANT_UNITS * len(constant) else "ok",
        f"{num_constant} of {len(constant)} units of {layer} are constant, of which {num_dead} are always 0",
        "large updates early in training push units out of reach of the gradient: try a lower --optim.lr, "
        "--optim.warmup-updates 50 or more, and --encoder.norm channel",
        share=num_constant / len(constant),
        num_dead=num_dead,
    )


# --- samples


def _sample(windows: Windows) -> list[int]:
    """Choose rows of the manifest, evenly over the utterances that training uses."""
    rows = np.unique(windows.utterance)
    places = np.linspace(0, len(rows) - 1, min(len(rows), _NUM_UTTERANCES // 2)).astype(int)
    return [int(row) for row in rows[places]]


def _middle(manifest: Manifest, row: int, rate: int, seconds: float, *, resample: bool = False) -> Frames:
    """Read the middle of a file, at most `seconds` of it, at `rate` Hz: (S,)."""
    length = int(manifest.num_samples_at(rate)[row])
    size = min(length, round(seconds * rate))
    start = (length - size) // 2
    return read_audio(manifest.sound(row), sample_rate=rate, resample=resample, start=start, stop=start + size)
