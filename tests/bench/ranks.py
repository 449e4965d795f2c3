"""Compare our average of gradients with torch's DistributedDataParallel, in two processes that talk through gloo."""

import os
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from cpc.config import read_config
from cpc.data import Batch
from cpc.devices import Threads
from cpc.experiments import override
from cpc.runs import build_model
from cpc.train.distributed import Ranks
from cpc.train.loop import score, step
from cpc.train.networks import Represent, build_represent
from cpc.train.setup import Parts, build_data, build_parts
from tests.bench.common import peak_megabytes, print_result, result_of_variant

RANKS = 2
PRESETS = ("small", "bidirectional")
VARIANTS = ("ours", "DistributedDataParallel")


def print_ranks(options: Namespace) -> None:
    """Print the time of an update and the peak of memory of each variant."""
    if options.variant:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_train, (options, Path(folder) / "store"), nprocs=RANKS)
        return
    print(f"{'two ranks of one thread, gloo':44s}{'update':>12s}{'peak of rank 0':>18s}")
    flags = ["--manifest", options.manifest, "--rounds", str(options.rounds)]
    for preset in PRESETS:
        for variant in VARIANTS:
            seconds, megabytes = result_of_variant(options, "ranks", f"{preset}:{variant}", *flags)
            print(f"{preset + ', ' + variant:44s}{1e3 * seconds:9.1f} ms{megabytes:15.0f} MB", flush=True)


def _train(rank: int, options: Namespace, store: Path) -> None:
    """Train in one rank; the first one prints the median time of an update, and its peak of memory."""
    preset, variant = options.variant.split(":")
    config = override(read_config(preset), {"data.manifest": options.manifest, "data.short": "pad"}, where="ranks")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    network, device, ranks = build_model(config), torch.device("cpu"), Ranks(rank, RANKS)
    with Threads(1) as threads:
        parts = build_parts(config, network, build_data(config, network.g_enc.geometry), device, ranks, threads)
        represent = build_represent(config, network, parts.profile, device, 0)
        batches = cycle(list(islice(parts.batches(0), 20)))
        update = _ours(parts, represent) if variant == VARIANTS[0] else _theirs(parts, represent)
        taken = []
        for _ in range(3 + options.rounds):
            began = time.perf_counter()
            update(next(batches))
            taken.append(time.perf_counter() - began)
    if rank == 0:
        print_result([statistics.median(taken[3:]), peak_megabytes()])
    distributed.destroy_process_group()


def _ours(parts: Parts, represent: Represent) -> Callable[[Batch], object]:
    return lambda batch: step(parts, represent, [batch], lr=1e-3, update=1)


def _theirs(parts: Parts, represent: Represent) -> Callable[[Batch], object]:
    """Make an update as ours, in which the backward pass sends the gradients in pieces while it goes on."""

    class Objective(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trained = parts.trained

        def forward(self, batch: Batch) -> Tensor:
            return score(parts, represent, batch, seed=0)["loss"]

    module = DistributedDataParallel(Objective(), broadcast_buffers=False)  # ours sends none

    clip_norm = parts.config.optim.clip_norm
    assert clip_norm  # as both presets have it

    def update(batch: Batch) -> None:
        parts.trained.zero_grad(set_to_none=True)
        module(batch).backward()
        gradients = [p.grad for p in parts.trained.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        assert norm.isfinite()
        torch.nn.utils.clip_grads_with_norm_(parts.trained.parameters(), clip_norm, norm)
        for optimiser in parts.optimisers:
            optimiser.step()

    return update
