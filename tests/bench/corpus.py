"""Time what reads a corpus: manifests and windows, a corpus of many hours, and feature extraction."""

import csv
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from cpc.config import Config
from cpc.data import (
    BatchSampler,
    Composition,
    Manifest,
    WindowOptions,
    Windows,
    read_manifest,
    scan_folder,
    write_manifest,
)
from cpc.features import CPCExtractor, extract_features
from cpc.model import CPC
from cpc.runs import build_model
from tests.bench.common import lines_of_variant, peak_megabytes, private_megabytes

WINDOWS = WindowOptions(resample=True)


def print_data(options: Namespace) -> None:
    """Print the start-up time with a manifest of many rows, then windows per second from files and from memory."""
    manifest = read_manifest(options.manifest)
    with TemporaryDirectory() as folder:
        for rows in (len(manifest), options.rows):
            _print_start(_write_repeated(manifest, rows, Path(folder) / "manifest.csv"))
    windows = Windows(manifest, WINDOWS)
    order = np.random.default_rng(0).permutation(len(windows))[:400]
    _print_rate("files, with their statistics", windows, order)
    _print_rate("files", windows, order)
    windows = Windows(manifest, replace(WINDOWS, cache_megabytes=4096))
    for i in order:  # fill the memory
        windows[0, int(i)]
    _print_rate("memory", windows, order)
    with TemporaryDirectory() as folder:
        _print_rate("cache", Windows(manifest, replace(WINDOWS, cache=folder)), order)


def _write_repeated(manifest: Manifest, rows: int, path: Path) -> Path:
    """Write a manifest that repeats the rows of another under new utterance ids."""
    columns = {name: manifest.column(name) for name in manifest.columns}
    columns["path"] = [str(manifest.audio_path(i).resolve()) for i in range(len(manifest))]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for i in range(rows):
            row = {name: values[i % len(manifest)] for name, values in columns.items()}
            writer.writerow(row | {"utterance": f"{row['utterance']}-{i}"})
    return path


def _print_start(path: Path) -> None:
    """Print how long it takes to read a manifest and deal the first batch, and the memory that this takes."""
    before, began = peak_megabytes(), time.perf_counter()
    manifest = read_manifest(path)
    read = time.perf_counter() - began
    windows = Windows(manifest, WINDOWS)
    composition = Composition("mixed", num_windows=8, windows_per_group=4, seed=0)
    first = next(iter(BatchSampler(windows, composition, 0, 10)))
    total = time.perf_counter() - began
    assert len(first) == 8
    took = f"manifest {read:.1f} s, first batch at {total:.1f} s, {peak_megabytes() - before:.0f} MB"
    print(f"{len(manifest):8d} rows, {manifest.seconds.sum() / 3600:7.1f} h: {took}")


def _print_rate(name: str, windows: Windows, order: Iterable[int]) -> None:
    """Print the rate at which one process reads windows."""
    indices = [int(i) for i in order]
    began = time.perf_counter()
    for i in indices:
        windows[0, i]
    print(f"{name:40s} {len(indices) / (time.perf_counter() - began):9.0f} windows/s a process")


def print_hours(options: Namespace) -> None:
    """Print start-up, rate and memory for a corpus of many hours, read from files and from a cache.

    The corpus repeats the manifest's files under other names. They are few, so the system holds them in memory: the
    table measures our part and not a disk.
    """
    if options.variant:
        _print_opened(options)
        return
    manifest = read_manifest(options.manifest)
    with TemporaryDirectory() as folder:
        sound = Path(folder) / "sound"
        for copy in range(max(1, round(options.hours / (manifest.seconds.sum() / 3600)))):
            for i, path in enumerate(manifest.paths):
                link = sound / f"{copy:04d}" / path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(manifest.audio_path(i).resolve())
        began = time.perf_counter()
        scanned = scan_folder(sound, speaker="none", progress=False).manifest
        write_manifest(scanned, sound / "manifest.csv")
        print(f"cpc manifest: {len(scanned)} files in {time.perf_counter() - began:.1f} s", flush=True)
        for name in ("files", "cache"):
            lines = lines_of_variant(options, "hours", name, "--manifest", str(sound / "manifest.csv"))
            print("\n".join(lines), flush=True)


def _print_opened(options: Namespace) -> None:
    """Read windows at random and print the rate; the memory of the process must level out."""
    before, began = private_megabytes(), time.perf_counter()
    manifest = read_manifest(options.manifest)
    cache = str(manifest.root / "cache") if options.variant == "cache" else ""
    windows = Windows(manifest, replace(WINDOWS, cache_megabytes=256, cache=cache))
    opened, audio_hours = time.perf_counter() - began, manifest.seconds.sum() / 3600
    quarters = np.array_split(np.random.default_rng(0).permutation(len(windows))[:4000], 4)
    marks, began = [], time.perf_counter()
    for quarter in quarters:
        for i in quarter:
            windows[0, int(i)]
        marks.append(f"{private_megabytes() - before:.0f}")
    count = sum(map(len, quarters))
    rate = count / (time.perf_counter() - began)
    memory = f"{', '.join(marks)} MB of its own more after each quarter of {count} windows"
    source = f"{options.variant:6s} {audio_hours:6.1f} h"
    print(f"{source}: opened in {opened:6.1f} s, {rate:6.0f} windows/s a process; {memory}")


def print_features(options: Namespace) -> None:
    """Print how many times faster than real time features are extracted, from short files and from long ones."""
    if options.variant:
        _print_long_files(options)
        return
    manifest, network = read_manifest(options.manifest), random_network(options.channels)
    seconds = manifest.seconds.sum()
    with TemporaryDirectory() as folder:
        for precision in ("float32", "bf16"):
            name, extractor = f"c, {precision}", CPCExtractor(network, "c", precision=precision)
            began = time.perf_counter()
            extract_features(extractor, manifest, Path(folder) / name, resample=True, progress=False)
            taken = time.perf_counter() - began
            print(f"{name}: {len(manifest)} files, {seconds:.0f} s in {taken:.1f} s: {seconds / taken:.0f} x real time")
    minutes = [str(value) for value in options.minutes]
    print("\n".join(lines_of_variant(options, "features", "long", "--minutes", *minutes)))


def _print_long_files(options: Namespace) -> None:
    """Extract one long file after the other; the peak of memory must not grow with the length."""
    extractor = CPCExtractor(random_network(options.channels), "c", precision="bf16")
    with TemporaryDirectory() as folder:
        for minutes in options.minutes:
            path = Path(folder) / str(minutes) / "long.flac"
            path.parent.mkdir()
            with soundfile.SoundFile(path, "w", 16000, 1) as file:
                for i in range(minutes):
                    file.write(0.1 * np.random.default_rng(i).standard_normal(16000 * 60))
            manifest = scan_folder(path.parent, speaker="none", progress=False).manifest
            began = time.perf_counter()
            extract_features(extractor, manifest, Path(folder) / f"features_{minutes}", progress=False)
            speed = 60 * minutes / (time.perf_counter() - began)
            print(f"c, bf16: a file of {minutes} min: {speed:.0f} x real time, peak {peak_megabytes():.0f} MB")


def random_network(channels: int) -> CPC:
    """Build a network of this width with random weights and without normalisation."""
    default = Config()
    return build_model(replace(default, encoder=replace(default.encoder, channels=channels, norm="none")))
