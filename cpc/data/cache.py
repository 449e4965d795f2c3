"""Decoded audio in one memory-mapped file, for when decoding at each use is what training waits for.

A cache folder holds

    cache.json       which utterances, in which order, at which rate
    index.npy        for each: where it starts, its scale, its mean and deviation, size and time of its sound file
    samples.int16    all utterances end to end

A sample is int16 · scale. For mono 16-bit files at the rate asked for that is exact; other sources are scaled by their
peak and rounded to 16 bits. The index says for every utterance whether it is whole, so an interrupted build goes on
where it was, and an utterance whose file changed since is decoded again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cpc.data.audio import AudioError, Waveform, read_audio, statistics_of
from cpc.data.manifest import Manifest
from cpc.files import write_bytes

_FULL_SCALE = 32768
_INDEX = np.dtype(
    [
        ("start", "<i8"), ("length", "<i8"), ("scale", "<f4"), ("mean", "<f8"), ("std", "<f8"),
        ("file_bytes", "<i8"), ("file_mtime_ns", "<i8"),
    ]
)  # fmt: skip


class CacheError(ValueError):
    """A cache folder that cannot be used; one line: where, what, the way out."""


class Cache:
    """The audio of a manifest's utterances, decoded once; opened, completed or built by `open_cache`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.index = np.load(folder / "index.npy", mmap_mode="r+")
            self._samples = np.memmap(folder / "samples.int16", np.int16, mode="r+")
            whole = len(self._samples) == self.index["length"].sum()
        except (OSError, ValueError):
            whole = False
        if not whole:
            raise CacheError(f"{folder}: damaged, index and samples do not fit; remove it, it is built again")

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:
        """Processes that read audio map the files themselves; by itself numpy would copy all samples to each."""
        return Cache, (self.folder,)

    def statistics(self, row: int, path: Path) -> tuple[float, float]:
        """Mean and deviation of a whole utterance, as `audio.statistics` measures them; `path` names it in errors."""
        mean, std = float(self.index["mean"][row]), float(self.index["std"][row])
        if std == 0:
            raise AudioError(f"{path}: silent, all samples are {mean:g}; remove it from the manifest")
        return mean, std

    def read(self, row: int, start: int, stop: int) -> Waveform:
        """Samples [start, stop) of utterance `row`, (stop - start,) float32."""
        first = int(self.index["start"][row])
        waveform: Waveform = self._samples[first + start : first + stop] * self.index["scale"][row]
        return waveform

    def fill(self, row: int, path: Path, *, sample_rate: int, resample: bool) -> None:
        """Decode utterance `row`; its line of the index is written when its samples are."""
        stat = path.stat()
        waveform = read_audio(path, sample_rate=sample_rate, resample=resample)
        start, length = int(self.index["start"][row]), int(self.index["length"][row])
        if len(waveform) != length:
            raise AudioError(
                f"{path}: {len(waveform)} samples, the manifest promises {length}; run `cpc manifest` again"
            )
        silent = waveform.min() == waveform.max()
        mean, std = (float(waveform[0]), 0.0) if silent else statistics_of(waveform, path)
        exact = waveform * np.float32(_FULL_SCALE)
        is_16_bit = bool((exact == np.rint(exact)).all() and np.abs(exact + 0.5).max() < _FULL_SCALE)
        scale = np.float32(1 / _FULL_SCALE) if is_16_bit else np.float32(np.abs(waveform).max() / (_FULL_SCALE - 1))
        self._samples[start : start + length] = np.rint(waveform / scale)
        line = self.index[row]
        line["scale"], line["mean"], line["std"] = scale, mean, std
        line["file_bytes"], line["file_mtime_ns"] = stat.st_size, stat.st_mtime_ns

    def is_current(self, row: int, path: Path) -> bool:
        """Whether utterance `row` is there, and its sound file is as it was."""
        line = self.index[row]
        if line["scale"] == 0:
            return False
        stat = path.stat()
        return bool(line["file_bytes"] == stat.st_size and line["file_mtime_ns"] == stat.st_mtime_ns)


def open_cache(
    manifest: Manifest, folder: str | Path, num_samples: NDArray[np.int64], *, sample_rate: int, resample: bool
) -> Cache:
    """Open the cache of a manifest; what is missing or out of date is decoded first, with a bar.

    Args:
        manifest: the utterances.
        folder: where the cache is, or is to be.
        num_samples: (U,) lengths at `sample_rate`; 0 for utterances that are not wanted.
        sample_rate: Hz.
        resample: whether files of other rates are resampled; otherwise they are an error.

    Raises:
        CacheError: a folder of something else, or too little space on its disk.
        AudioError: a file that cannot be read; what was decoded stays.
    """
    folder = Path(folder)
    digest = hashlib.blake2b("\n".join(map(str, manifest.table["path"])).encode(), digest_size=16)
    digest.update(num_samples.astype("<i8").tobytes())
    settings = {"utterances": digest.hexdigest(), "sample_rate": sample_rate}
    total_bytes = 2 * int(num_samples.sum())
    where = folder / "cache.json"
    if where.exists():
        if where.read_text() != json.dumps(settings):
            raise CacheError(
                f"{folder}: the cache of another manifest or rate; pass another --data.cache, or remove it"
            )
    else:
        if folder.exists() and any(path.name not in ("index.npy", "samples.int16") for path in folder.iterdir()):
            raise CacheError(f"{folder}: not empty and no cache; pass another --data.cache")
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        print(
            f"cache: {total_bytes / 1e9:.2f} GB for {num_samples.sum() / sample_rate / 3600:.1f} h in {folder} "
            f"({free / 1e9:.1f} GB free)", file=sys.stderr,
        )  # fmt: skip
        if total_bytes > free:
            raise CacheError(f"{folder}: the cache needs {total_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free")
        index = np.zeros(len(manifest), _INDEX)
        index["length"] = num_samples
        index["start"] = np.cumsum(num_samples) - num_samples
        np.save(folder / "index.npy", index)
        with (folder / "samples.int16").open("wb") as f:
            if hasattr(os, "posix_fallocate"):  # on a disk that fills later, writing to the map would kill the process
                os.posix_fallocate(f.fileno(), 0, total_bytes)
            f.truncate(total_bytes)
        write_bytes(where, json.dumps(settings).encode())
    cache = Cache(folder)
    wanted = np.flatnonzero(num_samples).tolist()
    missing = [i for i in wanted if not cache.is_current(i, manifest.audio_path(i))]
    for i in tqdm(missing, desc="cache", unit="file", disable=not missing):
        cache.fill(i, manifest.audio_path(i), sample_rate=sample_rate, resample=resample)
    return cache
