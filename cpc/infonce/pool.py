"""The candidates that compete side by side, and the blocks in which they are scored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from cpc.infonce.negatives import Negatives


def block_scores(device: torch.device) -> int:
    """Number of scores held at once: on a CPU what its caches hold, elsewhere what occupies the device."""
    return 2**19 if device.type == "cpu" else 2**26


def stacks(negatives: Negatives, num_frames: int, device: torch.device) -> Iterator[list[list[int]]]:
    """Yield groups of equally many sequences that go side by side in one product: as many as a block may hold."""
    by_size: dict[int, list[list[int]]] = {}
    for group in negatives.groups:
        by_size.setdefault(len(group), []).append(group)
    for size, groups in by_size.items():
        at_once = max(1, block_scores(device) // (size * num_frames) ** 2)
        for first in range(0, len(groups), at_once):
            yield groups[first : first + at_once]


@dataclass(frozen=True)
class Anchors:
    """A anchors of one step, the same in each of G groups.

    Attributes:
        block: their place among all anchors of the step in a group.
        positives: (G, A, 1) place of each anchor's positive among the candidates.
        allowed: (G, A, M) which candidates count; None: all of them.
        is_anchor: (G, A, 1) false where the anchor or its positive is padding; None: true throughout.
    """

    block: slice
    positives: Tensor
    allowed: Tensor | None
    is_anchor: Tensor | None


@dataclass(frozen=True)
class Pool:
    """The candidates of G groups of R sequences with T frames each; M = R · T candidates a group.

    Attributes:
        negatives: negatives of the batch.
        rows: (G, R) sequences of each group.
        index: the same, group by group (G · R): a slice where they follow each other, which copies nothing.
        num_frames: T.
        candidates: (G, M, D) latents.
        centred: (G, M, D) the same less a constant, in the type of the gradient's products.
        allowed: (G, R, M) which candidates the anchors of each sequence have; None: all of them.
        valid: (G, R) frames of each sequence that are no padding; None: all of them.
        times: (G, M) position of each candidate in its utterance, in frames; None if the rule sets no distance.
        own: (G, R, M) which candidates are of each sequence's own utterance; None likewise.
        labels: (G, M) class of each candidate, negative where it is unknown; None without labels.
    """

    negatives: Negatives
    rows: Tensor
    index: slice | Tensor
    num_frames: int
    candidates: Tensor
    centred: Tensor
    allowed: Tensor | None
    valid: Tensor | None
    times: Tensor | None
    own: Tensor | None
    labels: Tensor | None

    @classmethod
    def of(cls, z: Tensor, stack: list[list[int]], negatives: Negatives, dtype: torch.dtype) -> Pool:
        """Gather the candidates of some groups from the latents z (B, T, D)."""
        flat, num_frames = [row for group in stack for row in group], z.shape[1]
        rows = torch.tensor(stack, device=z.device)
        follow = flat == list(range(flat[0], flat[0] + len(flat)))
        index = slice(flat[0], flat[0] + len(flat)) if follow else rows.flatten()
        is_ragged = min(negatives.num_frames) < num_frames
        allowed = valid = times = own = None
        if is_ragged or negatives.rule.different:
            allowed = torch.stack([negatives.admitted(group, num_frames) for group in stack]).to(z.device)
        rule = negatives.rule
        if rule.within_utterance and (rule.min_distance or rule.max_distance):
            first = torch.tensor(negatives.first_frame, device=z.device)[rows]  # (G, R)
            times = (first[:, :, None] + torch.arange(num_frames, device=z.device)).flatten(1)
            agree = torch.stack([negatives.agree(group, "utterance") for group in stack])  # (G, R, R)
            own = agree.to(z.device).repeat_interleave(num_frames, 2)
        labels = None if negatives.labels is None else negatives.labels.to(z.device)[rows].flatten(1)
        if is_ragged:
            valid = torch.tensor(negatives.num_frames, device=z.device)[rows]
        candidates = z[index].float().reshape(len(stack), -1, z.shape[2])
        # A row of dL/ds sums to 0, so the gradient of a prediction depends only on differences of latents. Rounded to
        # bf16 the sum is not quite 0, and a mean that all latents share, as after ReLU, would leak into the gradient.
        centred = candidates
        if dtype != torch.float32:
            centred = (candidates - candidates.mean(1, keepdim=True)).to(dtype)
        return cls(negatives, rows, index, num_frames, candidates, centred, allowed, valid, times, own, labels)

    def of_anchors(self, x: Tensor, step: int) -> Tensor:
        """Select what the anchors of a step have: (B, T, D) → (G, R · (T − k), D)."""
        rows: Tensor = x[self.index]
        return rows.view(*self.rows.shape, *x.shape[1:])[:, :, : self.num_frames - step].flatten(1, 2)

    def put(self, x: Tensor, step: int, values: Tensor) -> None:
        """Write what the anchors of a step have, (G, R · (T − k), D), into x (B, T, D): the inverse of `of_anchors`."""
        length = self.num_frames - step
        x[self.index, :length] = values.reshape(-1, length, values.shape[2])

    def anchors(self, step: int, held: int | None = None) -> Iterator[Anchors]:
        """Yield the anchors of a step in blocks; each group has A = R · (T − k) of them in all.

        Args:
            step: k.
            held: numbers that an anchor takes at once; None: the scores of all candidates.
        """
        length, (num_groups, num_rows) = self.num_frames - step, self.rows.shape
        device = self.candidates.device
        frame = torch.arange(length, device=device)
        anchor_row = torch.arange(num_rows, device=device).repeat_interleave(length)  # (A,)
        positives = anchor_row * self.num_frames + frame.repeat(num_rows) + step  # (A,) places among the candidates
        is_anchor = None if self.valid is None else (frame + step < self.valid[:, :, None]).flatten(1)  # (G, A)
        size = max(1, block_scores(device) // (num_groups * (held or self.candidates.shape[1])))
        for first in range(0, len(positives), size):
            block = slice(first, first + size)
            yield Anchors(
                block,
                positives[block].expand(num_groups, -1).unsqueeze(2),
                self._allowed_to(anchor_row[block], positives[block]),
                None if is_anchor is None else is_anchor[:, block, None],
            )

    def count_anchors(self, step: int) -> int:
        """Count the anchors of a step in the whole batch, over which its loss is a mean."""
        return sum(max(0, n - step) for n in self.negatives.num_frames)

    def sum_up(
        self, anchors: Anchors, loss: Tensor, beaten: Tensor, num_negatives: int | Tensor, drawn: Tensor | None
    ) -> Tensor:
        """Sum the results of some anchors.

        Args:
            anchors: which anchors they are.
            loss: (G, A, 1) losses.
            beaten: (G, A, 1) number of negatives that score lower than the positive.
            num_negatives: number of negatives of every anchor, or (G, A, 1) of each.
            drawn: (G, A, n) places of the drawn negatives; None: all allowed candidates are negatives.

        Returns:
            (6,) sums of loss, top-1 hits, win rates and log N, and counts of negatives of the positive's class and of a
            known class.
        """
        log_n = torch.log1p(torch.as_tensor(num_negatives, dtype=torch.float32, device=loss.device)).expand_as(loss)
        hits, wins = beaten == num_negatives, beaten / num_negatives
        per_anchor = torch.stack(
            [x.float() for x in (loss, hits, wins, log_n, *self._alike(anchors, drawn))]
        )  # (6, G, A, 1)
        if anchors.is_anchor is not None:
            per_anchor.masked_fill_(~anchors.is_anchor, 0)
        return per_anchor.sum((1, 2, 3))

    def _alike(self, anchors: Anchors, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
        """Count each anchor's negatives of the positive's class, and those of a known class: (G, A, 1) each.

        Without labels, and for a positive without one, both counts are 0.
        """
        places = anchors.positives
        if self.labels is None:
            none = torch.zeros_like(places)
            return none, none
        classes = self.labels[:, None].expand(-1, places.shape[1], -1)  # (G, A, M)
        positive = classes.gather(2, places)
        others = classes if drawn is None else classes.gather(2, drawn)
        known = (others >= 0) & (positive >= 0)
        if drawn is None:
            known = known if anchors.allowed is None else known & anchors.allowed
            known = known.scatter(2, places, torch.zeros_like(places, dtype=torch.bool))
        return (known & (others == positive)).sum(2, keepdim=True), known.sum(2, keepdim=True)

    def _allowed_to(self, anchor_row: Tensor, places: Tensor) -> Tensor | None:
        """Determine the candidates of some anchors.

        Args:
            anchor_row: (A,) row of each anchor in its group.
            places: (A,) place of each anchor's positive among the candidates.

        Returns:
            (G, A, M) bool; None: all candidates.
        """
        allowed = None if self.allowed is None else self.allowed[:, anchor_row]
        if self.times is None or self.own is None:
            return allowed
        rule, num_candidates = self.negatives.rule, self.times.shape[1]
        distance = (self.times[:, places, None] - self.times[:, None]).abs()  # (G, A, M)
        near = distance < rule.min_distance
        if rule.max_distance:
            near |= distance > rule.max_distance
        positive = torch.nn.functional.one_hot(places, num_candidates).bool()
        admitted = ~(near & self.own[:, anchor_row]) | positive
        return admitted if allowed is None else admitted & allowed


@contextmanager
def exact_bf16_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Let a CPU multiply float32 numbers that came from bfloat16 with its bfloat16 units; results stay float32."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
