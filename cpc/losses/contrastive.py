"""InfoNCE's family: the losses for embeddings that CPC is compared with.

    info_nce    one positive a query; negatives from the batch, given for all, or given per query; CLIP's with symmetric
    nt_xent     labels; each anchor–positive pair is a term of its own: − log( e^p / (e^p + Σ_negatives e^n) )
    sup_con     labels; each anchor is a term: the mean over its positives of − log( e^p / Σ_others e^s )

Scores s are cosines, or dot products, over the temperature, always in float32 or better. With `chunk_size`, so many
rows are scored at a time, and their scores are formed anew in the backward pass: memory is linear in the number of
embeddings N. Without it the N × N scores are kept.

Reductions: "none" has a loss for each row, (N,); "sum" adds them; "mean" divides the sum by the number of terms.
With `gather` each rank scores its own rows against those of all ranks. "mean" is then this rank's sum over the number
of terms that a rank has on average: averaged over the ranks, losses and gradients (as DistributedDataParallel does)
are those of one process with all rows in rank order. Of "sum" the sums over the ranks are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cpc.losses.embeddings import (
    EmbeddingError,
    Similarity,
    by_blocks,
    check_option,
    check_scoring,
    check_shape,
    embeddings_of,
    gathered,
    world_size,
)

Reduction = Literal["mean", "sum", "none"]
NegativeMode = Literal["unpaired", "paired"]

# Behind it log(1 + e^x) is x in any precision.
_SOFTPLUS_IS_LINEAR = 50


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
    """Pick each query's positive out of the candidates: − log softmax of its score.

    Args:
        query: (N, D).
        positive: (N, D), row i belongs to query i.
        negatives: None: the positives of the other queries. (M, D) with "unpaired": the same for all queries.
            (N, M, D) with "paired": row i for query i.
        temperature: scores are divided by it; above 0. A tensor () is learned.
        symmetric: CLIP's form: the mean of both directions, query → positive and positive → query.
        negative_mode: what the rows of `negatives` are.
        reduction: see the module; a term a query.
        similarity: of two embeddings.
        chunk_size: queries scored at a time; None: all.
        gather: also take the positives of the other ranks for negatives; every rank needs as many rows.

    Returns:
        In nats: () or, with reduction "none", (N,).

    Raises:
        EmbeddingError: if an argument is out of its range, empty, not finite, or of length 0 under a cosine.

    Source: van den Oord et al. 2018, equation 4; symmetric: Radford et al. 2021, Fig. 3.
    """
    check_scoring(temperature, similarity, chunk_size)
    check_option("reduction", reduction, Reduction)
    check_option("negative_mode", negative_mode, NegativeMode)
    if negatives is not None and (symmetric or gather):
        name = "symmetric" if symmetric else "gather"
        raise EmbeddingError(f"{name}: got True with negatives given, allowed with negatives=None: the batch's own")
    with torch.autocast(query.device.type, enabled=False):
        query = embeddings_of("query", query, similarity)
        positive = embeddings_of("positive", positive, similarity).to(query.dtype)
        check_shape("positive", positive, tuple(query.shape), "as query")
        scaled = query / temperature
        if negatives is None:
            losses = _in_batch(scaled, positive, chunk_size, gather)
            if symmetric:
                losses = (losses + _in_batch(positive / temperature, query, chunk_size, gather)) / 2
        else:
            paired = negative_mode == "paired"
            negatives = embeddings_of("negatives", negatives, similarity, ndim=3 if paired else 2).to(query.dtype)
            shape = (len(query), negatives.shape[1]) if paired else (len(negatives),)
            check_shape("negatives", negatives, (*shape, query.shape[1]), f"as query {tuple(query.shape)}")
            losses = _given(scaled, positive, negatives, chunk_size)
    return _reduce(losses, reduction, len(losses) * world_size(gather), gather)


def info_nce_logits(
    features: Tensor, n_views: int = 2, temperature: float | Tensor = 0.1, *, similarity: Similarity = "cosine"
) -> tuple[Tensor, Tensor]:
    """SimCLR's form, for any number of views: `F.cross_entropy(*info_nce_logits(features))`.

    Every ordered pair of views of one item is a row: the pair's score first, then those of the anchor with all views of
    the other items. The anchor itself is in no row, nor are further views of its item. So the cross-entropy is
    `nt_xent` with the items for labels; with two views it is SimCLR's, and a row has all 2N − 1 others.

    Args:
        features: (V · N, D): the first view of all N items, then the second of all, as `torch.cat([view_1, view_2])`.
        n_views: V, two or more.
        temperature: scores are divided by it; above 0.
        similarity: of two embeddings.

    Returns:
        Logits (V · N · (V − 1), 1 + V · (N − 1)) and labels, all 0.

    Raises:
        EmbeddingError: as info_nce; and if the rows are no multiple of n_views.

    Source: Chen et al. 2020, equation 1.
    """
    check_scoring(temperature, similarity)
    with torch.autocast(features.device.type, enabled=False):
        features = embeddings_of("features", features, similarity)
        rows = len(features)
        if n_views < 2 or rows % n_views:
            raise EmbeddingError(
                f"n_views: got {n_views}, expected two or more that divide the {rows} rows of features"
            )
        scores = features / temperature @ features.T
        item = torch.arange(rows // n_views, device=features.device).repeat(n_views)
        same = item[:, None] == item
        anchor, partner = (same & ~torch.eye(rows, dtype=torch.bool, device=same.device)).nonzero(as_tuple=True)
        negatives = scores[~same].view(rows, -1)
        logits = torch.cat([scores[anchor, partner, None], negatives[anchor]], 1)
    return logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device)


def nt_xent(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    *,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
    gather: bool = False,
) -> Tensor:
    """Normalised-temperature cross-entropy: every anchor–positive pair is a term: that positive against all negatives.

    An anchor's positives are the other rows of its label, its negatives the rows of other labels. The other positives
    are not in a term's denominator, so they do not push each other away: that is the difference from `sup_con`.
    An anchor and three points: positives of score 2 and 1, and a negative of score 0.

        nt_xent, the two terms:  − log( e² / (e² + e⁰) ) = 0.1269,  − log( e¹ / (e¹ + e⁰) ) = 0.3133
        sup_con, one term:       ½ [ − log( e² / (e² + e¹ + e⁰) ) − log( e¹ / (e² + e¹ + e⁰) ) ] = ½ [ 0.4076 + 1.4076 ]

        >>> anchor_and_three = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> options = {"temperature": 1.0, "similarity": "dot", "reduction": "none"}
        >>> round(nt_xent(anchor_and_three, labels, **options)[0].item(), 4)  # 0.1269 + 0.3133
        0.4402
        >>> round(sup_con(anchor_and_three, labels, **options)[0].item(), 4)  # (0.4076 + 1.4076) / 2
        0.9076

    Args:
        embeddings: (N, D).
        labels: (N,) integers.
        temperature: scores are divided by it; above 0. A tensor () is learned.
        reduction: see the module; a term an ordered pair; "none" has the sum of each anchor's terms.
        similarity: of two embeddings.
        chunk_size: anchors scored at a time; None: all.
        gather: score against the rows of all ranks.

    Returns:
        In nats: () or, with reduction "none", (N,). 0 without any positive pair, and, as in
        pytorch-metric-learning, without any negative: with one label there is nothing to tell apart.

    Raises:
        EmbeddingError: as info_nce; and if labels are no integers.

    Source: Sohn 2016; Chen et al. 2020, equation 1.
    """

    def losses_of(scores: Tensor, is_self: Tensor, is_same: Tensor) -> Tensor:
        negatives = scores.masked_fill(is_same, -torch.inf).logsumexp(1, keepdim=True)
        terms = F.softplus(negatives - scores, threshold=_SOFTPLUS_IS_LINEAR)
        return terms.masked_fill(~is_same | is_self, 0).sum(1)

    check_option("reduction", reduction, Reduction)
    losses, counts = _labelled(embeddings, labels, temperature, similarity, chunk_size, gather, losses_of)
    return _reduce(losses, reduction, int((counts * (counts - 1)).sum()), gather)


def sup_con(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    *,
    similarity: Similarity = "cosine",
    chunk_size: int | None = None,
    gather: bool = False,
) -> Tensor:
    """Supervised contrastive loss: an anchor's mean, over its positives, of − log of the share among all others.

    All others stand in every denominator, the other positives too; `nt_xent` has an example of the difference.

    Args:
        embeddings: (N, D).
        labels: (N,) integers.
        temperature: scores are divided by it; above 0. A tensor () is learned.
        reduction: see the module; a term an anchor that has a positive; the others' loss is 0.
        similarity: of two embeddings.
        chunk_size: anchors scored at a time; None: all.
        gather: score against the rows of all ranks.

    Returns:
        In nats: () or, with reduction "none", (N,). 0 without any positive pair, and, as in
        pytorch-metric-learning, without any negative: with one label there is nothing to tell apart.

    Raises:
        EmbeddingError: as info_nce; and if labels are no integers.

    Source: Khosla et al. 2020, equation 2 (L_out), without a further factor of the temperature.
    """

    def losses_of(scores: Tensor, is_self: Tensor, is_same: Tensor) -> Tensor:
        is_positive = is_same & ~is_self
        count = is_positive.sum(1)
        mean = scores.masked_fill(~is_positive, 0).sum(1) / count.clamp(min=1)
        return (scores.masked_fill(is_self, -torch.inf).logsumexp(1) - mean).masked_fill(count == 0, 0)

    check_option("reduction", reduction, Reduction)
    losses, counts = _labelled(embeddings, labels, temperature, similarity, chunk_size, gather, losses_of)
    return _reduce(losses, reduction, int(counts[counts > 1].sum()), gather)


class Bound(NamedTuple):
    """A lower bound on the mutual information, and what it cannot exceed, in nats."""

    value: Tensor
    ceiling: float


def mutual_information_bound(loss: Tensor | float, num_candidates: int) -> Bound:
    """I(x; c) ≥ log N − L, for negatives that are drawn from p(x).

    Args:
        loss: InfoNCE in nats, a mean over queries; of any critic.
        num_candidates: N, with the positive.

    Returns:
        log N − L, and its ceiling log N, as L is never below 0: to show I nats takes more than e^I candidates.

    Raises:
        EmbeddingError: if the loss is below 0 or not finite, or there is no candidate.

    Source: van den Oord et al. 2018, section 2.3 and appendix.
    """
    loss = torch.as_tensor(loss).detach()
    if not bool((loss.isfinite() & (loss >= 0)).all()):
        raise EmbeddingError(f"loss: got {loss.min().item()}, expected finite values of 0 or more")
    if num_candidates < 1:
        raise EmbeddingError(f"num_candidates: got {num_candidates}, expected 1 or more")
    return Bound(math.log(num_candidates) - loss, math.log(num_candidates))


# --- what they share


def _in_batch(query: Tensor, positive: Tensor, chunk_size: int | None, gather: bool) -> Tensor:
    """(N,) losses of queries, over the temperature already, whose negatives are the other positives."""
    keys, first = gathered(positive) if gather else (positive, 0)

    def losses_of(rows: Tensor, place: Tensor, keys: Tensor) -> Tensor:
        return F.cross_entropy(rows @ keys.T, place, reduction="none")

    place = torch.arange(first, first + len(query), device=query.device)
    return by_blocks(losses_of, (query, place), (keys,), chunk_size)


def _given(query: Tensor, positive: Tensor, negatives: Tensor, chunk_size: int | None) -> Tensor:
    """(N,) losses of queries, over the temperature already, with negatives (M, D) or (N, M, D)."""
    paired = negatives.ndim == 3

    def losses_of(rows: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        scores = torch.einsum("nd,nmd->nm", rows, negatives) if paired else rows @ negatives.T
        excess = scores.logsumexp(1) - (rows * positive).sum(1)
        return F.softplus(excess, threshold=_SOFTPLUS_IS_LINEAR)

    if paired:
        return by_blocks(losses_of, (query, positive, negatives), (), chunk_size)
    return by_blocks(losses_of, (query, positive), (negatives,), chunk_size)


def _labelled(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    similarity: Similarity,
    chunk_size: int | None,
    gather: bool,
    losses_of: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Losses (N,) of rows with labels, and how many rows each label has, over all ranks.

    `losses_of` makes (A,) losses from scores (A, N), which of them are the anchors', and which have their label.
    """
    check_scoring(temperature, similarity, chunk_size)
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings_of("embeddings", embeddings, similarity)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise EmbeddingError(f"labels: got {labels.dtype}, expected integers, as torch.int64")
        check_shape("labels", labels, (len(embeddings),), "one a row of embeddings")
        keys, first = gathered(embeddings) if gather else (embeddings, 0)
        key_labels = gathered(labels)[0] if gather else labels
        key_place = torch.arange(len(keys), device=keys.device)
        place = key_place[first : first + len(embeddings)]

        def block(rows: Tensor, own: Tensor, place: Tensor, keys: Tensor) -> Tensor:
            return losses_of(rows @ keys.T, place[:, None] == key_place, own[:, None] == key_labels)

        _, counts = torch.unique(key_labels, return_counts=True)
        if len(counts) == 1:
            return keys[place, :0].sum(1), counts  # zeros through which every rank can go back
        return by_blocks(block, (embeddings / temperature, labels, place), (keys,), chunk_size), counts


def _reduce(losses: Tensor, reduction: Reduction, num_terms: int, gather: bool) -> Tensor:
    """Over this rank's rows; of "mean" its share times the number of ranks, so that the ranks' average is the mean."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total * (world_size(gather) / max(num_terms, 1))
