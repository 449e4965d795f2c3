"""W_k: one linear map for each predicted step, from the context c_t to a prediction of z_{t+k}.

Source: van den Oord et al. 2018, equation 3: f_k(x_{t+k}, c_t) = exp(z_{t+k}ᵀ W_k c_t).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Predictor(nn.Module):
    """W_1 … W_K fused in one matrix: c (B, T, D_c) → predictions (K, B, T, D_z).

    Args:
        context_dim: D_c.
        latent_dim: D_z.
        num_steps: K, the number of predicted steps (12 in the paper).
    """

    def __init__(self, context_dim: int, latent_dim: int, num_steps: int = 12) -> None:
        super().__init__()
        self.context_dim, self.latent_dim, self.num_steps = context_dim, latent_dim, num_steps
        # Uniform in ±1/sqrt(D_c), as torch.nn.Linear initialises each W_k; no bias, as in the paper.
        bound = context_dim**-0.5
        self.weight = nn.Parameter(torch.empty(num_steps * latent_dim, context_dim).uniform_(-bound, bound))

    def linear_maps(self) -> dict[str, int]:
        """The weight stacks K maps."""
        return {"weight": self.num_steps}

    def forward(self, c: Tensor) -> Tensor:
        """Predict all steps from each context.

        Args:
            c: (B, T, D_c).

        Returns:
            (K, B, T, D_z): [k − 1, b, t] = W_k c_{b,t}, the prediction of z_{b,t+k}.
        """
        y = F.linear(c, self.weight)  # (B, T, K · D_z)
        return y.view(*y.shape[:2], self.num_steps, self.latent_dim).permute(2, 0, 1, 3)
