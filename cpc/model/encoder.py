"""g_enc: strided convolutions from the waveform to latents z, and the geometry of its frames.

Every kernel is twice its stride, so output frame t of a layer reads the input blocks t and t + 1 of `stride` frames
each. In (B, T, C) layout a layer is therefore a matrix product over pairs of neighbouring blocks: it needs no im2col
and equals `torch.nn.Conv1d` (tests/test_encoder.py).

    frames in   | block 0 | block 1 | block 2 | ...        out[t] = block[t] @ W_a + block[t+1] @ W_b + bias
    frames out       out 0     out 1

Source: van den Oord et al. 2018 (arXiv 1807.03748), section 3.1: strides 5,4,2,2,2, kernels 10,8,4,4,4, 512 channels,
ReLU. The paper states neither padding nor normalisation; both are options here. Channel normalisation and the padding
3,2,1,1,1 are CPC_audio's (Rivière et al. 2020, arXiv 2002.02848).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Norm = Literal["channel", "none", "batch"]
Padding = Literal["none", "same", "cpc_audio"]
Initial = Literal["he", "conv1d"]

PAPER_STRIDES = (5, 4, 2, 2, 2)


def _layer_padding(stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros (left, right) of one layer, in frames of its input."""
    match padding:
        case "none":
            return 0, 0
        case "same":  # T // stride frames out: frame i is centred in its own hop
            return stride // 2, stride - stride // 2
        case "cpc_audio":  # 3, 2, 1, 1, 1 for strides 5, 4, 2, 2, 2
            return (stride + 1) // 2, (stride + 1) // 2


