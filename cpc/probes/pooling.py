"""Pool the frames of an utterance into one vector, for labels that a recording has as a whole: a scene, an animal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cpc.features import Features
from cpc.probes.options import Pooling


@dataclass(frozen=True)
class PooledFeatures(Features):
    """Features with one vector for each utterance, computed from its frames as they are read.

    Attributes:
        pooling: "mean" of the frames, (D,), or "mean_deviation", which appends the standard deviation, (2 · D,).
    """

    pooling: Pooling = "mean"

    @cached_property
    def _plain(self) -> Features:
        return Features(self.folder, self.manifest, self.meta)

    @property
    def dim(self) -> int:
        """The size of a vector."""
        return self._plain.dim * (2 if self.pooling == "mean_deviation" else 1)

    def frames(self, utterance: str) -> NDArray[np.float32]:
        """Pool the frames of one utterance: (1, dim), or (0, dim) if it has none."""
        x = np.asarray(self._plain.frames(utterance), np.float64)  # (T, D)
        if not len(x):
            return np.zeros((0, self.dim), np.float32)
        parts = [x.mean(axis=0), x.std(axis=0)] if self.pooling == "mean_deviation" else [x.mean(axis=0)]
        return np.concatenate(parts)[None].astype(np.float32)

    def num_frames(self, utterance: str) -> int:
        """Count the vectors of one utterance: 1, or 0 if it has no frames."""
        return min(1, self._plain.num_frames(utterance))


def pooled(features: Features, pooling: Pooling | None) -> Features:
    """Pool features as a probe's options say; None leaves them as they are."""
    if pooling is None:
        return features
    return PooledFeatures(features.folder, features.manifest, features.meta, pooling)
