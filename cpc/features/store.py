"""Read features from disk, without torch.

A features folder holds

    features.json             what the frames are and where they lie in time
    manifest.csv              the utterances, with their splits
    frames/<utterance>.npy    (T, D), frame i centred at (first_centre_samples + i · hop_samples) / sample_rate

All sources write this form, so probes do not know what they read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cpc.data import Manifest, read_manifest

Layer = Literal["z", "c"]
Frames = NDArray[Any]

RECORD, MANIFEST, FRAMES = "features.json", "manifest.csv", "frames"  # the contents of a features folder
_KEYS = ("source", "dim", "dtype", "sample_rate", "hop_samples", "first_centre_samples")  # what reading needs


class FeaturesError(ValueError):
    """A features folder that is missing, unfinished, or holds something else."""


@dataclass(frozen=True)
class Features:
    """A features folder that is open for reading.

    Attributes:
        folder: its path.
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
        """The layer of the network, z or c; None for spectral features."""
        layer: str | None = self.meta["layer"]
        return layer

    @property
    def dim(self) -> int:
        """D, the size of a frame."""
        return int(self.meta["dim"])

    @property
    def sample_rate(self) -> int:
        """Hz, the unit of sample positions."""
        return int(self.meta["sample_rate"])

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.meta["hop_samples"])

    @property
    def first_centre_samples(self) -> float:
        """Centre of frame 0 in samples."""
        return float(self.meta["first_centre_samples"])

    @cached_property
    def corpus(self) -> str:
        """Digest of all utterances that the folder was made from, whichever of them are read."""
        return read_manifest(self.folder / MANIFEST).digest(in_order=False)

    @cached_property
    def _without_frames(self) -> set[str]:
        return {*self.meta.get("too_short", ()), *self.meta.get("unreadable", ())}

    def times(self, num_frames: int) -> NDArray[np.float64]:
        """Centres of the first `num_frames` frames in seconds: (num_frames,)."""
        return (self.first_centre_samples + self.hop_samples * np.arange(num_frames)) / self.sample_rate

    def times_of(self, utterance: str) -> NDArray[np.float64]:
        """Centres of an utterance's frames in seconds: (T,)."""
        return self.times(self.num_frames(utterance))

    def frames(self, utterance: str) -> Frames:
        """Memory-map the frames of one utterance.

        Returns:
            (T, D); (0, D) for an utterance that is too short for a frame, or whose sound could not be read.

        Raises:
            FeaturesError: the frames are missing, damaged or of another shape.
        """
        path = self.folder / FRAMES / f"{utterance}.npy"
        if utterance in self._without_frames:
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
        """T, the number of frames of one utterance."""
        return len(self.frames(utterance))


def open_features(folder: str | Path, manifest: Manifest | None = None) -> Features:
    """Open a features folder.

    Args:
        folder: the folder that `extract_features` wrote.
        manifest: some or all of its utterances, with other splits; by default, the manifest it was made from.

    Raises:
        FeaturesError: the folder is missing, unfinished or no features folder; or it lacks an utterance of `manifest`,
            or has another of the same name.
    """
    folder = Path(folder)
    path = folder / RECORD
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FeaturesError(f"{folder}: no features folder (it has no {RECORD}); `cpc features` makes one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FeaturesError(f"{path}: not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise FeaturesError(f"{path}: got a {type(meta).__name__}, expected the record of features; make them again")
    if lacking := [key for key in _KEYS if key not in meta]:
        raise FeaturesError(f"{path}: no {', '.join(lacking)}; it is damaged, make the features again")
    if not meta.get("complete"):
        raise FeaturesError(f"{folder}: not finished; run the same `cpc features` command again to resume it")
    own = read_manifest(folder / MANIFEST)
    if manifest is None:
        return Features(folder, own, meta)
    unknown = sorted(set(manifest.utterances).difference(own.utterances))
    if unknown:
        raise FeaturesError(
            f"{folder}: {len(unknown)} utterances of the given manifest have no frames here: {first_names(unknown)}; "
            "extract them with that manifest"
        )
    here, given = _places(own), _places(manifest)
    other = [utterance for utterance, place in given.items() if here[utterance] != place]
    if other:
        raise FeaturesError(
            f"{folder}: {len(other)} utterances of the given manifest have other lengths here, or are other segments: "
            f"{first_names(other)}; their frames are of other sound"
        )
    return Features(folder, manifest, meta)


def _places(manifest: Manifest) -> dict[str, tuple[int, int, int]]:
    """Say where each utterance lies in its file, how long it is, and its rate."""
    columns = manifest.starts.tolist(), manifest.num_samples.tolist(), manifest.sample_rates.tolist()
    return dict(zip(manifest.utterances, zip(*columns, strict=True), strict=True))


def first_names(names: list[str]) -> str:
    """List the first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
