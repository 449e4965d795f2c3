"""Learn on the same windows with CPC_audio's own code and with our presets: phone accuracy against minutes.

CPC_audio is not part of this repository. Clone https://github.com/facebookresearch/CPC_audio and name the folder:

    python -m tests.bench race --theirs CPC_audio

Theirs is what its defaults build: 256 channels, an LSTM, a transformer for each of 12 steps, 128 negatives, 8 windows
of one speaker, Adam with 2e-4, no normalisation of the waveform. The presets are ours as they stand. Each trains alone,
on the same threads, and only training counts. Phones are probed on dev as in recipes/minispeech/learning_speed.py,
which draws the picture.
"""

import importlib.util
import itertools
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cpc.data import BatchSampler, Composition, Waveform, WindowOptions, Windows, collate, read_manifest
from cpc.devices import keep_freed_buffers
from cpc.features import SpectralExtractor
from cpc.files import write_json
from cpc.model import Geometry, recomputing
from recipes.minispeech import learning_speed
from tests.bench.common import Run, peak_megabytes, print_result, result_of_variant, seconds_of
from tests.bench.steps import our_step, shape

PRESETS = {"logmel": 400, "small": 600}  # updates between probes
UPDATES_AT_A_TIME = 50  # of theirs, between probes
STEPS, NEGATIVES, CHANNELS = 12, 128, 256  # CPC_audio's defaults

Curve = learning_speed.Curve


def print_race(options: Namespace) -> None:
    """Train, probe, print the table and draw the picture."""
    refuse_no_clone(options.theirs)
    corpus, out = Path(options.manifest).parent, Path("runs/race")
    mfcc = learning_speed.accuracy(corpus, SpectralExtractor("mfcc"), out / "mfcc.json")
    curves = {}
    for preset, every in PRESETS.items():
        learning_speed.SETTINGS[preset] = (preset, {}, 1600 if preset == "logmel" else 2400, every)
        curves[f"ours, {preset}"] = learning_speed.learn(preset, corpus, out)
    curves["CPC_audio"] = theirs(options.theirs, corpus, out / "cpc_audio", 60 * options.race_minutes)
    learning_speed.report(mfcc, curves, out)


def print_memory(options: Namespace) -> None:
    """Print time and growth of the peak in the first step of CPC_audio and of ours, each in a process of its own.

    Both have its shape: 256 channels, an LSTM, linear predictors of 12 steps, float32. Its criterion draws 128
    negatives, ours scores all.
    """
    refuse_no_clone(options.theirs)
    recompute = {f"ours, recompute {n}": n for n in (2, 3, 4)}
    if options.variant:
        step = (
            _their_step(options.theirs) if options.variant == "CPC_audio" else _our_step(recompute.get(options.variant))
        )
        before = peak_megabytes()
        step()
        print_result([peak_megabytes() - before, seconds_of(step, options.rounds)])
        return
    base: list[float] = []
    for name in ("CPC_audio", "ours", *recompute):
        flags = ("--rounds", "3", "--theirs", str(options.theirs))
        megabytes, seconds = result_of_variant(options, "memory", name, *flags)
        base = base or [megabytes, seconds]
        print(
            f"{name:24s} {megabytes:6.0f} MB  1/{base[0] / megabytes:4.1f}  {1e3 * seconds:7.1f} ms  "
            f"{base[1] / seconds:5.2f} x",
            flush=True,
        )


def _our_step(num_pieces: int | None) -> Run:
    keep_freed_buffers()
    wrap = partial(recomputing, num_pieces=num_pieces) if num_pieces else lambda encode: encode
    return our_step(shape(CHANNELS), 8, "float32", wrap)


def _their_step(folder: Path) -> Run:
    network, criterion, optimiser = build_theirs(folder, "linear")
    x = torch.randn(8, 1, 20480)

    return lambda: update_theirs(network, criterion, optimiser, x, torch.zeros(8))


