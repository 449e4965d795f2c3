"""The expected cost of a run in hours and gigabytes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from corpus import ARCHIVE_GB, FRACTIONS, HOURS, find

from cpc.config import Config
from cpc.devices import resolve_device
from cpc.experiments import Probe, Stages, measure_speed, plan
from cpc.features import Dtype

DTYPE: Dtype = "float16"  # type of frames on disk: c of the whole corpus takes 18.5 GB, in float32 37
DOWNLOAD_GB_PER_HOUR, DECODING, ALIGNING = 36, 300, 28  # the last two: times real time, per core
PROBED = {"phone": 20_000, "speaker": 6_000}  # frames per second and core, on a busy machine
ASSUMED = (
    f"a download of {DOWNLOAD_GB_PER_HOUR / 3.6:.0f} MB/s; a core that decodes at {DECODING} × and aligns at "
    f"{ALIGNING} × real time, and probes {PROBED['phone']} frames a second for phones and {PROBED['speaker']} for "
    "speakers; supervised updates as long as CPC's"
)


def show_plan(
    stages: Stages, config: Config, probes: Mapping[str, Sequence[Probe]], options: argparse.Namespace
) -> None:
    """Print what a run would do, with hours and gigabytes: the speed measured here, the size of the corpus on disk.

    Args:
        stages: the experiment.
        config: the pretraining run.
        probes: the probes of each stage.
        options: the command line.
    """
    corpus = find(options.root)
    print(f"measuring the speed of {options.preset} on {resolve_device(options.device)}", file=sys.stderr)
    speed = measure_speed(config)
    corpus_gb = sum(file.stat().st_size for file in corpus.rglob("*.flac")) / 1e9 if corpus else ARCHIVE_GB
    hours = HOURS * corpus_gb / ARCHIVE_GB
    frames = hours * 3600 * 100
    gb_per_dimension = frames * np.dtype(DTYPE).itemsize / 1e9
    z, c = config.encoder.channels * gb_per_dimension, config.autoregressor.hidden * gb_per_dimension
    training, extraction = config.train.num_updates * speed.update_seconds / 3600, hours / speed.extraction
    cores = min(os.cpu_count() or 1, 8)
    read = options.probe_frames or 4 * FRACTIONS[0] * frames  # streaming makes four passes over all train frames
    probing = {
        stage: sum(read / (PROBED[probe.task] * cores) / 3600 for probe in asked) for stage, asked in probes.items()
    }
    costs = {
        "download": (corpus_gb / DOWNLOAD_GB_PER_HOUR, 2 * corpus_gb),
        "manifest": (hours / (DECODING * (os.cpu_count() or 1)), 0.0),
        "labels": (0.0 if options.labels else hours / (ALIGNING * options.jobs), 3 * frames / 1e9),
        "train": (training, 0.0),
        "features": (2 * extraction, z + c),
        "probes": (probing["probes"], 0.0),
        "baselines": (2 * extraction + probing["baselines"], c + 39 * gb_per_dimension),
        "topline": (2 * training + 2 * extraction + probing["topline"], 2 * c),
    }
    print(plan(stages, costs))
    place = next(folder for folder in (options.out.resolve(), *options.out.resolve().parents) if folder.exists())
    print(
        f"\n{hours:.1f} hours of audio; measured here: {speed.update_seconds:.3g} s per update, features at "
        f"{speed.extraction:.0f} × real time; assumed: {ASSUMED}; free at {place}: "
        f"{shutil.disk_usage(place).free / 1e9:.0f} GB"
    )
    command = f"cpc train {options.preset} --data.manifest {config.data.manifest} --seed {config.seed}"
    print(f"stage train is: {command} --train.num-updates {config.train.num_updates} --out {options.out}")
