"""The losses as modules, and a temperature that is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpc.embeddings import EmbeddingError, check_scoring
from cpc.losses import info_nce, nt_xent, sup_con


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


class _Loss(nn.Module):
    """A loss with its options set once, which are those of the function.

    Args:
        temperature: a number, or a LearnableTemperature, whose parameter is then this module's.
        options: the others of the function.
    """

    function: Callable[..., Tensor]

    def __init__(self, temperature: float | LearnableTemperature = 0.1, **options: Any) -> None:
        super().__init__()
        self.temperature, self.options = temperature, options

    def forward(self, *args: Tensor | None) -> Tensor:
        temperature = self.temperature() if isinstance(self.temperature, LearnableTemperature) else self.temperature
        return self.function(*args, temperature=temperature, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class InfoNCELoss(_Loss):
    """`info_nce(query, positive, negatives)`."""

    function = staticmethod(info_nce)


class NTXentLoss(_Loss):
    """`nt_xent(embeddings, labels)`."""

    function = staticmethod(nt_xent)


class SupConLoss(_Loss):
    """`sup_con(embeddings, labels)`."""

    function = staticmethod(sup_con)
