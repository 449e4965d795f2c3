"""InfoNCE for pairs of embeddings.

    info_nce    one positive for each query; negatives from the batch, shared by all queries, or separate for each

Scores are cosines or dot products, divided by the temperature, in float32 or float64. With `chunk_size`, only that many
rows are scored at a time and their scores are recomputed in the backward pass, so memory is linear in the number of
embeddings N; without it, all N × N scores are kept.

Reductions: "none" returns one loss per row, (N,); "sum" adds them; "mean" divides the sum by the number of terms. With
`gather`, each rank scores its own rows against those of all ranks. "mean" then divides this rank's sum by the mean
number of terms per rank, so that averaging over the ranks (as DistributedDataParallel averages gradients) gives the
loss and the gradients of a single process with all rows in rank order. With "sum", add the ranks' results.

These conventions also hold for the losses in `labelled`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cpc.losses.embeddings import (
    EmbeddingError,
    Reduction,
    Similarity,
    by_blocks,
    check_option,
    check_scoring,
    check_shape,
    embeddings_of,
    gathered,
    reduce_losses,
    softplus,
    world_size,
)

NegativeMode = Literal["unpaired", "paired"]
Positives = Literal["each", "first"]


# The signature has ten arguments because the first seven are those of info-nce-pytorch, in its order: existing calls of
# that function keep working.
def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    symmetric: bool = False,
    negative_mode: NegativeMode = "unpaired",
    reduction: Reduction = "mean",
    *,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
    gather: bool = False,
) -> Tensor:
    """Compute the negative log softmax of the positive's score among all candidates of each query.

    Args:
        query: (N, D).
        positive: (N, D); row i belongs to query i.
        negatives: (M, D) with "unpaired": shared by all queries. (N, M, D) with "paired": row i belongs to query i.
            With None, each query's negatives are the positives of the other queries.
        temperature: divides the scores; above 0. It may be a learned tensor ().
        symmetric: CLIP's form: average the directions query → positive and positive → query.
        negative_mode: the form of `negatives`.
        reduction: see the module's docstring; each query is one term.
        similarity: score of two embeddings.
        chunk_size: number of queries to score at a time; None scores all at once.
        gather: use the positives of the other ranks as negatives too; all ranks need equally many rows.

    Returns:
        Nats: () or, with reduction "none", (N,).

    Raises:
        EmbeddingError: an argument is out of range, empty or not finite, or has length 0 under a cosine.

    Source: van den Oord et al. 2018, equation 4; symmetric: Radford et al. 2021, Fig. 3.
    """
    check_scoring(temperature, similarity, chunk_size)
    check_option("reduction", reduction, Reduction)
    check_option("negative_mode", negative_mode, NegativeMode)
    if negatives is not None and (symmetric or gather):
        name = "symmetric" if symmetric else "gather"
        raise EmbeddingError(f"{name}: got True together with negatives, expected negatives=None (those of the batch)")
    with torch.autocast(query.device.type, enabled=False):
        query = embeddings_of("query", query, similarity)
        positive = embeddings_of("positive", positive, similarity).to(query.dtype)
        check_shape("positive", positive, tuple(query.shape), "as query")
        scaled = query / temperature
        if negatives is not None:
            negatives = _checked_negatives(query, negatives, negative_mode, similarity)
            losses = _against_given(scaled, positive, negatives, chunk_size)
        else:
            losses = _against_batch(scaled, positive, chunk_size, gather)
            if symmetric:
                losses = (losses + _against_batch(positive / temperature, query, chunk_size, gather)) / 2
    return reduce_losses(losses, reduction, len(losses) * world_size(gather), gather)


def info_nce_logits(
    features: Tensor,
    n_views: int = 2,
    temperature: float | Tensor = 0.1,
    *,
    similarity: Similarity = "cosine",
    positives: Positives = "each",
) -> tuple[Tensor, Tensor]:
    """Return SimCLR's logits and labels for any number of views: `F.cross_entropy(*info_nce_logits(features))`.

    With positives="each", every ordered pair of views of one item is a row: first the pair's score, then the anchor's
    scores with all views of the other items. The cross-entropy is `nt_xent` with the items as labels. With
    positives="first", every view is a row: first its scores with the other views of its item, then those with all views
    of the other items. Only the first of these positives is the target; the others count as negatives. This is what a
    widely copied implementation for two views does with more views. With two views both are SimCLR's loss; with V = 3
    views of N = 5 items the logits are (30, 13) and (15, 14).

    An example with three views of two items, where the first item's first view has a score of 2 with its second view,
    1 with its third, and 0 with the other item's views:

        >>> views = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> each, labels = info_nce_logits(views, 3, 1.0, similarity="dot", positives="each")
        >>> each[:2].tolist()  # losses -log e²/(e² + 3) = 0.3408 and -log e/(e + 3) = 0.7437
        [[2.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
        >>> F.cross_entropy(each[:2], labels[:2], reduction="none")
        tensor([0.3408, 0.7437])
        >>> first, labels = info_nce_logits(views, 3, 1.0, similarity="dot", positives="first")
        >>> first[0].tolist()  # loss -log e²/(e² + e + 3) = 0.5732
        [2.0, 1.0, 0.0, 0.0, 0.0]
        >>> F.cross_entropy(first[:1], labels[:1], reduction="none")
        tensor([0.5732])

    Args:
        features: (V · N, D): the first view of all N items, then the second of all, as `torch.cat([view_1, view_2])`.
        n_views: V, at least 2.
        temperature: divides the scores; above 0.
        similarity: score of two embeddings.
        positives: see above.

    Returns:
        Logits (V · N · (V − 1), 1 + V · (N − 1)) with "each", (V · N, V · N − 1) with "first"; labels, all 0.

    Raises:
        EmbeddingError: see `info_nce`; or the number of rows is not a multiple of n_views.

    Source: Chen et al. 2020, equation 1.
    """
    check_scoring(temperature, similarity)
    check_option("positives", positives, Positives)
    with torch.autocast(features.device.type, enabled=False):
        features = embeddings_of("features", features, similarity)
        rows = len(features)
        if n_views < 2 or rows % n_views:
            raise EmbeddingError(f"n_views: got {n_views}, expected at least 2 and a divisor of the {rows} rows")
        scores = features / temperature @ features.T
        same, other = _views_of_same_and_other_items(scores, n_views)
        if positives == "each":
            same, other = same.view(-1, 1), other.repeat_interleave(n_views - 1, 0)
        logits = torch.cat([same, other], 1)
    return logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device)


def _views_of_same_and_other_items(scores: Tensor, n_views: int) -> tuple[Tensor, Tensor]:
    """Split scores (V · N, V · N) into (V · N, V − 1) and (V · N, V · (N − 1)), without the diagonal."""
    item = torch.arange(len(scores) // n_views, device=scores.device).repeat(n_views)
    same = item[:, None] == item
    is_self = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores[same & ~is_self].view(len(scores), -1), scores[~same].view(len(scores), -1)


class Bound(NamedTuple):
    """A lower bound on the mutual information, and the largest value that it can take, in nats."""

    value: Tensor
    ceiling: float


def mutual_information_bound(loss: Tensor | float, num_candidates: int) -> Bound:
    """Compute log N − L, a lower bound on I(x; c) if the negatives are drawn from p(x).

    Args:
        loss: InfoNCE in nats, averaged over queries, of any critic.
        num_candidates: N, including the positive.

    Returns:
        log N − L, and its ceiling log N, since L is never below 0: showing I nats takes at least e^I candidates.

    Raises:
        EmbeddingError: the loss is negative or not finite, or there is no candidate.

    Source: van den Oord et al. 2018, section 2.3 and appendix.
    """
    loss = torch.as_tensor(loss).detach()
    if not bool((loss.isfinite() & (loss >= 0)).all()):
        raise EmbeddingError(f"loss: got {loss.min().item()}, expected finite values of at least 0")
    if num_candidates < 1:
        raise EmbeddingError(f"num_candidates: got {num_candidates}, expected at least 1")
    return Bound(math.log(num_candidates) - loss, math.log(num_candidates))


def _checked_negatives(query: Tensor, negatives: Tensor, mode: NegativeMode, similarity: Similarity) -> Tensor:
    """Check the negatives (M, D) or (N, M, D) against the queries (N, D), and prepare them."""
    negatives = embeddings_of("negatives", negatives, similarity, ndim=3 if mode == "paired" else 2).to(query.dtype)
    shape = (len(query), negatives.shape[1]) if mode == "paired" else (len(negatives),)
    check_shape("negatives", negatives, (*shape, query.shape[1]), f"as query {tuple(query.shape)}")
    return negatives


def _against_batch(query: Tensor, positive: Tensor, chunk_size: int | None, gather: bool) -> Tensor:
    """Compute the losses (N,) of queries that are divided by the temperature, against the other positives."""
    keys, first = gathered(positive) if gather else (positive, 0)

    def losses_of(rows: Tensor, place: Tensor, keys: Tensor) -> Tensor:
        return F.cross_entropy(rows @ keys.T, place, reduction="none")

    place = torch.arange(first, first + len(query), device=query.device)
    return by_blocks(losses_of, (query, place), (keys,), chunk_size)


def _against_given(query: Tensor, positive: Tensor, negatives: Tensor, chunk_size: int | None) -> Tensor:
    """Compute the losses (N,) of queries that are divided by the temperature, against (M, D) or (N, M, D)."""
    paired = negatives.ndim == 3

    def losses_of(rows: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        scores = torch.einsum("nd,nmd->nm", rows, negatives) if paired else rows @ negatives.T
        # Subtract before the log-sum-exp: after it, a large offset that all scores share would cost the difference.
        return softplus((scores - (rows * positive).sum(1, keepdim=True)).logsumexp(1))

    if paired:
        return by_blocks(losses_of, (query, positive, negatives), (), chunk_size)
    return by_blocks(losses_of, (query, positive), (negatives,), chunk_size)
