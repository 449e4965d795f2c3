"""The page's viewer: sound, waveform, spectrogram, spoken and predicted phones of some utterances."""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import spectrogram

from cpc.data import read_audio
from cpc.features import Features
from cpc.labels import LABEL_FIRST_CENTRE_SECONDS, LABEL_HOP_SECONDS, PhoneLabels

MAX_SECONDS = 15.0  # the rest of a longer utterance is not shown
MARKUP = """<div id="viewer">
<p><label>Utterance <select></select></label></p>
<audio controls preload="auto"></audio>
<div class="scroll">
<div class="axis" tabindex="0" role="slider" aria-label="time in the utterance in seconds" aria-valuemin="0">
<svg viewBox="0 0 800 100" preserveAspectRatio="none" role="img" aria-label="waveform"><path class="wave"/></svg>
<img alt="spectrogram, 0 to 8 kHz">
<div class="track spoken" aria-label="spoken phones"></div>
<div class="track heard" aria-label="predicted phones"></div>
<div class="cursor"></div>
</div></div>
<p class="dim">Duration shown: <span class="end"></span>. The upper row shows the spoken phones and the lower row those
that the probe predicted; wrong ones are underlined. Click to move the cursor. The arrow keys move it by 0.1 s, and the
space bar plays or pauses.</p>
</div>"""
_NUM_STROKES = 800  # vertical strokes of the waveform, one per unit of its box
_MAX_HERTZ, _RANGE_DECIBELS = 8000, 60  # of the spectrogram


def viewer_data(
    features: Features, labels: PhoneLabels, predictions: Mapping[str, NDArray[Any]], count: int
) -> list[dict[str, Any]]:
    """Choose utterances that have labels and predictions, and prepare them for the viewer.

    Each speaker's first utterance comes before any speaker's second one.

    Args:
        features: the features from which the phones were predicted.
        labels: the spoken phones.
        predictions: for each utterance, the predicted phone of each frame, (T,).
        count: maximum number of utterances.

    Returns:
        For each utterance, what the script in page.html reads; as JSON can hold it.
    """
    manifest = features.manifest
    rows = [i for i, u in enumerate(manifest.utterances) if u in predictions and u in labels.of]
    num_before: Counter[str] = Counter()
    turns = []
    for row in rows:
        turns.append((num_before[manifest.speakers[row]], row))
        num_before[manifest.speakers[row]] += 1
    return [_entry(features, row, labels, predictions) for _, row in sorted(turns)[:count]]


def data_url(kind: str, data: bytes) -> str:
    """Encode data as a URL that contains it.

    Args:
        kind: the MIME type.
        data: the content of the file.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _entry(
    features: Features, row: int, labels: PhoneLabels, predictions: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    rate, utterance = features.sample_rate, features.manifest.utterances[row]
    waveform = read_audio(features.manifest.sound(row), sample_rate=rate, resample=True)
    waveform = waveform[: round(MAX_SECONDS * rate)]
    seconds = len(waveform) / rate
    spoken, predicted = labels.of[utterance], predictions[utterance]
    spoken_times = LABEL_FIRST_CENTRE_SECONDS + LABEL_HOP_SECONDS * np.arange(len(spoken))
    predicted_times = features.times(len(predicted))
    hop_seconds = features.hop_samples / rate
    return {
        "name": f"{utterance} (speaker {features.manifest.speakers[row]})",
        "seconds": seconds,
        "audio": _sound(waveform, rate),
        "wave": _wave(waveform),
        "spectrogram": _spectrogram(waveform, rate),
        "spoken": _named(_intervals(spoken, spoken_times, LABEL_HOP_SECONDS, seconds), labels),
        "heard": _named(_intervals(predicted, predicted_times, hop_seconds, seconds), labels),
    }


def _intervals(
    phones: NDArray[Any], centres: NDArray[np.floating[Any]], hop_seconds: float, seconds: float
) -> list[tuple[float, float, int]]:
    """Join runs of equal phones into intervals: start and end in seconds, phone."""
    borders = [0, *(np.flatnonzero(phones[1:] != phones[:-1]) + 1).tolist(), len(phones)]
    runs = []
    for first, last in itertools.pairwise(borders):
        start = max(0.0, float(centres[first]) - hop_seconds / 2)
        end = min(seconds, float(centres[last - 1]) + hop_seconds / 2)
        if end > start:
            runs.append((round(start, 4), round(end, 4), int(phones[first])))
    return runs


def _named(intervals: list[tuple[float, float, int]], labels: PhoneLabels) -> list[tuple[float, float, str]]:
    return [(start, end, labels.name(phone)) for start, end, phone in intervals]


def _sound(waveform: NDArray[np.float32], rate: int) -> str:
    """Encode the waveform (S,) as a 16-bit WAV file with a peak of 0.9."""
    buffer = io.BytesIO()
    peak = max(1e-6, float(np.abs(waveform).max()))
    wavfile.write(buffer, rate, np.round(0.9 * 32767 * waveform / peak).astype(np.int16))
    return data_url("audio/wav", buffer.getvalue())


def _wave(waveform: NDArray[np.float32]) -> str:
    """Draw the waveform (S,) as an SVG path of vertical strokes, in a box of 800 × 100 units."""
    pieces = np.array_split(waveform / max(1e-6, float(np.abs(waveform).max())), _NUM_STROKES)
    return "".join(
        f"M{i} {50 - 48 * float(piece.max()):.0f}V{50 - 48 * float(piece.min()):.0f}"
        for i, piece in enumerate(pieces)
        if len(piece)
    )


def _spectrogram(waveform: NDArray[np.float32], rate: int) -> str:
    """Draw log power in windows of 25 ms every 10 ms; low frequencies are at the bottom."""
    window, overlap = round(0.025 * rate), round(0.015 * rate)
    frequencies, _, power = spectrogram(waveform, rate, nperseg=window, noverlap=overlap, nfft=512)
    decibels = 10 * np.log10(power[frequencies <= _MAX_HERTZ] + 1e-12)
    shades = np.clip((decibels - decibels.max() + _RANGE_DECIBELS) / _RANGE_DECIBELS, 0, 1)
    buffer = io.BytesIO()
    imsave(buffer, colormaps["magma"](shades[::-1]), format="png")
    return data_url("image/png", buffer.getvalue())
