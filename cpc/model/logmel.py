"""Log-mel energies, and a front-end of them in place of the convolutions: fewer computations, no learned filters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpc.model.encoder import Geometry

NUM_MELS = 40
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
# Added to the energies, whose logarithm silence would otherwise make infinite. Decibels below the maximum of the file
# would let a frame depend on later ones.
FLOOR = 1e-6


class LogMel(nn.Module):
    """Log-mel energies of 25 ms windows every 10 ms: waveform (S,) or (B, S) → (…, T, NUM_MELS), without padding.

    Args:
        sample_rate: Hz, rate of the waveforms.
    """

    def __init__(self, sample_rate: int = 16000) -> None:
        super().__init__()
        self.window_samples, self.hop_samples = round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
        # Checkpoints hold the constants under these names.
        self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
        self.spectrogram.register_buffer("window", torch.hann_window(self.window_samples))
        self.mel_scale.register_buffer("fb", mel_filters(self.window_samples // 2 + 1, sample_rate))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the frames of waveforms (S,) or (B, S) that hold at least one window."""
        window, filters = self.spectrogram.get_buffer("window"), self.mel_scale.get_buffer("fb")
        size, hop = self.window_samples, self.hop_samples
        # In float32, rounding moves the energies of quiet bands by up to 5e-5. While training, four times the speed is
        # worth more; MPS knows no float64.
        exact = not self.training and waveform.device.type != "mps"
        dtype = torch.float64 if exact else waveform.dtype
        x, window, filters = (tensor.to(dtype) for tensor in (waveform, window, filters))
        spectrum = torch.stft(x, size, hop, window=window, center=False, return_complex=True)  # (…, F, T)
        power = spectrum.abs().pow(2).transpose(-1, -2)  # (…, T, F)
        return torch.log(power @ filters + FLOOR).to(waveform.dtype)


def mel_filters(num_frequencies: int, sample_rate: int) -> Tensor:
    """Make triangular filters, which overlap by half and are equally wide in mel: (num_frequencies, NUM_MELS).

    Args:
        num_frequencies: number of frequencies of the spectrum, from 0 to half the sample rate.
        sample_rate: Hz.

    Source:
        The scale is that of HTK, mel = 2595 · log10(1 + Hz / 700), and each triangle is 1 high, as in torchaudio.
    """
    highest = sample_rate // 2
    hertz = torch.linspace(0, highest, num_frequencies)[:, None]
    mels = torch.linspace(0, 2595 * math.log10(1 + highest / 700), NUM_MELS + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)  # Hz: each filter rises from one, peaks at the next, and falls to a third
    widths = corners.diff()
    rising, falling = (hertz - corners[:-2]) / widths[:-1], (corners[2:] - hertz) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0)


class LogMelEncoder(nn.Module):
    """g_enc: waveform (B, S) → latents z (B, T, channels) from log-mel energies, through one linear layer.

    Args:
        channels: width of z.
        sample_rate: Hz, rate of the waveforms.
    """

    def __init__(self, channels: int = 512, sample_rate: int = 16000) -> None:
        super().__init__()
        self.mel = LogMel(sample_rate)
        self.geometry = Geometry((self.mel.hop_samples,), (self.mel.window_samples,), ((0, 0),))
        self.channels = channels
        self.linear, self.norm = nn.Linear(NUM_MELS, channels), nn.LayerNorm(channels)

    def linear_maps(self) -> dict[str, int]:
        """The layer reads the signal, so it is no map between hidden units."""
        return {"linear.weight": 0}

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode whole waveforms (B, S) as z (B, geometry.num_frames(S), channels).

        Raises:
            ValueError: S is too short for one frame.
        """
        self.geometry.refuse_too_short(waveform.shape[1])
        z, _ = self.stream(waveform, None, last=True)
        return z

    def stream(self, waveform: Tensor, tails: list[Tensor] | None, *, last: bool) -> tuple[Tensor, list[Tensor]]:
        """Encode the next block (B, S) of a long waveform, as `Encoder.stream` does."""
        x = torch.cat([*(tails or ()), waveform], dim=1)  # (B, S)
        num_frames = self.geometry.num_frames(x.shape[1])
        tail = x[:, num_frames * self.geometry.hop_samples :]
        if not num_frames:
            return x.new_zeros(len(x), 0, self.channels), [tail]
        with torch.autocast(x.device.type, enabled=False):
            mel = self.mel(x.float())  # (B, T, NUM_MELS)
        return F.relu(self.norm(self.linear(mel))), [tail]
