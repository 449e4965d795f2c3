"""The losses as modules, and a temperature that is learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpc.losses.embeddings import EmbeddingError, check_scoring


class LearnableTemperature(nn.Module):
    """A temperature that is learned as CLIP learns it: log(1 / temperature) is the parameter, with a ceiling.

    The parameter itself is held at the ceiling, not what is computed from it, so that a gradient can lead back down.

    Args:
        temperature: at the start; CLIP's default.
        max_scale: 1 / temperature does not exceed it.

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
        """The temperature, () with gradient."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.max_scale))
        return torch.exp(-self.log_scale)
