"""The networks of CPC on images: a grid of patches, g_enc for each patch, and g_ar from row to row.

Source: van den Oord et al. 2018, section 3.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpc.model import Predictor

GRID, PATCH = 7, 8  # patches a side, and pixels a side of each: the next patch begins half a patch further
CELL = PATCH // 2
SIDE = (GRID + 1) * CELL  # pixels a side of an image: 32


class Block(nn.Module):
    """Add to each position what two linear layers compute from it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + added


class Encoder(nn.Module):
    """g_enc: images (B, 3, 32, 32) → z (B, 7, 7, D), each of which depends on its own patch alone.

    A patch is a square of four cells. A cell belongs to up to four patches, and is encoded once for all of them. There
    is no normalisation over the batch, which would let patches see each other.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        width = latent_dim // 2
        cells = [nn.Conv2d(3, width, CELL, stride=CELL), Block(width), nn.ReLU()]  # (B, width, 8, 8)
        patches = [nn.Conv2d(width, latent_dim, 2), Block(latent_dim), Block(latent_dim)]  # (B, D, 7, 7)
        self.layers = nn.Sequential(*cells, *patches)

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return z.permute(0, 2, 3, 1)


def pool(z: Tensor) -> Tensor:
    """Average the positive and the negative parts of latents (B, 7, 7, D) over the patches: (B, 2 · D)."""
    return F.relu(torch.cat([z, -z], 3)).mean((1, 2))


class MaskedConvolution(nn.Module):
    """g_ar: z (B, 7, 7, D_z) → c (B, 7, 7, D_c). c of a patch depends on the latents of its own row and those above."""

    def __init__(self, latent_dim: int, context_dim: int, num_layers: int = 3) -> None:
        super().__init__()
        self.begin = nn.Conv2d(latent_dim, context_dim, 1)
        # Each layer sees two rows above, so three layers reach from the last row to the first.
        self.layers = nn.ModuleList(nn.Conv2d(context_dim, context_dim, 3) for _ in range(num_layers))

    def forward(self, z: Tensor) -> Tensor:
        x = self.begin(z.permute(0, 3, 1, 2))  # (B, D_c, 7, 7)
        for layer in self.layers:
            x = x + layer(F.pad(F.relu(x), (1, 1, 2, 0)))  # pad a column on either side, and two rows above
        return x.permute(0, 2, 3, 1)


def columns(x: Tensor) -> Tensor:
    """Turn grids (B, 7, 7, D) into sequences (B · 7, 7, D): a column each, whose time runs down the rows."""
    return x.transpose(1, 2).flatten(0, 1)


class CPC(nn.Module):
    """Images (B, 3, 32, 32) → z (B · 7, 7, D_z) and predictions (K, B · 7, 7, D_z), for `cpc.infonce.infonce`.

    Args:
        latent_dim: D_z; contexts have half of it.
        num_steps: K, the number of rows that are predicted from each row.
    """

    def __init__(self, latent_dim: int, num_steps: int) -> None:
        super().__init__()
        self.g_enc, self.g_ar = Encoder(latent_dim), MaskedConvolution(latent_dim, latent_dim // 2)
        self.W = Predictor(latent_dim // 2, latent_dim, num_steps)
        self.tau = latent_dim**0.5

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z = self.g_enc(images)
        return columns(z), self.W(columns(self.g_ar(z))) / self.tau
