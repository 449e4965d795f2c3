"""Fixed-length windows of utterances: a pure function of (seed, epoch, index). No window crosses a file.

An utterance of L ≥ W samples gives n = L // W windows of W samples in each epoch, end to end from an offset that is
drawn uniformly from 0 … R, where R = L − n·W < W is the remainder. No sample is in two windows of an epoch, and sample
s of the utterance is in one with probability

    p(s) = min(s + 1, L − s, R + 1) / (R + 1).

So the middle is in every epoch, and the first and the last R samples are in fewer epochs the nearer they lie to the
edge, down to 1 / (R + 1) for the very first and the very last one, which a single offset covers. With the paper's
windows of 1.28 s, the first 100 ms of minispeech's utterances are seen in 17 % of epochs, speech in 93 % and silence in
62 %. A padded utterance (L < W) is seen whole in every epoch.

Padded partial windows at the edges would show all samples equally often. We do without them, because they would make
every batch ragged and change the data of the presets that were studied.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cpc.config import AugmentConfig
from cpc.data.audio import (
    AudioError,
    Sound,
    audio_info,
    audio_statistics,
    normalise,
    read_audio,
    refuse_changed,
    statistics_of,
)
from cpc.data.augment import Augmentation
from cpc.data.cache import Cache, open_cache
from cpc.data.manifest import Manifest, ManifestError
from cpc.data.resampling import Waveform

Short = Literal["skip", "pad"]
Normalise = Literal["utterance", "none"]
OnBadAudio = Literal["error", "skip"]
# From a manifest's row, a window's first sample and its number of samples that come from the file, to the class of each
# frame of the window, (T,), −1 where it is unknown. T is the same for all windows.
FrameTargets = Callable[[int, int, int], NDArray[np.int64]]

# A file of up to this much decoded audio, 4 minutes at 16 kHz, is held whole while it is measured.
_DECODED_ONCE_BYTES = 2**24


class Window(NamedTuple):
    """One training example.

    Attributes:
        waveform: (W,) float32 samples; zeros from `num_samples` on.
        num_samples: number of samples that come from the file.
        speaker: integer identity of the speaker.
        utterance: integer identity of the utterance: its row in the manifest.
        start: position of the first sample in the utterance, at the windows' rate.
        columns: integer value of each column that was asked for.
        targets: (T,) int64, the class of each frame, −1 where it is unknown; None without targets.
        past: (W,) float32, the augmented copy for c; zeros from `num_samples` on; None without augmentation.
        instead_of: errors of the sound files that could not be read, for which this window stands in.
    """

    waveform: Tensor
    num_samples: int
    speaker: int
    utterance: int
    start: int
    columns: dict[str, int]
    targets: Tensor | None = None
    past: Tensor | None = None
    instead_of: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Stacked windows.

    Attributes:
        waveforms: (B, W) float32.
        num_samples: B numbers of samples that come from the file.
        speaker: B identities of speakers.
        utterance: B rows of the manifest.
        start: B positions of the first samples.
        columns: B integer values of each column that was asked for.
        targets: (B, T) int64, the class of each frame, −1 where it is unknown; None without targets.
        past: (B, W) float32, the augmented copies for c; None without augmentation.
        instead_of: errors of sound files that could not be read.
    """

    waveforms: Tensor
    num_samples: list[int]
    speaker: list[int]
    utterance: list[int]
    start: list[int]
    columns: dict[str, list[int]]
    targets: Tensor | None = None
    past: Tensor | None = None
    instead_of: tuple[str, ...] = ()


def collate(windows: list[Window]) -> Batch:
    """Stack windows into a batch."""
    return Batch(
        waveforms=torch.stack([window.waveform for window in windows]),
        num_samples=[window.num_samples for window in windows],
        speaker=[window.speaker for window in windows],
        utterance=[window.utterance for window in windows],
        start=[window.start for window in windows],
        columns={name: [window.columns[name] for window in windows] for name in windows[0].columns},
        targets=_stack([window.targets for window in windows]),
        past=_stack([window.past for window in windows]),
        instead_of=tuple(error for window in windows for error in window.instead_of),
    )


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    """Stack what either all windows have or none has."""
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None


