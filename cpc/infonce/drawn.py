"""InfoNCE against a few negatives that are drawn for each anchor and step.

One product scores all candidates, which is faster than gathering some, and the scores of those that were drawn are
picked out. Only these are kept for the backward pass, which spreads their derivatives over a matrix of zeros and forms
the gradient by two more products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cpc.infonce.negatives import Negatives, draw
from cpc.infonce.pool import Anchors, Pool, exact_bf16_products, stacks


@dataclass(frozen=True)
class _Scored:
    """What the anchors of a step in a pool leave for the backward pass.

    Attributes:
        i: index of the step.
        step: k.
        pool: candidates of the groups.
        blocks: for each block of anchors, its place among them, the places (G, A, 1 + n) of the positive and the
            negatives among the candidates, and the derivatives (G, A, 1 + n) of the step's mean loss with respect to
            their scores.
    """

    i: int
    step: int
    pool: Pool
    blocks: list[tuple[slice, Tensor, Tensor]]


class Drawn(torch.autograd.Function):
    """InfoNCE of all steps against drawn negatives; arguments and results are as in `cpc.infonce.criterion`."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, predictions: Tensor, negatives: Negatives, steps: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        generator, totals = negatives.generator(z.device), torch.zeros(6, len(steps), device=z.device)
        ctx.scored = []
        for stack in stacks(negatives, z.shape[1], z.device):
            pool = Pool.of(z, stack, negatives, dtype)
            for i, step in enumerate(steps):
                p, num_anchors = pool.of_anchors(predictions[i], step).float(), pool.count_anchors(step)  # (G, A, D)
                blocks = []
                for anchors in pool.anchors(step):
                    places = _draw(pool, anchors, generator)
                    sums, slopes = _score(p[:, anchors.block], pool, anchors, places)
                    totals[:, i] += sums / num_anchors
                    blocks.append((anchors.block, places, slopes / num_anchors))
                ctx.scored.append(_Scored(i, step, pool, blocks))
        ctx.save_for_backward(predictions)
        ctx.shape, ctx.z_dtype, ctx.dtype = z.shape, z.dtype, dtype
        ctx.mark_non_differentiable(*totals[1:])
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None, None]:
        (predictions,) = ctx.saved_tensors
        d_z, d_predictions = torch.zeros(ctx.shape, device=predictions.device), torch.zeros_like(predictions)
        for of in ctx.scored:
            pool = of.pool
            p = pool.of_anchors(predictions[of.i], of.step).to(ctx.dtype)  # (G, A, D)
            d_p = torch.empty_like(p)
            for block, places, slopes in of.blocks:
                d_scores = slopes.new_zeros(*slopes.shape[:2], pool.candidates.shape[1])  # (G, A, M)
                d_scores = d_scores.scatter_add_(2, places, slopes * d_losses[of.i]).to(ctx.dtype)
                d_p[:, block] = d_scores @ pool.centred
                d_candidates = d_scores.transpose(1, 2) @ p[:, block]  # (G, M, D)
                d_z[pool.index] += d_candidates.view(-1, *ctx.shape[1:])
            pool.put(d_predictions[of.i], of.step, d_p)
        return d_z.to(ctx.z_dtype), d_predictions, None, None, None


def _score(p: Tensor, pool: Pool, anchors: Anchors, places: Tensor) -> tuple[Tensor, Tensor]:
    """Score A anchors of each of G groups.

    Args:
        p: (G, A, D) predictions.
        pool: candidates of the groups.
        anchors: which anchors they are.
        places: (G, A, 1 + n) places of the positive and the negatives among the candidates.

    Returns:
        As `Pool.sum_up`, and the derivatives (G, A, 1 + n) of the sum of the losses with respect to the scores.
    """
    with exact_bf16_products(p.device, pool.centred.dtype):
        scores = (p @ pool.candidates.transpose(1, 2)).gather(2, places)  # (G, A, 1 + n)
    positive = scores[:, :, :1]
    beaten = (scores[:, :, 1:] < positive).sum(2, keepdim=True)
    peak = scores.amax(2, keepdim=True)
    weights = (scores - peak).exp_()
    total = weights.sum(2, keepdim=True)
    # The difference of the two scores first: a large offset that they share would swallow the logarithm.
    loss = total.log() + (peak - positive)
    slopes = weights / total  # softmax − one-hot
    slopes[:, :, 0] = -slopes[:, :, 1:].sum(2)
    if anchors.is_anchor is not None:
        slopes.masked_fill_(~anchors.is_anchor, 0)
    return pool.sum_up(anchors, loss, beaten, places.shape[2] - 1, places[:, :, 1:]), slopes


def _draw(pool: Pool, anchors: Anchors, generator: torch.Generator) -> Tensor:
    """Draw negatives among the allowed candidates; return the places (G, A, 1 + n) of positives and negatives."""
    n, positives, num_candidates = pool.negatives.num_negatives, anchors.positives, pool.candidates.shape[1]
    if anchors.allowed is None:
        drawn = draw(positives, torch.full_like(positives, num_candidates), n, generator)
    else:
        counts = anchors.allowed.cumsum(2)  # (G, A, M): the r-th allowed candidate is the first whose count exceeds r
        included = pool.negatives.includes_positive
        ranks = counts.gather(2, positives) - 1 if included else torch.full_like(positives, -1)
        # Padding may leave an anchor that does not count without any candidate; it draws the last one.
        drawn = draw(ranks, counts[:, :, -1:].clamp(min=1 + int(included)), n, generator)
        drawn = torch.searchsorted(counts, drawn, right=True).clamp(max=num_candidates - 1)
    return torch.cat([positives, drawn], 2)
