"""A front-end of log-mel energies in place of the convolutions: fewer computations, and no learned filters.

Source of the energies: 25 ms windows every 10 ms, as for MFCC baselines; one linear layer maps each frame to z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from cpc.model.encoder import Geometry

NUM_MELS = 40
WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
FLOOR = 1e-6  # added to the energies, whose logarithm silence would otherwise make infinite


class LogMelEncoder(nn.Module):
    """g_enc: waveform (B, S) → latents z (B, T, channels) from log-mel energies, without padding.

    Args:
        channels: width of z.
        sample_rate: Hz, rate of the waveforms.
    """

    def __init__(self, channels: int = 512, sample_rate: int = 16000) -> None:
        super().__init__()
        window, hop = round(WINDOW_SECONDS * sample_rate), round(HOP_SECONDS * sample_rate)
        self.geometry = Geometry((hop,), (window,), ((0, 0),))
        self.channels = channels
        self.mel = MelSpectrogram(sample_rate, n_fft=window, hop_length=hop, n_mels=NUM_MELS, center=False)
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
            mel = torch.log(self.mel(x.float()) + FLOOR)  # (B, NUM_MELS, T)
        return F.relu(self.norm(self.linear(mel.transpose(1, 2)))), [tail]
