"""The log-mel front-end: the same interface as the convolutions, geometry included."""

import numpy as np
import pytest
import scipy.fft
import torch

from cpc.features import SpectralExtractor
from cpc.model import LogMel, LogMelEncoder

try:
    import torchaudio
except (ImportError, OSError, RuntimeError):  # its compiled part fits few versions of torch
    torchaudio = None


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


def energies_by_definition(waveform, rate):
    """Sum, for each window and filter, the power under a triangle; in float64 and one window after the other."""
    size, hop = round(0.025 * rate), round(0.010 * rate)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    hertz = np.linspace(0, rate // 2, size // 2 + 1)
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate // 2 / 700), 42) / 2595) - 1)
    frames = []
    for start in range(0, len(waveform) - size + 1, hop):
        power = np.abs(np.fft.rfft(hann * waveform[start : start + size])) ** 2
        frames.append([power @ np.interp(hertz, corners[m : m + 3], [0, 1, 0]) for m in range(40)])
    return np.array(frames)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
def test_energies_and_cepstra_are_those_of_the_definition(rate):
    waveform = np.random.default_rng(0).standard_normal(rate // 2)
    expected = np.log(energies_by_definition(waveform, rate) + 1e-6)
    found = LogMel(rate)(torch.tensor(waveform, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    (mfcc,) = SpectralExtractor("mfcc", rate).frames_of([waveform.astype(np.float32)])
    np.testing.assert_allclose(mfcc[:, :13], scipy.fft.dct(expected, norm="ortho")[:, :13], atol=2e-3)


def test_a_difference_is_the_regression_over_two_frames_on_either_side():
    (mfcc,) = SpectralExtractor("mfcc").frames_of([np.random.default_rng(0).standard_normal(8000).astype(np.float32)])
    for first in (0, 13):
        frames = np.pad(mfcc[:, first : first + 13], [(2, 2), (0, 0)], mode="edge")
        slopes = sum(n * (frames[2 + n : len(frames) - 2 + n] - frames[2 - n : len(frames) - 2 - n]) for n in (1, 2))
        np.testing.assert_allclose(mfcc[:, first + 13 : first + 26], slopes / 10, atol=1e-5)


@pytest.mark.skipif(torchaudio is None, reason="torchaudio is not installed, or not for this version of torch")
@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100])
@pytest.mark.parametrize("gain", [1.0, 1e-3, 0.0])
def test_energies_and_mfcc_equal_those_of_torchaudio(rate, gain):
    waveform = gain * torch.randn(rate)
    how = {"n_fft": round(0.025 * rate), "hop_length": round(0.010 * rate), "n_mels": 40, "center": False}
    mel = torchaudio.transforms.MelSpectrogram(rate, **how)(waveform)
    torch.testing.assert_close(LogMel(rate)(waveform), torch.log(mel + 1e-6).T, atol=1e-5, rtol=0)
    cepstra = torchaudio.transforms.MFCC(rate, 13, log_mels=True, melkwargs=how)(waveform)
    delta = torchaudio.functional.compute_deltas(cepstra, 5)
    expected = torch.cat([cepstra, delta, torchaudio.functional.compute_deltas(delta, 5)]).T
    (mfcc,) = SpectralExtractor("mfcc", rate).frames_of([waveform.numpy()])
    torch.testing.assert_close(torch.from_numpy(mfcc), expected, atol=1e-5, rtol=0)


def test_checkpoints_of_earlier_versions_fit():
    """They hold the window and the filters under these names, and are refused if a name is missing."""
    constants = {name: tuple(value.shape) for name, value in LogMelEncoder(8).named_buffers()}
    assert constants == {"mel.spectrogram.window": (400,), "mel.mel_scale.fb": (201, 40)}
