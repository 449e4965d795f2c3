"""What an objective sees: a batch and its representations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cpc.data import Batch

Result = dict[str, Tensor]  # "loss" with a gradient, and logged values: shape (), or (K,) under names that end in _k


class Views(NamedTuple):
    """A batch and its representations.

    Attributes:
        waveforms: (B, S).
        z: (B, T, D_z).
        c: (B, T, D_c).
        num_frames: each window's number of frames that see no padding.
        batch: the windows and what is known about them.
        seed: seed of random draws.
    """

    waveforms: Tensor
    z: Tensor
    c: Tensor
    num_frames: list[int]
    batch: Batch
    seed: int

    def pooled(self, c: Tensor | None = None) -> Tensor:
        """Average c (or another tensor of its shape) over each window's frames: (B, D_c), float32."""
        c = (self.c if c is None else c).float()
        frame = torch.arange(c.shape[1], device=c.device)
        count = torch.tensor(self.num_frames, device=c.device)[:, None]  # (B, 1)
        return (c * (frame < count)[..., None]).sum(1) / count

    @property
    def targets(self) -> Tensor:
        """(B, T) class of each frame, UNLABELLED where it is unknown or sees padding."""
        assert self.batch.targets is not None
        return self.batch.targets
