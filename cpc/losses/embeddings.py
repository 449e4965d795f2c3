"""What the losses share: checked and normalised embeddings, scoring by blocks, gathering over ranks, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

Similarity = Literal["cosine", "dot"]
Reduction = Literal["mean", "sum", "none"]


class EmbeddingError(ValueError):
    """An argument from which no loss can be computed."""


# --- arguments


def embeddings_of(name: str, x: Tensor, similarity: Similarity, ndim: int = 2) -> Tensor:
    """Check `x` and return it in float32 or float64, with rows of length 1 for a cosine.

    Raises:
        EmbeddingError: wrong shape or type, a value that is not finite, or a row of length 0 under a cosine.
    """
    if x.ndim != ndim or not x.numel():
        shape = "(N, D)" if ndim == 2 else "(N, M, D)"
        raise EmbeddingError(f"{name}: got shape {tuple(x.shape)}, expected {shape} with at least 1 of each")
    if not x.is_floating_point():
        raise EmbeddingError(f"{name}: got {x.dtype}, expected floating point, such as torch.float32")
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
    x = x / peak  # so that squares neither overflow nor vanish
    return F.normalize(x, dim=-1)


def check_scoring(temperature: float | Tensor, similarity: str, chunk_size: int | None = None) -> None:
    """Check the arguments that decide how scores are computed.

    Raises:
        EmbeddingError: one of them is out of range.
    """
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise EmbeddingError(f"temperature: got shape {tuple(temperature.shape)}, expected one number, ()")
    value = temperature.detach().item() if isinstance(temperature, Tensor) else float(temperature)
    if not 0 < value < math.inf:
        raise EmbeddingError(f"temperature: got {value}, expected above 0 and finite")
    check_option("similarity", similarity, Similarity)
    if chunk_size is not None and chunk_size < 1:
        raise EmbeddingError(f"chunk_size: got {chunk_size}, expected at least 1, or None for all at once")


def check_option(name: str, value: str, choices: Any) -> None:
    """Raise an EmbeddingError unless the string is one of the Literal `choices`."""
    if value not in get_args(choices):
        raise EmbeddingError(f"{name}: got {value!r}, allowed: {', '.join(get_args(choices))}")


def check_shape(name: str, x: Tensor, expected: tuple[int, ...], why: str) -> None:
    """Raise an EmbeddingError unless `x` has the expected shape."""
    if tuple(x.shape) != expected:
        raise EmbeddingError(f"{name}: got shape {tuple(x.shape)}, expected {expected}, {why}")


# --- losses of rows


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + e^x); above the threshold it equals x in any precision."""
    return F.softplus(x, threshold=50)


def reduce_losses(losses: Tensor, reduction: Reduction, num_terms: int, gather: bool) -> Tensor:
    """Reduce this rank's losses (N,).

    Args:
        losses: (N,).
        reduction: see the docstring of `contrastive`.
        num_terms: number of terms over all ranks.
        gather: whether several ranks take part. The mean is then scaled so that averaging it over the ranks gives the
            mean over all terms.
    """
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total * (world_size(gather) / max(num_terms, 1))


def by_blocks(
    losses_of: Callable[..., Tensor], per_row: tuple[Tensor, ...], shared: tuple[Tensor, ...], chunk_size: int | None
) -> Tensor:
    """Compute the losses (N,) of N rows block by block; the backward pass recomputes each block's scores.

    Args:
        losses_of: computes the losses (A,) of A rows from a block of each tensor in `per_row`, then all of `shared`.
        per_row: tensors (N, …).
        shared: what every row is scored against.
        chunk_size: number of rows in a block; None computes all at once by plain autograd.
    """
    if chunk_size is None:
        return losses_of(*per_row, *shared)
    losses: Tensor = _Blocks.apply(losses_of, chunk_size, len(per_row), *per_row, *shared)
    return losses


class _Blocks(torch.autograd.Function):
    """Losses by blocks.

    `torch.utils.checkpoint` on each block would do the same, but what it leaves behind fragments the heap.
    """

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
            parts = [block if i < ctx.num_per_row else slice(None) for i in range(len(args))]
            columns = zip(args, parts, needed, strict=True)
            inputs = [x[part].detach().requires_grad_(need) for x, part, need in columns]
            with torch.enable_grad(), torch.autocast(d_losses.device.type, enabled=False):
                losses = ctx.losses_of(*inputs)
            found = iter(torch.autograd.grad(losses, [x for x in inputs if x.requires_grad], d_losses[block]))
            for gradient, part in zip(gradients, parts, strict=True):
                if gradient is not None:
                    gradient[part] += next(found)
        return None, None, None, *gradients


# --- ranks


def world_size(gather: bool = True) -> int:
    """Return the number of ranks that take part, which is 1 without `gather`.

    Raises:
        EmbeddingError: `gather` is on and there is no process group.
    """
    if not gather:
        return 1
    if not (dist.is_available() and dist.is_initialized()):
        raise EmbeddingError(
            "gather: got True without a process group; call torch.distributed.init_process_group first"
        )
    return dist.get_world_size()


def gathered(x: Tensor) -> tuple[Tensor, int]:
    """Collect the rows of all ranks, in rank order.

    The gradients flow back to the ranks that the rows came from: each rank receives the gradient of its rows summed
    over all ranks. So either every rank calls backward, or none does.

    Args:
        x: (N, …); the same shape on all ranks.

    Returns:
        (R · N, …) for R ranks, and the index of this rank's first row.

    Raises:
        EmbeddingError: the shapes differ (raised on every rank), or there is no process group.
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
    """An all-gather whose gradient is summed over the ranks; torch's own version with a gradient is deprecated."""

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
