"""MoCo's queue against a Python list; the momentum encoder."""

import copy
from collections import deque

import pytest
import torch
from torch import nn

from cpc.losses import EmbeddingError, MomentumQueue, info_nce, momentum_update


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [3, 3, 3, 3, 3], [8, 8], [20], [5, 0, 7, 19, 1, 1, 6]])
def test_the_queue_lists_the_last_keys_oldest_first(sizes):
    """This holds whether batches divide the length of the queue, do not divide it, or exceed it."""
    queue, expected = MomentumQueue(8, 2), deque(maxlen=8)
    for i, size in enumerate(sizes):
        keys = torch.randn(size, 2, generator=torch.Generator().manual_seed(i))
        queue.enqueue(keys)
        expected.extend(keys.tolist())
        assert queue.keys.tolist() == list(expected)
        assert len(queue) == len(expected)


def test_a_restored_queue_continues_where_it_was():
    one, other = MomentumQueue(8, 2), MomentumQueue(8, 2)
    one.enqueue(torch.randn(13, 2))
    other.load_state_dict(one.state_dict())
    more = torch.randn(3, 2)
    one.enqueue(more)
    other.enqueue(more)
    assert torch.equal(one.keys, other.keys)
    assert list(one.parameters()) == []


def test_keys_have_no_gradient_and_an_enqueue_may_come_before_backward():
    queue = MomentumQueue(4, 3)
    queue.enqueue(torch.randn(4, 3, requires_grad=True))
    query = torch.randn(2, 3, requires_grad=True)
    keys = queue.keys
    loss = info_nce(query, torch.randn(2, 3), keys)
    queue.enqueue(torch.randn(3, 3))
    loss.backward()
    assert not keys.requires_grad
    assert query.grad.abs().sum() > 0


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("m", [0, 0.9, 1])
def test_the_momentum_update_moves_parameters_and_running_statistics_and_copies_counts(m):
    encoder, keys = network(0), network(1)
    encoder(torch.randn(9, 3))
    before = copy.deepcopy(keys.state_dict())
    momentum_update(encoder, keys, m)
    for name, value in encoder.state_dict().items():
        moved = m * before[name] + (1 - m) * value if value.is_floating_point() else value
        torch.testing.assert_close(keys.state_dict()[name], moved)
    assert all(p.grad_fn is None for p in keys.parameters())


def test_keys_and_networks_that_do_not_fit_are_refused():
    queue = MomentumQueue(4, 3)
    for call, says in [
        (lambda: MomentumQueue(0, 3), "length: got 0, expected at least 1"),
        (lambda: queue.enqueue(torch.ones(2, 4)), r"keys: got shape \(2, 4\), expected \(N, 3\)"),
        (lambda: queue.enqueue(torch.full((1, 3), torch.nan)), "keys: got nan or inf, expected finite"),
        (lambda: momentum_update(network(0), network(0), 1.5), "m: got 1.5, expected between 0 and 1"),
        (
            lambda: momentum_update(nn.Linear(3, 2), nn.Linear(4, 2), 0.9),
            r"key_encoder: got weight of shape \(2, 4\), expected \(2, 3\) as in encoder",
        ),
        (
            lambda: momentum_update(nn.Linear(3, 2), nn.Linear(3, 2, bias=False), 0.9),
            r"key_encoder: got bias of shape none, expected \(2,\)",
        ),
    ]:
        with pytest.raises(EmbeddingError, match="^" + says):
            call()
