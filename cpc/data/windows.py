"""Fixed-length windows of utterances: a pure function of (seed, epoch, index); none crosses a file.

An utterance of L samples gives L // W windows of W samples an epoch, end to end from an offset that is drawn anew
each epoch, so that no sample is favoured and none is seen twice in an epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cpc.data.audio import AudioError, Waveform, audio_statistics, normalise, read_audio, statistics_of
from cpc.data.cache import Cache, open_cache
from cpc.data.manifest import Manifest, ManifestError

Short = Literal["skip", "pad"]
Normalise = Literal["utterance", "none"]

# A file of up to this much decoded audio, 4 minutes at 16 kHz, is held whole while it is measured.
_DECODED_ONCE_BYTES = 2**24


class Window(NamedTuple):
    """One training example.

    Attributes:
        waveform: (W,) float32 samples; zeros from `num_samples` on.
        num_samples: samples that come from the file.
        speaker: integer identity of the speaker.
        utterance: integer identity of the utterance: its row in the manifest.
        start: the utterance's sample, at the windows' rate, that comes first.
    """

    waveform: Tensor
    num_samples: int
    speaker: int
    utterance: int
    start: int


class Batch(NamedTuple):
    """Windows stacked: waveforms (B, W), and a list of B for each other field of `Window`."""

    waveforms: Tensor
    num_samples: list[int]
    speaker: list[int]
    utterance: list[int]
    start: list[int]


def collate(windows: list[Window]) -> Batch:
    """Stack windows into a batch."""
    waveforms, *fields = zip(*windows, strict=True)
    return Batch(torch.stack(waveforms), *map(list, fields))


class Windows(Dataset[Window]):
    """The windows of a manifest's utterances; item (epoch, index) is one of them.

    Args:
        manifest: utterances.
        window_samples: W, at `sample_rate`.
        sample_rate: in Hz.
        resample: whether files of other rates are resampled; otherwise they are an error.
        normalise: "utterance" brings each whole utterance to zero mean and unit variance.
        short: what becomes of utterances shorter than W: "skip" leaves them out (`num_skipped` counts them),
            "pad" fills them up with zeros.
        min_samples: utterances shorter than this are left out and counted even under "pad": too short to hold
            an anchor for the last step.
        seed: of the offsets.
        cache_megabytes: up to this much decoded audio is kept in memory; the rest is read at each use.
        cache: folder of a cache of the decoded audio on disk (`cpc.cache`), instead of memory; "" is none.

    Raises:
        ManifestError: if no utterance is long enough.
        AudioError: if a file's rate differs and `resample` is off.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        window_samples: int = 20480,
        sample_rate: int = 16000,
        resample: bool = False,
        normalise: Normalise = "utterance",
        short: Short = "skip",
        min_samples: int = 0,
        seed: int = 0,
        cache_megabytes: int = 0,
        cache: str | Path = "",
    ) -> None:
        table = manifest.table
        rates = table["sample_rate"].to_numpy()
        if not resample and (rates != sample_rate).any():
            i = int(np.flatnonzero(rates != sample_rate)[0])
            raise AudioError(
                f"{manifest.audio_path(i)}: {rates[i]} Hz, expected {sample_rate}; pass --audio.resample, or "
                f"--audio.sample-rate {rates[i]}"
            )
        self.manifest, self.window_samples, self.sample_rate = manifest, window_samples, sample_rate
        self.resample, self.normalise, self.seed = resample, normalise, seed
        # (num utterances,) lengths at sample_rate: ceil(n · sample_rate / rate), as audio.num_resampled.
        self.num_samples = -(-table["num_samples"].to_numpy().astype(np.int64) * sample_rate // rates)
        long_enough = self.num_samples >= max(min_samples, window_samples if short == "skip" else 1)
        self.windows_per_utterance = np.where(long_enough, np.maximum(1, self.num_samples // window_samples), 0)
        self.num_skipped = int((~long_enough).sum())
        if not long_enough.any():
            raise ManifestError(
                f"none of {len(table)} utterances is long enough: the longest has {self.num_samples.max()} samples "
                f"at {sample_rate} Hz, a window {window_samples}; pass --data.short pad or a smaller "
                "--data.window-samples"
            )
        self.utterance = np.repeat(np.arange(len(table)), self.windows_per_utterance)  # (num windows,)
        self._first = np.concatenate([[0], np.cumsum(self.windows_per_utterance)])  # of each utterance
        _, speaker_of_row = np.unique(table["speaker"].to_numpy(dtype=str), return_inverse=True)
        self.speaker: NDArray[np.int64] = speaker_of_row[self.utterance]  # (num windows,)
        self._offsets_of: tuple[int, NDArray[np.int64]] | None = None  # the epoch they were drawn for
        self._statistics: dict[int, tuple[float, float]] = {}
        self._on_disk: Cache | None = None
        if cache:
            self._on_disk = open_cache(
                manifest, cache, np.where(long_enough, self.num_samples, 0), sample_rate=sample_rate, resample=resample
            )
        self._cache: dict[int, Waveform] = {}
        self._cache_left = cache_megabytes * 2**20

    def __len__(self) -> int:
        """Windows in an epoch."""
        return len(self.utterance)

    def _offsets(self, epoch: int) -> NDArray[np.int64]:
        """Where each utterance's first window starts in this epoch, in samples: (num utterances,)."""
        if self._offsets_of is not None and self._offsets_of[0] == epoch:
            return self._offsets_of[1]
        slack = np.maximum(0, self.num_samples - self.windows_per_utterance * self.window_samples)
        drawn = np.random.default_rng([self.seed, epoch]).random(len(slack)) * (slack + 1)
        offsets: NDArray[np.int64] = drawn.astype(np.int64)
        self._offsets_of = (epoch, offsets)
        return offsets

    def span(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Where window `index` of an epoch lies: (row of the manifest, first sample, one past the last sample)."""
        row = int(self.utterance[index])
        start = int(self._offsets(epoch)[row] + (index - self._first[row]) * self.window_samples)
        return row, start, min(start + self.window_samples, int(self.num_samples[row]))

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> Window:
        """Window `index` of epoch `epoch`."""
        epoch, index = epoch_and_index
        row, start, stop = self.span(epoch, index)
        waveform = np.zeros(self.window_samples, np.float32)
        waveform[: stop - start] = self._read(row, start, stop)
        return Window(torch.from_numpy(waveform), stop - start, int(self.speaker[index]), row, start)

    def _read(self, row: int, start: int, stop: int) -> Waveform:
        """Samples [start, stop) of an utterance, normalised; from memory where they are there."""
        if self._on_disk is not None:
            waveform = self._on_disk.read(row, start, stop)
            if self.normalise == "utterance":
                waveform = normalise(waveform, *self._on_disk.statistics(row, self.manifest.audio_path(row)))
            return waveform
        if row in self._cache:
            return self._cache[row][start:stop]
        path, size = self.manifest.audio_path(row), 4 * int(self.num_samples[row])
        keep = size <= self._cache_left
        unmeasured = self.normalise == "utterance" and row not in self._statistics
        whole = keep or (unmeasured and size <= _DECODED_ONCE_BYTES)
        first, last = (0, int(self.num_samples[row])) if whole else (start, stop)
        waveform = read_audio(path, sample_rate=self.sample_rate, resample=self.resample, start=first, stop=last)
        if unmeasured:  # of a file that was decoded whole just now; a long one is decoded twice, in constant memory
            self._statistics[row] = (
                statistics_of(waveform, path)
                if whole
                else audio_statistics(path, sample_rate=self.sample_rate, resample=self.resample)
            )
        if self.normalise == "utterance":
            waveform = normalise(waveform, *self._statistics[row])
        if keep:
            self._cache[row] = waveform
            self._cache_left -= size
        return waveform[start - first : stop - first]
