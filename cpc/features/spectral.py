"""Extract MFCC and log-mel frames, with which CPC is compared.

A frame covers 25 ms and the hop is 10 ms, without padding, so frame i at 16 kHz is centred at sample 160·i + 200.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import savgol_filter
from torch import Tensor

from cpc.data import Waveform
from cpc.features.extractors import mark_last
from cpc.features.store import Layer
from cpc.model import NUM_MELS, LogMel

NUM_CEPSTRA = 13  # 39 dimensions with first and second differences
_DELTA_FRAMES = 5  # a difference is a regression over t ± 2
_CONTEXT_FRAMES = 4  # a second difference sees t ± 4


class SpectralExtractor:
    """Extracts MFCC with first and second differences (39 dimensions), or log-mel energies (40).

    Args:
        kind: "mfcc" or "logmel".
        sample_rate: Hz.
    """

    layer: Layer | None = None
    normalise: bool = True
    made_by: Mapping[str, str] = MappingProxyType({})

    def __init__(self, kind: Literal["mfcc", "logmel"], sample_rate: int = 16000) -> None:
        self.source: str = kind
        self.sample_rate = sample_rate
        # LogMel stays in training mode, for float32 as in torchaudio.
        self._log_mel, self._cosines = LogMel(sample_rate), _cosines()
        self.window_samples, self.hop_samples = self._log_mel.window_samples, self._log_mel.hop_samples
        self.first_centre_samples = self.window_samples / 2
        self.dim = 3 * NUM_CEPSTRA if kind == "mfcc" else NUM_MELS

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""
        return max(0, (num_samples - self.window_samples) // self.hop_samples + 1)

    def frames(self, blocks: Iterable[Waveform]) -> Iterator[NDArray[np.float32]]:
        """Extract one file block by block; frames are held back until the context of their differences is there."""
        samples = torch.zeros(0)
        context, done = np.zeros((0, self.dim if self.source == "logmel" else NUM_CEPSTRA), np.float32), 0
        for block, last in mark_last(blocks):
            samples = torch.cat([samples, torch.from_numpy(np.ascontiguousarray(block))])
            num_new = self.num_frames(len(samples))
            if num_new:
                context = np.concatenate([context, self._static(samples)])  # (t, D)
                samples = samples[num_new * self.hop_samples :]
            if self.source == "logmel":
                yield context
                context = context[:0]
                continue
            ready = len(context) if last else len(context) - _CONTEXT_FRAMES
            if ready > done:
                yield _with_deltas(context)[done:ready]
                dropped = max(0, ready - _CONTEXT_FRAMES)
                context, done = context[dropped:], ready - dropped

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Extract short files, given whole, as one array (T, D) each."""
        return [np.concatenate(list(self.frames([waveform]))) for waveform in waveforms]

    def identity(self) -> str:
        """Name the kind of frames."""
        return f"{self.source}-{self.dim}"

    def _static(self, samples: Tensor) -> NDArray[np.float32]:
        """Compute log-mel energies, or the cepstra without differences: (S,) → (T, D)."""
        frames = self._log_mel(samples)
        static: NDArray[np.float32] = (frames if self.source == "logmel" else frames @ self._cosines).numpy()
        return static


def _cosines() -> Tensor:
    """Make the orthonormal DCT-II that turns log-mel energies into cepstra: (NUM_MELS, NUM_CEPSTRA)."""
    phase = math.pi / NUM_MELS * (torch.arange(NUM_MELS) + 0.5)[:, None]
    cosines = math.sqrt(2 / NUM_MELS) * torch.cos(phase * torch.arange(NUM_CEPSTRA))
    cosines[:, 0] /= math.sqrt(2)
    return cosines


def _with_deltas(static: NDArray[np.float32]) -> NDArray[np.float32]:
    """Append first and second differences: (T, D) → (T, 3 · D)."""
    delta = _differences(static)
    return np.concatenate([static, delta, _differences(delta)], axis=1)


def _differences(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a line to each frame and its neighbours, and return the slopes: (T, D) → (T, D). The end frames repeat."""
    slopes: NDArray[np.float32] = savgol_filter(frames, _DELTA_FRAMES, polyorder=1, deriv=1, axis=0, mode="nearest")
    return slopes
