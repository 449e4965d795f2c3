"""g_ar: a recurrent network that summarises the latents up to frame t into the context c_t.

Source: van den Oord et al. 2018, section 3.1: a GRU with 256 units whose output at every step is c.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Kind = Literal["gru", "lstm"]
State = Tensor | tuple[Tensor, Tensor]


class Autoregressor(nn.Module):
    """g_ar: z (B, T, D_z) → c (B, T, D_c), causal: c_t sees z_0 … z_t alone.

    Args:
        input_dim: D_z.
        hidden_dim: D_c (256 in the paper).
        kind: "gru" (the paper) or "lstm" (CPC_audio).
        num_layers: stacked layers (1 in the paper).
    """

    def __init__(self, input_dim: int, hidden_dim: int = 256, kind: Kind = "gru", num_layers: int = 1) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.rnn = network(input_dim, hidden_dim, num_layers=num_layers, batch_first=True)

    def forward(self, z: Tensor) -> Tensor:
        """Contexts c (B, T, D_c) of whole sequences, from a zero state."""
        c, _ = self.rnn(z)
        return c  # type: ignore[no-any-return]

    def stream(self, z: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Contexts of the next frames, and the state to carry on; None is the zero state of a new file."""
        c, state = self.rnn(z, state)
        assert state is not None
        return c, state
