"""g_enc: block convolution, geometry, streaming, causality."""

import pytest
import torch
import torch.nn.functional as F

from cpc.model import Encoder, Geometry, recomputing
from cpc.model.encoder import PAPER_STRIDES, BlockConv

PADDINGS = ["none", "same", "cpc_audio"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("stride", "c_in"), [(5, 1), (4, 3), (2, 7), (1, 4), (3, 1)])
def test_block_conv_equals_conv1d_in_value_and_gradient(stride, c_in):
    conv = BlockConv(c_in, 6, stride)
    x = torch.randn(2, 57, c_in, requires_grad=True)
    ours = conv(x)
    theirs = F.conv1d(x.transpose(1, 2), conv.conv1d_weight(), conv.bias, stride=stride).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=1e-5)
    weights = torch.randn_like(ours)
    ours_grads = torch.autograd.grad((ours * weights).sum(), [x, conv.weight, conv.bias])
    theirs_grads = torch.autograd.grad((theirs * weights).sum(), [x, conv.weight, conv.bias])
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_encoder_equals_a_stack_of_conv1d(padding):
    encoder = Encoder(8, norm="channel", padding=padding)
    x = torch.randn(2, 1600 + 37)
    h = x[:, None]
    for conv, norm, (left, right) in zip(encoder.convs, encoder.norms, encoder.geometry.paddings, strict=True):
        h = F.conv1d(F.pad(h, (left, right)), conv.conv1d_weight(), conv.bias, stride=conv.stride)
        h = F.relu(norm(h.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(encoder(x), h.transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_cpc_audio_padding_is_3_2_1_1_1_on_both_sides():
    assert Geometry.of(PAPER_STRIDES, "cpc_audio").paddings == ((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("padding", "first_centre", "frames"), [("none", 232, 126), ("cpc_audio", 79, 128), ("same", 80, 128)]
)
def test_the_papers_geometry(padding, first_centre, frames):
    """A hop of 160, a receptive field of 465 samples, and the known centres and counts of a 20480-sample window."""
    geometry = Geometry.of(PAPER_STRIDES, padding)
    assert geometry.hop_samples == 160
    assert geometry.receptive_field_samples == 465
    assert geometry.first_centre_samples == first_centre
    assert geometry.centre(3) == first_centre + 480
    assert geometry.num_frames(20480) == frames


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("num_samples", [465, 466, 624, 625, 1000, 1600, 4321])
def test_num_frames_is_what_comes_out(padding, num_samples):
    encoder = Encoder(4, padding=padding)
    assert encoder(torch.randn(1, num_samples)).shape[1] == encoder.geometry.num_frames(num_samples)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_click_reaches_exactly_the_frames_whose_field_holds_it(padding):
    """Geometry against clicks: the frames that a click moves are centred on it, within half a field."""
    encoder = Encoder(16, norm="none", padding=padding).double()
    for conv in encoder.convs:
        conv.weight.data.uniform_(0.1, 1.0)  # positive, so that ReLU hides nothing
        conv.bias.data.zero_()
    geometry = encoder.geometry
    half = (geometry.receptive_field_samples - 1) / 2
    silence = torch.zeros(1, 3200, dtype=torch.float64)
    for position in (0, 333, 1234, 2000, 3199):
        clicked = silence.clone()
        clicked[0, position] = 1
        moved = (encoder(clicked) != encoder(silence)).any(-1)[0].nonzero().flatten().tolist()
        expected = [i for i in range(geometry.num_frames(3200)) if abs(geometry.centre(i) - position) <= half]
        assert moved == expected


@pytest.mark.parametrize("padding", PADDINGS)
def test_complete_frames_do_not_see_what_comes_after(padding):
    """The first num_complete_frames(n) frames are the same whatever follows sample n; the next one is not."""
    encoder = Encoder(8, padding=padding)
    x, n = torch.randn(1, 3000), 1500
    y = x.clone()
    y[:, n:] = torch.randn(1, 3000 - n)
    same = torch.isclose(encoder(x), encoder(y), atol=1e-6).all(-1)[0]
    complete = encoder.geometry.num_complete_frames(n)
    assert same[:complete].all()
    assert not same[complete]


def test_frames_of_a_too_short_input_are_zero_and_encoding_it_is_an_error():
    encoder = Encoder(4)
    assert encoder.geometry.num_frames(464) == 0
    assert encoder.geometry.num_complete_frames(464) == 0
    with pytest.raises(ValueError, match="464 samples are too short"):
        encoder(torch.randn(1, 464))


@pytest.mark.parametrize("norm", ["channel", "none"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", [[1, 2, 3, 500, 10, 1500, 1], [160] * 20, [3000], [100, 3000, 0]])
def test_streaming_equals_the_whole_file(norm, padding, sizes):
    encoder = Encoder(8, norm=norm, padding=padding)
    x = torch.randn(2, sum(sizes))
    tails, pieces = None, []
    for i, block in enumerate(x.split(sizes, dim=1)):
        z, tails = encoder.stream(block, tails, last=i == len(sizes) - 1)
        pieces.append(z)
    torch.testing.assert_close(torch.cat(pieces, 1), encoder(x), atol=1e-5, rtol=1e-4)


def test_batched_equals_single():
    """With channel normalisation no sequence sees another."""
    encoder = Encoder(8)
    x = torch.randn(4, 2000)
    torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]), atol=1e-6, rtol=1e-5)


def test_batch_norm_warns_that_the_batch_enters_z():
    with pytest.warns(UserWarning, match="whole batch"):
        encoder = Encoder(8, norm="batch")
    x = torch.randn(4, 2000)
    assert not torch.allclose(encoder(x)[:1], encoder(x[:1]), atol=1e-3)


@pytest.mark.parametrize("num_pieces", [2, 3, 9])
def test_recomputed_pieces_have_the_same_latents_and_gradients_and_keep_next_to_nothing(num_pieces):
    g_enc, x = Encoder(channels=16), torch.randn(5, 4000)
    kept = []

    def pack(saved):
        kept[-1] += saved.numel()
        return saved

    results = []
    for encode in (g_enc, recomputing(g_enc, num_pieces)):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            z = encode(x)
        results.append((z, torch.autograd.grad((z * z).sum(), list(g_enc.parameters()))))
    (z, grads), (z_pieces, grads_pieces) = results
    torch.testing.assert_close(z_pieces, z, atol=1e-6, rtol=1e-5)
    for a, b in zip(grads_pieces, grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert kept[1] < kept[0] / 10


def test_conv1d_starts_as_torchs_convolution_does():
    """Uniform in ± 1 / sqrt(fan-in), weight and bias, for every layer."""
    torch.manual_seed(0)
    ours, theirs = Encoder(64, initial="conv1d").convs[1], torch.nn.Conv1d(64, 64, 8, stride=4)
    for a, b in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
        assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.05)
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.2)
    assert not Encoder(64).convs[1].bias.any()
