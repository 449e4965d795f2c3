"""Checkpoint × manifest → z or c of whole utterances, on disk.

A features folder holds

    features.json             what the frames are and where they lie in time
    manifest.csv              the utterances, with their splits
    frames/<utterance>.npy    (T, D), frame i centred at (first_centre_samples + i · hop_samples) / sample_rate

Baselines write the same form (baselines.py), so probes never know what they read. Long files are processed in blocks
with carried state: memory does not grow with their length, and the blocks equal the whole file. Short files go
side by side, padded behind. State starts anew with every file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cpc.data import (
    Manifest,
    audio_blocks,
    audio_statistics,
    normalise,
    num_resampled,
    read_audio,
    statistics_of,
    write_manifest,
)
from cpc.devices import keep_freed_buffers
from cpc.features.store import FeaturesError, Layer, _some
from cpc.files import replacing, write_bytes
from cpc.model import CPC
from cpc.runs import Which, build_model, load, locate_checkpoint, read_checkpoint

Dtype = Literal["float32", "float16"]
Frames = NDArray[Any]
Item = TypeVar("Item")
Result = TypeVar("Result")

_BLOCK_SECONDS = 20
# Short files, of one block each, that go side by side: many through g_ar, whose steps wait for each other; of them,
# through g_enc, no more than three long ones' blocks at a time.
_FILES_AT_ONCE, _SECONDS_AT_ONCE, _ENCODER_SECONDS = 64, 600, 60


class Extractor(Protocol):
    """What turns the blocks of one file into frames."""

    source: str
    layer: Layer | None
    dim: int
    sample_rate: int
    hop_samples: int
    first_centre_samples: float
    normalise: bool

    def num_frames(self, num_samples: int) -> int:
        """Frames of a file of `num_samples`."""

    def frames(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Frames (t, D), in pieces, of one file given in successive blocks of samples."""

    def frames_of(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Frames (t, D) of each of some short files, given whole."""

    def identity(self) -> str:
        """Changes whenever the frames would."""


class CPCExtractor:
    """z or c of a trained (or untrained) model."""

    def __init__(
        self,
        model: CPC,
        layer: Layer,
        *,
        source: str = "cpc",
        device: torch.device | str = "cpu",
        precision: Literal["float32", "bf16"] = "float32",
    ) -> None:
        geometry = model.g_enc.geometry
        self.model, self.source = model.to(device).eval(), source
        self.layer: Layer | None = layer
        self.device, self.precision = torch.device(device), precision
        if self.device.type == "cpu":
            keep_freed_buffers()
        self.dim = model.g_enc.channels if layer == "z" else model.g_ar.hidden_dim
        self.sample_rate, self.hop_samples = model.sample_rate, geometry.hop_samples
        self.first_centre_samples = geometry.first_centre_samples
        self.normalise = model.normalise

    def num_frames(self, num_samples: int) -> int:
        """Frames of a file of `num_samples`."""
        return self.model.g_enc.geometry.num_frames(num_samples)

    def frames(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Stream one file through the model from a zero state."""
        state: Any = None
        with torch.inference_mode(), self._autocast():
            for block, last in mark_last(blocks):
                x = torch.from_numpy(np.ascontiguousarray(block))[None].to(self.device)  # (1, S)
                if self.layer == "z":
                    frames, state = self.model.g_enc.stream(x, state, last=last)
                else:
                    _, frames, state = self.model.stream(x, state, last=last)
                yield frames[0].float().cpu().numpy()

    def frames_of(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Short files side by side: the network is causal, so what pads one behind comes after all its frames."""
        if len(waveforms) > 1 and any(right for _, right in self.model.g_enc.geometry.paddings):
            # Each layer then has zeros of its own behind the file's end, where the batch has what became of its zeros.
            return [self.frames_of([waveform])[0] for waveform in waveforms]
        x = torch.zeros(len(waveforms), max(map(len, waveforms)))  # (B, S)
        for row, waveform in zip(x, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
        at_once = max(1, _ENCODER_SECONDS * self.sample_rate // x.shape[1])
        with torch.inference_mode(), self._autocast():
            z = torch.cat([self.model.g_enc(rows.to(self.device)) for rows in torch.split(x, at_once)])  # (B, T, D_z)
            frames = (z if self.layer == "z" else self.model.g_ar(z)).float().cpu().numpy()  # (B, T, D)
        return [row[: self.num_frames(len(w))] for row, w in zip(frames, waveforms, strict=True)]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def identity(self) -> str:
        """A digest of the weights and of the precision."""
        digest = hashlib.blake2b(b"" if self.precision == "float32" else self.precision.encode(), digest_size=8)
        for name, weight in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def mark_last(blocks: Iterable[NDArray[np.float32]]) -> Iterator[tuple[NDArray[np.float32], bool]]:
    """Pair each block with whether it is the last."""
    iterator = iter(blocks)
    block = next(iterator)
    for following in iterator:
        yield block, False
        block = following
    yield block, True


def extract_features(
    extractor: Extractor,
    manifest: Manifest,
    out: str | Path,
    *,
    resample: bool = False,
    dtype: Dtype = "float32",
    progress: bool = True,
) -> Path:
    """Write the frames of every utterance of a manifest; files that are there already are kept.

    Args:
        extractor: what makes the frames.
        manifest: the utterances.
        out: features folder.
        resample: whether files of another rate than the extractor's are resampled; otherwise they are an error.
        dtype: of the frames on disk; float16 halves them.
        progress: show a bar.

    Returns:
        The features folder.

    Raises:
        AudioError: a file that cannot be read; what was written stays, the same command goes on from there.
        FeaturesError: if the folder holds features of another kind.
    """
    out = Path(out)
    meta: dict[str, Any] = {
        "source": extractor.source, "layer": extractor.layer, "identity": extractor.identity(),
        "dim": extractor.dim, "dtype": dtype, "sample_rate": extractor.sample_rate,
        "hop_samples": extractor.hop_samples, "first_centre_samples": extractor.first_centre_samples,
        "normalise": extractor.normalise, "resample": resample,
    }  # fmt: skip
    _claim(out, meta, manifest)
    rate, table = extractor.sample_rate, manifest.table
    lengths = [
        num_resampled(int(n), int(r), rate) for n, r in zip(table["num_samples"], table["sample_rate"], strict=True)
    ]
    files = [
        _File(manifest.audio_path(i), out / "frames" / f"{utterance}.npy", length, extractor.num_frames(length))
        for i, (utterance, length) in enumerate(zip(table["utterance"].astype(str), lengths, strict=True))
    ]
    too_short = [file.target.stem for file in files if file.num_frames == 0]
    # Like lengths pad each other least; the longest first, so that buffers fit all that follow.
    order = [int(i) for i in np.argsort(lengths, kind="stable")[::-1] if files[i].num_frames]
    groups: list[list[_File]] = []  # of files that go side by side; a long one is alone
    while order:
        longest = lengths[order[0]]
        fitting = min(_FILES_AT_ONCE, _SECONDS_AT_ONCE * rate // longest) if longest <= _BLOCK_SECONDS * rate else 1
        groups.append([files[i] for i in order[:fitting]])
        order = order[fitting:]
    # The same files share a batch when an interrupted command goes on: its frames are the same to the bit.
    waiting = [group for group in groups if not all(_is_written(file, extractor.dim, dtype) for file in group)]

    def read(group: list[_File]) -> list[NDArray[np.float32]] | None:
        """The files' waveforms; None for a file that is too long to be read at once."""
        is_long = len(group) == 1 and group[0].num_samples > _BLOCK_SECONDS * rate
        return None if is_long else [_read(extractor, file, resample=resample) for file in group]

    num_files, num_waiting = sum(map(len, groups)), sum(map(len, waiting))
    with tqdm(
        total=num_files, initial=num_files - num_waiting, unit="file", desc=f"features {out.name}", disable=not progress
    ) as bar:
        for group, waveforms in zip(waiting, _one_ahead(read, waiting), strict=True):
            if waveforms is None:
                _write_streaming(extractor, group[0], resample=resample, dtype=dtype)
            else:
                for file, frames in zip(group, extractor.frames_of(waveforms), strict=True):
                    if not _is_written(file, extractor.dim, dtype):
                        _write(file, [frames], extractor.dim, dtype)
            bar.update(len(group))
    if too_short:
        tqdm.write(f"{out}: {len(too_short)} utterances are too short for one frame and left out: {_some(too_short)}")
    write_bytes(
        out / "features.json",
        json.dumps({**meta, "too_short": too_short, "complete": True}, indent=1).encode(),
    )
    return out


def _claim(out: Path, meta: dict[str, Any], manifest: Manifest) -> None:
    """Make the folder ours: new, or begun by the same command."""
    path = out / "features.json"
    if path.exists():
        there = json.loads(path.read_text())
        differing = [key for key in meta if there.get(key) != meta[key]]
        if differing:
            key = differing[0]
            raise FeaturesError(
                f"{out}: holds other features: {key} is {there.get(key)!r}, this command's {meta[key]!r}; pass another "
                "--out or remove the folder"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise FeaturesError(f"{out}: not empty and no features folder; pass another --out")
    elif out.exists() and not out.is_dir():
        raise FeaturesError(f"{out}: a file, expected a folder to write to")
    (out / "frames").mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps({**meta, "complete": False}, indent=1).encode())
    write_manifest(manifest, out / "manifest.csv")


@dataclass(frozen=True)
class _File:
    source: Path
    target: Path
    num_samples: int  # at the extractor's rate, as the manifest promises
    num_frames: int


def _write_streaming(extractor: Extractor, file: _File, *, resample: bool, dtype: Dtype) -> None:
    """Extract one file of any length, block by block."""
    rate = extractor.sample_rate
    mean, std = 0.0, 1.0
    if extractor.normalise:
        mean, std = audio_statistics(file.source, sample_rate=rate, resample=resample)
    blocks = audio_blocks(file.source, sample_rate=rate, resample=resample, block_samples=_BLOCK_SECONDS * rate)
    _write(file, extractor.frames(normalise(block, mean, std) for block in blocks), extractor.dim, dtype)


def _read(extractor: Extractor, file: _File, *, resample: bool) -> NDArray[np.float32]:
    """The waveform of a short file, normalised as the extractor wants it."""
    waveform = read_audio(file.source, sample_rate=extractor.sample_rate, resample=resample)
    if extractor.num_frames(len(waveform)) != file.num_frames:
        raise _changed(file, extractor.num_frames(len(waveform)))
    if extractor.normalise:
        waveform = normalise(waveform, *statistics_of(waveform, file.source))
    return waveform


def _one_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `read` returns for each item; the next is read in a thread while the caller works on this one."""
    with ThreadPoolExecutor(1) as reader:
        futures: list[Future[Result]] = []
        for item in items:
            futures.append(reader.submit(read, item))
            if len(futures) > 1:
                yield futures.pop(0).result()
        for future in futures:
            yield future.result()


def _write(file: _File, pieces: Iterable[NDArray[np.float32]], dim: int, dtype: Dtype) -> None:
    """Write the frames of a file, piece by piece, into an .npy that appears only when it is whole.

    It is not forced to the disk: that would take longer than the network. `_is_written` sees what a crash cut short.
    """
    written = 0
    with replacing(file.target, sync=False) as temporary, temporary.open("wb") as f:
        f.write(_header(file, dim, dtype))
        for frames in pieces:
            f.write(np.ascontiguousarray(frames, dtype=dtype).tobytes())
            written += len(frames)
        if written != file.num_frames:
            raise _changed(file, written)


def _header(file: _File, dim: int, dtype: Dtype) -> bytes:
    """The start of an .npy that holds the file's frames."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (file.num_frames, dim)}
    )
    return buffer.getvalue()


def _is_written(file: _File, dim: int, dtype: Dtype) -> bool:
    """Whether the frames are there, of the length that they must have."""
    size = len(_header(file, dim, dtype)) + file.num_frames * dim * np.dtype(dtype).itemsize
    return file.target.exists() and file.target.stat().st_size == size


def _changed(file: _File, num_frames: int) -> FeaturesError:
    return FeaturesError(
        f"{file.source}: {num_frames} frames came out, its num_samples in the manifest gives {file.num_frames}; the "
        "file changed: run `cpc manifest` again"
    )


def extractor_of_run(
    run: str | Path,
    layer: Layer,
    *,
    which: Which = "best",
    untrained: bool = False,
    device: torch.device | str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
) -> CPCExtractor:
    """The extractor of a run's checkpoint; or, `untrained`, of the same architecture with the run's random weights."""
    path = locate_checkpoint(run, which)
    if not untrained:
        return CPCExtractor(load(path), layer, device=device, precision=precision)
    config, _ = read_checkpoint(path)
    torch.manual_seed(config.seed)  # the weights that this run started from
    return CPCExtractor(build_model(config), layer, source="untrained", device=device, precision=precision)
