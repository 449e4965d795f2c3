"""A live signal in pieces of any length: z and c as soon as they can be computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpc.model.autoregressor import State
from cpc.model.encoder import Geometry
from cpc.model.inputs import SILENCE, as_batch

# What a model remembers between two blocks: the tails of g_enc's layers, and the state of g_ar.
Memory = tuple[list[Tensor], State | None]


class Stream:
    """The frames of one live signal. `CPC.stream` makes it and describes the latency and the normalisation.

    Args:
        advance: maps a block (1, S) of normalised samples, the memory of the block before (None at the start) and
            whether the signal ends here to z (1, T, D_z), c (1, T, D_c) and the memory after it.
        geometry: places of the frames.
        normalise: maps the next samples (S,) to normalised ones.
        device: where `advance` computes.

    Raises:
        ValueError: g_ar reads whole files, so that c cannot be streamed.
    """

    def __init__(
        self,
        advance: Callable[[Tensor, Memory | None, bool], tuple[Tensor, Tensor, Memory]],
        geometry: Geometry,
        normalise: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> None:
        self._advance, self._geometry, self._normalise, self._device = advance, geometry, normalise, device
        self._memory: Memory | None = None
        self._waiting: list[Tensor] = []  # pieces (S,) that complete no frame yet
        self._num_samples, self._num_frames = 0, 0  # received, returned
        self._is_closed = False
        self._nothing = self._compute(last=False)

    def feed(self, piece: Tensor | NDArray[np.generic]) -> tuple[Tensor, Tensor]:
        """Take the next samples.

        Args:
            piece: (S,) samples at the model's rate, of any length, as a tensor or an array of a float type, int16 or
                int32.

        Returns:
            z (t, D_z) and c (t, D_c) of the frames that these samples complete; t is 0 if they complete none.

        Raises:
            ValueError: another shape or type, a value that is not finite, or the stream is closed.
        """
        self._refuse_closed()
        if np.ndim(piece) != 1:
            raise ValueError(
                f"piece: got shape {tuple(np.shape(piece))}, expected (S,); give each signal its own stream"
            )
        self._waiting.append(as_batch(piece, torch.device("cpu"))[0])
        self._num_samples += len(self._waiting[-1])
        if self._num_samples < self._geometry.min_samples(self._num_frames + 1):
            return self._nothing
        return self._compute(last=False)

    def close(self) -> tuple[Tensor, Tensor]:
        """End the signal.

        Returns:
            z (t, D_z) and c (t, D_c) of the frames that the padding at the end completes; t is 0 without padding.

        Raises:
            ValueError: the stream is closed.
        """
        self._refuse_closed()
        self._is_closed = True
        return self._compute(last=True) if self._geometry.pads_right and self._num_samples else self._nothing

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ValueError("stream: closed; call model.stream() for another signal")

    @torch.no_grad()
    def _compute(self, *, last: bool) -> tuple[Tensor, Tensor]:
        """Compute the frames that the waiting pieces complete."""
        block = self._normalise(torch.cat([torch.zeros(0), *self._waiting]))
        self._waiting.clear()
        z, c, self._memory = self._advance(block[None].to(self._device), self._memory, last)
        self._num_frames += z.shape[1]
        return z[0], c[0]


class RunningNormaliser:
    """Normalises each sample by the mean and the deviation of all samples up to it.

    The result does not depend on the pieces in which the samples come.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums = torch.zeros(2, 1, dtype=torch.float64)  # of the samples, and of their squares

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the next samples (S,)."""
        if not len(x):
            return x
        wide = x.double()
        sums = self._sums + torch.stack([wide, wide * wide]).cumsum(1)  # (2, S)
        count = self._count + torch.arange(1, len(x) + 1)
        self._count, self._sums = int(count[-1]), sums[:, -1:]
        mean, square = sums / count
        std = (square - mean * mean).clamp_min(0).sqrt()
        normalised: Tensor = ((wide - mean) / std.clamp_min(SILENCE)).float()
        return normalised


class FixedNormaliser:
    """Normalises by a mean and a deviation that are known.

    Raises:
        ValueError: a mean that is not finite, or a deviation that is not a positive number.
    """

    def __init__(self, mean: float, std: float) -> None:
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"statistics: got mean {mean} and deviation {std}, expected finite numbers, deviation > 0")
        self._mean, self._std = mean, std

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the next samples (S,)."""
        return (x - self._mean) / self._std
