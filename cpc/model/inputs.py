"""Waveforms as people have them, tensors and arrays of several types, one or a batch; and their normalisation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A waveform with a smaller deviation is silence; dividing by it would amplify rounding noise.
SILENCE = 1e-8
_FULL_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_CHANNELS = 8


def as_batch(given: Tensor | NDArray[np.generic], device: torch.device) -> Tensor:
    """Turn one waveform (S,) or a batch of them (B, S) into a batch (B, S) of float32, with full scale at 1.

    Args:
        given: a tensor or an array of a float type, int16 or int32.
        device: where to put it.

    Raises:
        ValueError: another shape or type, or a value that is not finite.
    """
    x = torch.from_numpy(np.ascontiguousarray(given)) if isinstance(given, np.ndarray) else given
    if not isinstance(x, Tensor):
        raise ValueError(
            f"waveforms: got a {type(given).__name__}, expected a tensor, an array or the path of a sound file"
        )
    shape = tuple(x.shape)
    if x.ndim == 3 and 1 in shape[:2]:
        raise ValueError(f"waveforms: got shape {shape}, expected (S,) or (B, S); drop the axis of channels")
    if x.ndim not in (1, 2):
        raise ValueError(f"waveforms: got shape {shape}, expected (S,) or (B, S)")
    if x.ndim == 2 and x.shape[1] <= _MOST_CHANNELS < x.shape[0]:
        raise ValueError(
            f"waveforms: got shape {shape}, which looks like (samples, channels); pass mono, such as x.mean(1)"
        )
    if x.dtype not in _FLOATS and x.dtype not in _FULL_SCALE:
        raise ValueError(f"waveforms: got {x.dtype}, expected a float type, int16 or int32")
    batch = x.to(device, torch.float32) / _FULL_SCALE.get(x.dtype, 1.0)
    batch = batch[None] if x.ndim == 1 else batch
    if not torch.isfinite(batch).all():
        row = int((~torch.isfinite(batch)).any(1).nonzero()[0])
        raise ValueError(f"waveforms: row {row} has a value that is not finite (NaN or infinity)")
    return batch


def normalised(waveforms: Tensor, silence: float = SILENCE) -> Tensor:
    """Normalise each utterance of a batch (B, S) to zero mean and unit variance.

    TorchScript compiles this function, and it knows a constant only as an argument.
    """
    std, mean = torch.std_mean(waveforms, dim=1, correction=0, keepdim=True)
    return (waveforms - mean) / std.clamp_min(silence)
