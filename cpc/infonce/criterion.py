"""InfoNCE: how well the prediction of step k picks the true z_{t+k} out of N candidates.

    L_k = − mean over anchors of log( exp(s⁺) / (exp(s⁺) + Σ_negatives exp(s⁻)) ),   s = z_{t'}ᵀ W_k c_t / tau

Matrix products score every candidate of an anchor, in blocks that are never kept. This is exact, uses all negatives
that the scheme admits, and is about ten times faster than gathering some of them. Where negatives are drawn, their
scores are picked out of the block. The gradient is formed in the same pass, block by block, so memory does not grow
with the number of negatives.

Source: van den Oord et al. 2018, equations 3 and 4; the bound I(x_{t+k}; c_t) ≥ log N − L_k, section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpc.infonce.negatives import Negatives, NegativesError, draw


class InfoNCE(NamedTuple):
    """Results of each step k = 1 … K: (K,) float32 means over the step's anchors. Only `losses` carries a gradient.

    Attributes:
        losses: L_k in nats.
        accuracies: top-1 accuracy: how often the positive scores higher than every negative (a tie does not count).
        win_rates: how often the positive scores higher than one negative (Fig. 3 of the paper).
        log_n: log N, N = number of candidates including the positive: the loss of a guess and the ceiling of the bound.
        false_negatives: share of the negatives that are of the positive's class, where both are known; None if the
            batch has no labels, not a number if no pair is known.
    """

    losses: Tensor
    accuracies: Tensor
    win_rates: Tensor
    log_n: Tensor
    false_negatives: Tensor | None = None

    @property
    def bounds(self) -> Tensor:
        """Log N − L_k in nats: a lower bound on the mutual information that never exceeds log N."""
        return self.log_n - self.losses.detach()


def infonce(z: Tensor, predictions: Tensor, negatives: Negatives, steps: Sequence[int] | None = None) -> InfoNCE:
    """Score each step's predictions against the true latents and the negatives, in float32.

    Args:
        z: (B, T, D) latents.
        predictions: (K, B, T, D): [i, b, t] predicts z[b, t + steps[i]], already divided by tau.
        negatives: negatives of this batch.
        steps: K numbers of frames ahead; by default 1, 2, …, K.

    Returns:
        Losses, accuracies and win rates of each step.

    Raises:
        NegativesError: a step has no anchor, because every sequence is shorter than k + 1 frames.
    """
    steps = tuple(range(1, len(predictions) + 1) if steps is None else steps)
    if len(steps) != len(predictions):
        raise NegativesError(
            f"InfoNCE: got {len(predictions)} predictions for {len(steps)} steps, expected one for each"
        )
    longest = max(negatives.num_frames)
    if max(steps) >= longest:
        raise NegativesError(
            f"InfoNCE: step {longest} of {max(steps)} has no anchor: the longest window has {longest} frames; "
            "use longer windows or fewer steps (--criterion.num-steps)"
        )
    # In half precision, scores would overflow or lose the positive. Gradients are returned in the type of the inputs,
    # so their products need no higher precision than that type.
    dtype = torch.bfloat16 if z.dtype == predictions.dtype == torch.bfloat16 else torch.float32
    with torch.autocast(z.device.type, enabled=False):
        scored = _Blocks.apply(z.float(), predictions.float(), negatives, steps, dtype)
    losses, accuracies, win_rates, log_n, alike, known = scored
    return InfoNCE(losses, accuracies, win_rates, log_n, None if negatives.labels is None else alike / known)


def _block_scores(device: torch.device) -> int:
    """Number of scores held at once: on a CPU what its caches hold, elsewhere what occupies the device."""
    return 2**19 if device.type == "cpu" else 2**26


class _Blocks(torch.autograd.Function):
    """InfoNCE of all steps; the forward pass forms the gradient block by block."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, predictions: Tensor, negatives: Negatives, steps: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        num_frames = z.shape[1]
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_z = torch.zeros_like(predictions) if needs_grad else None  # (K, B, T, D): each step's share
        d_predictions = torch.zeros_like(predictions) if needs_grad else None
        generator = negatives.generator(z.device)
        totals = z.new_zeros(6, len(steps))  # losses, hits, wins, log N, negatives of the same class and of a known one
        for stack in _stacks(negatives, num_frames, z.device):
            pool = _Pool.of(z, stack, negatives, generator, dtype)
            for i, step in enumerate(steps):
                length = num_frames - step
                p = predictions[i, pool.rows, :length].flatten(1, 2)  # (G, A, D)
                d_p, d_candidates = torch.empty_like(p), torch.zeros_like(pool.candidates)
                gradients = (d_p, d_candidates) if needs_grad else None
                _score_step(p, pool, step, gradients, totals[:, i])
                if d_z is not None and d_predictions is not None:
                    d_predictions[i, pool.rows, :length] = d_p.view(*pool.rows.shape, length, -1)
                    d_z[i, pool.rows] = d_candidates.view(*pool.rows.shape, num_frames, -1)
        if needs_grad:
            ctx.save_for_backward(d_z, d_predictions)
        ctx.mark_non_differentiable(*totals[1:])
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None, None]:
        d_z, d_predictions = ctx.saved_tensors
        weights = d_losses[:, None, None, None]
        return torch.tensordot(d_losses, d_z, 1), d_predictions * weights, None, None, None


