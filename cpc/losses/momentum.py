"""MoCo's dictionary: a queue of keys from past batches, and the momentum encoder that produces them.

    key_encoder = copy.deepcopy(encoder).requires_grad_(False)
    queue = MomentumQueue(length=4096, dim=256)
    …
    momentum_update(encoder, key_encoder, m=0.999)
    keys = key_encoder(view_2)
    loss = info_nce(encoder(view_1), keys, queue.keys if len(queue) else None)
    queue.enqueue(keys)

Source: He et al. 2020, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpc.losses.embeddings import EmbeddingError, gathered


class MomentumQueue(nn.Module):
    """A first-in, first-out queue of the last `length` keys, without gradient; `state_dict` saves and restores it.

    The queue starts empty: unlike MoCo's, it never returns random vectors as keys.

    Args:
        length: maximum number of keys.
        dim: D, the size of a key.
        gather: enqueue the keys of all ranks, in rank order, so that all ranks hold the same queue.
    """

    buffer: Tensor
    num_seen: Tensor

    def __init__(self, length: int, dim: int, *, gather: bool = False) -> None:
        super().__init__()
        for name, value in (("length", length), ("dim", dim)):
            if value < 1:
                raise EmbeddingError(f"{name}: got {value}, expected at least 1")
        self.gather = gather
        self.register_buffer("buffer", torch.zeros(length, dim))  # the i-th key ever seen is at i modulo length
        self.register_buffer("num_seen", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.num_seen), len(self.buffer))

    @property
    def keys(self) -> Tensor:
        """The keys (min(seen, length), D), oldest first; a copy, so that a later enqueue does not change it."""
        held = len(self)
        first = int(self.num_seen) - held
        return self.buffer[(first + torch.arange(held, device=self.buffer.device)) % len(self.buffer)]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Append keys (N, D) and drop the oldest ones beyond `length`.

        Raises:
            EmbeddingError: wrong shape, or a key that is not finite.
        """
        length, dim = self.buffer.shape
        if keys.ndim != 2 or keys.shape[1] != dim:
            raise EmbeddingError(f"keys: got shape {tuple(keys.shape)}, expected (N, {dim})")
        if not bool(keys.isfinite().all()):
            raise EmbeddingError("keys: got nan or inf, expected finite values")
        if self.gather:
            keys, _ = gathered(keys)
        place = torch.arange(len(keys), device=self.buffer.device) + self.num_seen
        # If there are more keys than fit, write only the last ones: with a repeated index, the order of writes is
        # undefined.
        self.buffer[place[-length:] % length] = keys[-length:].to(self.buffer)
        self.num_seen += len(keys)


@torch.no_grad()
def momentum_update(encoder: nn.Module, key_encoder: nn.Module, m: float) -> None:
    """Move the key encoder towards the encoder in place: key ← m · key + (1 − m) · query.

    This applies to parameters and to floating-point buffers, because running statistics belong to the weights that
    they were measured with. Other buffers, such as counts, are copied.

    Args:
        encoder: the network that is trained.
        key_encoder: a network of the same architecture.
        m: momentum in [0, 1]; 0 copies, 1 changes nothing.

    Raises:
        EmbeddingError: m is out of range, or names or shapes differ.
    """
    if not 0 <= m <= 1:
        raise EmbeddingError(f"m: got {m}, expected between 0 and 1")
    ours, theirs = (dict(x.named_parameters()) | dict(x.named_buffers()) for x in (encoder, key_encoder))
    shapes, key_shapes = ({name: tuple(x.shape) for name, x in side.items()} for side in (ours, theirs))
    for name in shapes | key_shapes:
        got, expected = key_shapes.get(name, "none"), shapes.get(name, "none")
        if got != expected:
            raise EmbeddingError(f"key_encoder: got {name} of shape {got}, expected {expected} as in encoder")
    for name, key in theirs.items():
        value = ours[name].to(key)
        if key.is_floating_point() and m > 0:
            key.lerp_(value, 1 - m)
        else:
            key.copy_(value)
