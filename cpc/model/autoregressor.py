"""g_ar: a recurrent network that summarises the latents up to frame t into the context c_t.

Source: van den Oord et al. 2018, section 3.1: a GRU with 256 units whose output at every step is c. `Bidirectional` is
not in the paper; Kawakami et al. 2020 (arXiv 2001.11128) train CPC in both directions in this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["gru", "lstm"]
# Up to so many, a frame's product is faster in float32: the conversions to bfloat16 cost more than its product saves.
_FEW_SEQUENCES = 16
State = Tensor | tuple[Tensor, Tensor]


class Autoregressor(nn.Module):
    """g_ar: z (B, T, D_z) → c (B, T, D_c). It is causal: c_t depends on z_0 … z_t only.

    Args:
        input_dim: D_z.
        hidden_dim: D_c (256 in the paper).
        kind: "gru" (the paper) or "lstm" (CPC_audio).
        num_layers: number of stacked layers (1 in the paper).
    """

    def __init__(self, input_dim: int, hidden_dim: int = 256, kind: Kind = "gru", num_layers: int = 1) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        network = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.rnn = network(input_dim, hidden_dim, num_layers=num_layers, batch_first=True)

    def linear_maps(self) -> dict[str, int]:
        """Each weight matrix stacks one map a gate."""
        matrices = {name: p for name, p in self.rnn.named_parameters(prefix="rnn") if p.ndim > 1}
        return {name: len(p) // self.hidden_dim for name, p in matrices.items()}

    def forward(self, z: Tensor, num_frames: Sequence[int] | None = None) -> Tensor:
        """Return the contexts c (B, T, D_c) of whole sequences, starting from a zero state.

        Args:
            z: (B, T, D_z).
            num_frames: ignored: what follows a sequence's last frame changes none of its contexts.
        """
        c, _ = self.stream(z, None)
        return c

    def stream(self, z: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return the contexts of the next frames and the state after them; None is the zero state of a new file."""
        if z.shape[1] == 0:  # torch's recurrent networks refuse sequences without a frame
            return z.new_zeros(len(z), 0, self.hidden_dim, dtype=torch.float32), self._zero_state(z, state)
        if isinstance(self.rnn, nn.GRU) and z.device.type == "cpu":
            assert not isinstance(state, tuple)
            return _gru_on_cpu(self.rnn, z, state)
        # Autocast would run cuDNN's recurrent networks in float16, whatever its own type, and gradients would vanish.
        with torch.autocast(z.device.type, enabled=z.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            c, state = self.rnn(z if z.device.type == "cpu" else z.float(), state)
        assert state is not None
        return c, state

    def _zero_state(self, z: Tensor, state: State | None) -> State:
        """The given state, or the zero state of a new file."""
        if state is not None:
            return state
        zero = z.new_zeros(self.rnn.num_layers, len(z), self.hidden_dim, dtype=torch.float32)
        return (zero, zero) if isinstance(self.rnn, nn.LSTM) else zero


class Bidirectional(nn.Module):
    """Two autoregressors, one of which reads the sequence backwards: z (B, T, D_z) → c (B, T, 2 · D).

    The first half of c_t depends on z_0 … z_t and predicts what follows, the second half depends on z_t … z_{T−1} and
    predicts what went before. Neither has seen what it predicts, and together they know both sides of frame t.

    Args:
        forwards: reads from the first frame.
        backwards: reads from the last frame.
    """

    def __init__(self, forwards: Autoregressor, backwards: Autoregressor) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards
        self.hidden_dim = forwards.hidden_dim + backwards.hidden_dim

    def forward(self, z: Tensor, num_frames: Sequence[int] | None = None) -> Tensor:
        """Return the contexts of whole sequences.

        Args:
            z: (B, T, D_z).
            num_frames: (B,) frames of each sequence; those after them are padding and come last in both directions.
                None: there is no padding.
        """
        backwards = reverse(self.backwards(reverse(z, num_frames)), num_frames)
        return torch.cat([self.forwards(z), backwards], dim=2)

    def stream(self, z: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Refuse to read a sequence in blocks.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            'g_ar reads whole files from both ends (autoregressor.directions = "both"), so c cannot be streamed'
        )


def reverse(x: Tensor, num_frames: Sequence[int] | None = None) -> Tensor:
    """Reverse the frames of each sequence x (B, T, …); padding after its `num_frames` stays where it is."""
    longest = x.shape[1]
    if num_frames is None or min(num_frames) == longest:
        return x.flip(1)
    t = torch.arange(longest, device=x.device)
    last = torch.tensor(num_frames, device=x.device)[:, None] - 1
    places = torch.where(t <= last, last - t, t)  # (B, T)
    return x.gather(1, places.view(*places.shape, *[1] * (x.ndim - 2)).expand_as(x))


def _gru_on_cpu(gru: nn.GRU, z: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute `gru(z, state)` in float32 about twice as fast: PyTorch has a fused LSTM for CPUs, but no fused GRU."""
    if state is None:
        state = z.new_zeros(gru.num_layers, len(z), gru.hidden_size, dtype=torch.float32)
    bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    bf16 = bf16 and len(z) > _FEW_SEQUENCES
    x, last = z.transpose(0, 1), []  # (T, B, D_z)
    for layer, h in enumerate(state):
        w_ih, w_hh, b_ih, b_hh = gru.all_weights[layer]
        x = _Recurrence.apply(F.linear(x, w_ih, b_ih), w_hh, b_hh, h, bf16, torch.is_grad_enabled())  # (T, B, D_c)
        last.append(x[-1])
    return x.transpose(0, 1), torch.stack(last)


class _Recurrence(torch.autograd.Function):
    """The recurrent part of a GRU layer.

        r, u = σ(x_ru + W_ru h + b_ru),   n = tanh(x_n + r ⊙ (W_n h + b_n)),   h ← (1 − u) ⊙ n + u ⊙ h

    Everything that does not depend on the previous frame (in the backward pass: the next one) is computed for all
    frames at once. One small product and a few elementwise operations a frame remain.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_hh: Tensor, b_hh: Tensor, h: Tensor, bf16: bool, keeps: bool) -> Tensor:
        """Map inputs x (T, B, 3 H), in the order r, u, n, and the state h (B, H) to h of every frame (T, B, H),
        float32.

        Without `keeps`, nothing is stored for a backward pass.
        """
        hidden, w = w_hh.shape[1], w_hh.t().to(torch.bfloat16 if bf16 else torch.float32).contiguous()
        # Of each frame, first what is added to W h, then r, u and W_n h + b_n. A view takes as long as an operation on
        # a few sequences, so the views of all frames are made in advance.
        gates, x_n = x + b_hh, x[..., 2 * hidden :].float()
        gates[..., 2 * hidden :] = b_hh[2 * hidden :]
        hs = gates.new_empty(len(x) + 1, *h.shape)
        hs[0] = h
        ns = torch.empty_like(hs[1:]) if keeps else gates.new_empty(1, *h.shape).expand_as(hs[1:])
        rus, thirds = gates[..., : 2 * hidden], gates.chunk(3, dim=2)
        views = [all_frames.unbind() for all_frames in (hs[:-1], hs[1:], x_n, ns, gates, rus, *thirds)]
        with torch.autocast("cpu", enabled=False):
            for before, after, from_x, n, gate, ru, r, u, h_n in zip(*views, strict=True):
                _add_product(gate, before, w)
                ru.sigmoid_()
                torch.addcmul(from_x, r, h_n, out=n).tanh_()
                torch.lerp(n, before, u, out=after)
        if keeps:
            ctx.save_for_backward(hs, gates, ns, w_hh)
            ctx.bf16 = bf16
        return hs[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_hs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        hs, gates, n, w_hh = ctx.saved_tensors
        dtype = torch.bfloat16 if ctx.bf16 else torch.float32
        w = w_hh.to(dtype)
        r, u, h_n = gates.chunk(3, dim=2)  # (T, B, H)
        # Derivatives of h_t by what enters r, u, and by W_n h + b_n; then, frame by frame, those of the loss.
        by_n = (1 - u) * (1 - n * n)
        d_gates = torch.empty_like(gates)
        thirds = d_gates.chunk(3, dim=2)
        torch.mul(by_n * h_n * r, 1 - r, out=thirds[0])
        torch.mul((hs[:-1] - n) * u, 1 - u, out=thirds[1])
        torch.mul(by_n, r, out=thirds[2])
        totals = torch.cat([torch.zeros_like(d_hs[:1]), d_hs])  # derivatives by h, those that follow included
        views = [all_frames.unbind() for all_frames in (totals[:-1], totals[1:], u, d_gates, *thirds)]
        for before, total, keep, d, d_r, d_u, d_h_n in reversed(list(zip(*views, strict=True))):
            d_r *= total
            d_u *= total
            d_h_n *= total
            before.addcmul_(total, keep)
            _add_product(before, d, w)
        d_x = d_gates.clone()
        torch.mul(totals[1:], by_n, out=d_x[..., 2 * w_hh.shape[1] :])
        flat = d_gates.flatten(0, 1)  # (T · B, 3 H)
        d_w = (flat.t().to(dtype) @ hs[:-1].flatten(0, 1).to(dtype)).float()
        return d_x, d_w, flat.sum(0), totals[0], None, None


def _add_product(total: Tensor, x: Tensor, w: Tensor) -> None:
    """Add x @ w to the total, which is float32, in place; compute it in the type of w."""
    if w.dtype == total.dtype:
        total.addmm_(x, w)
    else:
        total += x.to(w.dtype) @ w
