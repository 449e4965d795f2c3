"""Losses and gradients of rows on two ranks equal those of one process that has all rows."""

import os

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from cpc.losses import EmbeddingError, MomentumQueue, info_nce, nt_xent, sup_con
from cpc.losses.embeddings import gathered

RANKS, N, D = 2, 5, 4
LABELS = torch.tensor([0, 0, 1, 2, 3, 1, 1, 0, 5, 5])  # one rank has more pairs than the other


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, RANKS * N, 3, generator=generator)


def encoder():
    torch.manual_seed(0)
    return nn.Linear(3, D)


def cases(reduction):
    """Losses of two views and labels, by name."""
    o = {"reduction": reduction}
    return {
        "info_nce": lambda x, y, _, **g: info_nce(x, y, **o, **g),
        "symmetric, by blocks": lambda x, y, _, **g: info_nce(x, y, symmetric=True, chunk_size=2, **o, **g),
        "nt_xent": lambda x, _, labels, **g: nt_xent(x, labels, **o, **g),
        "nt_xent, by blocks": lambda x, _, labels, **g: nt_xent(x, labels, chunk_size=2, **o, **g),
        "sup_con": lambda x, _, labels, **g: sup_con(x, labels, **o, **g),
        "sup_con, one label": lambda x, _, labels, **g: sup_con(x, 0 * labels, **o, **g),
    }


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    own = slice(rank * N, rank * N + N)
    out = {}
    for reduction in ("mean", "sum"):
        for name, call in cases(reduction).items():
            network = encoder()
            x, y = network(inputs()[:, own])
            loss = call(x, y, LABELS[own], gather=True)
            loss.backward()
            gradient = network.weight.grad
            both = torch.stack([loss.detach(), *gradient.flatten()])
            dist.all_reduce(both)  # as in DistributedDataParallel, but without the division
            out[name, reduction] = both / (RANKS if reduction == "mean" else 1)
    queue = MomentumQueue(7, 3, gather=True)
    for i in range(3):
        queue.enqueue(inputs()[0, own] + i)
    out["queue"] = queue.keys
    out["first"] = gathered(LABELS[own])[1]
    try:
        info_nce(torch.ones(2 + rank, D), torch.ones(2 + rank, D), gather=True)
    except EmbeddingError as error:
        out["error"] = str(error)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # gloo's threads sometimes abort a process that exits before its peer


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(worker, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", cases("mean"))
def test_two_processes_have_the_loss_and_the_gradients_of_one(outcomes, name, reduction):
    network = encoder()
    x, y = network(inputs())
    loss = cases(reduction)[name](x, y, LABELS)
    loss.backward()
    expected = torch.stack([loss.detach(), *network.weight.grad.flatten()])
    for outcome in outcomes:
        torch.testing.assert_close(outcome[name, reduction], expected, rtol=1e-5, atol=1e-5)


def test_all_ranks_hold_the_same_queue_in_rank_order(outcomes):
    queue = MomentumQueue(7, 3)
    for i in range(3):
        queue.enqueue(inputs()[0] + i)
    assert all(torch.equal(outcome["queue"], queue.keys) for outcome in outcomes)
    assert [outcome["first"] for outcome in outcomes] == [0, N]


def test_batches_of_different_sizes_are_refused_on_every_rank(outcomes):
    assert {outcome["error"] for outcome in outcomes} == {
        "gather: got shapes (2, 4), (3, 4) on ranks 0 to 1, expected one shape; drop the last batch"
    }
