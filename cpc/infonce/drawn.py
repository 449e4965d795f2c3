"""InfoNCE against a few negatives that are drawn for each anchor and step.

One product scores all candidates, which is faster than gathering some, and the scores of those that were drawn are
picked out. Only these are kept for the backward pass, which spreads their derivatives over a matrix of zeros and forms
the gradient by two more products.

On a CPU, where an anchor draws few out of many candidates, embedding bags are faster still. An anchor is a bag, the
candidates are the embeddings, and the derivatives with respect to the scores are the weights of a bag's samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from cpc.infonce.negatives import Negatives, draw
from cpc.infonce.pool import Anchors, Pool, exact_bf16_products, stacks

# Candidates to a drawn one from which on bags are faster: in bfloat16; in float32, from 8 on.
_MANY_TO_ONE = 14


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
                for anchors in pool.anchors(step, _count_held(pool)):
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
            p = pool.of_anchors(predictions[of.i], of.step)  # (G, A, D)
            d_p = torch.empty_like(p)
            for block, places, slopes in of.blocks:
                spread = _spread_in_bags if _are_few(pool) else _spread
                d_p[:, block], d_candidates = spread(slopes * d_losses[of.i], p[:, block], pool, places)
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
    if _are_few(pool):
        scores = _score_in_bags(p, pool, places)  # (G, A, 1 + n)
    else:
        with exact_bf16_products(p.device, pool.centred.dtype):
            scores = (p @ pool.candidates.transpose(1, 2)).gather(2, places)
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


def _spread(d_scores: Tensor, p: Tensor, pool: Pool, places: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the derivatives with respect to the scores (G, A, 1 + n) into those with respect to what was scored.

    Returns:
        The derivatives with respect to p (G, A, D) and to all candidates of the pool (G, M, D).
    """
    matrix = d_scores.new_zeros(*d_scores.shape[:2], pool.candidates.shape[1])  # (G, A, M)
    matrix = matrix.scatter_add_(2, places, d_scores).to(pool.centred.dtype)
    return matrix @ pool.centred, matrix.transpose(1, 2) @ p.to(matrix.dtype)


def _are_few(pool: Pool) -> bool:
    """Whether embedding bags are faster than the product with all candidates."""
    candidates, drawn = pool.candidates, 1 + pool.negatives.num_negatives
    return candidates.device.type == "cpu" and candidates.shape[1] >= _MANY_TO_ONE * drawn


def _count_held(pool: Pool) -> int:
    """Count the numbers that an anchor takes at once: a bag of candidates, or a row of all of them."""
    is_masked = pool.allowed is not None or pool.times is not None
    return pool.candidates.shape[1] if is_masked or not _are_few(pool) else 1 + pool.negatives.num_negatives


def _bags(pool: Pool, places: Tensor) -> Tensor:
    """Turn places in each group into places (G · A, 1 + n) among the candidates of all groups."""
    first = torch.arange(len(places), device=places.device) * pool.candidates.shape[1]
    return (places + first[:, None, None]).flatten(0, 1)


def _score_in_bags(p: Tensor, pool: Pool, places: Tensor) -> Tensor:
    """Score the drawn candidates.

    A score is what the gradient of a bag's sum in the direction p holds for the weight of a sample. PyTorch gives it by
    `embedding_bag` and its backward pass, of which only the second half is needed.
    """
    bags, (num_anchors, size) = _bags(pool, places).flatten(), places.flatten(0, 1).shape
    begins = torch.arange(0, len(bags), size)
    scores: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        p.flatten(0, 1),
        pool.candidates.flatten(0, 1),
        bags,
        begins,
        torch.arange(num_anchors).repeat_interleave(size),
        0,
    )
    return scores.view_as(places)


def _spread_in_bags(d_scores: Tensor, p: Tensor, pool: Pool, places: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `_spread` by embedding bags: one of candidates for each anchor, one of anchors for each candidate."""
    weights, bags, candidates = d_scores.flatten(0, 1), _bags(pool, places), pool.candidates.flatten(0, 1)
    d_p = F.embedding_bag(bags, candidates, mode="sum", per_sample_weights=weights)
    begins = torch.arange(0, bags.numel() + 1, bags.shape[1])
    by_anchor = csr_array(
        (weights.flatten().numpy(), bags.flatten().numpy(), begins.numpy()), (len(bags), len(candidates))
    )
    by_candidate = by_anchor.tocsc()  # in linear time, where torch would sort
    anchors, weights = torch.from_numpy(by_candidate.indices), torch.from_numpy(by_candidate.data)
    begins = torch.from_numpy(by_candidate.indptr[:-1])
    d_candidates = F.embedding_bag(anchors, p.flatten(0, 1).float(), begins, mode="sum", per_sample_weights=weights)
    return d_p.view_as(p), d_candidates.view_as(pool.candidates)


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