@dataclass(frozen=True)
class WindowOptions:
    """How windows are cut and read.

    Attributes:
        window_samples: W, at `sample_rate`.
        sample_rate: rate of the windows, Hz.
        resample: whether files of other rates are resampled; otherwise they are an error.
        normalise: "utterance" normalises each whole utterance to zero mean and unit variance.
        short: "skip" leaves out utterances shorter than W and counts them (`Windows.num_skipped`); "pad" fills them up
            with zeros.
        min_samples: utterances shorter than this are left out and counted even under "pad": they are too short to hold
            an anchor for the last step.
        seed: seed of the offsets, 0 or more.
        columns: columns of the manifest whose values a window carries.
        cache_megabytes: keep up to this much decoded audio in memory; the rest is read at each use.
        cache: folder of a cache of the decoded audio on disk (`open_cache`), which replaces the one in memory; "" for
            none.
        augment: how the copies for c are made; windows have none if everything in it is off.
        on_bad_audio: "error", or "skip": an utterance whose sound cannot be read is replaced by the speaker's next one.
    """

    window_samples: int = 20480
    sample_rate: int = 16000
    resample: bool = False
    normalise: Normalise = "utterance"
    short: Short = "skip"
    min_samples: int = 0
    seed: int = 0
    columns: tuple[str, ...] = ()
    cache_megabytes: int = 0
    cache: str | Path = ""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    on_bad_audio: OnBadAudio = "error"


