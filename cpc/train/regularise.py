"""Regularisation of small runs: dropout between the networks, and loss terms on z.

    dropout            z as it enters g_ar, or c as it enters W_k; the targets z stay whole
    left_or_right      each latent resembles the one before or the one after it, so that z changes in steps
    self_expression    each latent resembles a mixture of the other latents of its window that are similar to it

Source: Bhati et al. 2023, "Regularizing Contrastive Predictive Coding for Speech Applications", arXiv 2304.05974, for
the two ideas. The distance here is 1 − cosine, and the mixture weights are the positive cosines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-6


def drop(x: Tensor, probability: float, seed: int) -> Tensor:
    """Set elements to zero with a probability, and scale the others up so that the mean stays.

    Args:
        x: any shape.
        probability: in [0, 1).
        seed: seed of the draw; the same seed drops the same elements.
    """
    if not probability:
        return x
    generator = torch.Generator(x.device).manual_seed(seed % 2**64)
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= probability
    return x * (kept / (1 - probability)).to(x.dtype)


def left_or_right(z: Tensor, num_frames: Sequence[int]) -> Tensor:
    """Average over the frames the distance to the nearer of the two neighbours.

    Args:
        z: (B, T, D) latents.
        num_frames: (B,) valid frames of each sequence.

    Returns:
        (), in [0, 2]. The first and the last frame have one neighbour; a sequence of one frame has none and counts 0.
    """
    apart = 1 - F.cosine_similarity(z[:, 1:].float(), z[:, :-1].float(), dim=2, eps=_EPS)  # (B, T − 1)
    valid = _valid(z, num_frames)
    apart = apart.masked_fill(~valid[:, 1:], torch.inf)
    left, right = F.pad(apart, (1, 0), value=torch.inf), F.pad(apart, (0, 1), value=torch.inf)
    nearest = torch.minimum(left, right)
    return torch.where(torch.isfinite(nearest), nearest, 0).sum() / valid.sum()


def self_expression(z: Tensor, num_frames: Sequence[int]) -> Tensor:
    """Average over the frames the distance to a mixture of the other frames of the window.

    Args:
        z: (B, T, D) latents.
        num_frames: (B,) valid frames of each sequence.

    Returns:
        (), in [0, 1]. A frame's mixture weighs each other frame by its cosine, where that is positive.
    """
    unit, valid = F.normalize(z.float(), dim=2, eps=_EPS), _valid(z, num_frames)
    weights = (unit @ unit.transpose(1, 2)).clamp(min=0) * valid[:, None]  # (B, T, T)
    weights = weights * (1 - torch.eye(z.shape[1], device=z.device))
    mixture = F.normalize(weights @ unit, dim=2, eps=_EPS)
    apart = 1 - (unit * mixture).sum(2)
    return (apart * valid).sum() / valid.sum()


def _valid(z: Tensor, num_frames: Sequence[int]) -> Tensor:
    """Whether each frame is no padding: (B, T) bool."""
    frames = torch.arange(z.shape[1], device=z.device)
    return frames < torch.tensor(num_frames, device=z.device)[:, None]
