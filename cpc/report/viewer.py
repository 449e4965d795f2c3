"""The page's viewer: waveform, spectrogram, spoken and predicted phones of some utterances."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy.signal import spectrogram

from cpc.labels import STANDARD_GRID, PhoneLabels
from cpc.report.sounds import Sounds, data_url

MAX_SECONDS = 15.0  # the rest of a longer utterance is not shown
_NUM_STROKES = 1600  # vertical strokes of the waveform, one per unit of its box
_RANGE_DECIBELS = 60  # of the spectrogram
_WINDOW_HOPS = 2.5  # of the spectrogram: 25 ms where frames are 10 ms apart
_MAX_COLUMNS = 2000  # of the spectrogram
_LEAST_WINDOW_SAMPLES = 16

Interval = tuple[float, float, str]  # start and end in seconds, phone


@dataclass(frozen=True)
class Frames:
    """Where the frames of an utterance lie in time, in seconds."""

    first_centre: float
    hop: float


def viewer_data(
    sounds: Sounds,
    frames: Frames,
    labels: PhoneLabels | None,
    predictions: Mapping[str, NDArray[Any]] | None,
    count: int,
) -> list[dict[str, Any]]:
    """Choose utterances, and prepare them for the viewer: those with labels and with predictions, where there are such.

    Each speaker's first utterance comes before any speaker's second one.

    Args:
        sounds: the utterances; what the viewer plays is added to these.
        frames: of the predictions.
        labels: the spoken phones, if they are known.
        predictions: for each utterance, the predicted phone of each frame, (T,), if there are any.
        count: maximum number of utterances.

    Returns:
        For each utterance, what page.js reads; as JSON can hold it.
    """
    manifest = sounds.manifest
    known = [set(some) for some in (predictions, labels.of if labels else None) if some is not None]
    num_before: Counter[str] = Counter()
    turns = []
    for row, utterance in enumerate(manifest.utterances):
        if all(utterance in some for some in known):
            turns.append((num_before[manifest.speakers[row]], row))
            num_before[manifest.speakers[row]] += 1
    phones = labels or PhoneLabels({})
    grid = phones.grid or STANDARD_GRID
    labelled = Frames(grid.first_centre_seconds, grid.hop_seconds)
    entries: list[dict[str, Any]] = []
    for _, row in sorted(turns):
        if len(entries) == count or len(sounds.left_out) > count:
            break
        utterance, seconds = manifest.utterances[row], min(MAX_SECONDS, float(manifest.seconds[row]))
        waveform = sounds.waveform(utterance, seconds)
        if waveform is None or not len(waveform):
            continue
        sounds.want(utterance, seconds)
        entries.append(
            {
                "utterance": utterance,
                "name": f"{utterance} (speaker {manifest.speakers[row]})",
                "seconds": seconds,
                "hertz": sounds.sample_rate / 2,
                "wave": _wave(waveform),
                "spectrogram": _spectrogram(waveform, sounds.sample_rate, max(frames.hop, seconds / _MAX_COLUMNS)),
                "spoken": _intervals(phones.of[utterance], labelled, phones, seconds) if labels else [],
                "heard": _intervals(predictions[utterance], frames, phones, seconds) if predictions else [],
            }
        )
    return entries


def _intervals(phones: NDArray[Any], frames: Frames, labels: PhoneLabels, seconds: float) -> list[Interval]:
    """Join runs of equal phones into intervals."""
    borders = [0, *(np.flatnonzero(phones[1:] != phones[:-1]) + 1).tolist(), len(phones)]
    runs = []
    for first, last in itertools.pairwise(borders):
        start = max(0.0, frames.first_centre + (first - 0.5) * frames.hop)
        end = min(seconds, frames.first_centre + (last - 0.5) * frames.hop)
        if end > start:
            runs.append((round(start, 5), round(end, 5), labels.name(int(phones[first]))))
    return runs


def _wave(waveform: NDArray[np.float32]) -> str:
    """Draw the waveform (S,) as an SVG path of vertical strokes, in a box of 1600 × 100 units."""
    pieces = np.array_split(waveform / max(1e-6, float(np.abs(waveform).max())), _NUM_STROKES)
    return "".join(
        f"M{i} {50 - 48 * float(piece.max()):.0f}V{50 - 48 * float(piece.min()):.0f}"
        for i, piece in enumerate(pieces)
        if len(piece)
    )


def _spectrogram(waveform: NDArray[np.float32], rate: int, hop_seconds: float) -> str:
    """Draw log power from 0 Hz at the bottom to half the sample rate at the top."""
    window = min(len(waveform), max(_LEAST_WINDOW_SAMPLES, round(_WINDOW_HOPS * hop_seconds * rate)))
    overlap = min(window - 1, max(0, window - round(hop_seconds * rate)))
    size = max(256, 1 << (window - 1).bit_length())  # of the transform: at least the window
    _, _, power = spectrogram(waveform, rate, nperseg=window, noverlap=overlap, nfft=size)
    rows = max(1, len(power) // 256)  # neighbouring frequencies share a row of the picture
    power = power[: len(power) // rows * rows].reshape(-1, rows, power.shape[1]).mean(axis=1)
    decibels = 10 * np.log10(power + 1e-12)
    shades = np.clip((decibels - decibels.max() + _RANGE_DECIBELS) / _RANGE_DECIBELS, 0, 1)
    buffer = io.BytesIO()
    imsave(buffer, colormaps["magma"](shades[::-1])[..., :3], format="webp", pil_kwargs={"quality": 60})
    return data_url("image/webp", buffer.getvalue())
