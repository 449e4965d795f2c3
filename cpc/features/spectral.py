"""Extract MFCC and log-mel frames (torchaudio), with which CPC is compared.

A frame covers 25 ms and the hop is 10 ms, without padding, so frame i at 16 kHz is centred at sample 160·i + 200.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from cpc.data import Waveform
from cpc.features.extractors import mark_last
from cpc.features.store import Layer

NUM_CEPSTRA = 13  # 39 dimensions with first and second differences
NUM_MELS = 40
_WINDOW_SECONDS, _HOP_SECONDS = 0.025, 0.010
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
        self.window_samples = round(_WINDOW_SECONDS * sample_rate)
        self.hop_samples = round(_HOP_SECONDS * sample_rate)
        self.first_centre_samples = self.window_samples / 2
        self.dim = 3 * NUM_CEPSTRA if kind == "mfcc" else NUM_MELS
        mel = {"n_fft": self.window_samples, "hop_length": self.hop_samples, "n_mels": NUM_MELS, "center": False}
        # log(mel + 1e-6) instead of decibels below the maximum of the file: a frame must not depend on later ones.
        if kind == "mfcc":
            self._static = torchaudio.transforms.MFCC(sample_rate, NUM_CEPSTRA, log_mels=True, melkwargs=mel)
        else:
            self._mel = torchaudio.transforms.MelSpectrogram(sample_rate, **mel)
            self._static = lambda x: torch.log(self._mel(x) + 1e-6)

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""
        return max(0, (num_samples - self.window_samples) // self.hop_samples + 1)

    def frames(self, blocks: Iterable[Waveform]) -> Iterator[NDArray[np.float32]]:
        """Extract one file block by block; frames are held back until the context of their differences is there."""
        samples = torch.zeros(0)
        context, done = torch.zeros(self.dim if self.source == "logmel" else NUM_CEPSTRA, 0), 0
        for block, last in mark_last(blocks):
            samples = torch.cat([samples, torch.from_numpy(np.ascontiguousarray(block))])
            num_new = self.num_frames(len(samples))
            if num_new:
                context = torch.cat([context, self._static(samples)], dim=1)  # (D, t)
                samples = samples[num_new * self.hop_samples :]
            if self.source == "logmel":
                yield context.T.numpy()
                context = context[:, :0]
                continue
            ready = context.shape[1] if last else context.shape[1] - _CONTEXT_FRAMES
            if ready > done:
                yield _with_deltas(context)[:, done:ready].T.numpy()
                dropped = max(0, ready - _CONTEXT_FRAMES)
                context, done = context[:, dropped:], ready - dropped

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Extract short files, given whole, as one array (T, D) each."""
        return [np.concatenate(list(self.frames([waveform]))) for waveform in waveforms]

    def identity(self) -> str:
        """Name the kind of frames."""
        return f"{self.source}-{self.dim}"


def _with_deltas(static: Tensor) -> Tensor:
    """Append first and second differences: (D, T) → (3 · D, T)."""
    delta = torchaudio.functional.compute_deltas(static, _DELTA_FRAMES)
    return torch.cat([static, delta, torchaudio.functional.compute_deltas(delta, _DELTA_FRAMES)])
