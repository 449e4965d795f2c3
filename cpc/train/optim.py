"""The optimisers, and the learning rate as a pure function of the update."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cpc.config import OptimConfig

Name = Literal["adam", "adamw", "muon"]
Schedule = Literal["constant", "cosine", "linear"]

# Jordan's quintic: five iterations move singular values between 0.002 and 1 to between 0.7 and 1.2.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_ROUNDS = 5
# A Muon update then has the root mean square of a typical AdamW update, so learning rates carry over.
_ADAM_RMS = 0.2


class OptimiserError(ValueError):
    """A weight that no optimiser is known for."""


def build_optimisers(
    model: nn.Module, optim: OptimConfig, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Build the optimisers of a model; each parameter belongs to one of them.

    With "muon", Muon updates the matrices between hidden units, and AdamW updates the rest: the layer that reads the
    signal, classifiers, biases and gains. Matrices have weight decay; biases and gains (1-D parameters) have none.

    Args:
        model: the network; with "muon", its modules declare their matrices by `linear_maps`.
        optim: name and settings.
        dtype: type in which Muon orthogonalises.

    Raises:
        OptimiserError: with "muon", a matrix that no module declares.
    """
    maps = declared_maps(model) if optim.name == "muon" else {}
    rest = [p for p in model.parameters() if p.requires_grad and not maps.get(p)]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    optimisers: list[torch.optim.Optimizer] = [kind(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)]
    if any(maps.values()):
        stacks = {p: n for p, n in maps.items() if n}
        optimisers.append(
            Muon(stacks, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, dtype=dtype)
        )
    return optimisers


def declared_maps(model: nn.Module) -> dict[nn.Parameter, int]:
    """Read the number of linear maps between hidden units that each matrix of a model stacks.

    A module declares its matrices, and those of modules inside it, by a method `linear_maps() -> dict[str, int]`: the
    name of each weight and its number of maps, e.g. the gates of a GRU or all W_k; 0 for a matrix that is none.

    Raises:
        OptimiserError: a trained matrix that no module declares.
    """
    maps: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for name, count in getattr(module, "linear_maps", dict)().items():
            maps[_declared(module, name, count)] = count
    for name, p in model.named_parameters():
        if p.requires_grad and p.ndim > 1 and p not in maps:
            raise OptimiserError(
                f"optim.name: muon does not know the weight {name} {tuple(p.shape)}; give its module a method "
                "linear_maps() that says how many linear maps between hidden units it stacks (0: none)"
            )
    return {p: n for p, n in maps.items() if p.requires_grad}


def _declared(module: nn.Module, name: str, count: int) -> nn.Parameter:
    """Return a weight that a module declares to stack so many maps.

    Raises:
        OptimiserError: there is no such weight, or it is no stack of so many matrices.
    """
    try:
        weight = module.get_parameter(name)
    except AttributeError:
        raise OptimiserError(f"{type(module).__name__}.linear_maps: {name} is no weight of this module") from None
    if count and (weight.ndim != 2 or len(weight) % count):
        raise OptimiserError(
            f"{type(module).__name__}.linear_maps: {name} {tuple(weight.shape)} does not stack {count} matrices of "
            "equal size; 0 leaves it to AdamW"
        )
    return weight


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised steps: every direction of a matrix moves by the same amount, rare ones included.

    Each linear map of a stack is orthogonalised separately. `torch.optim.Muon` treats a stack as one matrix and always
    computes in bfloat16, which is a hundred times slower than float32 on a CPU without bfloat16 products.

    Args:
        maps: matrices (n · A, B) with the number n of maps that each stacks.
        lr: learning rate.
        momentum: decay of the running mean of gradients (Nesterov).
        weight_decay: decoupled weight decay, multiplied by lr.
        dtype: type in which the orthogonalisation computes.

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
        by_shape: dict[tuple[int, ...], list[tuple[nn.Parameter, dict[str, Any], Tensor]]] = {}
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p)
                mean: Tensor = state["mean"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(mean, group["momentum"])
                maps = nesterov.view(group["num_maps"], -1, p.shape[1])  # (n, A, B)
                by_shape.setdefault(maps.shape[1:], []).append((p, group, maps))
        for shape, matrices in by_shape.items():
            # All maps of one shape at once, whatever matrix they belong to: fewer and larger products.
            stacked = torch.cat([maps for _, _, maps in matrices])
            steps = torch.split(orthogonalise(stacked, self.dtype), [len(maps) for _, _, maps in matrices])
            for (p, group, _), step in zip(matrices, steps, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step.reshape(p.shape), alpha=-group["lr"] * _ADAM_RMS * max(shape) ** 0.5)


def orthogonalise(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Move all singular values of each matrix near 1 by Newton-Schulz iterations: U S V^T → about U V^T.

    Args:
        x: (n, A, B).
        dtype: type in which to compute.

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


def learning_rate(update: int, optim: OptimConfig, num_updates: int) -> float:
    """Return the learning rate of update 0, 1, …, num_updates − 1.

    It rises linearly over the warm-up; then it is constant, or falls along half a cosine or a line. Both would reach 0
    at update `num_updates`, one after the last, so the last update still learns.
    """
    warmup = optim.warmup_updates
    if update < warmup:
        return optim.lr * (update + 1) / warmup
    progress = (update - warmup) / max(1, num_updates - warmup)
    match optim.schedule:
        case "constant":
            return optim.lr
        case "cosine":
            return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return optim.lr * (1 - progress)
