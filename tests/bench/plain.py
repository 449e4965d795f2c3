"""CPC as it is commonly written, the yardstick of the benchmarks.

It applies Conv1d and channel normalisation in (B, C, T), an LSTM and one Linear layer for each step, and gathers the
negatives of every anchor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainCPC(nn.Module):
    """A network with the architecture and the cost profile of common public code.

    Args:
        channels: width of the encoder, D_z.
        hidden: width of the LSTM, D_c.
        num_steps: number of steps predicted, K.
        num_negatives: negatives drawn from the whole batch for each anchor.
    """

    def __init__(self, channels: int, hidden: int = 256, num_steps: int = 12, num_negatives: int = 128) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(c_in, channels, kernel, stride)
            for c_in, kernel, stride in zip([1] + [channels] * 4, (10, 8, 4, 4, 4), (5, 4, 2, 2, 2), strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(5))
        self.rnn = nn.LSTM(channels, hidden, batch_first=True)
        self.W = nn.ModuleList(nn.Linear(hidden, channels, bias=False) for _ in range(num_steps))
        self.num_negatives = num_negatives

    def encode(self, x: Tensor) -> Tensor:
        """Encode waveforms (B, S) to z (B, T, D_z)."""
        x = x[:, None]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x).transpose(1, 2)).transpose(1, 2))
        return x.transpose(1, 2)

    def criterion(self, z: Tensor, c: Tensor) -> Tensor:
        """Return the mean InfoNCE over all steps, with negatives that all steps of an anchor share."""
        batch, frames, dim = z.shape
        anchors = frames - len(self.W)
        index = torch.randint(batch * frames, (batch * self.num_negatives * anchors,))
        negatives = z.reshape(-1, dim)[index].view(batch, self.num_negatives, anchors, dim)
        loss = z.new_zeros(())
        for k, linear in enumerate(self.W, start=1):
            candidates = torch.cat([z[:, None, k : k + anchors], negatives], dim=1)  # (B, 1 + n, A, D)
            scores = (linear(c[:, :anchors])[:, None] * candidates).mean(dim=3)  # (B, 1 + n, A)
            targets = torch.zeros(batch * anchors, dtype=torch.long)
            loss = loss + F.cross_entropy(scores.transpose(1, 2).reshape(batch * anchors, -1), targets)
        return loss / len(self.W)

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of a batch of waveforms (B, S)."""
        z = self.encode(x)
        return self.criterion(z, self.rnn(z)[0])
