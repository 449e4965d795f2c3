"""A model as other runtimes know it: torch's convolutions and recurrent networks, which TorchScript compiles.

The weights are those of the model; what differs is the order of sums, so outputs agree to about 2e-6. Types are written
for TorchScript, which knows neither `State` nor `|`.
"""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpc.model import CPC, FLOOR, Autoregressor, Bidirectional, Encoder, LogMelEncoder, normalised


class Whole(nn.Module):
    """Whole utterances (B, S) → z (B, T, D_z) and c (B, T, D_c), as `CPC.forward` computes them."""

    def __init__(self, model: CPC) -> None:
        super().__init__()
        self.normalise = _Normalise() if model.normalise else nn.Identity()
        self.g_enc = encoder_of(model.g_enc)
        self.backwards = None
        if isinstance(model.g_ar, Bidirectional):
            self.forwards = recurrent_of(model.g_ar.forwards)
            self.backwards = recurrent_of(model.g_ar.backwards)
        else:
            self.forwards = recurrent_of(model.g_ar)

    def forward(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Represent utterances of one length, without padding."""
        z = self.g_enc(self.normalise(waveforms).unsqueeze(1)).transpose(1, 2)  # (B, T, D_z)
        c = self.forwards(z, None)[0]
        if self.backwards is not None:
            c = torch.cat([c, self.backwards(z.flip(1), None)[0].flip(1)], dim=2)
        return z, c


class Streaming(nn.Module):
    """The next block (B, S) of a long, normalised waveform → z and c of the frames that are now complete, and the
    state.

    The state consists of the samples that later frames still need (B, N), N = 0 at the start of a file, and of the
    hidden state of g_ar, zeros at the start. A block may have any length, and T may be 0.
    """

    def __init__(self, model: CPC) -> None:
        super().__init__()
        assert isinstance(model.g_ar, Autoregressor)
        geometry = model.g_enc.geometry
        self.hop, self.field = geometry.hop_samples, geometry.receptive_field_samples
        self.g_enc = encoder_of(model.g_enc)
        self.g_ar = recurrent_of(model.g_ar)

    def forward(self, block: Tensor, samples: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Represent a block: z (B, T, D_z), c (B, T, D_c), and the next `samples` and `hidden`."""
        x = torch.cat([samples, block], dim=1)
        num_frames = max(0, x.shape[1] + self.hop - self.field) // self.hop
        # Runtimes refuse to convolve less than a kernel: where no frame is complete, compute one of zeros, and drop it.
        enough = F.pad(x, (0, max(0, self.field - x.shape[1])))
        z = self.g_enc(enough.unsqueeze(1)).transpose(1, 2)
        c, after = self.g_ar(z, hidden)
        moves = int(num_frames > 0)
        hidden = after * moves + hidden * (1 - moves)  # exact, as one of the factors is 0 and the other 1
        return z[:, :num_frames], c[:, :num_frames], x[:, num_frames * self.hop :], hidden


class _Normalise(nn.Module):
    """In float64, as torch sums the mean and the deviation of float32, while other runtimes do not."""

    def forward(self, waveforms: Tensor) -> Tensor:
        return normalised(waveforms.double()).float()


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _LogMel(nn.Module):
    """Frames of samples (B, W, T) → log-mel energies (B, T, M).

    The transform is a product with cosines and sines, because torch's older exporter has no complex numbers. It is in
    float64, because in float32 such sums round the energies of quiet bands more than a fast transform does.
    """

    def __init__(self, window: Tensor, filters: Tensor) -> None:
        super().__init__()
        n = torch.arange(len(window), dtype=torch.float64)
        angles = 2 * math.pi / len(window) * torch.outer(n, n[: len(filters)])  # (W, F)
        self.basis = nn.Buffer(torch.cat([angles.cos(), angles.sin()], dim=1) * window.double()[:, None])  # (W, 2 F)
        self.filters, self.floor = nn.Buffer(filters.double()), FLOOR  # (F, M)

    def forward(self, frames: Tensor) -> Tensor:
        real, imaginary = (frames.transpose(1, 2).double() @ self.basis).square().chunk(2, dim=2)
        return torch.log((real + imaginary) @ self.filters + self.floor).float()


def encoder_of(g_enc: Encoder | LogMelEncoder) -> nn.Sequential:
    """Rebuild g_enc of torch's layers: waveforms (B, 1, S) → z (B, D_z, T)."""
    if isinstance(g_enc, LogMelEncoder):
        window, filters = g_enc.mel.spectrogram.get_buffer("window"), g_enc.mel.mel_scale.get_buffer("fb")
        frames = _convolution(torch.eye(len(window)).unsqueeze(1), None, g_enc.geometry.hop_samples)  # copies samples
        return nn.Sequential(frames, _LogMel(window, filters), g_enc.linear, g_enc.norm, nn.ReLU(), _Transpose())
    layers: list[nn.Module] = []
    for conv, norm, padding in zip(g_enc.convs, g_enc.norms, g_enc.geometry.paddings, strict=True):
        if any(padding):
            layers.append(nn.ConstantPad1d(padding, 0.0))
        layers.append(_convolution(conv.conv1d_weight(), conv.bias, conv.stride))  # type: ignore[operator, arg-type]
        layers += [_Transpose(), norm, _Transpose()] if isinstance(norm, nn.LayerNorm) else [norm]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _convolution(weight: Tensor, bias: Tensor | None, stride: int) -> nn.Conv1d:
    """Make a convolution with a weight (C_out, C_in, kernel)."""
    conv = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], stride, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return conv


class _GRU(nn.Module):
    """The states (L, B, H) of L layers are one tensor."""

    def __init__(self, rnn: nn.GRU) -> None:
        super().__init__()
        self.rnn, self.num_states, self.width = rnn, rnn.num_layers, rnn.hidden_size

    def forward(self, z: Tensor, hidden: Optional[Tensor]) -> tuple[Tensor, Tensor]:  # noqa: UP045
        if hidden is None:
            hidden = z.new_zeros([self.num_states, z.shape[0], self.width])
        c, hidden = self.rnn(z, hidden)
        return c, hidden


class _LSTM(nn.Module):
    """The hidden states of L layers and then their cells (2 L, B, H) are one tensor."""

    def __init__(self, rnn: nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.num_states, self.width = rnn, 2 * rnn.num_layers, rnn.hidden_size

    def forward(self, z: Tensor, hidden: Optional[Tensor]) -> tuple[Tensor, Tensor]:  # noqa: UP045
        if hidden is None:
            hidden = z.new_zeros([self.num_states, z.shape[0], self.width])
        h, cell = hidden.chunk(2)
        c, (h, cell) = self.rnn(z, (h.contiguous(), cell.contiguous()))
        return c, torch.cat([h, cell])


def recurrent_of(g_ar: Autoregressor) -> _GRU | _LSTM:
    """Wrap g_ar's recurrent network: z (B, T, D_z) and states (None: zeros) → c (B, T, D_c) and the next states."""
    return _GRU(g_ar.rnn) if isinstance(g_ar.rnn, nn.GRU) else _LSTM(g_ar.rnn)
