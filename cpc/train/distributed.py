"""Training in several processes: `torchrun --nproc-per-node 8 -m cpc.train paper --out RUN …`.

Each process (rank) trains on batches of its own, so negatives come from the minibatch of one device, as in the paper;
gradients are averaged over the ranks, so the learning rate means the same with any number of them. What is computed
twice alike (weights, the pass over dev) is not sent. Rank 0 writes all files.

A single process takes part in nothing of this.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cpc.config import ConfigError


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one type by their means over the ranks, in one message."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for t, mean in zip(tensors, torch.split(flat / self.size, [t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))

    def average_gradients(self, module: nn.Module) -> None:
        """Replace every gradient by its mean over the ranks."""
        self.average(p.grad for p in module.parameters() if p.grad is not None)

    def share(self, module: nn.Module) -> None:
        """Give all ranks the weights and buffers of rank 0."""
        if self.size > 1:
            for t in module.state_dict().values():
                dist.broadcast(t, 0)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on some rank."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        dist.all_reduce(total)
        return bool(total > 0)


def own_device(device: torch.device) -> torch.device:
    """The device of this process: of several with CUDA, each takes the one of its local rank.

    Raises:
        ConfigError: if there are more processes than devices.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.type != "cuda" or num_processes() == 1:
        return device
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun: process {local} has no GPU of its own, there are {torch.cuda.device_count()}; pass "
            f"--nproc-per-node {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local)


def num_processes() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Take part in the training of all processes that torchrun started, by NCCL on GPUs and by gloo elsewhere.

    An error that is raised inside knows its rank, `error.rank`, so that one rank's own trouble is not kept silent.
    """
    if num_processes() == 1:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        yield ranks
    except ValueError as error:
        error.rank = ranks.rank  # type: ignore[attr-defined]
        raise
    finally:
        dist.destroy_process_group()
