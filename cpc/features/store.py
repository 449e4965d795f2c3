"""Frames on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cpc.data import Manifest, read_manifest

Layer = Literal["z", "c"]
Frames = NDArray[Any]


class FeaturesError(ValueError):
    """A features folder that is missing, unfinished, or holds something else."""


@dataclass(frozen=True)
class Features:
    """A features folder, opened for reading.

    Attributes:
        folder: where it is.
        manifest: its utterances.
        meta: the content of features.json.
    """

    folder: Path
    manifest: Manifest
    meta: dict[str, Any]

    @property
    def source(self) -> str:
        """What made the frames: cpc, untrained, mfcc, logmel."""
        return str(self.meta["source"])

    @property
    def layer(self) -> str | None:
        """The network's layer, z or c; None for baselines without one."""
        layer: str | None = self.meta["layer"]
        return layer

    @property
    def dim(self) -> int:
        """D, numbers in a frame."""
        return int(self.meta["dim"])

    @property
    def sample_rate(self) -> int:
        """Hz, of the samples that positions count."""
        return int(self.meta["sample_rate"])

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.meta["hop_samples"])

    @property
    def first_centre_samples(self) -> float:
        """Centre of frame 0 in samples."""
        return float(self.meta["first_centre_samples"])

    def times(self, num_frames: int) -> NDArray[np.float64]:
        """Centres of the first `num_frames` frames in seconds: (num_frames,)."""
        return (self.first_centre_samples + self.hop_samples * np.arange(num_frames)) / self.sample_rate

    def frames(self, utterance: str) -> Frames:
        """Frames of one utterance, memory-mapped: (T, D); (0, D) for one too short to have any.

        Raises:
            FeaturesError: if they are not there or of another shape.
        """
        path = self.folder / "frames" / f"{utterance}.npy"
        if utterance in self.meta.get("too_short", ()):
            return np.zeros((0, self.dim), self.meta["dtype"])
        try:
            frames: Frames = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FeaturesError(f"{path}: no such file; run `cpc features` again with the same --out") from None
        except (ValueError, EOFError, OSError) as error:
            raise FeaturesError(f"{path}: damaged ({error}); remove it and run `cpc features` again") from None
        if frames.ndim != 2 or frames.shape[1] != self.dim:
            raise FeaturesError(f"{path}: shape {frames.shape}, expected (T, {self.dim})")
        return frames

    def num_frames(self, utterance: str) -> int:
        """T of one utterance."""
        return len(self.frames(utterance))


def open_features(folder: str | Path, manifest: Manifest | None = None) -> Features:
    """Open a features folder.

    Args:
        folder: where `extract` wrote.
        manifest: some or all of its utterances, with other splits; by default the manifest that it was made from.

    Raises:
        FeaturesError: missing, not a features folder, unfinished, or without an utterance of `manifest`.
    """
    folder = Path(folder)
    path = folder / "features.json"
    try:
        meta = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FeaturesError(f"{folder}: no features folder (no features.json); `cpc features` makes one") from None
    except json.JSONDecodeError as error:
        raise FeaturesError(f"{path}: not JSON: {error}") from None
    if not meta.get("complete"):
        raise FeaturesError(f"{folder}: not finished; run the same `cpc features` command again, it goes on from there")
    own = read_manifest(folder / "manifest.csv")
    if manifest is None:
        return Features(folder, own, meta)
    unknown = sorted(set(manifest.table["utterance"].astype(str)) - set(own.table["utterance"]))
    if unknown:
        raise FeaturesError(
            f"{folder}: holds no frames of {len(unknown)} utterances of the manifest given: {_some(unknown)}; extract "
            "them with that manifest"
        )
    return Features(folder, manifest, meta)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
