"""What labels say of the frames of training windows: their phone, or a column of the manifest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cpc.config import ConfigError
from cpc.data import Batch, Windows
from cpc.labels.phones import UNLABELLED, labelled_utterances, labels_at, read_labels


class Targets:
    """The class of every frame: its phone, or what its utterance has in a column of the manifest.

    Args:
        target: "phone", or a column of the manifest.
        labels: for "phone": a file of phone labels (`alignment.read_labels`).
        train, dev: the splits. Classes are those of train.
        first_centre_samples, hop_samples: where frames lie in a window.

    Raises:
        ConfigError: no labels, no such column, one class only, or a class of dev that train does not have.
        LabelsError: labels that do not fit the manifest.
    """

    def __init__(
        self, target: str, labels: str, train: Windows, dev: Windows, *, first_centre_samples: float, hop_samples: int
    ) -> None:
        self.target, self.is_phone = target, target == "phone"
        self.first_centre_samples, self.hop_samples = first_centre_samples, hop_samples
        self.labels = {}
        self.notes: list[str] = []  # what takes no part, in words
        if self.is_phone:
            if not labels:
                raise ConfigError("loss.labels: got none, a phone target needs one; pass --loss.labels FILE")
            self.labels = read_labels(labels)
            for split, windows in (("train", train), ("dev", dev)):
                known = labelled_utterances(windows.manifest, self.labels)
                if len(known) < len(windows.manifest):
                    missing = [u for u in windows.manifest.table["utterance"].astype(str) if u not in self.labels]
                    self.notes.append(
                        f"{split}: {len(missing)} utterances have no labels, their frames take no part: "
                        f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
                    )
            names = [str(u) for u in train.manifest.table["utterance"]]
            found = np.unique(np.concatenate([np.unique(self.labels[u]) for u in names if u in self.labels]))
            self.classes = [str(label) for label in found]
            in_dev = {
                str(label) for u in dev.manifest.table["utterance"].astype(str) for label in self.labels.get(u, ())
            }
            if unseen := sorted(in_dev.difference(self.classes), key=int):
                self.notes.append(f"dev: phones {', '.join(unseen)} are not in train, their frames take no part")
        else:
            self.classes = sorted(self._column(train))
            unseen = sorted(self._column(dev).difference(self.classes))
            if unseen:
                raise ConfigError(
                    f"loss.target: {len(unseen)} values of {target} in dev (e.g. {unseen[0]}) are not in train; split "
                    "by utterance, so that they are shared"
                )
        if len(self.classes) < 2:
            raise ConfigError(f"loss.target: {target} has one class only in train, expected two or more")
        self._index = {name: i for i, name in enumerate(self.classes)}

    def _column(self, windows: Windows) -> set[str]:
        table = windows.manifest.table
        if self.target not in table.columns:
            raise ConfigError(
                f"loss.target: got {self.target!r}, allowed: phone, or a column of the manifest: "
                f"{', '.join(table.columns)}"
            )
        return set(table[self.target].astype(str))

    def of_frames(self, windows: Windows, batch: Batch, num_frames: list[int], num_columns: int) -> Tensor:
        """The class of each frame.

        Args:
            windows: the split.
            batch: windows of it.
            num_frames: of each window, those that see no padding.
            num_columns: T.

        Returns:
            (B, T) int64; UNLABELLED where there is no label, behind `num_frames`, and for phones that train lacks.
        """
        result = torch.full((len(num_frames), num_columns), UNLABELLED, dtype=torch.int64)
        table = windows.manifest.table
        for b, (row, start, valid) in enumerate(zip(batch.utterance, batch.start, num_frames, strict=True)):
            if self.is_phone:
                labels = self.labels.get(str(table["utterance"].iloc[row]))
                if labels is None:
                    continue
                samples = start + self.first_centre_samples + self.hop_samples * np.arange(valid)
                at = labels_at(labels, samples / windows.sample_rate)
                result[b, :valid] = torch.tensor([self._index.get(str(label), UNLABELLED) for label in at])
            else:
                result[b, :valid] = self._index[str(table[self.target].iloc[row])]
        return result
