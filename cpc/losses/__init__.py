"""Contrastive losses for embeddings: InfoNCE and its relatives."""

from cpc.losses.contrastive import info_nce, info_nce_logits, mutual_information_bound
from cpc.losses.embeddings import EmbeddingError
from cpc.losses.labelled import nt_xent, sup_con
from cpc.losses.momentum import MomentumQueue, momentum_update
from cpc.losses.temperature import LearnableTemperature

__all__ = [
    "EmbeddingError",
    "LearnableTemperature",
    "MomentumQueue",
    "info_nce",
    "info_nce_logits",
    "momentum_update",
    "mutual_information_bound",
    "nt_xent",
    "sup_con",
]
