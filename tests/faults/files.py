"""Damage files of each kind, read them, and count what becomes of them.

A damaged file must be refused by the room's own error, in one line that names it, or be read as what it is. Any other
error is a fault, and so is a result that contradicts itself.
"""

import contextlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file

from cpc.config import ConfigError, OptimConfig, read_config, write_config
from cpc.data import AudioError, ManifestError, audio_blocks, read_manifest
from cpc.data.audio import audio_info
from cpc.experiments import read_ablation
from cpc.labels import LabelsError, read_phone_labels
from cpc.labels.intervals import Interval, read_ctm, read_textgrid, write_ctm, write_textgrid
from cpc.runs import CheckpointError, build_model, load, read_checkpoint, save_checkpoint, save_weights
from cpc.train import resume, train
from tests.conftest import make_corpus, tiny_config, write_sound
from tests.faults.mutations import BYTES, TEXT, Mutation, cut

_WHOLE = 0.98  # of its bytes; where only the last few are missing, formats differ in what they still are
MAX_BLOCK_SECONDS = 600  # of sound in a file of a few kB; more means that a header was believed


@dataclass
class Tally:
    """What became of the damaged files of one kind."""

    kind: str
    refused: int = 0
    read: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Number of files."""
        return self.refused + self.read + len(self.faults)

    def __str__(self) -> str:
        """One row of the table."""
        faults = "".join(f"\n    {name} × {n}" for name, n in Counter(self.faults).most_common(10))
        counts = f"{self.tried:6d} tried, {self.refused:6d} refused by one line, {self.read:6d} read"
        return f"{self.kind:12s}{counts}, {len(self.faults):4d} faults{faults}"


@dataclass(frozen=True)
class Kind:
    """Files of one kind."""

    make: Callable[[Path], list[Path]]
    """Write whole files into a folder."""
    read: Callable[[Path], Any]
    """Read one and check what it says."""
    error: type[ValueError]
    """What a damaged one is refused by."""
    mutations: tuple[Mutation, ...] = TEXT


def damage(kind: str, number: int, seed: int = 0) -> Tally:
    """Damage files of a kind, each once, and count what becomes of them.

    Args:
        kind: one of KINDS.
        number: how many files.
        seed: of the damage.
    """
    tally, of = Tally(kind), KINDS[kind]
    with TemporaryDirectory() as folder:
        whole = [(path, path.read_bytes()) for path in of.make(Path(folder))]
        for i in range(number):
            rng = random.Random(f"{kind} {seed} {i}")
            path, data = whole[i % len(whole)]
            mutation = rng.choice(of.mutations)
            path.write_bytes(mutation(rng, data))
            read = tally.read
            _judge(tally, of, path, f"{path.suffix}, {mutation.__name__}")
            if (
                kind == "sounds"
                and mutation is cut
                and tally.read > read
                and len(path.read_bytes()) < _WHOLE * len(data)
            ):
                tally.read -= 1
                tally.faults.append(f"{path.suffix}: read, though its end is missing")
            path.write_bytes(data)
    return tally


def _judge(tally: Tally, of: Kind, path: Path, what: str) -> None:
    """Read a damaged file, and count what becomes of it."""
    try:
        of.read(path)
        tally.read += 1
    except of.error as error:
        named = path.name in str(error) or f"{path.parent} " in str(error)  # the file, or the run that it belongs to
        named = named or "data.manifest: got none" in str(error)  # a configuration without one is whole
        if "\n" in str(error) or not named:
            tally.faults.append(f"{what}: a message of several lines, or without the file: {error}")
        else:
            tally.refused += 1
    except Exception as error:
        tally.faults.append(f"{what}: {type(error).__name__}: {str(error)[:200]}")


# --- sounds


def _make_sounds(folder: Path) -> list[Path]:
    """Write half a second in each format."""
    write_sound(folder / "source.wav", 0.5, seed=0)
    samples, rate = soundfile.read(folder / "source.wav", dtype="float32")
    formats = {
        "wav": "PCM_16",
        "flac": "PCM_16",
        "ogg": "VORBIS",
        "opus": "OPUS",
        "mp3": "MPEG_LAYER_III",
        "aiff": "PCM_16",
    }
    formats |= {"au": "PCM_16", "w64": "PCM_24", "rf64": "PCM_16", "caf": "PCM_16", "sph": "PCM_16"}
    paths = []
    for suffix, subtype in formats.items():
        paths.append(folder / f"sound.{suffix}")
        container = {"opus": "OGG", "sph": "NIST"}.get(suffix, suffix.upper())
        soundfile.write(paths[-1], samples, rate, subtype, format=container)
    return paths


def _read_sound(path: Path) -> None:
    """Decode a sound; it must have the samples that its header promises, all finite.

    Damage inside a sound that has no checksums, as in a WAV, makes another sound, which nothing can tell.
    """
    info = audio_info(path)
    count = 0
    for block in audio_blocks(path, sample_rate=info.sample_rate, resample=False, block_samples=1 << 16):
        assert np.isfinite(block).all()
        count += len(block)
        assert count <= MAX_BLOCK_SECONDS * info.sample_rate, f"{count} samples in {path.stat().st_size} bytes"
    assert count == info.num_samples, f"{count} samples, the header says {info.num_samples}"


# --- text


def _make_table(folder: Path) -> list[Path]:
    return [make_corpus(folder, speakers=2, utterances=3)]


def _read_table(path: Path) -> None:
    """Read a manifest; its columns must be whole."""
    manifest = read_manifest(path)
    assert len(set(manifest.utterances)) == len(manifest) == len(manifest.seconds) == len(manifest.paths)
    assert (manifest.num_samples_at(16000) >= 0).all()
    assert set(manifest.splits) <= {"train", "dev", "test", ""}


def _make_labels(folder: Path) -> list[Path]:
    path = folder / "labels.txt"
    path.write_text("".join(f"1-10-000{u} {' '.join(str((u + i) % 5) for i in range(98))}\n" for u in range(5)))
    return [path]


def _read_labels(path: Path) -> None:
    labels = read_phone_labels(path).of
    assert labels
    assert all(len(of) and of.min() >= 0 for of in labels.values())


_INTERVALS = [Interval(0.0, 0.1, "SIL"), Interval(0.1, 0.25, "aa"), Interval(0.25, 0.5, "t")]


def _make_intervals(folder: Path) -> list[Path]:
    write_textgrid(_INTERVALS, 0.5, folder / "a.TextGrid")
    write_ctm({"a": _INTERVALS, "b": _INTERVALS}, folder / "a.ctm")
    return [folder / "a.TextGrid", folder / "a.ctm"]


def _read_intervals(path: Path) -> None:
    """Read intervals; they must be in order."""
    found = read_ctm(path) if path.suffix == ".ctm" else {"a": read_textgrid(path)}
    for intervals in found.values():
        assert all(interval.start <= interval.end for interval in intervals)
        assert all(np.isfinite([interval.start, interval.end]).all() for interval in intervals)


def _make_configs(folder: Path) -> list[Path]:
    write_config(tiny_config(folder / "manifest.csv"), folder / "config.toml")
    table = folder / "ablation.toml"
    table.write_text(
        'title = "t"\nbase = "small"\nseeds = [0, 1]\nset = { "train.num_updates" = 5 }\n\n[[row]]\nname = "one"\n'
        'paper = 1.0\n\n[[row]]\nname = "two"\nset = { "criterion.num_steps" = 4 }\n'
    )
    return [folder / "config.toml", table]


def _read_config(path: Path) -> None:
    read_ablation(path) if path.name == "ablation.toml" else read_config(path)


# --- checkpoints


def _make_checkpoints(folder: Path) -> list[Path]:
    config = tiny_config(folder / "manifest.csv")
    torch.manual_seed(0)
    model = build_model(config)
    paths = [folder / "best.safetensors", folder / "last.pt"]
    for path, save in zip(paths, (save_weights, save_checkpoint), strict=True):
        save(path, config, model, update=3, seconds=1.5, best_gain=0.1)
    return paths


def _read_checkpoint(path: Path) -> None:
    """Load a network; one that loads must have the weights that were saved."""
    torch.manual_seed(0)
    whole = build_model(tiny_config(path.with_name("manifest.csv"))).state_dict()
    for name, weight in load(path).state_dict().items():
        assert torch.equal(weight, whole[name]), f"{name} is another one"


def tampered_values(number: int, seed: int = 0) -> Tally:
    """Replace values of a checkpoint, or of weights' header, by others of another type or size, and save it whole."""
    tally, of = Tally("tampered"), Kind(_make_checkpoints, load, ValueError)
    with TemporaryDirectory() as folder:
        weights, last = _make_checkpoints(Path(folder))
        content = read_checkpoint(last)[1]
        model = content["model"]
        header = {key: value for key, value in content.items() if key != "model"}
        for i in range(number):
            rng = random.Random(f"tampered {seed} {i}")
            if i % 3:
                changed, where = _tampered(rng, content)
                torch.save(changed, last)
            else:
                changed, where = _tampered(rng, header)
                save_file(model, weights, {"cpc": json.dumps(changed, default=str)})
            _judge(tally, of, last if i % 3 else weights, where)
    return tally


