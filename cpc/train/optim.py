"""The optimisers and their learning rate, a pure function of the update."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cpc.model import BlockConv, Predictor

Name = Literal["adam", "adamw", "muon"]
Schedule = Literal["constant", "cosine", "linear"]

# Jordan's quintic: five rounds bring singular values between 0.002 and 1 to between 0.7 and 1.2.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_ROUNDS = 5
# A Muon update then has the root mean square of a typical AdamW update, so that learning rates carry over.
_ADAM_RMS = 0.2


def build_optimisers(
    model: nn.Module,
    name: Name,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    momentum: float,
    dtype: torch.dtype = torch.float32,
) -> list[torch.optim.Optimizer]:
    """The optimisers over a model; each parameter is in one of them.

    Args:
        model: the network.
        name: "adam", "adamw"; or "muon" on the matrices between hidden units and AdamW on the rest: the layer that
            reads the waveform, biases, gains.
        lr: learning rate after warm-up.
        betas: of Adam.
        eps: of Adam.
        weight_decay: on matrices; biases and gains (1-D parameters) have none.
        momentum: of Muon.
        dtype: in which Muon orthogonalises.
    """
    maps = stacked_maps(model) if name == "muon" else {}
    rest = [p for p in model.parameters() if p.requires_grad and p not in maps]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    optimisers: list[torch.optim.Optimizer] = [kind(groups, lr=lr, betas=betas, eps=eps)]
    if maps:
        optimisers.append(Muon(maps, lr=lr, momentum=momentum, weight_decay=weight_decay, dtype=dtype))
    return optimisers


def stacked_maps(model: nn.Module) -> dict[nn.Parameter, int]:
    """The matrices between hidden units, and how many linear maps each stacks: the gates of a GRU, all W_k."""
    maps: dict[nn.Parameter, int] = {}
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            maps |= {p: len(p) // module.hidden_size for p in module.parameters() if p.ndim > 1}
        elif isinstance(module, Predictor):
            maps[module.weight] = module.num_steps
        elif isinstance(module, BlockConv) and module.in_channels > 1:
            maps[module.weight] = 1
    return {p: n for p, n in maps.items() if p.requires_grad}


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is made orthogonal: all directions of a matrix move alike, the rare ones too.

    Each linear map of a stack is orthogonalised by itself. `torch.optim.Muon` takes a stack for one matrix, and
    always computes in bfloat16, which a CPU without such products does a hundred times slower than float32.

    Args:
        maps: matrices (n · A, B), and how many maps n each stacks.
        lr: learning rate.
        momentum: decay of the running mean of gradients (Nesterov).
        weight_decay: decoupled, times lr.
        dtype: of the orthogonalisation.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the scale of the update from Liu et al. 2025 (arXiv
    2502.16982), section 2.2.
    """

    def __init__(
        self, maps: dict[nn.Parameter, int], *, lr: float, momentum: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        groups = [
            {"params": [p for p, stacked in maps.items() if stacked == n], "num_maps": n}
            for n in sorted(set(maps.values()))
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix from its gradient."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                mean: Tensor = state["mean"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(mean, group["momentum"])
                maps = nesterov.view(group["num_maps"], -1, p.shape[1])  # (n, A, B)
                scale = _ADAM_RMS * max(maps.shape[1:]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonalise(maps, self.dtype).reshape(p.shape), alpha=-group["lr"] * scale)


def orthogonalise(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bring all singular values of each matrix near 1 by Newton-Schulz rounds: U S V^T → about U V^T.

    Args:
        x: (n, A, B).
        dtype: of the computation.

    Returns:
        (n, A, B) in the type of x.
    """
    wide: Tensor = x if x.shape[1] <= x.shape[2] else x.transpose(1, 2)
    y: Tensor = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_ROUNDS):
        gram = y @ y.transpose(1, 2)
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    y = y.to(x.dtype)
    return y if x.shape[1] <= x.shape[2] else y.transpose(1, 2)


def learning_rate(update: int, *, lr: float, warmup_updates: int, num_updates: int, schedule: Schedule) -> float:
    """Learning rate of update 0, 1, …: a linear rise over the warm-up, then constant, or down to 0 at the end."""
    if update < warmup_updates:
        return lr * (update + 1) / warmup_updates
    progress = (update - warmup_updates) / max(1, num_updates - warmup_updates)
    match schedule:
        case "constant":
            return lr
        case "cosine":
            return lr * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return lr * (1 - progress)
