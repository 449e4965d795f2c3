"""The sounds of a page: the beginnings of some utterances, each of which is embedded once."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from cpc.data import AudioError, Manifest, encode_vorbis, read_audio

PLAYED_RATES = (8_000, 48_000)  # Hz; sound of a lower or higher rate is resampled, because not all browsers play it


def data_url(kind: str, data: bytes) -> str:
    """Encode data as a URL that contains it.

    Args:
        kind: the MIME type.
        data: the content of the file.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Sounds:
    """Collects how much of each utterance a page plays.

    Args:
        manifest: the utterances.
        sample_rate: Hz, at which waveforms are looked at.

    Attributes:
        left_out: one line for each utterance whose sound file cannot be read.
    """

    def __init__(self, manifest: Manifest, sample_rate: int) -> None:
        self.manifest, self.sample_rate = manifest, sample_rate
        self.left_out: list[str] = []
        self._row = {utterance: row for row, utterance in enumerate(manifest.utterances)}
        self._wanted: dict[str, float] = {}  # seconds by utterance

    def want(self, utterance: str, seconds: float) -> None:
        """Play at least the first `seconds` of an utterance."""
        self._wanted[utterance] = max(seconds, self._wanted.get(utterance, 0.0))

    def waveform(self, utterance: str, seconds: float) -> NDArray[np.float32] | None:
        """Read the first `seconds` of an utterance, (S,); None if its file cannot be read, which is noted."""
        return self._read(utterance, seconds, self.sample_rate)

    @property
    def played_rate(self) -> int:
        """Hz, at which sound is played."""
        lowest, highest = PLAYED_RATES
        return min(highest, max(lowest, self.sample_rate))

    @property
    def resampled(self) -> str:
        """The rate of what is played if that loses frequencies; else empty."""
        return f"{self.played_rate / 1000:g} kHz" if self.played_rate < self.sample_rate else ""

    def encoded(self) -> dict[str, str]:
        """Encode what is played, by utterance, as URLs that contain it; files that cannot be read are left out."""
        rate, urls = self.played_rate, {}
        for utterance, seconds in self._wanted.items():
            waveform = self._read(utterance, seconds, rate)
            if waveform is not None:
                urls[utterance] = data_url("audio/ogg", encode_vorbis(waveform, rate))
        return urls

    def _read(self, utterance: str, seconds: float, rate: int) -> NDArray[np.float32] | None:
        row = self._row[utterance]
        stop = min(round(seconds * rate), int(self.manifest.num_samples_at(rate)[row]))
        try:
            return read_audio(self.manifest.sound(row), sample_rate=rate, resample=True, stop=stop)
        except AudioError as error:
            if str(error) not in self.left_out:
                self.left_out.append(str(error))
            return None
