"""The log-mel front-end: the same interface as the convolutions, geometry included."""

import pytest
import torch

from cpc.model import LogMelEncoder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("num_samples", [400, 559, 560, 4321])
def test_the_number_of_frames_is_that_of_the_geometry(num_samples):
    encoder = LogMelEncoder(8)
    assert encoder(torch.randn(1, num_samples)).shape == (1, encoder.geometry.num_frames(num_samples), 8)


def test_blocks_in_a_row_equal_the_whole():
    encoder, x = LogMelEncoder(8).eval(), torch.randn(2, 4000)
    pieces, tails = [], None
    for block in torch.split(x, [10, 700, 1, 2000, 1289], dim=1):
        z, tails = encoder.stream(block, tails, last=False)
        pieces.append(z)
    torch.testing.assert_close(torch.cat(pieces, 1), encoder(x), atol=1e-5, rtol=1e-4)


def test_a_click_moves_exactly_the_frames_whose_field_holds_it():
    encoder = LogMelEncoder(16)
    geometry, x = encoder.geometry, 0.1 * torch.randn(1, 8000)
    y = x.clone()
    y[0, 4001] += 100
    moved = (encoder(x) - encoder(y)).abs().amax(2)[0].nonzero()[:, 0]
    half = (geometry.receptive_field_samples - 1) / 2
    expected = [i for i in range(geometry.num_frames(8000)) if abs(geometry.centre(i) - 4001) <= half - 1]
    assert set(expected) <= set(moved.tolist())
    assert all(abs(geometry.centre(i) - 4001) <= half for i in moved.tolist())


def test_too_short_an_input_is_refused():
    with pytest.raises(ValueError, match="399 samples are too short for one frame of g_enc, which sees 400"):
        LogMelEncoder(8)(torch.randn(1, 399))
