"""Measure how fast training, extraction and probes are beside processes that keep a core busy each."""

import contextlib
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from cpc.config import read_config
from cpc.data import read_manifest
from cpc.devices import Threads
from cpc.experiments import override
from cpc.features import CPCExtractor, extract_features
from cpc.probes import Options
from cpc.probes.frames import Sample
from cpc.probes.hidden import fit_hidden_layer
from cpc.runs import build_model
from cpc.train.distributed import Ranks
from cpc.train.loop import step
from cpc.train.networks import build_represent
from cpc.train.setup import build_data, build_parts
from tests.bench.common import print_result, result_of_variant

BUSY = (0, 1, 2)  # processes
SETTLING = 0.4  # of the time for which a rate is measured; "auto" notices in it what has changed

Rate = Callable[[float], float]  # seconds to work → units a second


def print_contention(options: Namespace) -> None:
    """Print units a second alone and beside busy processes, for fixed numbers of threads and for "auto"."""
    if options.variant:
        job, threads = options.variant.split(":")
        with JOBS[job](options, threads if threads == "auto" else int(threads)) as rate:
            print_result([_beside(busy, rate, options.seconds) for busy in BUSY])
        return
    beside = "".join(f"{f'beside {busy}':>22s}" for busy in BUSY[1:])
    print(f"{'':32s}{'alone':>12s}{beside}")
    flags = ["--manifest", options.manifest, "--seconds", str(options.seconds)]
    for job, unit in (("train", "updates"), ("features", "files"), ("probe", "epochs")):
        alone_at_best = 0.0
        for threads in ("auto",) if job == "probe" else (str(options.threads), "1", "auto"):
            rates = result_of_variant(options, "contention", f"{job}:{threads}", *flags)
            alone_at_best = alone_at_best or rates[0]
            slower = "".join(f"{rate:14.2f}/s {rate / alone_at_best:4.0%}" for rate in rates[1:])
            name = f"{job}, {unit}, --threads {threads}"
            print(f"{name:32s}{rates[0]:10.2f}/s {slower}", flush=True)


@contextlib.contextmanager
def _training(options: Namespace, threads: int | str) -> Iterator[Rate]:
    """Train the preset small."""
    changes = {"data.manifest": options.manifest, "data.short": "pad"}  # so that a small corpus fills a batch, too
    config = override(read_config("small"), changes, where="contention")
    torch.manual_seed(0)
    network, device = build_model(config), torch.device("cpu")
    with Threads(threads) as adapting:  # type: ignore[arg-type]
        parts = build_parts(config, network, build_data(config, network.g_enc.geometry), device, Ranks(), adapting)
        represent = build_represent(config, network, parts.profile, device, 0)
        batches = cycle(list(islice(parts.batches(0), 20)))

        def update() -> None:
            adapting.adapt()
            step(parts, represent, [next(batches)], lr=1e-3, update=1)

        yield lambda seconds: _repeat(update, seconds)


@contextlib.contextmanager
def _extracting(options: Namespace, threads: int | str) -> Iterator[Rate]:
    """Extract c of a random network of the preset small."""
    extractor = CPCExtractor(build_model(read_config("small")), "c", precision="bf16")
    manifest = read_manifest(options.manifest)

    def rate(seconds: float) -> float:
        with TemporaryDirectory() as folder:
            out, began = Path(folder) / "features", time.monotonic()
            with contextlib.suppress(_TimeIsUp), _watched(extractor, seconds):
                extract_features(extractor, manifest, out, resample=True, threads=threads, progress=False)  # type: ignore[arg-type]
            return len(list(out.glob("frames/*.npy"))) / (time.monotonic() - began)

    yield rate


class _TimeIsUp(Exception):
    """The end of a measurement."""


@contextlib.contextmanager
def _watched(extractor: CPCExtractor, seconds: float) -> Iterator[None]:
    """End an extraction after some seconds."""
    original, ends = extractor.frames_of, time.monotonic() + seconds

    def frames_of(waveforms: object) -> object:
        if time.monotonic() > ends:
            raise _TimeIsUp
        return original(waveforms)  # type: ignore[arg-type]

    extractor.frames_of = frames_of  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        extractor.frames_of = original  # type: ignore[method-assign]


@contextlib.contextmanager
def _probing(options: Namespace, threads: int | str) -> Iterator[Rate]:
    """Fit a hidden layer to 30,000 frames of 256 dimensions with 40 classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 256)).astype(np.float32)
    y = (x @ rng.standard_normal((256, 40)) + 20 * rng.standard_normal((len(x), 40))).argmax(1)
    train, dev = Sample(x, y), Sample(x[:1000], y[:1000])

    def rate(seconds: float) -> float:
        began, epochs = time.monotonic(), 0

        def tell(_: str) -> None:
            nonlocal epochs
            epochs += 1
            if time.monotonic() > began + seconds:
                raise _TimeIsUp

        while time.monotonic() < began + seconds:  # a fit may end sooner
            with contextlib.suppress(_TimeIsUp):
                fit_hidden_layer(train, dev, Options(), tell)
        return epochs / (time.monotonic() - began)

    assert threads == "auto"
    yield rate


JOBS = {"train": _training, "features": _extracting, "probe": _probing}


def _repeat(unit: Callable[[], None], seconds: float) -> float:
    """Do units for some seconds, and return how many a second."""
    began, count = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        unit()
        count += 1
    return count / (time.monotonic() - began)


def _beside(busy: int, rate: Rate, seconds: float) -> float:
    """Measure a rate beside some processes that keep a core busy each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        rate(SETTLING * seconds)
        return rate(seconds)
    finally:
        for process in processes:
            process.kill()
            process.wait()
