"""InfoNCE: how well the prediction of step k picks the true z_{t+k} out of N candidates.

    L_k = − mean over anchors of log( exp(s⁺) / (exp(s⁺) + Σ_negatives exp(s⁻)) ),   s = z_{t'}ᵀ W_k c_t / tau

Every candidate of an anchor is scored by matrix products in blocks that are never kept: exact, with all the negatives
that the scheme admits, and about ten times faster than gathering a few of them. Where negatives are drawn,
the drawn scores are picked out of the block. The gradient is formed in the same pass, block by block, so memory
does not grow with the number of negatives.

Source: van den Oord et al. 2018, equations 3 and 4; the bound I(x_{t+k}; c_t) ≥ log N − L_k, section 2.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpc.infonce.negatives import Negatives, NegativesError, draw


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
    # Scores would overflow or lose the positive in half precision. Gradients are returned in the type of the inputs, so
    # their products need no more than its precision.
    dtype = torch.bfloat16 if z.dtype == predictions.dtype == torch.bfloat16 else torch.float32
    with torch.autocast(z.device.type, enabled=False):
        return InfoNCE(*_Blocks.apply(z.float(), predictions.float(), negatives, dtype))


def _block_scores(device: torch.device) -> int:
    """Scores held at once: on a CPU what its caches hold, elsewhere what fills the device."""
    return 2**19 if device.type == "cpu" else 2**26


class _Blocks(torch.autograd.Function):
    """All steps' InfoNCE with the gradient formed in the forward pass, block by block."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, predictions: Tensor, negatives: Negatives, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        num_steps, _num_sequences, num_frames, _dim = predictions.shape
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_z = torch.zeros_like(predictions) if needs_grad else None  # (K, B, T, D): each step's share
        d_predictions = torch.zeros_like(predictions) if needs_grad else None
        generator = negatives.generator(z.device)
        is_ragged = min(negatives.num_frames) < num_frames
        some_excluded = is_ragged or negatives.excludes_utterance
        losses, hits, wins, log_n = z.new_zeros(4, num_steps)

        for stack in _stacks(negatives, num_frames, z.device):
            rows, allowed = torch.tensor(stack, device=z.device), None  # (G, R)
            if some_excluded:  # which of the R · T candidates the anchors of each row have: (G, R, R · T)
                allowed = torch.stack([negatives.admitted(group, num_frames) for group in stack]).to(z.device)
            z_rows = z[rows]  # (G, R, T, D)
            candidates = z_rows.flatten(1, 2)  # (G, M, D), M = R · T
            # A row of dL/ds sums to 0, so the gradient of a prediction sees differences of latents alone. Rounded to
            # bf16 the sum is not quite 0, and a mean that all latents share, as after ReLU, would leak into it.
            centred = candidates
            if dtype != torch.float32:
                centred = (candidates - candidates.mean(1, keepdim=True)).to(dtype)
            valid = torch.tensor(negatives.num_frames, device=z.device)[rows]  # (G, R)
            for step in range(1, num_steps + 1):
                k, length = step - 1, num_frames - step
                frame = torch.arange(length, device=z.device)
                anchor_row = torch.arange(rows.shape[1], device=z.device).repeat_interleave(length)  # (A,)
                positives = anchor_row * num_frames + frame.repeat(rows.shape[1]) + step  # (A,) among the candidates
                is_anchor = (frame + step < valid[:, :, None]).flatten(1)  # (G, A)
                num_anchors = sum(max(0, n - step) for n in negatives.num_frames)
                p = predictions[k, rows, :length].flatten(1, 2)  # (G, A, D)
                d_p, d_candidates = torch.empty_like(p), torch.zeros_like(candidates)
                size = max(1, _block_scores(z.device) // (rows.shape[0] * candidates.shape[1]))
                for first in range(0, p.shape[1], size):
                    block = slice(first, first + size)
                    out = _score_block(
                        p[:, block], candidates, centred, positives[block],
                        allowed=None if allowed is None else allowed[:, anchor_row[block]],
                        is_anchor=is_anchor[:, block] if is_ragged else None,
                        included=not negatives.excludes_utterance,
                        num_drawn=negatives.num_negatives, generator=generator,
                        gradients=(d_p[:, block], d_candidates) if needs_grad else None, num_anchors=num_anchors,
                        dtype=dtype,
                    )  # fmt: skip
                    for total, value in zip((losses, hits, wins, log_n), out, strict=True):
                        total[k] += value / num_anchors
                if d_z is not None and d_predictions is not None:
                    d_predictions[k, rows, :length] = d_p.view(*rows.shape, length, -1)
                    d_z[k, rows] = d_candidates.view(z_rows.shape)

        if needs_grad:
            ctx.save_for_backward(d_z, d_predictions)
        ctx.mark_non_differentiable(hits, wins, log_n)
        return losses, hits, wins, log_n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_losses: Tensor, *_: Any) -> tuple[Tensor, Tensor, None, None]:
        d_z, d_predictions = ctx.saved_tensors
        weights = d_losses[:, None, None, None]
        return torch.tensordot(d_losses, d_z, 1), d_predictions * weights, None, None


