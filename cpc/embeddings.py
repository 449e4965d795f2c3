"""Embeddings that are compared: checked and normalised, scored by blocks, gathered from all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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


def by_blocks(losses_of: Callable[..., Tensor], per_row: tuple[Tensor, ...], chunk_size: int | None) -> Tensor:
    """(N,) losses, `chunk_size` rows at a time, of which only the rows are kept for the backward pass."""
    if chunk_size is None:
        return losses_of(*per_row)
    blocks = zip(*(torch.split(x, chunk_size) for x in per_row), strict=True)
    return torch.cat(
        [checkpoint(losses_of, *block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    )  # fmt: skip


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
