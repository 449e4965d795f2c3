"""Contrastive losses for embeddings with labels, whose positives are the other rows of the same label.

    nt_xent     each anchor–positive pair is a term: − log( e^p / (e^p + Σ_negatives e^n) )
    sup_con     each anchor is a term: the mean over its positives of − log( e^p / Σ_others e^s )

Scores, `chunk_size`, `reduction` and `gather` are those of `contrastive`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
)


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
    """Compute the normalised-temperature cross-entropy: each pair's positive competes with the anchor's negatives.

    An anchor's positives are the other rows of its label; its negatives are the rows of other labels. A term's
    denominator leaves out the other positives, so positives do not repel each other, unlike in `sup_con`. An example
    with an anchor, positives of score 2 and 1, and a negative of score 0:

        nt_xent, two terms:  − log( e² / (e² + e⁰) ) = 0.1269,  − log( e¹ / (e¹ + e⁰) ) = 0.3133
        sup_con, one term:   ½ [ − log( e² / (e² + e¹ + e⁰) ) − log( e¹ / (e² + e¹ + e⁰) ) ] = ½ [ 0.4076 + 1.4076 ]

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
        temperature: divides the scores; above 0. It may be a learned tensor ().
        reduction: each ordered pair is one term; "none" returns the sum of each anchor's terms.
        similarity: score of two embeddings.
        chunk_size: number of anchors to score at a time; None scores all at once.
        gather: score against the rows of all ranks.

    Returns:
        Nats: () or, with reduction "none", (N,). The loss is 0 if there is no positive pair, and, as in
        pytorch-metric-learning, if there is no negative.

    Raises:
        EmbeddingError: see `info_nce`; or the labels are not integers.

    Source: Sohn 2016; Chen et al. 2020, equation 1.
    """

    def losses_of(scores: Tensor, is_self: Tensor, is_same: Tensor) -> Tensor:
        scores = _relative(scores, is_same)
        negatives = scores.masked_fill(is_same, -torch.inf).logsumexp(1, keepdim=True)
        return softplus(negatives - scores).masked_fill(~is_same | is_self, 0).sum(1)

    check_option("reduction", reduction, Reduction)
    losses, counts = _labelled(embeddings, labels, temperature, similarity, chunk_size, gather, losses_of)
    return reduce_losses(losses, reduction, int((counts * (counts - 1)).sum()), gather)


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
    """Compute the supervised contrastive loss: each positive competes with all other rows, averaged over positives.

    Every denominator also contains the other positives; `nt_xent` has an example of the difference.

    Args:
        embeddings: (N, D).
        labels: (N,) integers.
        temperature: divides the scores; above 0. It may be a learned tensor ().
        reduction: each anchor with a positive is one term; the loss of other anchors is 0.
        similarity: score of two embeddings.
        chunk_size: number of anchors to score at a time; None scores all at once.
        gather: score against the rows of all ranks.

    Returns:
        Nats: () or, with reduction "none", (N,). The loss is 0 if there is no positive pair, and, as in
        pytorch-metric-learning, if there is no negative.

    Raises:
        EmbeddingError: see `info_nce`; or the labels are not integers.

    Source: Khosla et al. 2020, equation 2 (L_out), without its additional factor of the temperature.
    """

    def losses_of(scores: Tensor, is_self: Tensor, is_same: Tensor) -> Tensor:
        scores = _relative(scores, is_self)
        is_positive = is_same & ~is_self
        count = is_positive.sum(1)
        mean = scores.masked_fill(~is_positive, 0).sum(1) / count.clamp(min=1)
        return (scores.masked_fill(is_self, -torch.inf).logsumexp(1) - mean).masked_fill(count == 0, 0)

    check_option("reduction", reduction, Reduction)
    losses, counts = _labelled(embeddings, labels, temperature, similarity, chunk_size, gather, losses_of)
    return reduce_losses(losses, reduction, int(counts[counts > 1].sum()), gather)


def _relative(scores: Tensor, left_out: Tensor) -> Tensor:
    """Subtract each row's largest score among those that are not left out.

    The losses depend on differences of scores only. Taken after a log-sum-exp or a mean, a difference would lose its
    digits to a large offset that all scores share.
    """
    return scores - scores.detach().masked_fill(left_out, -torch.inf).amax(1, keepdim=True)


def _labelled(
    embeddings: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    similarity: Similarity,
    chunk_size: int | None,
    gather: bool,
    losses_of: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute the losses (N,) of rows with labels, and each label's row count over all ranks.

    `losses_of` computes the losses (A,) of A anchors from their scores (A, N) and two masks (A, N): which columns are
    the anchors themselves, and which have their labels.
    """
    check_scoring(temperature, similarity, chunk_size)
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings_of("embeddings", embeddings, similarity)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise EmbeddingError(f"labels: got {labels.dtype}, expected integers, such as torch.int64")
        check_shape("labels", labels, (len(embeddings),), "one per row of embeddings")
        keys, first = gathered(embeddings) if gather else (embeddings, 0)
        key_labels = gathered(labels)[0] if gather else labels
        key_place = torch.arange(len(keys), device=keys.device)
        place = key_place[first : first + len(embeddings)]

        def block(rows: Tensor, own: Tensor, place: Tensor, keys: Tensor) -> Tensor:
            return losses_of(rows @ keys.T, place[:, None] == key_place, own[:, None] == key_labels)

        _, counts = torch.unique(key_labels, return_counts=True)
        if len(counts) == 1:
            return keys[place, :0].sum(1), counts  # zeros that depend on keys: every rank must be able to go backward
        return by_blocks(block, (embeddings / temperature, labels, place), (keys,), chunk_size), counts
