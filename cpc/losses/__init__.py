"""InfoNCE's family for embeddings."""

from cpc.losses.contrastive import Bound, info_nce, info_nce_logits, mutual_information_bound, nt_xent, sup_con
from cpc.losses.embeddings import EmbeddingError, gathered, world_size
from cpc.losses.momentum import MomentumQueue, momentum_update
from cpc.losses.temperature import LearnableTemperature

__all__ = [
    "Bound",
    "EmbeddingError",
    "LearnableTemperature",
    "MomentumQueue",
    "gathered",
    "info_nce",
    "info_nce_logits",
    "momentum_update",
    "mutual_information_bound",
    "nt_xent",
    "sup_con",
    "world_size",
]
