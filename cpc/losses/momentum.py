"""MoCo's dictionary: a queue of keys from past batches, and the slow encoder that makes them.

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
    """The last `length` keys, first in, first out; without gradient; saved and loaded with `state_dict`.

    It starts empty: unlike MoCo's, it never gives out random vectors for keys.

    Args:
        length: keys held at most.
        dim: D of a key.
        gather: enqueue the keys of all ranks, in the order of the ranks, so that all queues are alike.
    """

    buffer: Tensor
    num_seen: Tensor

    def __init__(self, length: int, dim: int, *, gather: bool = False) -> None:
        super().__init__()
        for name, value in (("length", length), ("dim", dim)):
            if value < 1:
                raise EmbeddingError(f"{name}: got {value}, expected 1 or more")
        self.gather = gather
        self.register_buffer("buffer", torch.zeros(length, dim))  # key i of all that were seen is at i modulo length
        self.register_buffer("num_seen", torch.tensor(0))

    def __len__(self) -> int:
        return min(int(self.num_seen), len(self.buffer))

    @property
    def keys(self) -> Tensor:
        """(min(seen, length), D) keys, the oldest first: a copy, so that a later enqueue leaves it as it is."""
        held = len(self)
        first = int(self.num_seen) - held
        return self.buffer[(first + torch.arange(held, device=self.buffer.device)) % len(self.buffer)]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Append keys (N, D); the oldest leave where there is no room.

        Raises:
            EmbeddingError: if the shape is another, or a key is not finite.
        """
        length, dim = self.buffer.shape
        if keys.ndim != 2 or keys.shape[1] != dim:
            raise EmbeddingError(f"keys: got shape {tuple(keys.shape)}, expected (N, {dim})")
        if not bool(keys.isfinite().all()):
            raise EmbeddingError("keys: got nan or inf, expected finite values")
        if self.gather:
            keys, _ = gathered(keys)
        place = torch.arange(len(keys), device=self.buffer.device) + self.num_seen
        # Of more keys than fit only the last are written: an index that stands twice in an assignment has no order.
        self.buffer[place[-length:] % length] = keys[-length:].to(self.buffer)
        self.num_seen += len(keys)


@torch.no_grad()
def momentum_update(encoder: nn.Module, key_encoder: nn.Module, m: float) -> None:
    """Move the key encoder towards the encoder: key ← m · key + (1 − m) · query, in place.

    That holds for parameters and floating-point buffers (running statistics belong to the weights that saw them); other
    buffers, such as counts, are copied.

    Args:
        encoder: the one that is trained.
        key_encoder: of the same architecture.
        m: between 0, a copy, and 1, no change.

    Raises:
        EmbeddingError: if m is out of range, or names or shapes differ.
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
