"""InfoNCE: how well the prediction of step k picks the true z_{t+k} out of N candidates.

    L_k = − mean over anchors of log( exp(s⁺) / (exp(s⁺) + Σ_negatives exp(s⁻)) ),   s = z_{t'}ᵀ W_k c_t / tau

Every candidate of an anchor is scored by matrix products in blocks that are never kept: exact, with all the negatives
that the scheme admits, and about ten times faster than gathering a few of them. Where negatives are drawn,
the drawn scores are picked out of the block. The gradient is formed in the same pass, block by block, so memory
does not grow with the number of negatives.

Source: van den Oord et al. 2018, equations 3 and 4; the bound I(x_{t+k}; c_t) ≥ log N − L_k, section 2.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpc.negatives import Negatives, NegativesError, draw


class InfoNCE(NamedTuple):
    """Per step k = 1 … K, each (K,) float32, means over the step's anchors; only `losses` carries a gradient.

    Attributes:
        losses: L_k in nats.
        accuracies: top-1: how often the positive scores higher than every negative (a tie is not a hit).
        win_rates: how often the positive scores higher than one negative (the paper's Fig. 3).
        log_n: log N, N = candidates with the positive: the loss of a guess, and the ceiling of the bound.
    """

    losses: Tensor
    accuracies: Tensor
    win_rates: Tensor
    log_n: Tensor

    @property
    def bounds(self) -> Tensor:
        """Log N − L_k in nats: a lower bound on the mutual information, never above log N."""
        return self.log_n - self.losses.detach()


def infonce(z: Tensor, predictions: Tensor, negatives: Negatives) -> InfoNCE:
    """Score every step's predictions against the true latents and the negatives, in float32.

    Args:
        z: (B, T, D) latents.
        predictions: (K, B, T, D): [k − 1, b, t] predicts z[b, t + k], already divided by tau.
        negatives: the negatives of this batch.

    Returns:
        Per-step losses, accuracies and win rates.

    Raises:
        NegativesError: if a step has no anchor: every sequence is shorter than k + 1 frames.
    """
    num_steps, longest = len(predictions), max(negatives.num_frames)
    if num_steps >= longest:
        raise NegativesError(
            f"InfoNCE: step {longest} of {num_steps} has no anchor: the longest window has {longest} frames; "
            "use longer windows or fewer steps (--criterion.num-steps)"
        )
    with torch.autocast(z.device.type, enabled=False):  # scores overflow in half precision
        return InfoNCE(*_Blocks.apply(z.float(), predictions.float(), negatives))


def _block_scores(device: torch.device) -> int:
    """Scores held at once: on a CPU what its caches hold, elsewhere what fills the device."""
    return 2**19 if device.type == "cpu" else 2**26


class _Blocks(torch.autograd.Function):
    """All steps' InfoNCE with the gradient formed in the forward pass, block by block."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, predictions: Tensor, negatives: Negatives) -> tuple[Tensor, ...]:
        num_steps, _num_sequences, num_frames, dim = predictions.shape
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        latents = z.reshape(-1, dim)  # (B·T, D)
        d_latents = z.new_zeros(num_steps, len(latents), dim) if needs_grad else None
        d_predictions = torch.zeros_like(predictions.contiguous()) if needs_grad else None
        generator = negatives.generator(z.device)
        frame = torch.arange(num_frames, device=z.device)
        valid = frame < torch.tensor(negatives.num_frames, device=z.device)[:, None]  # (B, T)
        losses, hits, wins, log_n = z.new_zeros(4, num_steps)

        for step in range(1, num_steps + 1):
            k = step - 1
            predicted = predictions[k].reshape(-1, dim)  # (B·T, D)
            # Both b·T + t of an anchor and b·T + t + k of its positive index (B·T).
            is_anchor = torch.zeros_like(valid)
            is_anchor[:, :-step] = valid[:, step:]
            num_anchors = int(is_anchor.sum())
            for group in negatives.groups:
                rows = torch.tensor(group.anchors, device=z.device)
                anchors = (rows[:, None] * num_frames + frame)[is_anchor[rows]]  # (A,)
                if not len(anchors):
                    continue
                sources = torch.tensor(group.candidates, device=z.device)
                candidates = (sources[:, None] * num_frames + frame)[valid[sources]]  # (M,)
                contiguous = len(candidates) == len(latents)
                candidate_z = latents if contiguous else latents[candidates]  # (M, D)
                columns = torch.full((len(latents),), -1, device=z.device)
                columns[candidates] = torch.arange(len(candidates), device=z.device)

                d_candidate_z = torch.zeros_like(candidate_z) if needs_grad else None
                size = max(1, _block_scores(z.device) // len(candidates))
                for block in torch.split(anchors, size):
                    p, positives = predicted[block], block + step
                    out = _score_block(
                        p, candidate_z, latents[positives], columns[positives], group.includes_positive,
                        negatives.num_negatives, generator, d_candidate_z, num_anchors,
                    )  # fmt: skip
                    losses[k] += out.loss
                    hits[k] += out.hits
                    wins[k] += out.wins
                    log_n[k] += len(block) * torch.log1p(z.new_tensor(float(out.num_negatives)))
                    if d_predictions is not None and d_latents is not None and out.d_predictions is not None:
                        d_predictions[k].view(-1, dim)[block] = out.d_predictions
                        if out.d_positives is not None:
                            d_latents[k].index_add_(0, positives, out.d_positives)
                if d_latents is not None and d_candidate_z is not None:
                    if contiguous:
                        d_latents[k] += d_candidate_z
                    else:
                        d_latents[k].index_add_(0, candidates, d_candidate_z)
            for total in (losses, hits, wins, log_n):
                total[k] /= num_anchors

        if needs_grad:
            ctx.save_for_backward(d_latents, d_predictions)
        ctx.mark_non_differentiable(hits, wins, log_n)
        return losses, hits, wins, log_n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        d_latents, d_predictions = ctx.saved_tensors
        num_sequences, num_frames, dim = d_predictions.shape[1:]
        d_z = torch.einsum("k,knd->nd", d_losses, d_latents).view(num_sequences, num_frames, dim)
        return d_z, d_predictions * d_losses[:, None, None, None], None


class _Block(NamedTuple):
    """Sums over one block's anchors, and its share of the gradient of the step's mean loss."""

    loss: Tensor  # ()
    hits: Tensor  # ()
    wins: Tensor  # () sum of the anchors' win rates
    num_negatives: int
    d_predictions: Tensor | None  # (A, D)
    d_positives: Tensor | None  # (A, D), where the positives are not among the candidates


def _score_block(
    p: Tensor,
    candidate_z: Tensor,
    positive_z: Tensor,
    columns: Tensor,
    included: bool,
    num_drawn: int,
    generator: torch.Generator,
    d_candidate_z: Tensor | None,
    num_anchors: int,
) -> _Block:
    """Score A anchors against M candidates; add their part of the gradient to `d_candidate_z`.

    Args:
        p: (A, D) predictions.
        candidate_z: (M, D).
        positive_z: (A, D).
        columns: (A,) each positive's place among the candidates, or −1 throughout.
        included: whether the positives are among the candidates.
        num_drawn: negatives to draw per anchor; 0 takes all.
        generator: of the draw.
        d_candidate_z: (M, D) accumulator; None if no gradient is wanted.
        num_anchors: anchors of the step, over which its loss is a mean.
    """
    scores = p @ candidate_z.T  # (A, M)
    rows = columns[:, None]
    positive = scores.gather(1, rows) if included else (p * positive_z).sum(1, keepdim=True)  # (A, 1)
    if num_drawn:
        drawn = draw(columns, scores.shape[1], num_drawn, generator)
        others, apart = scores.gather(1, drawn), True  # the positive stands apart from its negatives
        num_negatives = num_drawn
    else:
        drawn, others, apart = None, scores, not included
        num_negatives = scores.shape[1] - included
    beaten = (others < positive).sum(1)  # the positive does not beat itself, so its own column never counts
    peak = torch.maximum(others.amax(1, keepdim=True), positive)
    weights = others.sub_(peak).exp_()  # (A, M or n), in place: the block is not needed again
    positive_weight = (positive - peak).exp_()
    total = weights.sum(1, keepdim=True)
    if apart:
        total += positive_weight
    loss = (total.log() + peak - positive).sum()
    hits, wins = (beaten == num_negatives).sum(), beaten.sum() / num_negatives
    if d_candidate_z is None:
        return _Block(loss, hits, wins, num_negatives, None, None)

    weights /= total * num_anchors  # dL/ds of the negatives: softmax over the candidates, over the mean's divisor
    if drawn is not None:
        weights = torch.zeros_like(scores).scatter_add_(1, drawn, weights)
    d_positive_score = torch.full_like(positive, -1 / num_anchors)  # (A, 1)
    if apart:
        d_positive_score += positive_weight / (total * num_anchors)
    d_positives = None
    if included:  # as one more entry of the score matrix
        weights.scatter_add_(1, rows, d_positive_score)
        d_predictions = weights @ candidate_z
    else:
        d_predictions = torch.addcmul(weights @ candidate_z, positive_z, d_positive_score)
        d_positives = p * d_positive_score
    d_candidate_z.addmm_(weights.T, p)
    return _Block(loss, hits, wins, num_negatives, d_predictions, d_positives)