class Windows(Dataset[Window]):
    """The windows of a manifest's utterances; item (epoch, index) is one of them.

    Args:
        manifest: the utterances.
        options: how windows are cut and read.
        targets: a function that gives the class of each frame of a window, from the window's row in the manifest, its
            first sample and its number of samples that come from the file.

    Attributes:
        num_samples: (num utterances,) lengths at the windows' rate.
        num_skipped: number of utterances that are left out because they are too short.
        utterance: (num windows,) rows of the manifest.
        speaker: (num windows,) integer identities of speakers.
        bad: by row of the manifest, the error of a sound file that cannot be read; empty unless such files are skipped.

    Raises:
        ManifestError: no utterance is long enough.
        AudioError: a file's rate differs and `resample` is off.
    """

    def __init__(
        self, manifest: Manifest, options: WindowOptions = WindowOptions(), targets: FrameTargets | None = None
    ) -> None:
        self.manifest, self.options, self._targets = manifest, options, targets
        _refuse_other_rates(manifest, options)
        size, short = options.window_samples, options.short
        self.num_samples = manifest.num_samples_at(options.sample_rate)
        long_enough = self.num_samples >= max(options.min_samples, size if short == "skip" else 1)
        if not long_enough.any():
            raise ManifestError(
                f"none of {len(manifest)} utterances is long enough: the longest has {self.num_samples.max()} samples "
                f"at {options.sample_rate} Hz, a window {size}; pass --data.short pad or a smaller "
                "--data.window-samples"
            )
        self.num_skipped = int((~long_enough).sum())
        self._per_utterance = np.where(long_enough, np.maximum(1, self.num_samples // size), 0)
        self._first = np.concatenate([[0], np.cumsum(self._per_utterance)])  # index of each utterance's first window
        self.utterance = np.repeat(np.arange(len(manifest)), self._per_utterance)
        _, speaker_of_row = np.unique(np.array(manifest.speakers), return_inverse=True)
        self.speaker: NDArray[np.int64] = speaker_of_row[self.utterance]
        self._codes = {  # (num utterances,) integer values
            name: np.unique(np.array(manifest.column(name)), return_inverse=True)[1] for name in options.columns
        }
        self._augment = Augmentation(options.augment, options.sample_rate) if options.augment.is_on else None
        self._offsets_of: tuple[int, NDArray[np.int64]] | None = None  # an epoch and its offsets
        self._statistics: dict[int, tuple[float, float]] = {}
        self.bad: dict[int, str] = {}
        self._on_disk: Cache | None = None
        if options.cache:
            lengths = np.where(long_enough, self.num_samples, 0)
            self._on_disk = open_cache(
                manifest,
                options.cache,
                lengths,
                sample_rate=options.sample_rate,
                resample=options.resample,
                on_bad=self._leave_out,
            )
        self._compared: set[int] = set()  # rows whose file is as the manifest says
        self._cache: dict[int, Waveform] = {}
        self._cache_left = options.cache_megabytes * 2**20

    def __len__(self) -> int:
        """Count the windows of an epoch."""
        return len(self.utterance)

    def _offsets(self, epoch: int) -> NDArray[np.int64]:
        """Draw where each utterance's first window starts in this epoch, in samples: (num utterances,)."""
        if self._offsets_of is not None and self._offsets_of[0] == epoch:
            return self._offsets_of[1]
        slack = np.maximum(0, self.num_samples - self._per_utterance * self.options.window_samples)
        drawn = np.random.default_rng([self.options.seed, epoch]).random(len(slack)) * (slack + 1)
        offsets: NDArray[np.int64] = drawn.astype(np.int64)
        self._offsets_of = (epoch, offsets)
        return offsets

    def span(self, epoch: int, index: int) -> tuple[int, int, int]:
        """Locate window `index` of an epoch: (row of the manifest, first sample, one past the last sample)."""
        row, size = int(self.utterance[index]), self.options.window_samples
        start = int(self._offsets(epoch)[row] + (index - self._first[row]) * size)
        return row, start, min(start + size, int(self.num_samples[row]))

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> Window:
        """Read window `index` of epoch `epoch`."""
        epoch, index = epoch_and_index
        instead_of: tuple[str, ...] = ()
        while True:
            row = int(self.utterance[index])
            if row not in self.bad:
                try:
                    return self._window(epoch, index, instead_of)
                except AudioError as error:
                    self._leave_out(row, error)
            instead_of += (self.bad[row],)
            index = self._stand_in(index)

    def _leave_out(self, row: int, error: AudioError) -> None:
        """Remember a row whose sound cannot be read, or raise the error, if such files are not to be skipped."""
        if self.options.on_bad_audio == "error":
            raise error
        self.bad[row] = str(error)

    def _stand_in(self, index: int) -> int:
        """Find the next window, cyclically, of another utterance that is not bad, of the same speaker if there is one.

        Raises:
            AudioError: there is none.
        """
        good = ~np.isin(self.utterance, list(self.bad))
        for candidates in (np.flatnonzero(good & (self.speaker == self.speaker[index])), np.flatnonzero(good)):
            if len(candidates):
                later = candidates[candidates > index]
                return int(later[0] if len(later) else candidates[0])
        raise AudioError(f"{next(iter(self.bad.values()))}; nor can any other sound file be read")

    def _window(self, epoch: int, index: int, instead_of: tuple[str, ...]) -> Window:
        """Read one window, which stands in for files with these errors."""
        row, start, stop = self.span(epoch, index)
        samples = self._read(row, start, stop)
        waveform, past = self._pad(samples, stop - start), None
        if self._augment is not None:
            past = self._pad(self._augment(samples, (self.options.seed, epoch, index)), stop - start)
        targets = None if self._targets is None else torch.from_numpy(self._targets(row, start, stop - start))
        columns = {name: int(codes[row]) for name, codes in self._codes.items()}
        speaker = int(self.speaker[index])
        return Window(waveform, stop - start, speaker, row, start, columns, targets, past, instead_of)

    def _pad(self, samples: Waveform, num_samples: int) -> Tensor:
        """Copy samples into a window, with zeros after them: (W,)."""
        waveform = np.zeros(self.options.window_samples, np.float32)
        waveform[:num_samples] = samples
        return torch.from_numpy(waveform)

    def _read(self, row: int, start: int, stop: int) -> Waveform:
        """Read samples [start, stop) of an utterance, normalised; from memory where they are there."""
        options, path = self.options, self.manifest.sound(row)
        if self._on_disk is not None:
            waveform = self._on_disk.read(row, start, stop)
            if options.normalise == "utterance":
                waveform = normalise(waveform, *self._on_disk.statistics(row, path))
            return waveform
        if row in self._cache:
            return self._cache[row][start:stop]
        if row not in self._compared:
            self._compare(row, path)
        size = 4 * int(self.num_samples[row])  # bytes
        keep = size <= self._cache_left
        unmeasured = options.normalise == "utterance" and row not in self._statistics
        whole = keep or (unmeasured and size <= _DECODED_ONCE_BYTES)
        first, last = (0, int(self.num_samples[row])) if whole else (start, stop)
        waveform = read_audio(path, sample_rate=options.sample_rate, resample=options.resample, start=first, stop=last)
        if unmeasured:  # a long file is decoded a second time for this, in constant memory
            self._statistics[row] = (
                statistics_of(waveform, path)
                if whole
                else audio_statistics(path, sample_rate=options.sample_rate, resample=options.resample)
            )
        if options.normalise == "utterance":
            waveform = normalise(waveform, *self._statistics[row])
        if keep:
            self._cache[row] = waveform
            self._cache_left -= size
        return waveform[start - first : stop - first]

    def _compare(self, row: int, path: Sound) -> None:
        """Refuse a file that is not what the manifest says. Of an MP3, only decoding tells the length."""
        self._compared.add(row)
        info = audio_info(path)
        here = info.num_samples, info.sample_rate
        there = self.manifest.num_samples[row], self.manifest.sample_rates[row]
        if here != there and not os.fspath(path).lower().endswith(".mp3"):
            raise AudioError(
                f"{path}: {here[0]} samples at {here[1]} Hz, the manifest says {there[0]} at {there[1]}; run "
                "`cpc manifest` again"
            )
        refuse_changed(path, self.manifest.file_hashes[row])


def _refuse_other_rates(manifest: Manifest, options: WindowOptions) -> None:
    other = np.flatnonzero(manifest.sample_rates != options.sample_rate)
    if other.size and not options.resample:
        i = int(other[0])
        rate = manifest.sample_rates[i]
        raise AudioError(
            f"{manifest.audio_path(i)}: {rate} Hz, expected {options.sample_rate}; pass --audio.resample, or "
            f"--audio.sample-rate {rate}"
        )
