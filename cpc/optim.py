"""The optimiser and its learning rate, a pure function of the update."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn


def build(
    model: nn.Module,
    name: Literal["adam", "adamw"],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Adam or AdamW over the model; biases and gains (1-D parameters) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, lr=lr, betas=betas, eps=eps)


def learning_rate(
    update: int, *, lr: float, warmup_updates: int, num_updates: int, schedule: Literal["constant", "cosine"]
) -> float:
    """Learning rate of update 0, 1, …: a linear rise over the warm-up, then constant or half a cosine to 0."""
    if update < warmup_updates:
        return lr * (update + 1) / warmup_updates
    if schedule == "constant":
        return lr
    progress = (update - warmup_updates) / max(1, num_updates - warmup_updates)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))
