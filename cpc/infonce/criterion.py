"""InfoNCE: how well the prediction of step k picks the true z_{t+k} out of N candidates.

    L_k = − mean over anchors of log( exp(s⁺) / (exp(s⁺) + Σ_negatives exp(s⁻)) ),   s = z_{t'}ᵀ W_k c_t / tau

Matrix products score every candidate of an anchor, in blocks that are never kept. This is exact, uses all negatives
that the scheme admits, and is about ten times faster than gathering some of them. The gradient is formed in the same
pass, block by block, so memory does not grow with the number of negatives. `drawn` has the same for a few negatives
that are drawn for each anchor.

Source: van den Oord et al. 2018, equations 3 and 4; the bound I(x_{t+k}; c_t) ≥ log N − L_k, section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpc.infonce.drawn import Drawn
from cpc.infonce.negatives import Negatives, NegativesError
from cpc.infonce.pool import Anchors, Pool, exact_bf16_products, stacks


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
        scored = (Drawn if negatives.num_negatives else _All).apply(z, predictions, negatives, steps, dtype)
    losses, accuracies, win_rates, log_n, alike, known = scored
    return InfoNCE(losses, accuracies, win_rates, log_n, None if negatives.labels is None else alike / known)


class _All(torch.autograd.Function):
    """InfoNCE of all steps against all candidates; the forward pass forms the gradient block by block."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, predictions: Tensor, negatives: Negatives, steps: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_z = torch.zeros_like(predictions, dtype=torch.float32) if needs_grad else None  # (K, B, T, D): by step
        d_predictions = torch.zeros_like(predictions, dtype=torch.float32) if needs_grad else None
        totals = torch.zeros(6, len(steps), device=z.device)
        for stack in stacks(negatives, z.shape[1], z.device):
            pool = Pool.of(z, stack, negatives, dtype)
            for i, step in enumerate(steps):
                p, num_anchors = pool.of_anchors(predictions[i], step).float(), pool.count_anchors(step)  # (G, A, D)
                d_p, d_candidates = torch.empty_like(p), torch.zeros_like(pool.candidates)
                for anchors in pool.anchors(step):
                    gradients = (d_p[:, anchors.block], d_candidates) if needs_grad else None
                    totals[:, i] += _score(p[:, anchors.block], pool, anchors, gradients, num_anchors) / num_anchors
                if d_z is not None and d_predictions is not None:
                    pool.put(d_predictions[i], step, d_p)
                    d_z[i, pool.index] = d_candidates.view(-1, *z.shape[1:])
        if needs_grad:
            ctx.save_for_backward(d_z, d_predictions)
        ctx.dtypes = z.dtype, predictions.dtype
        ctx.mark_non_differentiable(*totals[1:])
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None, None]:
        d_z, d_predictions = ctx.saved_tensors
        weights = d_losses[:, None, None, None]
        of_z, of_predictions = ctx.dtypes
        d_z = torch.tensordot(d_losses, d_z, 1).to(of_z)
        return d_z, (d_predictions * weights).to(of_predictions), None, None, None


def _score(
    p: Tensor, pool: Pool, anchors: Anchors, gradients: tuple[Tensor, Tensor] | None, num_anchors: int
) -> Tensor:
    """Score A anchors of each of G groups against their allowed candidates.

    Args:
        p: (G, A, D) predictions.
        pool: candidates of the groups.
        anchors: which anchors they are.
        gradients: gradients of the step's mean loss with respect to p, to write, and to the candidates (G, M, D), to
            add to; None if none is needed.
        num_anchors: number of the step's anchors, over which its loss is a mean.

    Returns:
        As `Pool.sum_up`.
    """
    with exact_bf16_products(p.device, pool.centred.dtype):
        scores = p @ pool.candidates.transpose(1, 2)  # (G, A, M)
    places, allowed, included = anchors.positives, anchors.allowed, pool.negatives.includes_positive
    positive = scores.gather(2, places)
    beaten = scores < positive  # a positive does not beat itself, so its own column never counts
    beaten = (beaten if allowed is None else beaten & allowed).sum(2, keepdim=True)
    num_candidates = scores.shape[2] if allowed is None else allowed.sum(2, keepdim=True)  # () or (G, A, 1)
    if allowed is not None:
        scores.masked_fill_(~allowed, -torch.inf)
    peak = torch.maximum(scores.amax(2, keepdim=True), positive)
    weights = scores.sub_(peak).exp_()  # (G, A, M), in place: the scores are not needed again
    positive_weight = (positive - peak).exp_()
    total = weights.sum(2, keepdim=True)
    if not included:
        total += positive_weight
    # The difference of the two scores first: a large offset that they share would swallow the logarithm.
    loss = total.log() + (peak - positive)
    if gradients is not None:
        # dL/ds is (softmax − one-hot) / num_anchors. It is formed times `total`; `scale` divides by both.
        weights.scatter_add_(2, places, -total if included else positive_weight - total)
        scale = 1 / (total * num_anchors)
        if anchors.is_anchor is not None:
            weights.masked_fill_(~anchors.is_anchor, 0)
            scale.masked_fill_(~anchors.is_anchor, 0)
        weights = weights.to(pool.centred.dtype)
        d_p, d_candidates = gradients
        torch.mul(weights @ pool.centred, scale, out=d_p)
        d_candidates += weights.transpose(1, 2) @ (p * scale).to(pool.centred.dtype)
    return pool.sum_up(anchors, loss, beaten, num_candidates - int(included), None)
