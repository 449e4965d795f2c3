"""Derive frames from an extractor's: normalised over the utterance (CMVN), and stacked with their neighbours.

Both make a spectral baseline much stronger for phones, and CMVN removes most of what it tells about the speaker, so a
comparison needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cpc.data import Waveform
from cpc.features.extractors import Extractor, Pieces
from cpc.features.store import Features, FeaturesError

CONTEXT_STEP = 2  # frames between the taps of a context, 20 ms at a hop of 10 ms
_LEAST_DEVIATION = 1e-5  # a dimension that varies less is constant, and dividing by it would amplify rounding noise


class DerivedExtractor:
    """Derives frames from those of another extractor.

    A whole utterance is held in memory while it is derived: 56 MB for an hour of MFCC.

    Args:
        extractor: extractor of the plain frames (T, D).
        cmvn: normalise each dimension to zero mean and unit variance over the utterance.
        context_frames: reach R of the context, a multiple of CONTEXT_STEP: stack the frames t − R, t − R + 2, …, t + R,
            which gives (T, (R + 1) · D). The first and the last frame stand in for those beyond the ends. 0 stacks
            none.

    Attributes:
        stored: the plain frames, if they are on disk; they are read instead of the sound, and no network runs again.

    Raises:
        FeaturesError: a reach that is negative or odd.
    """

    def __init__(self, extractor: Extractor, *, cmvn: bool = False, context_frames: int = 0) -> None:
        if context_frames < 0 or context_frames % CONTEXT_STEP:
            raise FeaturesError(f"context: got {context_frames}, expected 0 or a positive multiple of {CONTEXT_STEP}")
        self.plain, self._cmvn, self._context_frames = extractor, cmvn, context_frames
        self.stored: Features | None = None
        suffix = ("_cmvn" if cmvn else "") + (f"_context{context_frames}" if context_frames else "")
        self.source, self._suffix = extractor.source + suffix, suffix
        self.layer, self.normalise, self.made_by = extractor.layer, extractor.normalise, extractor.made_by
        self.dim = extractor.dim * (context_frames // CONTEXT_STEP * 2 + 1)
        self.sample_rate, self.hop_samples = extractor.sample_rate, extractor.hop_samples
        self.first_centre_samples = extractor.first_centre_samples

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""
        return self.plain.num_frames(num_samples)

    def frames(self, blocks: Iterable[Waveform]) -> Pieces:
        """Extract one file, given in successive blocks of samples (S,), as one piece (T, D)."""
        yield self.derive(np.concatenate(list(self.plain.frames(blocks))))

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Extract short files, given whole, as one array (T, D) each."""
        return [self.derive(frames) for frames in self.plain.frames_of(waveforms)]

    def identity(self) -> str:
        """Name what the frames depend on."""
        return self.plain.identity() + self._suffix

    def derive(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Derive the frames of an utterance from its plain ones (T, D)."""
        x = frames
        if self._cmvn and len(x):
            wide = x.astype(np.float64)
            x = ((wide - wide.mean(axis=0)) / np.maximum(wide.std(axis=0), _LEAST_DEVIATION)).astype(np.float32)
        if self._context_frames and len(x):
            offsets = range(-self._context_frames, self._context_frames + 1, CONTEXT_STEP)
            t = np.arange(len(x))
            x = np.concatenate([x[np.clip(t + offset, 0, len(x) - 1)] for offset in offsets], axis=1)
        return x