def _stacks(negatives: Negatives, num_frames: int, device: torch.device) -> Iterator[list[list[int]]]:
    """Yield groups of equally many sequences that go side by side in one product: as many as a block may hold."""
    by_size: dict[int, list[list[int]]] = {}
    for group in negatives.groups:
        by_size.setdefault(len(group), []).append(group)
    for size, groups in by_size.items():
        at_once = max(1, _block_scores(device) // (size * num_frames) ** 2)
        for first in range(0, len(groups), at_once):
            yield groups[first : first + at_once]


@dataclass(frozen=True)
class _Pool:
    """The candidates of G groups of R sequences with T frames each; M = R · T candidates a group.

    Attributes:
        negatives: negatives of the batch.
        rows: (G, R) sequences of each group.
        num_frames: T.
        candidates: (G, M, D) latents.
        centred: (G, M, D) the same less a constant, in the type of the gradient's products.
        allowed: (G, R, M) which candidates the anchors of each sequence have; None: all of them.
        valid: (G, R) frames of each sequence that are no padding; None: all of them.
        times: (G, M) position of each candidate in its utterance, in frames; None if the rule sets no distance.
        own: (G, R, M) which candidates are of each sequence's own utterance; None likewise.
        labels: (G, M) class of each candidate, negative where it is unknown; None without labels.
        generator: source of the random draw.
    """

    negatives: Negatives
    rows: Tensor
    num_frames: int
    candidates: Tensor
    centred: Tensor
    allowed: Tensor | None
    valid: Tensor | None
    times: Tensor | None
    own: Tensor | None
    labels: Tensor | None
    generator: torch.Generator

    @classmethod
    def of(
        cls, z: Tensor, stack: list[list[int]], negatives: Negatives, generator: torch.Generator, dtype: torch.dtype
    ) -> _Pool:
        """Gather the candidates of some groups from the latents z (B, T, D)."""
        rows, num_frames = torch.tensor(stack, device=z.device), z.shape[1]
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
        candidates = z[rows].flatten(1, 2)
        # A row of dL/ds sums to 0, so the gradient of a prediction depends only on differences of latents. Rounded to
        # bf16 the sum is not quite 0, and a mean that all latents share, as after ReLU, would leak into the gradient.
        centred = candidates
        if dtype != torch.float32:
            centred = (candidates - candidates.mean(1, keepdim=True)).to(dtype)
        return cls(negatives, rows, num_frames, candidates, centred, allowed, valid, times, own, labels, generator)

    @property
    def included(self) -> bool:
        """Whether the positives are among the allowed candidates."""
        return self.negatives.includes_positive

    def allowed_to(self, anchor_row: Tensor, places: Tensor) -> Tensor | None:
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


def _score_step(p: Tensor, pool: _Pool, step: int, gradients: tuple[Tensor, Tensor] | None, totals: Tensor) -> None:
    """Score the anchors of one step, block by block.

    Args:
        p: (G, A, D) predictions of A = R · (T − step) anchors of each group.
        pool: candidates of the groups.
        step: k.
        gradients: gradients of the step's mean loss with respect to p, to write, and to the candidates, to add to; None
            if none is needed.
        totals: (6,) the step's means of loss, top-1 hits, win rates and log N, and its mean counts of negatives of the
            positive's class and of a known class, to add these groups' shares to.
    """
    length, num_rows = pool.num_frames - step, pool.rows.shape[1]
    frame = torch.arange(length, device=p.device)
    anchor_row = torch.arange(num_rows, device=p.device).repeat_interleave(length)  # (A,)
    positives = anchor_row * pool.num_frames + frame.repeat(num_rows) + step  # (A,) places among the candidates
    is_anchor = None if pool.valid is None else (frame + step < pool.valid[:, :, None]).flatten(1)  # (G, A)
    num_anchors = sum(max(0, n - step) for n in pool.negatives.num_frames)
    size = max(1, _block_scores(p.device) // (len(p) * pool.candidates.shape[1]))
    for first in range(0, p.shape[1], size):
        block = slice(first, first + size)
        sums = _score_block(
            p[:, block],
            pool,
            positives[block],
            allowed=pool.allowed_to(anchor_row[block], positives[block]),
            is_anchor=None if is_anchor is None else is_anchor[:, block],
            gradients=(gradients[0][:, block], gradients[1]) if gradients is not None else None,
            num_anchors=num_anchors,
        )
        totals += torch.stack(sums) / num_anchors


def _score_block(
    p: Tensor,
    pool: _Pool,
    positives: Tensor,
    *,
    allowed: Tensor | None,
    is_anchor: Tensor | None,
    gradients: tuple[Tensor, Tensor] | None,
    num_anchors: int,
) -> list[Tensor]:
    """Score A anchors of each of G groups against its M candidates.

    Args:
        p: (G, A, D) predictions.
        pool: candidates of the groups.
        positives: (A,) place of each positive among the candidates.
        allowed: (G, A, M) which candidates count; None: all of them.
        is_anchor: (G, A) false where the anchor or its positive is padding; None: true throughout.
        gradients: as for `_score_step`.
        num_anchors: number of the step's anchors, over which its loss is a mean.

    Returns:
        Sums over the anchors of loss, top-1 hits, win rates and log N, and counts of negatives of the positive's class
        and of a known class.
    """
    with _exact_bf16_products(p.device, pool.centred.dtype):
        scores = p @ pool.candidates.transpose(1, 2)  # (G, A, M)
    places = positives.expand(len(p), -1).unsqueeze(2)  # (G, A, 1)
    positive = scores.gather(2, places)
    others, beaten, num_negatives, drawn = _opponents(scores, positive, places, allowed, pool)
    apart = drawn is not None or not pool.included  # the positive is not one of `others`
    peak = torch.maximum(others.amax(2, keepdim=True), positive)
    weights = others.sub_(peak).exp_()  # (G, A, M or n), in place: the block's scores are not needed again
    positive_weight = (positive - peak).exp_()
    total = weights.sum(2, keepdim=True)
    if apart:
        total += positive_weight
    # The difference of the two scores first: a large offset that they share would swallow the logarithm.
    loss = total.log() + (peak - positive)
    log_n = torch.log1p(torch.as_tensor(num_negatives, dtype=torch.float32, device=p.device)).expand_as(loss)
    per_anchor = [loss, beaten == num_negatives, beaten / num_negatives, log_n, *_alike(pool, places, allowed, drawn)]
    if is_anchor is not None:
        per_anchor = [x.masked_fill(~is_anchor[:, :, None], 0) for x in per_anchor]
    sums = [x.sum().float() for x in per_anchor]
    if gradients is not None:
        # dL/ds is (softmax − one-hot) / num_anchors. It is formed times `total`; `scale` divides by both.
        if drawn is not None:
            weights = torch.zeros_like(scores).scatter_add_(2, drawn, weights)
        weights.scatter_add_(2, places, positive_weight - total if apart else -total)
        scale = 1 / (total * num_anchors)
        if is_anchor is not None:
            weights.masked_fill_(~is_anchor[:, :, None], 0)
            scale.masked_fill_(~is_anchor[:, :, None], 0)
        weights = weights.to(pool.centred.dtype)
        d_p, d_candidates = gradients
        torch.mul(weights @ pool.centred, scale, out=d_p)
        d_candidates += weights.transpose(1, 2) @ (p * scale).to(pool.centred.dtype)
    return sums


def _opponents(
    scores: Tensor, positive: Tensor, places: Tensor, allowed: Tensor | None, pool: _Pool
) -> tuple[Tensor, Tensor, int | Tensor, Tensor | None]:
    """Select the scores that each positive is compared with.

    Args:
        scores: (G, A, M); scores of candidates that are not allowed are overwritten unless negatives are drawn.
        positive: (G, A, 1) score of each positive.
        places: (G, A, 1) place of each positive among the candidates.
        allowed: (G, A, M) which candidates count; None: all of them.
        pool: candidates of the groups.

    Returns:
        The scores (G, A, n) of drawn negatives, or (G, A, M) of all candidates; the number (G, A, 1) of negatives that
        score lower than the positive; the number of negatives; and the places (G, A, n) of the drawn ones, if any.
    """
    if pool.negatives.num_negatives:
        drawn = _draw(places, allowed, scores.shape, pool)
        others = scores.gather(2, drawn)
        return others, (others < positive).sum(2, keepdim=True), pool.negatives.num_negatives, drawn
    beaten = scores < positive  # a positive does not beat itself, so its own column never counts
    beaten = (beaten if allowed is None else beaten & allowed).sum(2, keepdim=True)
    num_candidates = scores.shape[2] if allowed is None else allowed.sum(2, keepdim=True)  # () or (G, A, 1)
    if allowed is not None:
        scores.masked_fill_(~allowed, -torch.inf)
    return scores, beaten, num_candidates - int(pool.included), None


def _alike(pool: _Pool, places: Tensor, allowed: Tensor | None, drawn: Tensor | None) -> tuple[Tensor, Tensor]:
    """Count each anchor's negatives of the positive's class, and those of a known class: (G, A, 1) each.

    The arguments are those of `_opponents`. Without labels, and for a positive without one, both counts are 0.
    """
    if pool.labels is None:
        none = torch.zeros_like(places)
        return none, none
    classes = pool.labels[:, None].expand(-1, places.shape[1], -1)  # (G, A, M)
    positive = classes.gather(2, places)
    others = classes if drawn is None else classes.gather(2, drawn)
    known = (others >= 0) & (positive >= 0)
    if drawn is None:
        known = known if allowed is None else known & allowed
        known = known.scatter(2, places, torch.zeros_like(places, dtype=torch.bool))
    return (known & (others == positive)).sum(2, keepdim=True), known.sum(2, keepdim=True)


@contextmanager
def _exact_bf16_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
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


def _draw(places: Tensor, allowed: Tensor | None, shape: torch.Size, pool: _Pool) -> Tensor:
    """Draw negatives among the allowed candidates; return their places (G, A, n) among all M candidates."""
    n, generator = pool.negatives.num_negatives, pool.generator
    if allowed is None:
        return draw(places, torch.full_like(places, shape[2]), n, generator)
    counts = allowed.cumsum(2)  # (G, A, M): the r-th allowed candidate is the first whose count exceeds r
    ranks = counts.gather(2, places) - 1 if pool.included else torch.full_like(places, -1)
    # Padding may leave an anchor that does not count without any candidate; it draws the last one.
    drawn = draw(ranks, counts[:, :, -1:].clamp(min=1 + int(pool.included)), n, generator)
    return torch.searchsorted(counts, drawn, right=True).clamp(max=shape[2] - 1)