def build_theirs(folder: Path, predictors: str) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """Build CPC_audio's network, its criterion and its optimiser, with its defaults but for the predictors."""
    modules = load_cpc_audio(folder)
    torch.manual_seed(0)
    network = modules["model"].CPCModel(
        modules["model"].CPCEncoder(CHANNELS, "layerNorm"),
        modules["model"].CPCAR(CHANNELS, CHANNELS, False, 1, mode="LSTM", reverse=False),
    )
    criterion = modules["criterion"].CPCUnsupersivedCriterion(
        STEPS, CHANNELS, CHANNELS, NEGATIVES, rnnMode=predictors, sizeInputSeq=20480 // 160
    )
    parameters = [*network.parameters(), *criterion.parameters()]
    return network, criterion, torch.optim.Adam(parameters, lr=2e-4, betas=(0.9, 0.999), eps=1e-8)


def update_theirs(
    network: nn.Module, criterion: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, speaker: Tensor
) -> Tensor:
    """Update CPC_audio's weights once, as its training does; return the losses of the steps."""
    c, z, label = network(x, speaker)
    losses, _ = criterion(c, z, label)
    losses.sum().backward()
    optimiser.step()
    optimiser.zero_grad()
    return losses


def theirs(folder: Path, corpus: Path, out: Path, seconds: float) -> Curve:
    """Train CPC_audio's network by its own criterion for some time, and probe it on the way."""
    network, criterion, optimiser = build_theirs(folder, "transformer")
    batches, curve, taken = batches_of_one_speaker(corpus), [], 0.0
    while taken < seconds:
        began = time.perf_counter()
        network.train()
        for x, speaker in itertools.islice(batches, UPDATES_AT_A_TIME):
            losses = update_theirs(network, criterion, optimiser, x, speaker)
        taken += time.perf_counter() - began
        update = UPDATES_AT_A_TIME * (len(curve) + 1)
        found = learning_speed.accuracy(corpus, Theirs(network), out / f"{update:06d}.json")
        curve.append((update, taken, found))
        write_json(out / "curve.json", {"curve": curve})
        print(
            f"CPC_audio: {update} updates, {taken / 60:.1f} min, loss {losses.mean().item():.3f}, {found:.3f}",
            flush=True,
        )
    return curve


def refuse_no_clone(folder: Path) -> None:
    """End with a line if a folder is no clone of CPC_audio."""
    if not (folder / "cpc" / "criterion").is_dir():
        raise SystemExit(f"--theirs: {folder} is no clone of CPC_audio: it has no folder cpc")


def load_cpc_audio(folder: Path) -> dict[str, Any]:
    """Import CPC_audio's package, which is called cpc as ours is, under another name."""
    package = folder / "cpc"
    refuse_no_clone(folder)
    spec = importlib.util.spec_from_file_location(
        "cpc_audio", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["cpc_audio"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["cpc_audio"])
    sys.path.insert(0, str(package))  # its criterion imports its `transformers` from there
    try:
        return {
            "model": importlib.import_module("cpc_audio.model"),
            "criterion": importlib.import_module("cpc_audio.criterion.criterion"),
            "transformers": importlib.import_module("transformers"),
        }
    finally:
        sys.path.remove(str(package))


def batches_of_one_speaker(corpus: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield waveforms (B, 1, S) and speakers (B,) without end."""
    options = WindowOptions(normalise="none", cache_megabytes=1024)
    windows = Windows(read_manifest(corpus / "manifest.csv").select("train"), options)
    sampler = BatchSampler(windows, Composition("by_speaker", 8, 8), 0, 10**9)
    for batch in DataLoader(windows, batch_sampler=sampler, collate_fn=collate):
        yield batch.waveforms[:, None], torch.tensor(batch.speaker)


class Theirs:
    """Extracts c with CPC_audio's network, file by file."""

    source, layer, normalise = "CPC_audio", "c", False
    dim, sample_rate, hop_samples = CHANNELS, 16000, 160
    geometry = Geometry.of((5, 4, 2, 2, 2), "cpc_audio")
    first_centre_samples = geometry.first_centre_samples

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file."""
        return self.geometry.num_frames(num_samples)

    def frames(self, blocks: Iterable[Waveform]) -> Iterator[np.ndarray]:
        """Extract one file."""
        yield from self.frames_of([np.concatenate(list(blocks))])

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[np.ndarray]:
        """Extract several files, one after the other."""
        with torch.inference_mode():
            return [self.network(torch.from_numpy(w)[None, None], None)[0][0].numpy() for w in waveforms]

    def identity(self) -> str:
        """Name the weights by their sum."""
        return f"CPC_audio {sum(p.double().sum().item() for p in self.network.parameters())!r}"
