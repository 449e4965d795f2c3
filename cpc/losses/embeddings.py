"""Embeddings that are compared: checked and normalised, scored by blocks, gathered from all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

Similarity = Literal["cosine", "dot"]


class EmbeddingError(ValueError):
    """An argument that nothing can be computed from."""


def embeddings_of(name: str, x: Tensor, similarity: Similarity, ndim: int = 2) -> Tensor:
    """`x`, checked, in float32 or better, and for a cosine of length 1."""
    if x.ndim != ndim or not x.numel():
        shape = "(N, D)" if ndim == 2 else "(N, M, D)"
        raise EmbeddingError(f"{name}: got shape {tuple(x.shape)}, expected {shape} with at least 1 of each")
    if not x.is_floating_point():
        raise EmbeddingError(f"{name}: got {x.dtype}, expected floating point, as torch.float32")
    x = x if x.dtype == torch.float64 else x.float()
    if not bool(x.isfinite().all()):
        row = (~x.isfinite()).nonzero()[0].tolist()
        raise EmbeddingError(f"{name}: got {x[tuple(row)].item()} at {row}, expected finite values")
    if similarity == "dot":
        return x
    peak = x.detach().abs().amax(-1, keepdim=True)
    if not bool((peak > 0).all()):
        row = (peak == 0).nonzero()[0, :-1].tolist()
        raise EmbeddingError(f"{name}: got length 0 at {row}, expected above 0 for a cosine; or use similarity='dot'")
    x = x / peak  # squares then neither overflow nor vanish
    return F.normalize(x, dim=-1)


def check_scoring(temperature: float | Tensor, similarity: str, chunk_size: int | None = None) -> None:
    """Refuse a temperature, a similarity or a size of blocks that there is not."""
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise EmbeddingError(f"temperature: got shape {tuple(temperature.shape)}, expected one number, ()")
    value = temperature.detach().item() if isinstance(temperature, Tensor) else float(temperature)
    if not 0 < value < math.inf:
        raise EmbeddingError(f"temperature: got {value}, expected above 0 and finite")
    check_option("similarity", similarity, Similarity)
    if chunk_size is not None and chunk_size < 1:
        raise EmbeddingError(f"chunk_size: got {chunk_size}, expected 1 or more, or None for all at once")


def check_option(name: str, value: str, choices: Any) -> None:
    """Refuse a string that is not in the Literal."""
    if value not in get_args(choices):
        raise EmbeddingError(f"{name}: got {value!r}, allowed: {', '.join(get_args(choices))}")


def check_shape(name: str, x: Tensor, expected: tuple[int, ...], why: str) -> None:
    """Refuse another shape."""
    if tuple(x.shape) != expected:
        raise EmbeddingError(f"{name}: got shape {tuple(x.shape)}, expected {expected}, {why}")


def by_blocks(
    losses_of: Callable[..., Tensor], per_row: tuple[Tensor, ...], shared: tuple[Tensor, ...], chunk_size: int | None
) -> Tensor:
    """(N,) losses of N rows, `chunk_size` at a time; each block's scores are formed anew in the backward pass.

    Args:
        losses_of: (A,) losses of A rows: from the rows of each of `per_row`, then all of `shared`.
        per_row: (N, …) each.
        shared: what every row is scored against.
        chunk_size: None: all at once, by plain autograd.
    """
    if chunk_size is None:
        return losses_of(*per_row, *shared)
    losses: Tensor = _Blocks.apply(losses_of, chunk_size, len(per_row), *per_row, *shared)
    return losses


class _Blocks(torch.autograd.Function):
    """`torch.utils.checkpoint` on each block would do, but what it leaves behind splits the heap between the blocks."""

    @staticmethod
    def forward(ctx: Any, losses_of: Callable[..., Tensor], chunk_size: int, num_per_row: int, *args: Tensor) -> Tensor:
        ctx.losses_of, ctx.num_per_row = losses_of, num_per_row
        ctx.blocks = [slice(first, first + chunk_size) for first in range(0, len(args[0]), chunk_size)]
        ctx.save_for_backward(*args)
        losses = args[0].new_empty(len(args[0]))
        for block in ctx.blocks:
            losses[block] = losses_of(*(x[block] if i < num_per_row else x for i, x in enumerate(args)))
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:
        args, needed = ctx.saved_tensors, ctx.needs_input_grad[3:]
        gradients = [torch.zeros_like(x) if need else None for x, need in zip(args, needed, strict=True)]
        for block in ctx.blocks:
            parts = [slice(None) if i >= ctx.num_per_row else block for i in range(len(args))]
            inputs = [
                x[part].detach().requires_grad_(need) for x, part, need in zip(args, parts, needed, strict=True)
            ]  # fmt: skip
            with torch.enable_grad(), torch.autocast(d_losses.device.type, enabled=False):
                losses = ctx.losses_of(*inputs)
            found = iter(torch.autograd.grad(losses, [x for x in inputs if x.requires_grad], d_losses[block]))
            for gradient, part in zip(gradients, parts, strict=True):
                if gradient is not None:
                    gradient[part] += next(found)
        return None, None, None, *gradients


def world_size(gather: bool = True) -> int:
    """Number of ranks that take part: 1 without `gather`.

    Raises:
        EmbeddingError: if there is to be gathered without a process group.
    """
    if not gather:
        return 1
    if not (dist.is_available() and dist.is_initialized()):
        raise EmbeddingError(
            "gather: got True without a process group; call torch.distributed.init_process_group first"
        )
    return dist.get_world_size()


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks, in the order of the ranks.

    Each rank's gradient with respect to the rows of another travels back to it: a rank gets the sum over the ranks
    of the gradients with respect to its rows. So every rank must call backward, or none.

    Args:
        x: (N, …), of one shape on all ranks.

    Returns:
        (R · N, …), and where this rank's rows begin.

    Raises:
        EmbeddingError: if the shapes differ, on every rank; if there is no process group.
    """
    ranks = world_size()
    own = torch.tensor(x.shape, device=x.device)
    shapes = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(shapes, own)
    if any(not torch.equal(shape, own) for shape in shapes):
        every = ", ".join(str(tuple(shape.tolist())) for shape in shapes)
        raise EmbeddingError(
            f"gather: got shapes {every} on ranks 0 to {ranks - 1}, expected one shape; drop the last batch"
        )
    rows: Tensor = _Gather.apply(x)
    return rows, dist.get_rank() * len(x)


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is summed over the ranks; torch's own with a gradient is deprecated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.num_rows = len(x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, d_rows: Tensor) -> Tensor:
        d_rows = d_rows.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(d_rows)
        first = dist.get_rank() * ctx.num_rows
        return d_rows[first : first + ctx.num_rows]
