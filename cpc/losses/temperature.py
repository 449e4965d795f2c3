"""A learnable temperature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpc.losses.embeddings import EmbeddingError, check_scoring


class LearnableTemperature(nn.Module):
    """A temperature that is learned as in CLIP: the parameter is log(1 / temperature), with a ceiling.

    The parameter itself is clamped, not the value computed from it, so that gradients can still lower it.

    Args:
        temperature: initial value; the default is CLIP's.
        max_scale: ceiling of 1 / temperature.

    Source: Radford et al. 2021, section 2.5.
    """

    def __init__(self, temperature: float = 0.07, max_scale: float = 100.0) -> None:
        super().__init__()
        check_scoring(temperature, "cosine")
        if not 1 / temperature <= max_scale < math.inf:
            raise EmbeddingError(f"max_scale: got {max_scale}, expected at least 1 / temperature = {1 / temperature}")
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(self) -> Tensor:
        """Return the temperature, () with gradient."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.max_scale))
        return torch.exp(-self.log_scale)