def tampered_states(number: int, seed: int = 0) -> Tally:
    """Replace values of a finished run's last.pt, and resume the run.

    Those that are read are of values that a run can have, or of which it takes no notice.
    """

    def resume_run(path: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            resume(path.parent)

    tally, of = Tally("states"), Kind(_make_checkpoints, resume_run, ValueError)
    with TemporaryDirectory() as folder:
        config = tiny_config(make_corpus(Path(folder) / "corpus"), optim=OptimConfig(name="muon"))
        with contextlib.redirect_stderr(io.StringIO()):
            run = train(config, Path(folder) / "run")
        content = torch.load(run / "last.pt", weights_only=True)
        content.pop("checksum")
        metrics = (run / "metrics.jsonl").read_bytes()
        for i in range(number):
            changed, where = _tampered(random.Random(f"states {seed} {i}"), content)
            torch.save(changed, run / "last.pt")
            (run / "metrics.jsonl").write_bytes(metrics)
            _judge(tally, of, run / "last.pt", where)
    return tally


def _tampered(rng: random.Random, content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Copy nested values with one of them changed; return also where."""
    copy = dict(content)
    inner: Any = copy
    where: list[str] = []
    while True:
        key = rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        where.append(str(key))
        if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.1:
            break
        inner[key] = inner[key].copy()
        inner = inner[key]
    value = rng.choice(_OTHERS)
    if value is _REMOVED:
        del inner[key]
    else:
        inner[key] = value
    shown = "a tensor" if isinstance(value, torch.Tensor) else "nothing" if value is _REMOVED else repr(value)
    return copy, f"{'.'.join(where)} ← {shown}"


_REMOVED = object()
_OTHERS = (
    *(None, 7, -1, 1e30, float("nan"), "text", [], {}, [1, 2], {"a": 1}, True, _REMOVED),
    *(torch.zeros(2), torch.zeros(()), torch.full((3, 3), float("nan"))),
)

KINDS: dict[str, Kind] = {
    "sounds": Kind(_make_sounds, _read_sound, AudioError, BYTES),
    "tables": Kind(_make_table, _read_table, ManifestError),
    "labels": Kind(_make_labels, _read_labels, LabelsError),
    "intervals": Kind(_make_intervals, _read_intervals, LabelsError),
    "configs": Kind(_make_configs, _read_config, ConfigError),
    "checkpoints": Kind(_make_checkpoints, _read_checkpoint, CheckpointError, BYTES),
}
