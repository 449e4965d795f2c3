"""Training in several processes: `torchrun --nproc-per-node 8 -m cpc train paper --out RUN …`.

Each process (rank) trains on its own batches, so negatives come from the minibatch of one device, as in the paper.
Gradients are averaged over the ranks, so the learning rate means the same with any number of them. What all ranks
compute alike (the optimiser's step, the pass over dev) is not sent. Rank 0 writes all files. A single process is rank 0
of one.

`torch.nn.parallel.DistributedDataParallel` sends the gradients while the backward pass goes on. With two ranks it is as
fast to 6 % either way and takes as much memory (`python -m tests.bench ranks`), and it wants the whole objective in one
module's `forward`, so the average stays here, where it can be read.

When a rank dies, torchrun ends the others. With `--max-restarts N` it starts all of them again, and the run continues
from its last checkpoint. A run may continue with another number of ranks; from then on, batch i of update u of rank r
is batch (u · R + r) · A + i of the order that the seed defines, for R ranks and A batches an update.
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
    """This process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and prints."""
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
                if isinstance(t, Tensor):
                    dist.broadcast(t, 0)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on any rank."""
        if self.size == 1:
            return flag
        total = torch.tensor(float(flag), device=device)
        dist.all_reduce(total)
        return bool(total > 0)


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: with several CUDA devices, the one of its local rank.

    Raises:
        ConfigError: there are more processes than devices.
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
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def was_restarted() -> bool:
    """Whether torchrun has started this process again, because one of an earlier round died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started, by NCCL on GPUs and by gloo elsewhere.

    An error raised inside carries its rank as `error.rank`, so that the trouble of one rank is reported.
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