@dataclass(frozen=True)
class Geometry:
    """The position of an encoder's frames on the time axis of its input.

    Attributes:
        strides: stride of each layer.
        kernels: kernel of each layer, in frames of its input.
        paddings: zeros (left, right) of each layer, in frames of its input.
    """

    strides: tuple[int, ...]
    kernels: tuple[int, ...]
    paddings: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, strides: Sequence[int], padding: Padding) -> Geometry:
        """The geometry of convolutions whose kernels are twice their strides."""
        kernels = tuple(2 * stride for stride in strides)
        return cls(tuple(strides), kernels, tuple(_layer_padding(stride, padding) for stride in strides))

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.strides)

    @property
    def receptive_field_samples(self) -> int:
        """Samples that one frame sees."""
        field, hop = 1, 1
        for stride, kernel in zip(self.strides, self.kernels, strict=True):
            field += (kernel - 1) * hop
            hop *= stride
        return field

    @property
    def left_padding_samples(self) -> int:
        """Samples by which frame 0 begins before sample 0."""
        left, hop = 0, 1
        for stride, (pad, _) in zip(self.strides, self.paddings, strict=True):
            left += pad * hop
            hop *= stride
        return left

    @property
    def pads_right(self) -> bool:
        """Whether some layer pads the end of its input."""
        return any(right for _, right in self.paddings)

    def num_frames(self, num_samples: int) -> int:
        """Number of frames for an input of `num_samples`; 0 if it is too short for one."""
        frames = num_samples
        for stride, kernel, (left, right) in zip(self.strides, self.kernels, self.paddings, strict=True):
            frames = max(0, (left + frames + right - kernel) // stride + 1)
        return frames

    def num_samples_seen(self, num_samples: int) -> int:
        """Samples up to the end of the last frame's receptive field, without padding at the end."""
        return self.min_samples(self.num_frames(num_samples))

    def num_complete_frames(self, num_samples: int) -> int:
        """Number of leading frames that see no sample at or after `num_samples`: the valid part of a padded window."""
        if num_samples < self._end_of_first_frame:
            return 0
        return min((num_samples - self._end_of_first_frame) // self.hop_samples + 1, self.num_frames(num_samples))

    def min_samples(self, num_frames: int) -> int:
        """Fewest samples that complete `num_frames` frames."""
        return self._end_of_first_frame + (num_frames - 1) * self.hop_samples

    def refuse_too_short(self, num_samples: int) -> None:
        """Refuse an input that is too short for one frame.

        Raises:
            ValueError: naming its length and that of the receptive field.
        """
        if self.num_frames(num_samples) == 0:
            raise ValueError(
                f"{num_samples} samples are too short for one frame of g_enc, which sees {self.receptive_field_samples}"
            )

    @property
    def _end_of_first_frame(self) -> int:
        return self.receptive_field_samples - self.left_padding_samples

    @property
    def first_centre_samples(self) -> float:
        """Centre of frame 0 in samples: the middle of its receptive field."""
        return (self.receptive_field_samples - 1) / 2 - self.left_padding_samples

    def centre(self, frame: int) -> float:
        """Centre of frame `frame`, in samples from the start of the input."""
        return self.first_centre_samples + frame * self.hop_samples


class BlockConv(nn.Module):
    """A 1-D convolution with kernel = 2 × stride in (B, T, C) layout, as products over blocks of `stride` frames.

    The weight has shape (2 · stride · C_in, C_out); row j · C_in + c weighs channel c of the j-th frame under the
    kernel. `conv1d_weight` returns it in the layout of `torch.nn.Conv1d`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, initial: Initial = "he") -> None:
        super().__init__()
        self.stride, self.in_channels = stride, in_channels
        # He et al. 2015: a uniform distribution with variance 2 / fan-in preserves the scale of activations through
        # ReLU layers. With torch.nn.Conv1d's initialisation (variance 1 / (3 fan-in)), an encoder without normalisation
        # starts near silence.
        fan_in = 2 * stride * in_channels
        bound = ((6 if initial == "he" else 1) / fan_in) ** 0.5
        self.weight = nn.Parameter(torch.empty(fan_in, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if initial == "conv1d":
            nn.init.uniform_(self.bias, -bound, bound)

    def linear_maps(self) -> dict[str, int]:
        """The weight is one map between hidden units; the waveform's is none."""
        return {"weight": 1 if self.in_channels > 1 else 0}

    def conv1d_weight(self) -> Tensor:
        """The weight in the layout of `torch.nn.Conv1d`: (C_out, C_in, kernel)."""
        return self.weight.view(2 * self.stride, self.in_channels, -1).permute(2, 1, 0)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C_in) → (B, T // stride - 1, C_out)
        """Convolve without padding. Frames after the last whole block are not read."""
        num_blocks = x.shape[1] // self.stride
        blocks = x[:, : num_blocks * self.stride].reshape(x.shape[0], num_blocks, self.stride * self.in_channels)
        if self.in_channels == 1:  # of the waveform: one product over two short blocks is faster than two slim ones
            return F.linear(torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=-1), self.weight.t(), self.bias)
        w_a, w_b = self.weight.chunk(2)
        y = blocks @ torch.cat([w_a, w_b], dim=1)  # (B, T', 2 · C_out): both products in one
        y_a, y_b = y.chunk(2, dim=-1)
        # Convert the bias: under bf16 autocast, a float32 bias would promote every activation to float32.
        return y_a[:, :-1] + (y_b[:, 1:] + self.bias.to(y.dtype))


class Encoder(nn.Module):
    """g_enc: waveform (B, S) → latents z (B, T, channels), one every `geometry.hop_samples`.

    Args:
        channels: width of every layer and of z (512 in the paper).
        strides: stride of each layer; its kernel is 2 × stride (10,8,4,4,4 in the paper).
        norm: "channel" normalises each frame over its channels and needs no other frame. "batch" is `BatchNorm1d`; it
            lets the rest of the batch into z, so streaming and single-file results differ from batched ones in
            training, and it warns. "none" does not normalise.
        padding: "none"; "same" (S // hop frames, each centred in its hop); "cpc_audio" (3, 2, 1, 1, 1).
        initial: "he" (He et al. 2015), or "conv1d", as torch.nn.Conv1d starts.
    """

    def __init__(
        self,
        channels: int = 512,
        strides: Sequence[int] = PAPER_STRIDES,
        norm: Norm = "channel",
        padding: Padding = "none",
        initial: Initial = "he",
    ) -> None:
        super().__init__()
        self.geometry = Geometry.of(strides, padding)
        self.channels = channels
        widths = [1] + [channels] * len(strides)
        self.convs = nn.ModuleList(
            BlockConv(c_in, channels, stride, initial) for c_in, stride in zip(widths, strides, strict=False)
        )
        match norm:
            case "channel":
                self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in strides)
            case "batch":
                warnings.warn(
                    "norm = 'batch': statistics of the whole batch, negatives included, enter every z, so the task can "
                    "be solved through them; 'channel' has no such leak",
                    stacklevel=2,
                )
                self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in strides)
            case "none":
                self.norms = nn.ModuleList(nn.Identity() for _ in strides)

    def forward(self, waveform: Tensor) -> Tensor:
        """Encode whole waveforms.

        Args:
            waveform: (B, S) float samples.

        Returns:
            z: (B, geometry.num_frames(S), channels).

        Raises:
            ValueError: S is too short for one frame.
        """
        self.geometry.refuse_too_short(waveform.shape[1])
        if not self.geometry.pads_right:
            # Drop the samples that no frame sees: they would leave every layer a ragged end for the next one to copy.
            waveform = waveform[:, : self.geometry.num_samples_seen(waveform.shape[1])]
        z, _ = self.stream(waveform, None, last=True)
        return z

    def stream(self, waveform: Tensor, tails: list[Tensor] | None, *, last: bool) -> tuple[Tensor, list[Tensor]]:
        """Encode the next block of a long waveform. The concatenated z of all blocks equals z of the whole waveform.

        Args:
            waveform: (B, S) the next samples; S may be 0.
            tails: the tails that the previous call returned; None at the start of a waveform.
            last: whether the waveform ends with this block.

        Returns:
            z (B, T, channels) of all frames that are now complete (T may be 0), and the tails for the next call: for
            each layer, the input frames that later frames still need.
        """
        x = waveform.unsqueeze(-1)  # (B, S, 1)
        new_tails = []
        layers = zip(self.convs, self.norms, self.geometry.paddings, strict=True)
        for i, (conv, norm, (left, right)) in enumerate(layers):
            assert isinstance(conv, BlockConv)
            if tails is not None:
                x = torch.cat([tails[i], x], dim=1)
            elif left:  # F.pad copies even where it adds nothing
                x = F.pad(x, (0, 0, left, 0))
            if last and right:
                x = F.pad(x, (0, 0, 0, right))
            num_out = max(0, x.shape[1] // conv.stride - 1)
            if not last:
                new_tails.append(x[:, num_out * conv.stride :])
            x = conv(x) if num_out else x.new_zeros(x.shape[0], 0, self.channels)
            if x.shape[1]:
                x = norm(x.transpose(1, 2)).transpose(1, 2) if isinstance(norm, nn.BatchNorm1d) else norm(x)
            x = F.relu(x, inplace=True)
        return x, new_tails


def recomputing(encode: Callable[[Tensor], Tensor], num_pieces: int) -> Callable[[Tensor], Tensor]:
    """Make `encode` process a batch in pieces that the backward pass recomputes, so that no activations are kept.

    It returns the same z and, except for the order of sums, the same gradients. It does not work with batch
    normalisation.
    """

    def in_pieces(waveforms: Tensor) -> Tensor:
        pieces = waveforms.chunk(num_pieces)
        return torch.cat([checkpoint(encode, x, use_reentrant=False, preserve_rng_state=False) for x in pieces])

    return in_pieces
