"""The expected cost of a run in hours and gigabytes."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from corpus import FRACTIONS, Subset
from paper import DTYPE, Paper

from cpc.config import Config
from cpc.devices import resolve_device
from cpc.experiments import Pipeline, Probe, Stages, measure_speed, plan

FRAMES_PER_HOUR = 360_000
DOWNLOAD_GB_PER_HOUR, DECODING, ALIGNING = 36, 300, 28  # the last two: times real time, per core
STREAMED = {"phone": 20_000, "speaker": 6_000}  # frames per second and core, on a busy machine
DRAWN = 3_000  # the same for frames that fit into memory: recipes/minispeech, 8 × 100,000 in 131 s on two cores
ASSUMED = (
    f"a download of {DOWNLOAD_GB_PER_HOUR / 3.6:.0f} MB/s; a core that decodes at {DECODING} × and aligns at "
    f"{ALIGNING} × real time, and probes {DRAWN} frames a second, or {STREAMED['phone']} (phones) and "
    f"{STREAMED['speaker']} (speakers) if they are streamed; supervised updates as long as CPC's"
)


def show_plan(stages: Stages, experiment: Paper | Pipeline, subset: Subset, root: Path, *, jobs: int) -> None:
    """Print what a run would do, with hours and gigabytes: the speed measured here, the size of the corpus on disk.

    Args:
        stages: all stages of the run.
        experiment: what is trained and probed.
        subset: the part of the corpus.
        root: where the corpus is, or will be.
        jobs: number of processes that align and probe.
    """
    config, corpus, cores = experiment.config, subset.find(root), os.cpu_count() or 1
    print(f"measuring the speed of the network on {resolve_device(config.device)}", file=sys.stderr)
    speed = measure_speed(config)
    corpus_gb = sum(file.stat().st_size for file in corpus.rglob("*.flac")) / 1e9 if corpus else subset.archive_gb
    hours = subset.hours * corpus_gb / subset.archive_gb
    frames, training = hours * FRAMES_PER_HOUR, config.train.num_updates * speed.update_seconds / 3600
    is_aligned = "transcripts" in stages.stages["labels"].inputs
    costs = {
        "download": (corpus_gb / DOWNLOAD_GB_PER_HOUR, 2 * corpus_gb),
        "manifest": (hours / (DECODING * cores), 0.0),
        "labels": (hours / (ALIGNING * jobs) if is_aligned else 0.0, 3 * frames / 1e9),
        "train": (training, 0.0),
        "topline": (2 * training, 0.0),
    }
    number_gb = np.dtype(DTYPE if isinstance(experiment, Paper) else "float32").itemsize / 1e9
    for folder in dict.fromkeys(probe.frames for probe in experiment.probes()):
        before = costs.get(stage := maker(stages, folder), (0.0, 0.0))
        gigabytes = dimension(folder.name, config) * frames * number_gb
        costs[stage] = (before[0] + hours / speed.extraction, before[1] + gigabytes)
    for probe in experiment.probes():
        before = costs.get(stage := maker(stages, probe.result), (0.0, 0.0))
        costs[stage] = (before[0] + probing_hours(probe, FRACTIONS[0] * frames) / min(jobs, cores), before[1])
    print(plan(stages, costs))
    out = stages.out.resolve()
    place = next(folder for folder in (out, *out.parents) if folder.exists())
    print(
        f"\n{hours:.1f} hours of audio; measured here: {speed.update_seconds:.3g} s per update, features at "
        f"{speed.extraction:.0f} × real time; assumed: {ASSUMED}; free at {place}: "
        f"{shutil.disk_usage(place).free / 1e9:.0f} GB"
    )


def maker(stages: Stages, path: Path) -> str:
    """Name the stage that makes a file or folder."""
    outputs = {output: name for name, stage in stages.stages.items() for output in stage.outputs}
    return next(outputs[place] for place in (path, *path.parents) if place in outputs)


def dimension(row: str, config: Config) -> int:
    """Return the dimension of a row's frames; a context of R frames stacks every second one."""
    own = {"mfcc": 39, "cpc_z": config.encoder.channels}
    context = re.search(r"_context(\d+)$", row)
    size = next((size for name, size in own.items() if row.startswith(name)), config.autoregressor.hidden)
    return size * (int(context[1]) + 1 if context else 1)


def probing_hours(probe: Probe, train_frames: float) -> float:
    """Return the hours of a probe on one core; streaming makes four passes over all train frames."""
    drawn = probe.options.max_frames
    return (drawn / DRAWN if drawn else 4 * train_frames / STREAMED[probe.task]) / 3600
