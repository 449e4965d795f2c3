"""CPC's own criterion: which latents compete, and the loss."""

from cpc.config import Scheme
from cpc.infonce.criterion import InfoNCE, infonce
from cpc.infonce.negatives import DIRECTION, BoundKind, Negatives, NegativesError, Rule, bound_kind, name_sets

__all__ = [
    "DIRECTION",
    "BoundKind",
    "InfoNCE",
    "Negatives",
    "NegativesError",
    "Rule",
    "Scheme",
    "bound_kind",
    "infonce",
    "name_sets",
]
