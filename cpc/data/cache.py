"""Decoded audio in one memory-mapped file, for corpora whose files are slow to decode at each use.

A cache folder holds

    cache.json       the identity of the cache: which utterances, in which order, at which rate
    index.npy        a line for each utterance: its position, its scale, its mean and standard deviation, and the size
                     and time of its sound file
    samples.int16    all utterances, end to end

A sample is int16 · scale. This is exact for mono 16-bit files at the rate of the cache; other sources are scaled by
their peak and rounded to 16 bits. The index says of every utterance whether it is whole, so an interrupted build
resumes, and an utterance whose file has changed is decoded again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cpc.data.audio import AudioError, Sound, read_audio, refuse_changed, statistics_of
from cpc.data.manifest import Manifest
from cpc.data.resampling import RESAMPLER, Waveform
from cpc.files import Claim, claim, replacing

_FULL_SCALE = 32768
_INDEX = np.dtype(
    {
        "names": ["start", "length", "scale", "mean", "std", "file_bytes", "file_mtime_ns"],
        "formats": ["<i8", "<i8", "<f4", "<f8", "<f8", "<i8", "<i8"],
    }
)


class CacheError(ValueError):
    """A cache folder that cannot be used. The message is one line: where, what is wrong, the way out."""


class Cache:
    """The decoded audio of a manifest's utterances; `open_cache` opens, completes or builds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.index = np.load(folder / "index.npy", mmap_mode="r+")
            self._samples = np.memmap(folder / "samples.int16", np.int16, mode="r+")
            whole = len(self._samples) == self.index["length"].sum()
        except (OSError, ValueError):
            whole = False
        if not whole:
            raise CacheError(f"{folder}: damaged, its index and samples do not fit; remove it to have it built again")

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        """Let every process map the files itself; numpy would copy all samples to each of them."""
        return Cache, (self.folder,)

    def statistics(self, row: int, path: Sound) -> tuple[float, float]:
        """Return the mean and standard deviation of a whole utterance, as `audio_statistics` measures them.

        Raises:
            AudioError: the utterance is silent; the message names `path`.
        """
        mean, std = float(self.index["mean"][row]), float(self.index["std"][row])
        if std == 0:
            raise AudioError(f"{path}: silent, all samples are {mean:g}; remove it from the manifest")
        return mean, std

    def read(self, row: int, start: int, stop: int) -> Waveform:
        """Read samples [start, stop) of utterance `row`: (stop - start,) float32."""
        first = int(self.index["start"][row])
        waveform: Waveform = self._samples[first + start : first + stop] * self.index["scale"][row]
        return waveform

    def fill(self, row: int, path: Sound, digest: str, *, sample_rate: int, resample: bool) -> None:
        """Decode utterance `row`, of whose file the manifest has this digest.

        Its line of the index is written after its samples.

        Raises:
            AudioError: the file cannot be read, or is not what the manifest says.
        """
        refuse_changed(path, digest)
        stat = os.stat(path)
        waveform = read_audio(path, sample_rate=sample_rate, resample=resample)
        start, length = int(self.index["start"][row]), int(self.index["length"][row])
        if len(waveform) != length:
            raise AudioError(f"{path}: {len(waveform)} samples, the manifest says {length}; run `cpc manifest` again")
        silent = waveform.min() == waveform.max()
        mean, std = (float(waveform[0]), 0.0) if silent else statistics_of(waveform, path)
        exact = waveform * np.float32(_FULL_SCALE)
        is_16_bit = bool((exact == np.rint(exact)).all() and np.abs(exact + 0.5).max() < _FULL_SCALE)
        scale = np.float32(1 / _FULL_SCALE) if is_16_bit else np.float32(np.abs(waveform).max() / (_FULL_SCALE - 1))
        self._samples[start : start + length] = np.rint(waveform / scale)
        line = self.index[row]
        line["scale"], line["mean"], line["std"] = scale, mean, std
        line["file_bytes"], line["file_mtime_ns"] = stat.st_size, stat.st_mtime_ns

    def is_current(self, row: int, path: Sound) -> bool:
        """Whether utterance `row` is in the cache and its sound file has not changed since."""
        line = self.index[row]
        if line["scale"] == 0:
            return False
        try:
            stat = os.stat(path)
        except OSError:
            return False
        return bool(line["file_bytes"] == stat.st_size and line["file_mtime_ns"] == stat.st_mtime_ns)


