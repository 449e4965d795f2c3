"""Changes to the preset small that no field of its configuration makes: starts of the weights, schedule-free AdamW.

    pip install schedulefree
    python recipes/minispeech/study_more.py [--corpus runs/minispeech/corpus] [--out runs/study_more] [--only NAME …]

Probed as the rows of study.toml, on the dev split, by the last weights. The training loop is written out below, so that
any line of it can be changed; "small" is the preset in this loop: the weights of `cpc train small`. What is finished is
kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cpc import ablate, checkpoint, manifest, model, optim
from cpc import config as configuration
from cpc.batches import BatchSampler
from cpc.config import Config
from cpc.files import write_bytes
from cpc.infonce import infonce
from cpc.memory import keep_freed_buffers
from cpc.negatives import Negatives
from cpc.train import resolve_precision
from cpc.windows import Windows, collate


def as_conv1d(network: model.CPC) -> None:
    """Start the convolutions as torch.nn.Conv1d does: uniform in ±1/sqrt(fan-in), biases too."""
    for conv in network.g_enc.convs:
        bound = len(conv.weight) ** -0.5
        nn.init.uniform_(conv.weight, -bound, bound)
        nn.init.uniform_(conv.bias, -bound, bound)


def small_predictor(network: model.CPC) -> None:
    """Start every W_k ten times as small: the first scores are next to 0."""
    with torch.no_grad():
        network.W.weight.mul_(0.1)


def orthogonal_recurrence(network: model.CPC) -> None:
    """Start each gate's recurrent matrix orthogonal."""
    for gate in network.g_ar.rnn.weight_hh_l0.chunk(3):
        nn.init.orthogonal_(gate.data)


class Setting(NamedTuple):
    """What differs from the preset."""

    start: Callable[[model.CPC], None] = lambda network: None
    schedule_free_lr: float = 0.0  # of schedule-free AdamW; 0: the preset's Muon


SETTINGS = {
    "small": Setting(),
    "convolutions start as Conv1d's": Setting(as_conv1d),
    "W_k start a tenth as large": Setting(small_predictor),
    "orthogonal recurrence": Setting(orthogonal_recurrence),
    "schedule-free AdamW 2e-3": Setting(schedule_free_lr=2e-3),
    "schedule-free AdamW 5e-3": Setting(schedule_free_lr=5e-3),
}


def train(config: Config, setting: Setting, path: Path) -> None:
    """Train as `cpc train` does on one CPU, and write the last weights."""
    keep_freed_buffers()
    torch.manual_seed(config.seed)
    network = model.build(config)
    setting.start(network)
    bf16 = resolve_precision(config.precision, torch.device("cpu")) == "bf16"
    if setting.schedule_free_lr:
        from schedulefree import AdamWScheduleFree

        free = AdamWScheduleFree(
            network.parameters(), lr=setting.schedule_free_lr, betas=config.optim.betas,
            warmup_steps=config.optim.warmup_updates,
        )  # fmt: skip
        free.train()
        optimisers = [free]
    else:
        optimisers = optim.build(
            network, config.optim.name, lr=config.optim.lr, betas=config.optim.betas, eps=config.optim.eps,
            weight_decay=config.optim.weight_decay, momentum=config.optim.momentum,
            dtype=torch.bfloat16 if bf16 else torch.float32,
        )  # fmt: skip
    windows = Windows(
        manifest.read(config.data.manifest).select("train"), window_samples=config.data.window_samples,
        seed=config.seed, cache_megabytes=config.data.cache_megabytes,
    )  # fmt: skip
    sampler = BatchSampler(
        windows, 0, config.train.num_updates, kind=config.batches.kind, num_windows=config.batches.num_windows,
        windows_per_group=config.batches.windows_per_group, seed=config.seed,
    )  # fmt: skip
    loader = DataLoader(windows, batch_sampler=sampler, collate_fn=collate)
    for update, batch in enumerate(tqdm(loader, unit="update", desc=path.parent.name)):
        if not setting.schedule_free_lr:
            lr = optim.learning_rate(
                update, lr=config.optim.lr, warmup_updates=config.optim.warmup_updates,
                num_updates=config.train.num_updates, schedule=config.optim.schedule,
            )  # fmt: skip
            for group in (group for optimiser in optimisers for group in optimiser.param_groups):
                group["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            z, c = network.represent(batch.waveforms)
            predictions = network.predict(c)
        negatives = Negatives.of(
            config.criterion.scheme, batch.speaker, batch.utterance, [z.shape[1]] * len(z),
            num_negatives=config.criterion.num_negatives, seed=(config.seed << 32) + update + 1,
        )  # fmt: skip
        network.zero_grad(set_to_none=True)
        infonce(z, predictions, negatives).losses.mean().backward()
        if config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
        for optimiser in optimisers:
            optimiser.step()
    if setting.schedule_free_lr:
        free.eval()  # from where gradients were taken to the running mean of the weights
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, config, network)


def main() -> None:
    """Train, probe, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("runs/minispeech/corpus"))
    parser.add_argument("--out", type=Path, default=Path("runs/study_more"))
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    options = parser.parse_args()
    config = configuration.read("small")
    config = dataclasses.replace(
        config, seed=options.seed,
        data=dataclasses.replace(config.data, manifest=str(options.corpus / "manifest.csv")),
        train=dataclasses.replace(config.train, num_updates=options.updates),
    )  # fmt: skip
    labels = options.corpus / "phone_labels.txt"
    print("| setting | phone | speaker, frame | speaker, utterance |\n|---|---:|---:|---:|")
    for name in options.only:
        folder = options.out / f"{''.join(c if c.isalnum() else '-' for c in name)}-seed-{options.seed}"
        weights, result = folder / "last.pt", folder / "result-dev.json"
        if not weights.exists():
            train(config, SETTINGS[name], weights)
        elif checkpoint.read(weights)[0] != config:
            sys.exit(f"{folder}: holds a run of another configuration; pass another --out, or remove it")
        if not result.exists():
            probed = ablate.probe(config, weights, folder / "c", labels, "dev", max_frames=30_000)
            write_bytes(result, json.dumps(probed).encode())
        values = json.loads(result.read_text())
        cells = " | ".join(f"{100 * values[key]:.1f}" for key in ("phone", "speaker", "speaker_utterance"))
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
