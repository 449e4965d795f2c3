"""Fixtures: a small corpus of synthetic sounds in LibriSpeech's layout, and a configuration that trains in seconds."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

# One thread, here and in every process that a test starts: so little is computed that several would only wait for each
# other, and with one, runs repeat to the bit beside other work. Libraries read it when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from cpc.cli import main
from cpc.config import (
    AutoregressorConfig,
    BatchConfig,
    Config,
    CriterionConfig,
    DataConfig,
    EncoderConfig,
    OptimConfig,
    TrainConfig,
)
from cpc.data import Manifest, read_manifest, scan_folder, split_manifest, write_manifest
from cpc.probes import AbxResult, AbxScore
from cpc.probes.abx import CONDITIONS
from cpc.probes.result import Origin
from cpc.runs import read_checkpoint, read_metrics

TINY = """
[data]
window_samples = 4000
[batches]
num_windows = 4
[encoder]
channels = 16
[autoregressor]
hidden = 8
[criterion]
num_steps = 3
[train]
"""  # sections of a run that takes seconds; more lines of the last one may follow


def load_script(path: Path) -> ModuleType:
    """Load a recipe's script as a module, because recipes are not a package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def recipe_script(path: Path) -> Iterator[ModuleType]:
    """Load a recipe's script, with its siblings where Python finds them for a script that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        yield load_script(path)


def abx_result(*scores: AbxScore, **changes: object) -> AbxResult:
    """Make a result of ABX with a score for each of CONDITIONS."""
    counts = {name: 3 for name in ("num_items", "num_items_without_frames", "num_phones", "num_speakers")}
    counts |= {"num_available_speakers": 9, "max_items": 10, "max_x_speakers": 5, "seed": 0}
    others = {"items": "labels", "evaluate": "dev", "seconds": 1.5, "versions": {"fastabx": "0.9.0"}}
    origin = {"features": Origin("cpc", "c", 4)}
    return AbxResult(**{**dict(zip(CONDITIONS, scores, strict=True)), **counts, **others, **origin, **changes})


def write_sound(path: Path, seconds: float, seed: int, rate: int = 16000) -> None:
    """Write a tone that changes its pitch every 800 samples, with noise, so that there is something to predict."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    frequency = np.repeat(rng.uniform(100, 1000, n // 800 + 1), 800)[:n]
    wave = np.sin(2 * np.pi * np.cumsum(frequency) / rate) + 0.1 * rng.standard_normal(n)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * wave / np.abs(wave).max(), rate)


def make_corpus(root: Path, *, speakers: int = 3, utterances: int = 5, rate: int = 16000) -> Path:
    """Write `speakers` × `utterances` FLAC files of 1 to 2 s and a manifest split by utterance; return its path."""
    for s in range(speakers):
        for u in range(utterances):
            name = f"{s + 1}/{10 * (s + 1)}/{s + 1}-{10 * (s + 1)}-{u:04d}.flac"
            write_sound(root / name, 1 + 0.2 * u, 100 * s + u, rate)
    table = split_manifest(scan_folder(root, progress=False).manifest, by="utterance", fractions=(0.6, 0.2, 0.2))
    write_manifest(table, root / "manifest.csv")
    return root / "manifest.csv"


def without_file_hashes(path: Path) -> Manifest:
    """Read a manifest as earlier versions and other tools make it: nothing in it notices a file that changed."""
    manifest = read_manifest(path)
    return Manifest(manifest.root, manifest.table.drop(columns="file_hash"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The manifest of a small corpus, which tests read and never change."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def tiny_config(manifest: Path, **changes) -> Config:
    """Return the configuration of a run that takes a second or two, with some sections replaced."""
    parts = dict(
        device="cpu",
        data=DataConfig(manifest=str(manifest), window_samples=4000),
        batches=BatchConfig(num_windows=4, windows_per_group=2),
        encoder=EncoderConfig(channels=16),
        autoregressor=AutoregressorConfig(hidden=8),
        criterion=CriterionConfig(num_steps=3),
        optim=OptimConfig(lr=1e-3, warmup_updates=3, schedule="cosine", clip_norm=1.0),
        train=TrainConfig(num_updates=12, log_every=4, validate_every=6, validate_batches=2, checkpoint_every=5),
    )
    return Config(**{**parts, **changes})


def cpc(*arguments: object) -> None:
    """Run the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cpc", *map(str, arguments)])
        main()


def exit_status(*arguments: object, command: Callable[[], None] = main) -> int:
    """Run the command line, or a script's main function, in this process; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cpc", *map(str, arguments)])
        try:
            command()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def measured(run: Path) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl without their times."""
    times = ("seconds", "audio_seconds_per_second")
    return [{k: v for k, v in line.items() if k not in times} for line in read_metrics(run / "metrics.jsonl")]


@contextmanager
def tampered(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """Yield the content of a checkpoint to change; it is saved without a checksum, as by an earlier version."""
    payload = read_checkpoint(checkpoint)[1]
    payload["model"] = {name: weight.clone() for name, weight in payload["model"].items()}
    yield payload
    if checkpoint.suffix == ".pt":
        torch.save(payload, checkpoint)
    else:
        weights = payload.pop("model")
        save_file(weights, checkpoint, {"cpc": json.dumps(payload)})
