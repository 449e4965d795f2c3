"""g_ar on a CPU against PyTorch's own GRU, and its states."""

import pytest
import torch

from cpc.model import Autoregressor, Bidirectional, reverse


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("with_state", [False, True])
def test_the_gru_equals_torchs_in_values_states_and_gradients(num_layers, with_state):
    torch.manual_seed(0)
    ours = Autoregressor(7, 5, num_layers=num_layers)
    z, state = torch.randn(3, 9, 7, requires_grad=True), torch.randn(num_layers, 3, 5, requires_grad=True)
    weight, weight_h = torch.randn(3, 9, 5), torch.randn(num_layers, 3, 5)
    inputs = [z, *([state] if with_state else []), *ours.parameters()]
    results = []
    for run in (ours.stream, ours.rnn):
        c, h = run(z, state if with_state else None)
        gradients = torch.autograd.grad((c * weight).sum() + (h * weight_h).sum(), inputs)
        results.append([c, h, *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=5e-6, rtol=1e-5)


def test_the_gru_under_bf16_autocast_stays_close_and_gives_float32():
    torch.manual_seed(0)
    g_ar, z = Autoregressor(7, 16), torch.randn(3, 40, 7)
    exact = g_ar(z)
    with torch.autocast("cpu", torch.bfloat16):
        c = g_ar(z)
    assert c.dtype == torch.float32
    torch.testing.assert_close(c, exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_blocks_with_carried_state_equal_the_whole(kind):
    torch.manual_seed(0)
    g_ar, z = Autoregressor(7, 5, kind, num_layers=2), torch.randn(2, 11, 7)
    with torch.inference_mode():
        pieces, state = [], None
        for piece in (z[:, :4], z[:, 4:5], z[:, 5:]):
            c, state = g_ar.stream(piece, state)
            pieces.append(c)
        torch.testing.assert_close(torch.cat(pieces, 1), g_ar(z), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_no_frames_give_no_contexts_and_leave_the_state(kind):
    """A stream may bring a block that completes no frame."""
    g_ar, z = Autoregressor(7, 5, kind), torch.randn(2, 3, 7)
    c, state = g_ar.stream(z[:, :0], None)
    assert c.shape == (2, 0, 5)
    torch.testing.assert_close(g_ar.stream(z, state)[0], g_ar(z))
    c, after = g_ar.stream(z[:, :0], state)
    assert c.shape == (2, 0, 5)
    assert after is state


def test_neither_half_of_c_has_seen_what_it_predicts():
    """The first half depends on the past alone, the second half on the future alone, and padding changes neither."""
    torch.manual_seed(0)
    g_ar, z, frames = Bidirectional(Autoregressor(7, 5), Autoregressor(7, 5)), torch.randn(2, 9, 7), [9, 6]
    c = g_ar(z, frames)
    changed = z.clone()
    changed[:, 4] += 1
    same = (g_ar(changed, frames) - c).abs().amax(2) < 1e-6
    ahead = (g_ar(changed, frames) - c)[..., :5].abs().amax(2) < 1e-6
    back = (g_ar(changed, frames) - c)[..., 5:].abs().amax(2) < 1e-6
    assert ahead.tolist() == [[True] * 4 + [False] * 5] * 2
    assert back[0].tolist() == [False] * 5 + [True] * 4
    assert back[1, :6].tolist() == [False] * 5 + [True]
    assert not same[0].any()
    padded = z.clone()
    padded[1, 6:] = 100
    torch.testing.assert_close(g_ar(padded, frames)[1, :6], c[1, :6])


def test_reverse_turns_each_sequence_about_and_leaves_its_padding():
    x = torch.arange(10).view(2, 5)
    assert reverse(x, [5, 3]).tolist() == [[4, 3, 2, 1, 0], [7, 6, 5, 8, 9]]
    assert torch.equal(reverse(reverse(x, [4, 2]), [4, 2]), x)