def _stacks(negatives: Negatives, num_frames: int, device: torch.device) -> Iterator[list[list[int]]]:
    """Groups of as many sequences each, to go side by side in one product: as many as a block may hold."""
    by_size: dict[int, list[list[int]]] = {}
    for group in negatives.groups:
        by_size.setdefault(len(group), []).append(group)
    for size, groups in by_size.items():
        at_once = max(1, _block_scores(device) // (size * num_frames) ** 2)
        for first in range(0, len(groups), at_once):
            yield groups[first : first + at_once]


def _score_block(
    p: Tensor,
    candidates: Tensor,
    centred: Tensor,
    positives: Tensor,
    *,
    allowed: Tensor | None,
    is_anchor: Tensor | None,
    included: bool,
    num_drawn: int,
    generator: torch.Generator,
    gradients: tuple[Tensor, Tensor] | None,
    num_anchors: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score A anchors of each of G groups against its M candidates.

    Args:
        p: (G, A, D) predictions.
        candidates: (G, M, D) latents.
        centred: (G, M, D) the same, but for a constant, for the gradient of p; in `dtype`.
        positives: (A,) each positive's place in `candidates`.
        allowed: (G, A, M) which candidates count; None: all of them.
        is_anchor: (G, A) false where the anchor or its positive is padding; None: true throughout.
        included: whether the positives are allowed.
        num_drawn: negatives to draw per anchor; 0 takes all.
        generator: of the draw.
        gradients: of the step's mean loss: with respect to p, to be written, and to candidates, to be added to; None
            if none is wanted.
        num_anchors: anchors of the step, over which its loss is a mean.
        dtype: of the products that form the gradients.

    Returns:
        Sums over the anchors of loss, top-1 hits, win rates and log N.
    """
    with _exact_bf16_products(p.device, dtype):
        scores = p @ candidates.transpose(1, 2)  # (G, A, M)
    places = positives.expand(len(p), -1).unsqueeze(2)  # (G, A, 1)
    positive = scores.gather(2, places)
    num_candidates = scores.shape[2] if allowed is None else allowed.sum(2, keepdim=True)  # () or (G, A, 1)
    num_negatives: int | Tensor
    drawn = None
    if num_drawn:
        drawn = _draw(places, allowed, scores.shape, included, num_drawn, generator)
        others, num_negatives = scores.gather(2, drawn), num_drawn
        beaten = (others < positive).sum(2, keepdim=True)
    else:
        others, num_negatives = scores, num_candidates - int(included)
        beaten = others < positive  # the positive does not beat itself, so its own column never counts
        beaten = (beaten if allowed is None else beaten & allowed).sum(2, keepdim=True)
        if allowed is not None:
            others.masked_fill_(~allowed, -torch.inf)
    apart = bool(num_drawn) or not included  # the positive is not one of `others`
    peak = torch.maximum(others.amax(2, keepdim=True), positive)
    weights = others.sub_(peak).exp_()  # (G, A, M or n), in place: the block is not needed again
    positive_weight = (positive - peak).exp_()
    total = weights.sum(2, keepdim=True)
    if apart:
        total += positive_weight
    loss = total.log() + peak - positive
    hits = beaten == num_negatives
    wins = beaten / num_negatives
    log_n = torch.log1p(torch.as_tensor(num_negatives, dtype=torch.float32, device=p.device)).expand_as(loss)
    per_anchor = [loss, hits, wins, log_n]
    if is_anchor is not None:
        per_anchor = [x.masked_fill(~is_anchor[:, :, None], 0) for x in per_anchor]
    sums = [x.sum() for x in per_anchor]
    if gradients is not None:
        # dL/ds is softmax − one-hot over num_anchors: here times `total`, which the rows of the products get back.
        if drawn is not None:
            weights = torch.zeros_like(scores).scatter_add_(2, drawn, weights)
        weights.scatter_add_(2, places, positive_weight - total if apart else -total)
        scale = 1 / (total * num_anchors)
        if is_anchor is not None:
            weights.masked_fill_(~is_anchor[:, :, None], 0)
            scale.masked_fill_(~is_anchor[:, :, None], 0)
        weights = weights.to(dtype)
        d_p, d_candidates = gradients
        torch.mul(weights @ centred, scale, out=d_p)
        d_candidates += weights.transpose(1, 2) @ (p * scale).to(dtype)
    return sums[0], sums[1], sums[2], sums[3]


@contextmanager
def _exact_bf16_products(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Let a CPU multiply float32 that came from bfloat16 by its bfloat16 units; sums and results stay float32."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _draw(
    places: Tensor, allowed: Tensor | None, shape: torch.Size, included: bool, n: int, generator: torch.Generator
) -> Tensor:
    """Places (G, A, n) of drawn negatives among all M candidates, by drawing among those that are allowed."""
    if allowed is None:
        return draw(places, torch.full_like(places, shape[2]), n, generator)
    order = allowed.int().argsort(dim=2, descending=True, stable=True)  # the allowed ones first
    ranks = allowed.cumsum(2).gather(2, places) - 1 if included else torch.full_like(places, -1)
    return order.gather(2, draw(ranks, allowed.sum(2, keepdim=True), n, generator))
