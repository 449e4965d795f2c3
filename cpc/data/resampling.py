"""Resampling of a waveform that arrives in pieces, sample for sample as torchaudio resamples the whole."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float32]
_Counts = TypeVar("_Counts", int, npt.NDArray[np.int64])

_MAX_WEIGHTS = 1 << 26  # 256 MB; the filter from 44101 Hz to 16000 Hz would have 700 M weights
_KEPT = 128  # filters; shifts of pitch by up to 300 cents need 71 small ones


def num_resampled(num_samples: _Counts, source_rate: _Counts, target_rate: int) -> _Counts:
    """Return the number of samples after resampling: ceil(num_samples · target_rate / source_rate)."""
    # In integers: torchaudio takes this ceiling in float32, so it is off by one in some files of a few minutes.
    return -(-num_samples * target_rate // source_rate)


def has_small_filter(source_rate: int, target_rate: int) -> bool:
    """Whether the filter between two rates fits in memory; it grows with the terms of their reduced ratio."""
    gcd = math.gcd(source_rate, target_rate)
    return (source_rate // gcd) * (target_rate // gcd) <= _MAX_WEIGHTS


@dataclass(frozen=True, slots=True)
class Resampler:
    """torchaudio's windowed-sinc resampling of a stream.

    With the rates reduced to orig : new, each group of `orig` source samples gives `new` output samples through a
    filter that reaches `width` source samples past the group on either side. Outside the file there are zeros. So a run
    of groups is resampled exactly once `margin` = ceil(width / orig) further groups are known on both sides.

    Attributes:
        orig: source samples in a group.
        new: output samples in a group.
        margin: groups of context on either side.
        transform: torchaudio.transforms.Resample, which computes its filter once.
    """

    orig: int
    new: int
    margin: int
    transform: Any

    def stream(self, pieces: Iterable[Waveform]) -> Iterator[Waveform]:
        """Resample successive pieces of one signal with zeros around it; yield pieces of the result."""
        held: Waveform = np.empty(0, np.float32)  # its first `left` groups are done already and stay as context
        left = 0
        for piece in pieces:
            held = np.concatenate([held, piece])
            ready = len(held) // self.orig - self.margin - left
            if ready > 0:
                end = left + ready
                yield self._apply(held[: (end + self.margin) * self.orig])[left * self.new : end * self.new]
                drop = max(0, end - self.margin)
                held, left = held[drop * self.orig :], end - drop
        if len(held):
            yield self._apply(held)[left * self.new : num_resampled(len(held), self.orig, self.new)]

    def _apply(self, waveform: Waveform) -> Waveform:
        import torch

        # Pad to whole groups, since torchaudio rounds any other length in float32.
        padded = np.pad(waveform, (0, -len(waveform) % self.orig))
        result: Waveform = self.transform(torch.from_numpy(padded)).numpy()
        return result


@lru_cache(maxsize=_KEPT)
def resampler(source_rate: int, target_rate: int) -> Resampler:
    """Build the resampler between two rates, Hz; a pair of rates shares one."""
    import torch
    from torchaudio.transforms import Resample  # type: ignore[import-untyped, unused-ignore]

    gcd = math.gcd(source_rate, target_rate)
    orig = source_rate // gcd
    # With this dtype it is the filter that torchaudio.functional.resample computes for a float32 waveform.
    transform = Resample(source_rate, target_rate, dtype=torch.float32)
    return Resampler(orig, target_rate // gcd, math.ceil(transform.width / orig), transform)
