"""The class of each frame of training windows: its phone, or its utterance's value in a column of the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cpc.data import Manifest
from cpc.labels.grid import UNLABELLED, labelled_utterances, labels_at
from cpc.labels.phones import read_labels


class TargetsError(ValueError):
    """Classes that a network cannot be trained on."""


@dataclass(frozen=True)
class FrameGrid:
    """The position of an encoder's frames in a window.

    Attributes:
        sample_rate: Hz, rate of the windows.
        hop_samples: samples from one frame to the next.
        first_centre_samples: centre of frame 0.
        num_frames: T, frames of a whole window.
        num_valid_frames: number of samples that come from the file → number of frames that see no padding.
    """

    sample_rate: int
    hop_samples: int
    first_centre_samples: float
    num_frames: int
    num_valid_frames: Callable[[int], int]

    def seconds(self, start: int, num_frames: int) -> NDArray[np.float64]:
        """Centres (num_frames,) of frames, in seconds of the utterance, of a window that begins at sample `start`."""
        samples = start + self.first_centre_samples + self.hop_samples * np.arange(num_frames)
        seconds: NDArray[np.float64] = samples / self.sample_rate
        return seconds


class Targets:
    """The class of every frame. Classes are those that occur in train.

    Args:
        target: "phone", or a column of the manifest.
        labels: file of phone labels (`read_labels`), for "phone".
        train: utterances to train on.
        dev: utterances to validate on.
        grid: position of the frames in a window.

    Raises:
        TargetsError: no labels, no such column, a single class, or a class of dev that train does not have.
        LabelsError: labels that do not fit the manifest.
    """

    def __init__(self, target: str, labels: str, train: Manifest, dev: Manifest, grid: FrameGrid) -> None:
        self.target, self.grid = target, grid
        self.notes: list[str] = []  # what takes no part, in words
        if target == "phone":
            self._of_utterance = self._read_phones(labels, train, dev)
        else:
            self.classes = sorted(self._column(train))
            if unseen := sorted(self._column(dev).difference(self.classes)):
                raise TargetsError(
                    f"loss.target: {len(unseen)} values of {target} in dev (e.g. {unseen[0]}) are not in train; split "
                    "by utterance, so that both splits share them"
                )
        if len(self.classes) < 2:
            raise TargetsError(f"loss.target: {target} has only one class in train, expected two or more")
        self._index = {name: i for i, name in enumerate(self.classes)}

    def in_split(self, manifest: Manifest) -> Callable[[int, int, int], NDArray[np.int64]]:
        """Return what `Windows` asks for the classes of a window's frames, for the rows of one split's manifest."""
        values = manifest.utterances if self.target == "phone" else manifest.column(self.target)
        return partial(self._of_window, values)

    def _of_window(self, values: list[str], row: int, start: int, num_samples: int) -> NDArray[np.int64]:
        """Classes (T,) of a window's frames; UNLABELLED without a label, in padding, and for phones not in train."""
        classes = np.full(self.grid.num_frames, UNLABELLED, np.int64)
        valid = self.grid.num_valid_frames(num_samples)
        if self.target != "phone":
            classes[:valid] = self._index[values[row]]
        elif values[row] in self._of_utterance:
            at = labels_at(self._of_utterance[values[row]], self.grid.seconds(start, valid))
            classes[:valid] = [self._index.get(str(label), UNLABELLED) for label in at]
        return classes

    def _read_phones(self, path: str, train: Manifest, dev: Manifest) -> dict[str, NDArray[np.int16]]:
        """Read the labels, and note which utterances and phones take no part."""
        if not path:
            raise TargetsError("loss.labels: got none, a phone target needs labels; pass --loss.labels FILE")
        labels = read_labels(path)
        for split, manifest in (("train", train), ("dev", dev)):
            known = set(labelled_utterances(manifest, labels))
            if missing := [u for u in manifest.utterances if u not in known]:
                self.notes.append(
                    f"{split}: {len(missing)} utterances have no labels, their frames take no part: "
                    f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
                )
        found = np.unique(np.concatenate([np.unique(labels[u]) for u in train.utterances if u in labels]))
        self.classes = [str(label) for label in found]
        in_dev = {str(label) for u in dev.utterances for label in labels.get(u, ())}
        if unseen := sorted(in_dev.difference(self.classes), key=int):
            self.notes.append(f"dev: phones {', '.join(unseen)} are not in train, their frames take no part")
        return labels

    def _column(self, manifest: Manifest) -> set[str]:
        if self.target not in manifest.columns:
            raise TargetsError(
                f"loss.target: got {self.target!r}, allowed: phone, or a column of the manifest: "
                f"{', '.join(manifest.columns)}"
            )
        return set(manifest.column(self.target))
