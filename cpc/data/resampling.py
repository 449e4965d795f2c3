"""Resampling of a waveform that arrives in pieces, by soxr."""

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float32]
_Counts = TypeVar("_Counts", int, npt.NDArray[np.int64])

RESAMPLER = "soxr"  # named by what is made of resampled sound; earlier versions had another filter
_CONTEXT_SAMPLES = 256  # at the lower rate; beyond, a sample changes the result by less than the rounding of float32


def num_resampled(num_samples: _Counts, source_rate: _Counts, target_rate: int) -> _Counts:
    """Return the number of samples after resampling: ceil(num_samples · target_rate / source_rate)."""
    return -(-num_samples * target_rate // source_rate)


def resample_pieces(pieces: Iterable[Waveform], source_rate: int, target_rate: int) -> Iterator[Waveform]:
    """Resample successive pieces of one signal, with zeros around it; the lengths of the pieces change no bit.

    Args:
        pieces: (S_i,) samples at `source_rate`.
        source_rate: Hz.
        target_rate: Hz.

    Yields:
        Pieces of the result, `num_resampled` samples in all. Output sample i lies at the time i / target_rate.
    """
    import soxr

    stream = soxr.ResampleStream(source_rate, target_rate, num_channels=1, dtype="float32")
    num_taken = num_made = 0
    for piece in pieces:
        made = stream.resample_chunk(piece)
        num_taken, num_made = num_taken + len(piece), num_made + len(made)
        if len(made):
            yield made
    # soxr rounds the number of samples to the nearest integer, so one may be missing; silence after the end yields it.
    missing = num_resampled(num_taken, source_rate, target_rate) - num_made
    silence = np.zeros(math.ceil(source_rate / target_rate), np.float32)
    if missing:
        yield stream.resample_chunk(silence, last=True)[:missing]


def source_of_slice(start: int, stop: int, source_rate: int, target_rate: int) -> tuple[int, int, int]:
    """Find the source samples from which the output samples [start, stop) can be computed.

    Args:
        start: first output sample.
        stop: one past the last output sample.
        source_rate: Hz.
        target_rate: Hz.

    Returns:
        First source sample, one past the last (it may lie behind the end of the file), and the place of output sample
        `start` in the result of resampling these. The first source sample has an output sample at its time.
    """
    gcd = math.gcd(source_rate, target_rate)
    orig, new = source_rate // gcd, target_rate // gcd  # each group of `orig` source samples has `new` output samples
    margin = math.ceil(_CONTEXT_SAMPLES * max(1, source_rate / target_rate) / orig)
    first, last = max(0, start // new - margin), -(-stop // new) + margin
    return first * orig, last * orig, start - first * new