def open_cache(
    manifest: Manifest,
    folder: str | Path,
    num_samples: NDArray[np.int64],
    *,
    sample_rate: int,
    resample: bool,
    on_bad: Callable[[int, AudioError], None],
) -> Cache:
    """Open the cache of a manifest, and first decode what is missing or out of date, with a progress bar.

    Args:
        manifest: the utterances.
        folder: the cache's folder, which may be new.
        num_samples: (U,) lengths at `sample_rate`; 0 for utterances that are not wanted.
        sample_rate: Hz.
        resample: whether files of other rates are resampled; otherwise they are an error.
        on_bad: called with the row of a file that cannot be read and its error, which it may raise; what was decoded so
            far is kept.

    Raises:
        ClaimError: the folder holds something else, or the cache of other utterances or of another rate.
        CacheError: the cache is damaged, or its disk has too little space.
    """
    folder = Path(folder)
    digest = hashlib.blake2b("\n".join(manifest.paths).encode(), digest_size=16)
    digest.update(num_samples.astype("<i8").tobytes())
    if (manifest.starts >= 0).any():
        digest.update(manifest.starts.astype("<i8").tobytes())
    # The rate comes first: the utterances' lengths depend on it, and a message names the first difference.
    identity = {"sample_rate": sample_rate, "utterances": digest.hexdigest()}
    if (manifest.sample_rates[num_samples > 0] != sample_rate).any():
        identity["resampler"] = RESAMPLER
    claimed = claim(folder, identity, record="cache.json", what="decoded audio")
    if not claimed.complete and not (folder / "index.npy").exists():
        _reserve(claimed, num_samples, sample_rate)
    cache = Cache(folder)
    missing = [int(i) for i in np.flatnonzero(num_samples) if not cache.is_current(int(i), manifest.sound(int(i)))]
    seconds = np.rint(num_samples / sample_rate).astype(int)  # files differ in length, so their number would mislead
    with tqdm(total=int(seconds[missing].sum()), desc="cache", unit="audio-s", disable=not missing) as bar:
        for i in missing:
            try:
                cache.fill(i, manifest.sound(i), manifest.file_hashes[i], sample_rate=sample_rate, resample=resample)
            except AudioError as error:
                on_bad(i, error)
            bar.update(int(seconds[i]))
    if not claimed.complete:
        claimed.finish()
    return cache


def _reserve(claimed: Claim, num_samples: NDArray[np.int64], sample_rate: int) -> None:
    """Reserve the space of all samples, then write an index in which no utterance is whole."""
    folder, total_bytes = claimed.record.parent, 2 * int(num_samples.sum())
    free = shutil.disk_usage(folder).free
    hours, needed = num_samples.sum() / sample_rate / 3600, f"{total_bytes / 1e9:.2f} GB"
    print(f"cache: {needed} for {hours:.1f} h in {folder} ({free / 1e9:.1f} GB free)", file=sys.stderr)
    if total_bytes > free:
        claimed.record.unlink()  # nothing was written, so the folder is not taken
        raise CacheError(
            f"{folder}: the cache needs {needed}, {free / 1e9:.2f} GB are free; free some space or pass another "
            "--data.cache"
        )
    with (folder / "samples.int16").open("wb") as f:
        if hasattr(os, "posix_fallocate"):  # if the disk filled up later, writing to the map would kill the process
            os.posix_fallocate(f.fileno(), 0, total_bytes)
        f.truncate(total_bytes)
    index = np.zeros(len(num_samples), _INDEX)
    index["length"] = num_samples
    index["start"] = np.cumsum(num_samples) - num_samples
    with replacing(folder / "index.npy") as unfinished, unfinished.open("wb") as f:
        np.save(f, index)
